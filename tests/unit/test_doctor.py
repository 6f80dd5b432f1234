"""The doctor on machines that are recorded, broken or bare."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import ORIN, RTX3080, FakeCuda

from edgead import doctor, jetson, power
from edgead.backends.trt import device
from edgead.errors import BackendError


def machine(tmp_path: Path, monkeypatch, **files: str) -> Path:
    """A recorded machine: ``__`` in a name is a slash, ``_DASH_`` a dash."""
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    for name, text in files.items():
        path = root / name.replace("_DASH_", "-").replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("EDGEAD_SYSTEM_ROOT", str(root))
    return root


def orin(
    tmp_path, monkeypatch, *, release: str = "# R36 (release), REVISION: 4.3, GCID: 1"
) -> Path:
    root = machine(
        tmp_path, monkeypatch,
        etc__nv_tegra_release=release,
        proc__device_DASH_tree__model="NVIDIA Jetson Orin Nano Developer Kit\0",
        proc__meminfo="MemAvailable: 3000000 kB\n",
        var__lib__nvpmodel__status="pmode:0002",
    )  # fmt: skip
    files = {
        "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": "729600",
        "sys/devices/system/cpu/cpufreq/policy0/scaling_max_freq": "1510400",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000",
        "sys/class/devfreq/17000000.gpu/max_freq": "624750000",
        "sys/class/hwmon/hwmon1/in1_label": "VDD_IN",
        "sys/class/hwmon/hwmon1/in1_input": "5000",
        "sys/class/hwmon/hwmon1/curr1_input": "1200",
        "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_GPU_CV",
        "sys/class/hwmon/hwmon1/in2_input": "5000",
        "sys/class/hwmon/hwmon1/curr2_input": "400",
        "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
        "dev/video0": "",
        "proc/device-tree/bus@0/nvdla0/status": "okay",
        "proc/device-tree/bus@0/nvdla1/status": "okay",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def texts(checks) -> dict[str, tuple[str, str]]:
    return {check.name: (check.status, check.text) for check in checks}


def test_diagnosis_of_this_machine_is_plain_and_complete():
    told = doctor.examine()
    assert json.loads(json.dumps(told)) == told
    assert set(told) == {"ok", "checks", "backends", "choice"}
    assert set(told["backends"]) == {"tensorrt", "tensorrt-rtx", "openvino", "onnxruntime"}
    names = [check["name"] for check in told["checks"]]
    for name in (
        "python",
        "numpy",
        "cuda",
        "tensorrt",
        "pycuda",
        "opencv",
        "camera",
        "power",
        "memory",
        "disk",
    ):
        assert name in names
    assert all(check["text"].endswith(".") or check["status"] == "ok" for check in told["checks"])
    assert {check["status"] for check in told["checks"]} <= {"ok", "note", "missing", "problem"}


def test_jetson_is_described(tmp_path, monkeypatch):
    orin(tmp_path, monkeypatch)
    monkeypatch.setattr(device, "load_driver", lambda: FakeCuda(ORIN).library)
    assert texts(doctor.check_jetpack()) == {
        "jetpack": ("ok", "NVIDIA Jetson Orin Nano Developer Kit, JetPack 6 (L4T 36.4.3).")
    }
    assert texts(doctor.check_cuda()) == {"cuda": ("ok", "CUDA 12.6: Orin (SM 8.7).")}
    assert texts(doctor.check_power()) == {
        "power": ("ok", "power mode number 2; cpu 730 of 1510 MHz, gpu 306 of 625 MHz."),
        "power sensors": ("ok", "6.0 W, module (VDD_IN)."),
    }
    assert texts(doctor.check_cameras()) == {
        "camera": ("ok", "/dev/video0: vi-output, imx219 9-0010.")
    }
    assert texts(doctor.check_dla()) == {
        "dla": ("note", "2 DLA present, not used: graphs with a uint8 input, per-channel Q/DQ and top-K are "
                "not what it computes; layer after layer would fall back to the GPU.")
    }  # fmt: skip
    assert texts(doctor.check_space())["memory"] == ("ok", "3.1 GB available.")


@pytest.mark.parametrize(
    ("release", "text"),
    [
        ("# R32 (release), REVISION: 7.1",
         "JetPack 4 (L4T 32.7.1). JetPack 4 is refused: its TensorRT is older than 8.6."),
        ("# R35 (release), REVISION: 4.1",
         "JetPack 5 (L4T 35.4.1). JetPack 5 is refused: its TensorRT is older than 8.6."),
    ],
)  # fmt: skip
def test_old_jetpacks_are_refused_by_name(tmp_path, monkeypatch, release, text):
    orin(tmp_path, monkeypatch, release=release)
    (check,) = doctor.check_jetpack()
    assert check.status == "problem"
    assert check.text == f"NVIDIA Jetson Orin Nano Developer Kit, {text}"
    assert check.hint == "Flash JetPack 6.0 or newer."


@pytest.mark.parametrize(("release", "name"), [("# R36 (release), REVISION: 3.0", "6"),
                                               ("# R38 (release), REVISION: 2.0", "7")])  # fmt: skip
def test_jetpacks_that_serve(tmp_path, monkeypatch, release, name):
    orin(tmp_path, monkeypatch, release=release)
    (check,) = doctor.check_jetpack()
    assert (check.status, check.value) == ("ok", name)


def test_numpy_2_on_jetpack_6_is_a_problem(tmp_path, monkeypatch):
    orin(tmp_path, monkeypatch)
    monkeypatch.setattr(doctor.np, "__version__", "2.1.0")
    assert texts(doctor.check_python())["numpy"] == (
        "problem", "NumPy 2.1.0. JetPack 6's OpenCV and jetson-utils are built for NumPy 1."
    )  # fmt: skip
    monkeypatch.setattr(doctor.np, "__version__", "1.26.4")
    assert texts(doctor.check_python())["numpy"] == ("ok", "NumPy 1.26.4.")


def test_bare_machine(tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch)
    monkeypatch.setattr(device, "load_driver", lambda: None)
    assert doctor.check_jetpack() == doctor.check_dla() == []
    assert texts(doctor.check_cuda()) == {
        "cuda": (
            "missing",
            "libcuda.so.1 was not found: there is no NVIDIA driver on this machine.",
        )
    }
    assert texts(doctor.check_cameras()) == {"camera": ("note", "No video device below /dev.")}
    assert texts(doctor.check_power()) == {
        "power": ("ok", "power mode not known; clocks not known."),
        "power sensors": ("note", "None: watts are not measured here."),
    }


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (100, ("missing", "the CUDA driver answered error 100: the driver reports no CUDA device.")),
        (803, ("problem", "the CUDA driver answered error 803: kernel module and user library of the driver differ.")),
        (999, ("problem", "the CUDA driver answered error 999: an error of its own.")),
    ],
)  # fmt: skip
def test_driver_errors_are_sentences(monkeypatch, status, found):
    monkeypatch.setattr(device, "load_driver", lambda: FakeCuda(init=status).library)
    assert texts(doctor.check_cuda()) == {"cuda": found}


def test_driver_without_devices(monkeypatch):
    monkeypatch.setattr(device, "load_driver", lambda: FakeCuda().library)
    assert texts(doctor.check_cuda()) == {
        "cuda": ("missing", "the CUDA driver counts 0 devices: the driver reports no CUDA device.")
    }


@pytest.mark.parametrize(
    ("source", "status", "text"),
    [
        ("__version__ = '10.3.0'", "ok", "tensorrt 10.3.0."),
        ("__version__ = '8.5.2'", "problem",
         "[TENSORRT_TOO_OLD] TensorRT 8.5.2 was found; 8.6 (JetPack 6.0) is the oldest that edgead drives. "
         "JetPack 4 and 5 cannot be used: flash JetPack 6.0 or newer."),
        ("raise ImportError('libnvinfer.so.10: cannot open shared object file')", "problem",
         "Importing tensorrt failed: ImportError: libnvinfer.so.10: cannot open shared object file."),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "problem",
         "Importing tensorrt ended its process by signal 11."),
    ],
    ids=["good", "old", "broken", "crashing"],
)  # fmt: skip
def test_libraries_good_old_broken_and_crashing(tmp_path, monkeypatch, source, status, text):
    (tmp_path / "tensorrt.py").write_text(source)
    inherited = os.environ.get("PYTHONPATH")
    path = [str(tmp_path), *([inherited] if inherited else [])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    found = texts(doctor.check_libraries())
    assert found["tensorrt"] == (status, text)


def test_backends_say_what_they_lack(monkeypatch):
    found = {
        "cuda": doctor.Check("cuda", "missing", "no driver."),
        "pycuda": doctor.Check("pycuda", "ok", "pycuda 2026.1."),
        "tensorrt": doctor.Check("tensorrt", "ok", "tensorrt 10.3.0."),
        "tensorrt-rtx": doctor.Check("tensorrt-rtx", "missing", "Not installed."),
        "openvino": doctor.Check("openvino", "ok", "openvino 2026.4."),
        "onnxruntime": doctor.Check("onnxruntime", "missing", "Not installed."),
    }
    told = doctor._backends(found)
    assert told["tensorrt"] == {"usable": False, "why": "cuda: no driver."}
    assert told["openvino"] == {"usable": True, "why": "openvino 2026.4."}
    assert told["tensorrt-rtx"]["why"] == "tensorrt-rtx: Not installed.; cuda: no driver."


def test_check_that_breaks_does_not_end_the_others(monkeypatch):
    def check_broken():
        raise RuntimeError("sensor on fire")

    monkeypatch.setattr(doctor, "CHECKS", (check_broken, doctor.check_python, doctor.check_libraries,
                                           doctor.check_cuda))  # fmt: skip
    told = doctor.examine()
    assert told["ok"] is False
    assert told["checks"][0]["text"] == "The check failed: RuntimeError: sensor on fire."
    assert told["checks"][1]["name"] == "python"


def test_bundle_that_is_missing_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_libraries, doctor.check_cuda))
    told = doctor.examine(tmp_path / "nothing.edgead")
    assert told["choice"] is None
    (choice,) = (check for check in told["checks"] if check["name"] == "choice")
    assert choice["status"] == "problem"
    assert str(tmp_path / "nothing.edgead") in choice["text"]


def test_camera_without_permission(tmp_path, monkeypatch):
    orin(tmp_path, monkeypatch)
    monkeypatch.setattr(os, "access", lambda *_: False)
    (check,) = (c for c in doctor.check_cameras() if c.name == "camera")
    assert (check.status, check.text) == (
        "problem",
        "/dev/video0: vi-output, imx219 9-0010: no permission.",
    )


def test_nvpmodel_by_name(monkeypatch, tmp_path):
    monkeypatch.setattr(jetson, "said", lambda command: "NV Power Mode: MAXN_SUPER\n2")
    assert jetson.power_mode() == "MAXN_SUPER"


def test_tools_that_hang_or_are_missing_say_nothing(monkeypatch):
    assert jetson.said(["no-such-tool"]) == ""
    assert jetson.said(["false"]) == ""
    monkeypatch.setattr(jetson, "_TIMEOUT_S", 0.1)
    assert jetson.said(["sleep", "9"]) == ""


def test_memory_within_a_container(tmp_path, monkeypatch):
    root = orin(tmp_path, monkeypatch)
    assert device.available_memory() == 3_000_000 * 1024
    (root / "sys/fs/cgroup").mkdir(parents=True)
    (root / "sys/fs/cgroup/memory.max").write_text("1000000000\n")
    (root / "sys/fs/cgroup/memory.current").write_text("400000000\n")
    assert device.available_memory() == 600_000_000
    (root / "sys/fs/cgroup/memory.max").write_text("max\n")
    assert device.available_memory() == 3_000_000 * 1024


def test_gpu_facts(monkeypatch, tmp_path):
    orin(tmp_path, monkeypatch)
    monkeypatch.setattr(device, "load_driver", lambda: FakeCuda(RTX3080, ORIN).library)
    first, second = device.probe().gpus
    assert first == device.Gpu(
        "NVIDIA GeForce RTX 3080", "8.6", 68, 10240, integrated=False, module=""
    )
    assert second == device.Gpu("Orin", "8.7", 16, 63488, integrated=True,
                                module="NVIDIA Jetson Orin Nano Developer Kit")  # fmt: skip
    assert device.require_gpu("tensorrt", device_index=1)[1] == second
    with pytest.raises(BackendError) as caught:
        device.require_gpu("tensorrt", device_index=2)
    assert str(caught.value) == "[NO_GPU] CUDA device 2 was asked for; there are 2."


def test_watts_and_millijoules(tmp_path, monkeypatch):
    root = orin(tmp_path, monkeypatch)
    assert power.read_watts() == (6.0, "module (VDD_IN)")
    (root / "sys/class/hwmon/hwmon1/in1_label").write_text("VDD_SOC")
    assert power.read_watts() == (8.0, "sum of VDD_CPU_GPU_CV, VDD_SOC")
    with power.PowerMeter(interval_s=0.005) as meter:
        meter._stop.wait(0.1)
    told = meter.to_json(frames=100, seconds=2.0)
    assert told["watts"] == 8.0
    assert told["mj_per_frame"] == 160.0
    assert told["mode"] == "number 2"
    assert told["clocks"]["gpu"] == {"mhz": 306.0, "max_mhz": 624.8}


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ({}, None),
        ({"pwm-fan": 3}, None),
        ({"pwm-fan": 3, "gpu-throttle-alert": 0}, False),
        ({"cpu-throttle-alert": 0, "gpu-throttle-alert": 2}, True),
    ],
    ids=["nothing tells", "a fan only", "cool", "hot"],
)
def test_throttling(tmp_path, monkeypatch, states, expected):
    root = machine(tmp_path, monkeypatch, sys__class__thermal__thermal_zone0__temp="97500\n")
    for number, (kind, state) in enumerate(states.items()):
        folder = root / f"sys/class/thermal/cooling_device{number}"
        folder.mkdir()
        (folder / "type").write_text(kind)
        (folder / "cur_state").write_text(f"{state}\n")
    told = power.throttle_state()
    assert told["throttled"] is expected
    assert told["by"] == (["gpu-throttle-alert"] if expected else [])
    assert told["hottest_c"] == 97.5


def test_no_sensor_no_figure(tmp_path, monkeypatch):
    machine(tmp_path, monkeypatch)
    with power.PowerMeter() as meter:
        pass
    told = meter.to_json(frames=100, seconds=2.0)
    assert told == {"watts": None, "mj_per_frame": None, "source": None, "mode": "", "clocks": {}}


def test_smi_line(monkeypatch, tmp_path):
    machine(tmp_path, monkeypatch)
    lines = {"power.draw": "71.25\n", "pstate": "P2, 1710, 2100, 320.00, 0x0000000000000004"}
    monkeypatch.setattr(
        jetson, "said", lambda command: next((v for k, v in lines.items() if k in command[-1]), "")
    )
    assert power.read_watts() == (71.25, "graphics card (nvidia-smi)")
    lines["hw_slowdown"] = "Not Active, Active, Not Active, Not Active"
    assert power.throttle_state()["by"] == ["hw_thermal_slowdown"]
    del lines["hw_slowdown"]
    assert power.machine_power()["mode"] == (
        "P2, SM 1710 of 2100 MHz, limit 320.00 W, throttle 0x0000000000000004"
    )


BARE = """
import sys
for name in ("tensorrt", "tensorrt_rtx", "pycuda", "cupy", "torch", "onnx"):
    sys.modules[name] = None
import edgead
from edgead import doctor
from edgead.backends.trt import open_backend
from edgead.errors import BackendError
for name in ("tensorrt", "tensorrt-rtx"):
    try:
        open_backend(b"", name=name, precision="fp32")
    except BackendError as error:
        print(error)
print(all(sys.modules.get(n) is None for n in ("tensorrt", "torch", "onnx", "pycuda")))
told = doctor.examine()
print([c["name"] for c in told["checks"] if c["name"] == "cuda"])
"""


def test_machine_without_anything_answers_in_sentences():
    """`import edgead`, the back ends and the doctor: no traceback, no crash."""
    if device.load_driver() is not None:
        pytest.skip("this machine has an NVIDIA driver")
    done = subprocess.run(
        [sys.executable, "-c", BARE], capture_output=True, text=True, check=False, cwd="/"
    )
    assert (done.returncode, done.stderr) == (0, "")
    first, second, clean, cuda = done.stdout.splitlines()
    for name, line in (("tensorrt", first), ("tensorrt-rtx", second)):
        assert line == (
            f"[NO_DRIVER] back end {name} needs an NVIDIA GPU; libcuda.so.1 was not found: there is no NVIDIA "
            "driver on this machine. Install the NVIDIA driver; in a container pass the GPU in (--gpus all)."
        )
    assert clean == "True"
    assert cuda == "['cuda']"
