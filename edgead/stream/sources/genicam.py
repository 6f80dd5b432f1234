"""GenICam cameras (GigE Vision, USB3 Vision, CoaXPress) by harvesters and a GenTL producer.

``pip install harvesters`` brings the library; the GenTL producer (a ``.cti`` file) comes from the
camera's or another vendor, and is found by ``?cti=FILE`` or by GENICAM_GENTL64_PATH.
"""

from __future__ import annotations

import importlib
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edgead.errors import SourceError
from edgead.stream.sources.base import BadBuffer, Captured
from edgead.stream.sources.machine_vision import frame_of

__all__ = ["GenicamCamera"]


class GenicamCamera:
    """One opened camera.

    Args:
        serial: Serial number; empty for the only camera.
        producers: GenTL producer files; none: all that GENICAM_GENTL64_PATH holds.

    Raises:
        SourceError: SOURCE_BACKEND, SOURCE_NOT_FOUND, SOURCE_BUSY.
    """

    def __init__(self, serial: str, producers: Sequence[str] = ()) -> None:
        try:
            core: Any = importlib.import_module("harvesters.core")
            self._gentl: Any = importlib.import_module("genicam.gentl")
        except ImportError as error:
            raise SourceError(
                "SOURCE_BACKEND",
                "harvesters is not installed.",
                "Run: pip install edgead[genicam].",
            ) from error
        self._lock = threading.Lock()
        self._harvester = core.Harvester()
        self._acquirer: Any = None
        try:
            self._acquirer = self._open(serial, producers or _producers())
            self._acquirer.start()
        except self._gentl.GenericException as error:
            self.close()
            text = f"genicam://{serial}: the camera cannot be opened."
            raise SourceError("SOURCE_BUSY", text, "Close the other program.") from error
        except SourceError:
            self.close()
            raise

    def read(self, timeout_s: float) -> Captured:
        """The next frame.

        Raises:
            SourceError: SOURCE_LOST when the camera is gone; SOURCE_FORMAT.
        """
        with self._lock:
            if self._acquirer is None:
                return None
            try:
                buffer = self._acquirer.fetch(timeout=timeout_s)
            except self._gentl.TimeoutException:
                return None
            except self._gentl.GenericException as error:
                raise SourceError("SOURCE_LOST", "the camera was lost.") from error
            arrived = time.monotonic_ns()
            with buffer:  # gives the buffer back to the producer
                return _frame(buffer, arrived)

    def close(self) -> None:
        """Stop and free the camera; safe to call twice."""
        with self._lock:
            acquirer, self._acquirer = self._acquirer, None
            try:
                if acquirer is not None:
                    acquirer.stop()
                    acquirer.destroy()
                self._harvester.reset()
            except self._gentl.GenericException:
                return  # it is gone already

    def _open(self, serial: str, producers: Sequence[str]) -> Any:
        for path in producers:
            if not Path(path).is_file():
                raise SourceError("SOURCE_BACKEND", f"GenTL producer {path} does not exist.")
            self._harvester.add_file(path)
        self._harvester.update()
        devices = self._harvester.device_info_list
        found = [n for n, d in enumerate(devices) if serial in ("", d.serial_number)]
        if len(found) != 1:
            raise SourceError(
                "SOURCE_NOT_FOUND",
                f"{len(found)} of {len(devices)} cameras match genicam://{serial}; want one.",
                "Give the serial number, and the camera's GenTL producer by ?cti=FILE.",
            )
        return self._harvester.create(found[0])


def _producers() -> list[str]:
    folders = os.environ.get("GENICAM_GENTL64_PATH", "").split(os.pathsep)
    return [
        str(path) for folder in folders if folder for path in sorted(Path(folder).glob("*.cti"))
    ]


def _frame(buffer: Any, arrived: int) -> Captured:
    block_id = int(buffer.module.frame_id)
    parts = buffer.payload.components
    if not buffer.module.is_complete() or not parts:
        return BadBuffer(
            "INCOMPLETE_FRAME",
            "the camera's buffer is not complete.",
            "Check cable, packet size and network load.",
            block_id=block_id,
        )
    part = parts[0]
    return frame_of(
        part.data,
        part.data_format,
        height=part.height,
        width=part.width,
        t_mono_ns=arrived,
        block_id=block_id,
    )
