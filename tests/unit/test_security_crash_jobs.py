"""kill -9 at random points of train, quantize, build and run; smoke sizes, each with a planted fault.

The jobs fork, so they run in a process of their own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bundles import tiny_bundle

from edgead.bundle import write_bundle
from edgead.errors import ConfigError
from edgead.reliability import crash_suite as module
from edgead.reliability.crash_jobs import Build, Run, Train
from edgead.reliability.crash_suite import FULL, crash_suite
from edgead.reliability.crash_work import End

_WHOLE = End(is_whole=True, is_killed=False, acknowledged=0, writes=0, seconds=1.0, error="")
_KILLED = End(is_whole=False, is_killed=True, acknowledged=0, writes=0, seconds=1.0, error="")

needs_training = pytest.mark.skipif(
    importlib.util.find_spec("timm") is None, reason="needs timm: pip install 'edgead[train]'"
)


def _run(*words: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        cwd="/",
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.parametrize(
    ("part", "kills"),
    [
        pytest.param("train", 4, marks=needs_training),
        pytest.param("quantize", 2, marks=needs_training),
        ("build", 6),
        ("run", 8),
    ],
)
def test_what_is_killed_tears_nothing_and_goes_on(part: str, kills: int) -> None:
    code, found, said = _run("-m", "edgead", "crashtest", part, "--kills", str(kills), "--json")
    assert found["problems"] == [], said
    assert (code, found["ok"], found["kills"]) == (0, True, kills)
    assert (found["torn"], found["lost"], found["stuck"], found["left"]) == (0, 0, 0, 0)
    assert found["rounds"] >= 2  # the undisturbed one, and what the kills left was finished
    if part == "run":
        assert found["rows"] > 0
    if part == "build":
        assert found["builder"].startswith(
            "tensorrt-rtx" if importlib.util.find_spec("tensorrt_rtx") else "stand-in"
        )


_PLANTED = """
import json, sys
from edgead.reliability.crash_suite import crash_suite
print(json.dumps(crash_suite(sys.argv[1], kills=10, plant=True)))
"""


@pytest.mark.parametrize("part", ["build", "run"])
def test_files_written_in_place_are_found_out(part: str) -> None:
    _, found, _ = _run("-c", _PLANTED, part)
    assert not found["ok"]
    assert found["torn"] > 0


_EARLY = """
import json, sys
from pathlib import Path
from edgead.reliability.crash_jobs import Run
from edgead.reliability.crash_work import kill_again_and_again
print(json.dumps(kill_again_and_again(Run(Path(sys.argv[1]), early=True), kills=4)))
"""


def test_rows_promised_before_they_are_written_are_found_out(tmp_path: Path) -> None:
    _, found, _ = _run("-c", _EARLY, str(tmp_path))
    assert not found["ok"]
    assert found["lost"] > 0
    assert "promised" in found["problems"][0]


_FAILS = """
import json
from edgead.reliability.crash_work import kill_again_and_again

class Fails:
    is_complete, about = False, {}
    def do(self, acknowledge):
        raise ValueError("the left-overs confuse me")
    def check(self, end):
        return "", ""
    def start_over(self):
        pass

print(json.dumps(kill_again_and_again(Fails(), kills=1)))
"""


def test_work_that_cannot_go_on_is_found_out() -> None:
    _, found, _ = _run("-c", _FAILS)
    assert not found["ok"]
    assert found["stuck"] > 0
    assert found["problems"][0] == "kill 0: ValueError: the left-overs confuse me"


@needs_training
def test_other_bits_after_a_resume_are_found_out(tmp_path: Path) -> None:
    job = Train(tmp_path)
    assert job.check(_KILLED) == ("", "")
    assert job.check(_WHOLE) == ("lost", "the training ended without a bundle")
    write_bundle(job.out, tiny_bundle())
    assert job.check(_WHOLE) == ("", "")
    assert job.is_complete
    write_bundle(job.out, tiny_bundle(**{"calibration.json": b"{}"}))
    assert job.check(_WHOLE) == ("lost", "the resumed training ended in other bits")
    job.out.write_bytes(tiny_bundle().to_bytes()[:-1])
    what, text = job.check(_KILLED)
    assert what == "torn"
    assert text.startswith("[BUNDLE_DAMAGED]")


def test_an_engine_or_a_journal_that_is_not_there_after_all_is_lost(tmp_path: Path) -> None:
    assert Build(tmp_path).check(_KILLED) == ("", "")
    assert Build(tmp_path).check(_WHOLE) == ("lost", "the build ended without an engine")
    promised = End(is_whole=False, is_killed=True, acknowledged=3, writes=0, seconds=1.0, error="")
    assert Run(tmp_path).check(promised) == ("lost", "0 rows, 3 promised")


def test_a_part_that_is_none() -> None:
    with pytest.raises(ConfigError) as error:
        crash_suite("socks")
    assert str(error.value) == (
        "[CRASH_PART] got 'socks'; want all, writes, powercut, train, quantize, build, run."
    )
    with pytest.raises(ConfigError) as error:
        crash_suite("run", kills=0)
    assert str(error.value) == "[CRASH_PART] kills is 0; want 1 or more."


def test_what_needs_a_missing_package_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in ("timm", "torch") else found(name)
    )
    with pytest.raises(ConfigError) as error:
        Train(tmp_path)
    text = (
        "[CRASH_MISSING] a training to kill needs torch and timm, not installed here. "
        "pip install 'edgead[train]'."
    )
    assert str(error.value) == text

    def part(name: str, *_: object) -> dict[str, Any]:
        if name in ("train", "quantize"):
            raise ConfigError(error.value.code, error.value.message, error.value.hint)
        return {"kills": 2, "torn": 0, "ok": True}

    monkeypatch.setattr(module, "_part", part)
    said: list[str] = []
    told = crash_suite(kills=2, progress=said.append)
    assert told["skipped"] == {"train": text, "quantize": text}
    assert set(told["jobs"]) == set(FULL) - {"train", "quantize"}
    assert (told["kills"], told["torn"], told["lost"], told["ok"]) == (8, 0, 0, True)
    assert f"train is left out: {text}" in said
