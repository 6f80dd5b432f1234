"""Commands that look: verify, inspect, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from edgead.cli.common import (
    BackendOption,
    BundleArgument,
    JsonOption,
    PrecisionOption,
    emit,
    number,
    positive,
    table,
)

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(verify)
    app.command()(inspect)
    app.command()(doctor)


def verify(
    bundle: BundleArgument,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Also from so many threads at once: every bit as from one.")
    ] = None,
    frames: Annotated[int, typer.Option(help="With --threads: frames that each judges.")] = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Judge the bundle's golden images on this machine; exit 1 when a score is off, 2 without any.

    Example: edgead verify part.edgead --backend onnxruntime
    """
    from edgead.detector import Detector
    from edgead.golden import golden_frame
    from edgead.testing.threads import same_bits_from_threads

    positive("threads", threads)
    positive("frames", frames)
    with Detector(
        bundle, backend=backend, precision=precision, self_check=False, check_ranges=False
    ) as detector:
        result = detector.verify()
        if threads is not None and result["ok"]:
            golden = [
                golden_frame(detector.bundle, one.name) for one in detector.bundle.manifest.golden
            ]
            found = same_bits_from_threads(detector, golden, threads=threads, frames_each=frames)
            same = not found["differing"] and not found["errors"]
            result |= {"threads": found, "ok": same}
    rows: list[tuple[str, Any]] = [("ok", str(result["ok"])), ("worst", result["worst"])]
    rows += [
        (f"  {one['name']}", f"{one['score']:.5g}, expected {one['expected']:.5g}")
        for one in result["images"]
    ]
    if "threads" in result:
        told = result["threads"]
        differing = f"{told['differing']} of {told['frames']} frames differ"
        rows.append((f"{told['threads']} threads", "; ".join([differing, *told["errors"]])))
    emit(result, as_json, lambda: table("golden images", rows))
    if not result["ok"]:
        raise typer.Exit(1)


def inspect(
    bundle: BundleArgument,
    key: Annotated[
        Path | None, typer.Option(help="Public key: the bundle must be signed with it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What a bundle is: method, thresholds and what they promise, certificates, members.

    Example: edgead inspect part.edgead --json
    """
    from edgead.bundle import read_bundle
    from edgead.choice import certificates
    from edgead.sign import check_signature

    read = read_bundle(bundle)
    if key is not None:
        check_signature(bundle, read.hash, key)
    manifest = read.manifest
    certified = certificates(read)
    result = {
        "bundle_hash": read.hash,
        "signed_by": None if key is None else str(key),
        "manifest": msgspec.to_builtins(manifest),
        "certificates": certified,
    }
    limits, training = manifest.thresholds, manifest.training
    rows: list[tuple[str, Any]] = [
        ("bundle", read.hash),
        ("signed", "not asked" if key is None else f"by the owner of {key}"),
        ("method", f"{manifest.method} on {manifest.backbone} ({training.weights})"),
        ("input", f"{manifest.input.size[1]}x{manifest.input.size[0]}"),
        ("frame", f"{manifest.frame.format.value}, {_size(manifest.frame.size)}"),
        ("golden images", str(len(manifest.golden) or "none: nothing checks its scores")),
        ("trained on", f"{training.images} good images, {training.seconds:.0f} s"),
        ("threshold", f"{limits.threshold:.5g} ({limits.how}, {limits.images} good images)"),
        (
            "promise",
            f"at most {limits.bound:.2%} false rejects at {limits.confidence:.0%} confidence; "
            f"{limits.false_reject_rate:.2%} asked for needs {limits.needed} images",
        ),
    ]
    rows += [
        (
            f"{one['precision']} on {one['backend']}",
            f"{'passed' if one['passed'] else 'not passed'}, {number(one['figures'].get('speedup'))}x",
        )
        for one in certified
    ]
    rows += [(f"  {name}", f"{entry.bytes} bytes") for name, entry in manifest.members.items()]
    emit(result, as_json, lambda: table(str(bundle), rows))


def doctor(
    bundle: Annotated[
        Path | None, typer.Argument(help="Also: what will judge this bundle here, and why.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What this machine has and what will run on it, and why.

    Example: edgead doctor part.edgead
    """
    from edgead.doctor import examine

    result = examine(bundle)
    rows: list[tuple[str, Any]] = [
        (one["name"], f"{one['status']}: {one['text']} {one['hint']}".rstrip())
        for one in result["checks"]
    ]
    for name, backend in result["backends"].items():
        usable = "usable" if backend["usable"] else "not usable"
        rows.append((f"  {name}", f"{usable}: {backend['why']}"))
    emit(result, as_json, lambda: table("doctor", rows))


def _size(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[1]}x{size[0]}"
