"""The example programs, on a folder of pictures in the camera's place."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from gravel import PATH, gravel_frame, with_blot

from edgead import images

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def camera(tmp_path):
    """Two good pictures, then a defective one."""
    folder = tmp_path / "camera"
    folder.mkdir()
    for number, frame in enumerate(
        [gravel_frame(), gravel_frame(), with_blot(gravel_frame(), 40, 40)]
    ):
        images.save_image(folder / f"{number}.png", frame.pixels)
    return folder


def run(monkeypatch, capsys, name: str, *words: object) -> list[str]:
    monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out.splitlines()


def test_usb_loop(monkeypatch, capsys, camera):
    lines = run(monkeypatch, capsys, "usb_loop.py", PATH, "--camera", camera)
    assert [line.split()[4] for line in lines] == ["accept", "accept", "REJECT"]


def test_rtsp_rejects(monkeypatch, capsys, camera, tmp_path):
    words = [PATH, camera, "--folder", tmp_path / "line", "--deadline-ms", 60_000]
    lines = run(monkeypatch, capsys, "rtsp_rejects.py", *words)
    assert lines[0].startswith("2: DEFECT")
    assert lines[-1] == "3 received, 3 judged, 0 dropped"
    assert (tmp_path / "line" / "journal.sqlite").is_file()
    assert list((tmp_path / "line" / "rejects").iterdir())


def test_multi_camera(monkeypatch, capsys, camera):
    words = ["--camera", f"left={camera}", "--camera", f"right={camera}"]
    lines = run(monkeypatch, capsys, "multi_camera.py", PATH, *words)
    assert lines == ["part 0: accept", "part 1: accept", "part 2: REJECT by left, right"]


def test_batch_folder(monkeypatch, capsys, camera):
    lines = run(monkeypatch, capsys, "batch_folder.py", PATH, camera)
    assert lines[0] == "picture,verdict,score,threshold,regions,reason"
    assert [line.split(",")[1] for line in lines[1:]] == ["GOOD", "GOOD", "DEFECT"]
