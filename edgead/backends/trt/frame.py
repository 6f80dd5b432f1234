"""A whole frame on the GPU: resize, engine, nearest centroid, heat map, on one stream.

What comes back is the native map, a few kilobytes, from which the head takes the score; the heat map
and its mask stay on the GPU until somebody asks, which for a good part nobody does.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array
from edgead.backends.trt.cuda import DeviceArray, HostBuffer
from edgead.backends.trt.run import TrtBackend
from edgead.errors import BackendError, FrameError
from edgead.kernels import cuda as gpu

__all__ = ["FrameOnGpu"]

_Crop = tuple[int, int, int, int]


class _Result:
    """Device memory for one result, and a page-locked copy of it."""

    def __init__(self, driver: Any, shape: tuple[int, ...], dtype: str) -> None:
        kind = np.dtype(dtype)
        nbytes = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
        self._allocation = driver.mem_alloc(nbytes)
        self._host = HostBuffer(driver, nbytes, mapped=False)
        self.array = DeviceArray(int(self._allocation), shape, kind)
        self.view: NDArray[Any] = self._host.view(shape, kind)

    def fetch(self, driver: Any, stream: Any, source: DeviceArray | None = None) -> None:
        """Enqueue the copy to the host."""
        where = self.array.pointer if source is None else source.pointer
        driver.memcpy_dtoh_async(self.view, where, stream)

    def free(self) -> None:
        """Give both back."""
        self._allocation.free()
        self._host.free()


class FrameOnGpu:
    """Runs frames of one size through resize, engine and heat map; used by one thread at a time.

    Args:
        backend: An open engine with input ``image`` (n, h, w, 3) and output ``anomaly_map``
            (n, h', w') or, with ``centroids``, ``patches`` (n, h', w', D).
        frame_shape: (H, W, C) of the camera frames, uint8.
        crop: x0, y0, x1, y1 in frame pixels; None takes the whole frame.
        channels: Source channel of each of the engine's three channels.
        sigma: Smoothing of the heat map, in pixels of the engine input.
        pixel_threshold: Mask threshold.
        centroids: [K, D] float32 for methods that score by the nearest centroid.

    Raises:
        BackendError: DEVICE_OOM; KERNELS_NO_CUDA on the first frame where the kernels were built
            without CUDA.
    """

    def __init__(
        self,
        backend: TrtBackend,
        *,
        frame_shape: tuple[int, int, int],
        sigma: float,
        pixel_threshold: float,
        crop: _Crop | None = None,
        channels: tuple[int, int, int] = (0, 1, 2),
        centroids: NDArray[np.float32] | None = None,
    ) -> None:
        self._backend = backend
        self._frame_shape, self._crop, self._channels = frame_shape, crop, channels
        self._sigma, self._pixel_threshold = sigma, pixel_threshold
        self._request = request = backend.open_request(device_io=True)
        height, width = backend.inputs["image"].shape[1:3]
        self._size = (height, width)
        output = backend.outputs["anomaly_map" if centroids is None else "patches"]
        cells, depth = output.shape[1:3], output.shape[3] if centroids is not None else 0
        self._depth = depth
        with backend.context.active() as driver, request.guarded():
            self._frame = HostBuffer(
                driver, int(np.prod(frame_shape)), mapped=backend.gpu.integrated
            )
            self._upload = (
                None if backend.gpu.integrated else driver.mem_alloc(self._frame.bytes.nbytes)
            )
            kind = "float32" if centroids is not None else output.dtype
            self._native = _Result(driver, (1, *cells), kind)
            self._map = _Result(driver, (1, *self._size), "float32")
            self._peak = _Result(driver, (1,), "float32")
            self._mask = _Result(driver, (1, *self._size), "uint8")
            self._nearest = self._centroids = None
            if centroids is not None:
                self._nearest = _Result(driver, (int(np.prod(cells)),), "int32")
                self._centroids = _Result(driver, centroids.shape, "float32")
                driver.memcpy_htod(self._centroids.array.pointer, np.ascontiguousarray(centroids))
            self._done = driver.Event(int(driver.event_flags.BLOCKING_SYNC))
            self._stream = request.pycuda_stream

    def __call__(self, frame: Array) -> tuple[NDArray[np.float32], float]:
        """Run one frame.

        Args:
            frame: (H, W, C) uint8, NumPy or with ``__cuda_array_interface__``; the latter is read
                where it is.

        Returns:
            The native map (h', w'), which belongs to the caller, and the smoothed map's peak.

        Raises:
            FrameError: FRAME_SIZE for another shape or type.
            BackendError: As `TrtRequest.start` and `TrtRequest.wait`; KERNELS_NO_CUDA.
        """
        request = self._request
        with self._backend.context.active() as driver, request.guarded():
            source = self._brought(driver, frame)
            image = request.input_array("image")
            single = DeviceArray(image.pointer, image.shape[1:], image.dtype)
            gpu.resize(
                source, self._size, self._crop, self._channels, out=single, stream=request.stream
            )
            request.start({"image": image})
            try:
                self._judge(driver)
            finally:
                request.wait()
        return self._native.view[0].astype(np.float32), float(self._peak.view[0])

    def heat(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Smoothed map and mask (h, w) of the last frame; they belong to the caller."""
        with self._backend.context.active() as driver, self._request.guarded():
            for result in (self._map, self._mask):
                result.fetch(driver, self._stream)
            self._done.record(self._stream)
            self._done.synchronize()
        return np.array(self._map.view[0]), self._mask.view[0].astype(np.bool_)

    def close(self) -> None:
        """Free the buffers; the back end frees the request."""
        with self._backend.context.active():
            for result in (self._native, self._map, self._peak, self._mask, self._nearest,
                           self._centroids, self._frame, self._upload):  # fmt: skip
                if result is not None:
                    result.free()

    def __enter__(self) -> FrameOnGpu:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _judge(self, driver: Any) -> None:
        """Heat map behind the engine, and what comes back."""
        native = self._native_map(self._request.output_arrays())
        results = (self._map.array, self._peak.array, self._mask.array)
        gpu.heatmap(
            native, self._size, self._sigma, self._pixel_threshold, out=results,
            stream=self._request.stream,
        )  # fmt: skip
        self._native.fetch(driver, self._stream, native)
        self._peak.fetch(driver, self._stream)
        self._done.record(self._stream)
        self._done.synchronize()

    def _brought(self, driver: Any, frame: Array) -> Any:
        """The frame as an array on the device."""
        interface = getattr(frame, "__cuda_array_interface__", None)
        shape = tuple(frame.shape if interface is None else interface["shape"])
        dtype = np.dtype(frame.dtype if interface is None else interface["typestr"])
        if shape != self._frame_shape or dtype != np.uint8:
            raise FrameError(
                "FRAME_SIZE",
                f"the frame is {dtype} {shape}; this run began with uint8 {self._frame_shape}.",
            )
        if interface is not None:
            self._backend.context.order_after_array(self._request.stream, interface)
            return frame
        view = self._frame.view(shape, dtype)
        np.copyto(view, frame)
        if self._upload is None:
            return DeviceArray(self._frame.pointer, shape, dtype)
        driver.memcpy_htod_async(int(self._upload), view, self._stream)
        return DeviceArray(int(self._upload), shape, dtype)

    def _native_map(self, outputs: dict[str, DeviceArray]) -> DeviceArray:
        """[1, h', w'] on the device: the engine's own, or distances to the nearest centroid."""
        if self._centroids is None or self._nearest is None:
            found = outputs["anomaly_map"]
            if len(found.shape) != 3:
                raise BackendError(
                    "MODEL_IO", f"anomaly_map has shape {found.shape}, not (n, h, w)."
                )
            return found
        patches = outputs["patches"]
        rows = int(np.prod(patches.shape[:3]))
        flat = DeviceArray(patches.pointer, (rows, self._depth), patches.dtype)
        distance = DeviceArray(self._native.array.pointer, (rows,), np.dtype("float32"))
        gpu.kmeans_assign(
            flat, self._centroids.array, out=(self._nearest.array, distance),
            stream=self._request.stream,
        )  # fmt: skip
        return self._native.array
