"""CuPy, torch and pycuda beside edgead's kernels on one stream: no copies, no hidden waits, the same numbers.

CuPy array -> kernels -> CuPy array; a torch tensor between them by DLPack; memory of pycuda on the device's
primary context; and the whole of a frame's way without an engine, timed beside the CPU's.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FRAME, INPUT, CELLS = (1080, 1920, 3), (512, 512), (64, 64)
SIGMA, THRESHOLD = 4.0, 0.5
RUNS = 30


def run(tell: Callable[[dict[str, Any]], None]) -> None:
    """Every check, each on its own; ``passed`` when none that could run failed and CuPy could."""
    told: dict[str, Any] = {}
    for name, (needs, check) in CHECKS.items():
        missing = [one for one in needs if importlib.util.find_spec(one) is None]
        if missing:
            told[name] = {"ran": False, "why": f"not run: no {missing[0]}"}
        else:
            try:
                told[name] = {"ran": True, "passed": True, **check()}
            except Exception as error:  # one that fails must not hide the others
                told[name] = {
                    "ran": True,
                    "passed": False,
                    "why": f"{type(error).__name__}: {error}",
                }
        tell({"checks": told})
    held = all(one["passed"] for one in told.values() if one["ran"])
    tell({"passed": held and told["cupy on one stream"]["ran"]})


def given() -> tuple[Any, Any]:
    """A camera frame and a native map."""
    draw = np.random.default_rng(0)
    return draw.integers(0, 256, FRAME, np.uint8), draw.random((1, *CELLS), np.float32)


def expected() -> tuple[Any, Any]:
    """The CPU's resized picture and heat map."""
    from edgead import kernels

    frame, native = given()
    return kernels.resize(frame, INPUT), kernels.heatmap(
        native, INPUT, sigma=SIGMA, threshold=THRESHOLD
    )


def hold(small: Any, heat: Any) -> dict[str, Any]:
    """The resize to the bit, the heat map to float32's rounding."""
    wanted, other = expected()
    np.testing.assert_array_equal(small, wanted)
    np.testing.assert_allclose(heat, other.map, rtol=1e-4, atol=1e-5)
    return {"max_error": float(np.abs(heat - other.map).max())}


def cupy_on_one_stream() -> dict[str, Any]:
    """Upload, resize, heat map and download on one stream that does not wait for the default one."""
    import cupy

    from edgead import kernels

    frame, native = given()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        small = kernels.resize(cupy.asarray(frame), INPUT)
        heat = kernels.heatmap(cupy.asarray(native), INPUT, sigma=SIGMA, threshold=THRESHOLD)
        twice = heat.map * 2  # CuPy's own kernel behind ours, before anybody waited
        stream.synchronize()
    assert isinstance(small, cupy.ndarray)
    assert isinstance(heat.map, cupy.ndarray)
    np.testing.assert_array_equal(twice.get(), heat.map.get() * 2)
    return hold(small.get(), heat.map.get())


def torch_beside() -> dict[str, Any]:
    """Torch's tensors in and out, and torch as it was before."""
    import torch

    from edgead import kernels

    before = torch.arange(1000, device="cuda", dtype=torch.float32)
    frame, native = given()
    with torch.cuda.stream(torch.cuda.Stream()):
        small = kernels.resize(torch.from_numpy(frame).cuda(), INPUT)
        heat = kernels.heatmap(
            torch.from_numpy(native).cuda(), INPUT, sigma=SIGMA, threshold=THRESHOLD
        )
        torch.cuda.current_stream().synchronize()
    assert isinstance(small, torch.Tensor)
    figures = hold(small.cpu().numpy(), heat.map.cpu().numpy())
    assert float((before * 2).sum()) == 999_000.0, "torch's context still works"
    return figures


def cupy_and_torch_share() -> dict[str, Any]:
    """A torch tensor through DLPack into CuPy, our kernel, and back: one memory."""
    import cupy
    import torch

    from edgead import kernels

    frame, native = given()
    tensor = torch.from_numpy(native).cuda()
    torch.cuda.synchronize()
    shared = cupy.from_dlpack(tensor)
    assert shared.data.ptr == tensor.data_ptr(), "a copy was made"
    heat = kernels.heatmap(shared, INPUT, sigma=SIGMA, threshold=THRESHOLD)
    cupy.cuda.get_current_stream().synchronize()
    back = torch.from_dlpack(heat.map)
    assert back.data_ptr() == heat.map.data.ptr, "a copy was made"
    small = kernels.resize(cupy.asarray(frame), INPUT)
    return hold(small.get(), back.cpu().numpy())


def pycuda_memory() -> dict[str, Any]:
    """Buffers and a stream of pycuda on the primary context, as the TensorRT back end has them."""
    from edgead.backends.trt.cuda import NON_BLOCKING, DeviceArray, primary_context
    from edgead.kernels import cuda as kernels_on_gpu

    frame, native = given()
    with primary_context(0).active() as driver:
        stream = driver.Stream(NON_BLOCKING)
        sizes = {"frame": frame.shape, "small": (*INPUT, 3), "native": native.shape,
                 "map": (1, *INPUT), "peak": (1,), "mask": (1, *INPUT)}  # fmt: skip
        types = {"frame": "uint8", "small": "uint8", "mask": "uint8"}
        arrays, held = {}, []
        for name, shape in sizes.items():
            dtype = np.dtype(types.get(name, "float32"))
            held.append(driver.mem_alloc(int(np.prod(shape)) * dtype.itemsize))
            arrays[name] = DeviceArray(int(held[-1]), shape, dtype)
        driver.memcpy_htod(arrays["frame"].pointer, frame)
        driver.memcpy_htod(arrays["native"].pointer, native)
        kernels_on_gpu.resize(
            arrays["frame"], INPUT, None, (0, 1, 2), out=arrays["small"], stream=stream
        )
        kernels_on_gpu.heatmap(
            arrays["native"], INPUT, SIGMA, THRESHOLD,
            out=(arrays["map"], arrays["peak"], arrays["mask"]), stream=stream,
        )  # fmt: skip
        stream.synchronize()
        small, heat = np.empty((*INPUT, 3), np.uint8), np.empty((1, *INPUT), np.float32)
        driver.memcpy_dtoh(small, arrays["small"].pointer)
        driver.memcpy_dtoh(heat, arrays["map"].pointer)
        for allocation in held:
            allocation.free()
    return hold(small, heat)


def frame_without_engine() -> dict[str, Any]:
    """Milliseconds of upload, resize, heat map, map and mask back, beside the CPU's kernels, in turns."""
    import cupy

    from edgead import kernels

    frame, native = given()
    there = cupy.asarray(native)
    pinned = cupy.cuda.alloc_pinned_memory(frame.nbytes)
    staged = np.frombuffer(pinned, np.uint8, frame.size).reshape(frame.shape)
    stream = cupy.cuda.Stream(non_blocking=True)

    def on_gpu() -> None:
        with stream:
            staged[...] = frame
            on_device = cupy.empty(FRAME, cupy.uint8)
            on_device.set(staged)
            kernels.resize(on_device, INPUT)
            heat = kernels.heatmap(there, INPUT, sigma=SIGMA, threshold=THRESHOLD)
            heat.map.get(stream=stream), heat.mask.get(stream=stream)
            stream.synchronize()

    def on_cpu() -> None:
        kernels.resize(frame, INPUT)
        kernels.heatmap(native, INPUT, sigma=SIGMA, threshold=THRESHOLD)

    spent: dict[str, list[float]] = {"gpu_ms": [], "cpu_ms": []}
    for turn in range(RUNS + 3):
        for name, call in (("gpu_ms", on_gpu), ("cpu_ms", on_cpu)):
            started = time.perf_counter()
            call()
            if turn >= 3:
                spent[name].append((time.perf_counter() - started) * 1e3)
    medians = {name: round(float(np.median(values)), 4) for name, values in spent.items()}
    return {"frame": list(FRAME), "input": list(INPUT), **medians}


CHECKS: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, Any]]]] = {
    "cupy on one stream": (("cupy",), cupy_on_one_stream),
    "torch beside": (("torch",), torch_beside),
    "cupy and torch share": (("cupy", "torch"), cupy_and_torch_share),
    "pycuda memory": (("pycuda",), pycuda_memory),
    "frame without an engine": (("cupy",), frame_without_engine),
}
