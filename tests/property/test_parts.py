"""The part FIFO against a readable model, with places that the test makes up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from line_outcomes import outcome_of

from edgead.errors import ConfigError
from edgead.integrations.parts import Decision, EncoderCount, PartFifo
from edgead.types import Outcome

GOOD, DEFECT = 0.1, 0.9


def outcome(part: str, score: float | None) -> Outcome:
    """A good or defective part's outcome; without a score it was dropped."""
    made = outcome_of(6 if score is None else 0, score=score, part=part, at_ns=0)
    return replace(made, part_id=part)


#: What happens, and how far the belt moves before it.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "good", "defect", "unknown", "look"]),
        st.integers(0, 5),  # which part, for verdicts: so many before the newest
        st.integers(0, 7),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(events=EVENTS, distance=st.integers(1, 20))
def test_a_part_is_decided_once_in_order_and_accepted_only_by_good_in_time(
    events: list[tuple[str, int, int]], distance: int
) -> None:
    fifo = PartFifo(distance=distance)
    belt, entered, decided = 0, [], []
    said: dict[str, list[str]] = {}
    for what, back, moved in events:
        belt += moved
        decided += [(d, belt) for d in fifo.due(belt)]
        if what == "enter":
            entered.append((f"p{len(entered)}", belt))
            fifo.enter(*entered[-1])
        elif what != "look" and back < len(entered):
            part = entered[-1 - back][0]
            if part not in {d.part_id for d, _ in decided}:
                said.setdefault(part, []).append(what)
            score = {"good": GOOD, "defect": DEFECT, "unknown": None}[what]
            fifo.settle(outcome(part, score))
    decided += [(d, belt) for d in fifo.due(belt + distance)]

    assert [d.part_id for d, _ in decided] == [part for part, _ in entered]
    assert len(fifo) == 0
    for (decision, at), (part, place) in zip(decided, entered, strict=True):
        assert decision.place == place + distance
        assert decision.accept == (set(said.get(part, ())) == {"good"})
        assert (decision.reason == "") == decision.accept
        assert at + distance >= decision.place


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(st.integers(-1000, 30000), max_size=50),
    bits=st.sampled_from([16, 32]),
    start=st.integers(0, 2**32),
)
def test_an_encoder_that_wraps_counts_on(steps: list[int], bits: int, start: int) -> None:
    encoder = EncoderCount(bits=bits)
    true = start
    assert encoder(true % 2**bits) == 0
    for step in steps:
        true += step
        assert encoder(true % 2**bits) == true - start


def test_no_verdict_is_a_reject() -> None:
    fifo = PartFifo(distance=0.5)
    fifo.enter("a", 10.0)
    assert fifo.next_place == 10.5
    assert fifo.due(10.49) == []
    assert fifo.due(10.5) == [Decision("a", False, "NO_VERDICT", 10.5)]
    fifo.settle(outcome("a", GOOD))  # too late: it went by
    assert fifo.unmatched == 1
    assert fifo.due(99.0) == []
    assert fifo.next_place is None


@pytest.mark.parametrize(
    ("score", "accept", "reason"),
    [(GOOD, True, ""), (DEFECT, False, "DEFECT"), (None, False, "DEADLINE")],
)
def test_each_verdict(score: float | None, accept: bool, reason: str) -> None:
    fifo = PartFifo(distance=1)
    fifo.enter("a", 0)
    fifo.settle(outcome("a", score))
    assert fifo.due(1) == [Decision("a", accept, reason, 1)]


def test_one_id_twice_rejects_both() -> None:
    fifo = PartFifo(distance=10)
    fifo.enter("a", 0)
    fifo.enter("a", 3)
    fifo.settle(outcome("a", GOOD))
    found = fifo.due(13)
    assert [(d.accept, d.reason) for d in found] == [(False, "DUPLICATE_ID")] * 2


def test_too_many_parts_reject_the_oldest() -> None:
    fifo = PartFifo(distance=10, capacity=2)
    for n in range(3):
        fifo.enter(f"p{n}", n)
        fifo.settle(outcome(f"p{n}", GOOD))
    assert fifo.due(0) == [Decision("p0", False, "OVERFLOW", 10)]
    assert [d.accept for d in fifo.due(99)] == [True, True]


def test_a_belt_that_runs_back_brings_nothing_earlier() -> None:
    fifo = PartFifo(distance=10)
    fifo.enter("a", 100)
    fifo.enter("b", 90)
    assert fifo.due(109) == []
    assert [d.part_id for d in fifo.due(110)] == ["a", "b"]


@pytest.mark.parametrize(("distance", "capacity"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0)])
def test_bad_distances(distance: float, capacity: int) -> None:
    with pytest.raises(ConfigError) as error:
        PartFifo(distance=distance, capacity=capacity)
    assert str(error.value) == (
        f"[PARTS] distance is {distance}, capacity {capacity}; "
        "want a distance above 0 and room for a part."
    )


def test_a_bad_encoder() -> None:
    with pytest.raises(ConfigError) as error:
        EncoderCount(bits=0)
    assert str(error.value) == "[PARTS] an encoder of 0 bits; want 1 to 64."
