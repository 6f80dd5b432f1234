"""Whatever array is handed over: the score of its plain copy, bit for bit, or a typed refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_manifest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgead import Detector
from edgead.bundle import Bundle
from edgead.errors import BackendError, FrameError
from edgead.manifest import FrameSpec
from edgead.types import PixelFormat

_DTYPES = ["u1", "u1", "u1", "u2", ">u2", "i4", "f4", "f8", "?", "c8", "U3", "O", "M8[s]"]
_SHAPES = st.one_of(
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3)),
    st.tuples(st.integers(1, 20), st.integers(1, 20), st.sampled_from([1, 2, 4])),
    st.lists(st.integers(0, 12), max_size=5).map(tuple),
)


@pytest.fixture(scope="module")
def detector() -> Iterator[Detector]:
    manifest = tiny_manifest(frame=FrameSpec(format=PixelFormat.BGR8, size=None))
    bundle = Bundle.build(manifest, {"model.onnx": TINY_MODEL})
    with Detector(bundle, backend="openvino", threads=1) as made:
        yield made


@st.composite
def _any_array(draw: st.DrawFn) -> Any:
    """Any dtype, shape, order, stride and writability."""
    dtype = np.dtype(draw(st.sampled_from(_DTYPES)))
    shape = draw(_SHAPES)
    if dtype.kind == "O":
        made = np.full(shape, None, dtype=object)
    else:
        made = draw(arrays.arrays(dtype, shape))
    view = draw(st.sampled_from(["plain", "F", "reversed", "strided", "turned", "read-only"]))
    if view == "F":
        made = np.asfortranarray(made)
    elif view == "reversed" and made.ndim:
        made = made[::-1]
    elif view == "strided" and made.ndim >= 2:
        made = np.repeat(made, 2, axis=1)[:, ::2]
    elif view == "turned" and made.ndim >= 2:
        made = np.swapaxes(np.swapaxes(made, 0, 1).copy(), 0, 1)
    elif view == "read-only":
        made = made.copy()
        made.flags.writeable = False
    return made


def _judged(detector: Detector, frame: Any) -> Any:
    try:
        found = detector(frame)
    except (FrameError, BackendError) as error:
        return error.code
    return found.score, found.anomaly_map.tobytes()  # type: ignore[union-attr]


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(frame=_any_array())
def test_any_array(detector: Detector, frame: Any) -> None:
    before = frame.copy()
    found = _judged(detector, frame)
    plain = np.array(frame, order="C", copy=True)
    assert found == _judged(detector, plain)
    if frame.dtype == np.uint8 and frame.ndim == 3 and frame.shape[2] == 3 and frame.size:
        if found not in ("FRAME_CONSTANT", "BACKEND_DEGENERATE"):
            assert isinstance(found, tuple)
    else:
        assert isinstance(found, str)
    if frame.dtype.kind not in "fcOM":
        np.testing.assert_array_equal(frame, before)  # what was handed over is never written


@pytest.mark.parametrize(
    "value", [None, "a.png", b"bytes", 5, [[1, 2]], object(), {"image": 1}, memoryview(b"xyz")]
)
def test_anything_else(detector: Detector, value: Any) -> None:
    with pytest.raises(FrameError):
        detector(value)
