"""`edgead serve`: the camera loop with a live page, REST, metrics and health."""

from __future__ import annotations

import sys
import threading
from typing import Annotated

import typer

from edgead.cli.common import (
    RECHECK_MINUTES,
    BackendOption,
    BundleArgument,
    DeadlineOption,
    FreshOption,
    HintOption,
    JournalOption,
    OutOption,
    PolicyOption,
    PrecisionOption,
    RejectsOption,
    say,
)
from edgead.cli.config import ConfigOption, settings_of
from edgead.errors import SourceError

__all__ = ["register"]

_SWITCH_S = 0.0005


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(serve)


def serve(
    bundle: BundleArgument,
    source: Annotated[
        list[str],
        typer.Option(help="URI or NAME=URI, as of run; repeat it for several cameras."),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but 127.0.0.1 needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 lets the system choose.")] = 8080,
    token: Annotated[
        str,
        typer.Option(
            envvar="EDGEAD_TOKEN",
            help="16 characters or more. Better in the environment: others see a command line.",
            show_envvar=True,
        ),
    ] = "",
    policy: PolicyOption = "auto",
    deadline_ms: DeadlineOption = None,
    journal: JournalOption = None,
    save_rejects: RejectsOption = None,
    out: OutOption = None,
    fresh_s: FreshOption = 1.0,
    fps: Annotated[
        float, typer.Option(help="Pace of files, pictures a second; 0: as fast as judged.")
    ] = 5.0,
    repeat: Annotated[bool, typer.Option("--repeat", help="Play files again and again.")] = False,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="Logs as one JSON object a line.")
    ] = False,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    hint: HintOption = "latency",
    config: ConfigOption = None,
) -> None:
    """Camera loop with a live page, REST, Prometheus metrics and health.

    Example: edgead serve part.edgead --source left=rtsp://cam/1 --source right=rtsp://cam/2
    """
    from edgead.detector import Detector
    from edgead.integrations.logs import log_to
    from edgead.integrations.publisher import open_outputs
    from edgead.integrations.serve import require_extra
    from edgead.integrations.serve import serve as start
    from edgead.integrations.serve.access import check_token
    from edgead.integrations.serve.cameras import open_cameras

    require_extra()
    check_token(host, token)  # before seconds of loading
    log_to(as_json=json_logs)
    # The page's threads give way to the line's at once: Python's own 5 ms would be felt at the p99.
    sys.setswitchinterval(_SWITCH_S)
    with (
        open_outputs(out or (), fresh_s=fresh_s) as publisher,
        Detector(
            bundle,
            backend=backend,
            precision=precision,
            hint=hint,
            recheck_minutes=RECHECK_MINUTES,
        ) as detector,
    ):
        say(f"{detector.choice.why}; bundle {detector.bundle.hash[:12]}; {settings_of(config)}")
        with start(
            detector,
            open_cameras(source, fps=fps, repeat=repeat),
            host=host,
            port=port,
            token=token,
            bundle_path=bundle,
            policy=policy,
            deadline_ms=deadline_ms,
            journal=journal,
            save_rejects=save_rejects,
        ) as served:
            say(f"page: {served.url}")
            try:
                for outcome in served:
                    publisher.publish(outcome)
                say("the sources have ended; the page stays until Ctrl-C")
            except SourceError as error:  # the page says so too
                say(f"error: {error}")
            threading.Event().wait()
