"""Policies: what they are called, which fits a source, and what they do with one frame too many."""

from __future__ import annotations

import threading

import pytest

from edgead.errors import ConfigError
from edgead.stream.lane import Lane
from edgead.stream.policies import Policy, parse_policy
from edgead.stream.service import ServiceTime
from edgead.testing import FakeClock, textured
from edgead.types import Frame, Outcome


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("auto", "file", Policy("every", 8)),
        ("auto", "live", Policy("latest", 1)),
        ("auto", "triggered", Policy("reject_when_full", 4)),
        ("every", "live", Policy("every", 8)),
        ("drop_oldest(3)", "live", Policy("drop_oldest", 3)),
        ("reject_when_full(1)", "file", Policy("reject_when_full", 1)),
        ("latest(1)", "file", Policy("latest", 1)),
    ],
)
def test_parse(text: str, kind: str, expected: Policy) -> None:
    assert parse_policy(text, kind=kind) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "newest",
            "[POLICY] policy is 'newest'; want auto or one of every, latest, drop_oldest, "
            "reject_when_full. e.g. drop_oldest(8).",
        ),
        (
            "latest(3)",
            "[POLICY] policy 'latest(3)' has a bound of 3; latest keeps 1, the others 1 or more.",
        ),
        (
            "every(0)",
            "[POLICY] policy 'every(0)' has a bound of 0; latest keeps 1, the others 1 or more.",
        ),
    ],
)
def test_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy(text)
    assert str(caught.value) == message


def test_names_print_as_they_are_written() -> None:
    for text in ("every(8)", "latest", "drop_oldest(2)", "reject_when_full(4)"):
        assert str(parse_policy(text)) == text


@pytest.mark.parametrize(
    ("policy", "waiting", "dropped"),
    [
        (
            "latest",
            [4],
            [(0, "SUPERSEDED"), (1, "SUPERSEDED"), (2, "SUPERSEDED"), (3, "SUPERSEDED")],
        ),
        ("drop_oldest(2)", [3, 4], [(0, "QUEUE_FULL"), (1, "QUEUE_FULL"), (2, "QUEUE_FULL")]),
        ("reject_when_full(2)", [0, 1], [(2, "QUEUE_FULL"), (3, "QUEUE_FULL"), (4, "QUEUE_FULL")]),
    ],
)
def test_five_frames_and_nobody_judges(
    policy: str, waiting: list[int], dropped: list[tuple[int, str]]
) -> None:
    seen: list[Outcome] = []
    clock = FakeClock()
    lane = Lane(
        "cam",
        parse_policy(policy),
        clock=clock,
        lock=threading.RLock(),
        emit=lambda outcome, _: seen.append(outcome),
        service=ServiceTime(),
        is_ordered=False,
    )
    for _ in range(5):
        assert lane.has_room
        lane.receive(Frame(textured(1), t_mono_ns=clock()))
    assert [ticket.seq for ticket in lane.queue] == waiting
    assert [(o.seq, o.reason) for o in seen] == dropped


def test_every_makes_the_source_wait() -> None:
    clock = FakeClock()
    lane = Lane(
        "cam",
        parse_policy("every(2)"),
        clock=clock,
        lock=threading.RLock(),
        emit=lambda *_: None,
        service=ServiceTime(),
    )
    lane.receive(Frame(textured(1)))
    assert lane.has_room
    lane.receive(Frame(textured(1)))
    assert not lane.has_room
    lane.take()
    assert lane.has_room
