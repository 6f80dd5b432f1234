"""Damaged files by the hundred thousand, read in a child process with limits.

Every input is made from (target, seed, index), so that a finding is repeated by its number. The
parent only watches: a child that dies or stands still is a finding, and a new one goes on behind it.
"""

from __future__ import annotations

import collections
import multiprocessing
import os
import random
import resource
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from edgead import files
from edgead.errors import ConfigError, EdgeadError
from edgead.reliability.targets import TARGETS, target_named

__all__ = ["every_byte", "fuzz", "fuzz_input"]

_MEMORY_BYTES = 4 << 30  # address space of the child, far above what any input may need
_HANG_S = 20.0
_MAX_FINDINGS = 20


def fuzz(
    target: str,
    *,
    runs: int = 100_000,
    seed: int = 0,
    minutes: float | None = None,
    keep: str | Path | None = None,
    plant: str | None = None,
) -> dict[str, Any]:
    """Read ``runs`` damaged files and say what happened.

    Args:
        target: bundle, manifest, onnx, onnx-engine, image or engine-header.
        runs: How many inputs.
        seed: Which inputs.
        minutes: End earlier after this time.
        keep: Folder that gets the inputs of all findings; made when it is not there.
        plant: Positive control: ``crash``, ``hang``, ``untyped`` or ``accept`` happens once in the
            child, and ``ok`` must come out False.

    Returns:
        ``target``, ``seed``, ``runs`` done; ``refused``: error code -> count; ``unchanged``: inputs
        equal to a seed; ``accepted``: others that were read; ``findings``: list of {index, kind,
        text} with kind crash, hang, untyped, accepted, broken promise or seed; ``peak_rss_mb`` of the
        child, ``seconds`` and ``ok``: no finding.

    Raises:
        ConfigError: FUZZ_TARGET.
    """
    if target not in TARGETS:
        raise ConfigError("FUZZ_TARGET", f"target is {target!r}; want one of {', '.join(TARGETS)}.")
    started = time.monotonic()
    ends = started + minutes * 60 if minutes is not None else None
    total = _Totals()
    position = 0
    while position < runs and len(total.findings) < _MAX_FINDINGS:
        position = _watch_child(target, seed, position, runs, ends, plant, total)
        plant = None  # happened, or its child is gone
        if ends is not None and time.monotonic() > ends:
            break
    if keep is not None:
        Path(keep).mkdir(parents=True, exist_ok=True)
        for finding in total.findings:
            path = Path(keep) / f"{target}-{seed}-{finding['index']}.bin"
            files.write_bytes(path, fuzz_input(target, seed, finding["index"]))
    return {
        "target": target,
        "seed": seed,
        "runs": position,
        "refused": dict(total.refused.most_common()),
        "unchanged": total.unchanged,
        "accepted": total.accepted,
        "findings": total.findings,
        "peak_rss_mb": round(total.peak_rss_mb, 1),
        "seconds": round(time.monotonic() - started, 1),
        "ok": not total.findings and position > 0,
    }


def every_byte(target: str = "bundle", *, values: int = 255) -> dict[str, Any]:
    """Change each single byte of a small file, one at a time, and read it.

    Args:
        target: bundle or engine-header: files of which every byte counts.
        values: Other values that each byte takes, 1..255.

    Returns:
        ``target``, ``bytes`` of the file, ``changes`` made, ``accepted`` (positions of changes that
        were read without an error; at most 20), ``seconds`` and ``ok``: none was.

    Raises:
        ConfigError: FUZZ_TARGET.
    """
    if target not in ("bundle", "engine-header"):
        raise ConfigError("FUZZ_TARGET", f"target is {target!r}; want bundle or engine-header.")
    made = target_named(target)
    sound, started = made.seeds[0], time.monotonic()
    accepted: list[int] = []
    damaged = bytearray(sound)
    for index, byte in enumerate(sound):
        for step in range(1, values + 1):
            damaged[index] = byte ^ step
            try:
                made.read(bytes(damaged))
                accepted.append(index)
            except EdgeadError:
                continue
        damaged[index] = byte
    return {
        "target": target,
        "bytes": len(sound),
        "changes": len(sound) * values,
        "accepted": accepted[:20],
        "seconds": round(time.monotonic() - started, 1),
        "ok": not accepted,
    }


def fuzz_input(target: str, seed: int, index: int) -> bytes:
    """The input of one number, e.g. that of a finding."""
    made = target_named(target)
    return _input(made, target, seed, index)


class _Totals:
    def __init__(self) -> None:
        self.refused: collections.Counter[str] = collections.Counter()
        self.unchanged = self.accepted = 0
        self.findings: list[dict[str, Any]] = []
        self.peak_rss_mb = 0.0

    def add(self, report: dict[str, Any]) -> None:
        self.refused.update(report["refused"])
        self.unchanged += report["unchanged"]
        self.accepted += report["accepted"]
        self.findings += report["findings"]
        self.peak_rss_mb = max(self.peak_rss_mb, report["peak_rss_mb"])


def _watch_child(
    target: str,
    seed: int,
    first: int,
    runs: int,
    ends: float | None,
    plant: str | None,
    total: _Totals,
) -> int:
    """Run one child from ``first`` until it ends, dies or stands still; return the next index."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    at = context.Value("q", -1, lock=False)
    child = context.Process(
        target=_child, args=(target, seed, first, runs, ends, plant, at, sender), daemon=True
    )
    child.start()
    sender.close()
    seen, since = -2, time.monotonic()
    while True:
        try:
            if receiver.poll(0.2):
                report = receiver.recv()
                total.add(report)
                if report["is_last"] or len(total.findings) >= _MAX_FINDINGS:
                    child.kill()
                    child.join()
                    following: int = report["next"]
                    return following
                continue
        except EOFError:
            child.join()
            kind, text = "crash", f"the child ended with {child.exitcode}"
            break
        if at.value != seen:
            seen, since = at.value, time.monotonic()
        elif time.monotonic() - since > _HANG_S and seen >= 0:
            child.kill()
            child.join()
            kind, text = "hang", f"no answer within {_HANG_S:.0f} s"
            break
    if at.value < 0:
        total.findings.append({"index": -1, "kind": "seed", "text": "a sound file is refused"})
        return runs
    index: int = at.value
    total.findings.append({"index": index, "kind": kind, "text": text})
    return index + 1


def _child(
    target: str,
    seed: int,
    first: int,
    runs: int,
    ends: float | None,
    plant: str | None,
    at: Any,
    sender: Connection,
) -> None:
    """Read inputs, report every two thousand of them."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # Decoders write their complaints to the process's own output.
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    made = target_named(target)
    for sound in made.seeds:
        made.read(sound)
    report = _empty_report()
    index = first
    while index < runs and (ends is None or time.monotonic() < ends):
        at.value = index
        data = _input(made, target, seed, index)
        _read_one(made, data, index, report, plant if index == first else None)
        index += 1
        if index % 2000 == 0:
            sender.send(_with_memory(report, index, is_last=False))
            report = _empty_report()
    sender.send(_with_memory(report, index, is_last=True))
    sender.close()


def _input(made: Any, target: str, seed: int, index: int) -> bytes:
    draw = random.Random(f"{target}/{seed}/{index}")
    data: bytes = made.mutate(draw.choice(made.seeds), draw)
    for _ in range(8):  # some changes change nothing
        if data not in made.seeds:
            break
        data = made.mutate(data, draw)
    return data


def _read_one(
    made: Any, data: bytes, index: int, report: dict[str, Any], plant: str | None
) -> None:
    try:
        if plant is not None:
            _happen(plant)
        if plant != "accept":
            made.read(data)
    except EdgeadError as error:
        report["refused"][error.code] += 1
        return
    except BaseException as error:
        kind = "broken promise" if isinstance(error, AssertionError) else "untyped"
        text = f"{type(error).__name__}: {str(error)[:200]}"
        report["findings"].append({"index": index, "kind": kind, "text": text})
        return
    if data in made.seeds and plant is None:
        report["unchanged"] += 1
        return
    report["accepted"] += 1
    if made.all_refused or plant == "accept":
        text = "a damaged file was read without an error"
        report["findings"].append({"index": index, "kind": "accepted", "text": text})


def _happen(plant: str) -> None:
    """The planted fault of a positive control."""
    if plant == "crash":
        os.abort()
    if plant == "hang":
        time.sleep(3600)
    if plant == "untyped":
        raise ZeroDivisionError("planted")


def _empty_report() -> dict[str, Any]:
    return {"refused": collections.Counter(), "unchanged": 0, "accepted": 0, "findings": []}


def _with_memory(report: dict[str, Any], index: int, *, is_last: bool) -> dict[str, Any]:
    # Not getrusage: its figure begins with the size of the parent that forked.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return {**report, "peak_rss_mb": peak, "next": index, "is_last": is_last}
