"""The command line: ``edgead COMMAND``.

With ``--json`` one JSON object goes to stdout and everything else to stderr. Exit codes: 0 fine, 1 the
check asked for did not hold, 2 bad usage or input, 70 watchdog gave up, 130 and 143 on signals.
"""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

import typer

from edgead.cli import config, fleet, judge, learn, look, precise, prove, report, serve, view
from edgead.cli.common import say
from edgead.errors import EdgeadError

__all__ = ["app", "main"]

app = typer.Typer(
    name="edgead",
    help="Industrial image anomaly detection at the edge: train on good images, get a verdict in time.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for group in (learn, view, judge, look, precise, prove, fleet, serve, report, config):
    group.register(app)


#: The stream's watchdog gave up: systemd restarts the service.
_GAVE_UP = frozenset({"BACKEND_HUNG", "WORKER_LOST"})


def main() -> NoReturn:
    """Run a command; a user's error is a sentence, never a traceback."""
    signal.signal(signal.SIGTERM, _terminated)
    try:
        app()
    except EdgeadError as error:
        say(f"error: {error}")
        sys.exit(70 if error.code in _GAVE_UP else 2)
    except KeyboardInterrupt:
        say("interrupted")
        sys.exit(130)
    sys.exit(0)


def _terminated(*_: object) -> NoReturn:
    """SIGTERM unwinds the stack, so that streams close and files stay whole."""
    sys.exit(143)
