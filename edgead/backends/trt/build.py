"""Building engines: key, memory budget, and what to try when a build is refused."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgead import files
from edgead.backends.trt import api, device
from edgead.backends.trt.cache import EngineStore
from edgead.backends.trt.header import EngineKey
from edgead.backends.trt.options import PRECISIONS, TrtOptions
from edgead.backends.trt.process import Estimate, run_child
from edgead.errors import BackendError, ConfigError

__all__ = ["Candidate", "build_engine", "build_plan", "estimate", "make_key"]

Candidate = tuple[str, bytes]

#: What TensorRT's builder takes before it parses anything, on Orin with TensorRT 10.3
#: (NVIDIA/TensorRT issue 4494): 0.9 GB of host and 0.75 GB of GPU memory.
_BUILDER_HOST_BYTES = 900 * 10**6
_BUILDER_GPU_BYTES = 750 * 10**6
#: File, parsed weights, converted weights, plan: each about one copy of the model.
_MODEL_COPIES = 4
_SMALLEST_WORKSPACE = 64 * 2**20
_LARGEST_WORKSPACE = 2 * 2**30


def estimate(model_bytes: int, gpu: device.Gpu | None, *, seconds: float | None) -> Estimate:
    """Memory that a build takes and the workspace it may have.

    On a Jetson GPU and CPU share the RAM, so all of it comes out of MemAvailable, and the build is
    refused before it starts where that is too little.

    Raises:
        BackendError: DEVICE_OOM with both numbers.
    """
    host = _BUILDER_HOST_BYTES + _MODEL_COPIES * model_bytes
    if gpu is None or not gpu.integrated:
        return Estimate(host, None, None, seconds)
    needs = host + _BUILDER_GPU_BYTES
    available = device.available_memory()
    spare = available - needs
    if spare < _SMALLEST_WORKSPACE:
        raise BackendError(
            "DEVICE_OOM",
            f"the build needs about {(needs + _SMALLEST_WORKSPACE) / 1e9:.1f} GB, "
            f"{available / 1e9:.1f} GB are available on {gpu.module or gpu.name} "
            "(shared by CPU and GPU).",
            "Stop other programs and the desktop, or add swap, and build again.",
        )
    return Estimate(needs, available, min(spare // 2, _LARGEST_WORKSPACE), seconds)


def make_key(
    model: bytes,
    *,
    name: str,
    precision: str,
    version: str,
    cuda: device.Cuda | None,
    gpu: device.Gpu | None,
    target: str | None,
    options: TrtOptions,
) -> EngineKey:
    """The key of an engine; see `EngineKey`.

    A TensorRT-RTX engine is finished on the GPU that loads it and fits every GPU of its
    architecture, so its key holds the architecture alone.
    """
    facts: dict[str, Any]
    if name == "tensorrt-rtx":
        facts = {"arch": _arch_of(target) if target else gpu.arch if gpu else ""}
    elif gpu is None:
        raise BackendError("NO_GPU", f"an engine of {name} needs a GPU to be built for.")
    else:
        facts = {k: v for k, v in gpu.to_json().items() if k != "integrated"}
    return EngineKey(
        model=hashlib.sha256(model).hexdigest(),
        backend=name,
        backend_version=version,
        cuda="" if name == "tensorrt-rtx" or cuda is None else cuda.version,
        gpu=facts,
        precision=precision,
        shapes={"batch": list(options.batch)},
        settings={"optimization_level": options.optimization_level},
    )


def build_engine(
    model: bytes,
    *,
    name: str,
    precision: str,
    target: str | None = None,
    out: Path | None = None,
    optimization_level: int = 3,
    cache_dir: str | Path | None = None,
    fallbacks: Sequence[Candidate] = (),
    options: TrtOptions | None = None,
) -> dict[str, Any]:
    """Build an engine ahead of time, into the cache or into a file of its own.

    Args:
        model: Bytes of the ONNX file; its types are the engine's types.
        name: tensorrt or tensorrt-rtx.
        precision: fp32, fp16 or int8: what the model is.
        target: Architecture such as ``sm86`` for TensorRT-RTX, which then needs no GPU; None builds
            for the GPU at hand.
        out: File to write; None writes into the cache.
        optimization_level: Builder effort 0..5; more is slower to build.
        cache_dir: Cache folder; None is the user's own.
        fallbacks: (precision, model) to try in turn when the builder refuses the one before, e.g.
            a coarser Q/DQ layout, then FP16. What was built is in the result.
        options: Further options; its ``optimization_level`` gives way to the argument.

    Returns:
        engine (path), seconds, bytes, key, sha256 (of the file, to vouch for it elsewhere),
        precision, version, typing, estimate, notes.

    Raises:
        ConfigError: BACKEND_UNKNOWN, PRECISION_UNKNOWN, TARGET or OPTIMIZATION_LEVEL.
        BackendError: NO_DRIVER, NO_GPU, PROVIDER, CAMERA_RUNNING, DEVICE_OOM,
            MODEL_REFUSED or BUILD_REFUSED.
    """
    options = _with_level(options, optimization_level)
    candidates = [(precision, model), *fallbacks]
    _check(name, target, [kind for kind, _ in candidates])
    cuda, gpu = (None, None) if target else _asked(name, options)
    version = str(api.load(name).__version__)
    store = EngineStore(cache_dir)
    notes: list[str] = []
    with store.no_camera_loop(force=options.force):
        for position, (kind, data) in enumerate(candidates):
            key = make_key(
                data, name=name, precision=kind, version=version, cuda=cuda, gpu=gpu,
                target=target, options=options,
            )  # fmt: skip
            try:
                with store.lock(key):
                    plan, info = build_plan(data, key, store=store, gpu=gpu, options=options)
                    path = store.save(key, plan, info, path=out)
            except BackendError as error:
                if not _can_try_next(error) or position + 1 == len(candidates):
                    raise
                nearest = candidates[position + 1][0]
                taken = f"the bundle's next {kind} model" if nearest == kind else nearest
                notes.append(f"{kind} was refused ({error.message}); built {taken} instead.")
                continue
            return _told(path, key, info, notes)
    raise AssertionError("unreachable: the last candidate returns or raises")


def _told(path: Path, key: EngineKey, info: dict[str, Any], notes: list[str]) -> dict[str, Any]:
    """What `build_engine` returns."""
    return {
        "engine": str(path),
        "seconds": round(float(info["seconds"]), 3),
        "bytes": path.stat().st_size,
        "key": key.digest,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "precision": key.precision,
        "version": key.backend_version,
        "typing": info["typing"],
        "estimate": info["estimate"],
        "notes": notes + info["notes"],
    }


def _can_try_next(error: BackendError) -> bool:
    return error.code in ("BUILD_REFUSED", "MODEL_REFUSED")


def build_plan(
    model: bytes,
    key: EngineKey,
    *,
    store: EngineStore,
    gpu: device.Gpu | None,
    options: TrtOptions,
) -> tuple[bytes, dict[str, Any]]:
    """Run the build in a child process, with each way of typing that the version has.

    Returns:
        The plan and the record for its header: seconds, layers, typing, inputs, outputs, notes,
        estimate.

    Raises:
        BackendError: DEVICE_OOM when memory runs out or the kernel kills the child for it;
            MODEL_REFUSED, BUILD_REFUSED, BUILD_KILLED.
    """
    expected = estimate(len(model), gpu, seconds=store.last_seconds(key))
    tell = options.on_progress or _quiet
    tell({"estimate": expected.to_json()})
    row = api.api_for(key.backend, key.backend_version)
    refused: list[str] = []
    with store.work_folder() as work:
        (work / "model.onnx").write_bytes(model)
        for position, typing in enumerate(row.typings):
            job = _job(key, work, store, expected, options, typing)
            try:
                record = run_child(job, work, expected=expected, tell=tell)
            except BackendError as error:
                if error.code != "BUILD_REFUSED" or position + 1 == len(row.typings):
                    raise
                refused.append(f"typing {typing!r} was refused ({error.message})")
                tell({"note": refused[-1]})
                continue
            if (work / "timings").is_file():
                files.write_bytes(job["timing_cache"], (work / "timings").read_bytes(), mode=0o600)
            record["notes"] = refused + record["notes"]
            record["estimate"] = expected.to_json()
            return (work / "plan").read_bytes(), record
    raise AssertionError("unreachable: the last typing returns or raises")


def _quiet(_: dict[str, Any]) -> None:
    """Tell nobody."""


def _job(
    key: EngineKey,
    work: Path,
    store: EngineStore,
    expected: Estimate,
    options: TrtOptions,
    typing: str,
) -> dict[str, Any]:
    timings = store.folder / f"timings-{key.backend}-{key.backend_version}-{key.gpu['arch']}.bin"
    return {
        "name": key.backend,
        "model": str(work / "model.onnx"),
        "plan": str(work / "plan"),
        "precision": key.precision,
        "typing": typing,
        "batch": list(options.batch),
        "optimization_level": options.optimization_level,
        "workspace_bytes": expected.workspace,
        "timing_cache": str(timings) if key.backend == "tensorrt" else None,
        "timings_out": str(work / "timings"),
        "target": _target_of(key),
        "device_index": options.device_index,
    }


def _target_of(key: EngineKey) -> str | None:
    target = f"sm{str(key.gpu['arch']).replace('.', '')}"
    return target if key.backend == "tensorrt-rtx" and target in api.TARGETS else None


def _arch_of(target: str) -> str:
    return f"{target[2:-1]}.{target[-1]}"


def _with_level(options: TrtOptions | None, level: int) -> TrtOptions:
    given = TrtOptions() if options is None else options
    return TrtOptions(**{**vars(given), "optimization_level": level})


def _check(name: str, target: str | None, precisions: Iterable[str]) -> None:
    api.check_target(target, name=name)
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ConfigError(
                "PRECISION_UNKNOWN", f"precision {precision!r} is not one of {PRECISIONS}."
            )


def _asked(name: str, options: TrtOptions) -> tuple[device.Cuda, device.Gpu]:
    return device.require_gpu(name, device_index=options.device_index)
