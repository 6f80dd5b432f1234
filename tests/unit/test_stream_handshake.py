"""The PLC handshake over all orders of events to depth 8."""

from __future__ import annotations

import pytest

from edgead.stream.handshake import (
    Acknowledge,
    Event,
    Handshake,
    Mode,
    NotReady,
    Reset,
    Result,
    Trigger,
    TriggerLow,
)
from edgead.types import Verdict

EVENTS: tuple[Event, ...] = (
    Trigger("a"),
    Trigger("b"),
    TriggerLow(),
    Result("a", Verdict.GOOD),
    Result("b", Verdict.DEFECT),
    Acknowledge(),
    NotReady("fault"),
    Reset(),
)


def after(*events: Event) -> Handshake:
    state = Handshake()
    for event in events:
        state = state.after(event)
    return state


def check(before: Handshake, event: Event, state: Handshake) -> None:
    signals = state.signals
    assert not (signals.ready and signals.busy)
    assert signals.result_valid == (state.mode is Mode.RESULT_VALID)
    if signals.accept:  # only for a GOOD of the very trigger that was taken
        assert signals.result_valid
        assert signals.verdict is Verdict.GOOD
        assert signals.trigger_id == before.trigger_id == state.trigger_id != ""
        if not before.signals.accept:
            assert event == Result(state.trigger_id, Verdict.GOOD)
            assert before.mode is Mode.BUSY
    if not signals.result_valid:
        assert (signals.verdict, signals.trigger_id) == (Verdict.UNKNOWN, "")
    if isinstance(event, Reset):
        assert (state.mode, signals.accept, state.is_trigger_high) == (Mode.READY, False, False)
    if isinstance(event, Acknowledge):
        assert not signals.accept
    if isinstance(event, NotReady):
        assert not signals.accept
        assert not signals.ready
    if isinstance(event, Trigger) and before.mode is not Mode.READY:
        assert state.overruns == before.overruns + 1
        assert state.trigger_id == before.trigger_id
    if isinstance(event, Result) and (
        before.mode is not Mode.BUSY or event.trigger_id != before.trigger_id
    ):
        assert state.stale == before.stale + 1
        assert state.signals == before.signals
    assert state.results <= state.triggers


def test_all_orders_of_events_to_depth_8() -> None:
    # The machine is deterministic: following every distinct state covers every sequence (8 ** 8).
    states, sequences = {Handshake(): 1}, 0
    for _ in range(8):
        following: dict[Handshake, int] = {}
        for before, ways in states.items():
            for event in EVENTS:
                state = before.after(event)
                check(before, event, state)
                following[state] = following.get(state, 0) + ways
        states = following
    sequences = sum(states.values())
    assert sequences == 8**8
    assert {state.mode for state in states} == set(Mode)


def test_one_part() -> None:
    state = after(Trigger("a"))
    assert state.signals.busy
    state = state.after(Result("a", Verdict.GOOD))
    assert (state.signals.accept, state.signals.trigger_id) == (True, "a")
    state = state.after(Acknowledge())
    assert (state.signals.accept, state.signals.ready) == (False, False)
    state = state.after(TriggerLow())
    assert (state.signals.ready, state.triggers, state.results) == (True, 1, 1)


def test_the_trigger_may_fall_first() -> None:
    state = after(Trigger("a"), TriggerLow(), Result("a", Verdict.DEFECT), Acknowledge())
    assert state.signals.ready


def test_a_fault_ends_the_part_as_unknown_and_leaves_the_reason() -> None:
    state = after(Trigger("a"), NotReady("MODEL_UNVERIFIED"))
    assert (state.signals.result_valid, state.signals.verdict) == (True, Verdict.UNKNOWN)
    assert state.signals.reason == "MODEL_UNVERIFIED"


def test_a_fault_takes_back_a_good_that_was_not_read() -> None:
    state = after(Trigger("a"), Result("a", Verdict.GOOD), NotReady("stop"))
    assert (state.signals.accept, state.signals.verdict) == (False, Verdict.UNKNOWN)


def test_a_result_for_another_part_is_never_shown() -> None:
    state = after(Trigger("a"), Result("b", Verdict.GOOD))
    assert (state.mode, state.stale) == (Mode.BUSY, 1)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_accept_is_good_and_nothing_else(verdict: Verdict) -> None:
    state = after(Trigger("a"), Result("a", verdict))
    assert state.signals.accept == (verdict is Verdict.GOOD)
