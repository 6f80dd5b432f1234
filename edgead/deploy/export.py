"""A trained method -> one ONNX file, and the proof that both score alike.

The file takes (n, h, w, 3) uint8 BGR; colour order, scaling and normalisation are inside. Node names
are the module's own paths, so that precision recipes can name parts of a network.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from ast import literal_eval
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxsim
import torch

from edgead.deploy.spec import ExportSpec
from edgead.errors import BundleError
from edgead.evaluate.commission import ENGINE_TOLERANCE
from edgead.heads import Head
from edgead.manifest import Thresholds
from edgead.preprocess import is_one_colour
from edgead.scorer import Scored

__all__ = ["OPSET", "Parity", "check_parity", "onnx_from_spec"]

#: The oldest opset that holds everything the methods need and that TensorRT 8.6 parses.
OPSET = 18


def onnx_from_spec(spec: ExportSpec, image_size: tuple[int, int]) -> bytes:
    """Export, simplify, name and check.

    Args:
        spec: The trained method.
        image_size: (h, w) of the input.

    Returns:
        The bytes of one ONNX file without external data; the batch is symbolic.

    Raises:
        BundleError: EXPORT_FAILED when the graph cannot be exported or is not valid.
    """
    example = torch.zeros(2, *image_size, 3, dtype=torch.uint8)
    try:
        with _quiet():
            program = torch.onnx.export(
                spec.module,
                (example,),
                input_names=["image"],
                output_names=list(spec.outputs),
                dynamic_shapes={"image": {0: torch.export.Dim("n", min=1, max=1024)}},
                opset_version=OPSET,
                dynamo=True,
            )
        model = program.model_proto
        _name_by_module(model)
        simplified, fits = onnxsim.simplify(model)
        if not fits:
            raise BundleError("EXPORT_FAILED", "the simplified graph computes something else.")
        _tidy(simplified)
        onnx.checker.check_model(simplified, full_check=True)
    except BundleError:
        raise
    except Exception as error:  # torch and onnx raise dozens of unrelated types here
        raise BundleError(
            "EXPORT_FAILED",
            f"the network cannot be written as ONNX opset {OPSET}: {_first_line(error)}",
            "Choose another backbone.",
        ) from error
    data: bytes = simplified.SerializeToString()
    return data


@dataclass(frozen=True)
class Parity:
    """How far torch and the exported file differ.

    Attributes:
        worst: Largest score difference over score_scale.
        frame: That frame's name.
        frames: How many were compared.
    """

    worst: float
    frame: str
    frames: int


def check_parity(
    spec: ExportSpec,
    head: Head,
    scored: Sequence[Scored],
    thresholds: Thresholds,
    names: Sequence[str] | None = None,
) -> Parity:
    """Score the same engine inputs in torch and compare with what the exported file gave.

    Args:
        spec: The trained method.
        head: The run-time's head, used on both sides.
        scored: Real frames, scored through the exported file.
        thresholds: Where verdicts flip, and score_scale.
        names: What the frames are called; their numbers without it.

    Raises:
        BundleError: EXPORT_PARITY, naming the worst frame, when a score differs by more than 1e-3
            of score_scale or a verdict flips.
    """
    limit = thresholds.threshold
    scores = np.array([_torch_score(spec, head, one) for one in scored])
    exported = np.array([one.score for one in scored])
    shares = np.abs(scores - exported) / thresholds.score_scale
    flipped = (scores > limit) != (exported > limit)
    worst = int(np.lexsort((shares, flipped))[-1])  # a flip is worse than any difference
    name = str(worst) if names is None else names[worst]
    if flipped[worst] or not shares[worst] <= ENGINE_TOLERANCE:
        raise BundleError(
            "EXPORT_PARITY",
            f"frame {name} scores {scores[worst]:.6g} in torch and {exported[worst]:.6g} "
            f"exported: {shares[worst]:.2g} of score_scale"
            f"{', and its verdict flips' if flipped[worst] else ''}; "
            f"at most {ENGINE_TOLERANCE:g} is allowed.",
            "The bundle was not written.",
        )
    return Parity(float(shares[worst]), name, len(scored))


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _torch_score(spec: ExportSpec, head: Head, one: Scored) -> float:
    maps = []
    for picture in one.inputs:
        with torch.no_grad():
            outputs = spec.module(torch.from_numpy(np.ascontiguousarray(picture[None])))
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        named = {n: v.numpy() for n, v in zip(spec.outputs, values, strict=True)}
        maps.append(head.native(named, flat=[is_one_colour(picture)])[0])
    _, scores = head.judge(one.whole(maps)[None], one.placement.ignored)
    return float(scores[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its stages and warns of its own deprecations; errors still surface."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)


def _name_by_module(model: onnx.ModelProto) -> None:
    """Name nodes by the module that made them, e.g. ``scorer.0/Conv``; numbers keep them unique."""
    seen: dict[str, int] = {}
    for node in model.graph.node:
        scopes = [p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"]
        path = [part for part in literal_eval(scopes[0])[:-1] if part] if scopes else []
        name = f"{path[-1]}/{node.op_type}" if path else node.op_type
        seen[name] = seen.get(name, 0) + 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _tidy(model: onnx.ModelProto) -> None:
    """Drop stack traces and paths of this machine; what is left depends on the network alone."""
    del model.metadata_props[:]
    model.doc_string, model.producer_version, model.producer_name = "", "", "edgead"
    model.graph.doc_string, model.graph.name = "", "edgead"
    parts: list[Any] = [*model.graph.node, *model.graph.value_info, *model.graph.initializer]
    for part in (*parts, *model.graph.input, *model.graph.output):
        part.doc_string = ""
        del part.metadata_props[:]
