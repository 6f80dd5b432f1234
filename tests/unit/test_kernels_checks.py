"""What the kernels refuse, with the whole message; nothing is written on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgead import kernels
from edgead.errors import BackendError, ConfigError
from edgead.kernels import _native
from edgead.kernels.cuda import DeviceArray, _view

X = np.zeros((5, 4), np.float32)
NODES = np.zeros((2, 6, 3), np.float32)
MAPS = np.zeros((2, 6, 3), np.float32)
FRAME = np.zeros((8, 9, 3), np.uint8)


def refused(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: kernels.kmeans_assign(X[0], X), ValueError, "patches has shape (4,); expected [N, D]."),
        (lambda: kernels.kmeans_assign([[1.0]], X), TypeError, "patches is a list; expected a NumPy array [N, D]."),
        (lambda: kernels.kmeans_assign(X.astype(float), X), TypeError,
         "patches is float64; expected float32. Convert it with patches.astype(numpy.float32)."),
        (lambda: kernels.kmeans_assign(X, X.astype(np.float16)), TypeError,
         "centroids is float16; expected float32. float16 is for CUDA arrays. "
         "Convert it with centroids.astype(numpy.float32)."),
        (lambda: kernels.kmeans_assign(X, X[:, :3]), ValueError,
         "patches (5, 4) and centroids (5, 3) disagree in D; expected [N, D] and [K, D]."),
        (lambda: kernels.kmeans_assign(X, X[:0]), ValueError,
         "centroids has shape (0, 4); expected [K, D] with K >= 1."),
        (lambda: kernels.kmeans_assign(X, X, threads=-1), ValueError,
         "threads is -1; expected an integer from 0 to 4096."),
        (lambda: kernels.kmeans_assign(X, X, threads=1.5), TypeError,
         "threads is 1.5; expected an integer from 0 to 4096."),
        (lambda: kernels.kmeans_assign(X, X, stream=0), ValueError,
         "stream was given with NumPy arrays; expected None, or CUDA arrays."),
        (lambda: kernels.kmeans_assign(X, X, out=(X, X)), ValueError,
         "out was given with NumPy arrays; expected None: results are new NumPy arrays."),
        (lambda: kernels.topk_neighbours(NODES, NODES[:1], None, 1), ValueError,
         "f (2, 6, 3) and g (1, 6, 3) differ; expected both [B, N, C]."),
        (lambda: kernels.topk_neighbours(NODES, NODES, X, 1), ValueError,
         "position has shape (5, 4); expected [N, N] = (6, 6) for f (2, 6, 3)."),
        (lambda: kernels.topk_neighbours(NODES, NODES, None, 7), ValueError,
         "k is 7; expected an integer from 1 to 6."),
        (lambda: kernels.topk_neighbours(NODES, NODES, None, 0), ValueError,
         "k is 0; expected an integer from 1 to 6."),
        (lambda: kernels.topk_neighbours(NODES, NODES, None, True), TypeError,
         "k is True; expected an integer from 1 to 6."),
        (lambda: kernels.topk_neighbours(NODES[:, :0], NODES[:, :0], None, 1), ValueError,
         "f has shape (2, 0, 3); expected [B, N, C] with N >= 1."),
        (lambda: kernels.heatmap(MAPS[:, :0], (4, 4), sigma=1), ValueError,
         "anomaly_map has shape (2, 0, 3); expected [B, h, w] with sides from 1 to 65536."),
        (lambda: kernels.heatmap(MAPS, 4, sigma=1), ValueError, "size is 4; expected (height, width)."),
        (lambda: kernels.heatmap(MAPS, (0, 4), sigma=1), ValueError,
         "size[0] is 0; expected an integer from 1 to 65536."),
        (lambda: kernels.heatmap(MAPS, (4, 4), sigma=-1), ValueError,
         "sigma is -1; expected a number from 0 to 1024."),
        (lambda: kernels.heatmap(MAPS, (4, 4), sigma=float("nan")), ValueError,
         "sigma is NaN; expected a number."),
        (lambda: kernels.heatmap(MAPS, (4, 4), sigma=1, threshold="1"), TypeError,
         "threshold is '1'; expected a number."),
        (lambda: kernels.heatmap(MAPS, (4, 4), sigma=1, threshold=float("nan")), ValueError,
         "threshold is NaN; expected a number."),
        (lambda: kernels.resize(FRAME.astype(float), (4, 4)), TypeError, "frame is float64; expected uint8."),
        (lambda: kernels.resize(FRAME[0], (4, 4)), ValueError, "frame has shape (9, 3); expected [H, W, C]."),
        (lambda: kernels.resize(FRAME[:, :, :2], (4, 4)), ValueError,
         "frame has shape (8, 9, 2); expected [H, W, C] with sides from 1 to 65536 and 1, 3 or 4 channels."),
        (lambda: kernels.resize(FRAME, (4, 4), crop=(0, 0, 10, 8)), ValueError,
         "crop[2] is 10; expected an integer from 1 to 9."),
        (lambda: kernels.resize(FRAME, (4, 4), crop=(5, 0, 5, 8)), ValueError,
         "crop is (5, 0, 5, 8); expected x0 < x1 and y0 < y1."),
        (lambda: kernels.resize(FRAME, (4, 4), crop=(1, 2)), ValueError,
         "crop is (1, 2); expected (x0, y0, x1, y1)."),
        (lambda: kernels.resize(FRAME, (4, 4), channels=(3,)), ValueError,
         "channels[0] is 3; expected an integer from 0 to 2."),
        (lambda: kernels.resize(FRAME, (4, 4), channels=()), ValueError,
         "channels is (); expected 1 to 4 indices of source channels."),
    ],
)  # fmt: skip
def test_bad_input(call: Callable[[], object], kind: type[Exception], message: str) -> None:
    refused(call, kind, message)


@pytest.mark.parametrize(
    ("out", "kind", "message"),
    [
        (np.full((4, 5, 3), 9, np.uint8), ValueError, "out has shape (4, 5, 3); expected {}."),
        (np.full((4, 4, 3), 9, np.int8), TypeError, "out is int8; expected {}."),
        (np.full((4, 4, 6), 9, np.uint8)[:, :, ::2], ValueError,
         "out is read-only or not C-contiguous; expected {}."),
        ([], TypeError, "out is a list; expected {}."),
    ],
)  # fmt: skip
def test_bad_out_is_not_written(out: Any, kind: type[Exception], message: str) -> None:
    wanted = "a writable C-contiguous uint8 array of shape (4, 4, 3)"
    refused(lambda: kernels.resize(FRAME, (4, 4), out=out), kind, message.format(wanted))
    assert isinstance(out, list) or (out == 9).all()


def test_out_must_not_overlap_the_input() -> None:
    refused(
        lambda: kernels.resize(FRAME, (8, 9), out=FRAME),
        ValueError,
        "out shares memory with an input; expected an array of its own.",
    )


def test_out_is_what_is_returned() -> None:
    frame_out, map_out = np.empty((4, 4, 3), np.uint8), np.empty((2, 9, 9), np.float32)
    assert kernels.resize(FRAME, (4, 4), out=frame_out) is frame_out
    assert kernels.heatmap(MAPS, (9, 9), sigma=1, out=map_out).map is map_out


class FakeCuda:
    """Says that it is a CUDA array; nothing is ever read from it."""

    def __init__(self, array: np.ndarray, **more: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {**array.__array_interface__, "version": 3, **more}


def test_cuda_arrays_are_told_apart_and_checked_before_anything_runs() -> None:
    x = FakeCuda(X)
    wanted = "expected a CUDA array [K, D] of float32 or float16"
    refused(
        lambda: kernels.kmeans_assign(x, X),
        TypeError,
        f"centroids is a ndarray in host memory beside CUDA arrays; {wanted}. Move all arguments to one device.",
    )
    refused(
        lambda: kernels.kmeans_assign(X, x),
        TypeError,
        "centroids is a FakeCuda; expected a NumPy array [K, D].",
    )
    refused(
        lambda: kernels.kmeans_assign(x, FakeCuda(X.astype(float))),
        TypeError,
        f"centroids is float64; {wanted}.",
    )
    refused(
        lambda: kernels.kmeans_assign(x, FakeCuda(X[0])),
        ValueError,
        f"centroids has shape (4,); {wanted}.",
    )
    refused(
        lambda: kernels.kmeans_assign(x, FakeCuda(X.astype(np.float16))),
        TypeError,
        "patches is float32 and centroids is float16; expected one type for both.",
    )
    refused(
        lambda: kernels.kmeans_assign(x, FakeCuda(X[:, ::2])),
        ValueError,
        "centroids of shape (5, 2) has strides (16, 8); expected a C-contiguous CUDA array. "
        "Make it contiguous first: the kernels never copy on a device.",
    )
    refused(
        lambda: kernels.topk_neighbours(FakeCuda(NODES), FakeCuda(NODES), None, 7),
        ValueError,
        "k is 7; expected an integer from 1 to 6.",
    )


def test_cuda_arrays_without_cuda_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAD_KERNELS", "reference")
    refused(
        lambda: kernels.kmeans_assign(FakeCuda(X), FakeCuda(X)),
        BackendError,
        "[KERNELS_NO_CUDA] CUDA arrays were given, but edgead._C was built without CUDA or "
        "EDGEAD_KERNELS=reference forces NumPy. Install edgead where nvcc is on the PATH, or give NumPy arrays.",
    )


def test_contiguity_ignores_the_stride_of_a_single_element() -> None:
    view = _view("x", FakeCuda(X[:1, :], strides=(999, 4)), "ND", (np.dtype(np.float32),))
    assert view.contiguous
    assert not DeviceArray(None, 0, (2, 4), np.dtype(np.float32), (999, 4), False).contiguous


def test_the_choice_of_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEAD_KERNELS", "reference")
    assert kernels.implementation() == "reference"
    monkeypatch.setenv("EDGEAD_KERNELS", "fast")
    refused(
        kernels.implementation,
        ConfigError,
        "[KERNELS_CHOICE] EDGEAD_KERNELS is 'fast'; expected one of native, reference, or nothing. "
        "Unset it to take the native kernels where they are built.",
    )
    monkeypatch.setattr(_native, "_module", lambda: ImportError("no such file"))
    monkeypatch.delenv("EDGEAD_KERNELS")
    assert kernels.implementation() == "reference"
    monkeypatch.setenv("EDGEAD_KERNELS", "native")
    refused(
        kernels.implementation,
        ConfigError,
        "[KERNELS_NATIVE] EDGEAD_KERNELS is 'native', but edgead._C cannot be loaded. "
        "Install edgead where a C++17 compiler is present, or unset EDGEAD_KERNELS.",
    )


needs_native = pytest.mark.skipif(_native.native() is None, reason="edgead._C is not built")


@needs_native
def test_an_unknown_instruction_set_is_refused() -> None:
    module = _native.native()
    assert module is not None
    before = module.instruction_set()
    with pytest.raises(
        ValueError, match=r"^instruction set 'sse9' is not one of this machine's: .*baseline$"
    ):
        module.use_instruction_set("sse9")
    assert module.instruction_set() == before


@needs_native
def test_many_threads_at_once_agree(rng: np.random.Generator) -> None:
    """The pool serves one caller at a time; the others run on their own thread."""
    x = rng.standard_normal((400, 300), dtype=np.float32)
    wanted = kernels.kmeans_assign(x, x[:99] + 1)
    wrong: list[int] = []

    def call() -> None:
        for _ in range(20):
            given = kernels.kmeans_assign(x, x[:99] + 1, threads=2)
            wrong.append(int((given[0] != wanted[0]).sum() + (given[1] != wanted[1]).sum()))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [0] * 80


@needs_native
def test_a_forked_child_gets_threads_of_its_own() -> None:
    program = """
import os, numpy as np
from edgead import kernels
x = np.random.default_rng(0).standard_normal((900, 300), dtype=np.float32)
wanted = kernels.kmeans_assign(x, x[:99] + 1, threads=2)
child = os.fork()
if child == 0:
    given = kernels.kmeans_assign(x, x[:99] + 1, threads=2)
    os._exit(0 if all((a == b).all() for a, b in zip(given, wanted)) else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", program], env=os.environ, timeout=60, check=False)
    assert done.returncode == 0


@needs_native
def test_memory_does_not_grow(rng: np.random.Generator) -> None:
    """100,000 calls: small ones, since a leak is a leak per call."""
    resource = pytest.importorskip("resource")
    x = rng.standard_normal((3, 8), dtype=np.float32)
    maps, nodes = x.reshape(1, 4, 6), x.reshape(1, 6, 4)
    frame = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)

    def calls(times: int) -> int:
        for _ in range(times):
            kernels.kmeans_assign(x, x)
            kernels.topk_neighbours(nodes, nodes, None, 2)
            kernels.heatmap(maps, (8, 8), sigma=1, threshold=0)
            kernels.resize(frame, (3, 3))
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    before = calls(1000)
    assert (
        calls(24_000) - before < 2048
    )  # kB; the four arrays of one leaked call in a hundred would show


@needs_native
def test_scratch_memory_does_not_grow_with_n_times_k(rng: np.random.Generator) -> None:
    module = _native.native()
    assert module is not None
    sizes = []
    for n in (20_000, 40_000):
        x, c = (rng.standard_normal((rows, 8), dtype=np.float32) for rows in (n, 2000))
        held: list[int] = []
        thread = threading.Thread(
            target=lambda x=x, c=c, held=held: (
                kernels.kmeans_assign(x, c, threads=1),
                held.append(module.scratch_bytes()),
            )
        )
        thread.start()
        thread.join()
        sizes += held
    assert sizes[0] == sizes[1] < 4 * 20_000 * 2000 / 100
