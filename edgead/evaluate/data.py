"""Data sets: a folder of good images, or an MVTec-layout root. Training never sees ``test``.

Layout of a root: ``train/good``, ``test/good``, ``test/<defect>`` and, where there are masks,
``ground_truth/<defect>/<stem>_mask.png`` (MVTec AD) or ``ground_truth/<defect>/<stem>/*.png``
(MVTec LOCO AD).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from edgead.errors import CalibrationError, ConfigError, FrameError
from edgead.frame import Frame
from edgead.images import read, size_of
from edgead.types import Placement

__all__ = [
    "MIN_GOOD",
    "ImageSet",
    "Sample",
    "describe_sizes",
    "file_hash",
    "find_images",
    "find_test",
    "find_training",
    "folds",
    "image_sizes",
    "in_view",
    "load_images",
    "load_mask",
    "nearest",
    "set_hash",
    "split",
]

MIN_GOOD = 8
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
_DESKTOP_FILES = frozenset({"thumbs.db", "desktop.ini"})  # file managers leave them behind
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample:
    """One test image.

    Attributes:
        path: The image.
        label: True for a defect.
        defect: Name of its class folder; ``good`` for good images.
        mask_path: Its mask, or the folder of its masks (LOCO AD); None where there is none.
    """

    path: Path
    label: bool
    defect: str
    mask_path: Path | None = None


def find_training(data: str | Path) -> list[Path]:
    """Good images to train on, sorted by name, without byte-identical copies.

    Args:
        data: A folder of good images, or an MVTec-layout root, whose ``train/good`` is used.

    Raises:
        CalibrationError: DATA_MISSING, DATA_NOT_FOLDER, DATA_EMPTY, IMAGE_FORMAT for a file that is
            no image, DATA_TOO_FEW, or IMAGES_REPEATED when the files hold too few different images.
        FrameError: IMAGE_* for a file that is no whole image.
    """
    root = _folder(data)
    good = root / "train" / "good"
    files = find_images(good if (root / "train").is_dir() else root)
    if len(files) < MIN_GOOD:
        raise CalibrationError(
            "DATA_TOO_FEW",
            f"{files[0].parent} has {_count(len(files))}; expected at least {MIN_GOOD} good ones.",
            "Take more pictures of different good parts; 50 or more give a useful threshold.",
        )
    image_sizes(files)  # a cut or foreign file is named before anything is trained
    distinct = list({file_hash(path): path for path in reversed(files)}.values())[::-1]
    if len(distinct) < MIN_GOOD or _is_one_picture(distinct[:MIN_GOOD]):
        alike = "are byte-identical" if len(distinct) < MIN_GOOD else "show the same pixels"
        raise CalibrationError(
            "IMAGES_REPEATED",
            f"{files[0].parent} has {_count(len(files))}, but too many {alike}; "
            f"expected at least {MIN_GOOD} different ones.",
            "Take pictures of different good parts; copies teach and prove nothing.",
        )
    if len(distinct) < len(files):
        _log.warning("%s: %d copies left out", files[0].parent, len(files) - len(distinct))
    return distinct


def find_images(folder: str | Path) -> list[Path]:
    """Images of one folder, sorted by name; hidden files and folders are passed over.

    Raises:
        CalibrationError: DATA_MISSING, DATA_NOT_FOLDER, DATA_EMPTY, or IMAGE_FORMAT naming the
            first file that is no image.
    """
    root = _folder(folder)
    files = sorted(
        path
        for path in root.iterdir()
        if path.is_file()
        and not path.name.startswith(".")
        and path.name.lower() not in _DESKTOP_FILES
    )
    for path in files:
        if path.suffix.lower() not in SUFFIXES:
            raise CalibrationError(
                "IMAGE_FORMAT",
                f"{path} is no image; expected only PNG, JPEG, BMP or TIFF files in this folder.",
                "Move it elsewhere.",
            )
    if not files:
        raise CalibrationError(
            "DATA_EMPTY",
            f"{root} has no images; expected PNG, JPEG, BMP or TIFF files, or train/good.",
            "Give the folder that holds the images.",
        )
    return files


def find_test(root: str | Path) -> list[Sample]:
    """Test images of an MVTec-layout root: good ones first, then defects by class and name.

    Raises:
        CalibrationError: DATA_MISSING, DATA_NOT_FOLDER, DATA_NO_TEST, or as `find_images`.
    """
    base = _folder(root)
    test = base / "test"
    classes = sorted(path for path in test.iterdir() if path.is_dir()) if test.is_dir() else []
    if not classes:
        raise CalibrationError(
            "DATA_NO_TEST",
            f"{base} has no test/<class> folders; expected test/good and test/<defect>.",
            "Sort the test images into such folders.",
        )
    samples = []
    for folder in sorted(classes, key=lambda path: (path.name != "good", path.name)):
        for path in find_images(folder):
            is_defect = folder.name != "good"
            mask = _mask_path(base, folder.name, path.stem) if is_defect else None
            samples.append(Sample(path, is_defect, folder.name, mask))
    return samples


def load_mask(sample: Sample, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Ground truth of a sample, brought to ``size`` by nearest neighbour.

    Args:
        sample: Good ones have an empty mask. The masks of a LOCO folder are united.
        size: (h, w) wanted, usually the anomaly map's.

    Returns:
        (h, w) bool, True on the defect.

    Raises:
        CalibrationError: MASK_MISSING when a defect has no mask.
        FrameError: IMAGE_* for a mask that cannot be read.
    """
    if not sample.label:
        return np.zeros(size, dtype=bool)
    if sample.mask_path is None:
        raise CalibrationError(
            "MASK_MISSING",
            f"{sample.path} has no mask in ground_truth/{sample.defect}.",
            "Pixel metrics need one; leave the sample out of them.",
        )
    is_folder = sample.mask_path.is_dir()
    files = find_images(sample.mask_path) if is_folder else [sample.mask_path]
    layers = [nearest(read(path).pixels, size) for path in files]
    union: NDArray[np.bool_] = np.any(layers, axis=0)
    return union


class ImageSet(Sequence[Frame]):
    """Images decoded on access, kept in memory up to a limit. Safe to read from several threads.

    Args:
        paths: Image files.
        memory_limit_bytes: Pixels kept; images beyond it are decoded each time.
    """

    def __init__(self, paths: Sequence[Path], *, memory_limit_bytes: int = 2 << 30) -> None:
        self.paths = tuple(paths)
        self._room = memory_limit_bytes
        self._kept: dict[int, Frame] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.paths)

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Frame]: ...
    def __getitem__(self, index: int | slice) -> Frame | Sequence[Frame]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        place = range(len(self))[index]  # negative ones, and IndexError at the end
        frame = self._kept.get(place)
        if frame is None:
            frame = read(self.paths[place])
            with self._lock:
                if place not in self._kept and frame.pixels.nbytes <= self._room:
                    self._room -= frame.pixels.nbytes
                    self._kept[place] = frame
        return frame


def load_images(paths: Sequence[Path], *, memory_limit_bytes: int = 2 << 30) -> ImageSet:
    """A lazy sequence of frames; see `ImageSet`."""
    return ImageSet(paths, memory_limit_bytes=memory_limit_bytes)


def image_sizes(paths: Sequence[Path]) -> dict[tuple[int, int], int]:
    """How many images have each (H, W), most frequent first; headers are read, pixels are not.

    Raises:
        FrameError: IMAGE_* for a file that is no whole image.
    """
    sizes = (size_of(_bytes(path), name=str(path)) for path in paths)
    return dict(Counter(sizes).most_common())


def describe_sizes(sizes: Mapping[tuple[int, int], int]) -> str:
    """One sentence on the sizes of a set, for the log and the bundle."""
    total = sum(sizes.values())
    if len(sizes) == 1:
        ((height, width),) = sizes
        return f"{_count(total)}, all {width} x {height} pixels."
    areas = sorted(sizes, key=lambda size: size[0] * size[1])
    (h0, w0), (h1, w1) = areas[0], areas[-1]
    return (
        f"{_count(total)} of {len(sizes)} different sizes, {w0} x {h0} to {w1} x {h1} pixels; "
        "all are resized to the model's input."
    )


def split(paths: Sequence[Path], held_out: float, seed: int) -> tuple[list[Path], list[Path]]:
    """Part a set at random into (training, held-out), both in the order of ``paths``.

    Args:
        paths: At least two.
        held_out: Share to hold out, 0 < share < 1; at least one image goes to either side.
        seed: Same seed, same parts.

    Raises:
        ConfigError: HELD_OUT out of range, or fewer than two images.
    """
    if not 0 < held_out < 1 or len(paths) < 2:
        raise ConfigError(
            "HELD_OUT",
            f"share {held_out} of {_count(len(paths))}; expected 0 < share < 1 of 2 or more.",
        )
    count = min(max(1, round(held_out * len(paths))), len(paths) - 1)
    chosen = set(np.random.default_rng(seed).permutation(len(paths))[:count].tolist())
    train = [path for i, path in enumerate(paths) if i not in chosen]
    return train, [path for i, path in enumerate(paths) if i in chosen]


def folds(paths: Sequence[Path], count: int, seed: int) -> list[tuple[list[Path], list[Path]]]:
    """Cross-fitting: ``count`` pairs (training, held-out); each image is held out exactly once.

    Raises:
        ConfigError: FOLDS when there are fewer than two, or more than images.
    """
    if not 2 <= count <= len(paths):
        raise ConfigError(
            "FOLDS", f"{count} folds of {_count(len(paths))}; expected 2 to {len(paths)} folds."
        )
    fold = np.empty(len(paths), dtype=int)
    fold[np.random.default_rng(seed).permutation(len(paths))] = np.arange(len(paths)) % count
    return [
        (
            [path for path, f in zip(paths, fold, strict=True) if f != held],
            [path for path, f in zip(paths, fold, strict=True) if f == held],
        )
        for held in range(count)
    ]


def set_hash(paths: Sequence[Path]) -> str:
    """SHA-256 of a set of images by content: names, folders and order do not matter."""
    return hashlib.sha256("\n".join(sorted(map(file_hash, paths))).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file, hexadecimal.

    Raises:
        FrameError: IMAGE_UNREADABLE.
    """
    return hashlib.sha256(_bytes(path)).hexdigest()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FrameError(
            "IMAGE_UNREADABLE",
            f"cannot read {path}: {error.strerror}.",
            "Check that it exists and that you may read it.",
        ) from error


def _folder(path: str | Path) -> Path:
    folder = Path(path)
    if not folder.exists():
        raise CalibrationError(
            "DATA_MISSING",
            f"{folder} does not exist; expected a folder of images.",
            "Check the path.",
        )
    if not folder.is_dir():
        raise CalibrationError(
            "DATA_NOT_FOLDER",
            f"{folder} is a file; expected a folder of images.",
            "Give its folder.",
        )
    return folder


def _count(images: int) -> str:
    return f"{images} image{'s' if images != 1 else ''}"


def _is_one_picture(paths: Sequence[Path]) -> bool:
    """True when the files differ (in metadata, say) but decode to the same pixels."""
    first = read(paths[0]).pixels
    return all(np.array_equal(first, read(path).pixels) for path in paths[1:])


def _mask_path(base: Path, defect: str, stem: str) -> Path | None:
    folder = base / "ground_truth" / defect
    for path in (folder / f"{stem}_mask.png", folder / f"{stem}.png", folder / stem):
        if path.exists():
            return path
    return None


def nearest(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Any channel above 0, picked at the centres of the wanted pixels."""
    flat = pixels.reshape(*pixels.shape[:2], -1)
    mask: NDArray[np.bool_] = np.any(flat > 0, axis=2)
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
        for n, m in zip(size, mask.shape, strict=True)
    )
    picked: NDArray[np.bool_] = mask[np.ix_(rows, columns)]
    return picked


def in_view(mask: NDArray[np.bool_], placement: Placement) -> NDArray[np.bool_]:
    """A mask over the whole frame -> the part that a view looks at, (h, w) bool like its map."""
    size = placement.size or placement.frame_size
    picked = []
    for axis in (0, 1):
        start, scale = placement.offset_xy[1 - axis], placement.scale_xy[1 - axis]
        extent = round(scale * size[axis])  # of the view, whole frame pixels
        centres = start + (np.arange(size[axis]) + 0.5) * extent / size[axis]
        if mask.shape[axis] != placement.frame_size[axis]:
            centres = centres * mask.shape[axis] / placement.frame_size[axis]
        picked.append(np.minimum(centres.astype(int), mask.shape[axis] - 1))
    seen: NDArray[np.bool_] = mask[np.ix_(*picked)]
    return seen if placement.ignored is None else seen & ~placement.ignored
