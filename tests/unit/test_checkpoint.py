"""Resuming: a killed run ends in the same bits; a checkpoint is whole, of this run, and finite, or refused."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from edgead.errors import CalibrationError, ConfigError, StateError, StorageError
from edgead.train.checkpoint import Checkpoints, Values, pack, unpack
from edgead.train.loop import Budget, Loop


class Stop(Exception):
    """Stands for Ctrl-C at a place that the test chooses."""


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Training:
    """Two stages that use everything a method may use: two optimisers, all random sources, values."""

    def __init__(self, *, stop_at: tuple[str, int, int] | None = None) -> None:
        self.stop_at = stop_at
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        for weight in [*self.first.parameters(), *self.second.parameters()]:
            weight.data = torch.randn(weight.shape, generator=generator)
        self.values = Values(best=None, rounds=0)
        self.between = torch.zeros(0)

    def run(self, loop: Loop) -> Training:
        order = loop.rng.permutation(6)
        adam = torch.optim.Adam(self.first.parameters(), lr=0.1)
        loop.register(first=self.first, adam=adam, values=self.values)
        for epoch in loop.stage("one", epochs=5):
            self.values.rounds += 1
            self._epoch(loop, "one", epoch, self.first, adam, torch.from_numpy(order))
            self.values.best = self.first.weight.detach().clone()
        # Drawn between two stages: it must not differ after a resume in the second.
        self.between = torch.rand(3, generator=loop.generator)
        sgd = torch.optim.SGD(self.second.parameters(), lr=0.1, momentum=0.9)
        noise = torch.Generator().manual_seed(5)
        loop.register(second=self.second, sgd=sgd, noise=noise)
        for epoch in loop.stage("two", epochs=4):
            self.second.weight.data += 0.01 * torch.randn(6, 6, generator=noise)
            self._epoch(loop, "two", epoch, self.second, sgd, torch.arange(6))
        return self

    def _epoch(self, loop, stage, epoch, module, optimiser, order) -> None:
        for step in loop.steps(3):
            if (stage, epoch, step) == self.stop_at:
                raise Stop
            x = torch.randn(8, 6, generator=loop.generator)[:, order]
            x = x * float(loop.rng.uniform(0.5, 1.5)) + torch.rand(6)
            loss = (module(x) - x.flip(1)).square().mean()
            loop.record(loss=loss.detach())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def state(training: Training) -> list[torch.Tensor]:
    weights = [*training.first.parameters(), *training.second.parameters()]
    return [*(w.detach() for w in weights), training.values.best, training.between]


def assert_same_bits(one: Training, other: Training) -> None:
    for a, b in zip(state(one), state(other), strict=True):
        assert torch.equal(a, b)
    assert one.values.rounds == other.values.rounds


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        yield


def loop_at(folder: Path | None, **options) -> Loop:
    return Loop(seed=3, device="cpu", checkpoint=folder, checkpoint_every_s=0.0, **options)


@pytest.mark.parametrize(
    "stop_at",
    [("one", 0, 1), ("one", 3, 0), ("one", 4, 2), ("two", 0, 0), ("two", 2, 1), ("two", 3, 2)],
)
def test_a_run_stopped_anywhere_ends_in_the_same_bits(tmp_path, stop_at):
    plain_loop = loop_at(None)
    plain = Training().run(plain_loop)
    torch.manual_seed(9)
    with pytest.raises(Stop):
        Training(stop_at=stop_at).run(loop_at(tmp_path / "run"))
    # Another process has another state of torch's global source (but the same before any checkpoint).
    torch.manual_seed(9 if stop_at[:2] == ("one", 0) else 10)
    resumed_loop = loop_at(tmp_path / "run")
    resumed = Training().run(resumed_loop)
    assert_same_bits(resumed, plain)
    assert resumed_loop.log == plain_loop.log
    assert resumed_loop.epochs_run == plain_loop.epochs_run == 9


def test_stopped_again_and_again(tmp_path):
    plain = Training().run(loop_at(None))
    torch.manual_seed(9)
    for stop_at in [("one", 1, 0), ("one", 2, 2), ("two", 1, 1), ("two", 3, 0)]:
        with pytest.raises(Stop):
            Training(stop_at=stop_at).run(loop_at(tmp_path))
        torch.manual_seed(77)
    assert_same_bits(Training().run(loop_at(tmp_path)), plain)


_KILLED = """
import os, signal, sys
sys.path.insert(0, {folder!r})
import torch
from test_checkpoint import Training, loop_at
from pathlib import Path
class Killed(Training):
    def _epoch(self, loop, stage, epoch, module, optimiser, order):
        if (stage, epoch) == ("two", 2):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._epoch(loop, stage, epoch, module, optimiser, order)
torch.manual_seed(9)
Killed().run(loop_at(Path(sys.argv[1])))
"""


def test_kill_9(tmp_path):
    plain = Training().run(loop_at(None))
    code = _KILLED.format(folder=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], check=False, timeout=120, env=dict(os.environ)
    )
    assert done.returncode == -signal.SIGKILL
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00-one.safetensors",
        "01-two.safetensors",
    ]
    assert_same_bits(Training().run(loop_at(tmp_path)), plain)


def test_a_method_resumes_in_the_same_bits(tmp_path):
    """TrisimpleNet has a random source of its own; the other methods' tests stop them as well."""
    from edgead.models.trisimplenet import TrisimpleConfig, TrisimpleNet

    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(4)]
    config = TrisimpleConfig(image_size=(64, 64), hidden=8, epochs=4, step_patches=64)

    class Stopped(Loop):
        def record(self, **losses):
            super().record(**losses)
            if self.epochs_run == 2:
                raise Stop

    def fit(loop: Loop) -> TrisimpleNet:
        method = TrisimpleNet(config, backbone="resnet18", weights="random")
        method.fit(images, loop)
        return method

    plain = fit(loop_at(None))
    with pytest.raises(Stop):
        fit(Stopped(seed=3, device="cpu", checkpoint=tmp_path, checkpoint_every_s=0.0))
    resumed = fit(loop_at(tmp_path))
    for one, other in [
        (plain.adaptor, resumed.adaptor),
        (plain.discriminator, resumed.discriminator),
    ]:
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), key


def test_a_finished_run_does_not_train_again(tmp_path):
    first = Training().run(loop_at(tmp_path))
    again = Training(stop_at=("one", 0, 0)).run(loop_at(tmp_path))
    assert_same_bits(again, first)


def test_discarded_checkpoints_leave_nothing(tmp_path):
    loop = loop_at(tmp_path / "run")
    Training().run(loop)
    assert (tmp_path / "run").is_dir()
    loop.discard_checkpoints()
    assert list(tmp_path.iterdir()) == []


def test_without_checkpoint_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    loop = loop_at(None)
    Training().run(loop)
    loop.discard_checkpoints()
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_are_no_more_frequent_than_asked_but_the_end_is_saved(tmp_path, monkeypatch):
    written = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints,
        "save",
        lambda self, index, stage, tree: (
            written.append((stage, tree["epochs"], tree["is_finished"])),
            save(self, index, stage, tree),
        ),
    )
    clock = Clock()
    loop = Loop(device="cpu", checkpoint=tmp_path, checkpoint_every_s=25.0, clock=clock)
    for _ in loop.stage("one", epochs=6):
        clock.now += 10
    assert written == [("one", 1, False), ("one", 4, False), ("one", 6, True)]


def test_the_minutes_of_all_processes_count(tmp_path):
    def epochs(stop_after: int) -> int:
        clock = Clock()
        loop = Loop(
            Budget(minutes=1), device="cpu", checkpoint=tmp_path, checkpoint_every_s=0, clock=clock
        )
        count = 0
        for _ in loop.stage("one", epochs=100):
            if count == stop_after:
                break
            clock.now += 10
            count += 1
        return count

    assert epochs(stop_after=4) == 4
    assert epochs(stop_after=100) == 2


def test_end_stage(tmp_path):
    for expected in ([0, 1, 2], []):  # the second run finds the stage finished
        loop, seen = loop_at(tmp_path), []
        for epoch in loop.stage("one", epochs=10):
            seen.append(epoch)
            if epoch == 2:
                loop.end_stage()
        assert seen == expected
        assert loop.epochs_run == 3
        assert list(loop.stage("two", epochs=2)) == ([0, 1] if expected else [])
        loop.epochs_run = 0


def test_a_foreign_run_is_refused(tmp_path):
    Training().run(loop_at(tmp_path, fingerprint="a"))
    with pytest.raises(ConfigError) as caught:
        Training().run(loop_at(tmp_path, fingerprint="b"))
    assert str(caught.value) == (
        f"[CHECKPOINT_FOREIGN] 00-one.safetensors in {tmp_path} was written by a run with another "
        "method, configuration, seed or images. Repeat that run's command, or remove the folder to "
        "start anew."
    )


@pytest.mark.parametrize("other", [nn.Linear(6, 5), nn.Conv2d(1, 1, 1)])
def test_a_checkpoint_of_another_network_is_refused(tmp_path, other):
    loop = loop_at(tmp_path)
    loop.register(net=nn.Linear(6, 6))
    list(loop.stage("one", epochs=1))
    loop = loop_at(tmp_path)
    loop.register(net=other)
    with pytest.raises(ConfigError, match=r"\[CHECKPOINT_FOREIGN\] stage 'one' in "):
        list(loop.stage("one", epochs=1))


def test_other_objects_are_refused(tmp_path):
    list(loop_at(tmp_path).stage("one", epochs=1))
    loop = loop_at(tmp_path)
    loop.register(net=nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="CHECKPOINT_FOREIGN"):
        list(loop.stage("one", epochs=1))


@pytest.mark.parametrize("cut", [0, 4, 100, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path, cut):
    list(loop_at(tmp_path).stage("one", epochs=1))
    path = tmp_path / "00-one.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(StorageError) as caught:
        list(loop_at(tmp_path).stage("one", epochs=1))
    assert str(caught.value) == (
        f"[CHECKPOINT_DAMAGED] {path} is no whole checkpoint (SafetensorError). "
        "Remove it; training starts again from the stage before."
    )


def test_a_file_of_something_else_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "00-one.safetensors")
    with pytest.raises(ConfigError, match="CHECKPOINT_FOREIGN"):
        list(loop_at(tmp_path).stage("one", epochs=1))


def test_a_nan_loss_keeps_the_last_good_checkpoint(tmp_path):
    net, loop = nn.Linear(2, 2), loop_at(tmp_path)
    loop.register(net=net)
    with pytest.raises(CalibrationError) as caught:
        for epoch in loop.stage("one", epochs=5):
            for _ in loop.steps(2):
                loop.record(loss=float("nan") if epoch == 2 else 1.0)
    assert str(caught.value) == (
        "[LOSS_NOT_FINITE] one: loss 'loss' is nan at step 5. "
        "Lower the learning rate, or train in float32."
    )
    assert Checkpoints(tmp_path).load(0, "one")["epochs"] == 2


def test_lost_weights_keep_the_last_good_checkpoint(tmp_path):
    net, loop = nn.Linear(2, 2), loop_at(tmp_path)
    loop.register(net=net)
    with pytest.raises(CalibrationError) as caught:
        for epoch in loop.stage("one", epochs=5):
            if epoch == 2:
                net.weight.data[0, 0] = float("inf")
    assert str(caught.value) == (
        "[WEIGHTS_NOT_FINITE] net.weight holds NaN or infinity; the last good checkpoint is kept. "
        "Lower the learning rate, or train in float32."
    )
    saved = Checkpoints(tmp_path).load(0, "one")
    assert saved["epochs"] == 2
    assert torch.isfinite(saved["objects"]["net"]["weight"]).all()


def test_a_full_disk_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    loop = loop_at(tmp_path)

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError) as caught:
        for epoch in loop.stage("one", epochs=5):
            if epoch == 2:
                monkeypatch.setattr(os, "fsync", full)
    monkeypatch.undo()
    assert str(caught.value) == (
        f"[DISK_FULL] cannot write {tmp_path / '00-one.safetensors'}: no space left; the old file is "
        "unchanged. Free some space and repeat the command."
    )
    assert Checkpoints(tmp_path).load(0, "one")["epochs"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["00-one.safetensors"]


def test_registering_inside_a_stage_is_refused():
    loop = loop_at(None)
    with pytest.raises(StateError) as caught:
        for _ in loop.stage("one", epochs=1):
            loop.register(late=nn.Linear(1, 1))
    assert str(caught.value) == (
        "[REGISTER_LATE] late registered inside stage 'one'. Register before the stage begins."
    )
    loop.register(late=nn.Linear(1, 1))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as caught:
        Checkpoints(tmp_path / "file" / "run")
    assert str(caught.value) == (
        f"[CHECKPOINT_FOLDER] cannot make the checkpoint folder {tmp_path / 'file' / 'run'}: "
        "Not a directory. Choose a folder that you may write to."
    )


_LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)
)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers()), inner, max_size=3),
    ),
    max_leaves=10,
)


@settings(max_examples=100, deadline=None)
@given(_TREES)
def test_nested_states_survive(tree):
    tensors: dict[str, torch.Tensor] = {}
    assert unpack(pack(tree, tensors), tensors) == tree
    assert tensors == {}


def test_tensors_arrays_and_shared_memory_survive(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    tree = {
        "a": shared,
        "b": shared.T,
        3: (np.arange(4, dtype=np.int64), shared.to(torch.bfloat16)),
        "scalar": torch.tensor(2),
        "rng": np.random.default_rng(1).bit_generator.state,
    }
    store = Checkpoints(tmp_path)
    store.save(2, "a stage/with signs", tree)
    assert [p.name for p in tmp_path.iterdir()] == ["02-a-stage-with-signs.safetensors"]
    back = store.load(2, "a stage/with signs")
    assert torch.equal(back["a"], shared)
    assert torch.equal(back["b"], shared.T)
    assert np.array_equal(back[3][0], np.arange(4))
    assert back[3][1].dtype == torch.bfloat16
    assert back["scalar"].shape == ()
    assert back["rng"] == tree["rng"]


def test_what_no_checkpoint_can_hold_is_named():
    with pytest.raises(TypeError, match="a checkpoint cannot hold a set"):
        pack({"a": {1, 2}}, {})


def test_values_name_what_is_missing():
    with pytest.raises(AttributeError, match=r"no value named 'b'; there are \['a'\]"):
        _ = Values(a=1).b
