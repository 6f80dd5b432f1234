"""All five methods, small, in FP32, FP16 and INT8: TensorRT-RTX builds an engine from each exported graph.

The weights are random and the engines have not run: what is shown is that every operator that a method exports, in
each precision, parses under strong typing and compiles.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import onnx
import pytest
from unit_pictures import Pictures

from edgead.backends.trt import build_engine
from edgead.calibration.recipes import kept_nodes, recipe_for
from edgead.deploy.activations import float_tensors, watch
from edgead.deploy.export import onnx_from_spec
from edgead.deploy.half import half_model
from edgead.deploy.qdq import int8_model, quantisable
from edgead.models.registry import METHODS
from edgead.train.loop import Budget, Loop

pytestmark = pytest.mark.rtx

SMALL: dict[str, dict[str, Any]] = {
    "dfda-ad": {},
    "nf-bmr": {"layer": None, "stride": 16, "flow_hidden": 16, "flow_kernels": (3,), "width": 32, "inner": 16,
               "flow_epochs": 1, "map_epochs": 1},
    "mlff": {"stem": 8, "texture": 8, "statistics": 8, "levels": 8, "pair_levels": 4},
    "trisimplenet": {"hidden": 32},
    "slsg": {"widths": (16, 8, 8), "discriminator_width": 4, "inpaint_epochs": 1, "neighbours": 5},
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_every_precision_of_a_method_becomes_an_engine(name, tmp_path):
    model = exported(name)
    typed = onnx.load_from_string(model)
    recipe = recipe_for(name)
    names = [node.name for node in typed.graph.node]
    quantised = [n for n in quantisable(typed) if n not in kept_nodes(names, recipe.int8)]
    assert quantised, "nothing to quantise: the INT8 build would show nothing"
    measured = ranges(typed)
    models = {
        "fp32": model,
        "fp16": half_model(typed, kept_nodes(names, recipe.fp16)).SerializeToString(),
        "int8": int8_model(typed, measured, quantised, "s8"),
    }
    layers = set(quantisable(typed, layout="conv-only"))
    if not layers.issuperset(quantised):  # what TensorRT falls back to: sums in floating point
        coarser = [name for name in quantised if name in layers]
        models["int8 conv-only"] = int8_model(typed, measured, coarser, "qdq")
    for kind, data in models.items():
        precision = kind.partition(" ")[0]
        told = build_engine(
            data, name="tensorrt-rtx", target="sm86", precision=precision, cache_dir=tmp_path / "cache"
        )  # fmt: skip
        assert (told["precision"], told["typing"], told["notes"]) == (precision, "strong", [])
        assert told["bytes"] > 10_000


def exported(name: str) -> bytes:
    """The method on 64 x 64 pixels, trained for an epoch."""
    module_name, class_name, config_name = METHODS[name]
    module = importlib.import_module(f"edgead.models.{module_name}")
    config = getattr(module, config_name)(image_size=(64, 64), **SMALL[name])
    method = getattr(module, class_name)(config, backbone="resnet18", weights="random")
    method.fit(Pictures(8), Loop(Budget(epochs=1), seed=0, device="cpu"))
    return onnx_from_spec(method.export_spec(), method.image_size)


def ranges(model: onnx.ModelProto) -> dict[str, tuple[float, float]]:
    """Smallest and largest value of each tensor over two frames."""
    frames = [np.random.default_rng(i).integers(0, 256, (1, 64, 64, 3), np.uint8) for i in range(2)]
    found: dict[str, tuple[float, float]] = {}
    for values in watch(model, frames, float_tensors(model)):
        for tensor, array in values.items():
            low, high = found.get(tensor, (0.0, 0.0))
            found[tensor] = (min(low, float(array.min())), max(high, float(array.max())))
    return found
