"""What an archive holds: image files, tar shards (WebDataset) and Parquet files, as one ordered list.

Only names, places and sizes are read here, so that millions of images are listed at some hundred bytes
each. A shard that cannot be read becomes one entry with its error: it costs its own images, not the run.
"""

from __future__ import annotations

import glob
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgead.errors import FrameError, SourceError
from edgead.images import read_encoded
from edgead.integrations.fleet.optional import pyarrow, pyarrow_parquet

__all__ = ["IMAGES", "SHARDS", "Item", "ItemReader", "fingerprint", "list_items"]

IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
SHARDS = frozenset({".tar", ".parquet"})
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_WILD = frozenset("*?[")
#: Rows of a Parquet file that are decoded at a time.
_ROWS = 16

#: One entry, plain values: ``path`` (its name in the results), ``file`` and ``kind`` (``file``, ``tar``,
#: ``parquet`` or ``broken``), ``place`` (byte or row in the shard), ``bytes``, ``stamp`` (modification
#: time, ns), and for a broken shard ``code`` and ``message``.
Item = dict[str, Any]
_COLUMNS = ("path", "file", "kind", "place", "bytes", "stamp", "code", "message")


def list_items(root: str | Path, *, without: Path | None = None) -> Any:
    """List an archive.

    Args:
        root: A folder (with its sub-folders), a glob pattern, or one file. Images, ``.tar`` and
            ``.parquet`` files count; hidden and other files are passed over.
        without: A file that is left out: the results, where they are written into the archive.

    Returns:
        A ``pyarrow.Table`` with the keys of `Item`: files by path, a shard's images in its own order.

    Raises:
        SourceError: SOURCE_NOT_FOUND, SOURCE_EMPTY.
        ConfigError: PYARROW_MISSING.
    """
    arrow = pyarrow()
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for path in _files(str(root), without):
        for item in _items_of(path):
            for name in _COLUMNS:
                columns[name].append(item.get(name))
    if not columns["path"]:
        raise SourceError(
            "SOURCE_EMPTY",
            f"{root} holds no image.",
            f"Images are files ending in {', '.join(sorted(IMAGES))}, in .tar or .parquet files too.",
        )
    kinds = {"place": arrow.int64(), "bytes": arrow.int64(), "stamp": arrow.int64()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in _COLUMNS])
    return arrow.table(columns, schema=schema)


def fingerprint(items: Any) -> str:
    """SHA-256 of an archive's list: names, sizes and times of modification, in order."""
    digest = hashlib.sha256()
    for batch in items.select(["path", "bytes", "stamp"]).to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            digest.update(f"{row['path']}\0{row['bytes']}\0{row['stamp']}\n".encode())
    return digest.hexdigest()


def _files(root: str, without: Path | None) -> list[Path]:
    base = Path(root)
    if base.is_dir():
        found = [path for path in base.rglob("*") if not _is_hidden(path.relative_to(base))]
    elif base.exists():
        found = [base]
    elif _WILD & set(root):
        found = [Path(name) for name in glob.glob(root, recursive=True)]  # noqa: PTH207 - rooted too
    else:
        raise SourceError(
            "SOURCE_NOT_FOUND", f"{root} does not exist.", "Give a folder, a pattern or a file."
        )
    left_out = None if without is None else without.resolve()
    return sorted(
        path
        for path in found
        if (path.suffix.lower() in IMAGES | SHARDS or path.name.lower().endswith(_PACKED))
        and path.is_file()
        and path.resolve() != left_out
    )


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _items_of(path: Path) -> Iterator[Item]:
    status = path.stat()
    whole = {"path": str(path), "file": str(path), "bytes": status.st_size}
    whole["stamp"] = status.st_mtime_ns
    name = path.name.lower()
    if path.suffix.lower() in IMAGES:
        yield {**whole, "kind": "file"}
        return
    try:
        if name.endswith(_PACKED):
            raise SourceError(
                "ARCHIVE_PACKED",
                f"{path} is compressed; the images in it cannot be reached one by one.",
                "Unpack it to a plain .tar: images are compressed already.",
            )
        yield from _in_tar(path, whole) if name.endswith(".tar") else _in_parquet(path, whole)
    except SourceError as error:
        yield {**whole, "kind": "broken", "code": error.code, "message": _sentence(error)}


def _in_tar(path: Path, whole: Item) -> Iterator[Item]:
    """WebDataset: every image is a member; what else a sample holds (labels, JSON) is passed over."""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile() and Path(member.name).suffix.lower() in IMAGES:
                    yield {
                        **whole,
                        "path": f"{path}/{member.name}",
                        "kind": "tar",
                        "place": member.offset_data,
                        "bytes": member.size,
                    }
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _damaged(path, error) from error


def _in_parquet(path: Path, whole: Item) -> Iterator[Item]:
    """Column ``image`` (bytes, or a struct with bytes), names from ``path`` or the struct's path."""
    arrow = pyarrow()
    try:
        with pyarrow_parquet().ParquetFile(path) as file:
            column, names = _columns(file.schema_arrow, path)
            row = 0
            for batch in file.iter_batches(batch_size=4096, columns=[names] if names else []):
                texts = _texts(batch, names) if names else [None] * batch.num_rows
                for text in texts:
                    name = f"{path}/{row if text is None else text}"
                    yield {**whole, "path": name, "kind": "parquet", "place": row, "bytes": None}
                    row += 1
    except (arrow.ArrowException, OSError) as error:
        raise _damaged(path, error) from error
    assert column


def _texts(batch: Any, names: str) -> list[str | None]:
    """The names' column, which may be a field of the image's struct."""
    values: list[Any] = batch.column(0).to_pylist()
    inner = names.partition(".")[2]
    return [value.get(inner) if inner and isinstance(value, dict) else value for value in values]


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    """(column of the encoded images, column of their names or ``""``), as Parquet paths."""
    arrow = pyarrow()
    if "image" in schema.names:
        kind = schema.field("image").type
        inner = [kind.field(i).name for i in range(kind.num_fields)]
        is_struct = arrow.types.is_struct(kind) and "bytes" in inner
        is_bytes = arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)
        if is_struct or is_bytes:
            own = "image.path" if is_struct and "path" in inner else ""
            return "image.bytes" if is_struct else "image", (
                "path" if "path" in schema.names else own
            )
    raise SourceError(
        "ARCHIVE_COLUMNS",
        f"{path} has the columns {', '.join(schema.names)}; want a column 'image' of encoded images, "
        "as bytes or as a struct with bytes.",
        "Rename the column, or leave the file out.",
    )


def _damaged(path: Path, error: BaseException) -> SourceError:
    lines = str(error).splitlines()
    return SourceError(
        "ARCHIVE_DAMAGED",
        f"{path} cannot be read to its end: {lines[0] if lines else type(error).__name__}.",
        "Images before the damage were listed; copy the file again for the others.",
    )


def _sentence(error: SourceError) -> str:
    return f"{error.message} {error.hint}".strip()


class ItemReader:
    """Reads encoded images; a Parquet file is kept open where the last row was read."""

    def __init__(self) -> None:
        self._at: tuple[str, int] | None = None
        self._rows: Iterator[bytes | None] = iter(())
        self._open: Any = None

    def __call__(self, item: Item) -> bytes:
        """The bytes of one image.

        Raises:
            FrameError: IMAGE_MISSING and its like; IMAGE_UNREADABLE.
        """
        if item["kind"] == "file":
            return read_encoded(item["file"])
        if item["kind"] == "broken":
            raise FrameError(item["code"], item["message"])
        try:
            data = self._from_tar(item) if item["kind"] == "tar" else self._from_parquet(item)
        except (OSError, pyarrow().ArrowException) as error:
            raise _unreadable(item, str(error).splitlines()[0]) from error
        if data is None:
            raise _unreadable(item, "the row holds no image")
        return data

    def close(self) -> None:
        """Let go of the Parquet file."""
        if self._open is not None:
            self._open.close()
        self._open, self._at = None, None

    def _from_tar(self, item: Item) -> bytes | None:
        with Path(item["file"]).open("rb") as shard:
            shard.seek(item["place"])
            data = shard.read(item["bytes"])
        return data if len(data) == item["bytes"] else None

    def _from_parquet(self, item: Item) -> bytes | None:
        """Rows are asked for in order: only a jump starts the file again, at its row group."""
        wanted = (item["file"], item["place"])
        if self._at != wanted:
            self.close()
            self._open = pyarrow_parquet().ParquetFile(item["file"])
            self._rows = _images_from(self._open, Path(item["file"]), item["place"])
        self._at = (item["file"], item["place"] + 1)
        return next(self._rows, None)


def _images_from(file: Any, path: Path, row: int) -> Iterator[bytes | None]:
    column, _ = _columns(file.schema_arrow, path)
    inner = column.partition(".")[2]
    first = 0
    for group in range(file.num_row_groups):
        count = file.metadata.row_group(group).num_rows
        skip = max(0, row - first)
        first += count
        if skip >= count:
            continue
        for batch in file.iter_batches(batch_size=_ROWS, row_groups=[group], columns=[column]):
            for value in batch.column(0).slice(min(skip, batch.num_rows)):
                plain = value.as_py()
                yield plain.get(inner) if isinstance(plain, dict) else plain
            skip = max(0, skip - batch.num_rows)


def _unreadable(item: Item, why: str) -> FrameError:
    return FrameError(
        "IMAGE_UNREADABLE",
        f"cannot read {item['path']!r}: {why}.",
        "Check that it is a file that you may read.",
    )
