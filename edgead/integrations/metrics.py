"""Prometheus metrics of a line, read from its books at each scrape: nothing is counted twice.

Labels come from fixed sets: the cameras of the command line, verdicts, drop reasons and error codes.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from edgead._version import __version__
from edgead.errors import ConfigError, EdgeadError
from edgead.types import LedgerCounts, Verdict

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["CONTENT_TYPE", "LineMetrics", "render"]

_LABELS = ("bundle_hash", "method", "backend", "precision")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Facts(Protocol):
    """What the metrics are read from."""

    def counts(self) -> Mapping[str, LedgerCounts]:
        """The books of each camera; raises `StateError` LEDGER when they do not balance."""
        ...

    def counted(self) -> Mapping[str, Mapping[str, Any]]:
        """``verdicts``, ``dropped``, ``failed``, ``latency_counts``, ``latency_sum_s``, ``score``."""
        ...

    def up(self) -> Mapping[str, bool]:
        """Whether each camera sends frames now."""
        ...

    def checks(self) -> Mapping[str, bool]:
        """Name of a readiness check -> whether it holds."""
        ...

    def drift(self) -> Mapping[str, Mapping[str, tuple[float | None, bool]]]:
        """Camera -> figure -> its rolling median and whether it is out."""
        ...


class LineMetrics:
    """A collector for a `prometheus_client.CollectorRegistry`.

    Args:
        facts: The line.
        buckets_s: Upper ends of its latency histogram, seconds.
        about: Gives the model that judges now: ``threshold``, and the labels of ``edgead_info``.
        viewers: How many watch the page now, and how many were too slow.
    """

    def __init__(
        self,
        facts: Facts,
        *,
        buckets_s: tuple[float, ...],
        about: Callable[[], Mapping[str, Any]],
        viewers: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._facts, self._buckets_s = facts, buckets_s
        self._about, self._viewers = about, viewers
        self._core: Any = _library("core")

    def collect(self) -> Iterator[Metric]:
        """All metrics, as they are now."""
        gauge, about = self._core.GaugeMetricFamily, self._about()
        info = {name: str(about[name]) for name in _LABELS} | {"version": __version__}
        yield self._core.InfoMetricFamily("edgead", "The model that judges.", value=info)
        yield gauge("edgead_threshold", "Image threshold.", value=float(about["threshold"]))
        watching, slow = self._viewers()
        yield gauge("edgead_viewers", "Who watches the page.", value=watching)
        yield self._core.CounterMetricFamily(
            "edgead_viewers_dropped", "Viewers that were too slow.", value=slow
        )
        yield from self._states()
        yield from self._books()
        yield from self._outcomes()
        yield from self._drift()

    def _states(self) -> Iterator[Metric]:
        up = self._core.GaugeMetricFamily("edgead_camera_up", "It sends frames.", labels=["camera"])
        for name, is_up in self._facts.up().items():
            up.add_metric([name], float(is_up))
        yield up
        checks = self._core.GaugeMetricFamily(
            "edgead_check_ok", "Readiness, as of /readyz.", labels=["check"]
        )
        for name, ok in self._facts.checks().items():
            checks.add_metric([name], float(ok))
        yield checks

    def _books(self) -> Iterator[Metric]:
        try:
            books = self._facts.counts()
        except EdgeadError:
            return  # edgead_check_ok{check="books"} says it; numbers that do not add up are not sent
        counter = self._core.CounterMetricFamily
        received = counter(
            "edgead_frames_received", "Handed over by the source.", labels=["camera"]
        )
        settled = counter("edgead_frames", "Settled, by how.", labels=["camera", "status"])
        late = counter("edgead_late", "Judged after the deadline.", labels=["camera"])
        lost = counter("edgead_lost_upstream", "Gaps in the camera's ids.", labels=["camera"])
        flying = self._core.GaugeMetricFamily(
            "edgead_frames_in_flight", "Received and not settled.", labels=["camera"]
        )
        for name, one in books.items():
            received.add_metric([name], one.received)
            for status, value in (
                ("result", one.results),
                ("dropped", one.dropped),
                ("failed", one.failed),
            ):
                settled.add_metric([name, status], value)
            late.add_metric([name], one.late)
            flying.add_metric([name], one.in_flight)
            if one.lost_upstream is not None:  # a camera without ids never pretends a 0
                lost.add_metric([name], one.lost_upstream)
        yield from (received, settled, late, lost, flying)

    def _outcomes(self) -> Iterator[Metric]:
        counter = self._core.CounterMetricFamily
        verdicts = counter("edgead_verdicts", "Frames by verdict.", labels=["camera", "verdict"])
        dropped = counter("edgead_dropped", "Dropped frames.", labels=["camera", "reason"])
        failed = counter("edgead_failed", "Failed frames.", labels=["camera", "code"])
        score = self._core.GaugeMetricFamily("edgead_score", "Newest score.", labels=["camera"])
        latency = self._core.HistogramMetricFamily(
            "edgead_latency_seconds", "Capture to verdict of judged frames.", labels=["camera"]
        )
        for name, one in self._facts.counted().items():
            for verdict in Verdict:
                verdicts.add_metric([name, verdict.name.lower()], one["verdicts"].get(verdict, 0))
            for reason, value in one["dropped"].items():
                dropped.add_metric([name, reason], value)
            for code, value in one["failed"].items():
                failed.add_metric([name, code], value)
            if one["score"] is not None:
                score.add_metric([name], one["score"])
            latency.add_metric([name], self._cumulative(one), one["latency_sum_s"])
        yield from (verdicts, dropped, failed, score, latency)

    def _drift(self) -> Iterator[Metric]:
        gauge = self._core.GaugeMetricFamily
        labels = ["camera", "figure"]
        median = gauge("edgead_drift_median", "Rolling median.", labels=labels)
        out = gauge("edgead_drift_out", "It is unlike the commissioned images.", labels=labels)
        for name, figures in self._facts.drift().items():
            for figure, (value, is_out) in figures.items():
                if value is not None:
                    median.add_metric([name, figure], value)
                out.add_metric([name, figure], float(is_out))
        yield from (median, out)

    def _cumulative(self, one: Mapping[str, Any]) -> list[tuple[str, float]]:
        ends = [f"{end:g}" for end in self._buckets_s] + ["+Inf"]
        total, found = 0, []
        for end, value in zip(ends, one["latency_counts"], strict=True):
            total += value
            found.append((end, float(total)))
        return found


def render(metrics: LineMetrics) -> bytes:
    """The text that Prometheus reads."""
    library: Any = _library()
    registry = library.CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return bytes(library.generate_latest(registry))


def _library(part: str = "") -> Any:
    try:
        return importlib.import_module("prometheus_client" + (f".{part}" if part else ""))
    except ImportError as error:
        raise ConfigError(
            "SERVE_MISSING",
            f"prometheus_client does not import ({error}).",
            "pip install 'edgead[serve]'.",
        ) from error
