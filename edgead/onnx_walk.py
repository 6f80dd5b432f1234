"""A walk over an ONNX file's wire format, before any engine sees a byte of it.

The run-time has no onnx package. This reads just enough of the protobuf encoding to refuse what an
engine must never be asked to load: tensor data outside the file, operators of a foreign domain,
loops without a bound, graphs nested or sized beyond reason, and damage that breaks the structure.
What it cannot find is a changed weight: for that the bundle's SHA-256 is checked first, and the
engine is given the very bytes that were hashed.

Source: onnx.proto (ONNX 1.20, IR version 13) for field numbers; the protobuf encoding reference.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from edgead.errors import BundleError

__all__ = ["OnnxLimits", "OnnxSummary", "OnnxValue", "check_model"]


@dataclass(frozen=True)
class OnnxLimits:
    """What a model may cost to look at.

    Attributes:
        max_bytes: File size.
        max_nodes: Nodes in all graphs and functions together.
        max_depth: Graphs inside graphs.
        max_fields: Wire-format fields read; bounds the time of the walk to seconds.
    """

    max_bytes: int = 512 << 20
    max_nodes: int = 50_000
    max_depth: int = 4
    max_fields: int = 2_000_000


@dataclass(frozen=True)
class OnnxValue:
    """A graph input or output: name, ONNX element type number, sizes (-1 or a name: dynamic)."""

    name: str
    element_type: int
    shape: tuple[int | str, ...]


@dataclass
class OnnxSummary:
    """What the walk saw."""

    ir_version: int = 0
    opset: int = 0
    inputs: list[OnnxValue] = field(default_factory=list)
    outputs: list[OnnxValue] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    initializer_bytes: int = 0


_LIMITS = OnnxLimits()
_DOMAINS = frozenset({"", "ai.onnx"})
#: How often their body runs is known only while it runs: no deadline could be promised.
_UNBOUNDED = frozenset({"Loop", "Scan", "SequenceMap"})
# Element type -> bits; complex and string tensors have no use in an image model.
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64}
_BITS |= {16: 16, 17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4}

# Field numbers by message: m = nested message, s = text, b = bytes, v = varint, f = 32-bit,
# p = repeated number, packed or not. A number that is not listed is refused: what we cannot name,
# an engine might still obey.
_MODEL = {1: "v", 2: "s", 3: "s", 4: "s", 5: "v", 6: "s", 7: "m", 8: "m", 14: "m", 25: "m"}
_GRAPH = {1: "m", 2: "s", 5: "m", 10: "s", 11: "m", 12: "m", 13: "m", 14: "m", 15: "m", 16: "m"}
_NODE = {1: "s", 2: "s", 3: "s", 4: "s", 5: "m", 6: "s", 7: "s", 8: "s", 9: "m"}
_ATTRIBUTE = {
    **{1: "s", 2: "f", 3: "v", 4: "b", 5: "m", 6: "m", 7: "p", 8: "p", 9: "b", 10: "m", 11: "m"},
    **{13: "s", 14: "m", 15: "m", 20: "v", 21: "s", 22: "m", 23: "m"},
}
_TENSOR = {
    **{1: "p", 2: "v", 4: "p", 5: "p", 6: "b", 7: "p", 8: "s", 9: "b", 10: "p", 11: "p", 12: "s"},
    **{13: "m", 14: "v", 16: "m"},
}
_SPARSE = {1: "m", 2: "m", 3: "p"}
_FUNCTION = {
    **{1: "s", 4: "s", 5: "s", 6: "s", 7: "m", 8: "s", 9: "m", 10: "s", 11: "m", 12: "m"},
    **{13: "s", 14: "m"},
}
_OPSET = {1: "s", 2: "v"}
_NOTE = {1: "s", 2: "s"}
_QUANTIZATION = {1: "s", 2: "m"}
_VALUE = {1: "s", 2: "m", 3: "s", 4: "m"}
_TYPE = {1: "m", 6: "s"}
_TENSOR_TYPE = {1: "v", 2: "m"}
_SHAPE = {1: "m"}
_DIMENSION = {1: "v", 2: "s", 3: "s"}
_WIRE = {"v": {0}, "f": {5}, "s": {2}, "b": {2}, "m": {2}, "p": {0, 1, 2, 5}}

_Span = tuple[int, int]  # start and end of a nested value in the file
_Field = tuple[int, int, _Span]  # number, varint value (0 for others), span


def check_model(
    data: bytes, *, name: str = "model.onnx", limits: OnnxLimits = _LIMITS
) -> OnnxSummary:
    """Walk the whole model, subgraphs and functions too, and refuse what must not be loaded.

    Raises:
        BundleError: MODEL_EMPTY, MODEL_PICKLE, MODEL_CORRUPT, MODEL_TOO_LARGE, MODEL_EXTERNAL,
            MODEL_OP or MODEL_LIMIT.
    """
    if not data:
        raise BundleError("MODEL_EMPTY", f"{name} is 0 bytes.", "Copy it again.")
    if data.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")):
        raise BundleError(
            "MODEL_PICKLE",
            f"{name} is a pickle or a checkpoint and can run code; edgead does not open it.",
            "Export it to ONNX where it was trained.",
        )
    if len(data) > limits.max_bytes:
        raise BundleError(
            "MODEL_TOO_LARGE", f"{name} has {len(data)} bytes; at most {limits.max_bytes} are read."
        )
    walk = _Walk(data, name, limits)
    walk.model()
    return walk.summary


class _Walk:
    """One pass over one file."""

    def __init__(self, data: bytes, name: str, limits: OnnxLimits) -> None:
        self.data, self.name, self.limits = data, name, limits
        self.summary = OnnxSummary()
        self.fields_left, self.nodes = limits.max_fields, 0

    # --- the encoding ---

    def corrupt(self, what: str) -> NoReturn:
        raise BundleError(
            "MODEL_CORRUPT", f"{self.name}: not a whole ONNX model: {what}.", "Copy it again."
        )

    def beyond(self, what: str, limit: int) -> NoReturn:
        raise BundleError("MODEL_LIMIT", f"{self.name}: {what}; at most {limit} are read.")

    def varint(self, position: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            if position >= end or shift >= 70:
                self.corrupt(f"a number breaks off at byte {position}")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF, position
            shift += 7

    def fields(self, span: _Span, known: dict[int, str], message: str) -> Iterator[_Field]:
        position, end = span
        while position < end:
            self.fields_left -= 1
            if self.fields_left < 0:
                self.beyond("it has too many fields", self.limits.max_fields)
            at = position
            key, position = self.varint(position, end)
            number, wire = key >> 3, key & 7
            if number not in known or wire not in _WIRE[known[number]]:
                self.corrupt(f"{message} has an unknown field {number} at byte {at}")
            value = 0
            start = position
            if wire == 0:
                value, position = self.varint(position, end)
            elif wire == 2:
                size, start = self.varint(position, end)
                position = start + size
            else:
                position += 8 if wire == 1 else 4
            if position > end:
                self.corrupt(f"{message} breaks off at byte {end}")
            if known[number] == "s":
                self.text((start, position))  # engines decode each name, and fail untyped
            yield number, value, (start, position)

    def text(self, span: _Span) -> str:
        try:
            return self.data[span[0] : span[1]].decode()
        except UnicodeDecodeError:
            self.corrupt(f"the text at byte {span[0]} is not UTF-8")

    # --- the messages ---

    def model(self) -> None:
        graphs = 0
        for number, value, span in self.fields((0, len(self.data)), _MODEL, "the model"):
            if number == 1:
                self.summary.ir_version = value
            elif number == 7:
                graphs += 1
                self.graph(span, depth=0)
            elif number == 8:
                self.summary.opset = self.opset(span) or self.summary.opset
            elif number == 14:
                self.note(span)
            elif number == 25:
                self.function(span)
        if graphs != 1 or not self.summary.opset or not self.summary.outputs:
            self.corrupt("it has no single graph with outputs and an operator set")

    def opset(self, span: _Span) -> int:
        """Version of an operator set, 0 for one of a foreign domain."""
        domain, version = "", 0
        for number, value, part in self.fields(span, _OPSET, "an operator set"):
            if number == 1:
                domain = self.text(part)
            else:
                version = value
        return version if domain in _DOMAINS else 0

    def graph(self, span: _Span, *, depth: int) -> None:
        if depth > self.limits.max_depth:
            self.beyond("graphs are nested too deep", self.limits.max_depth)
        for number, _, part in self.fields(span, _GRAPH, "a graph"):
            if number == 1:
                self.node(part, depth=depth)
            elif number == 5:
                self.tensor(part)
            elif number == 15:
                self.sparse(part)
            elif number in (11, 12, 13):
                value = self.value(part)
                if number != 13 and depth == 0:
                    (self.summary.inputs if number == 11 else self.summary.outputs).append(value)
            elif number == 14:
                for inner, _, note in self.fields(part, _QUANTIZATION, "an annotation"):
                    if inner == 2:
                        self.note(note)
            elif number == 16:
                self.note(part)

    def note(self, span: _Span) -> None:
        """A key and a value for people: read only to hold their text to UTF-8."""
        for _ in self.fields(span, _NOTE, "a note"):
            pass

    def function(self, span: _Span) -> None:
        for number, _, part in self.fields(span, _FUNCTION, "a function"):
            if number == 7:
                self.node(part, depth=1)
            elif number == 9:
                self.opset(part)
            elif number == 11:
                self.attribute(part, depth=1)
            elif number == 12:
                self.value(part)
            elif number == 14:
                self.note(part)

    def node(self, span: _Span, *, depth: int) -> None:
        self.nodes += 1
        if self.nodes > self.limits.max_nodes:
            self.beyond("it has too many nodes", self.limits.max_nodes)
        operator = domain = ""
        for number, _, part in self.fields(span, _NODE, "a node"):
            if number == 4:
                operator = self.text(part)
            elif number == 7:
                domain = self.text(part)
            elif number == 5:
                self.attribute(part, depth=depth)
            elif number == 9:
                self.note(part)
        if domain not in _DOMAINS or operator in _UNBOUNDED or not operator:
            raise BundleError(
                "MODEL_OP",
                f"{self.name}: node {self.nodes - 1} is {operator!r} of domain {domain!r}; "
                "want a standard ONNX operator whose work is bounded.",
                "Export the model without it.",
            )
        self.summary.operators[operator] += 1

    def attribute(self, span: _Span, *, depth: int) -> None:
        for number, _, part in self.fields(span, _ATTRIBUTE, "an attribute"):
            if number in (5, 10):
                self.tensor(part)
            elif number in (6, 11):
                self.graph(part, depth=depth + 1)
            elif number in (22, 23):
                self.sparse(part)
            elif number in (14, 15):
                self.type(part)

    def sparse(self, span: _Span) -> None:
        for number, _, part in self.fields(span, _SPARSE, "a sparse tensor"):
            if number in (1, 2):
                self.tensor(part)

    def tensor(self, span: _Span) -> None:
        """Data inside the file, and exactly as much of it as the sizes say."""
        dims: list[int] = []
        kind, counted, raw, label = 0, 0, None, ""
        for number, value, part in self.fields(span, _TENSOR, "a tensor"):
            if number == 1:
                dims += self.numbers(part)
            elif number == 2:
                kind = value
            elif number == 8:
                label = self.text(part)
            elif number == 9:
                raw = part[1] - part[0]
            elif number == 16:
                self.note(part)
            elif number in (4, 5, 7, 10, 11):
                counted += self.count(number, part)
            elif number == 13 or (number == 14 and value):
                raise BundleError(
                    "MODEL_EXTERNAL",
                    f"{self.name}: tensor {label!r} keeps its data outside the file.",
                    "Save the model as one file, without external data.",
                )
        bits = _BITS.get(kind)
        if bits is None:
            self.corrupt(f"tensor {label!r} has element type {kind}")
        elements = math.prod(dims)
        found = counted if raw is None else raw
        packed = (elements * bits + 7) // 8
        expected = {packed} if raw is not None else {elements, packed if bits == 4 else elements}
        if found not in expected or any(size >= 1 << 63 for size in dims):
            self.corrupt(f"tensor {label!r} {dims} holds {found} instead of {min(expected)}")
        self.summary.initializer_bytes += packed

    def numbers(self, span: _Span) -> list[int]:
        """A repeated integer: one varint, or several packed."""
        start, end = span
        numbers: list[int] = []
        while start < end:
            value, start = self.varint(start, end)
            numbers.append(value)
            if len(numbers) > 64:
                self.beyond("a tensor has too many dimensions", 64)
        return numbers

    def count(self, number: int, span: _Span) -> int:
        """How many elements a typed data field holds: 4- or 8-byte numbers, or varints."""
        size = span[1] - span[0]
        if number in (4, 10):
            return size // (4 if number == 4 else 8)
        return len(self.data[span[0] : span[1]].translate(None, _CONTINUED))

    def value(self, span: _Span) -> OnnxValue:
        name, kind = "", 0
        shape: tuple[int | str, ...] = ()
        for number, _, part in self.fields(span, _VALUE, "an input or output"):
            if number == 1:
                name = self.text(part)
            elif number == 2:
                kind, shape = self.type(part)
            elif number == 4:
                self.note(part)
        return OnnxValue(name, kind, shape)

    def type(self, span: _Span) -> tuple[int, tuple[int | str, ...]]:
        kind = 0
        shape: list[int | str] = []
        for number, _, tensor in self.fields(span, _TYPE, "an input or output type"):
            if number != 1:
                continue
            for inner, value, part in self.fields(tensor, _TENSOR_TYPE, "a tensor type"):
                if inner == 1:
                    kind = value
                else:
                    shape += [
                        self.dimension(dim) for _, _, dim in self.fields(part, _SHAPE, "a shape")
                    ]
        return kind, tuple(shape)

    def dimension(self, span: _Span) -> int | str:
        size: int | str = -1
        for number, value, part in self.fields(span, _DIMENSION, "a dimension"):
            if number in (1, 2):
                size = value if number == 1 else self.text(part)
        return size


_CONTINUED = bytes(range(0x80, 0x100))
