"""Checkpoints of a training run: one safetensors file a stage, each written atomically.

A stage's file is replaced while the stage runs and stays when it has ended, so that a resumed run finds, at
the entry of every stage, the state that the first run left there: modules, optimisers, random sources,
counters. No pickle: nested states are flattened to tensors and a JSON skeleton in the file's header.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from edgead import files
from edgead.errors import CalibrationError, ConfigError, StorageError

__all__ = [
    "Checkpoints",
    "Stateful",
    "Values",
    "check_finite",
    "pack",
    "random_state",
    "set_random_state",
    "set_state",
    "state_of",
    "unpack",
]

_FORMAT = "edgead-training-1"
Tree = Any
"""Nested dicts (str or int keys), lists and tuples of tensors, arrays, numbers, strings and None."""


class Stateful(Protocol):
    """What a checkpoint can hold: modules, optimisers, schedulers, `Values`."""

    def state_dict(self) -> Any:
        """Everything that `load_state_dict` needs, as a `Tree`."""
        ...

    def load_state_dict(self, state: Any) -> Any:
        """Take a state back."""
        ...


class Values:
    """Named tensors, arrays and numbers of a method that are no module, e.g. centroids.

    Args:
        **values: First values; assign attributes to change them.
    """

    def __init__(self, **values: Tree) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        # Only called for names that were never set; both tell type checkers that values are attributes.
        raise AttributeError(f"no value named {name!r}; there are {sorted(self.__dict__)}")

    def __setattr__(self, name: str, value: Any) -> None:
        self.__dict__[name] = value

    def state_dict(self) -> dict[str, Tree]:
        """The values by name."""
        return dict(self.__dict__)

    def load_state_dict(self, state: Mapping[str, Tree]) -> None:
        """Replace all values."""
        self.__dict__.clear()
        self.__dict__.update(state)


class Checkpoints:
    """The checkpoint files of one run.

    Args:
        folder: Made when it does not exist.
        fingerprint: Identity of the run (configuration, seed, images); files of another are refused.

    Raises:
        StorageError: The folder cannot be made.
    """

    def __init__(self, folder: str | Path, *, fingerprint: str = "") -> None:
        self.folder = Path(folder)
        self.fingerprint = fingerprint
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                "CHECKPOINT_FOLDER",
                f"cannot make the checkpoint folder {self.folder}: {error.strerror}.",
                "Choose a folder that you may write to.",
            ) from error
        files.sweep(self.folder)

    def save(self, index: int, stage: str, tree: Tree) -> None:
        """Replace the file of a stage.

        Raises:
            StorageError: DISK_FULL and the like; the file before it stays.
        """
        tensors: dict[str, torch.Tensor] = {}
        skeleton = json.dumps(pack(tree, tensors))
        header = {"format": _FORMAT, "fingerprint": self.fingerprint, "tree": skeleton}
        files.write_bytes(self._path(index, stage), save(tensors, metadata=header))

    def load(self, index: int, stage: str) -> Tree | None:
        """State of a stage, or None where it has none yet.

        Raises:
            ConfigError: CHECKPOINT_FOREIGN when the file belongs to another run.
            StorageError: CHECKPOINT_DAMAGED.
        """
        path = self._path(index, stage)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            foreign = header.get("format") != _FORMAT
            tree = None if foreign else unpack(json.loads(header["tree"]), tensors)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            raise StorageError(
                "CHECKPOINT_DAMAGED",
                f"{path} is no whole checkpoint ({type(error).__name__}).",
                "Remove it; training starts again from the stage before.",
            ) from error
        if foreign or header.get("fingerprint") != self.fingerprint:
            raise self.foreign(path.name)
        return tree

    def foreign(self, what: str) -> ConfigError:
        """The error for a checkpoint of another run."""
        return ConfigError(
            "CHECKPOINT_FOREIGN",
            f"{what} in {self.folder} was written by a run with another method, configuration, seed or images.",
            "Repeat that run's command, or remove the folder to start anew.",
        )

    def discard(self) -> None:
        """Remove this run's files, and the folder when nothing else is in it."""
        for path in self.folder.glob("[0-9][0-9]-*.safetensors"):
            with contextlib.suppress(OSError):
                path.unlink()
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, index: int, stage: str) -> Path:
        return self.folder / f"{index:02d}-{re.sub(r'[^A-Za-z0-9_-]+', '-', stage)}.safetensors"


def state_of(one: Stateful | torch.Generator) -> Tree:
    """State of anything that a loop may register."""
    return one.get_state() if isinstance(one, torch.Generator) else one.state_dict()


def set_state(one: Stateful | torch.Generator, state: Tree) -> None:
    """Give back what `state_of` took."""
    if isinstance(one, torch.Generator):
        one.set_state(state)
    else:
        one.load_state_dict(state)


def check_finite(objects: Mapping[str, Stateful | torch.Generator]) -> None:
    """Refuse to write weights that are lost already.

    Raises:
        CalibrationError: WEIGHTS_NOT_FINITE.
    """
    for name, one in objects.items():
        if not isinstance(one, torch.nn.Module):
            continue
        for key, weight in one.named_parameters():
            if not torch.isfinite(weight).all():
                raise CalibrationError(
                    "WEIGHTS_NOT_FINITE",
                    f"{name}.{key} holds NaN or infinity; the last good checkpoint is kept.",
                    "Lower the learning rate, or train in float32.",
                )


def random_state(device: torch.device) -> dict[str, Tree]:
    """State of torch's global random sources."""
    state = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: Mapping[str, Tree], device: torch.device) -> None:
    """Take back what `random_state` gave; a run may go on on another device."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def pack(tree: Tree, tensors: dict[str, torch.Tensor]) -> Any:
    """Nested state -> JSON skeleton; its tensors and arrays are copied into ``tensors``.

    Raises:
        TypeError: A value that no checkpoint can hold.
    """
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    if isinstance(tree, torch.Tensor):
        # A copy: parts of a network may share memory, which safetensors refuses.
        tensors[f"{len(tensors)}"] = tree.detach().cpu().clone().contiguous()
        return {"tensor": f"{len(tensors) - 1}"}
    if isinstance(tree, np.ndarray):
        tensors[f"{len(tensors)}"] = torch.from_numpy(np.ascontiguousarray(tree).copy())
        return {"array": f"{len(tensors) - 1}"}
    if isinstance(tree, Mapping):
        return {"dict": [[pack(k, tensors), pack(v, tensors)] for k, v in tree.items()]}
    if isinstance(tree, tuple):
        return {"tuple": [pack(one, tensors) for one in tree]}
    if isinstance(tree, list):
        return {"list": [pack(one, tensors) for one in tree]}
    raise TypeError(f"a checkpoint cannot hold a {type(tree).__name__}")


def unpack(skeleton: Any, tensors: Mapping[str, torch.Tensor]) -> Tree:
    """The inverse of `pack`."""
    if not isinstance(skeleton, dict):
        return skeleton
    ((kind, value),) = skeleton.items()
    if kind == "tensor":
        return tensors[value]
    if kind == "array":
        return tensors[value].numpy()
    if kind == "dict":
        return {unpack(k, tensors): unpack(v, tensors) for k, v in value}
    if kind == "tuple":
        return tuple(unpack(one, tensors) for one in value)
    if kind == "list":
        return [unpack(one, tensors) for one in value]
    raise ValueError(f"unknown kind {kind!r}")
