"""Running engines on a fake GPU that does its work only when it is waited for."""

from __future__ import annotations

import gc
import os
import threading

import fake_cuda
import numpy as np
import pytest
from fake_cuda import ORIN, RTX3080
from fake_tensorrt import VERSIONS, model
from trt_machine import InProcess as Machine

from edgead.backends.base import Backend, Request, TensorSpec
from edgead.backends.trt.cuda import DeviceArray, primary_context
from edgead.errors import BackendError, ConfigError, StateError

FRAME = np.random.default_rng(0).integers(0, 256, (1, 4, 6, 3), np.uint8)


def expected(frames: np.ndarray) -> dict[str, np.ndarray]:
    """What the fake engine computes."""
    means = frames.reshape(len(frames), -1).mean(axis=1)
    maps = means[:, None] + np.arange(6)
    return {
        "score": means.astype(np.float32),
        "anomaly_map": maps.reshape(-1, 1, 2, 3).astype(np.float32),
    }


def check(outputs, frames: np.ndarray) -> None:
    wanted = expected(frames)
    assert set(outputs) == set(wanted)
    for name, array in wanted.items():
        np.testing.assert_array_equal(outputs[name], array)


@pytest.fixture(params=VERSIONS)
def any_machine(request, tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, request.param)
    yield machine
    assert machine.cuda.depth == 0, "a context was left on this thread"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    yield machine
    assert machine.cuda.depth == 0, "a context was left on this thread"


def on_gpu(machine, frame: np.ndarray, *, offset: int = 0, **interface) -> DeviceArray:
    """A frame in device memory."""
    address = machine.cuda.allocate(frame.nbytes + offset) + offset
    machine.cuda.at(address, frame.nbytes)[:] = frame.reshape(-1).view(np.uint8)
    array = DeviceArray(address, frame.shape, frame.dtype)
    if interface:
        told = {**array.__cuda_array_interface__, **interface}
        return type("Foreign", (), {"__cuda_array_interface__": told})()
    return array


def test_engine_runs_on_every_version(any_machine):
    backend = any_machine.open(model())
    assert isinstance(backend, Backend)
    assert (backend.name, backend.version) == (any_machine.name, any_machine.trt.__version__)
    assert backend.device == "NVIDIA GeForce RTX 3080"
    assert backend.inputs == {"image": TensorSpec("image", (1, 4, 6, 3), "uint8")}
    assert backend.outputs == {
        "score": TensorSpec("score", (1,), "float32"),
        "anomaly_map": TensorSpec("anomaly_map", (1, 1, 2, 3), "float32"),
    }
    assert backend.activation_bytes == 5_000_000
    request = backend.open_request()
    assert isinstance(request, Request)
    for shift in range(3):
        check(request.infer({"image": FRAME + shift}), FRAME + shift)
    backend.close()
    backend.close()
    assert any_machine.cuda.memory == {}, "device memory was left"
    assert any_machine.cuda.graphs == {}, "a graph was left"


def test_second_opening_loads_without_building(any_machine):
    any_machine.open(model()).close()
    any_machine.events.clear()
    any_machine.open(model(), allow_build=False).close()
    assert any_machine.events == []


def test_cuda_is_asked_before_tensorrt(tmp_path, monkeypatch):
    for init, code in (
        (100, "NO_GPU"),
        (803, "DRIVER_MISMATCH"),
        (34, "NO_DRIVER"),
        (999, "DRIVER_ERROR"),
    ):
        machine = Machine(monkeypatch, tmp_path, "10.3.0", {}, init=init)
        with pytest.raises(BackendError) as caught:
            machine.open(model())
        assert caught.value.code == code
        assert "back end tensorrt needs an NVIDIA GPU; the CUDA driver answered error" in str(
            caught.value
        )
        assert machine.trt._counts == {"runtime": 0, "deserialise": 0, "enqueue": 0}
        assert "cuDevicePrimaryCtxRetain" not in machine.cuda.log


def test_no_driver_is_a_sentence(machine, monkeypatch):
    monkeypatch.setattr("edgead.backends.trt.device.load_driver", lambda: None)
    with pytest.raises(BackendError) as caught:
        machine.open(model())
    assert str(caught.value) == (
        "[NO_DRIVER] back end tensorrt needs an NVIDIA GPU; libcuda.so.1 was not found: there is no "
        "NVIDIA driver on this machine. Install the NVIDIA driver; in a container pass the GPU in (--gpus all)."
    )


def test_missing_pycuda_is_a_sentence(machine, monkeypatch):
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    with pytest.raises(BackendError) as caught:
        machine.open(model())
    assert str(caught.value) == (
        "[PROVIDER] the TensorRT back ends need pycuda, which is not installed. "
        "On a Jetson: pip install 'edgead[jetson]'; on a PC: pip install 'edgead[tensorrt-cu13]'. "
        "It is built from source beside the CUDA toolkit."
    )


def test_unknown_device_index(machine):
    with pytest.raises(BackendError) as caught:
        machine.open(model(), options={"device_index": 3})
    assert str(caught.value) == "[NO_GPU] CUDA device 3 was asked for; there are 1."


def test_names_are_checked_first(machine):
    with pytest.raises(ConfigError) as caught:
        machine.open(model(), precision="bf16")
    assert caught.value.code == "PRECISION_UNKNOWN"


def test_missing_engine_is_not_built_unasked(machine):
    with pytest.raises(BackendError) as caught:
        machine.open(
            model(), allow_build=False, precision="fp16", options={"bundle": "part.edgead"}
        )
    assert str(caught.value) == (
        f"[ENGINE_MISSING] no tensorrt engine of this model in fp16 is in {machine.cache}. "
        "Build it: edgead build part.edgead --backend tensorrt --precision fp16."
    )
    assert machine.trt._counts["runtime"] == 0


def test_engine_of_another_version_is_named_and_not_loaded(machine, tmp_path, monkeypatch):
    machine.open(model()).close()
    newer = Machine(monkeypatch, tmp_path, "10.16.1.11")
    with pytest.raises(BackendError) as caught:
        newer.open(model(), allow_build=False)
    assert str(caught.value) == (
        "[ENGINE_TENSORRT] the cached engine was built for library version 10.3.0; needed is 10.16.1.11. "
        "Build it again: edgead build BUNDLE --backend tensorrt --precision fp32."
    )
    assert newer.trt._counts["deserialise"] == 0


def test_deserialise_that_returns_none_is_an_error(any_machine):
    with pytest.raises(BackendError) as caught:
        any_machine.open(model(run="none"))
    assert caught.value.code == "ENGINE_REFUSED"
    assert (
        "did not take the engine: IRuntime::deserializeCudaEngine: Error Code 1: magicTag."
        in str(caught.value)
    )


def test_context_without_memory_is_device_oom(any_machine):
    backend = any_machine.open(model(run="context oom"))
    with pytest.raises(BackendError) as caught:
        backend.open_request()
    assert caught.value.code == "DEVICE_OOM"
    assert "made no execution context (it needs 5 MB, 1074 MB are free on NVIDIA" in str(
        caught.value
    )
    backend.close()


def test_graph_is_captured_once_and_replayed(machine):
    backend = machine.open(model())
    request = backend.open_request()
    assert request.has_graph
    enqueued = machine.trt._counts["enqueue"]
    for shift in range(4):
        check(request.infer({"image": FRAME + shift}), FRAME + shift)
        assert request.has_graph
    assert machine.trt._counts["enqueue"] == enqueued
    backend.close()


def test_graph_can_be_switched_off(machine):
    backend = machine.open(model(), options={"cuda_graph": False})
    request = backend.open_request()
    check(request.infer({"image": FRAME}), FRAME)
    assert not request.has_graph
    assert "cuStreamBeginCapture" not in machine.cuda.log
    backend.close()


def test_engine_that_cannot_be_captured_is_enqueued(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "rtx-1.7.1.116")
    backend = machine.open(model(run="not capturable"))
    request = backend.open_request()
    check(request.infer({"image": FRAME}), FRAME)
    assert not request.has_graph
    assert "cuStreamBeginCapture" not in machine.cuda.log
    backend.close()


@pytest.mark.parametrize("call", ["cuStreamEndCapture", "cuGraphInstantiate"])
def test_failed_capture_goes_on_without_a_graph(machine, call):
    machine.cuda.fail[call] = ["900"]
    backend = machine.open(model())
    request = backend.open_request()
    check(request.infer({"image": FRAME}), FRAME)
    assert not request.has_graph
    assert machine.cuda.log.count("cuStreamBeginCapture") == 1, "it is not tried again"
    backend.close()


def test_free_batch(machine):
    backend = machine.open(model(batch=-1), options={"batch": (1, 2, 3)})
    request = backend.open_request()
    for n in (1, 2, 3, 1, 1):
        frames = np.repeat(FRAME, n, axis=0) + np.arange(n, dtype=np.uint8)[:, None, None, None]
        check(request.infer({"image": frames}), frames)
    with pytest.raises(BackendError) as caught:
        request.infer({"image": np.repeat(FRAME, 4, axis=0)})
    assert str(caught.value) == (
        "[FEED] input image is uint8 (4, 4, 6, 3); the engine takes uint8 (3, 4, 6, 3)."
    )
    backend.close()


def test_frame_on_the_gpu_is_read_where_it_is(machine):
    backend = machine.open(model())
    request = backend.open_request()
    copies = machine.cuda.log.count("cuMemcpyHtoDAsync")
    frame = on_gpu(machine, FRAME)
    for _ in range(3):
        check(request.infer({"image": frame}), FRAME)
    assert request.has_graph, "the same address came again: it is replayed"
    assert machine.cuda.log.count("cuMemcpyHtoDAsync") == copies
    assert "cuMemcpyDtoDAsync" not in machine.cuda.log
    backend.close()


def test_new_address_ends_the_graph(machine):
    """A graph is good for the state of the context that it was captured in, and for no other."""
    backend = machine.open(model())
    request = backend.open_request()
    frames = [on_gpu(machine, FRAME + shift) for shift in range(3)]
    for number in (0, 1, 2, 0, 1):
        check(request.infer({"image": frames[number]}), FRAME + number)
        assert not request.has_graph
        assert machine.cuda.graphs == {}
    for _ in range(2):
        check(request.infer({"image": frames[1]}), FRAME + 1)
        assert request.has_graph
    check(request.infer({"image": FRAME}), FRAME)
    assert not request.has_graph
    assert machine.cuda.graphs == {}
    backend.close()


def test_other_batch_ends_the_graph(machine):
    backend = machine.open(model(batch=-1), options={"batch": (1, 1, 2)})
    request = backend.open_request()
    two = np.repeat(FRAME, 2, axis=0)
    for frames, has_graph in (
        (FRAME, False),
        (FRAME, True),
        (two, False),
        (FRAME, False),
        (FRAME, True),
    ):
        check(request.infer({"image": frames}), frames)
        assert request.has_graph is has_graph
    backend.close()


def test_unaligned_gpu_frame_is_copied_on_the_gpu(machine):
    backend = machine.open(model())
    request = backend.open_request()
    check(request.infer({"image": on_gpu(machine, FRAME, offset=24)}), FRAME)
    assert "cuMemcpyDtoDAsync" in machine.cuda.log
    backend.close()


@pytest.mark.parametrize(
    ("interface", "waits"),
    [({"stream": None}, []), ({"stream": 77}, ["record on 77"]), ({"version": 2}, ["record on 1"])],
    ids=["nothing to wait for", "producer's stream", "torch: default stream"],
)
def test_gpu_frame_waits_for_its_producer(machine, interface, waits):
    backend = machine.open(model())
    request = backend.open_request()
    machine.cuda.log.clear()
    check(request.infer({"image": on_gpu(machine, FRAME, **interface)}), FRAME)
    assert [call for call in machine.cuda.log if call.startswith("record on")] == waits
    assert machine.cuda.log.count("cuStreamWaitEvent") == len(waits)
    backend.close()


def test_gpu_frame_with_gaps_is_refused(machine):
    backend = machine.open(model())
    request = backend.open_request()
    with pytest.raises(BackendError) as caught:
        request.infer({"image": on_gpu(machine, FRAME, strides=(144, 36, 6, 1))})
    assert str(caught.value) == (
        "[FEED] input image on the GPU has strides (144, 36, 6, 1), not packed ones."
    )
    check(request.infer({"image": on_gpu(machine, FRAME, strides=(72, 18, 3, 1))}), FRAME)
    backend.close()


def test_outputs_stay_on_the_gpu_until_read(machine):
    backend = machine.open(model())
    request = backend.open_request(device_io=True)
    copies = machine.cuda.log.count("cuMemcpyDtoHAsync")
    request.start({"image": FRAME})
    outputs = request.wait()
    assert machine.cuda.log.count("cuMemcpyDtoHAsync") == copies
    told = outputs["anomaly_map"].__cuda_array_interface__
    assert (told["shape"], told["typestr"], told["version"], told["stream"]) == (
        (1, 1, 2, 3),
        "<f4",
        3,
        None,
    )
    values = machine.cuda.at(told["data"][0], 24).view("<f4").reshape(1, 1, 2, 3)
    np.testing.assert_array_equal(values, expected(FRAME)["anomaly_map"])
    np.testing.assert_array_equal(request.read("score"), expected(FRAME)["score"])
    assert machine.cuda.log.count("cuMemcpyDtoHAsync") == copies + 1, "only what was asked for"
    backend.close()


@pytest.mark.parametrize("gpu", [RTX3080, ORIN], ids=["pinned", "mapped"])
def test_waited_outputs_are_on_the_host_by_default(tmp_path, monkeypatch, gpu):
    machine = Machine(monkeypatch, tmp_path, "10.3.0", gpu)
    backend = machine.open(model())
    request = backend.open_request()
    request.start({"image": FRAME})
    check(request.wait(), FRAME)
    np.testing.assert_array_equal(request.read("score"), expected(FRAME)["score"])
    backend.close()


def test_results_belong_to_the_caller(machine):
    backend = machine.open(model())
    request = backend.open_request()
    first = request.infer({"image": FRAME})
    kept = {name: array.copy() for name, array in first.items()}
    second = request.infer({"image": FRAME + 9})
    for name in first:
        np.testing.assert_array_equal(first[name], kept[name])
        assert not np.may_share_memory(first[name], second[name])
    backend.close()


def test_jetson_maps_memory_and_copies_nothing(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0", ORIN)
    backend = machine.open(model())
    request = backend.open_request()
    check(request.infer({"image": FRAME}), FRAME)
    assert not [call for call in machine.cuda.log if call.startswith("cuMemcpy")]
    assert "cuMemAlloc" not in machine.cuda.log
    backend.close()
    assert machine.cuda.memory == {}


def test_jetson_keeps_outputs_of_kernels_in_device_memory(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0", ORIN)
    backend = machine.open(model())
    request = backend.open_request(device_io=True)
    check(request.infer({"image": FRAME}), FRAME)
    assert machine.cuda.log.count("cuMemAlloc") == 3
    backend.close()


@pytest.mark.parametrize(
    ("memory", "gpu", "maps"), [("mapped", RTX3080, True), ("pinned", ORIN, False)]
)
def test_memory_can_be_chosen(tmp_path, monkeypatch, memory, gpu, maps):
    machine = Machine(monkeypatch, tmp_path, "10.3.0", gpu)
    backend = machine.open(model(), options={"memory": memory})
    check(backend.open_request().infer({"image": FRAME}), FRAME)
    assert ("cuMemAlloc" not in machine.cuda.log) == maps
    backend.close()


def test_timings_are_split_as_trtexec_does(machine):
    backend = machine.open(model(), options={"timing": True})
    request = backend.open_request()
    request.infer({"image": FRAME})
    assert request.timings_ms == {"copy_in": 0.25, "compute": 0.25, "copy_out": 0.25}
    backend.close()


@pytest.mark.parametrize(
    ("feeds", "text"),
    [
        ({"frame": FRAME}, "[FEED] feeds are ['frame']; the engine's inputs are ['image']."),
        ({"image": FRAME[0]}, "[FEED] input image is uint8 (4, 6, 3); the engine takes uint8 (1, 4, 6, 3)."),
        ({"image": FRAME.astype("f4")},
         "[FEED] input image is float32 (1, 4, 6, 3); the engine takes uint8 (1, 4, 6, 3)."),
        ({"image": FRAME.tolist()},
         "[FEED] input image is a list; it must be a NumPy array or have __cuda_array_interface__."),
    ],
)  # fmt: skip
def test_wrong_feeds(machine, feeds, text):
    backend = machine.open(model())
    request = backend.open_request()
    with pytest.raises(BackendError) as caught:
        request.infer(feeds)
    assert str(caught.value) == text
    check(request.infer({"image": FRAME}), FRAME)
    backend.close()


def test_strided_and_read_only_frames_are_taken(machine):
    backend = machine.open(model())
    request = backend.open_request()
    flipped = FRAME[:, ::-1, :, ::-1]
    flipped.flags.writeable = False
    check(request.infer({"image": flipped}), flipped)
    backend.close()


def test_timeout_leaves_the_inference_running(machine):
    backend = machine.open(model())
    request = backend.open_request()
    machine.cuda.pending_polls = 10**9
    request.start({"image": FRAME})
    with pytest.raises(BackendError) as caught:
        request.wait(timeout_s=0.003)
    assert str(caught.value) == "[INFER_TIMEOUT] inference took longer than 3 ms."
    with pytest.raises(BackendError) as caught:
        request.start({"image": FRAME})
    assert str(caught.value) == "[BUSY] the inference before has not been waited for. wait() first."
    machine.cuda.pending_polls = 2
    request.wait(timeout_s=5)
    np.testing.assert_array_equal(request.read("score"), expected(FRAME)["score"])
    backend.close()


def test_wait_before_start(machine):
    backend = machine.open(model())
    with pytest.raises(BackendError) as caught:
        backend.open_request().wait()
    assert str(caught.value) == "[NOT_STARTED] wait() before start(). Call start() first."
    backend.close()


def test_use_after_close(machine):
    backend = machine.open(model())
    request = backend.open_request()
    backend.close()
    for use in (backend.open_request, lambda: request.infer({"image": FRAME})):
        with pytest.raises(BackendError) as caught:
            use()
        assert str(caught.value) == "[CLOSED] this back end is closed. Open the detector again."


@pytest.mark.parametrize(
    "call", ["cuMemAlloc", "cuMemHostAlloc", "cuStreamCreate", "cuEventCreate"]
)
def test_memory_that_runs_out_at_load(machine, call):
    backend = machine.open(model())
    machine.cuda.fail[call] = ["out of memory"]
    with pytest.raises(BackendError) as caught:
        backend.open_request()
    assert (
        str(caught.value)
        == f"[DEVICE_OOM] the GPU has no memory left: {call} failed: out of memory."
    )
    check(backend.open_request().infer({"image": FRAME}), FRAME)
    backend.close()


@pytest.mark.parametrize(
    "call", ["cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync", "cuEventRecord", "cuEventSynchronize"]
)
def test_lost_device_is_never_tried_again(machine, call):
    backend = machine.open(model())
    request = backend.open_request()
    machine.cuda.fail[call] = [fake_cuda.ILLEGAL_ADDRESS]
    with pytest.raises(BackendError) as caught:
        request.infer({"image": FRAME})
    assert str(caught.value) == (
        f"[DEVICE_LOST] the GPU's context is lost: {call} failed: an illegal memory access was encountered. "
        "Restart the process; nothing in it can use the GPU any more."
    )
    calls = len(machine.cuda.log)
    for use in (backend.open_request, lambda: request.infer({"image": FRAME})):
        with pytest.raises(BackendError) as caught:
            use()
        assert caught.value.code == "DEVICE_LOST"
    assert len(machine.cuda.log) == calls, "CUDA was called again"
    backend.close()


def test_lost_device_in_a_graph_launch(machine):
    backend = machine.open(model())
    request = backend.open_request()
    machine.cuda.fail["cuGraphLaunch"] = ["700"]
    with pytest.raises(BackendError) as caught:
        request.infer({"image": FRAME})
    assert caught.value.code == "DEVICE_LOST"
    assert backend.is_lost
    backend.close()


def test_enqueue_that_returns_false_is_an_error(machine):
    backend = machine.open(model(run="false"))
    with pytest.raises(BackendError) as caught:
        backend.open_request()
    assert str(caught.value) == (
        "[BACKEND_ERROR] tensorrt 10.3.0 could not be started: "
        "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime."
    )
    backend.close()
    assert machine.cuda.memory == {}


def test_forked_child_is_refused(machine, monkeypatch):
    backend = machine.open(model())
    request = backend.open_request()
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    with pytest.raises(StateError) as caught:
        request.infer({"image": FRAME})
    assert str(caught.value) == (
        f"[FORKED] this back end was opened in process {pid}, this is {pid + 1}. "
        "Open it after the fork; CUDA does not survive one."
    )
    memory = dict(machine.cuda.memory)
    backend.close()
    assert machine.cuda.memory == memory, "the child freed what belongs to its parent"


def test_fall_back_that_was_passed_is_taken_and_named(machine):
    backend = machine.open(model(build="refuse"), precision="int8", fallbacks=[("fp16", model())])
    assert backend.precision == "fp16"
    assert backend.notes == (
        "int8 could not be had: [BUILD_REFUSED] tensorrt cannot build the int8 engine: "
        "Error Code 10: Could not find any implementation (refuse).",
    )
    backend.close()
    machine.events.clear()
    machine.open(model(build="refuse"), precision="int8", fallbacks=[("fp16", model())]).close()
    assert machine.events == [], "a build that was refused is not tried at every start"


def test_requests_in_threads(machine):
    backend = machine.open(model())
    failures = []

    def work(shift: int) -> None:
        try:
            request = backend.open_request()
            for n in range(20):
                frame = FRAME + shift + n
                check(request.infer({"image": frame}), frame)
            assert machine.cuda.depth == 0
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(5 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    backend.close()
    assert machine.cuda.memory == {}


def test_request_that_is_dropped_gives_its_memory_back(machine):
    backend = machine.open(model())
    kept = backend.open_request()
    before = set(machine.cuda.memory)
    dropped = backend.open_request()
    assert set(machine.cuda.memory) > before
    del dropped
    gc.collect()
    assert set(machine.cuda.memory) == before
    check(kept.infer({"image": FRAME}), FRAME)
    backend.close()


def test_one_primary_context_a_process(machine):
    machine.open(model()).close()
    machine.open(model()).close()
    assert machine.cuda.log.count("cuDevicePrimaryCtxRetain") == 1
    assert primary_context(0) is primary_context(0)


def test_memory_kinds_are_compared(machine):
    from edgead.backends.trt.measure import compare_memory

    machine.open(model()).close()
    told = compare_memory(
        model(), name=machine.name, precision="fp32", cache_dir=machine.cache, rounds=2, burst=2
    )
    assert told["best"] in ("pinned", "mapped")
    assert 0 < told["pinned"]["median_ms"] <= told["pinned"]["p90_ms"]
    assert set(told["mapped"]) == {"median_ms", "p90_ms"}
    assert machine.cuda.memory == {}
