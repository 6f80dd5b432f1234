"""The pictures of docs/serve.md and docs/view.md: page, editor and shift report, from simulated cameras, by Chromium.

    edgead demo --out demo && python docs/make_screenshots.py demo

Every camera image is one photograph (CC0, from scikit-image) with simulated light, noise and defects. Needs
selenium, chromium and chromedriver.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np

from edgead import Detector, __version__, images
from edgead.backends import open_backend
from edgead.bundle import read_bundle, write_bundle
from edgead.errors import SourceError
from edgead.evaluate.commission import commission
from edgead.evaluate.data import find_images, load_images
from edgead.evaluate.report_shift import write_shift_report
from edgead.evaluate.shift import read_shift
from edgead.frame import Frame
from edgead.integrations.serve import serve
from edgead.stream.journal_schema import COLUMNS, SCHEMA, chain_of, values_of
from edgead.stream.replay import write_replay
from edgead.stream.sources.base import Captured
from edgead.stream.sources.reconnect import Reconnecting, ReconnectLimits
from edgead.testing import detection_of, textured
from edgead.types import LedgerCounts, Outcome, Status

OUT = Path(__file__).resolve().parent / "images"
IS_DEFECT = (
    "document.querySelector('canvas').dataset.shown === 'DEFECT' && "
    "document.querySelector('.camera strong').textContent === 'DEFECT'"
)
LIMITS = ReconnectLimits(stall_s=1.5)
SHOWN = 1120  # pixels of a picture's width
#: What is drawn in the editor: the cup and its saucer, the glare on the spoon.
DRAWN = ("28,14 332,14 350,190 318,350 42,350 10,190", "252,84 300,80 312,168 264,164")
DRAW = """
  for (const [index, kind] of ["roi polygon", "ignore polygon"].entries()) {
    document.querySelector(`[data-draw="${kind}"]`).dispatchEvent(new MouseEvent("click", { detail: 0 }));
    const field = document.getElementById(`points-${index}`);
    document.activeElement.blur();
    field.value = arguments[index];
    field.dispatchEvent(new Event("change"));
  }
  document.getElementById("mm").value = 0.25;
  document.getElementById("save").click();
"""


class Belt:
    """A camera over a belt: good parts, now and then a defect; ``lives_s`` later it falls silent."""

    def __init__(self, pictures: list[Any], fps: float, lives_s: float) -> None:
        self._pictures = itertools.cycle(pictures)
        self._period_s = 1 / fps
        self._end = time.monotonic() + lives_s
        self._closed = threading.Event()

    def read(self, timeout_s: float) -> Captured:
        """The next part, or nothing."""
        if time.monotonic() > self._end:
            self._closed.wait(timeout_s)
            return None
        self._closed.wait(self._period_s)
        return Frame(next(self._pictures))

    def close(self) -> None:
        """End a wait."""
        self._closed.set()


def belt(
    demo: Path, name: str, *, start: int, fps: float = 4.0, lives_s: float = 1e9
) -> Reconnecting:
    """A live source that shows the demo's test images, one defect among nine good ones."""
    good = sorted((demo / "data" / "test" / "good").glob("*.png"))
    bad = sorted((demo / "data" / "test").glob("[cs][ctu]*/*.png"))
    order = []
    for index in range(60):
        pool = bad if index % 10 == 6 else good
        order.append(images.read(pool[(index // 10 * 7 + index + start) % len(pool)]).pixels)
    shift, lives = start % len(order), iter([lives_s])

    def connect() -> Belt:
        once = next(lives, None)
        if once is None:
            raise SourceError("SOURCE_OPEN", f"{name} cannot be opened.", "Is it switched on?")
        return Belt(order[shift:] + order[:shift], fps, once)

    return Reconnecting(connect, source_id=name, limits=LIMITS)


@contextmanager
def browser(width: int, height: int, *, dark: bool = False) -> Iterator[Any]:
    """Chromium without a screen."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    driver = webdriver.Chrome(
        options=options, service=Service(shutil.which("chromedriver") or "chromedriver")
    )
    try:
        driver.set_window_size(width, height)
        if dark:
            features = [{"name": "prefers-color-scheme", "value": "dark"}]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        yield driver
    finally:
        driver.quit()


def wait_for(driver: Any, script: str, timeout_s: float = 60.0) -> None:
    """Until the page says yes."""
    end = time.monotonic() + timeout_s
    while not driver.execute_script(f"return Boolean({script})") and time.monotonic() < end:
        time.sleep(0.02)


def shoot(driver: Any, name: str, *, width: int = 1400, until: str = "", most: int = 2400) -> None:
    """The whole page, at most so many pixels of it, as a PNG of 256 colours, which keeps it small."""
    from PIL import Image

    for _ in range(2):  # texts wrap otherwise at another width
        height = min(most, driver.execute_script("return document.documentElement.scrollHeight"))
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        time.sleep(1.0)
    if until:
        wait_for(driver, until)
        time.sleep(0.25)  # colours change in 0.15 s
    path = OUT / f"{name}.png"
    driver.save_screenshot(str(path))
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize(
            (SHOWN, round(height * SHOWN / width)), Image.Resampling.LANCZOS
        )
    few = small.quantize(256, method=Image.Quantize.MEDIANCUT, kmeans=1)
    small.quantize(palette=few, dither=Image.Dither.FLOYDSTEINBERG).save(path, optimize=True)
    print(f"{path} {path.stat().st_size / 1000:.0f} kB")  # noqa: T201


def read_all(served: Any) -> None:
    """The inspection loop."""
    for _ in served:
        pass


@contextmanager
def line(detector: Detector, cameras: dict[str, Any], path: Path) -> Iterator[str]:
    """A served line; yields its address."""
    with serve(detector, cameras, port=0, bundle_path=path) as served:
        loop = threading.Thread(target=read_all, args=(served,), daemon=True)
        loop.start()
        yield served.url


def commissioned(demo: Path, path: Path) -> None:
    """The demo's bundle with a threshold as a line has it: the demo's own rejects one good part in ten."""
    bundle = read_bundle(demo / "demo.edgead")
    frames = load_images(find_images(demo / "data" / "test" / "good"))
    engine = open_backend("openvino", bundle.members)
    write_bundle(path, commission(bundle, engine, frames, false_reject_rate=0.01).bundle)


def pages(demo: Path, path: Path, wanted: set[str]) -> None:
    """One camera with a reject, the editor, four cameras, one of them stalled."""
    with Detector(path, threads=1) as detector:
        if "one" in wanted:
            cameras = {"station 1": belt(demo, "station 1", start=0, fps=2)}
            with line(detector, cameras, path) as url, browser(1400, 1000) as driver:
                driver.get(url)
                time.sleep(60)
                shoot(driver, "serve-one", until=IS_DEFECT)
                driver.find_element("css selector", ".rejects button").click()
                time.sleep(2)
                driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
                driver.set_window_size(1400, 1000)
                shoot(driver, "serve-reject")
        if "edit" in wanted:
            cameras = {"station 1": belt(demo, "station 1", start=0, fps=2)}
            with line(detector, cameras, path) as url, browser(1400, 1000) as driver:
                time.sleep(4)
                driver.get(f"{url}edit")
                wait_for(driver, "document.getElementById('picture').naturalWidth")
                driver.execute_script(DRAW, *DRAWN)
                wait_for(driver, "document.getElementById('saved').textContent")
                shoot(driver, "serve-edit")
        if "four" in wanted:
            cameras = {
                f"camera {n}": belt(demo, f"camera {n}", start=n * 13, fps=2) for n in range(1, 5)
            }
            with line(detector, cameras, path) as url, browser(1400, 1000, dark=True) as driver:
                driver.get(url)
                time.sleep(40)
                shoot(driver, "serve-four")
        if "stalled" in wanted:
            cameras = {
                "left": belt(demo, "left", start=0, fps=3),
                "right": belt(demo, "right", start=9, fps=3, lives_s=12),
            }
            with line(detector, cameras, path) as url, browser(1400, 1000) as driver:
                driver.get(url)
                time.sleep(25)
                shoot(driver, "serve-stalled")


def simulated_shift(folder: Path) -> Path:
    """The journal of eight hours of two simulated cameras, and replay files of the last rejects."""
    rng = np.random.default_rng(7)
    path, rejects = folder / "line3.sqlite", folder / "rejects"
    rejects.mkdir()
    start = datetime(2026, 11, 20, 5, 0, tzinfo=timezone.utc)
    chain, counts = "", {"received": 0}
    with sqlite3.connect(path) as database:
        database.executescript(SCHEMA)
        marks = ", ".join("?" * (len(COLUMNS) + 1))
        names = ", ".join((*COLUMNS, "chain"))
        last = [simulated(rng, second, seq) for seq, second in enumerate(range(0, 8 * 3600, 4))]
        for outcome, second in last:
            when = start + timedelta(seconds=second)
            row = values_of("simulated-shift", outcome, when, handed_over=True, amends=False)
            chain = chain_of(chain, row)
            database.execute(f"INSERT INTO outcomes ({names}) VALUES ({marks})", (*row, chain))
            counts["received"] += 1
        info = json.dumps({"policy": "latest", "edgead_version": __version__})
        run = ("simulated-shift", start.isoformat(), info, json.dumps(counts))
        database.execute("INSERT INTO runs VALUES (?, ?, ?, ?)", run)
    return path


def simulated(rng: np.random.Generator, second: int, seq: int) -> tuple[Outcome, int]:
    """One frame of a shift: a tool that wears out from the sixth hour on, a pause at noon."""
    source = ("left", "right")[seq % 2]
    wear = max(0.0, second / 3600 - 6) * 0.05
    is_pause = 4.0 < second / 3600 < 4.4
    capture = second * 1_000_000_000
    settled = capture + int(rng.gamma(9, 2.1) * 1e6)
    common = {
        "source_id": source, "seq": seq // 2, "t_mono_ns": capture, "settled_mono_ns": settled,
        "counts": LedgerCounts(), "is_simulated": True, "part_id": f"P{100000 + seq // 2}",
    }  # fmt: skip
    if is_pause or rng.random() < 0.004:
        reason = "SUPERSEDED" if rng.random() < 0.3 else "FRAME_CONSTANT"
        status = Status.DROPPED if reason == "SUPERSEDED" else Status.FAILED
        return Outcome(status=status, reason=reason, detection=None, **common), second
    is_bad = rng.random() < 0.006 + wear
    score = float(rng.normal(2.4, 0.5) if is_bad else rng.normal(0.35, 0.13))
    found = detection_of(Frame(textured(0)), score, threshold=0.97, bundle_hash="83e6041253b18ee3")
    return Outcome(status=Status.RESULT, reason="", detection=found, **common), second


def report(demo: Path) -> None:
    """The report of a simulated shift, the demo's defects as its last rejects, and that of the demo's evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = simulated_shift(folder)
        shift = read_shift(journal)
        bad = sorted((demo / "data" / "test").glob("[cs][ctu]*/*.png"))
        for one, path in zip(reversed(shift.rejects[-12:]), itertools.cycle(bad), strict=False):
            found = detection_of(Frame(textured(0)), one.score or 0.0, threshold=0.97)
            outcome = Outcome(
                status=Status.RESULT, reason="", detection=found, source_id=one.camera, seq=one.seq,
                t_mono_ns=0, settled_mono_ns=1, counts=LedgerCounts(),
            )  # fmt: skip
            frame = replace(images.read(path), source_id=one.camera, seq=one.seq)
            write_replay(folder / "rejects" / f"{one.camera}-{one.seq}.replay", frame, outcome)
        page = folder / "report.html"
        write_shift_report(page, shift, rejects=folder / "rejects")
        with browser(1200, 1000) as driver:
            driver.get(page.as_uri())
            shoot(driver, "shift-report", width=1200)
            driver.get((demo / "report.html").as_uri())
            shoot(driver, "report", width=1200)


def main() -> None:
    """Make the pictures that are asked for, all by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("demo", type=Path, help="what edgead demo made")
    parser.add_argument("--only", nargs="+", default=["one", "edit", "four", "stalled", "report"])
    arguments = parser.parse_args()
    demo = arguments.demo.resolve()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the page shows the paths that it was given
        if {"one", "edit", "four", "stalled"} & set(arguments.only):
            commissioned(demo, Path("part.edgead"))
            pages(demo, Path("part.edgead"), set(arguments.only))
        os.chdir(OUT)
    if "report" in arguments.only:
        report(demo)


if __name__ == "__main__":
    main()
