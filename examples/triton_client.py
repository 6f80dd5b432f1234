"""Ask a Triton server for verdicts: ``python examples/triton_client.py localhost:8001 edgead photo.png``.

The server holds what ``edgead export-triton BUNDLE DIR`` wrote. Needs ``pip install 'edgead[cpu,triton]'``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from edgead import Verdict, images


def ask(client: Any, model: str, pixels: np.ndarray[Any, Any]) -> dict[str, Any]:
    """The verdict on one frame: UNKNOWN, never good, when the server gives none.

    Args:
        client: A ``tritonclient.grpc.InferenceServerClient``.
        model: Name of the model.
        pixels: A frame as the bundle was commissioned on, e.g. (H, W, 3) uint8 BGR.
    """
    frame = triton.InferInput("FRAME", list(pixels.shape), triton_type(pixels))
    frame.set_data_from_numpy(pixels)
    try:
        found = client.infer(model, [frame], client_timeout=5.0)
    except triton.InferenceServerException as error:
        return {"verdict": Verdict.UNKNOWN, "why": error.message()}
    return {
        "verdict": Verdict(int(found.as_numpy("VERDICT")[0])),
        "score": float(found.as_numpy("SCORE")[0]),
        "threshold": float(found.as_numpy("THRESHOLD")[0]),
        "map": found.as_numpy("MAP"),
        "regions": json.loads(found.as_numpy("REGIONS").tobytes()),
        "bundle": found.as_numpy("BUNDLE").tobytes().decode(),
    }


def triton_type(pixels: np.ndarray[Any, Any]) -> str:
    """Triton's name of a frame's type."""
    return "UINT16" if pixels.dtype == np.uint16 else "UINT8"


def main() -> None:
    """Judge the images named on the command line."""
    address, model, *paths = sys.argv[1:]
    with triton.InferenceServerClient(address) as client:
        for path in paths:
            answer = ask(client, model, images.read(Path(path)).pixels)
            why = answer.get("why") or f"score {answer['score']:.4g} of {answer['threshold']:.4g}"
            sys.stdout.write(f"{path}: {answer['verdict'].name}, {why}\n")


if __name__ == "__main__":
    main()
