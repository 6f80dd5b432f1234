"""Which parts of each method's network stay in higher precision from the start, and why.

Prefixes are of node names, which are module paths of the exported network. A recipe is where the
search begins; a certificate, not a recipe, decides what ships.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["RECIPES", "Recipe", "kept_nodes", "recipe_for"]


@dataclass(frozen=True)
class Recipe:
    """Node-name prefixes kept above INT8 and above FP16, and the reason.

    Attributes:
        int8: Activations are not quantised; weights are.
        weights: Nor are these parts' weights, and nothing of the INT8 graph is computed in bf16.
        fp16: Stay FP32 in the FP16 graph.
        why: What speaks for it.
    """

    int8: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    fp16: tuple[str, ...] = ()
    why: str = ""


RECIPES: dict[str, Recipe] = {
    "trisimplenet": Recipe(
        int8=("scorer.2",),
        why="The last 1x1 convolution is the score itself: one channel, 0.1 % of the work.",
    ),
    "dfda-ad": Recipe(
        int8=("attention",),
        fp16=("attention",),
        why="Sigmoid gates and unit-length normalisation scale every channel of the patches at once.",
    ),
    "nf-bmr": Recipe(
        int8=("source",),
        weights=("source",),
        fp16=("flow", "join"),
        why="A flow finds unlikely what lies off the features that it was fitted to: on bottle, "
        "eight-bit weights of the backbone alone move good scores by 3 score_scale to the nearest "
        "level and by 0.8 rounded with care, bf16 flips half of all verdicts. Flow and mapping in "
        "INT8 move them by 0.1. In FP16 an affine coupling's exp makes a step a factor.",
    ),
    "mlff": Recipe(
        int8=(
            "net.texture_map.encode",
            "net.texture_map.query",
            "net.texture_map.key",
            "net.texture_map.value",
            "net.texture_map/Conv",
            "net.texture_map/Gemm",
            "net.texture_pyramid.scales",
            "net.score",
        ),
        fp16=("net.texture_map", "net.texture_pyramid"),
        why="On bottle INT8 moved scores by 0.03 score_scale (root mean square), and by 0.25 with the score's own "
        "convolution in INT8, too. What is computed of the counts lifted all scores by 0.013. The convolutions "
        "that feed the counting changed nothing. In FP16 levels lie closer than it resolves.",
    ),
    "slsg": Recipe(
        int8=("net.sg", "net.decoder.head.2"),
        fp16=("net.sg",),
        why="Top-K neighbours are chosen by differences of similarities. The decoder's last "
        "convolution is the score itself: in INT8 it alone moved scores by 0.24 score_scale.",
    ),
}


def recipe_for(method: str) -> Recipe:
    """The method's recipe; an unknown method starts with everything quantised."""
    return RECIPES.get(method, Recipe())


def kept_nodes(names: Iterable[str], prefixes: Iterable[str]) -> set[str]:
    """Names that are a prefix, or lie under one (``a.b`` keeps ``a.b/Conv`` and ``a.b.c/Conv``)."""
    roots = tuple(prefixes)
    return {
        name
        for name in names
        if any(name == r or name.startswith((r + ".", r + "/")) for r in roots)
    }
