"""One row an image: the columns of the results, and how rows become a part and parts the final file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgead import files, images
from edgead.errors import EdgeadError, StateError, StorageError
from edgead.integrations.fleet.items import Item, ItemReader
from edgead.integrations.fleet.optional import pyarrow, pyarrow_parquet
from edgead.stream.reasons import FailCode
from edgead.types import Detection, Frame, Verdict

__all__ = ["COLUMNS", "TELLING", "Row", "assemble", "encode", "key_of", "lost_row", "row_of"]

#: path, sha256 (of the encoded image), verdict, score, threshold, regions (JSON), stages (JSON,
#: milliseconds), bundle_hash, worker (host/process), and without a verdict code and message.
COLUMNS = (
    "path", "sha256", "verdict", "score", "threshold", "regions", "stages", "bundle_hash", "worker",
    "code", "message",
)  # fmt: skip
#: What only tells where and how fast an image was judged; every other column depends on nothing but
#: image and bundle.
TELLING = frozenset({"stages", "worker"})

Row = dict[str, Any]
_KEY = b"edgead.key"


def row_of(
    item: Item,
    read: ItemReader,
    judge: Callable[[Frame], Detection],
    *,
    bundle_hash: str,
    worker: str,
) -> Row:
    """Read, decode and judge one image; what goes wrong becomes an UNKNOWN with its code.

    Args:
        item: Where the image lies.
        read: Reads it.
        judge: A `Detector`.
        bundle_hash: Of the bundle that judges.
        worker: Who judges.
    """
    row = _unknown(item, bundle_hash, worker)
    try:
        started = time.perf_counter()
        data = read(item)
        row["sha256"] = hashlib.sha256(data).hexdigest()
        were_read = time.perf_counter()
        frame = images.decode(data, name=item["path"])
        decoded = time.perf_counter()
        found = judge(frame)
    except EdgeadError as error:
        return {**row, "code": error.code, "message": f"{error.message} {error.hint}".strip()}
    except Exception as error:  # one image must not end the archive
        text = f"the judge raised {type(error).__name__}: {error}"
        return {**row, "code": FailCode.BACKEND_ERROR.value, "message": text}
    stages = {
        "read": (were_read - started) * 1e3,
        "decode": (decoded - were_read) * 1e3,
        **found.timings_ms,
    }
    return {
        **row,
        "verdict": found.verdict.name,
        "score": found.score,
        "threshold": found.threshold,
        "regions": json.dumps([region.to_json() for region in found.regions]),
        "stages": json.dumps({name: round(ms, 3) for name, ms in stages.items()}),
    }


def lost_row(item: Item, *, bundle_hash: str, worker: str, deaths: int, last: str) -> Row:
    """The row of an image with which every worker died that was given it."""
    text = f"{deaths} workers in a row died with this image; the last one: {last}."
    return {
        **_unknown(item, bundle_hash, worker),
        "code": FailCode.WORKER_LOST.value,
        "message": text,
    }


def _unknown(item: Item, bundle_hash: str, worker: str) -> Row:
    empty = dict.fromkeys(COLUMNS)
    verdict = Verdict.UNKNOWN.name
    told = {"path": item["path"], "verdict": verdict, "bundle_hash": bundle_hash, "worker": worker}
    return {**empty, **told, "regions": "[]", "stages": "{}"}


def encode(rows: Sequence[Row], key: Mapping[str, Any]) -> bytes:
    """Rows as a Parquet file that says what it was made from."""
    stream = io.BytesIO()
    pyarrow_parquet().write_table(_table(rows, key), stream, compression="zstd")
    return stream.getvalue()


def key_of(path: str | Path) -> dict[str, Any] | None:
    """What a file of results was made from; None when it is none, or not whole."""
    arrow = pyarrow()
    try:
        metadata = pyarrow_parquet().read_schema(path).metadata or {}
        key = json.loads(metadata.get(_KEY, b"null"))
    except (arrow.ArrowException, OSError, ValueError):
        return None
    return key if isinstance(key, dict) else None


def assemble(out: Path, parts: Iterable[Path], key: Mapping[str, Any], *, expected: int) -> None:
    """Join parts to the final file, one at a time in memory, atomically.

    Raises:
        StateError: ROWS_LOST when the parts do not hold ``expected`` rows: nothing is written.
        StorageError: The disk is full and its like; the parts are all kept.
    """
    parquet = pyarrow_parquet()
    count = 0
    with files.atomic_writer(out) as stream:
        # A full disk shows again when the writer is closed: the first error is the one that tells.
        with contextlib.ExitStack() as stack:
            writer = parquet.ParquetWriter(stream, _schema(key), compression="zstd")
            stack.callback(_close_quietly, writer)
            for part in parts:
                rows = _read_part(part)
                count += rows.num_rows
                writer.write_table(rows.replace_schema_metadata(_schema(key).metadata))
            stack.pop_all()
            writer.close()
        if count != expected:
            raise StateError(
                "ROWS_LOST", f"the parts of {out} hold {count} rows; {expected} images were listed."
            )


def _close_quietly(writer: Any) -> None:
    with contextlib.suppress(OSError):
        writer.close()


def _read_part(part: Path) -> Any:
    try:
        return pyarrow_parquet().read_table(part)
    except (pyarrow().ArrowException, OSError) as error:
        raise StorageError(
            "PART_DAMAGED",
            f"{part} cannot be read: {str(error).splitlines()[0]}.",
            "Delete it and run again: its images are then judged again.",
        ) from error


def _schema(key: Mapping[str, Any]) -> Any:
    arrow = pyarrow()
    numbers = {"score": arrow.float64(), "threshold": arrow.float64()}
    fields = [(name, numbers.get(name, arrow.string())) for name in COLUMNS]
    return arrow.schema(fields, metadata={_KEY: json.dumps(dict(key), sort_keys=True).encode()})


def _table(rows: Sequence[Row], key: Mapping[str, Any]) -> Any:
    return pyarrow().Table.from_pylist([dict(row) for row in rows], schema=_schema(key))
