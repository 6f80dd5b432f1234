"""Hostile and broken files through the command line: exit code 2, one sentence, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from bundles import tiny_bundle, tiny_frame

from edgead.bundle import write_bundle
from edgead.cli import main
from edgead.images import save_image

_NAMES = [
    "--help.edgead",
    "-x",
    "a\nb.edgead",
    "a;rm -rf b.edgead",
    "$(id).edgead",
    "`id`.edgead",
    "a b.edgead",
    "'.edgead",
    '".edgead',
    "[bold]x[red].edgead",
    "{0}%s%n.edgead",
    "\u202egpj.edgead",
    "é€漢字.edgead",
    "🏭.edgead",
    "\x1b[31mred.edgead",
    "\t.edgead",
    "con.edgead",
    "x" * 247 + ".edgead",
    "..edgead",
    os.fsdecode(b"\xff\xfe.edgead"),
]


def _run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["edgead", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    return int(end.value.code or 0)


@pytest.mark.parametrize("name", _NAMES, ids=range(len(_NAMES)))
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_hostile_file_names(
    name: str,
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / name
    write_bundle(path, tiny_bundle())
    before = sorted(tmp_path.iterdir())
    assert _run(monkeypatch, command, str(path), "--json") == 0
    shown = capfd.readouterr()
    assert json.loads(shown.out)
    assert "Traceback" not in shown.err
    path.write_bytes(b"rubbish")
    assert _run(monkeypatch, command, str(path), "--json") == 2
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "[BUNDLE_FORMAT]" in shown.err
    assert "Traceback" not in shown.err
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.chdir(tmp_path)
    assert _run(monkeypatch, command, "--", name) == 2  # a leading dash is a name behind --


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "BUNDLE_EMPTY"),
        (b"hello world", "BUNDLE_FORMAT"),
        (b"\xff\xd8\xff\xe0", "BUNDLE_FORMAT"),
        (tiny_bundle().to_bytes()[:900], "BUNDLE_DAMAGED"),
        (b"PK\x03\x04" + bytes(26) + b"archive/data.pkl", "MODEL_PICKLE"),
    ],
)
def test_broken_bundles(
    content: bytes,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "part.edgead"
    path.write_bytes(content)
    for command in ("inspect", "verify", "benchmark"):
        assert _run(monkeypatch, command, str(path)) == 2
        shown = capfd.readouterr()
        assert f"error: [{code}]" in shown.err
        assert "Traceback" not in shown.err
        assert shown.out == ""


def test_no_configuration_is_picked_up_from_the_working_folder(tmp_path: Path) -> None:
    """A planted module, configuration or environment file beside the images changes nothing."""
    write_bundle(tmp_path / "part.edgead", tiny_bundle())
    save_image(tmp_path / "a.png", tiny_frame())
    canary = tmp_path / "canary"
    for name in ("numpy.py", "cv2.py", "edgead.py", "sitecustomize.py", "conftest.py"):
        (tmp_path / name).write_text(f"open({str(canary)!r}, 'w')\n")
    for name in ("edgead.toml", "pyproject.toml", ".env", "edgead.json", ".edgeadrc"):
        (tmp_path / name).write_text("[edgead]\nthreshold = 1e9\nbackend = 'nonsense'\n")
    # -P is what an installed console script does: the working folder is not searched.
    program = "import sys; sys.path.remove('') if '' in sys.path else 0; "
    program += "from edgead.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "inspect", "part.edgead", "--json"],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["manifest"]["thresholds"]["threshold"] == 0.5
    assert not canary.exists()


def test_sign_and_inspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path, key = tmp_path / "part.edgead", tmp_path / "line3"
    write_bundle(path, tiny_bundle())
    monkeypatch.setenv("EDGEAD_TRUSTED_KEY", f"{key}.pub")  # also where signing happens
    assert _run(monkeypatch, "sign", str(path), "--new-key", str(key), "--json") == 0
    assert json.loads(capfd.readouterr().out) == {
        "signature": f"{path}.sig",
        "bundle": tiny_bundle().hash,
    }
    assert _run(monkeypatch, "inspect", str(path), "--key", f"{key}.pub", "--json") == 0
    assert json.loads(capfd.readouterr().out)["signed_by"] == f"{key}.pub"
    write_bundle(path, tiny_bundle(**{"calibration.json": b"{}"}))
    for arguments in (["--key", f"{key}.pub"], []):
        assert _run(monkeypatch, "inspect", str(path), *arguments) == 2
        assert "error: [SIGNATURE_WRONG]" in capfd.readouterr().err
    assert _run(monkeypatch, "sign", str(path), "--key", str(key)) == 0
    assert _run(monkeypatch, "inspect", str(path)) == 0
    capfd.readouterr()
    for arguments in ([], ["--key", str(key), "--new-key", str(tmp_path / "b")]):
        assert _run(monkeypatch, "sign", str(path), *arguments) == 2
        assert capfd.readouterr().err == (
            "error: [KEY] give --key with a private key, or --new-key with a name for one.\n"
        )


def test_many_threads_by_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "part.edgead"
    write_bundle(path, tiny_bundle())
    words = ("verify", str(path), "--threads", "4", "--frames", "20")
    assert _run(monkeypatch, *words, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    assert found["threads"] == {"threads": 4, "frames": 80, "differing": 0, "errors": []}
    assert _run(monkeypatch, *words) == 0
    shown = " ".join(capfd.readouterr().out.split())
    assert "4 threads 0 of 80 frames differ" in shown
    assert _run(monkeypatch, *words[:3], "0") == 2
    assert capfd.readouterr().err == "error: [OPTION] --threads is 0; want more than 0.\n"

    def differing(*_: object, **__: object) -> dict[str, object]:
        return {"threads": 4, "frames": 80, "differing": 1, "errors": []}

    monkeypatch.setattr("edgead.testing.threads.same_bits_from_threads", differing)
    assert _run(monkeypatch, *words, "--json") == 1
    assert not json.loads(capfd.readouterr().out)["ok"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["fuzz", "engine-header", "--runs", "50"], 0),
        (["fuzz", "socks"], 2),
        (["fuzz", "image", "--exhaustive"], 2),
        (["crashtest", "writes", "--kills", "6"], 0),
        (["crashtest", "socks"], 2),
        (["journal", "dance", "x.db"], 2),
    ],
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_claims_by_command(
    arguments: list[str],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert _run(monkeypatch, *arguments, "--json") == code
    shown = capfd.readouterr()
    assert "Traceback" not in shown.err
    if code == 0:
        assert json.loads(shown.out)["ok"]
    if arguments[0] == "journal":
        assert shown.err == (
            "error: [JOURNAL_ACTION] got 'dance' without --out; "
            "want verify, or export with --out.\n"
        )
