"""The engine cache: one signed file a key, built once however many processes ask.

An engine is machine code, so a file is opened without following links, its bytes are read once, and
header, signature and hash of those bytes are checked before the vendor's library sees one of them.
The format is in `edgead.backends.trt.header`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edgead import files
from edgead.backends.trt.header import (
    EngineKey,
    command,
    compare,
    pack,
    peek,
    unpack,
    unpack_vouched,
)
from edgead.errors import BackendError, StorageError

__all__ = ["EngineStore", "default_folder", "read_owned"]

_POLL_S = 0.02
_WORK = re.compile(r"^build-(?P<pid>\d+)-")


def default_folder() -> Path:
    """``$XDG_CACHE_HOME/edgead/engines``, by default below ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "edgead" / "engines"


class EngineStore:
    """Engines of one user on one machine.

    Args:
        folder: Cache folder; made with mode 0700 when missing.

    Raises:
        StorageError: CACHE_FOLDER when the folder is a link, belongs to somebody else or can be
            written by others; NO_PERMISSION or READ_ONLY when it cannot be made.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = default_folder() if folder is None else Path(folder)
        _make_private(self.folder)
        self._secret: bytes | None = None

    def path(self, key: EngineKey) -> Path:
        """Where the engine of ``key`` lies."""
        return self.folder / f"{key.stem}.engine"

    def load(self, key: EngineKey, *, bundle: str = "BUNDLE", path: Path | None = None) -> bytes:
        """The checked plan for ``key``: the very bytes that were hashed.

        Args:
            key: What this machine, model and precision need.
            bundle: Name of the bundle in the command that the messages give.
            path: Another file than the cache's own.

        Raises:
            BackendError: ENGINE_MISSING when there is none, or the code of the difference when the
                cache holds an engine of this model made for something else; all codes of
                `header.unpack` and `header.compare` for a file that does not fit.
        """
        target = self.path(key) if path is None else path
        try:
            data = read_owned(target)
        except FileNotFoundError:
            if path is not None:
                hint = f"Build it: {command(key, bundle)} --out {path}."
                raise BackendError("ENGINE_MISSING", f"{path} does not exist.", hint) from None
            raise self._explained(key, bundle) from None
        found, plan, _ = unpack(data, self._key(), source=str(target))
        compare(found, key, source=target.name, bundle=bundle)
        return plan

    def info(self, key: EngineKey) -> dict[str, Any]:
        """The header's record of a stored engine: seconds, layers, typing, environment."""
        return unpack(read_owned(self.path(key)), self._key(), source=str(self.path(key)))[2]

    def save(
        self, key: EngineKey, plan: bytes, info: dict[str, Any], *, path: Path | None = None
    ) -> Path:
        """Sign ``plan`` and write it atomically; returns its path."""
        target = self.path(key) if path is None else path
        files.write_bytes(target, pack(key, plan, info, self._key()), mode=0o600)
        self._refusal(key).unlink(missing_ok=True)
        return target

    def adopt(self, path: Path, *, sha256: str) -> Path:
        """Take over an engine that edgead built on another machine, e.g. for a named target.

        An engine is executable code: the caller vouches for the file with the SHA-256 that
        `build_engine` gave where it was built, brought here by another way than the file.

        Raises:
            BackendError: ENGINE_HASH when the file is not the one vouched for; ENGINE_MISSING; the
                codes of `header.unpack_vouched`.
        """
        try:
            data = read_owned(path)
        except FileNotFoundError:
            raise BackendError("ENGINE_MISSING", f"{path} does not exist.") from None
        found = hashlib.sha256(data).hexdigest()
        if found != sha256.strip().lower():
            raise BackendError(
                "ENGINE_HASH",
                f"{path} has SHA-256 {found}, given was {sha256}.",
                "Take the hash that edgead build printed, and copy the file again.",
            )
        key, plan, info = unpack_vouched(data, source=str(path))
        return self.save(key, plan, info)

    def get_or_build(
        self,
        key: EngineKey,
        make: Callable[[], tuple[bytes, dict[str, Any]]],
        *,
        timeout_s: float = 3600.0,
    ) -> bytes:
        """The plan for ``key``, built by exactly one of all processes that ask at once.

        A file that does not check (damaged, signed elsewhere, planted) is built anew and replaced.

        Raises:
            BackendError: What ``make`` raises; ENGINE_LOCKED after ``timeout_s``;
                BUILD_REFUSED at once when this very build was refused before.
        """
        with contextlib.suppress(BackendError):
            return self.load(key)
        with self.lock(key, timeout_s=timeout_s):
            with contextlib.suppress(BackendError):
                return self.load(key)
            self.sweep()
            self._raise_if_refused(key)
            try:
                plan, info = make()
            except BackendError as error:
                if error.code in ("BUILD_REFUSED", "MODEL_REFUSED"):
                    refusal = {"code": error.code, "message": error.message, "time": time.ctime()}
                    files.write_text(self._refusal(key), json.dumps(refusal), mode=0o600)
                raise
            self.save(key, plan, info)
            return self.load(key)

    @contextlib.contextmanager
    def lock(self, key: EngineKey, *, timeout_s: float = 3600.0) -> Iterator[None]:
        """Hold the one lock of ``key``; the kernel frees it when its holder dies.

        Raises:
            BackendError: ENGINE_LOCKED when another process holds it for ``timeout_s``.
        """
        path = self.folder / f"{key.stem}.lock"
        with _opened(path) as handle:
            deadline = time.monotonic() + timeout_s
            while not _try_lock(handle, fcntl.LOCK_EX):
                if time.monotonic() > deadline:
                    raise BackendError(
                        "ENGINE_LOCKED",
                        f"another process has been building {key.stem} for {timeout_s:.0f} s.",
                        "Wait for it, or end it; its lock goes with it.",
                    )
                time.sleep(_POLL_S)
            yield

    @contextlib.contextmanager
    def camera_loop(self) -> Iterator[None]:
        """Mark that a camera loop runs: builds on this machine are refused meanwhile."""
        with _opened(self.folder / "camera.lock") as handle:
            fcntl.flock(handle, fcntl.LOCK_SH)
            yield

    @contextlib.contextmanager
    def no_camera_loop(self, *, force: bool = False) -> Iterator[None]:
        """Hold camera loops off while a build runs.

        Raises:
            BackendError: CAMERA_RUNNING when a loop runs and ``force`` is not set.
        """
        with _opened(self.folder / "camera.lock") as handle:
            if not _try_lock(handle, fcntl.LOCK_EX) and not force:
                raise BackendError(
                    "CAMERA_RUNNING",
                    "a camera loop runs on this machine; a build takes its memory and GPU time.",
                    "Stop the loop first, or build with --force.",
                )
            # A loop that starts now shall not wait for the build: the question was about its start.
            fcntl.flock(handle, fcntl.LOCK_UN)
            yield

    @contextlib.contextmanager
    def work_folder(self) -> Iterator[Path]:
        """A private folder for one build, removed at the end."""
        path = self.folder / f"build-{os.getpid()}-{secrets.token_hex(4)}"
        path.mkdir(mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def sweep(self) -> list[Path]:
        """Remove what killed builders left; returns what was removed."""
        removed = files.sweep(self.folder)
        for path in self.folder.glob("build-*"):
            found = _WORK.match(path.name)
            if found and not Path(f"/proc/{found['pid']}").exists():
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
        return removed

    def last_seconds(self, key: EngineKey) -> float | None:
        """How long the last build of this model took on this machine, seconds."""
        known = [
            float(info["seconds"])
            for found, info in self._headers(f"{key.model_stem}-*.engine")
            if found.gpu == key.gpu and "seconds" in info
        ]
        return known[-1] if known else None

    def _headers(self, pattern: str) -> Iterator[tuple[EngineKey, dict[str, Any]]]:
        """Signed headers of matching files, oldest first; files that do not check are left out."""
        paths = sorted(self.folder.glob(pattern), key=_made_at)
        for path in paths:
            with contextlib.suppress(BackendError, OSError):
                yield peek(read_owned(path), self._key())

    def _explained(self, key: EngineKey, bundle: str) -> BackendError:
        """Why there is no engine: the nearest one of the same model, and how it differs."""
        nearest = max(
            (found for found, _ in self._headers(f"{key.model_stem}-*.engine")),
            key=lambda found: found.agreement(key),
            default=None,
        )
        if nearest is not None:
            try:
                compare(nearest, key, source="the cached engine", bundle=bundle)
            except BackendError as error:
                return error
        return BackendError(
            "ENGINE_MISSING",
            f"no {key.backend} engine of this model in {key.precision} is in {self.folder}.",
            f"Build it: {command(key, bundle)}.",
        )

    def _refusal(self, key: EngineKey) -> Path:
        return self.folder / f"{key.stem}.refused"

    def _raise_if_refused(self, key: EngineKey) -> None:
        path = self._refusal(key)
        try:
            told = json.loads(read_owned(path))
        except (FileNotFoundError, ValueError):
            return
        raise BackendError(
            str(told["code"]),
            f"{told['message']} (tried on {told['time']})",
            f"To try again delete {path}.",
        )

    def _key(self) -> bytes:
        """The machine's own signing key, made on first use."""
        if self._secret is None:
            path = self.folder / "machine.key"
            with _opened(self.folder / "machine.lock") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not os.path.lexists(path):
                    files.write_bytes(path, secrets.token_bytes(32), mode=0o600)
                secret = read_owned(path)
            if len(secret) != 32:
                raise StorageError(
                    "CACHE_KEY",
                    f"{path} holds {len(secret)} bytes, a signing key has 32.",
                    f"Delete {self.folder} and build the engines again.",
                )
            self._secret = secret
        return self._secret


def read_owned(path: Path) -> bytes:
    """Read a file of this user's that nobody else can write, without following a link.

    The checks are made on the open file, so that it cannot be exchanged after them.

    Raises:
        FileNotFoundError: There is none.
        BackendError: ENGINE_FILE for a link, another owner, a special file, or one that others may
            write.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise
        what = "is a link" if error.errno == errno.ELOOP else f"cannot be opened: {error.strerror}"
        raise BackendError(
            "ENGINE_FILE", f"{path} {what}.", "Delete it and build again."
        ) from error
    try:
        status = os.fstat(handle)
        wrong = (
            "is not a plain file"
            if not stat.S_ISREG(status.st_mode)
            else f"belongs to user {status.st_uid}"
            if status.st_uid != os.geteuid()
            else "can be written by others"
            if status.st_mode & 0o022
            else ""
        )
        if wrong:
            raise BackendError("ENGINE_FILE", f"{path} {wrong}.", "Delete it and build again.")
        with os.fdopen(handle, "rb", closefd=False) as stream:
            return stream.read()
    finally:
        os.close(handle)


def _made_at(path: Path) -> float:
    """When a file was made; 0 for one that another process has just removed."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _make_private(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        code = "READ_ONLY" if error.errno == errno.EROFS else "NO_PERMISSION"
        raise StorageError(
            code,
            f"the engine cache {folder} cannot be made: {error.strerror}.",
            "Set XDG_CACHE_HOME.",
        ) from error
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StorageError(
            "CACHE_FOLDER",
            f"the engine cache {folder} is a link, belongs to another user or can be written by "
            "others; engines are executable code.",
            f"Make it yours alone: rm -r {folder}.",
        )
    if status.st_mode & 0o077:
        folder.chmod(0o700)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        handle = os.open(path, flags, 0o600)
    except OSError as error:
        raise StorageError("NO_PERMISSION", f"cannot open {path}: {error.strerror}.") from error
    try:
        yield handle
    finally:
        os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
