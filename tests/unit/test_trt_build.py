"""Building: the child process, types, memory, fall-backs, and what its death means."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import fake_tensorrt
import pytest
from fake_cuda import ORIN, RTX3080
from fake_tensorrt import VERSIONS, generation, model
from trt_machine import Machine

import edgead
from edgead.backends.trt import build, cache, header, process
from edgead.errors import BackendError, ConfigError

LAYERS = [["cast", "CAST", "HALF"], ["conv1", "CONVOLUTION", "HALF"], ["norm", "REDUCE", "FLOAT"],
          ["weights", "CONSTANT", "FLOAT"]]  # fmt: skip


def built(machine: Machine, data: bytes, **arguments) -> tuple[dict, dict]:
    """What was built, and the fake's record of how."""
    told = build.build_engine(
        data, name=machine.name, cache_dir=machine.cache,
        **{"precision": "fp32", "options": machine.options(), **arguments},
    )  # fmt: skip
    secret = (machine.cache / "machine.key").read_bytes()
    _, plan, _ = header.unpack(Path(told["engine"]).read_bytes(), secret, source="")
    return told, json.loads(plan)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_version_states_types_its_own_way(version, precision, tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, version)
    told, plan = built(machine, model(layers=LAYERS), precision=precision)
    kind = generation(version)
    assert told["precision"] == precision
    assert plan["cleared"] == (["TF32"] if precision == "fp32" else [])
    if kind == "8.6":
        assert plan["network"] == ["EXPLICIT_BATCH"]
        assert told["typing"] == "flags"
        expected = {"fp32": ["FP16", "OBEY_PRECISION_CONSTRAINTS"],
                    "fp16": ["FP16", "OBEY_PRECISION_CONSTRAINTS"],
                    "int8": ["INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"]}[precision]  # fmt: skip
        assert plan["flags"] == expected
        assert plan["pins"] == {"norm": {"precision": "DataType.FLOAT", "output": "DataType.FLOAT"}}
    else:
        assert (plan["network"], plan["flags"], plan["pins"]) == (["STRONGLY_TYPED"], [], {})
        assert told["typing"] == "strong"
    assert plan["targets"] == (["SM86"] if kind == "rtx" else [])
    assert machine.trt._counts["runtime"] == 0, "a build never makes a run-time object"


def test_fp32_graph_on_8_6_allows_nothing_lower(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "8.6.1")
    _, plan = built(machine, model(layers=[["conv", "CONVOLUTION", "FLOAT"]]))
    assert (plan["flags"], plan["pins"]) == ([], {})


def test_hidden_types_on_8_6_hold_no_layer_and_say_so(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "8.6.1")
    told, plan = built(machine, model(layers=[["conv", "CONVOLUTION", "FLOAT"]]), precision="fp16")
    assert (plan["flags"], plan["pins"]) == (["FP16"], {})
    assert told["notes"] == [
        "this version does not show the graph's FP16 types: no layer was held in FP32"
    ]


def test_version_10_falls_back_to_flags_where_strong_typing_is_refused(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    told, plan = built(machine, model(layers=LAYERS, build="refuse strong"), precision="fp16")
    assert told["typing"] == "flags"
    assert plan["network"] == []
    assert plan["flags"] == ["FP16", "OBEY_PRECISION_CONSTRAINTS"]
    assert told["notes"] == [
        "typing 'strong' was refused (tensorrt cannot build the fp16 engine: "
        "Error Code 10: Could not find any implementation (refuse strong).)"
    ]


def test_version_11_has_no_flags_to_fall_back_to(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "11.0.0.114")
    with pytest.raises(BackendError) as caught:
        built(machine, model(build="refuse strong"), precision="int8")
    assert str(caught.value) == (
        "[BUILD_REFUSED] tensorrt cannot build the int8 engine: "
        "Error Code 10: Could not find any implementation (refuse strong)."
    )


def test_refused_int8_takes_the_coarser_layout_then_fp16_and_says_so(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "11.4.0.106")
    refused, coarse, half = (
        model(build="refuse"),
        model(parse_error="bad Q/DQ"),
        model(layers=LAYERS),
    )
    told, _ = built(
        machine, refused, precision="int8", fallbacks=[("int8", coarse), ("fp16", half)]
    )
    assert told["precision"] == "fp16"
    assert told["notes"] == [
        "int8 was refused (tensorrt cannot build the int8 engine: "
        "Error Code 10: Could not find any implementation (refuse).); built the bundle's next int8 model "
        "instead.",
        "int8 was refused (the parser of tensorrt 11.4.0.106 refuses the int8 model: node 7: bad Q/DQ.); "
        "built fp16 instead.",
    ]


def test_free_batch_gets_its_profile(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.13.3.9")
    _, plan = built(machine, model(batch=-1), options=machine.options(batch=(1, 2, 8)))
    assert plan["profiles"] == [{"image": [[1, 4, 6, 3], [2, 4, 6, 3], [8, 4, 6, 3]]}]
    _, plan = built(machine, model())
    assert plan["profiles"] == []


def test_timing_cache_is_kept_and_a_foreign_one_left(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    built(machine, model())
    timings = machine.cache / "timings-tensorrt-10.3.0-8.6.bin"
    assert timings.read_bytes() == b"t"
    built(machine, model())
    assert timings.read_bytes() == b"tt"
    timings.write_bytes(b"foreign")
    built(machine, model())
    assert timings.read_bytes() == b"t"


def test_progress_and_estimate_are_told(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    built(machine, model())
    assert machine.events[0]["estimate"]["seconds"] is None
    steps = [event["progress"] for event in machine.events if "progress" in event]
    assert steps == [{"phase": "Building engine", "step": n, "steps": 2} for n in range(3)]
    machine.events.clear()
    told, _ = built(machine, model())
    assert machine.events[0]["estimate"]["seconds"] == pytest.approx(told["seconds"], abs=5)


def test_out_of_memory_kill_is_device_oom_with_the_numbers(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    with pytest.raises(BackendError) as caught:
        built(machine, model(build="kill"))
    assert caught.value.code == "DEVICE_OOM"
    assert "the build ended by SIGKILL (it was killed): it had taken 0." in caught.value.message
    assert "the lowest memory available was" in caught.value.message
    assert "the estimate 0.9 GB without workspace" in caught.value.message
    assert not list(machine.cache.glob("build-*"))
    assert not list(machine.cache.glob("*.engine"))


def test_out_of_memory_in_the_library_is_device_oom(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "8.6.1")
    with pytest.raises(BackendError) as caught:
        built(machine, model(build="oom"))
    assert str(caught.value) == (
        "[DEVICE_OOM] tensorrt ran out of memory while building: Cuda Runtime (out of memory)."
    )


def test_abort_of_the_child_is_told(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    with pytest.raises(BackendError) as caught:
        built(machine, model(build="abort"))
    assert caught.value.code == "BUILD_KILLED"
    assert "the build process ended by signal SIGABRT without a result" in caught.value.message


def test_kernel_kill_is_named(monkeypatch):
    expected = process.Estimate(900_000_000, None, None, None)
    error = process._death(
        -9, "", expected, {"peak_rss_bytes": 10**9, "lowest_bytes": 5 * 10**7}, counted=1
    )
    assert str(error) == (
        "[DEVICE_OOM] the build ended by SIGKILL (the kernel counted an out-of-memory kill): it had taken "
        "1.00 GB, the lowest memory available was 0.05 GB, the estimate 0.9 GB without workspace. "
        "Stop other programs, add swap, or build with a lower --optimization-level."
    )


def tegra_root(tmp_path: Path, available_mb: int) -> str:
    root = tmp_path / "root"
    for name, text in {
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/meminfo": f"MemTotal: 8000000 kB\nMemAvailable: {available_mb * 1024} kB\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def test_jetson_budget_comes_from_the_memory_available(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0", ORIN)
    monkeypatch.setenv("EDGEAD_SYSTEM_ROOT", tegra_root(tmp_path, 4000))
    told, plan = built(machine, model())
    spare = 4000 * 2**20 - told["estimate"]["needs"]
    assert plan["pools"] == {"WORKSPACE": spare // 2}
    assert told["estimate"]["needs"] == 1_650_000_000 + 4 * len(model())


def test_jetson_without_memory_is_refused_before_the_build(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0", ORIN)
    monkeypatch.setenv("EDGEAD_SYSTEM_ROOT", tegra_root(tmp_path, 700))
    with pytest.raises(BackendError) as caught:
        built(machine, model(build="kill"))
    assert str(caught.value) == (
        "[DEVICE_OOM] the build needs about 1.7 GB, 0.7 GB are available on "
        "NVIDIA Jetson Orin Nano Developer Kit (shared by CPU and GPU). "
        "Stop other programs and the desktop, or add swap, and build again."
    )


def test_build_is_refused_while_a_camera_loop_runs(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    with cache.EngineStore(machine.cache).camera_loop():
        with pytest.raises(BackendError) as caught:
            built(machine, model())
        told, _ = built(machine, model(), options=machine.options(force=True))
    assert str(caught.value) == (
        "[CAMERA_RUNNING] a camera loop runs on this machine; a build takes its memory and GPU time. "
        "Stop the loop first, or build with --force."
    )
    assert Path(told["engine"]).is_file()
    built(machine, model())


def test_build_needs_a_gpu_unless_a_target_is_named(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "rtx-1.7.1.116", {}, init=100)
    with pytest.raises(BackendError) as caught:
        built(machine, model())
    assert str(caught.value) == (
        "[NO_GPU] back end tensorrt-rtx needs an NVIDIA GPU; the CUDA driver answered error 100: "
        "the driver reports no CUDA device. Check the card and `nvidia-smi`."
    )
    told, plan = built(machine, model(), target="sm120")
    assert plan["targets"] == ["SM120"]
    assert told["key"]


def test_named_target_and_the_gpu_itself_share_a_key(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "rtx-1.7.1.116", RTX3080)
    assert built(machine, model(), target="sm86")[0]["key"] == built(machine, model())[0]["key"]


def test_unknown_precision_is_refused(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    with pytest.raises(ConfigError) as caught:
        built(machine, model(), precision="bf16")
    assert str(caught.value) == (
        "[PRECISION_UNKNOWN] precision 'bf16' is not one of ('fp32', 'fp16', 'int8')."
    )


@pytest.mark.parametrize(
    ("index", "visible", "shown"),
    [(0, None, None), (0, "3,1", "3,1"), (1, None, "1"), (1, "3,GPU-ab", "GPU-ab"), (2, "", "2")],
)
def test_builder_sees_the_device_that_is_meant(monkeypatch, index, visible, shown):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert process._environment(index).get("CUDA_VISIBLE_DEVICES") == shown


def test_engine_can_be_written_elsewhere(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    told, _ = built(machine, model(), out=tmp_path / "part.engine")
    assert told["engine"] == str(tmp_path / "part.engine")
    assert told["bytes"] == (tmp_path / "part.engine").stat().st_size


def test_child_imports_nothing_but_the_library_and_its_table(tmp_path):
    """NumPy, OpenCV or torch in the child would take memory that the build needs."""
    site = fake_tensorrt.shadow(tmp_path, "10.3.0")
    (site / "tensorrt.py").write_text("__version__ = '10.3.0'\nILogger = Builder = None\n")
    code = (
        "import runpy, sys; sys.path.append(sys.argv.pop(1)); before = set(sys.modules)\n"
        "import edgead.backends.trt.child\n"
        "print(*sorted(m.partition('.')[0] for m in set(sys.modules) - before "
        "if m.partition('.')[0] not in sys.stdlib_module_names))"
    )
    root = str(Path(edgead.__file__).parents[1])
    found = subprocess.run(
        [sys.executable, "-c", code, root], capture_output=True, text=True, check=True, cwd="/"
    )
    assert set(found.stdout.split()) == {"edgead"}
