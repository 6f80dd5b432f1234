"""The one atomic writer: a file is either the old one or the complete new one, never between.

Temporary files lie beside their target, so that the rename stays inside one file system, and carry
the writer's process id, so that left-overs of a killed writer can be swept.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from edgead.errors import StorageError

__all__ = [
    "atomic_writer",
    "check_target",
    "read_bytes",
    "sweep",
    "write_bytes",
    "write_text",
]

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.edgead-(?P<pid>\d+)-[A-Za-z0-9_]+\.tmp$")


@contextlib.contextmanager
def atomic_writer(path: str | Path, *, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a binary file that appears under ``path``, complete and on disk, when the block ends.

    On any error, also in the block, ``path`` keeps what it held and the temporary file is removed.

    Args:
        path: Target; its folder must exist.
        mode: Permissions of the new file.

    Raises:
        StorageError: DISK_FULL, READ_ONLY, NO_PERMISSION, NO_FOLDER or WRITE_FAILED. Nothing was
            lost: the old file, if there was one, is unchanged.
    """
    target = Path(path)
    with _explained(target):
        handle, name = tempfile.mkstemp(
            # Cut, so that a name as long as the file system allows still has room for the rest.
            prefix=f".{target.name[:40]}.edgead-{os.getpid()}-",
            suffix=".tmp",
            dir=target.parent,
        )
    temporary = Path(name)
    try:
        with _explained(target), os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            temporary.chmod(mode)
        with _explained(target):
            temporary.replace(target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write ``data`` to ``path`` atomically; see `atomic_writer` for the errors."""
    with atomic_writer(path, mode=mode) as stream:
        stream.write(data)


def check_target(path: str | Path) -> None:
    """Find out before a long job whether its result can be written; nothing is left behind.

    Raises:
        StorageError: As `atomic_writer`.
    """
    target = Path(path)
    with _explained(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, name = tempfile.mkstemp(
            prefix=f".{target.name}.edgead-{os.getpid()}-", suffix=".tmp", dir=target.parent
        )
        os.close(handle)
        Path(name).unlink()


def write_text(path: str | Path, text: str, *, mode: int = 0o644) -> None:
    """Write ``text`` as UTF-8 to ``path`` atomically; see `atomic_writer` for the errors."""
    write_bytes(path, text.encode(), mode=mode)


def read_bytes(path: str | Path, *, max_bytes: int) -> bytes:
    """Read a regular file of bounded size; a device or pipe is refused instead of waited for.

    Raises:
        OSError: EFBIG above ``max_bytes``, EINVAL when it is no regular file, or as `os.open`.
            Callers turn it into their own code.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        if status.st_size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {status.st_size} bytes", str(path))
        return stream.read(status.st_size)


def sweep(folder: str | Path, *, min_age_s: float = 0.0) -> list[Path]:
    """Remove temporary files in ``folder`` whose writer is dead; return what was removed.

    Args:
        folder: Where to look; sub-folders are left alone.
        min_age_s: Younger files stay. In a folder shared between machines or containers a writer
            that lives elsewhere looks dead from here; give it time.
    """
    removed = []
    for path in Path(folder).glob(".*.tmp"):
        found = _TEMPORARY.match(path.name)
        if found and not _is_alive(int(found["pid"])):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime >= min_age_s:
                    path.unlink()
                    removed.append(path)
    return removed


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_CODES = {
    errno.ENOSPC: ("DISK_FULL", "no space left", "Free some space and repeat the command."),
    errno.EDQUOT: ("DISK_FULL", "quota exceeded", "Free some space and repeat the command."),
    errno.EFBIG: (
        "DISK_FULL",
        "file size limit reached",
        "Raise the limit and repeat the command.",
    ),
    errno.EROFS: ("READ_ONLY", "file system is read-only", "Choose another folder."),
    errno.EACCES: ("NO_PERMISSION", "permission denied", "Choose a folder that you may write to."),
    errno.EPERM: ("NO_PERMISSION", "permission denied", "Choose a folder that you may write to."),
    errno.ENOENT: ("NO_FOLDER", "its folder does not exist", "Create the folder first."),
    errno.ENOTDIR: ("NO_FOLDER", "its parent is not a folder", "Choose another folder."),
    errno.EISDIR: ("IS_FOLDER", "it is a folder", "Give a file name."),
}


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    """Turn an OSError of a write into a StorageError that says what was lost: nothing."""
    try:
        yield
    except OSError as error:
        code, what, hint = _CODES.get(
            error.errno or 0, ("WRITE_FAILED", error.strerror or str(error), "")
        )
        kept = "the old file is unchanged" if target.is_file() else "nothing was written"
        raise StorageError(code, f"cannot write {target}: {what}; {kept}.", hint) from error
