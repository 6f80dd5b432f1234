"""Finds a way to INT8 that keeps the verdicts: calibrators, then layers restored by need.

As much INT8 as possible: everything that the recipe allows is tried first, under each calibrator. When
proof refuses all of these that hold, each layer is quantised alone to see which hurts, and bisection finds
how many must be restored to floating point: first those that harm much and save little time; what is not
needed among them is given back, the costliest first. Restored layers keep eight-bit weights, for their
bytes, unless these alone move scores too far: then they get their own back, as FP16. A plan that holds is tried
again with bf16 for all that is not quantised, and that one is proven first. Each trial is kept on disk, so
that a search that was cut off goes on where it stood.

The choosing frames are few: they rank plans by how far scores move, and refuse those that flip a
verdict. Whether the other limits hold is for proof to say, on frames that no plan was chosen by.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgead import files
from edgead.calibration.calibrators import Calibrator
from edgead.deploy.agreement import Agreement, Limits

__all__ = ["CALIBRATORS", "Plan", "Search", "Trial"]

CALIBRATORS = (
    Calibrator("mse"),
    Calibrator("minmax"),
    Calibrator("percentile", 99.999),
    Calibrator("percentile", 99.99),
    Calibrator("percentile", 99.9),
    Calibrator("entropy"),
)
_CLOSER = 0.7  # what the next plan's score change may be, in that of one that proof refused


@dataclass(frozen=True)
class Plan:
    """One way to quantise.

    Attributes:
        calibrator: How activations are clipped.
        kept: Nodes that compute in floating point.
        exact: Whether these keep the weights that training gave them, as FP16; else theirs have eight
            bits too, half of those bytes.
        bf16: Whether they may be computed in bf16, where the CPU can.
    """

    calibrator: Calibrator
    kept: frozenset[str] = frozenset()
    exact: bool = False
    bf16: bool = False

    @property
    def key(self) -> str:
        """Identity in the journal."""
        marks = ("exact " if self.exact else "") + ("bf16 " if self.bf16 else "")
        return f"{self.calibrator} | {marks}{' '.join(sorted(self.kept))}"


@dataclass(frozen=True)
class Trial:
    """A plan and what it gave; ``agreement`` is None where the engine failed."""

    plan: Plan
    agreement: Agreement | None

    def error(self) -> float:
        """What plans are compared by: root mean square of the score change, score_scale."""
        return float("inf") if self.agreement is None else self.agreement.score_change_rms

    def holds(self, limits: Limits, max_error: float) -> bool:
        """Whether no more verdicts flip than may, and the score change stays under ``max_error``."""
        found = self.agreement
        return found is not None and found.flips <= limits.flips and self.error() <= max_error

    def row(self, nodes: Sequence[str] = ()) -> dict[str, Any]:
        """One line of the certificate's table; a layer quantised alone among ``nodes`` is named so."""
        row: dict[str, Any] = {"calibrator": str(self.plan.calibrator)}
        quantised = [name for name in nodes if name not in self.plan.kept]
        if len(quantised) == 1:
            row["only"] = quantised[0]
        else:
            row["kept"] = sorted(self.plan.kept)
        row |= {"exact": self.plan.exact, "bf16": self.plan.bf16}
        if self.agreement is not None:
            one = self.agreement
            row |= {
                "score_change_rms": one.score_change_rms, "flips": one.flips,
                "rank_correlation": one.rank_correlation, "auroc_loss": one.auroc_loss,
            }  # fmt: skip
        return row


@dataclass
class Search:
    """A search over plans; trials are remembered and never made twice.

    Attributes:
        evaluate: Quantises and compares on the choosing frames; None where the engine fails.
        nodes: Nodes that can be quantised.
        kept: Those that the recipe keeps in floating point.
        limits: What must hold.
        costs: Time that each node takes in floating point, in any unit.
        bf16: Whether there is an engine that computes in bf16.
        minutes: Budget of new trials; what was remembered costs nothing.
        journal: File that trials are remembered in; None remembers in memory.
        report: Called with a stage and the share of the budget spent.
    """

    evaluate: Callable[[Plan], Agreement | None]
    nodes: Sequence[str]
    kept: frozenset[str]
    limits: Limits
    costs: Mapping[str, float] = field(default_factory=dict)
    bf16: bool = False
    minutes: float = 10.0
    journal: Path | None = None
    report: Callable[[str, float], None] | None = None
    trials: list[Trial] = field(default_factory=list)
    is_cut_off: bool = False
    _known: dict[str, Agreement | None] = field(default_factory=dict)
    _ends: float = 0.0

    def __post_init__(self) -> None:
        self._ends = time.monotonic() + 60 * self.minutes
        if self.journal is not None and self.journal.is_file():
            self._known = _read(self.journal)

    def plans(self) -> Iterator[Trial]:
        """Plans that hold on the choosing frames, most INT8 first.

        One is asked for after another because proof failed. First every calibrator that holds with
        everything quantised, the least score change first; then layers are restored, and each plan moves
        scores at most 0.7 times as far as the one before. Ends when the budget is spent or nothing is
        left to try.
        """
        tried = [self._try(Plan(one, self.kept), "calibrators") for one in CALIBRATORS]
        whole = sorted((one for one in tried if one is not None), key=Trial.error)
        max_error = float("inf")
        for one in whole:
            if one.holds(self.limits, float("inf")):
                yield from self._with_bf16(one, float("inf"))
                max_error = _CLOSER * whole[0].error()
        while whole and (found := self._restored(whole[0], max_error)) is not None:
            yield from self._with_bf16(found, max_error)
            max_error = _CLOSER * found.error()

    def _with_bf16(self, found: Trial, max_error: float) -> Iterator[Trial]:
        """A plan with bf16 for what is not quantised, where that holds too; then as it is."""
        if self.bf16:
            faster = self._try(replace(found.plan, bf16=True), "bf16 for the rest")
            if faster is not None and faster.holds(self.limits, max_error):
                yield faster
        yield found

    def closest(self) -> Trial | None:
        """The trial with the least score change; one of a single quantised layer is no candidate."""
        whole = [t for t in self.trials if len(t.plan.kept) < len(self.nodes) - 1]
        return min(whole, key=Trial.error, default=None)

    def _restored(self, start: Trial, max_error: float) -> Trial | None:
        """The start with as few layers restored as hold."""
        # Where eight-bit weights alone are too coarse, restoring activations cannot help.
        floor = self._try(replace(start.plan, kept=frozenset(self.nodes)), "weights alone")
        if floor is None:
            return None
        if not floor.holds(self.limits, max_error):
            start = Trial(replace(start.plan, exact=True), start.agreement)
        return self._restore(start, max_error)

    def _restore(self, start: Trial, max_error: float) -> Trial | None:
        """Restore the layers that hurt most for the time that they save, as few as do.

        A layer's harm is the error with that layer alone quantised: beside a layer that ruins
        everything, restoring any other one would show nothing. Errors of layers add up as squares.
        """
        free = [name for name in self.nodes if name not in self.kept]
        harms: list[tuple[float, str]] = []
        for name in free:
            alone = frozenset(self.nodes) - {name}
            trial = self._try(replace(start.plan, kept=alone), "sensitivity")
            if trial is None:
                return None
            harms.append((trial.error() ** 2 / self.costs.get(name, 1.0), name))
        order = [name for _, name in sorted(harms, reverse=True)]
        found: Trial | None = None
        few, many = 0, len(order)  # restoring `few` does not hold; all restored is no INT8
        while many - few > 1:
            middle = (few + many) // 2
            kept = self.kept | set(order[:middle])
            trial = self._try(replace(start.plan, kept=kept), "restoring layers")
            if trial is None:
                break
            if trial.holds(self.limits, max_error):
                found, many = trial, middle
            else:
                few = middle
        return None if found is None else self._give_back(found, max_error)

    def _give_back(self, found: Trial, max_error: float) -> Trial:
        """Quantise again what need not be restored beside the others, costliest first."""
        restored = found.plan.kept - self.kept
        for name in sorted(restored, key=lambda one: (-self.costs.get(one, 0), one)):
            plan = replace(found.plan, kept=found.plan.kept - {name})
            trial = self._try(plan, "giving layers back")
            if trial is None:
                break
            if trial.holds(self.limits, max_error):
                found = trial
        return found

    def _try(self, plan: Plan, stage: str) -> Trial | None:
        """Make or remember a trial; None when the budget is spent."""
        known = next((t for t in self.trials if t.plan == plan), None)
        if known is not None:
            return known
        if plan.key not in self._known:
            left = self._ends - time.monotonic()
            if left <= 0:
                self.is_cut_off = True
                return None
            if self.report is not None:
                self.report(stage, 1 - left / (60 * self.minutes))
            self._known[plan.key] = self.evaluate(plan)
            self._save()
        trial = Trial(plan, self._known[plan.key])
        self.trials.append(trial)
        return trial

    def _save(self) -> None:
        if self.journal is not None:
            tree = {k: None if v is None else asdict(v) for k, v in self._known.items()}
            files.write_text(self.journal, json.dumps(tree))


def _read(path: Path) -> dict[str, Agreement | None]:
    """Trials of a search that was cut off; a journal that cannot be read is begun anew."""
    try:
        tree: Mapping[str, Any] = json.loads(path.read_text())
        return {k: None if v is None else Agreement(**v) for k, v in tree.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
