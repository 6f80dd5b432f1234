"""Basler cameras by pypylon (``pip install pypylon``): GigE, USB3, and pylon's camera emulator.

Runs in this process: `RetrieveResult` keeps its time limit. With ``PYLON_CAMEMU=1`` in the environment
pylon offers an emulated camera, which edgead's own tests use.
"""

from __future__ import annotations

import importlib
import threading
import time
from typing import Any

from edgead.errors import SourceError
from edgead.stream.sources.base import BadBuffer, Captured
from edgead.stream.sources.machine_vision import frame_of

__all__ = ["PylonCamera"]


class PylonCamera:
    """One opened camera, grabbing every frame in order.

    Args:
        serial: Serial number; empty for the only camera.

    Raises:
        SourceError: SOURCE_BACKEND, SOURCE_NOT_FOUND, SOURCE_BUSY.
    """

    def __init__(self, serial: str) -> None:
        try:
            self._pylon: Any = importlib.import_module("pypylon.pylon")
            self._genicam: Any = importlib.import_module("pypylon.genicam")
        except ImportError as error:
            raise SourceError(
                "SOURCE_BACKEND", "pypylon is not installed.", "Run: pip install pypylon."
            ) from error
        factory = self._pylon.TlFactory.GetInstance()
        found = [d for d in factory.EnumerateDevices() if serial in ("", d.GetSerialNumber())]
        if len(found) != 1:
            raise SourceError(
                "SOURCE_NOT_FOUND",
                f"{len(found)} cameras match pylon://{serial}; want one.",
                "Give the serial number that is printed on the camera.",
            )
        self._lock = threading.Lock()
        self._camera: Any = None
        try:
            camera = self._pylon.InstantCamera(factory.CreateDevice(found[0]))
            camera.Open()
            camera.StartGrabbing(self._pylon.GrabStrategy_OneByOne)
        except self._genicam.GenericException as error:
            text = f"pylon://{serial}: the camera cannot be opened."
            raise SourceError("SOURCE_BUSY", text, "Close the other program.") from error
        self._camera = camera

    def read(self, timeout_s: float) -> Captured:
        """The next frame.

        Raises:
            SourceError: SOURCE_LOST when the camera is gone; SOURCE_FORMAT.
        """
        with self._lock:
            if self._camera is None:
                return None
            try:
                wait_ms = max(1, int(timeout_s * 1000))
                result = self._camera.RetrieveResult(wait_ms, self._pylon.TimeoutHandling_Return)
                arrived = time.monotonic_ns()
                if not result.IsValid():
                    return None
                try:
                    return self._frame(result, arrived)
                finally:
                    result.Release()
            except self._genicam.GenericException as error:
                raise SourceError("SOURCE_LOST", "the camera was lost.") from error

    def close(self) -> None:
        """Stop grabbing and close the camera; safe to call twice."""
        with self._lock:
            camera, self._camera = self._camera, None
            if camera is None:
                return
            try:
                camera.StopGrabbing()
                camera.Close()
            except self._genicam.GenericException:
                return  # it is gone already

    def _frame(self, result: Any, arrived: int) -> Captured:
        if not result.GrabSucceeded():
            return BadBuffer(
                "INCOMPLETE_FRAME",
                f"the camera says: {result.ErrorDescription}",
                "Check cable, packet size and network load.",
                block_id=result.BlockID,
            )
        return frame_of(
            result.Array,
            self._camera.PixelFormat.Value,
            height=result.Height,
            width=result.Width,
            t_mono_ns=arrived,
            block_id=result.BlockID,
        )
