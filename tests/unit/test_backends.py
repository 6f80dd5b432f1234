"""Both CPU engines behind the same seam: what they say of a model, compute, refuse and survive."""

from __future__ import annotations

import importlib
import os
import threading

import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_frame

from edgead.backends import BACKENDS, PRECISIONS, member_for, open_backend
from edgead.backends.base import Backend, Request, TensorSpec
from edgead.errors import BackendError, BundleError, ConfigError
from edgead.testing.fakes import FakeBackend

ENGINES = ("openvino", "onnxruntime")


def image(seed=0):
    return np.ascontiguousarray(tiny_frame(seed)[None, :8, :8])


def expected(tensor):
    return tensor.astype(np.float32).mean(axis=3) / 255


@pytest.fixture(params=ENGINES)
def engine(request):
    opened = open_backend(request.param, {"model.onnx": TINY_MODEL}, threads=1)
    yield opened
    opened.close()


def test_what_an_engine_says_of_itself(engine):
    assert isinstance(engine, Backend)
    assert engine.inputs == {"image": TensorSpec("image", (1, 8, 8, 3), "uint8")}
    assert engine.outputs == {"anomaly_map": TensorSpec("anomaly_map", (1, 8, 8), "float32")}
    assert engine.name in ENGINES
    assert engine.precision == "fp32"
    assert engine.version[0].isdigit()
    assert engine.device


def test_one_inference(engine):
    request = engine.open_request()
    assert isinstance(request, Request)
    found = request.infer({"image": image()})
    np.testing.assert_allclose(found["anomaly_map"], expected(image()), atol=1e-6)


def test_openvino_shares_no_weights_between_threads():
    """Streams do, and computed an INT8 graph wrong."""
    opened = open_backend("openvino", {"model.onnx": TINY_MODEL}, threads=3, hint="throughput")
    made = [model.get_property("NUM_STREAMS") for model in opened._compiled]
    threads = [model.get_property("INFERENCE_NUM_THREADS") for model in opened._compiled]
    assert (made, threads) == ([1, 1, 1], [1, 1, 1])
    opened.close()
    with pytest.raises(BackendError) as error:
        opened.open_request()
    assert error.value.code == "CLOSED"


@pytest.mark.parametrize("name", ENGINES)
def test_for_throughput_each_frame_has_a_thread(name):
    cpus = len(os.sched_getaffinity(0))
    opened = open_backend(name, {"model.onnx": TINY_MODEL}, hint="throughput")
    assert opened.in_flight == cpus + 2, "one is prepared and one finished"
    requests = [opened.open_request() for _ in range(opened.in_flight)]
    for turn in range(3):
        for i, request in enumerate(requests):
            request.start({"image": image(turn + i)})
        for i, request in enumerate(requests):
            found = request.wait(10)["anomaly_map"]
            np.testing.assert_allclose(found, expected(image(turn + i)), atol=1e-6)
    opened.close()


def test_an_unknown_hint_is_refused():
    with pytest.raises(ConfigError) as error:
        open_backend("openvino", {"model.onnx": TINY_MODEL}, hint="fast")
    assert str(error.value) == "[HINT] hint is 'fast'; want latency or throughput."


def test_infers_arrays_belong_to_the_caller(engine):
    request = engine.open_request()
    first = request.infer({"image": image(0)})["anomaly_map"]
    kept = first.copy()
    request.infer({"image": image(1)})
    np.testing.assert_array_equal(first, kept)


def test_two_requests_in_flight(engine):
    requests = [engine.open_request() for _ in range(2)]
    tensors = [image(seed) for seed in range(2)]
    for request, tensor in zip(requests, tensors, strict=True):
        request.start({"image": tensor})
    for request, tensor in zip(requests, tensors, strict=True):
        np.testing.assert_allclose(request.wait(10.0)["anomaly_map"], expected(tensor), atol=1e-6)


@pytest.mark.parametrize(
    "feeds",
    [
        {"image": np.zeros((1, 8, 9, 3), np.uint8)},
        {"image": np.zeros((1, 8, 8, 3), np.float32)},
        {"picture": np.zeros((1, 8, 8, 3), np.uint8)},
    ],
)
def test_foreign_inputs_are_a_backend_error(engine, feeds):
    request = engine.open_request()
    with pytest.raises(BackendError) as error:
        request.start(feeds)
        request.wait()
    assert error.value.code == "BACKEND_ERROR"
    assert error.value.message.startswith(f"{engine.name} failed: ")


def test_wait_before_start(engine):
    with pytest.raises(BackendError) as error:
        engine.open_request().wait()
    assert str(error.value) == "[NOT_STARTED] wait() before start(). Call start() first."


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_few_threads_are_not_pinned_where_other_processes_pin_theirs():
    opened = open_backend("openvino", {"model.onnx": TINY_MODEL}, threads=1)
    # The engine's threads change their CPUs only while they compute: it is asked, not they.
    assert opened._compiled[0].get_property("ENABLE_CPU_PINNING") is False
    opened.close()


@pytest.mark.parametrize("is_copied", [False, True], ids=["as it is", "read-only: a copy"])
def test_openvino_reads_no_memory_that_was_freed(is_copied):
    opened = open_backend("openvino", {"model.onnx": TINY_MODEL})
    request, given = opened.open_request(), image()
    given.setflags(write=not is_copied)
    request.start({"image": given})
    (held,) = request._held  # OpenVINO itself keeps only the address
    assert (held is given, np.shares_memory(held, given)) == (not is_copied, not is_copied)
    request.wait()
    opened.close()


def test_closing_twice_and_using_afterwards(engine):
    engine.close()
    engine.close()
    with pytest.raises(BackendError) as error:
        engine.open_request()
    assert str(error.value) == "[CLOSED] this back end is closed. Open the detector again."


def test_many_threads(engine):
    wrong = []

    def work(seed):
        request = engine.open_request()
        for round_ in range(10):
            tensor = image(seed * 10 + round_)
            found = request.infer({"image": tensor})["anomaly_map"]
            if not np.allclose(found, expected(tensor), atol=1e-6):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(("name", "extra"), [("openvino", "cpu"), ("onnxruntime", "onnxruntime")])
def test_an_engine_that_is_not_installed(monkeypatch, name, extra):
    def refuses(module):
        raise ImportError(f"No module named {module!r}")

    monkeypatch.setattr(importlib, "import_module", refuses)
    with pytest.raises(BackendError) as error:
        open_backend(name, {"model.onnx": TINY_MODEL})
    assert str(error.value) == (
        f"[PROVIDER] asked for {name}, which does not import (No module named {name!r}). "
        f"pip install 'edgead[{extra}]'."
    )


@pytest.mark.parametrize(
    ("backend", "precision", "members", "member"),
    [
        ("openvino", "fp32", ("model.onnx",), "model.onnx"),
        ("openvino", "bf16", ("model.onnx",), "model.onnx"),
        ("onnxruntime", "fp16", ("model.onnx", "model.fp16.onnx"), "model.fp16.onnx"),
        ("openvino", "int8", ("model.int8.onnx", "model.int8-u8s8.onnx"), "model.int8.onnx"),
        (
            "onnxruntime",
            "int8",
            ("model.int8.onnx", "model.int8-u8s8.onnx"),
            "model.int8-u8s8.onnx",
        ),
        ("onnxruntime", "int8", ("model.int8.onnx",), "model.int8.onnx"),
        ("tensorrt", "int8", ("model.int8.onnx", "model.int8-qdq.onnx"), "model.int8-qdq.onnx"),
        ("tensorrt", "int8", ("model.int8.onnx", "model.int8-conv.onnx"), "model.int8.onnx"),
        ("tensorrt", "int8", ("model.int8-conv.onnx",), "model.int8-conv.onnx"),
        ("tensorrt-rtx", "int8", ("model.int8-conv.onnx", "model.int8.onnx"), "model.int8.onnx"),
    ],
)
def test_which_member_serves(backend, precision, members, member):
    assert member_for(backend, precision, dict.fromkeys(members, b"")) == member


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_is_fallen_back_to(backend, precision):
    if precision == "fp32" or (backend, precision) == ("openvino", "bf16"):
        assert member_for(backend, precision, {"model.onnx": b""}) == "model.onnx"
        return
    with pytest.raises((BackendError, BundleError)) as error:
        member_for(backend, precision, {"model.onnx": b""})
    assert error.value.code in ("PRECISION", "PRECISION_MISSING")


def test_names_that_nobody_knows():
    with pytest.raises(ConfigError) as error:
        member_for("openvino", "fp8", {})
    assert str(error.value) == (
        "[PRECISION_UNKNOWN] precision is 'fp8'; want one of fp32, bf16, fp16, int8 or auto."
    )


def test_the_fake_keeps_the_seam():
    fake = FakeBackend({"anomaly_map": np.zeros((1, 4, 4), np.float32)})
    assert isinstance(fake, Backend)
    assert isinstance(fake.open_request(), Request)
