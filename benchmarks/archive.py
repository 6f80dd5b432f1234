"""Archives: Ray's workers against one process, and what 8 to 512 of them would do.

``python benchmarks/archive.py --bundle B --photos DIR --images 10000`` cuts photographs into small
images, judges them in one process, on two, and on Ray with one and two workers, compares every row, kills
workers in mid run, watches memory, and simulates larger clusters from what it measured.
``--simulate`` repeats only the simulation, from the results file.

Run it where only ``edgead[cpu,ray]`` is installed: each of Ray's dozen processes imports what is optional to
its dependencies and happens to be there. jsonschema's extra ``format-nongpl`` alone (rfc3987-syntax, which
tools for tests bring along) costs each of them a second; how long an import of Ray takes is in the results.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from harness import load, save

NAME = "archive"
IMAGE_COLUMNS = (
    "path",
    "sha256",
    "verdict",
    "score",
    "threshold",
    "regions",
    "bundle_hash",
    "code",
    "message",
)
_TICKS = os.sysconf("SC_CLK_TCK")


def crops(photos: Path, folder: Path, count: int, side: int, seed: int = 0) -> None:
    """Cut ``count`` squares from photographs, at seeded places, as PNG files."""
    from edgead import images

    rng = np.random.default_rng(seed)
    sources = [images.read(path).pixels for path in sorted(photos.rglob("*.[pj][np]g"))[:200]]
    sources = [pixels for pixels in sources if min(pixels.shape[:2]) >= side]
    for index in range(count):
        pixels = sources[int(rng.integers(len(sources)))]
        y, x = (int(rng.integers(size - side + 1)) for size in pixels.shape[:2])
        # Not through the atomic writer: ten thousand files of no value need not survive a power cut.
        piece = images.encode_png(pixels[y : y + side, x : x + side])
        (folder / f"{index:06d}.png").write_bytes(piece)


class Watch:
    """Peak memory of this process and its workers, and what is done to the workers in mid run."""

    def __init__(self, kill_after: tuple[float, ...] = ()) -> None:
        self.share, self.kills = 0.0, list(kill_after)
        self.killed: list[str] = []
        self.peaks: dict[str, dict[str, float]] = {}
        #: Process -> (is it a worker, CPU seconds when first seen, and last): all that this one started.
        self.cpu: dict[int, tuple[bool, float, float]] = {}
        self.own_cpu_s = 0.0  # what looking costs
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def progress(self, share: float) -> None:
        """Called by the run."""
        self.share = share

    def _run(self) -> None:
        while not self._stop.wait(0.5):
            half = "first half" if self.share < 0.5 else "second half"
            workers = list(_workers())
            sizes = [_rss_mb(pid) for pid in workers]
            peak = self.peaks.setdefault(half, {"this_mb": 0.0, "worker_mb": 0.0})
            peak["this_mb"] = max(peak["this_mb"], _rss_mb(os.getpid()))
            peak["worker_mb"] = max([peak["worker_mb"], *sizes])
            self._note_cpu(set(workers))
            self.own_cpu_s = time.thread_time()
            if self.kills and self.share > self.kills[0] and workers:
                self.kills.pop(0)
                self._kill(workers)

    def _note_cpu(self, workers: set[int]) -> None:
        is_first = not self.cpu  # Ray's own processes were there before the run
        for pid in [os.getpid(), *_descendants(os.getpid())]:
            used = _cpu_s(pid)
            if used is not None:
                begun = self.cpu[pid][1] if pid in self.cpu else (used if is_first else 0.0)
                self.cpu[pid] = (pid in workers, begun, used)

    def cpu_s(self, *, of_workers: bool) -> float:
        """CPU seconds of the workers, or of everything else: this process and Ray's."""
        spent = sum(end - begun for worker, begun, end in self.cpu.values() if worker is of_workers)
        return spent if of_workers else spent - self.own_cpu_s

    def _kill(self, workers: list[int]) -> None:
        """First a worker process, the next time the Ray actor above one."""
        victim, what = workers[0], "worker"
        if self.killed:
            victim, what = _parent(workers[0]), "actor"
        os.kill(victim, signal.SIGKILL)
        self.killed.append(what)


def _workers() -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"fleet.worker:main" in line:
                yield int(entry.name)


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _descendants(root: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(_parent(int(entry.name)), []).append(int(entry.name))
            except OSError:
                continue
    found, waiting = [], [root]
    while waiting:
        waiting += (below := children.get(waiting.pop(), []))
        found += below
    return found


def _cpu_s(pid: int) -> float | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_mb(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(score: Callable[..., dict[str, Any]], out: Path, watch: Watch) -> dict[str, Any]:
    """One run: its time, what it cost this process, and what the workers were busy with."""
    import pyarrow.parquet as parquet

    started = time.perf_counter()
    # Share done, CPU seconds of this process without looking, and the moment.
    marks: list[tuple[float, float, float]] = []

    def report(share: float) -> None:
        marks.append((share, time.process_time() - watch.own_cpu_s, time.perf_counter()))
        watch.progress(share)

    with watch:
        result = score(out=out, report=report)
    seconds = time.perf_counter() - started
    stages = [json.loads(text) for text in parquet.read_table(out)["stages"].to_pylist()]
    judged = [one for one in stages if one]
    if not judged:
        raise SystemExit(f"No image was judged, so nothing was measured: {result['codes']}")
    names = judged[0]
    count = result["frames"]
    # From the first chunk to the last: what starting costs is paid once, not an image.
    first, last = marks[0], marks[-1]
    slope = (last[1] - first[1]) / (last[0] - first[0])
    return {
        "seconds": round(seconds, 2),
        "images_per_second": round(count / seconds, 2),
        # What a longer archive tends to.
        "images_per_second_once_started": round(
            count * (last[0] - first[0]) / (last[2] - first[2]), 2
        ),
        "this_cpu_ms_per_image": round(slope * 1e3 / count, 4),
        "cpu_ms_per_image": {
            "workers": round(watch.cpu_s(of_workers=True) * 1e3 / count, 4),
            "others": round(watch.cpu_s(of_workers=False) * 1e3 / count, 4),
        },
        "stages_ms": {n: round(float(np.mean([one[n] for one in judged])), 4) for n in names},
        "stages_std_ms": round(float(np.std([sum(one.values()) for one in judged])), 4),
        "verdicts": result["verdicts"],
        "codes": result["codes"],
        "workers_seen": result["workers"],
        "peak": {half: {k: round(v, 1) for k, v in p.items()} for half, p in watch.peaks.items()},
        "killed": watch.killed,
    }


def overhead_ms(run: dict[str, Any], workers: int, frames: int) -> float:
    """Worker time an image that is not reading, decoding or judging."""
    return run["seconds"] * 1e3 * workers / frames - sum(run["stages_ms"].values())


def _cpu_of(run: dict[str, Any]) -> float:
    return float(sum(run["cpu_ms_per_image"].values()))


def same_rows(one: Path, other: Path) -> bool:
    """Whether two files of results agree in every column that does not tell who judged."""
    import pyarrow.parquet as parquet

    columns = list(IMAGE_COLUMNS)
    return bool(
        parquet.read_table(one, columns=columns).equals(parquet.read_table(other, columns=columns))
    )


def simulate(
    workers: int, chunks: int, size: int, work_ms: float, std_ms: float, serial_ms: float
) -> float:
    """Images a second of a cluster, as a simulation of events.

    A worker holds two chunks, one of them waiting. The process that writes takes a finished chunk's rows
    in turn (``serial_ms`` an image) and only then hands out the next one.

    Args:
        workers: Number of workers.
        chunks: Number of chunks, each of ``size`` images.
        size: Images of a chunk.
        work_ms: Worker time an image: stages and overhead.
        std_ms: Its standard deviation, which a chunk averages over its images.
        serial_ms: Time of the one writing process an image.
    """
    rng = np.random.default_rng(0)
    spent = iter(np.maximum(rng.normal(work_ms * size, std_ms * size**0.5, chunks), 0.0))
    waiting, order = chunks, itertools.count()
    free_at, held, events = [0.0] * workers, [0] * workers, []
    for worker in [w for _ in range(2) for w in range(workers)]:
        if waiting:
            waiting -= 1
            free_at[worker] += next(spent)
            heapq.heappush(events, (free_at[worker], next(order), worker))
            held[worker] += 1
    writer = 0.0
    while events:
        now, _, worker = heapq.heappop(events)
        writer = max(writer, now) + serial_ms * size
        if waiting:
            waiting -= 1
            free_at[worker] = max(free_at[worker], writer) + next(spent)
            heapq.heappush(events, (free_at[worker], next(order), worker))
    return chunks * size / (writer / 1e3)


def scaled(runs: dict[str, Any], frames: int, at: int) -> dict[str, Any]:
    """Measured and simulated images a second; the archive simulated grows with the workers."""
    one, two = runs["ray_1"], runs["ray_2"]
    work = sum(one["stages_ms"].values()) + overhead_ms(one, 1, frames)
    rows = {}
    for workers in (1, 2, 8, 64, 512):
        chunks = max(64, 40 * workers)
        speed = simulate(
            workers, chunks, at, work, one["stages_std_ms"], two["this_cpu_ms_per_image"]
        )
        rows[str(workers)] = {
            "images_per_second": round(speed, 1),
            "share_of_ideal": round(speed / (workers * 1e3 / work), 3),
        }
    return {
        "worker_ms_per_image": round(work, 4),
        "serial_ms_per_image": two["this_cpu_ms_per_image"],
        "chunk": at,
        "serial_limit_images_per_second": round(1e3 / two["this_cpu_ms_per_image"], 1),
        "workers": rows,
    }


def import_cpu_s() -> dict[str, float]:
    """CPU seconds that a new process takes to import Ray, and Ray Data: the least of three."""
    found = {}
    for module in ("ray", "ray.data"):
        code = f"import time; import {module}; print(time.process_time())"
        words = [sys.executable, "-c", code]
        runs = [subprocess.run(words, capture_output=True, check=True).stdout for _ in range(3)]
        found[module] = round(min(map(float, runs)), 3)
    return found


def run(bundle: Path, photos: Path, count: int, side: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything that is measured: the runs, and what starting Ray takes before them."""
    from edgead.integrations.fleet.archive import score_archive
    from edgead.integrations.fleet.on_ray import connected

    plans: list[tuple[str, dict[str, Any], tuple[float, ...]]] = [
        ("processes_1", {"workers": 1}, ()),
        ("ray_2", {"workers": 2, "ray": "local"}, ()),
        ("ray_2_killed", {"workers": 2, "ray": "local"}, (0.2, 0.5)),
        ("processes_2", {"workers": 2}, ()),
        ("ray_1", {"workers": 1, "ray": "local"}, ()),
    ]
    runs: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "images")
        folder.mkdir()
        crops(photos, folder, count, side)
        # As the command itself would start it; not counted, as a plant's cluster stands already.
        started = time.perf_counter()
        with connected("local", cpus=2):
            start_s = round(time.perf_counter() - started, 2)
            for name, options, kills in plans:
                out = Path(scratch, f"{name}.parquet")

                def score(options: dict[str, Any] = options, **more: Any) -> dict[str, Any]:
                    return score_archive(bundle, folder, **options, **more)

                runs[name] = measure(score, out, Watch(kills))
                runs[name]["same_rows"] = same_rows(Path(scratch, "processes_1.parquet"), out)
                runs[name]["load"] = round(os.getloadavg()[0], 2)
                print(name, json.dumps(runs[name]), file=sys.stderr, flush=True)
    return runs, {"import_cpu_s": import_cpu_s(), "cluster_s": start_s}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--bundle", type=Path, default=Path(__file__).parent.parent / "tests/data/gravel.edgead"
    )
    parser.add_argument("--photos", type=Path, help="folder of photographs to cut")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument(
        "--simulate", action="store_true", help="only simulate, from the results file"
    )
    asked = parser.parse_args()
    if asked.simulate:
        kept = load(NAME)
        runs, frames, command = kept["runs"], kept["images"], kept["command"]
        ray_start = kept.get("ray_start")
    else:
        frames = asked.images
        command = f"python benchmarks/archive.py --bundle B --photos DIR --images {frames} --side {asked.side}"
        runs, ray_start = run(asked.bundle, asked.photos, frames, asked.side)
    faster = {
        name: round(runs["processes_1"]["seconds"] / runs[name]["seconds"], 3)
        for name in ("processes_2", "ray_1", "ray_2")
    }
    key = "images_per_second_once_started"
    body = {
        "images": frames,
        "runs": runs,
        "ray_start": ray_start,
        "faster_than_processes_1": faster,
        "faster_once_started": {
            name: round(runs[name][key] / runs["processes_1"][key], 3)
            for name in ("processes_2", "ray_1", "ray_2")
        },
        # What the CPU time spent allows on two idle cores: a busy machine spoils the times above, not this.
        "two_cores_allow": {
            name: round(2 * _cpu_of(runs["processes_1"]) / _cpu_of(runs[name]), 3)
            for name in ("processes_2", "ray_2")
        },
        "overhead_ms_per_image": {
            name: round(overhead_ms(runs[name], workers, frames), 3)
            for name, workers in (
                ("processes_1", 1),
                ("processes_2", 2),
                ("ray_1", 1),
                ("ray_2", 2),
            )
        },
        "simulated": scaled(runs, frames, min(512, max(16, -(-frames // 64)))),
    }
    if asked.simulate:
        print(json.dumps(body["simulated"], indent=1))
    else:
        print(save(NAME, command, body))


if __name__ == "__main__":
    main()
