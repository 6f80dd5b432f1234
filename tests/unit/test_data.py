"""Folders of good images and MVTec-layout roots: what is found, what is refused, in which words."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from edgead.errors import CalibrationError, ConfigError, EdgeadError, FrameError
from edgead.evaluate import data
from edgead.images import encode_png, save_image


def picture(seed: int, size: tuple[int, int] = (40, 48)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def fill(folder: Path, count: int, *, start: int = 0, size: tuple[int, int] = (40, 48)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(start, start + count):
        save_image(folder / f"{seed:03}.png", picture(seed, size))
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An MVTec-layout root with one defect class with masks and one without."""
    fill(tmp_path / "train" / "good", 10)
    fill(tmp_path / "test" / "good", 2, start=20)
    fill(tmp_path / "test" / "crack", 2, start=30)
    fill(tmp_path / "test" / "bent", 1, start=40)
    masks = tmp_path / "ground_truth" / "crack"
    masks.mkdir(parents=True)
    mask = np.zeros((40, 48), dtype=bool)
    mask[10:20, 12:24] = True
    for seed in (30, 31):
        save_image(masks / f"{seed:03}_mask.png", mask)
    return tmp_path


def refusal(call, *arguments) -> tuple[str, str]:
    with pytest.raises(EdgeadError) as caught:
        call(*arguments)
    return type(caught.value).__name__, str(caught.value)


def test_training_takes_a_folder_of_images_in_order_of_names(tmp_path):
    folder = fill(tmp_path / "good", 9)
    assert [path.name for path in data.find_training(folder)] == [f"{i:03}.png" for i in range(9)]


def test_training_takes_train_good_of_a_root_and_never_test(root):
    assert {path.parent for path in data.find_training(root)} == {root / "train" / "good"}


def test_left_overs_of_file_managers_are_passed_over(tmp_path):
    folder = fill(tmp_path, 8)
    (folder / ".DS_Store").write_text("x")
    (folder / "Thumbs.db").write_text("x")
    (folder / "notes").mkdir()
    assert len(data.find_training(folder)) == 8


def test_missing_folder(tmp_path):
    path = tmp_path / "nothing"
    assert refusal(data.find_training, path) == (
        "CalibrationError",
        f"[DATA_MISSING] {path} does not exist; expected a folder of images. Check the path.",
    )


def test_file_instead_of_folder(tmp_path):
    path = tmp_path / "a.png"
    save_image(path, picture(0))
    assert refusal(data.find_training, path) == (
        "CalibrationError",
        f"[DATA_NOT_FOLDER] {path} is a file; expected a folder of images. Give its folder.",
    )


def test_empty_folder(tmp_path):
    assert refusal(data.find_training, tmp_path) == (
        "CalibrationError",
        f"[DATA_EMPTY] {tmp_path} has no images; expected PNG, JPEG, BMP or TIFF files, or "
        "train/good. Give the folder that holds the images.",
    )


def test_text_file_among_the_images_is_named(tmp_path):
    fill(tmp_path, 9)
    (tmp_path / "notes.txt").write_text("shift 3")
    assert refusal(data.find_training, tmp_path) == (
        "CalibrationError",
        f"[IMAGE_FORMAT] {tmp_path / 'notes.txt'} is no image; expected only PNG, JPEG, BMP or "
        "TIFF files in this folder. Move it elsewhere.",
    )


def test_text_file_named_png_is_named(tmp_path):
    fill(tmp_path, 9)
    (tmp_path / "000.png").write_text("hello world, this is no picture")
    kind, text = refusal(data.find_training, tmp_path)
    assert kind == "FrameError"
    assert text.startswith("[IMAGE_FORMAT]")
    assert "000.png" in text


def test_three_images(tmp_path):
    assert refusal(data.find_training, fill(tmp_path, 3)) == (
        "CalibrationError",
        f"[DATA_TOO_FEW] {tmp_path} has 3 images; expected at least 8 good ones. Take more "
        "pictures of different good parts; 50 or more give a useful threshold.",
    )


def test_one_file_copied(tmp_path):
    for index in range(12):
        save_image(tmp_path / f"{index}.png", picture(0))
    assert refusal(data.find_training, tmp_path) == (
        "CalibrationError",
        f"[IMAGES_REPEATED] {tmp_path} has 12 images, but too many are byte-identical; expected "
        "at least 8 different ones. Take pictures of different good parts; copies teach and prove "
        "nothing.",
    )


def test_one_picture_in_different_files(tmp_path):
    """Same pixels under other bytes: a PNG text chunk differs."""
    plain = encode_png(picture(0))
    for index in range(9):
        (tmp_path / f"{index}.png").write_bytes(_with_comment(plain, f"shot {index}"))
    kind, text = refusal(data.find_training, tmp_path)
    assert (kind, text) == (
        "CalibrationError",
        f"[IMAGES_REPEATED] {tmp_path} has 9 images, but too many show the same pixels; expected "
        "at least 8 different ones. Take pictures of different good parts; copies teach and prove "
        "nothing.",
    )


def test_a_few_copies_are_left_out_and_said(tmp_path, caplog):
    fill(tmp_path, 9)
    save_image(tmp_path / "copy.png", picture(3))
    with caplog.at_level(logging.WARNING):
        found = data.find_training(tmp_path)
    assert len(found) == 9
    assert tmp_path / "003.png" in found
    assert caplog.messages == [f"{tmp_path}: 1 copies left out"]


def test_cut_image_is_refused_when_it_is_read(tmp_path):
    path = fill(tmp_path, 8) / "004.png"
    path.write_bytes(path.read_bytes()[:-40])
    kind, text = refusal(data.find_training, tmp_path)
    assert kind == "FrameError"
    assert "004.png" in text


def test_test_samples_good_first_with_masks_where_they_are(root):
    samples = data.find_test(root)
    assert [(s.path.stem, s.label, s.defect) for s in samples] == [
        ("020", False, "good"),
        ("021", False, "good"),
        ("040", True, "bent"),
        ("030", True, "crack"),
        ("031", True, "crack"),
    ]
    masks = root / "ground_truth" / "crack"
    assert [s.mask_path for s in samples[2:]] == [
        None,
        masks / "030_mask.png",
        masks / "031_mask.png",
    ]


def test_root_without_test(tmp_path):
    fill(tmp_path, 8)
    assert refusal(data.find_test, tmp_path) == (
        "CalibrationError",
        f"[DATA_NO_TEST] {tmp_path} has no test/<class> folders; expected test/good and "
        "test/<defect>. Sort the test images into such folders.",
    )


def test_mask_is_brought_to_the_size_of_the_map(root):
    samples = data.find_test(root)
    half = data.load_mask(samples[3], (20, 24))
    expected = np.zeros((20, 24), dtype=bool)
    expected[5:10, 6:12] = True
    np.testing.assert_array_equal(half, expected)
    assert not data.load_mask(samples[0], (20, 24)).any()


def test_masks_of_a_loco_folder_are_united(root):
    folder = root / "ground_truth" / "bent" / "040"
    folder.mkdir(parents=True)
    for index, rows in enumerate((slice(0, 4), slice(30, 40))):
        mask = np.zeros((40, 48), dtype=np.uint8)
        mask[rows] = 254 - index  # LOCO AD tells defects by grey value
        save_image(folder / f"{index:03}.png", mask)
    sample = data.find_test(root)[2]
    assert sample.mask_path == folder
    found = data.load_mask(sample, (40, 48))
    assert np.flatnonzero(found.any(axis=1)).tolist() == [*range(4), *range(30, 40)]


def test_defect_without_mask(root):
    sample = data.find_test(root)[2]
    assert refusal(data.load_mask, sample, (4, 4)) == (
        "CalibrationError",
        f"[MASK_MISSING] {sample.path} has no mask in ground_truth/bent. Pixel metrics need one; "
        "leave the sample out of them.",
    )


def test_images_are_kept_within_the_memory_limit(tmp_path):
    paths = data.find_training(fill(tmp_path, 8))
    each = 40 * 48 * 3
    frames = data.load_images(paths, memory_limit_bytes=3 * each + 1)
    pixels = [frame.pixels for frame in frames]
    assert sum(frames[i].pixels is pixels[i] for i in range(8)) == 3
    np.testing.assert_array_equal(frames[-1].pixels, picture(7))
    assert [f.size for f in frames[2:4]] == [(40, 48)] * 2
    with pytest.raises(IndexError):
        frames[8]


def test_sizes_are_counted_and_said(tmp_path):
    fill(tmp_path, 5)
    fill(tmp_path, 2, start=5, size=(64, 40))
    paths = data.find_images(tmp_path)
    sizes = data.image_sizes(paths)
    assert sizes == {(40, 48): 5, (64, 40): 2}
    assert data.describe_sizes(sizes) == (
        "7 images of 2 different sizes, 48 x 40 to 40 x 64 pixels; "
        "all are resized to the model's input."
    )
    assert data.describe_sizes({(40, 48): 5}) == "5 images, all 48 x 40 pixels."


def test_split_is_seeded_disjoint_and_whole():
    paths = [Path(f"{i}.png") for i in range(21)]
    train, held = data.split(paths, 0.2, 3)
    assert len(held) == 4
    assert Counter(train + held) == Counter(paths)
    assert data.split(paths, 0.2, 3) == (train, held)
    assert data.split(paths, 0.2, 4) != (train, held)
    assert len(data.split(paths[:2], 0.01, 0)[1]) == len(data.split(paths[:2], 0.99, 0)[0]) == 1


@pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
def test_split_refuses_a_share_outside(share):
    with pytest.raises(ConfigError) as caught:
        data.split([Path("a"), Path("b")], share, 0)
    assert str(caught.value) == (
        f"[HELD_OUT] share {share} of 2 images; expected 0 < share < 1 of 2 or more."
    )


def test_folds_hold_each_image_out_once():
    paths = [Path(f"{i}.png") for i in range(11)]
    found = data.folds(paths, 4, 0)
    assert Counter(path for _, held in found for path in held) == Counter(paths)
    assert all(set(train) | set(held) == set(paths) for train, held in found)
    assert all(not set(train) & set(held) for train, held in found)
    assert {len(held) for _, held in found} == {2, 3}
    with pytest.raises(ConfigError) as caught:
        data.folds(paths, 12, 0)
    assert str(caught.value) == "[FOLDS] 12 folds of 11 images; expected 2 to 11 folds."


def test_set_hash_knows_contents_only(tmp_path):
    here = data.find_images(fill(tmp_path / "a", 3))
    there = fill(tmp_path / "b", 3)
    (there / "000.png").rename(there / "zzz.png")
    assert data.set_hash(here) == data.set_hash(data.find_images(there))
    save_image(there / "001.png", picture(99))
    assert data.set_hash(here) != data.set_hash(data.find_images(there))


def test_hash_of_a_missing_file(tmp_path):
    path = tmp_path / "gone.png"
    with pytest.raises(FrameError) as caught:
        data.file_hash(path)
    assert str(caught.value) == (
        f"[IMAGE_UNREADABLE] cannot read {path}: No such file or directory. "
        "Check that it exists and that you may read it."
    )


def test_missing_is_a_calibration_error(tmp_path):
    with pytest.raises(CalibrationError):
        data.find_test(tmp_path / "gone")


def _with_comment(png: bytes, text: str) -> bytes:
    """Insert a tEXt chunk before the end chunk."""
    import struct
    import zlib

    body = b"tEXt" + b"Comment\0" + text.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end = png.rindex(b"IEND") - 4
    return png[:end] + chunk + png[end:]
