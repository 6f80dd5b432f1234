"""kill -9 at random points of work that goes on when it is called again.

The work runs in a forked child. Half of the kills come at a random time; half hit a random place where
bytes are forced to the disk, which is where a file has its bytes but not yet its name, or its name but
not yet its folder's word. After each kill the caller looks at what lies there and calls the work again.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import select
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgead import files

__all__ = ["End", "Work", "in_child", "kill_again_and_again"]

#: Work that takes longer without being killed hangs.
_HANG_S = 900.0


class Work(Protocol):
    """Work that is killed.

    Attributes:
        is_complete: Whether `check` found all of it done.
        about: What is worth saying of it beside what went wrong, plain values.
    """

    is_complete: bool
    about: dict[str, Any]

    def do(self, acknowledge: Callable[[], None]) -> None:
        """All of it, or what a killed call left; in a child. ``acknowledge``: a row is promised."""
        ...

    def check(self, end: End) -> tuple[str, str]:
        """What is wrong with what lies there: ``torn`` or ``lost`` with a sentence, or two empty."""
        ...

    def start_over(self) -> None:
        """Remove what was made."""
        ...


@dataclass(frozen=True)
class End:
    """How a child ended.

    Attributes:
        is_whole: It came to its end by itself.
        is_killed: By SIGKILL.
        acknowledged: What it promised.
        writes: Places where it forced bytes to the disk.
        seconds: How long it took.
        error: Why it failed; empty when it did not.
    """

    is_whole: bool
    is_killed: bool
    acknowledged: int
    writes: int
    seconds: float
    error: str


def kill_again_and_again(
    work: Work, *, kills: int, seed: int = 0, plant: bool = False
) -> dict[str, Any]:
    """Kill work ``kills`` times; what is complete is compared with an undisturbed first round.

    Args:
        work: What to kill.
        kills: How often.
        seed: Where.
        plant: Positive control: files are written in place, and ``ok`` must come out False.

    Returns:
        ``kills``, of them ``at_writes``; ``rounds`` that came to their end, killed or not; ``torn``
        and ``lost``; ``stuck``: calls that could not go on; what is in ``work.about``; ``seconds`` in
        all; ``problems``: sentences; ``ok``.
    """
    draw, begun = random.Random(seed), time.monotonic()
    figures: dict[str, Any] = dict.fromkeys(
        ("kills", "at_writes", "rounds", "torn", "lost", "stuck"), 0
    )
    problems: list[str] = []

    def look(end: End) -> None:
        what, text = ("stuck", end.error) if end.error else work.check(end)
        if what:
            figures[what] += 1
            problems.append(f"kill {figures['kills']}: {text}")
        elif work.is_complete:
            figures["rounds"] += 1
        if what or work.is_complete:
            work.start_over()

    work.start_over()
    whole = in_child(work.do, plant=plant)
    look(whole)
    for _ in range(4 * kills + 20):  # a kill may come too late, and then is none
        if figures["kills"] == kills:
            break
        is_at_write = whole.writes > 0 and draw.random() < 0.5
        place, moment = draw.randint(1, max(1, whole.writes)), draw.uniform(0, whole.seconds)
        end = in_child(
            work.do,
            die_at=place if is_at_write else 0,
            after_s=None if is_at_write else moment,
            plant=plant,
        )
        figures["kills"] += end.is_killed
        figures["at_writes"] += end.is_killed and is_at_write
        look(end)
    look(in_child(work.do, plant=plant))  # and what the last kill left is finished, too
    figures |= work.about
    figures["seconds"] = round(time.monotonic() - begun, 1)
    figures["problems"] = problems[:20]
    figures["ok"] = not problems and figures["kills"] == kills
    return figures


def in_child(
    do: Callable[[Callable[[], None]], None],
    *,
    die_at: int = 0,
    after_s: float | None = None,
    plant: bool = False,
) -> End:
    """Fork, and ``do`` it there.

    Args:
        do: Called in the child with a function that acknowledges.
        die_at: Die in the place of this call of ``os.fsync``, counted from 1.
        after_s: Be killed after this time.
        plant: Write files in place.
    """
    reader, writer = os.pipe()
    begun = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(do, writer, die_at, plant)
    os.close(writer)
    until, told, hangs = begun + (_HANG_S if after_s is None else after_s), bytearray(), False
    while True:
        if not select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
            os.kill(pid, signal.SIGKILL)
            hangs, until = after_s is None, begun + 2 * _HANG_S
            continue
        part = os.read(reader, 65536)
        if not part:
            break
        told += part
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    signs, _, error = bytes(told).partition(b"!")
    if hangs:
        error = b"it does not end"
    elif status not in (0, -signal.SIGKILL) and not error:
        error = f"it ended with {status}".encode()
    return End(
        is_whole=status == 0,
        is_killed=status == -signal.SIGKILL,
        acknowledged=signs.count(b"."),
        writes=signs.count(b","),
        seconds=time.monotonic() - begun,
        error=error.decode(errors="replace"),
    )


def _child(do: Callable[[Callable[[], None]], None], pipe: int, die_at: int, plant: bool) -> None:
    """Never returns."""
    status = 1
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        _count_writes(pipe, die_at)
        if plant:
            files.atomic_writer = _in_place
        do(lambda: _tell(pipe, b"."))
        status = 0
    except BaseException as error:
        _tell(pipe, f"!{type(error).__name__}: {error}"[:1000].encode())
    finally:
        os._exit(status)


def _tell(pipe: int, sign: bytes) -> None:
    os.write(pipe, sign)


def _count_writes(pipe: int, die_at: int) -> None:
    """Tell the parent of each ``os.fsync``, and die in the place of one."""
    force, number = os.fsync, iter(range(1, 1 << 30))

    def fsync(handle: Any) -> None:
        _tell(pipe, b",")
        if next(number) == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        force(handle)

    os.fsync = fsync  # type: ignore[assignment]  # this process is a child and ends soon


@contextlib.contextmanager
def _in_place(path: str | Path, *, mode: int = 0o644) -> Iterator[io.BytesIO]:
    """What edgead does not do: the positive control."""
    buffer = io.BytesIO()
    yield buffer
    data = buffer.getvalue()
    with open(
        path, "wb", buffering=0, opener=lambda name, flags: os.open(name, flags, mode)
    ) as out:
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            out.write(part)
            os.fsync(out.fileno())
