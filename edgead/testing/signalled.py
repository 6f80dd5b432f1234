"""A program that streams until a signal ends it: ``python -m edgead.testing.signalled MODE JOURNAL PORT``.

It ends as an integrator's program would: a handler raises, ``with`` closes, and the last line says
whether the books balance.
"""

from __future__ import annotations

import functools
import itertools
import signal
import sys
from typing import Any, NoReturn

from edgead import stream
from edgead.stream.journal import Journal
from edgead.stream.supervised import Supervised
from edgead.stream.triggered import Triggered
from edgead.testing.fakes import FakeJudge
from edgead.testing.faults import Fault
from edgead.testing.sources import textured
from edgead.testing.workers import make_faulty_judge, make_gil_holder

__all__ = ["main"]


def main(mode: str, journal: str, port: str) -> None:
    """Stream for ever.

    Args:
        mode: ``plain``; ``triggered``; ``rtsp``: from a server that says nothing; ``supervised``:
            its worker hangs; ``gil``: its worker's native code keeps the GIL.
        journal: File.
        port: Of the server on this machine.
    """
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs ignore it
    judge = _judge(mode)
    running: Any = None
    try:
        with _stream(mode, judge, journal, port) as running:
            _say("running")
            if mode == "triggered":
                for number in itertools.count():
                    running.on_trigger(str(number), textured(number % 200))
            for _ in running:
                pass
    finally:
        if isinstance(judge, Supervised):
            judge.close()
        _say(f"closed {running.counts.balanced} {running.counts.in_flight}")


def _leave(*_: object) -> NoReturn:
    raise SystemExit(143)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _judge(mode: str) -> Any:
    if mode not in ("supervised", "gil"):
        return FakeJudge()
    hangs = functools.partial(make_faulty_judge, {50: Fault.HANG})
    judge = Supervised(hangs if mode == "supervised" else functools.partial(make_gil_holder, 60.0))
    judge.warm_up()
    return judge


def _stream(mode: str, judge: Any, journal: str, port: str) -> Any:
    if mode == "triggered":
        return Triggered(judge, deadline_ms=None, journal=Journal(journal))
    source = (textured(n % 200) for n in itertools.count())
    return stream.run(
        judge, f"rtsp://127.0.0.1:{port}/x" if mode == "rtsp" else source, journal=journal
    )


if __name__ == "__main__":
    main(*sys.argv[1:4])
