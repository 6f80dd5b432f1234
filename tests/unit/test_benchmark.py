"""What ``benchmark`` reports: its keys, their arithmetic and what it refuses; never how fast."""

from __future__ import annotations

import json

import pytest
from bundles import tiny_bundle, tiny_frame, tiny_manifest

from edgead.bundle import Bundle, write_bundle
from edgead.errors import ConfigError, FrameError
from edgead.evaluate.benchmark import benchmark
from edgead.images import save_image

_TIMES = {"fps", "p50_ms", "p90_ms", "p99_ms", "max_ms", "samples"}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("benchmark") / "tiny.edgead"
    write_bundle(path, tiny_bundle())
    return path


@pytest.fixture(scope="module")
def result(bundle):
    return benchmark(bundle, seconds=0.05, period_ms=2, line_rate=1.0, threads=1)


def test_the_keys_that_programs_read(result):
    wanted = {
        "backend",
        "backend_version",
        "precision",
        "bundle_hash",
        "threads",
        "frame_size",
        "input_size",
        "raw_engine",
        "end_to_end",
        "stages_ms",
        "overhead_ratio",
        "batch",
        "throughput",
        "line_rate",
        "power",
        "peak_rss_mb",
        "machine",
    }
    assert wanted <= set(result)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["raw_engine"]) == set(result["end_to_end"]) == set(result["paced"]) == _TIMES
    assert (result["backend"], result["precision"], result["threads"]) == ("openvino", "fp32", 1)
    assert (result["frame_size"], result["input_size"]) == ([16, 16], [8, 8])
    assert result["bundle_hash"] == tiny_bundle().hash


def test_the_figures_fit_together(result):
    for part in (result["raw_engine"], result["end_to_end"], result["paced"]):
        assert 0 < part["p50_ms"] <= part["p90_ms"] <= part["p99_ms"] <= part["max_ms"]
    raw, whole = result["raw_engine"], result["end_to_end"]
    assert raw["samples"] == whole["samples"] >= 20  # in turn
    assert result["overhead_ratio"] == pytest.approx(raw["p50_ms"] / whole["p50_ms"])
    assert set(result["stages_ms"]) == {"preprocess", "infer", "postprocess"}
    assert [row["n"] for row in result["batch"]] == [1, 2, 4, 8]
    for row in result["batch"]:
        assert row["fps"] * row["ms_per_frame"] == pytest.approx(1000)
    ways = [(row["threads"], row["hint"]) for row in result["throughput"]]
    assert ways == [(1, "latency"), (1, "throughput")]
    assert all(row["fps"] > 0 for row in result["throughput"])
    assert result["peak_rss_mb"] > 10


def test_a_line_rate_is_judged_at_p99(result, bundle):
    can = 60_000 / result["end_to_end"]["p99_ms"]
    assert result["line_rate"] == {"asked": 1.0, "ok": True, "headroom": can - 1}
    too_fast = benchmark(bundle, seconds=0.01, line_rate=1e9, threads=1)["line_rate"]
    assert not too_fast["ok"]
    assert too_fast["headroom"] < 0


def test_a_folder_of_images(bundle, tmp_path):
    for seed in range(3):
        save_image(tmp_path / f"{seed}.png", tiny_frame(seed))
    assert benchmark(bundle, source=tmp_path, seconds=0.01, threads=1)["frames"] == 3
    save_image(tmp_path / "3.png", tiny_frame()[:8])
    with pytest.raises(FrameError) as error:
        benchmark(bundle, source=tmp_path, seconds=0.01, threads=1)
    assert error.value.code == "FRAME_SIZE"


@pytest.mark.parametrize("name", ["seconds", "period_ms", "line_rate"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_options_out_of_range(bundle, name, value):
    with pytest.raises(ConfigError) as error:
        benchmark(bundle, **{name: value})
    assert str(error.value) == f"[BENCHMARK] {name} is {value}; want more than 0."


def test_nothing_to_measure_with(tmp_path):
    path = tmp_path / "bare.edgead"
    bare = Bundle.build(tiny_manifest(), {"model.onnx": tiny_bundle().members["model.onnx"]})
    write_bundle(path, bare)
    with pytest.raises(ConfigError) as error:
        benchmark(path, seconds=0.01, threads=1)
    assert str(error.value) == (
        "[BENCHMARK] the bundle has no golden images to measure with. Give a source."
    )
