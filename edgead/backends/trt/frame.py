"""A whole frame on the GPU: resize, engine, nearest centroid, heat map, on one stream.

What comes back is the resized picture, which is checked as on the CPU, and the native map, a few
kilobytes, from which the head takes the score; where it is asked for, the heat map, and its mask when
the peak says that there is something in it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgead.backends.base import Array
from edgead.backends.trt.cuda import DeviceArray, HostBuffer
from edgead.backends.trt.run import TrtBackend
from edgead.errors import BackendError, FrameError
from edgead.kernels import Heatmap
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

    def send(self, driver: Any, stream: Any, values: NDArray[Any]) -> DeviceArray:
        """Enqueue the copy of other values to the device."""
        np.copyto(self.view, values, casting="same_kind")
        driver.memcpy_htod_async(self.array.pointer, self.view, stream)
        return self.array

    def free(self) -> None:
        """Give both back."""
        self._allocation.free()
        self._host.free()


class _Camera:
    """Where camera frames are brought from the host: as large as the largest one so far."""

    def __init__(self, *, mapped: bool) -> None:
        self._mapped = mapped
        self._host: HostBuffer | None = None
        self._device: Any = None

    def bring(self, driver: Any, stream: Any, frame: NDArray[Any]) -> DeviceArray:
        """Enqueue the upload; mapped memory is read by the GPU where it is."""
        if self._host is None or self._host.bytes.nbytes < frame.nbytes:
            self.free()
            self._host = HostBuffer(driver, frame.nbytes, mapped=self._mapped)
            self._device = None if self._mapped else driver.mem_alloc(frame.nbytes)
        view = self._host.view(frame.shape, frame.dtype)
        np.copyto(view, frame)
        if self._device is None:
            return DeviceArray(self._host.pointer, frame.shape, frame.dtype)
        driver.memcpy_htod_async(int(self._device), view, stream)
        return DeviceArray(int(self._device), frame.shape, frame.dtype)

    def free(self) -> None:
        """Give both sides back."""
        if self._host is not None:
            self._host.free()
        if self._device is not None:
            self._device.free()
        self._host = self._device = None


class FrameOnGpu:
    """Runs frames through resize, engine and heat map, one at a time, used by one thread at a time.

    ``bring``, ``start``, ``picture``, ``native``, ``heat``, in this order; between ``bring`` and
    ``start`` the picture may be painted: ``picture``, ``repaint``.

    Args:
        backend: An open engine with input ``image`` (n, h, w, 3) and output ``anomaly_map``
            (n, h', w') or, with ``centroids``, ``patches`` (n, h', w', D).
        sigma: Smoothing of the heat map, in pixels of the engine input.
        pixel_threshold: Mask threshold.
        channels: Source channel of each of the engine's three channels.
        centroids: [K, D] float32 for methods that score by the nearest centroid.

    Raises:
        BackendError: DEVICE_OOM; KERNELS_NO_CUDA on the first frame where the kernels were built
            without CUDA.
    """

    def __init__(
        self,
        backend: TrtBackend,
        *,
        sigma: float,
        pixel_threshold: float,
        channels: tuple[int, int, int] = (0, 1, 2),
        centroids: NDArray[np.float32] | None = None,
    ) -> None:
        self._backend, self._channels = backend, channels
        self._sigma, self._pixel_threshold = sigma, pixel_threshold
        self._request = request = backend.open_request(device_io=True)
        height, width = backend.inputs["image"].shape[1:3]
        self._size = (height, width)
        output = backend.outputs["anomaly_map" if centroids is None else "patches"]
        cells = output.shape[1:3]
        self._depth = output.shape[3] if centroids is not None else 0
        self._in_flight = self._has_heat = False
        self._kept: Any = None
        with backend.context.active() as driver, request.guarded():
            self._camera = _Camera(mapped=backend.maps_memory)
            self._picture = HostBuffer(driver, height * width * 3, mapped=False)
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
            flags = int(driver.event_flags.BLOCKING_SYNC | driver.event_flags.DISABLE_TIMING)
            self._has_picture, self._done = driver.Event(flags), driver.Event(flags)
            self._stream = request.pycuda_stream

    def bring(self, frame: Array, crop: _Crop | None = None) -> None:
        """Enqueue the upload, the resize, and the resized picture's way back; returns at once.

        Args:
            frame: (H, W, C) uint8, NumPy or with ``__cuda_array_interface__``; the latter is read
                where it is, after the stream that wrote it, and must stay as it is until `native`.
            crop: x0, y0, x1, y1 in frame pixels; None takes the whole frame.

        Raises:
            FrameError: FRAME_GPU_LAYOUT when the rows of a frame on the GPU have gaps between pixels.
            BackendError: As `TrtRequest.start`; KERNELS_NO_CUDA.
        """
        request = self._request
        with self._backend.context.active() as driver, request.guarded():
            interface = getattr(frame, "__cuda_array_interface__", None)
            if interface is None:
                source: Any = self._camera.bring(driver, self._stream, frame)
            else:
                self._backend.context.order_after_array(request.stream, interface)
                source = frame
            self._kept = frame
            image = request.input_array("image")
            single = DeviceArray(image.pointer, image.shape[1:], image.dtype)
            try:
                gpu.resize(
                    source, self._size, crop, self._channels, out=single, stream=request.stream
                )
            except (TypeError, ValueError) as error:
                raise FrameError(
                    "FRAME_GPU_LAYOUT", f"the frame on the GPU: {error}", "Hand over a packed copy."
                ) from error
            driver.memcpy_dtoh_async(self._picture_view(), image.pointer, self._stream)
            self._has_picture.record(self._stream)

    def picture(self) -> NDArray[np.uint8]:
        """The resized picture (h, w, 3), which belongs to the caller; waits for it alone."""
        with self._backend.context.active(), self._request.guarded():
            self._has_picture.synchronize()
        return np.array(self._picture_view())

    def repaint(self, picture: NDArray[np.uint8]) -> None:
        """Let the engine see another picture (h, w, 3) than the frame's; before `start`."""
        with self._backend.context.active() as driver, self._request.guarded():
            np.copyto(self._picture_view(), picture)
            image = self._request.input_array("image")
            driver.memcpy_htod_async(image.pointer, self._picture_view(), self._stream)

    def start(self, *, heat: bool) -> None:
        """Enqueue the engine and the native map's way back, and with ``heat`` the heat map's.

        Raises:
            BackendError: As `TrtRequest.start`; KERNELS_CUDA.
        """
        request = self._request
        with self._backend.context.active() as driver, request.guarded():
            request.start({"image": request.input_array("image")})
            self._in_flight, self._has_heat = True, heat
            native = self._native_map(request.output_arrays())
            self._native.fetch(driver, self._stream, native)
            if heat:
                self._smooth(driver, native)
            self._done.record(self._stream)

    def native(self) -> NDArray[np.float32]:
        """The native map (h', w'), which belongs to the caller; waits for it.

        Raises:
            BackendError: As `TrtRequest.wait`.
        """
        with self._backend.context.active(), self._request.guarded():
            self._done.synchronize()
        self.settle()
        return np.array(self._native.view[0], dtype=np.float32)

    def heat(self, native: NDArray[np.float32] | None = None) -> Heatmap:
        """Smoothed map, peak and mask of the frame; the mask is fetched when the peak is in it.

        Args:
            native: Take this map (h', w') in the place of the engine's.
        """
        if native is not None:
            with self._backend.context.active() as driver, self._request.guarded():
                self._smooth(driver, self._native.send(driver, self._stream, native[None]))
                self._done.record(self._stream)
                self._done.synchronize()
        elif not self._has_heat:
            raise BackendError("NOT_STARTED", "heat() without start(heat=True).", "Start with it.")
        mask = np.zeros(self._mask.view.shape, np.uint8)
        if not self._peak.view[0] <= self._pixel_threshold:
            with self._backend.context.active() as driver, self._request.guarded():
                self._mask.fetch(driver, self._stream)
                self._done.record(self._stream)
                self._done.synchronize()
            mask = np.array(self._mask.view)
        return Heatmap(np.array(self._map.view), np.array(self._peak.view), mask)

    def settle(self) -> None:
        """Wait for what was started; the next frame may come. Does nothing when nothing was."""
        if self._in_flight:
            self._in_flight = False
            self._request.wait()
        self._kept = None

    def close(self) -> None:
        """Free the buffers; the back end frees the request."""
        with self._backend.context.active():
            for result in (self._native, self._map, self._peak, self._mask, self._nearest,
                           self._centroids, self._camera, self._picture):  # fmt: skip
                if result is not None:
                    result.free()

    def _smooth(self, driver: Any, native: DeviceArray) -> None:
        """Enqueue the heat map of a native map, and its way back without the mask."""
        gpu.heatmap(
            native, self._size, self._sigma, self._pixel_threshold,
            out=(self._map.array, self._peak.array, self._mask.array), stream=self._request.stream,
        )  # fmt: skip
        self._map.fetch(driver, self._stream)
        self._peak.fetch(driver, self._stream)

    def _picture_view(self) -> NDArray[np.uint8]:
        return self._picture.view((*self._size, 3), np.dtype(np.uint8))

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
