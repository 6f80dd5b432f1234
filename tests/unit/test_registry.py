"""Names to methods."""

from __future__ import annotations

import dataclasses
import importlib

import pytest

from edgead.errors import ConfigError
from edgead.models.registry import METHODS, make_method


@pytest.mark.parametrize("name", METHODS)
def test_every_name_leads_to_a_method_with_both_recipes(name):
    module_name, class_name, config_name = METHODS[name]
    module = importlib.import_module(f"edgead.models.{module_name}")
    assert getattr(module, class_name).name == name
    config = getattr(module, config_name)
    assert dataclasses.is_dataclass(config)
    assert isinstance(config(), config)
    assert isinstance(config.edge(), config)
    assert config(image_size=(64, 64)).image_size == (64, 64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().image_size = (1, 1)


def test_options_reach_the_method():
    method = make_method(
        "trisimplenet", backbone="test_efficientnet", weights="random", image_size=96, seed=3
    )
    assert (method.name, method.image_size) == ("trisimplenet", (96, 96))
    assert (method.backbone, method.weights) == ("test_efficientnet", "random")
    assert method.config.standardise
    paper = make_method(
        "trisimplenet", recipe="paper", backbone="test_efficientnet", weights="random"
    )
    assert not paper.config.standardise
    assert paper.image_size == (288, 288)


def test_settings_take_the_place_of_the_recipes():
    method = make_method(
        "dfda-ad",
        backbone="test_efficientnet",
        weights="random",
        settings={"train_attention": False},
    )
    assert not method.config.train_attention
    assert dataclasses.replace(method.config, train_attention=True) == type(method.config).edge()


def test_a_setting_that_the_method_lacks_is_refused():
    with pytest.raises(ConfigError) as error:
        make_method("dfda-ad", settings={"momentum": 0.9})
    assert str(error.value).startswith(
        "[SETTING_UNKNOWN] dfda-ad has no setting 'momentum'; it has image_size, attention, "
    )
    assert ", train_attention, " in str(error.value)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "slsg",
            {"light": "much"},
            "[SETTING_TYPE] slsg's setting 'light' is 'much': Expected `float`, got `str`.",
        ),
        (
            "mlff",
            {"window": "round"},
            "[SETTING_TYPE] mlff's setting 'window' is 'round': Invalid enum value 'round'.",
        ),
        (
            "slsg",
            {"rectangle_sides": [40]},
            "[SETTING_TYPE] slsg's setting 'rectangle_sides' is [40]: Expected `array` of length 2, got 1.",
        ),
    ],
)
def test_a_setting_of_another_type_is_refused(name, settings, message):
    with pytest.raises(ConfigError) as error:
        make_method(name, settings=settings)
    assert str(error.value) == message


def test_a_list_becomes_the_tuple_that_the_config_holds():
    method = make_method(
        "slsg",
        backbone="test_efficientnet",
        weights="random",
        image_size=64,
        settings={"rectangle_sides": [20, 60], "light": 1},
    )
    assert method.config.rectangle_sides == (20, 60)
    assert method.config.light == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "patchcore"},
            "[METHOD_UNKNOWN] method is 'patchcore'; want one of dfda-ad, nf-bmr, mlff, trisimplenet, "
            "slsg.",
        ),
        (
            {"name": "slsg", "recipe": "fast"},
            "[RECIPE_UNKNOWN] recipe is 'fast'; want edge or paper.",
        ),
        (
            {"name": "slsg", "batch": 1},
            "[BATCH] batch is 1; want 2 or more. Batch norm needs two.",
        ),
        *(
            (
                {"name": "trisimplenet", "image_size": size},
                f"[IMAGE_SIZE] image size is {size}; want a multiple of 32 from 64 to 2048.",
            )
            for size in (0, 32, 100, 2080, -64)
        ),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ConfigError) as error:
        make_method(**options)
    assert str(error.value) == message
