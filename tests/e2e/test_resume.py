"""A training that is stopped goes on where it was, and ends in the same bundle."""

from __future__ import annotations

import pytest
from data.make_bundle import tiny_method, write_pieces

from edgead.bundle import read_bundle
from edgead.train.loop import Budget, Progress
from edgead.train.run import train


def test_a_stopped_training_ends_in_the_same_model(tmp_path):
    good = write_pieces(tmp_path / "good", 48)
    budget = Budget(epochs=3)
    train(tiny_method, good, tmp_path / "whole.edgead", budget=budget)

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "resumed.edgead"
    with pytest.raises(KeyboardInterrupt):
        train(tiny_method, good, out, budget=budget, report=stop)
    assert not out.exists()
    assert list(tmp_path.glob(".resumed.edgead.training-*"))
    train(tiny_method, good, out, budget=budget)
    models = [
        read_bundle(tmp_path / name).members["model.onnx"]
        for name in ("whole.edgead", "resumed.edgead")
    ]
    assert models[0] == models[1]
    assert not list(tmp_path.glob(".resumed.edgead.training-*"))
