"""The engine cache: twelve kinds of mismatch and more, no byte to the library before all checks have passed."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
from fake_tensorrt import model
from trt_machine import InProcess as Machine

from edgead.backends.trt import header
from edgead.backends.trt.cache import EngineStore, default_folder, read_owned
from edgead.backends.trt.header import EngineKey
from edgead.errors import BackendError, StorageError

KEY = EngineKey(
    model="a" * 64,
    backend="tensorrt",
    backend_version="10.3.0",
    cuda="12.6",
    gpu={"name": "Orin", "arch": "8.7", "multiprocessors": 16, "memory_mb": 62841,
         "module": "NVIDIA Jetson AGX Orin"},
    precision="fp16",
    shapes={"batch": [1, 1, 1]},
    settings={"optimization_level": 3},
)  # fmt: skip
PLAN = bytes(range(256)) * 16
REBUILD = " Build it again: edgead build BUNDLE --backend tensorrt --precision fp16."

#: What the file was built for instead, the code and the sentence's middle.
MISMATCHES = [
    ({"backend_version": "10.16.1.11"}, "ENGINE_TENSORRT", "library version 10.16.1.11; needed is 10.3.0."),
    ({"backend_version": "8.6.2"}, "ENGINE_TENSORRT", "library version 8.6.2; needed is 10.3.0."),
    ({"backend": "tensorrt-rtx"}, "ENGINE_BACKEND", "back end tensorrt-rtx; needed is tensorrt."),
    ({"cuda": "13.0"}, "ENGINE_CUDA", "CUDA 13.0; needed is 12.6."),
    ({"gpu": {**KEY.gpu, "arch": "8.6"}}, "ENGINE_ARCH", "SM 8.6; needed is 8.7."),
    ({"gpu": {**KEY.gpu, "name": "Orin Nano"}}, "ENGINE_GPU", "GPU Orin Nano; needed is Orin."),
    ({"gpu": {**KEY.gpu, "multiprocessors": 8}}, "ENGINE_MULTIPROCESSORS", "multiprocessors 8; needed is 16."),
    ({"gpu": {**KEY.gpu, "memory_mb": 7620}}, "ENGINE_MEMORY", "GPU memory in MiB 7620; needed is 62841."),
    ({"gpu": {**KEY.gpu, "module": ""}}, "ENGINE_MODULE", "module (none); needed is NVIDIA Jetson AGX Orin."),
    ({"precision": "int8"}, "ENGINE_PRECISION", "precision int8; needed is fp16."),
    ({"shapes": {"batch": [1, 4, 8]}}, "ENGINE_SHAPES",
     'shapes {"batch": [1, 4, 8]}; needed is {"batch": [1, 1, 1]}.'),
    ({"settings": {"optimization_level": 5}}, "ENGINE_SETTINGS",
     'builder settings {"optimization_level": 5}; needed is {"optimization_level": 3}.'),
    ({"model": "b" * 64}, "ENGINE_MODEL", "model bbbbbbbbbbbbbbbb...; needed is aaaaaaaaaaaaaaaa...."),
]  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return EngineStore(tmp_path / "cache")


@pytest.mark.parametrize(
    ("changes", "code", "middle"), MISMATCHES, ids=[m[1] + str(i) for i, m in enumerate(MISMATCHES)]
)
def test_mismatch_names_both_sides_and_the_command(store, changes, code, middle):
    path = store.save(replace(KEY, **changes), PLAN, {}, path=store.folder / "part.engine")
    with pytest.raises(BackendError) as caught:
        store.load(KEY, path=path)
    assert str(caught.value) == f"[{code}] part.engine was built for {middle}{REBUILD}"


def damaged(kind: str, good: bytes) -> bytes:
    version = header.HEADER_VERSION
    return {
        "empty": b"",
        "bare plan": PLAN,
        "another file": b"\x89PNG\r\n\x1a\n" + good[8:],
        "newer": good[:8] + struct.pack("<I", version + 1) + good[12:],
        "cut in the header": good[:40],
        "cut in the plan": good[:-1],
        "trailing bytes": good + b"\0",
        "plan altered": good[:-1] + bytes([good[-1] ^ 1]),
        "header altered": good.replace(b'"10.3.0"', b'"10.3.1"'),
        "other hash": good[:24] + bytes(32) + good[56:],
    }[kind]


DAMAGES = {
    "empty": ("ENGINE_EMPTY", "{} is 0 bytes (was the disk full?)."),
    "bare plan": ("ENGINE_FOREIGN",
                  r"{} starts with b'\x00\x01\x02\x03\x04\x05\x06\x07': it has no edgead header, and engines are "
                  "executable code."),
    "another file": ("ENGINE_FOREIGN",
                     r"{} starts with b'\x89PNG\r\n\x1a\n': it has no edgead header, and engines are executable "
                     "code."),
    "newer": ("ENGINE_NEWER", "{} has header version 2; this edgead reads 1."),
    "cut in the header": ("ENGINE_TRUNCATED", "{} ends after 40 bytes, in its header."),
    "cut in the plan": ("ENGINE_TRUNCATED", "{} has {short} bytes; its header says {size}."),
    "trailing bytes": ("ENGINE_TRUNCATED", "{} has {long} bytes; its header says {size}."),
    "plan altered": ("ENGINE_DAMAGED", "{}: the engine's SHA-256 is not the header's."),
    "header altered": ("ENGINE_UNTRUSTED",
                       "{} was not signed on this machine; engines are executable code."),
    "other hash": ("ENGINE_UNTRUSTED",
                   "{} was not signed on this machine; engines are executable code."),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_told(store, kind):
    path = store.save(KEY, PLAN, {})
    good = path.read_bytes()
    path.write_bytes(damaged(kind, good))
    with pytest.raises(BackendError) as caught:
        store.load(KEY)
    code, message = DAMAGES[kind]
    text = message.format(path, short=len(good) - 1, long=len(good) + 1, size=len(good))
    assert (
        str(caught.value) == f"[{code}] {text} Delete it and build the engine again: edgead build."
    )


def test_at_least_twelve_kinds_have_codes_of_their_own():
    assert len({m[1] for m in MISMATCHES} | {code for code, _ in DAMAGES.values()}) >= 12


def test_no_mismatch_reaches_the_library(tmp_path, monkeypatch):
    machine = Machine(monkeypatch, tmp_path, "10.3.0")
    backend = machine.open(model())
    key, store = backend.key, EngineStore(machine.cache)
    backend.close()
    path = store.path(key)
    good = path.read_bytes()
    plan = store.load(key)
    machine.trt._counts["deserialise"] = 0
    changes = [{"backend_version": "8.6.1"}, {"cuda": "11.4"}, {"precision": "int8"}, {"model": "c" * 64},
               {"shapes": {"batch": [1, 2, 2]}}, {"settings": {"optimization_level": 0}},
               {"backend": "tensorrt-rtx"},
               *({"gpu": {**key.gpu, name: "x"}} for name in key.gpu)]  # fmt: skip
    wrong = [header.pack(replace(key, **change), plan, {}, store._key()) for change in changes]
    wrong += [damaged(kind, good) for kind in DAMAGES]
    codes = set()
    for data in wrong:
        path.write_bytes(data)
        with pytest.raises(BackendError) as caught:
            machine.open(model(), allow_build=False)
        codes.add(caught.value.code)
    assert len(codes) >= 12
    assert machine.trt._counts["deserialise"] == 0


def test_miss_explains_the_nearest_engine(store):
    store.save(replace(KEY, backend_version="8.6.2", cuda="12.2"), PLAN, {})
    store.save(replace(KEY, backend_version="8.6.2"), PLAN, {})
    store.save(replace(KEY, model="d" * 64), PLAN, {})
    with pytest.raises(BackendError) as caught:
        store.load(KEY)
    assert str(caught.value) == (
        f"[ENGINE_TENSORRT] the cached engine was built for library version 8.6.2; needed is 10.3.0.{REBUILD}"
    )


def test_miss_without_any_engine(store):
    with pytest.raises(BackendError) as caught:
        store.load(KEY, bundle="part.edgead")
    assert str(caught.value) == (
        f"[ENGINE_MISSING] no tensorrt engine of this model in fp16 is in {store.folder}. "
        "Build it: edgead build part.edgead --backend tensorrt --precision fp16."
    )
    with pytest.raises(BackendError) as caught:
        store.load(KEY, path=store.folder / "part.engine")
    assert str(caught.value).startswith(
        f"[ENGINE_MISSING] {store.folder}/part.engine does not exist."
    )


def test_engine_of_another_machine_is_untrusted(tmp_path):
    mine, theirs = EngineStore(tmp_path / "mine"), EngineStore(tmp_path / "theirs")
    path = theirs.save(KEY, PLAN, {})
    (mine.folder / path.name).write_bytes(path.read_bytes())
    (mine.folder / path.name).chmod(0o600)
    with pytest.raises(BackendError) as caught:
        mine.load(KEY)
    assert caught.value.code == "ENGINE_UNTRUSTED"


def test_engine_of_another_machine_is_adopted_by_its_hash(tmp_path):
    mine, theirs = EngineStore(tmp_path / "mine"), EngineStore(tmp_path / "theirs")
    path = theirs.save(KEY, PLAN, {"seconds": 3.0})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(BackendError) as caught:
        mine.adopt(path, sha256="0" * 64)
    assert str(caught.value) == (
        f"[ENGINE_HASH] {path} has SHA-256 {digest}, given was {'0' * 64}. "
        "Take the hash that edgead build printed, and copy the file again."
    )
    mine.adopt(path, sha256=digest.upper())
    assert mine.load(KEY) == PLAN
    assert mine.info(KEY) == {"seconds": 3.0}


@pytest.mark.parametrize("kind", [k for k in DAMAGES if DAMAGES[k][0] != "ENGINE_UNTRUSTED"])
def test_damaged_file_is_not_adopted_whatever_its_hash(store, tmp_path, kind):
    path = tmp_path / "part.engine"
    path.write_bytes(damaged(kind, store.save(KEY, PLAN, {}).read_bytes()))
    with pytest.raises(BackendError) as caught:
        store.adopt(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert caught.value.code == DAMAGES[kind][0]


@pytest.mark.parametrize(
    "text", [b"[]", b"{}", b'{"key": {}, "info": {}}', b"\xff", b"[" * 100_000]
)
def test_header_that_is_none_is_not_adopted(store, tmp_path, text):
    fixed = header._FIXED.pack(header.MAGIC, 1, len(text), 4, hashlib.sha256(b"plan").digest())
    path = tmp_path / "part.engine"
    path.write_bytes(fixed + bytes(32) + text + b"plan")
    with pytest.raises(BackendError) as caught:
        store.adopt(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert caught.value.code == "ENGINE_FOREIGN"


def test_round_trip_and_modes(store):
    path = store.save(KEY, PLAN, {"seconds": 1.5})
    assert store.load(KEY) == PLAN
    assert store.info(KEY) == {"seconds": 1.5}
    assert store.last_seconds(KEY) == 1.5
    modes = {
        p.name.rpartition(".")[2]: oct(p.stat().st_mode & 0o777) for p in store.folder.iterdir()
    }
    assert modes == {"engine": "0o600", "key": "0o600", "lock": "0o600"}
    assert oct(store.folder.stat().st_mode & 0o777) == "0o700"
    assert path.name.startswith("aaaaaaaaaaaaaaaa-fp16-")


@pytest.mark.parametrize("field", ["model", "backend", "backend_version", "cuda", "precision"])
def test_key_depends_on_every_field(field):
    assert replace(KEY, **{field: "other"}).digest != KEY.digest


@pytest.mark.parametrize("field", ["gpu", "shapes", "settings"])
def test_key_depends_on_every_fact(field):
    facts = getattr(KEY, field)
    for name in facts:
        assert replace(KEY, **{field: {**facts, name: "other"}}).digest != KEY.digest


def test_default_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "edgead" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/line")
    assert default_folder() == Path("/home/line/.cache/edgead/engines")


@pytest.mark.parametrize("kind", ["link", "open", "file"])
def test_cache_folder_of_somebody_else_is_refused(tmp_path, kind):
    folder = tmp_path / "cache"
    if kind == "link":
        (tmp_path / "real").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "real")
    elif kind == "open":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        folder.write_text("")
    with pytest.raises(StorageError) as caught:
        EngineStore(folder)
    assert caught.value.code in ("CACHE_FOLDER", "NO_PERMISSION")
    if kind != "file":
        assert str(caught.value) == (
            f"[CACHE_FOLDER] the engine cache {folder} is a link, belongs to another user or can be written by "
            f"others; engines are executable code. Make it yours alone: rm -r {folder}."
        )


def test_readable_folder_is_closed(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir(mode=0o755)
    EngineStore(folder)
    assert oct(folder.stat().st_mode & 0o777) == "0o700"


@pytest.mark.parametrize("kind", ["link", "writable", "fifo", "folder"])
def test_planted_file_is_not_read(store, kind):
    path = store.save(KEY, PLAN, {})
    other = store.folder / "other"
    if kind == "writable":
        path.chmod(0o620)
        what = "can be written by others"
    else:
        path.rename(other)
        if kind == "link":
            path.symlink_to(other)
            what = "is a link"
        elif kind == "fifo":
            os.mkfifo(path, 0o600)
            what = "is not a plain file"
        else:
            path.mkdir()
            what = "is not a plain file"
    with pytest.raises(BackendError) as caught:
        store.load(KEY)
    assert str(caught.value) == f"[ENGINE_FILE] {path} {what}. Delete it and build again."


def test_hashed_bytes_are_the_bytes_used(store, monkeypatch):
    """A file exchanged after it was opened changes nothing: one read, one copy."""
    path = store.save(KEY, PLAN, {})
    evil = header.pack(KEY, b"evil" * 999, {}, b"x" * 32)
    opened = os.open

    def exchange(name, flags, *arguments, **named):
        handle = opened(name, flags, *arguments, **named)
        if str(name) == str(path):
            path.unlink()
            path.write_bytes(evil)
        return handle

    monkeypatch.setattr(os, "open", exchange)
    assert store.load(KEY) == PLAN
    monkeypatch.setattr(os, "open", opened)
    with pytest.raises(BackendError) as caught:
        store.load(KEY)
    assert caught.value.code == "ENGINE_FILE" or caught.value.code == "ENGINE_UNTRUSTED"


def test_damaged_file_is_built_anew(store):
    path = store.save(KEY, PLAN, {})
    path.write_bytes(b"rubbish")
    assert store.get_or_build(KEY, lambda: (PLAN[::-1], {})) == PLAN[::-1]
    assert store.load(KEY) == PLAN[::-1]


def test_refused_build_is_remembered_until_deleted(store):
    tries = []

    def refuse():
        tries.append(1)
        raise BackendError("BUILD_REFUSED", "no implementation.")

    for _ in range(3):
        with pytest.raises(BackendError) as caught:
            store.get_or_build(KEY, refuse)
    assert len(tries) == 1
    assert caught.value.code == "BUILD_REFUSED"
    assert "no implementation. (tried on " in caught.value.message
    marker = next(store.folder.glob("*.refused"))
    assert str(marker) in caught.value.hint
    store.save(KEY, PLAN, {})
    assert not marker.exists()


def test_lock_that_never_frees(store):
    with store.lock(KEY), pytest.raises(BackendError) as caught, store.lock(KEY, timeout_s=0.05):
        pass
    assert caught.value.code == "ENGINE_LOCKED"
    assert "another process has been building aaaaaaaaaaaaaaaa-fp16-" in str(caught.value)


def test_sweep_takes_what_dead_builders_left(store):
    dead = store.folder / "build-999999999-ab"
    dead.mkdir()
    (dead / "plan").write_bytes(b"x")
    temporary = store.folder / f".{KEY.stem}.engine.edgead-999999999-abc.tmp"
    temporary.write_bytes(b"x")
    alive = store.folder / f"build-{os.getpid()}-cd"
    alive.mkdir()
    store.sweep()
    assert not dead.exists()
    assert not temporary.exists()
    assert alive.exists()


def test_short_signing_key_is_refused(store):
    (store.folder / "machine.key").write_bytes(b"short")
    (store.folder / "machine.key").chmod(0o600)
    with pytest.raises(StorageError) as caught:
        store.save(KEY, PLAN, {})
    assert str(caught.value) == (
        f"[CACHE_KEY] {store.folder}/machine.key holds 5 bytes, a signing key has 32. "
        f"Delete {store.folder} and build the engines again."
    )


def test_header_is_readable_json(store):
    data = store.save(KEY, PLAN, {"seconds": 2}).read_bytes()
    length = struct.unpack_from("<I", data, 12)[0]
    told = json.loads(data[88 : 88 + length])
    assert told["key"]["backend_version"] == "10.3.0"
    assert told["info"] == {"seconds": 2}


def test_read_owned_refuses_other_users(store, monkeypatch):
    path = store.save(KEY, PLAN, {})
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(BackendError) as caught:
        read_owned(path)
    assert str(caught.value) == (
        f"[ENGINE_FILE] {path} belongs to user {os.getuid()}. Delete it and build again."
    )
