"""The Python step of an exported Triton model: a frame in, a verdict out.

Runs inside Triton's Python back end. Pre-processing, head and post-processing are the run-time's; the engine
is Triton's, asked through business logic scripting, where requests of all steps are batched together. A
frame that must not be judged is answered with an error: a client takes any error for UNKNOWN.
"""

from __future__ import annotations

import importlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array, TensorSpec
from edgead.bundle import read_bundle
from edgead.errors import BackendError, BundleError, EdgeadError
from edgead.frame import Frame
from edgead.golden import check_golden
from edgead.integrations.fleet.triton import BUNDLE_FILE
from edgead.postprocess import Postprocess
from edgead.scorer import Scorer

__all__ = ["Step", "TritonBackend"]

_log = logging.getLogger("edgead")


class Step:
    """What Triton calls: ``initialize``, ``execute`` with a list of requests, ``finalize``."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Read the bundle that lies beside ``model.py``.

        Raises:
            BundleError: The bundle is damaged, or TRITON_BUNDLE: it is not the configuration's.
        """
        self._triton: Any = importlib.import_module("triton_python_backend_utils")
        told = {
            key: value["string_value"]
            for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        folder = Path(args["model_repository"], args["model_version"])
        self._bundle = read_bundle(folder / BUNDLE_FILE)
        manifest = self._bundle.manifest
        if self._bundle.hash != told["bundle_hash"]:
            raise BundleError(
                "TRITON_BUNDLE",
                f"{folder / BUNDLE_FILE} is {self._bundle.hash[:12]}; the configuration is of "
                f"{told['bundle_hash'][:12]}.",
                "Export it again: edgead export-triton.",
            )
        self._precision = told["precision"]
        engine = TritonBackend(
            self._triton, told["engine"], self._precision, int(told["max_batch"]), manifest.input.size,
            "patches" if manifest.head.kind == "kmeans" else "anomaly_map",
        )  # fmt: skip
        self._scorer = Scorer(self._bundle, engine)
        self._postprocess = Postprocess(
            manifest.head, manifest.input, manifest.thresholds, manifest.units
        )
        self._is_proven = False

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """One response a request, in their order."""
        return [self._answer(request) for request in requests]

    def finalize(self) -> None:
        """Nothing is held outside this process."""
        self._scorer.close()

    def _answer(self, request: Any) -> Any:
        triton = self._triton
        try:
            self._prove()
            pixels = _array(triton.get_input_tensor_by_name(request, "FRAME"))
            spec = self._bundle.manifest.frame
            outputs = self._judge(Frame(pixels, spec.format, depth=spec.depth))
        except EdgeadError as error:
            return triton.InferenceResponse(error=triton.TritonError(str(error)))
        tensors = [_tensor(triton, name, value) for name, value in outputs.items()]
        return triton.InferenceResponse(output_tensors=tensors)

    def _prove(self) -> None:
        """The golden images, once: the engine may still be loading when this model is.

        Raises:
            BundleError: GOLDEN; every frame is refused until it holds.
        """
        if self._is_proven:
            return
        try:
            result = check_golden(self._bundle, self._scorer, self._precision)
        except BundleError as error:
            if error.code != "GOLDEN_NONE":
                raise
            _log.warning("%s It runs unchecked.", error)
        else:
            _require(result)
        self._is_proven = True

    def _judge(self, frame: Frame) -> dict[str, NDArray[Any]]:
        """As `edgead.detector.Detector`."""
        scored = self._scorer(frame)
        found = self._postprocess(scored.anomaly_map, scored.score, scored.placement)
        assert found.anomaly_map is not None  # only score_only leaves it out
        regions = json.dumps([region.to_json() for region in found.regions])
        return {
            "VERDICT": np.array([int(found.verdict)], np.uint8),
            "SCORE": np.array([found.score], np.float64),
            "THRESHOLD": np.array([self._bundle.manifest.thresholds.threshold], np.float64),
            "MAP": np.ascontiguousarray(found.anomaly_map, np.float32),
            "REGIONS": np.frombuffer(regions.encode(), np.uint8),
            "BUNDLE": np.frombuffer(self._bundle.hash.encode(), np.uint8),
        }


def _require(result: Mapping[str, Any]) -> None:
    if not result["ok"]:
        raise BundleError(
            "GOLDEN",
            f"a golden image scores {result['worst']:.3g} times its allowance off on this server.",
            "Export it for another back end or precision.",
        )


class TritonBackend:
    """Another model of the same server as an engine; see `edgead.backends.base.Backend`."""

    name, device, version = "triton", "server", ""

    def __init__(
        self,
        triton: Any,
        model: str,
        precision: str,
        max_batch: int,
        size: tuple[int, int],
        output: str,
    ) -> None:
        self._triton, self._model, self._output = triton, model, output
        self.precision = precision
        first = -1 if max_batch else 1
        image = TensorSpec("image", (first, *size, 3), "uint8")
        self.inputs: Mapping[str, TensorSpec] = {"image": image}
        self.outputs: Mapping[str, TensorSpec] = {
            output: TensorSpec(output, (first, -1, -1), "float32")
        }

    def open_request(self) -> TritonRequest:
        """A request; Triton holds its buffers."""
        return TritonRequest(self._triton, self._model, self._output)

    def close(self) -> None:
        """The server's model stays."""


class TritonRequest:
    """One inference of the server's other model."""

    device = "cpu"

    def __init__(self, triton: Any, model: str, output: str) -> None:
        self._triton, self._model, self._output = triton, model, output
        self._feeds: Mapping[str, Array] = {}

    def start(self, feeds: Mapping[str, Array]) -> None:
        """Keep the input; the server is asked when the answer is wanted."""
        self._feeds = feeds

    def wait(self, timeout_s: float | None = None) -> dict[str, NDArray[np.generic]]:
        """The outputs.

        Args:
            timeout_s: Not used: the server has time-outs of its own.

        Raises:
            BackendError: BACKEND_ERROR with the server's words.
        """
        del timeout_s
        return self.infer(self._feeds)

    def infer(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.generic]]:
        """Ask and wait."""
        triton = self._triton
        request = triton.InferenceRequest(
            model_name=self._model,
            requested_output_names=[self._output],
            inputs=[_tensor(triton, name, one) for name, one in feeds.items()],
            preferred_memory=triton.PreferredMemory(triton.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise BackendError(
                "BACKEND_ERROR", f"the server's {self._model} failed: {response.error().message()}"
            )
        tensor = triton.get_output_tensor_by_name(response, self._output)
        return {self._output: _array(tensor)}


# Tensors cross by DLPack, which does not depend on NumPy's own layout: Python back ends that were built for
# NumPy 1 see an array of NumPy 2 as empty, and show one whose values are all the first
# (triton-inference-server/server, issue 8373). Texts cross as UTF-8 bytes for the same reason.


def _tensor(triton: Any, name: str, value: Array) -> Any:
    """A tensor of Triton's from an array."""
    writable = np.require(value, requirements=["C", "W"])  # DLPack knows no other
    return triton.Tensor.from_dlpack(name, writable)


def _array(tensor: Any) -> NDArray[Any]:
    """An array of one's own from a tensor of Triton's."""
    return np.array(np.from_dlpack(tensor))
