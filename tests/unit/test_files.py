"""The atomic writer beside its errors (those are in test_errors): old or new, never between."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from edgead import files
from edgead.errors import StorageError


def test_nothing_appears_before_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    with files.atomic_writer(target) as stream:
        stream.write(b"half")
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_error_in_the_block_keeps_the_old_file_and_leaves_nothing(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "part.edgead"
    target.write_bytes(b"old")
    with pytest.raises(error), files.atomic_writer(target) as stream:
        stream.write(b"new, half of it")
        raise error
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["part.edgead"]


def test_permissions_are_the_ones_asked_for(tmp_path: Path) -> None:
    files.write_bytes(tmp_path / "open", b"")
    files.write_bytes(tmp_path / "key", b"", mode=0o600)
    assert stat.S_IMODE((tmp_path / "open").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_text_is_utf8(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", "σ ≤ 4 µm")
    assert (tmp_path / "a").read_bytes() == "σ ≤ 4 µm".encode()


def test_bounded_reading(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "a", max_bytes=5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes") as error:
        files.read_bytes(tmp_path / "a", max_bytes=4)
    assert error.value.errno == errno.EFBIG


def test_a_pipe_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="it is not a regular file"):
        files.read_bytes(tmp_path / "pipe", max_bytes=10)


def test_a_target_is_tried_before_a_long_job(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    files.check_target(tmp_path / "old")
    files.check_target(tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old").read_bytes() == b"old"
    with pytest.raises(StorageError) as error:
        files.check_target(tmp_path / "no" / "part.edgead")
    assert str(error.value) == (
        f"[NO_FOLDER] cannot write {tmp_path}/no/part.edgead: its folder does not exist; "
        "nothing was written. Create the folder first."
    )
    with pytest.raises(StorageError) as error:
        files.check_target(tmp_path)
    assert str(error.value) == (
        f"[IS_FOLDER] cannot write {tmp_path}: it is a folder; nothing was written. Give a file name."
    )
