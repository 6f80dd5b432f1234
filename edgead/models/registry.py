"""Method names, and how to make one: the only place that knows them all."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from edgead.errors import ConfigError
from edgead.models.backbones import DEFAULT_BACKBONE
from edgead.models.base import Method

__all__ = ["METHODS", "Recipe", "batch_of", "make_method"]

Recipe = Literal["edge", "paper"]

#: Method name -> (module, method class, config class).
METHODS: dict[str, tuple[str, str, str]] = {
    "dfda-ad": ("dfda_ad", "DfdaAd", "DfdaConfig"),
    "nf-bmr": ("nf_bmr", "NfBmr", "NfBmrConfig"),
    "mlff": ("mlff", "Mlff", "MlffConfig"),
    "trisimplenet": ("trisimplenet", "TrisimpleNet", "TrisimpleConfig"),
    "slsg": ("slsg", "Slsg", "SlsgConfig"),
}


def make_method(
    name: str,
    *,
    recipe: Recipe = "edge",
    backbone: str = DEFAULT_BACKBONE,
    weights: str | Path | None = None,
    image_size: int | None = None,
    batch: int | None = None,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> Method:
    """An untrained method.

    Args:
        name: One of `METHODS`.
        recipe: ``edge`` (ours: any backbone, minutes on a CPU) or ``paper`` (the paper's settings).
        backbone: timm network.
        weights: Checkpoint file; None takes the offline default.
        image_size: Side of the engine input; None takes the recipe's.
        batch: Images a step, for TrisimpleNet's edge recipe patches; None takes the recipe's.
        seed: Of everything that is drawn.
        settings: Fields of the method's config put in the place of the recipe's, for what a paper leaves
            open and for ablations.

    Raises:
        ConfigError: METHOD_UNKNOWN, RECIPE_UNKNOWN, IMAGE_SIZE, BATCH, SETTING_UNKNOWN, SETTING_TYPE, and those
            of the method and the backbone.
    """
    if name not in METHODS:
        raise ConfigError(
            "METHOD_UNKNOWN", f"method is {name!r}; want one of {', '.join(METHODS)}."
        )
    if recipe not in ("edge", "paper"):
        raise ConfigError("RECIPE_UNKNOWN", f"recipe is {recipe!r}; want edge or paper.")
    if image_size is not None and not (64 <= image_size <= 2048 and image_size % 32 == 0):
        raise ConfigError(
            "IMAGE_SIZE", f"image size is {image_size}; want a multiple of 32 from 64 to 2048."
        )
    if batch is not None and batch < 2:
        raise ConfigError("BATCH", f"batch is {batch}; want 2 or more.", "Batch norm needs two.")
    module_name, class_name, config_name = METHODS[name]
    module = importlib.import_module(f"edgead.models.{module_name}")
    make_config = getattr(module, config_name)
    if recipe == "edge":
        make_config = make_config.edge
    size = {} if image_size is None else {"image_size": (image_size, image_size)}
    config = make_config(**size)
    if batch is not None:
        config = replace(config, **{_batch_field(config): batch})
    if settings:
        config = replace(config, **_checked(settings, config, name))
    method: Method = getattr(module, class_name)(
        config, backbone=backbone, weights=weights, seed=seed
    )
    return method


def _checked(settings: Mapping[str, Any], config: Any, name: str) -> dict[str, Any]:
    """Settings that the config has, lists become tuples, each of the type that it is declared with."""
    names, types = [one.name for one in fields(config)], get_type_hints(type(config))
    checked = {}
    for key, value in settings.items():
        if key not in names:
            raise ConfigError(
                "SETTING_UNKNOWN", f"{name} has no setting {key!r}; it has {', '.join(names)}."
            )
        try:
            checked[key] = msgspec.convert(value, types[key])
        except msgspec.ValidationError as error:
            raise ConfigError(
                "SETTING_TYPE", f"{name}'s setting {key!r} is {value!r}: {error}."
            ) from None
    return checked


def batch_of(method: Method) -> int:
    """What ``batch`` a method trains with: images, or patches, a step."""
    return int(getattr(method.config, _batch_field(method.config)))


def _batch_field(config: object) -> str:
    names = ("step_patches", "batch_images", "batch")
    return next(name for name in names if getattr(config, name, None) is not None)
