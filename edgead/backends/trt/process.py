"""The build's child process: start, events, watch, and what its death means."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from edgead.backends.trt import device
from edgead.errors import BackendError

__all__ = ["Estimate", "Events", "run_child"]

Events = Callable[[dict[str, Any]], None]

_BOOTSTRAP = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('edgead.backends.trt.child', run_name='__main__', alter_sys=True)"
)


class Estimate:
    """What a build will take, known before it starts.

    Attributes:
        needs: Bytes of memory without workspace.
        available: Bytes that are available; None where the GPU has memory of its own.
        workspace: Limit for the builder's workspace in bytes; None leaves TensorRT's own.
        seconds: How long the last build of this model took here; None when there was none.
    """

    def __init__(
        self, needs: int, available: int | None, workspace: int | None, seconds: float | None
    ) -> None:
        self.needs = needs
        self.available = available
        self.workspace = workspace
        self.seconds = seconds

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return dict(vars(self))


def run_child(
    job: dict[str, Any], work: Path, *, expected: Estimate, tell: Events
) -> dict[str, Any]:
    """Run one job in the child process and hand its events on; returns its record.

    Raises:
        BackendError: The child's own, DEVICE_OOM for an out-of-memory kill, BUILD_KILLED when it
            ends in another way without a word.
    """
    (work / "job.json").write_text(json.dumps(job))
    package_root = str(Path(__file__).resolve().parents[3])
    arguments = [package_root, str(work / "job.json"), str(os.getpid())]
    kills_before = _oom_kills()
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(
            [sys.executable, "-c", _BOOTSTRAP, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=work,
            env=_environment(int(job["device_index"])),
            text=True,
        ) as child:
            try:
                with _watched(child.pid) as seen:
                    notes, last = _listen(_events(child.stdout or ()), tell)
                    status = child.wait()
            finally:
                child.kill()  # does nothing to a process that has been waited for
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip()[-400:]
    if "result" in last and status == 0:
        record: dict[str, Any] = last["result"]
        return {**record, "notes": notes, "peak_rss_bytes": seen["peak_rss_bytes"]}
    if "error" in last:
        told = last["error"]
        raise BackendError(told["code"], told["message"], told["hint"])
    raise _death(status, said, expected, seen, counted=_oom_kills() - kills_before)


def _environment(device_index: int) -> dict[str, str]:
    """The builder takes the first device that it sees: show it the one that is meant, alone."""
    if device_index == 0:
        return dict(os.environ)
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    meant = visible[device_index] if device_index < len(visible) else str(device_index)
    return {**os.environ, "CUDA_VISIBLE_DEVICES": meant}


def _listen(events: Iterable[dict[str, Any]], tell: Events) -> tuple[list[str], dict[str, Any]]:
    """Hand events on until the child closes its end; returns its notes and its last word."""
    notes: list[str] = []
    last: dict[str, Any] = {}
    for event in events:
        if "result" in event or "error" in event:
            last = event
            continue
        if "note" in event:
            notes.append(str(event["note"]))
        tell(event)
    return notes, last


def _death(
    status: int, said: str, expected: Estimate, seen: dict[str, int], *, counted: int
) -> BackendError:
    """The error for a child that ended without a word."""
    if status == -signal.SIGKILL:
        kernel = "the kernel counted an out-of-memory kill" if counted > 0 else "it was killed"
        return BackendError(
            "DEVICE_OOM",
            f"the build ended by SIGKILL ({kernel}): it had taken "
            f"{seen['peak_rss_bytes'] / 1e9:.2f} GB, the lowest memory available was "
            f"{seen['lowest_bytes'] / 1e9:.2f} GB, the estimate {expected.needs / 1e9:.1f} GB "
            "without workspace.",
            "Stop other programs, add swap, or build with a lower --optimization-level.",
        )
    how = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
    return BackendError(
        "BUILD_KILLED", f"the build process ended by {how} without a result: {said or 'no output'}."
    )


def _events(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:  # a torn last line of a killed child
            continue


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[dict[str, int]]:
    """Record a process's largest resident size and the lowest memory available meanwhile."""
    seen = {"peak_rss_bytes": 0, "lowest_bytes": device.available_memory()}
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.1):
            seen["lowest_bytes"] = min(seen["lowest_bytes"], device.available_memory())
            with contextlib.suppress(OSError, ValueError, StopIteration):
                status = Path(f"/proc/{pid}/status").read_text()
                line = next(row for row in status.splitlines() if row.startswith("VmHWM:"))
                seen["peak_rss_bytes"] = max(seen["peak_rss_bytes"], int(line.split()[1]) * 1024)

    thread = threading.Thread(target=look, name="edgead-build-watch", daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()


def _oom_kills() -> int:
    """Out-of-memory kills that the kernel has counted since boot."""
    with contextlib.suppress(OSError, ValueError, StopIteration):
        text = Path("/proc/vmstat").read_text()
        line = next(row for row in text.splitlines() if row.startswith("oom_kill "))
        return int(line.split()[1])
    return 0
