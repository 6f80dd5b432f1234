"""What is found in an archive, and read from it."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bundles import tiny_frame

from edgead.errors import FrameError, SourceError
from edgead.images import encode_png, save_image
from edgead.integrations.fleet.items import ItemReader, fingerprint, list_items


def encoded(seed: int) -> bytes:
    return encode_png(tiny_frame(seed))


def write_tar(path: Path, count: int, *, keep: int | None = None) -> Path:
    """A WebDataset shard: image and label of each sample."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as shard:
        for index in range(count):
            for name, data in ((f"{index}.png", encoded(index)), (f"{index}.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    path.write_bytes(stream.getvalue()[:keep])
    return path


def listed(root: str | Path, **options: Any) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = list_items(root, **options).to_pylist()
    return items


def names(root: Path, **options: Any) -> list[str]:
    return [str(Path(item["path"]).relative_to(root)) for item in listed(root, **options)]


def test_folders_are_listed_by_path(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.jpg", "a.bmp", ".hidden/3.png", "b/.x.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        save_image(path, tiny_frame())
    (tmp_path / "notes.txt").write_text("no image")
    assert names(tmp_path) == ["a.bmp", "b/1.jpg", "b/2.png"]
    assert [item["path"] for item in listed(f"{tmp_path}/b/*.png")] == [f"{tmp_path}/b/2.png"]
    assert [item["path"] for item in listed(f"{tmp_path}/**/*.png")] == [f"{tmp_path}/b/2.png"]
    assert [item["path"] for item in listed(tmp_path / "a.bmp")] == [f"{tmp_path}/a.bmp"]


def test_name_with_a_pattern_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "line[3]"
    folder.mkdir()
    save_image(folder / "1.png", tiny_frame())
    assert names(folder) == ["1.png"]


def test_shards(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", 3)
    table = pa.table({"image": [encoded(7), None, encoded(9)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    struct = [{"bytes": encoded(i), "path": f"p{i}.png"} for i in range(40)]
    pq.write_table(pa.table({"image": struct}), tmp_path / "u.parquet", row_group_size=25)
    named = pa.table({"path": ["x", "y"], "image": [encoded(1), encoded(2)]})
    pq.write_table(named, tmp_path / "v.parquet")
    items = listed(tmp_path)
    assert [item["path"].removeprefix(f"{tmp_path}/") for item in items] == [
        *(f"s.tar/{i}.png" for i in range(3)),
        *(f"t.parquet/{i}" for i in range(3)),
        *(f"u.parquet/p{i}.png" for i in range(40)),
        "v.parquet/x", "v.parquet/y",
    ]  # fmt: skip
    read = ItemReader()
    expected = [*map(encoded, range(3)), encoded(7), None, encoded(9)]
    expected += [*map(encoded, range(40)), encoded(1), encoded(2)]
    order = [*range(len(items)), 30, 12, 13, 45, 3, 0]  # in order, then in jumps
    for index in order:
        if expected[index] is None:
            with pytest.raises(FrameError) as error:
                read(items[index])
            assert str(error.value) == (
                f"[IMAGE_UNREADABLE] cannot read '{tmp_path}/t.parquet/1': the row holds no image. "
                "Check that it is a file that you may read."
            )
        else:
            assert read(items[index]) == expected[index]
    read.close()


def test_results_inside_the_archive_are_left_out(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png", tiny_frame())
    out = tmp_path / "results.parquet"
    pq.write_table(pa.table({"score": [1.0]}), out)
    assert names(tmp_path, without=out) == ["1.png"]


def test_bad_shards_cost_only_themselves(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png", tiny_frame())
    write_tar(tmp_path / "cut.tar", 4, keep=4000)
    (tmp_path / "foreign.tar").write_bytes(b"x" * 2048)
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "empty.parquet").write_bytes(b"")
    pq.write_table(pa.table({"jpg": [b""], "label": [1]}), tmp_path / "other.parquet")
    items = listed(tmp_path)
    broken = {Path(i["path"]).name: (i["code"], i["message"]) for i in items if i["code"]}
    assert {name: code for name, (code, _) in broken.items()} == {
        "cut.tar": "ARCHIVE_DAMAGED", "foreign.tar": "ARCHIVE_DAMAGED",
        "packed.tar.gz": "ARCHIVE_PACKED", "empty.parquet": "ARCHIVE_DAMAGED",
        "other.parquet": "ARCHIVE_COLUMNS",
    }  # fmt: skip
    assert broken["packed.tar.gz"][1] == (
        f"{tmp_path}/packed.tar.gz is compressed; the images in it cannot be reached one by one. "
        "Unpack it to a plain .tar: images are compressed already."
    )
    assert broken["other.parquet"][1] == (
        f"{tmp_path}/other.parquet has the columns jpg, label; want a column 'image' of encoded "
        "images, as bytes or as a struct with bytes. Rename the column, or leave the file out."
    )
    assert broken["cut.tar"][1].startswith(f"{tmp_path}/cut.tar cannot be read to its end: ")
    assert any(item["path"].endswith("cut.tar/0.png") for item in items)
    with pytest.raises(FrameError) as error:
        ItemReader()(next(item for item in items if item["code"] == "ARCHIVE_PACKED"))
    assert error.value.code == "ARCHIVE_PACKED"


def test_shard_that_shrank_after_it_was_listed(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", 2)
    item = listed(tmp_path)[1]
    os.truncate(path, 1600)
    with pytest.raises(FrameError) as error:
        ItemReader()(item)
    assert error.value.code == "IMAGE_UNREADABLE"
    path.unlink()
    with pytest.raises(FrameError) as error:
        ItemReader()(item)
    assert error.value.code == "IMAGE_UNREADABLE"


def test_fingerprint_sees_names_sizes_and_times(tmp_path: Path) -> None:
    save_image(tmp_path / "1.png", tiny_frame())
    first = fingerprint(list_items(tmp_path))
    assert fingerprint(list_items(tmp_path)) == first
    os.utime(tmp_path / "1.png", ns=(0, 10**9))
    second = fingerprint(list_items(tmp_path))
    (tmp_path / "1.png").rename(tmp_path / "2.png")
    assert len({first, second, fingerprint(list_items(tmp_path))}) == 3


def test_nothing_to_judge(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as error:
        list_items(tmp_path)
    assert str(error.value) == (
        f"[SOURCE_EMPTY] {tmp_path} holds no image. Images are files ending in .bmp, .jpeg, .jpg, "
        ".png, .tif, .tiff, in .tar or .parquet files too."
    )
    with pytest.raises(SourceError) as error:
        list_items(tmp_path / "none")
    assert str(error.value) == (
        f"[SOURCE_NOT_FOUND] {tmp_path}/none does not exist. Give a folder, a pattern or a file."
    )
