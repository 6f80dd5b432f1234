"""Out of memory in training: one error that says what to try, whatever raised it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgead.errors import CalibrationError
from edgead.models.registry import batch_of, make_method
from edgead.train.memory import memory_error_says


def torch_asks_for_too_much() -> None:
    torch.empty(1 << 55, dtype=torch.uint8)


def numpy_asks_for_too_much() -> None:
    np.ones(1 << 46)


def a_gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize("act", [torch_asks_for_too_much, numpy_asks_for_too_much, a_gpu_is_full])
def test_a_smaller_batch_is_proposed(act):
    with pytest.raises(CalibrationError) as error, memory_error_says(16, (256, 320)):
        act()
    assert str(error.value) == (
        "[OUT_OF_MEMORY] training ran out of memory with a batch of 16 at 256 x 320 pixels. "
        "Try --batch 8; the last checkpoint is kept."
    )
    assert error.value.__cause__ is not None


@pytest.mark.parametrize(("width", "smaller"), [(256, 128), (320, 160), (96, 64)])
def test_of_the_smallest_batch_smaller_images_are(width, smaller):
    with pytest.raises(CalibrationError) as error, memory_error_says(3, (256, width)):
        a_gpu_is_full()
    assert str(error.value).endswith(f"Try --image-size {smaller}; the last checkpoint is kept.")


def test_another_error_passes():
    with pytest.raises(RuntimeError, match="shapes"), memory_error_says(8, (64, 64)):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize("name", ["dfda-ad", "nf-bmr", "mlff", "trisimplenet", "slsg"])
@pytest.mark.parametrize("recipe", ["edge", "paper"])
def test_the_batch_asked_for_reaches_every_method(name, recipe):
    backbone = "test_efficientnet"
    if name == "nf-bmr":
        backbone = "tf_efficientnet_lite0"
    options = {"recipe": recipe, "backbone": backbone, "weights": "random", "image_size": 64}
    assert batch_of(make_method(name, batch=6, **options)) == 6
    assert batch_of(make_method(name, **options)) > 3
