"""What is fuzzed: for each target its seed files, its damage, and what must hold afterwards."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import zipfile
import zlib
from abc import ABC, abstractmethod
from typing import Any

import msgspec
import numpy as np
from safetensors.numpy import save as save_tensors

from edgead.backends import member_for
from edgead.backends.ov import OpenVinoBackend
from edgead.backends.trt.header import EngineKey, pack, unpack
from edgead.bundle import bundle_from_bytes
from edgead.choice import choose
from edgead.heads import Head
from edgead.images import ImageLimits, decode
from edgead.manifest import HeadSpec
from edgead.manifest_reader import parse_manifest
from edgead.onnx_walk import check_model
from edgead.reliability.mutate import mutate_bytes, mutate_json, mutate_tree
from edgead.scorer import head_tensors
from edgead.testing.tiny import TINY_MODEL, tiny_bundle, tiny_frame

__all__ = ["TARGETS", "Target", "target_named"]


class Target(ABC):
    """One kind of file. `read` raises `EdgeadError` or returns; nothing else may happen."""

    #: Whether every file that differs from its seed must be refused.
    all_refused = False

    def __init__(self) -> None:
        self.seeds = self.make_seeds()

    @abstractmethod
    def make_seeds(self) -> list[bytes]:
        """Sound files; each must be read."""

    @abstractmethod
    def read(self, data: bytes) -> None:
        """Read one file as the product does; raise AssertionError when it breaks a promise."""

    def mutate(self, seed: bytes, draw: random.Random) -> bytes:
        """A damaged file."""
        return mutate_bytes(seed, draw)


class _Manifest(Target):
    def make_seeds(self) -> list[bytes]:
        tree = msgspec.to_builtins(tiny_bundle().manifest)
        return [json.dumps(tree, sort_keys=True, indent=1).encode()]

    def read(self, data: bytes) -> None:
        manifest = parse_manifest(data)
        again = parse_manifest(json.dumps(msgspec.to_builtins(manifest)).encode())
        assert again == manifest, "written and read again, the manifest differs"

    def mutate(self, seed: bytes, draw: random.Random) -> bytes:
        return mutate_json(seed, draw)


class _Bundle(Target):
    """Half is damage to the file; half is another, well-formed archive.

    A consistent bundle with another manifest is another bundle, not damage: it has another hash.
    """

    def make_seeds(self) -> list[bytes]:
        bundles = [tiny_bundle(), tiny_bundle(**{"calibration.json": b"{}"})]
        self._hashes = {bundle.hash for bundle in bundles}
        return [bundle.to_bytes() for bundle in bundles]

    def read(self, data: bytes) -> None:
        bundle = bundle_from_bytes(data)
        assert bundle.to_bytes() == data, "what was read is not what the file held"
        assert bundle.hash not in self._hashes or data in self.seeds, "changed, with the same hash"

    def mutate(self, seed: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return mutate_bytes(seed, draw)
        with zipfile.ZipFile(io.BytesIO(seed)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        tree = json.loads(members["manifest.json"])
        name = draw.choice(sorted(members))
        kind = draw.randrange(5)
        if kind == 0:
            tree = mutate_tree(tree, draw)
        elif kind == 1 and name != "manifest.json":  # another member, rightly listed
            members[name] = mutate_bytes(members[name], draw)
            digest = hashlib.sha256(members[name]).hexdigest()
            tree["members"][name] = {"bytes": len(members[name]), "sha256": digest}
        elif kind == 2:
            odd = (
                "../a.json",
                "/a.json",
                "a/b.json",
                "golden/../a.png",
                "A" * 200,
                "manifest.json",
            )
            members[draw.choice(odd)] = draw.randbytes(5)
        elif kind == 3:
            del members[name]
        else:
            members[name] = mutate_bytes(members[name], draw)
        if "manifest.json" in members and kind < 2:
            text = json.dumps(tree, sort_keys=True, indent=1, ensure_ascii=False)
            members["manifest.json"] = text.encode("utf-8", "surrogatepass")
        return _zipped(members, draw)


def _zipped(members: dict[str, bytes], draw: random.Random) -> bytes:
    """Mostly as edgead writes it, at times with other methods and modes."""
    method = draw.choice((zipfile.ZIP_STORED,) * 4 + (zipfile.ZIP_DEFLATED,))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members, key=lambda name: (name != "manifest.json", name)):
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.create_system = 3
            info.compress_type = method
            info.external_attr = draw.choice((0o100644,) * 9 + (0o120777,)) << 16
            archive.writestr(info, members[name])
    return buffer.getvalue()


class _Onnx(Target):
    """Half is damage to bytes; half keeps the nesting whole and changes one field's content."""

    def make_seeds(self) -> list[bytes]:
        return [TINY_MODEL]

    def read(self, data: bytes) -> None:
        check_model(data)

    def mutate(self, seed: bytes, draw: random.Random) -> bytes:
        if draw.random() < 0.5:
            return mutate_bytes(seed, draw)
        return _change_field(seed, draw, depth=draw.randrange(6))


class _OnnxEngine(_Onnx):
    """Models that pass the walk are compiled and run, as if their hash had been right."""

    def read(self, data: bytes) -> None:
        check_model(data)
        backend = OpenVinoBackend(data, threads=1)
        feed = np.zeros((1, 8, 8, 3), np.uint8)
        if [(spec.dtype, spec.shape) for spec in backend.inputs.values()] == [
            ("uint8", feed.shape)
        ]:
            backend.open_request().infer({next(iter(backend.inputs)): feed})


def _change_field(data: bytes, draw: random.Random, depth: int) -> bytes:
    """Damage inside one length-delimited protobuf field, with the lengths around it put right."""
    fields: list[tuple[int, int, int]] = []  # start of the length, start and end of the content
    position = 0
    while position < len(data):
        wire = data[position] & 7
        position += 1 + (data[position] >= 0x80)
        if wire == 2 and position < len(data):
            start = position + 1 + (data[position] >= 0x80)
            size = data[position] & 0x7F
            if start == position + 2:
                size |= data[position + 1] << 7
            if start + size > len(data):
                break
            fields.append((position, start, start + size))
            position = start + size
        elif wire == 0:
            while position < len(data) and data[position] >= 0x80:
                position += 1
            position += 1
        else:
            position += 4 if wire == 5 else 8
    if not fields or depth == 0:
        return mutate_bytes(data, draw)
    at, start, end = draw.choice(fields)
    content = _change_field(data[start:end], draw, depth - 1)
    size, length = len(content), b""
    while size >= 0x80:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return data[:at] + length + bytes([size]) + content + data[end:]


class _Image(Target):
    """Four formats, grey and colour, 8 and 16 bits; PNG chunks with their CRC put right again."""

    _limits = ImageLimits(max_pixels=4_000_000)

    def make_seeds(self) -> list[bytes]:
        import cv2

        colour = np.kron(tiny_frame(3), np.ones((2, 2, 1), np.uint8))
        seeds = []
        for pixels in (colour, colour[:, :, 0], colour.astype(np.uint16) * 257):
            for suffix in (".png", ".tiff") + (
                (".jpg", ".bmp") if pixels.dtype == np.uint8 else ()
            ):
                seeds.append(bytes(cv2.imencode(suffix, pixels)[1]))
        progressive = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 2]
        seeds.append(bytes(cv2.imencode(".jpg", colour, progressive)[1]))
        return seeds

    def read(self, data: bytes) -> None:
        frame = decode(data, limits=self._limits)
        height, width = frame.size
        assert height * width <= self._limits.max_pixels, "the pixel limit did not hold"

    def mutate(self, seed: bytes, draw: random.Random) -> bytes:
        damaged = mutate_bytes(seed, draw)
        return _with_crcs(damaged) if draw.random() < 0.7 else damaged


def _with_crcs(data: bytes) -> bytes:
    """PNG chunk checksums put right, so that damage reaches the decoder."""
    fixed, position = bytearray(data), 8
    while data.startswith(b"\x89PNG") and position + 12 <= len(data):
        size = int.from_bytes(data[position : position + 4], "big")
        end = position + 8 + size
        if end + 4 > len(data):
            break
        fixed[end : end + 4] = struct.pack(">I", zlib.crc32(data[position + 4 : end]))
        position = end + 4
    return bytes(fixed)


class _EngineHeader(Target):
    all_refused = True
    _secret = b"k" * 32

    def make_seeds(self) -> list[bytes]:
        key = EngineKey(
            model="0" * 64,
            backend="tensorrt",
            backend_version="10.3.0",
            cuda="12.6",
            gpu={"name": "Orin", "arch": "8.7", "memory_mb": 7620},
            precision="int8",
            shapes={"batch": [1, 1, 1]},
            settings={"level": 3},
        )
        return [pack(key, bytes(range(256)) * 4, {"seconds": 1.0}, self._secret)]

    def read(self, data: bytes) -> None:
        unpack(data, self._secret, source="part.engine")


class _Calibration(Target):
    """What quantising leaves in a bundle: certificates and the head's tensors, rightly hashed."""

    def make_seeds(self) -> list[bytes]:
        certificate = {
            "precision": "int8",
            "backend": "openvino",
            "backend_version": "2026.4",
            "device": "CPU",
            "arithmetic": "native",
            "limits": {"auroc": 0.005},
            "figures": {"speedup": 2.5, "auroc": [0.99, 0.99]},
            "passed": True,
        }
        self._bundle = tiny_bundle(**{"model.int8.onnx": TINY_MODEL})
        centroids = np.arange(12, dtype=np.float32).reshape(3, 4)
        return [json.dumps([certificate]).encode(), save_tensors({"centroids": centroids})]

    def read(self, data: bytes) -> None:
        if not data.startswith(self.seeds[1][:8]):  # the length of a safetensors header
            bundle = self._bundle.with_members({"certificates.json": data})
            choice = choose(bundle, backend="openvino")
            member_for(choice.backend, choice.precision, bundle.members)
        else:
            bundle = self._bundle.with_members({"head.safetensors": data})
            Head(HeadSpec(kind="kmeans", sigma=0.0), head_tensors(bundle))

    def mutate(self, seed: bytes, draw: random.Random) -> bytes:
        if seed.startswith(b"["):
            return mutate_json(seed, draw)
        return mutate_bytes(seed, draw)


TARGETS: dict[str, type[Target]] = {
    "bundle": _Bundle,
    "manifest": _Manifest,
    "onnx": _Onnx,
    "onnx-engine": _OnnxEngine,
    "image": _Image,
    "calibration": _Calibration,
    "engine-header": _EngineHeader,
}


def target_named(name: str) -> Target:
    """A target, with its seeds made."""
    made: Any = TARGETS[name]()
    return made  # type: ignore[no-any-return]
