"""The three long campaigns on the engine cache; the test suite runs a small part of each.

    python tests/trt_campaign.py flips              # every single bit of an engine of 64 KiB
    python tests/trt_campaign.py race --rounds 50   # 16 processes on one key, builders killed at random

    python tests/trt_campaign.py swap --rounds 100000  # somebody exchanges the file while it is read

All print one JSON object and exit with 1 when a claim does not hold.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from edgead.backends.trt import header
from edgead.backends.trt.cache import EngineStore
from edgead.backends.trt.header import EngineKey
from edgead.errors import BackendError

SECRET = bytes(range(32))
KEY = EngineKey(
    model="a" * 64, backend="tensorrt", backend_version="10.3.0", cuda="12.6",
    gpu={"name": "Orin", "arch": "8.7"}, precision="int8", shapes={}, settings={},
)  # fmt: skip
PLAN = random.Random(7).randbytes(64 * 1024)
DIGEST = hashlib.sha256(PLAN).hexdigest()


def sample() -> bytearray:
    """A signed engine with a plan of 64 KiB."""
    return bytearray(header.pack(KEY, PLAN, {"seconds": 1.0}, SECRET))


def is_refused(data: bytearray) -> bool:
    """True when the file is refused; False is a torn engine in the library's hands."""
    try:
        header.unpack(bytes(data), SECRET, source="sample")
    except BackendError:
        return True
    return False


def flips(stride: int = 1, start: int = 0) -> dict[str, int]:
    """Flip every ``stride``-th bit of the file, each alone."""
    data = sample()
    assert not is_refused(data), "the control must be accepted"
    tried = refused = 0
    for bit in range(start, 8 * len(data), stride):
        data[bit // 8] ^= 1 << bit % 8
        tried += 1
        refused += is_refused(data)
        data[bit // 8] ^= 1 << bit % 8
    return {"bytes": len(data), "tried": tried, "refused": refused}


def race(rounds: int, processes: int, seed: int, kill_share: float = 0.3) -> dict[str, int]:
    """Let ``processes`` ask for one engine at once, ``rounds`` times; some builders die while they build."""
    told = {"rounds": rounds, "processes": processes, "builds": 0, "killed": 0, "torn": 0, "served": 0,
            "wrong_rounds": 0, "left_over": 0}  # fmt: skip
    fork = multiprocessing.get_context("fork")
    for number in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            store = EngineStore(Path(folder) / "cache")
            store._key()
            log = Path(folder) / "log"
            log.touch()
            gate = fork.Event()
            workers = [
                fork.Process(
                    target=_ask, args=(store.folder, log, gate, f"{seed}/{number}/{i}", kill_share)
                )
                for i in range(processes)
            ]
            for worker in workers:
                worker.start()
            gate.set()
            for worker in workers:
                worker.join()
            lines = log.read_text().split()
            killed = sum(worker.exitcode == -signal.SIGKILL for worker in workers)
            builds, served, torn = (lines.count(word) for word in ("build", "good", "torn"))
            told["builds"] += builds
            told["killed"] += killed
            told["served"] += served
            told["torn"] += torn
            everybody_died = killed == processes
            told["wrong_rounds"] += (builds != 1 + killed and not everybody_died) or (
                served != processes - killed
            )
            store.sweep()
            told["left_over"] += len(list(store.folder.glob("build-*"))) + len(
                list(store.folder.glob(".*.tmp"))
            )
    return told


def _ask(folder: Path, log: Path, gate: object, seed: str, kill_share: float) -> None:
    chance = random.Random(seed)
    store = EngineStore(folder)
    gate.wait()
    time.sleep(chance.random() * 0.01)
    plan = store.get_or_build(KEY, lambda: _build(store, log, chance, kill_share))
    _note(log, "good" if hashlib.sha256(plan).hexdigest() == DIGEST else "torn")


def _build(store: EngineStore, log: Path, chance: random.Random, kill_share: float):
    """A builder that dies before, amid or after its work, or while its engine is written."""
    _note(log, "build")
    dies = chance.choice(["before", "amid", "writing"]) if chance.random() < kill_share else ""
    if dies == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    with store.work_folder() as work:
        (work / "plan").write_bytes(PLAN[: len(PLAN) // 2])
        time.sleep(chance.random() * 0.005)
        if dies == "amid":
            os.kill(os.getpid(), signal.SIGKILL)
    if dies == "writing":
        os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    return PLAN, {"seconds": 0.0}


def swap(rounds: int, seed: int) -> dict[str, int]:
    """Load ``rounds`` times while a thread exchanges the file for others and for links to them."""
    told = {"loads": 0, "served": 0, "refused": 0, "foreign": 0, "swaps": 0}
    with tempfile.TemporaryDirectory() as folder:
        store = EngineStore(Path(folder) / "cache")
        good = store.save(KEY, PLAN, {}).read_bytes()
        path, spare = store.path(KEY), store.folder / "spare"
        evil = header.pack(KEY, b"evil" * 9999, {}, b"x" * 32)
        other = store.folder / "evil"
        other.write_bytes(evil)
        stop = threading.Event()

        def exchange() -> None:
            chance = random.Random(seed)
            while not stop.is_set():
                kind = chance.choice(["good", "evil", "torn", "link", "gone"])
                spare.unlink(missing_ok=True)
                if kind == "link":
                    spare.symlink_to(other)
                elif kind != "gone":
                    spare.write_bytes({"good": good, "evil": evil, "torn": good[:999]}[kind])
                    spare.chmod(0o600)
                if kind == "gone":
                    path.unlink(missing_ok=True)
                else:
                    spare.replace(path)
                told["swaps"] += 1

        thread = threading.Thread(target=exchange)
        thread.start()
        try:
            for _ in range(rounds):
                told["loads"] += 1
                try:
                    plan = store.load(KEY)
                except BackendError:
                    told["refused"] += 1
                else:
                    told["served" if plan == PLAN else "foreign"] += 1
        finally:
            stop.set()
            thread.join()
    return told


def _note(log: Path, word: str) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.write(handle, f"{word}\n".encode())
    os.close(handle)


def main() -> int:
    """Run one campaign."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("campaign", choices=["flips", "race", "swap"])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-lock", action="store_true", help="control: the race must turn red")
    chosen = parser.parse_args()
    started = time.monotonic()
    if chosen.no_lock:
        EngineStore.lock = lambda *_, **__: contextlib.nullcontext()
    if chosen.campaign == "flips":
        told = flips()
        holds = told["tried"] == told["refused"]
    elif chosen.campaign == "swap":
        told = swap(chosen.rounds, chosen.seed)
        holds = told["foreign"] == 0 < min(told["served"], told["refused"], told["swaps"])
    else:
        told = race(chosen.rounds, chosen.processes, chosen.seed)
        holds = told["wrong_rounds"] == told["torn"] == told["left_over"] == 0
    sys.stdout.write(
        json.dumps({**told, "holds": holds, "seconds": round(time.monotonic() - started, 1)}) + "\n"
    )
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
