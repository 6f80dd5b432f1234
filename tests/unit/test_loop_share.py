"""How far a stage is: what learning-rate schedules follow."""

from __future__ import annotations

import pytest

from edgead.train.loop import Budget, Loop


class Clock:
    """Seconds that move only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_by_epochs_and_steps():
    loop = Loop(Budget(epochs=4), device="cpu")
    seen = [loop.share_done for _ in loop.stage("one", epochs=9) for _ in loop.steps(2)]
    assert seen == [i / 8 for i in range(8)]
    again = [loop.share_done for _ in loop.stage("two", epochs=9) for _ in loop.steps(1)]
    assert again == [0.0, 0.25, 0.5, 0.75]


def test_by_minutes_within_the_stages_own_share():
    clock = Clock()
    loop = Loop(Budget(minutes=1), device="cpu", clock=clock)
    for name, share in (("one", 0.25), ("two", 0.75)):
        seen = []
        for _ in loop.stage(name, epochs=1, share=share):
            for _ in loop.steps(100):
                seen.append(loop.share_done)
                clock.now += 5
        assert seen == pytest.approx([5 * i / (60 * share) for i in range(len(seen))], abs=1e-5)
        assert seen[-1] < 1
    assert clock.now == 160.0
