"""One line as everything that serves it sees it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgead.choice import certificates
from edgead.detector import Detector
from edgead.evaluate.threshold import promise_sentence
from edgead.integrations.serve.board import Board
from edgead.integrations.serve.editing import Editing, shown_view
from edgead.integrations.serve.health import Readiness
from edgead.integrations.serve.pictures import Pictures
from edgead.stream import Stream
from edgead.stream.drift_status import DriftState
from edgead.types import Detection, Frame, LedgerCounts

__all__ = ["Line", "about_detector"]

_MAX_PIXELS = 64_000_000
#: Reasons of a stream's health that concern the whole line, as a person reads them.
_TROUBLES = {
    "THROTTLED": "The engine has become slower: heat, or a power limit?",
    "JUDGE_RESTARTED": "The judge hung and was replaced.",
    "JOURNAL_DEGRADED": "Rows of the journal wait for the disk.",
    "REJECTS_NOT_SAVED": "Some rejects were not saved.",
    "READER_SLOW": "Outcomes are read too slowly.",
}


@dataclass(frozen=True, eq=False)
class Line:
    """A running stream with what is shown of it.

    Attributes:
        stream: Its books and health.
        board: What was handed over, in numbers.
        pictures: The newest frames and the last rejects.
        readiness: Whether it may be trusted now.
        judge: For images that come by REST.
        unverified: Why the model may not be trusted; empty when it may.
        about: The model that judges now, for the page: as `about_detector`.
        max_pixels: Of an image that comes by REST.
        editing: Where another view is drawn and saved; None: nowhere.
        run: Name of this run: frame numbers begin again with each.
    """

    stream: Stream
    board: Board
    pictures: Pictures
    readiness: Readiness
    judge: Callable[[Frame], Detection]
    unverified: Callable[[], str]
    about: Callable[[], Mapping[str, Any]]
    max_pixels: int = _MAX_PIXELS
    editing: Editing | None = None
    run: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    def state(self) -> dict[str, Any]:
        """Everything that changes, for the page.

        Raises:
            StateError: LEDGER when the books do not balance.
        """
        cameras = self.board.snapshot()
        for one in cameras:
            one["rejects"] = self.pictures.rejects(one["name"])
        checks = self.readiness.recent()
        return {
            "run": self.run,
            "cameras": cameras,
            "ready": all(check.ok for check in checks),
            "checks": [{"name": c.name, "ok": c.ok, "text": c.text} for c in checks],
            "warnings": self.warnings(),
            "policy": self.stream.policy,
        }

    def warnings(self) -> list[dict[str, str]]:
        """What is wrong although the line goes on: ``camera`` (empty: all), ``cause``, ``text``."""
        drifted = [
            {"camera": name, "cause": reason.cause, "text": reason.text}
            for name, status in self.stream.drift.statuses().items()
            if status.state is DriftState.DRIFTED
            for reason in status.reasons
        ]
        troubles = [
            {"camera": "", "cause": cause, "text": _TROUBLES[cause]}
            for cause in self.stream.health.reasons
            if cause in _TROUBLES
        ]
        return drifted + troubles

    def drift(self) -> Mapping[str, Mapping[str, tuple[float | None, bool]]]:
        """Camera -> figure -> its rolling median (None before the first) and whether it is out."""
        return {
            name: {
                one.name: (None if one.now is None else one.now.median, one.is_out)
                for one in status.figures
            }
            for name, status in self.stream.drift.statuses().items()
        }

    def counts(self) -> Mapping[str, LedgerCounts]:
        """The books of each camera; see `edgead.integrations.metrics.Facts`."""
        return self.stream.counts_by_source

    def counted(self) -> Mapping[str, Mapping[str, Any]]:
        """Totals of what was handed over."""
        return self.board.counted()

    def up(self) -> Mapping[str, bool]:
        """Whether each camera sends frames now."""
        return {name: state.is_fresh for name, state in self.board.states().items()}

    def checks(self) -> Mapping[str, bool]:
        """Name of a readiness check -> whether it holds."""
        return {check.name: check.ok for check in self.readiness()}

    def status(self) -> str:
        """One line for a person."""
        states = [state.name for state in self.board.states().values()]
        found = ", ".join(f"{states.count(name)} {name}" for name in dict.fromkeys(states))
        failing = [check.name for check in self.readiness() if not check.ok]
        return f"cameras: {found}; " + (f"not ready: {', '.join(failing)}" if failing else "ready")


def about_detector(detector: Detector) -> dict[str, Any]:
    """The panel on model and certificates; plain values."""
    manifest, limits = detector.bundle.manifest, detector.bundle.manifest.thresholds
    size = manifest.frame.size
    return {
        "bundle_hash": detector.bundle.hash,
        "method": manifest.method,
        "backbone": manifest.backbone,
        "edgead": manifest.edgead,
        "backend": detector.choice.backend,
        "precision": detector.choice.precision,
        "why": detector.choice.why,
        "frame": f"{manifest.frame.format.value}, "
        + ("any size" if size is None else f"{size[1]}x{size[0]}"),
        "input": f"{manifest.input.size[1]}x{manifest.input.size[0]}",
        "view": shown_view(manifest),
        "trained_on": manifest.training.images,
        "threshold": limits.threshold,
        "pixel_threshold": limits.pixel_threshold,
        "score_scale": limits.score_scale,
        "good_scores": limits.good_scores,
        "golden_images": len(manifest.golden),
        "promise": promise_sentence(
            limits.images,
            limits.bound,
            limits.confidence,
            limits.false_reject_rate,
            limits.needed,
        ),
        "certificates": [
            {
                "precision": one["precision"],
                "backend": one["backend"],
                "device": one.get("device", ""),
                "passed": one["passed"],
                "arithmetic": one.get("arithmetic", "native"),
                "figures": {
                    key: value
                    for key, value in one["figures"].items()
                    if isinstance(value, (int, float))
                },
            }
            for one in certificates(detector.bundle)
        ],
    }
