"""Drift: camera moved, light changed, out of focus, another product, and the figures that say so.

Each picture's figures (`edgead.appearance`) and each accepted frame's score go into a rolling window
of `WINDOW` frames a source. Every `EVERY` frames the median of each window is held against what the
bundle was commissioned on. A figure is out when its median lies beyond the order statistic of the
commissioned images which, were nothing changed, a median would pass with a probability of `CHANCE`
(exact, whatever the distribution: see `edgead.stream.drift_reference.chance_beyond`) and by more than
a smallest change that matters. It is raised when two evaluations in a row say so, and cleared when
the median has come back half of the way.

With 36 commissioned images or more, frames that look like them raise a figure at most once in some
60 million frames; with 25 to 35, where the outermost image is the limit, once in 600,000; fewer
cannot tell drift from chance, and the state is UNAVAILABLE. Frames are taken for independent: where
parts come in batches, images for commissioning should come from several.

How to read it, on a page or for a metric (from any thread, under a millisecond)::

    for source, status in stream.drift.statuses().items():
        status.state                      # DriftState: LEARNING, STEADY, DRIFTED, UNAVAILABLE
        for reason in status.reasons:     # a banner shows each reason.text
            reason.cause, reason.text     # "LIGHT", "the light dropped: brightness 102, was …"
        for figure in status.figures:     # a gauge each: figure.now.median, its limits low and high
            figure.name, figure.is_out
        status.to_json()                  # all of it, plain values
    stream.drift.status()                 # the worst source's

Without a stream: ``drift = Drift(detector.drift_reference)`` and ``drift.observe(detection)``.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from edgead.stream.drift_reference import CHANCE, NEEDED, WINDOW, DriftReference, Spread
from edgead.stream.drift_shift import displacement
from edgead.stream.drift_status import DriftFigure, DriftReason, DriftState, DriftStatus
from edgead.types import Detection, Outcome, Placement, Verdict

__all__ = [
    "CHANCE",
    "EVERY",
    "WINDOW",
    "Drift",
    "DriftFigure",
    "DriftReason",
    "DriftState",
    "DriftStatus",
]

#: Frames between evaluations.
EVERY = 8
_MAJORITY = WINDOW // 2 + 1
_PLAIN = ("brightness", "contrast", "sharpness", "red", "blue")
_NAMES = (*_PLAIN, "likeness")
#: Frames that never came to a picture: light or lens so far off that they are refused.
_REFUSALS = frozenset({"FRAME_EXPOSURE", "FRAME_CONSTANT"})


class Drift:
    """Watches detections of one or more sources; safe from several threads.

    Args:
        reference_of: Bundle hash -> what that bundle was commissioned on, None when it is not known
            (any more). Asked once for each change of bundle.
    """

    def __init__(self, reference_of: Callable[[str], DriftReference | None]) -> None:
        self._reference_of = reference_of
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        self._reference: DriftReference | None = None
        self._hash = ""

    def observe(self, item: Outcome | Detection) -> None:
        """Take one frame into account; dropped ones say nothing."""
        detection = item if isinstance(item, Detection) else item.detection
        source = item.frame_id.rpartition(":")[0]
        with self._lock:
            if detection is None:
                assert isinstance(item, Outcome)
                if item.reason in _REFUSALS:
                    self._watch(source).refuse(item.message)
            elif self._is_current(detection.bundle_hash):
                self._watch(source).add(detection)
            elif self._reference is None:
                self._watch(source)  # it is there, and nothing is known of it

    def statuses(self) -> dict[str, DriftStatus]:
        """Source -> status."""
        with self._lock:
            return {name: watch.status() for name, watch in self._watches.items()}

    def status(self) -> DriftStatus:
        """Of the worst source; LEARNING before the first frame."""
        order = list(DriftState)
        each = self.statuses().values()
        return max(
            each, key=lambda s: order.index(s.state), default=DriftStatus(DriftState.LEARNING)
        )

    def reasons(self) -> tuple[str, ...]:
        """``DRIFT_CAUSE source`` for each reason: for a stream's health; cheap."""
        with self._lock:
            return tuple(
                f"DRIFT_{cause} {name}".rstrip()
                for name, watch in self._watches.items()
                for cause in watch.causes
            )

    def _is_current(self, bundle_hash: str) -> bool:
        """Begin anew with another bundle; what the one before still judges is passed over."""
        if bundle_hash == self._hash:
            return True
        found = self._reference_of(bundle_hash)
        if found is None:
            return False
        self._reference, self._hash = found, bundle_hash
        self._watches.clear()
        return True

    def _watch(self, source: str) -> _Watch:
        if source not in self._watches:
            self._watches[source] = _Watch(self._reference)
        return self._watches[source]


class _Watch:
    """One source's windows."""

    def __init__(self, reference: DriftReference | None) -> None:
        self._known = reference or DriftReference({}, None, 0)
        self.frames = 0
        self.causes: tuple[str, ...] = ()
        self._values, self._scores = _Ring(len(_NAMES)), _Ring(1)
        self._layouts: deque[NDArray[np.float32]] = deque(maxlen=WINDOW)
        self._ends: deque[str] = deque(maxlen=WINDOW)  # GOOD, DEFECT or REFUSED
        self._doubts: Counter[str] = Counter()  # evaluations in a row
        self._since: dict[str, int] = {}  # what is raised -> frame
        self._refusal = ""
        self._placement: Placement | None = None
        self._shift: tuple[float, float] | None = None
        self._shift_frame = 0

    def refuse(self, message: str) -> None:
        """A frame that was refused for its light or focus."""
        self._refusal = message
        self._end("REFUSED")

    def add(self, detection: Detection) -> None:
        """A judged frame."""
        seen = detection.appearance
        if seen is not None:
            layout, known = seen.layout, self._known.layout
            is_like = known is not None and known.shape == layout.shape
            likeness = float(np.vdot(known, layout)) if is_like and known is not None else math.nan
            self._values.add((*(getattr(seen, name) for name in _PLAIN), likeness))
            self._layouts.append(layout)
            self._placement = detection.placement
        if detection.verdict is Verdict.GOOD:
            self._scores.add((detection.score,))
        self._end(detection.verdict.name)

    def status(self) -> DriftStatus:
        """Figures and reasons as they are now."""
        if not self._known.limits and not self._since:
            text = (
                "the bundle keeps no figures of its good images"
                if not self._known.images
                else f"{self._known.images} good images cannot tell drift from chance; {NEEDED} can"
            )
            reason = DriftReason("UNAVAILABLE", f"{text}: commission it again.", 0)
            return DriftStatus(DriftState.UNAVAILABLE, (reason,), (), self.frames)
        figures = tuple(
            DriftFigure(
                name,
                limit.then,
                _spread(window := self._window(name)),
                limit.low,
                None if math.isinf(limit.high) else limit.high,
                len(window),
                name in self._since,
            )
            for name, limit in self._known.limits.items()
        )
        reasons = self._reasons({figure.name: figure for figure in figures})
        state = DriftState.STEADY if len(self._ends) == WINDOW else DriftState.LEARNING
        return DriftStatus(
            DriftState.DRIFTED if reasons else state,
            reasons,
            figures,
            self.frames,
            self._known.images,
        )

    def _end(self, how: str) -> None:
        self._ends.append(how)
        self.frames += 1
        if self.frames % EVERY == 0 and len(self._ends) == WINDOW:
            self._evaluate()

    def _evaluate(self) -> None:
        for names, ring in ((_NAMES, self._values), (("score",), self._scores)):
            if not ring.is_full:
                continue
            for name, median in zip(names, ring.medians(), strict=True):
                limit = self._known.limits.get(name)
                if limit is not None:
                    self._raise(name, limit.is_out(median, was_out=name in self._since))
        count = Counter(self._ends)
        self._raise("refused", count["REFUSED"] >= _MAJORITY)
        self._raise("rejected", count["DEFECT"] >= _MAJORITY)
        self._locate()
        self.causes = tuple(dict.fromkeys(reason.cause for reason in self._reasons({})))

    def _raise(self, name: str, is_out: bool) -> None:
        self._doubts[name] = self._doubts[name] + 1 if is_out else 0
        if not is_out:
            self._since.pop(name, None)
        elif self._doubts[name] >= 2:
            self._since.setdefault(name, self.frames)

    def _locate(self) -> None:
        """Where the picture has moved to: searched when it is raised, and once a window after."""
        if "likeness" not in self._since:
            self._shift = None
        elif self._shift is None or self.frames - self._shift_frame >= WINDOW:
            assert self._known.layout is not None
            mean = np.mean(np.stack(tuple(self._layouts)), axis=0)
            cells = displacement(self._known.layout, mean)
            self._shift_frame = self.frames
            self._shift = None if cells is None else self._in_frame(cells)

    def _in_frame(self, cells: tuple[float, float]) -> tuple[float, float]:
        """Cells right and down -> frame pixels."""
        place, shape = self._placement, self._layouts[-1].shape
        if place is None or place.size is None:
            return cells
        return (
            cells[0] * place.size[1] / shape[1] * place.scale_xy[0],
            cells[1] * place.size[0] / shape[0] * place.scale_xy[1],
        )

    def _window(self, name: str) -> NDArray[np.float64]:
        if name == "score":
            return self._scores.column(0)
        return self._values.column(_NAMES.index(name))

    def _reasons(self, figures: dict[str, DriftFigure]) -> tuple[DriftReason, ...]:
        """What the raised figures mean; texts hold figures where they are given."""
        out = self._since
        found: list[DriftReason] = []

        def add(
            cause: str, what: str, *names: str, shift: tuple[float, float] | None = None
        ) -> None:
            raised = _raised(out, *names)
            said = "; ".join(_said(figures[name]) for name in raised if name in figures)
            since = self.frames - min(out[name] for name in raised)
            found.append(DriftReason(cause, f"{what}: {said}" if said else what, since, shift))

        if "refused" in out:
            add("REFUSED", f"most frames are refused: {self._refusal}", "refused")
        light, surface = (
            _raised(out, "brightness", "red", "blue"),
            _raised(out, "sharpness", "contrast"),
        )
        if "likeness" in out and self._shift is not None:
            x, y = self._shift
            way = f"{abs(x):.0f} px {'right' if x > 0 else 'left'}, "
            way += f"{abs(y):.0f} px {'down' if y > 0 else 'up'}"
            what = f"the camera or the part moved ({way})"
            add("POSITION", what, "likeness", *light, *surface, shift=self._shift)
        elif "likeness" in out:
            what = "the picture looks different: another product, or camera"
            add("PRODUCT", what, "likeness", *light, *surface)
        elif light and surface:
            what = "light and surface changed at once: another product, or lamp and lens"
            add("PRODUCT", what, *light, *surface)
        elif surface:
            add("FOCUS", "focus, lens or surface changed", *surface)
        elif "brightness" in out:
            now = figures["brightness"].now if "brightness" in figures else None
            fell = now is not None and now.median < figures["brightness"].then.median
            add("LIGHT", "the light dropped" if fell else "the light rose", *light)
        elif light:
            add("COLOUR", "the colour of light or product changed", *light)
        if not found and ("score" in out or "rejected" in out):
            add("PRODUCT", self._score_says(), "score", "rejected")
        return tuple(found)

    def _score_says(self) -> str:
        if "rejected" not in self._since:
            return "good parts score differently: product or process changed"
        rejected = Counter(self._ends)["DEFECT"]
        return f"{rejected} of the last {len(self._ends)} parts are defects: process or product changed"


class _Ring:
    """The last `WINDOW` rows of some figures."""

    def __init__(self, columns: int) -> None:
        self._rows: NDArray[np.float64] = np.zeros((WINDOW, columns))
        self._count = 0

    @property
    def is_full(self) -> bool:
        return self._count >= WINDOW

    def add(self, row: tuple[float, ...]) -> None:
        self._rows[self._count % WINDOW] = row
        self._count += 1

    def column(self, index: int) -> NDArray[np.float64]:
        values: NDArray[np.float64] = self._rows[: min(self._count, WINDOW), index]
        return values

    def medians(self) -> list[float]:
        middle: list[float] = np.partition(self._rows, WINDOW // 2, axis=0)[WINDOW // 2].tolist()
        return middle


def _raised(out: Mapping[str, int], *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name in out)


def _spread(values: NDArray[np.float64]) -> Spread | None:
    if not len(values):
        return None
    return Spread(*(float(v) for v in np.quantile(values, (0.05, 0.5, 0.95))))


def _said(figure: DriftFigure) -> str:
    now, then = figure.now, figure.then
    assert now is not None
    return (
        f"{figure.name} {now.median:.4g}, was {then.median:.4g} ({then.low:.4g} to {then.high:.4g}), "
        f"over {figure.frames} frames"
    )
