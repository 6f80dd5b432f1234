"""Whether a whole frame, resize to heat map, can stay on the GPU; and if not, why not.

What the GPU's way does not do is done by the CPU's, which gives the same: nothing is approximated.
"""

from __future__ import annotations

from edgead.frame import PixelFormat
from edgead.kernels import has_cuda
from edgead.manifest import View

__all__ = ["CHANNELS", "why_on_cpu"]

#: Formats that one resize turns into the engine's BGR -> source channel of each of its channels.
CHANNELS = {
    PixelFormat.BGR8: (0, 1, 2),
    PixelFormat.RGB8: (2, 1, 0),
    PixelFormat.MONO8: (0, 0, 0),
    PixelFormat.BGRX8: (0, 1, 2),
}


def why_on_cpu(backend: str, view: View, fmt: PixelFormat) -> str:
    """Why frames are prepared, and heat maps made, on the CPU; empty when the GPU does it all."""
    if not backend.startswith("tensorrt"):
        return f"{backend} computes there"
    if not has_cuda():
        return "the kernels were built without CUDA"
    if view.tiles is not None:
        return "the view has tiles"
    if fmt not in CHANNELS:
        return f"frames are {fmt.value}"
    return ""
