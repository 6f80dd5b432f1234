"""What CUDA device this machine has, asked from the driver before any TensorRT object exists.

TensorRT's run-time can end the process with a segmentation fault where there is no driver; so the
driver is asked first, through `ctypes`, and every answer is a sentence. Needs neither pycuda nor
TensorRT, and is what ``edgead doctor`` prints.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgead.errors import BackendError

__all__ = [
    "Cuda",
    "Gpu",
    "available_memory",
    "load_driver",
    "probe",
    "require_gpu",
    "system_root",
    "tegra_model",
]

_SUCCESS, _NO_DEVICE = 0, 100
_ATTRIBUTES = {"multiprocessors": 16, "integrated": 18, "major": 75, "minor": 76}
#: CUresult of cuInit -> (code, what it means, what to do); names are those of cuda.h.
_REASONS = {
    34: ("NO_DRIVER", "only the driver's stub library is installed", "Install the NVIDIA driver."),
    100: ("NO_GPU", "the driver reports no CUDA device", "Check the card and `nvidia-smi`."),
    802: ("DEVICE_BUSY", "the system is not yet ready", "Wait for its start-up to end."),
    803: (
        "DRIVER_MISMATCH",
        "kernel module and user library of the driver differ",
        "Reboot after a driver update.",
    ),
    804: (
        "DRIVER_MISMATCH",
        "the CUDA compatibility library does not support this GPU",
        "Remove the cuda-compat package or update the driver.",
    ),
}


@dataclass(frozen=True)
class Gpu:
    """One CUDA device; the fields are part of the engine's key.

    Attributes:
        name: Name that the driver gives, e.g. ``Orin``.
        arch: Compute capability, e.g. ``8.7``.
        multiprocessors: Number of SMs.
        memory_mb: Total memory, MiB; on a Jetson shared with the CPU.
        integrated: True on a Jetson.
        module: Model of the Jetson module, empty on a PC.
    """

    name: str
    arch: str
    multiprocessors: int
    memory_mb: int
    integrated: bool
    module: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Cuda:
    """The driver's answer.

    Attributes:
        code: OK, NO_DRIVER, NO_GPU, DRIVER_MISMATCH, DEVICE_BUSY or DRIVER_ERROR.
        sentence: The answer in words.
        hint: What to do about it; empty when all is well.
        version: Newest CUDA version that the driver serves, e.g. ``12.6``; empty when unknown.
        gpus: The devices in CUDA's order.
    """

    code: str
    sentence: str
    hint: str = ""
    version: str = ""
    gpus: tuple[Gpu, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "gpus": [gpu.to_json() for gpu in self.gpus]}


def load_driver() -> Any:
    """The driver's library, or None when there is none."""
    for name in ("libcuda.so.1", "libcuda.so"):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def probe() -> Cuda:
    """Ask the driver for its version and devices; never raises, makes no context."""
    library = load_driver()
    if library is None:
        return Cuda(
            "NO_DRIVER",
            "libcuda.so.1 was not found: there is no NVIDIA driver on this machine.",
            "Install the NVIDIA driver; in a container pass the GPU in (--gpus all).",
        )
    status = int(library.cuInit(0))
    version = _version(library)
    if status != _SUCCESS:
        code, meaning, hint = _REASONS.get(
            status, ("DRIVER_ERROR", "an error of its own", "See `nvidia-smi` and the kernel log.")
        )
        return Cuda(code, f"the CUDA driver answered error {status}: {meaning}.", hint, version)
    gpus = _gpus(library)
    if not gpus:
        code, meaning, hint = _REASONS[_NO_DEVICE]
        return Cuda(code, f"the CUDA driver counts 0 devices: {meaning}.", hint, version)
    listed = ", ".join(f"{gpu.name} (SM {gpu.arch})" for gpu in gpus)
    return Cuda("OK", f"CUDA {version}: {listed}.", "", version, gpus)


def require_gpu(name: str, *, device_index: int = 0) -> tuple[Cuda, Gpu]:
    """The driver's answer and the device, or the reason why the back end cannot run.

    Raises:
        BackendError: The codes of `Cuda`; NO_GPU also for an index beyond the last device.
    """
    cuda = probe()
    if cuda.code != "OK":
        raise BackendError(
            cuda.code, f"back end {name} needs an NVIDIA GPU; {cuda.sentence}", cuda.hint
        )
    if not 0 <= device_index < len(cuda.gpus):
        raise BackendError(
            "NO_GPU", f"CUDA device {device_index} was asked for; there are {len(cuda.gpus)}."
        )
    return cuda, cuda.gpus[device_index]


def tegra_model() -> str:
    """Model name of the Jetson module from the device tree; empty on other machines."""
    root = system_root()
    if not (root / "etc/nv_tegra_release").exists() and not any(
        "tegra" in text for text in (_read(root / "proc/device-tree/compatible"),)
    ):
        return ""
    return _read(root / "proc/device-tree/model").strip("\0 \n") or "Jetson"


def available_memory() -> int:
    """Bytes that can be used without swapping: MemAvailable, or less where a cgroup holds less.

    ``cudaMemGetInfo`` misleads on Tegra: it leaves out what the kernel can take back from caches.
    """
    root = system_root()
    available = 0
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = _read(root / "sys/fs/cgroup/memory.max").strip()
    used = _read(root / "sys/fs/cgroup/memory.current").strip()
    if limit.isdigit() and used.isdigit():
        available = min(available, max(0, int(limit) - int(used)))
    return available


def system_root() -> Path:
    """Root of /proc, /sys and /etc; another one in tests of machines that are not at hand."""
    return Path(os.environ.get("EDGEAD_SYSTEM_ROOT", "/"))


def _version(library: Any) -> str:
    number = ctypes.c_int(0)
    if int(library.cuDriverGetVersion(ctypes.byref(number))) != _SUCCESS or number.value == 0:
        return ""
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def _gpus(library: Any) -> tuple[Gpu, ...]:
    count = ctypes.c_int(0)
    if int(library.cuDeviceGetCount(ctypes.byref(count))) != _SUCCESS:
        return ()
    model = tegra_model()
    return tuple(_gpu(library, index, model) for index in range(count.value))


def _gpu(library: Any, index: int, model: str) -> Gpu:
    device = ctypes.c_int(0)
    library.cuDeviceGet(ctypes.byref(device), index)
    name = ctypes.create_string_buffer(256)
    library.cuDeviceGetName(name, 256, device)
    total = ctypes.c_size_t(0)
    library.cuDeviceTotalMem_v2(ctypes.byref(total), device)
    values = {}
    for key, attribute in _ATTRIBUTES.items():
        value = ctypes.c_int(0)
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        values[key] = value.value
    return Gpu(
        name=name.value.decode(errors="replace"),
        arch=f"{values['major']}.{values['minor']}",
        multiprocessors=values["multiprocessors"],
        memory_mb=total.value // 2**20,
        integrated=bool(values["integrated"]),
        module=model if values["integrated"] else "",
    )


def _read(path: Path) -> str:
    """A file's text; empty when there is none."""
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
