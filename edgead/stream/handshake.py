"""The handshake between edgead and a PLC, as a pure state machine: no I/O, no clock, no thread.

    READY --trigger(id)--> BUSY --result(id)--> RESULT_VALID --acknowledge--> DONE --trigger low--> READY

The PLC reads `Signals` and so tells "the camera never answered" (busy stays) from "the part is bad"
(result valid without accept). ``accept`` is true in one state only, for the trigger that is shown, and
falls with the acknowledge: losing power, the process, the link or time never leaves it on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeAlias

from edgead.types import Verdict

__all__ = [
    "Acknowledge",
    "Event",
    "Handshake",
    "Mode",
    "NotReady",
    "Reset",
    "Result",
    "Signals",
    "Trigger",
    "TriggerLow",
]


class Mode(str, Enum):
    """Where the handshake stands."""

    NOT_READY = "NOT_READY"  # loading, faulty or stopped: every trigger is answered UNKNOWN
    READY = "READY"
    BUSY = "BUSY"
    RESULT_VALID = "RESULT_VALID"
    DONE = "DONE"  # acknowledged, waiting for the trigger to fall


@dataclass(frozen=True)
class Trigger:
    """The PLC raises its trigger with the id of a part."""

    trigger_id: str


@dataclass(frozen=True)
class TriggerLow:
    """The PLC takes its trigger back."""


@dataclass(frozen=True)
class Result:
    """The outcome of a trigger; one past its deadline comes as UNKNOWN with its reason."""

    trigger_id: str
    verdict: Verdict
    reason: str = ""


@dataclass(frozen=True)
class Acknowledge:
    """The PLC has read the result."""


@dataclass(frozen=True)
class NotReady:
    """edgead cannot judge any more: a fault, a swap gone wrong, a stop."""

    reason: str


@dataclass(frozen=True)
class Reset:
    """Back to READY; always possible, and it clears everything."""


Event: TypeAlias = "Trigger | TriggerLow | Result | Acknowledge | NotReady | Reset"


@dataclass(frozen=True)
class Signals:
    """What the PLC reads.

    Attributes:
        ready: A trigger will be taken.
        busy: A part is being judged.
        result_valid: `accept`, `verdict`, `trigger_id` and `reason` belong together and may be read.
        accept: The part is good. Never true without `result_valid`.
        verdict: UNKNOWN (0), GOOD (1) or DEFECT (2).
        trigger_id: Id of the trigger that the result belongs to; empty without one.
        reason: Why there is no verdict.
    """

    ready: bool
    busy: bool
    result_valid: bool
    accept: bool
    verdict: Verdict
    trigger_id: str
    reason: str


@dataclass(frozen=True)
class Handshake:
    """State of the handshake; `after` gives the next one.

    Attributes:
        mode: Where it stands.
        trigger_id: The trigger being answered; empty in READY and NOT_READY.
        verdict: The result shown.
        reason: Its reason, or why it is not ready.
        is_trigger_high: What the PLC's trigger was last.
        triggers: Triggers taken.
        results: Results shown.
        overruns: Triggers while not READY: not taken, and never answered with another's result.
        stale: Results for another trigger than the one being answered: never shown.
    """

    mode: Mode = Mode.READY
    trigger_id: str = ""
    verdict: Verdict = Verdict.UNKNOWN
    reason: str = ""
    is_trigger_high: bool = False
    triggers: int = 0
    results: int = 0
    overruns: int = 0
    stale: int = 0

    @property
    def signals(self) -> Signals:
        """What the PLC reads now."""
        is_valid = self.mode is Mode.RESULT_VALID
        return Signals(
            ready=self.mode is Mode.READY,
            busy=self.mode is Mode.BUSY,
            result_valid=is_valid,
            accept=is_valid and self.verdict is Verdict.GOOD,
            verdict=self.verdict if is_valid else Verdict.UNKNOWN,
            trigger_id=self.trigger_id if is_valid else "",
            reason=self.reason,
        )

    def after(self, event: Event) -> Handshake:
        """The state after an event; every event is allowed in every state."""
        if isinstance(event, Trigger):
            return self._after_trigger(event)
        if isinstance(event, TriggerLow):
            low = replace(self, is_trigger_high=False)
            return _cleared(low) if self.mode is Mode.DONE else low
        if isinstance(event, Result):
            return self._after_result(event)
        if isinstance(event, Acknowledge):
            if self.mode is not Mode.RESULT_VALID:
                return self
            done = replace(self, mode=Mode.DONE, verdict=Verdict.UNKNOWN, reason="")
            return done if self.is_trigger_high else _cleared(done)
        if isinstance(event, NotReady):
            # A part that is being judged, or whose result was not read yet, ends as UNKNOWN.
            if self.mode in (Mode.BUSY, Mode.RESULT_VALID):
                shown = self.mode is Mode.BUSY
                return replace(
                    self,
                    mode=Mode.RESULT_VALID,
                    verdict=Verdict.UNKNOWN,
                    reason=event.reason,
                    results=self.results + shown,
                )
            return replace(_cleared(self), mode=Mode.NOT_READY, reason=event.reason)
        return replace(_cleared(self), is_trigger_high=False)  # Reset

    def _after_trigger(self, event: Trigger) -> Handshake:
        if self.mode is not Mode.READY:
            return replace(self, is_trigger_high=True, overruns=self.overruns + 1)
        return replace(
            self,
            mode=Mode.BUSY,
            trigger_id=event.trigger_id,
            verdict=Verdict.UNKNOWN,
            reason="",
            is_trigger_high=True,
            triggers=self.triggers + 1,
        )

    def _after_result(self, event: Result) -> Handshake:
        if self.mode is not Mode.BUSY or event.trigger_id != self.trigger_id:
            return replace(self, stale=self.stale + 1)
        return replace(
            self,
            mode=Mode.RESULT_VALID,
            verdict=event.verdict,
            reason=event.reason,
            results=self.results + 1,
        )


def _cleared(state: Handshake) -> Handshake:
    return replace(state, mode=Mode.READY, trigger_id="", verdict=Verdict.UNKNOWN, reason="")
