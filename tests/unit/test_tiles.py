"""Tiles: they cover the canvas, their maps are one map without seams, in any order and batch."""

from __future__ import annotations

import itertools
from unittest import mock

import msgspec
import numpy as np
import pytest
from bundles import TINY_MODEL, tiny_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgead import Detector
from edgead.backends.base import TensorSpec
from edgead.bundle import Bundle
from edgead.errors import BackendError, BundleError, FrameError
from edgead.frame import Frame, PixelFormat
from edgead.manifest import FrameSpec, HeadSpec, InputSpec, Tiles, View
from edgead.scorer import Scorer
from edgead.testing.faults import Fault
from edgead.tiles import TileGrid, canvas_size
from edgead.view import check_commissioned, view_key

_SIDE = 64
_STRIDE = 4


def local_map(picture, stride=_STRIDE, radius=1):
    """A translation-equivariant method: cell means, then a sum over (2 radius + 1)^2 cells, padded."""
    h, w = picture.shape[0] // stride, picture.shape[1] // stride
    cells = picture[..., 1].reshape(h, stride, w, stride).astype(np.int64).sum(axis=(1, 3))
    padded = np.pad(cells, radius)
    size = 2 * radius + 1
    total = sum(padded[y : y + h, x : x + w] for y in range(size) for x in range(size))
    return total.astype(np.float32)


class LocalBackend:
    """`local_map` as an engine that takes ``batch`` images, any number with -1."""

    name, version, device, precision = "fake", "1", "none", "fp32"

    def __init__(self, batch=-1, radius=1, fault=None):
        self.inputs = {"image": TensorSpec("image", (batch, _SIDE, _SIDE, 3), "uint8")}
        cells = _SIDE // _STRIDE
        self.outputs = {"anomaly_map": TensorSpec("anomaly_map", (batch, cells, cells), "float32")}
        self.batches: list[int] = []
        self.radius, self.fault = radius, fault

    def open_request(self):
        return _Request(self)

    def close(self):
        pass


class _Request:
    def __init__(self, backend):
        self._backend = backend

    def start(self, feeds):
        self._image = feeds["image"]
        self._backend.batches.append(len(self._image))

    def wait(self, timeout_s=None):
        maps = np.stack([local_map(one, radius=self._backend.radius) for one in self._image])
        if self._backend.fault is Fault.NAN_MAP:
            maps[-1, 0, 0] = np.nan  # in what other tiles give
        if self._backend.fault is Fault.ZERO_MAP:
            maps[-1] = 0
        return {"anomaly_map": maps}


def bundle(size, overlap, tile=(_SIDE, _SIDE), **fields):
    head = fields.pop("head", HeadSpec(kind="max", sigma=0.0))
    manifest = tiny_manifest(
        view=View(tiles=Tiles(size=tile, overlap=overlap), **fields),
        frame=FrameSpec(format=PixelFormat.BGR8, size=size),
        input=InputSpec(size=(_SIDE, _SIDE), mean=[0.0] * 3, std=[1.0] * 3),
        head=head,
    )
    return Bundle.build(manifest, {"model.onnx": TINY_MODEL})


def picture(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(2, 9),
    columns=st.integers(2, 9),
    overlap=st.integers(8, 32),
    seed=st.integers(0, 99),
)
def test_the_stitched_map_is_the_untiled_one(rows, columns, overlap, seed):
    """Exact, also at the border: a tile at it pads where the whole picture pads."""
    size = (32 * rows, 32 * columns)
    frame = picture(size, seed)
    scored = Scorer(bundle(size, overlap), LocalBackend())(Frame(frame))
    np.testing.assert_array_equal(scored.tensor, frame)  # no resampling at this size
    np.testing.assert_array_equal(scored.anomaly_map, local_map(frame))
    assert scored.score == local_map(frame).max()


@pytest.mark.parametrize(("overlap", "radius"), [(8, 1), (16, 2), (32, 4)])
def test_an_overlap_of_twice_the_reach_leaves_no_seam(overlap, radius):
    frame = picture((288, 352))
    scored = Scorer(bundle((288, 352), overlap), LocalBackend(radius=radius))(Frame(frame))
    np.testing.assert_array_equal(scored.anomaly_map, local_map(frame, radius=radius))


def test_a_reach_beyond_the_overlap_shows_that_the_test_can_fail():
    frame = picture((288, 352))
    scored = Scorer(bundle((288, 352), 0), LocalBackend(radius=4))(Frame(frame))
    assert (scored.anomaly_map != local_map(frame, radius=4)).any()


@pytest.mark.parametrize("batch", [1, 2, 3, 8, 16, -1])
def test_any_batch_gives_the_same(batch):
    frame = Frame(picture((200, 300)))
    engine = LocalBackend(batch)
    one = Scorer(bundle((200, 300), 16), LocalBackend(1))(frame)
    found = Scorer(bundle((200, 300), 16), engine)(frame)
    np.testing.assert_array_equal(found.anomaly_map, one.anomaly_map)
    assert found.score == one.score
    tiles = len(one.grid)
    assert engine.batches == (
        [batch] * -(-tiles // batch)
        if batch > 0
        else [8] * (tiles // 8) + [tiles % 8] * (tiles % 8 > 0)
    )


def test_an_engine_that_takes_few_at_a_time():
    engine = LocalBackend(-1)
    engine.largest_batch = 2
    Scorer(bundle((200, 300), 16), engine)(Frame(picture((200, 300))))
    assert max(engine.batches) == 2


def test_the_order_of_tiles_does_not_matter():
    grid = TileGrid((160, 192), Tiles(size=(_SIDE, _SIDE), overlap=24), (_SIDE, _SIDE))
    frame = picture((160, 192))
    maps = [local_map(tile) for tile in grid.cut(frame)]
    whole = grid.stitch(maps)
    for order in (range(len(grid)), reversed(range(len(grid)))):
        again = np.full_like(whole, np.nan)
        for i in order:
            only = [one if j == i else np.full_like(one, np.nan) for j, one in enumerate(maps)]
            part = grid.stitch(only)
            again[np.isfinite(part)] = part[np.isfinite(part)]
        np.testing.assert_array_equal(again, whole)


@given(
    height=st.integers(64, 500), width=st.integers(64, 500),
    tile=st.sampled_from([48, 64]), overlap=st.integers(0, 18), side=st.sampled_from([64, 96, 40]),
)  # fmt: skip
def test_tiles_cover_the_canvas_exactly_and_share_the_overlap(height, width, tile, overlap, side):
    tiles = Tiles(size=(tile, tile), overlap=overlap)
    canvas = canvas_size(tiles, (side, side), (height, width))
    grid = TileGrid(canvas, tiles, (side, side))
    covered = np.zeros(canvas, int)
    for part in grid.cut(covered):
        assert part.shape == (side, side)
        part += 1
    assert covered.min() == 1 or len(grid) == 1
    rows = sorted({y for y, _ in grid.corners})
    for a, b in itertools.pairwise(rows):
        assert a + side - b >= overlap * side / tile
    unit = np.gcd(side, 32)
    for got, frame in zip(canvas, (height, width), strict=True):
        assert abs(got - frame * side / tile) <= max(unit / 2, side - frame * side / tile)


def test_each_cell_is_of_the_tile_whose_centre_is_nearest():
    grid = TileGrid((64, 160), Tiles(size=(_SIDE, _SIDE), overlap=10), (_SIDE, _SIDE))
    assert grid.corners == ((0, 0), (0, 32), (0, 64), (0, 96))
    maps = [np.full((16, 16), i, np.float32) for i in range(4)]
    centres = np.array([32, 64, 96, 128])
    expected = [int(np.abs(centres - (c + 0.5) * 4).argmin()) for c in range(40)]
    assert grid.stitch(maps)[0].tolist() == expected


def test_tiles_in_an_ignored_place_are_not_run():
    ignore = [[(0.0, 0.0), (128.0, 0.0), (128.0, 192.0), (0.0, 192.0)]]
    engine, frame = LocalBackend(1), picture((192, 192))
    scored = Scorer(bundle((192, 192), 16, ignore=ignore), engine)(Frame(frame))
    columns = {x for _, x in scored.grid.corners}
    assert len(engine.batches) == len(scored.grid) // len(columns) * sum(
        x + 64 > 128 for x in columns
    )
    assert scored.anomaly_map[:, :32].max() == scored.anomaly_map[:, 32:].min()
    assert len(scored.inputs) == len(engine.batches)


def test_scale_of_a_tile_and_place_of_the_map():
    """Tiles of 128 frame pixels on 64 input pixels: half the scale."""
    scored = Scorer(bundle((300, 400), 20, tile=(128, 128)), LocalBackend())(
        Frame(picture((300, 400)))
    )
    assert scored.tensor.shape == (160, 192, 3)
    assert scored.placement.size == (160, 192)
    assert scored.placement.scale_xy == (400 / 192, 300 / 160)


def test_a_defect_is_found_where_it_is():
    manifest = bundle((160, 192), 16).manifest
    limits = tiny_manifest().thresholds
    ready = bundle((160, 192), 16).with_members(
        {},
        thresholds=msgspec.structs.replace(
            limits, threshold=2e4, pixel_threshold=1.9e4, view=view_key(manifest)
        ),
    )
    check_commissioned(ready.manifest)
    pixels = np.random.default_rng(0).integers(90, 110, (160, 192, 3), dtype=np.uint8)
    pixels[92:108, 60:72] = 255
    with Opened(ready) as detector:
        found = detector(pixels)
        several = detector.batch([pixels, pixels])
    assert found.anomaly_map.shape == (160, 192)
    x, y = found.regions[0].centroid
    assert (abs(x - 65.5), abs(y - 99.5)) < (3, 3)
    assert [one.score for one in several] == [found.score] * 2


class Opened(Detector):
    """A detector on `LocalBackend`."""

    def __init__(self, ready):
        with mock.patch("edgead.loaded.open_backend", return_value=LocalBackend()):
            super().__init__(ready, backend="onnxruntime", self_check=False, check_ranges=False)


def test_a_tile_of_one_colour_may_have_a_flat_map_and_a_frame_may_not():
    frame = picture((192, 192))
    frame[:128, :128] = 77
    engine = LocalBackend(1, radius=0)
    assert np.isfinite(Scorer(bundle((192, 192), 16), engine)(Frame(frame)).score)
    frame[:] = 77
    with pytest.raises(FrameError) as error:
        Scorer(bundle((192, 192), 16), engine)(Frame(frame))
    assert error.value.code == "FRAME_CONSTANT"


@pytest.mark.parametrize(
    ("fault", "code"),
    [(Fault.NAN_MAP, "BACKEND_NONFINITE"), (Fault.ZERO_MAP, "BACKEND_DEGENERATE")],
)
def test_one_bad_tile_is_enough_also_where_others_cover_it(fault, code):
    scorer = Scorer(bundle((192, 192), 16), LocalBackend(fault=fault))
    with pytest.raises(BackendError) as error:
        scorer(Frame(picture((192, 192))))
    assert error.value.code == code


def refused(kind, call, text):
    with pytest.raises(kind) as error:
        call()
    assert str(error.value) == f"[VIEW_TILES] {text}"


def test_what_tiles_cannot_be():
    tiles = Tiles(size=(_SIDE, _SIDE), overlap=63)
    refused(
        FrameError,
        lambda: canvas_size(tiles, (64, 64), (63, 400)),
        "the view is 400x63, smaller than a tile of 64x64. Train with tiles that are at most as "
        "large as the view: --tiles WIDTHxHEIGHT.",
    )
    refused(
        FrameError,
        lambda: canvas_size(Tiles(size=(2, 2), overlap=0), (64, 64), (4000, 3000)),
        "tiles of 2x2 enlarge the view to 96000x128000 pixels; at most 64 Mpx are judged. "
        "Train with larger tiles.",
    )
    refused(
        BundleError,
        lambda: TileGrid((128, 128), tiles, (64, 64)),
        "tiles of 64 pixels that overlap by 98% leave no step of 32. Train with less overlap.",
    )
    refused(
        BundleError,
        lambda: TileGrid((4096, 4096), Tiles(size=(64, 64), overlap=32), (64, 64)),
        "127 x 127 tiles for one frame; at most 4096 are judged. "
        "Train with larger tiles or less overlap.",
    )
    grid = TileGrid((96, 96), Tiles(size=(64, 64), overlap=8), (64, 64))
    refused(
        BundleError,
        lambda: grid.stitch([np.zeros((5, 5), np.float32)] * 4),
        "the method's map has 5 cells on 64 pixels; tiles need cells of 1, 2, 4, 8, 16 or 32 whole "
        "pixels. Train with another image size, or without tiles.",
    )
