"""The accuracy table shows what was measured, what the paper reports, and what differs."""

from __future__ import annotations

import copy

from accuracy_table import table

RUN = {
    "method": "mlff",
    "category": "bottle",
    "seed": 0,
    "recipe": "edge",
    "backbone": "resnet18",
    "image_size": None,
    "minutes": 5.0,
    "epochs": None,
    "worst_defect_auroc": 0.9,
    "figures": {
        "image_auroc": 0.95,
        "pixel_auroc": 0.9,
        "pro": 0.8,
        "false_reject_rate": 0.05,
        "missed_defect_rate": 0.1,
    },
    "training": {"config": {"image_size": [256, 256]}, "seconds": 300.0},
    "machine": {"gpu": None, "processor": "a CPU", "threads": 2},
    "versions": {"edgead": "1", "torch": "2"},
}


def test_row_has_our_figures_and_the_papers():
    row = table([RUN]).splitlines()[2]
    assert row == (
        "| bottle | MLFF | resnet18, 256 | 5.0 min | 95.0 (90.0) | 90.0 | 80.0 | 5.0 | 10.0 "
        "| 100.0 / 99.0 (ResNet50, 256, 200 epochs) |"
    )
    assert table([RUN]).endswith("Measured on a CPU, 2 threads (edgead 1, torch 2).")


def test_seeds_are_averaged_and_other_budgets_are_not():
    second = copy.deepcopy(RUN) | {"seed": 1, "worst_defect_auroc": 0.8}
    second["figures"]["image_auroc"] = 0.85
    longer = copy.deepcopy(RUN) | {"minutes": 30.0}
    rows = [line for line in table([RUN, second, longer]).splitlines() if "| bottle" in line]
    assert len(rows) == 2
    assert "5.0 min, 2 seeds | 90.0 (85.0)" in rows[0]


def test_without_masks_the_pixel_metrics_are_dashes():
    bare = copy.deepcopy(RUN) | {"category": "screw_block"}
    bare["figures"] |= {"pixel_auroc": None, "pro": None}
    assert "| 95.0 (90.0) | – | – |" in table([bare])
    assert table([bare]).splitlines()[2].endswith("| – |")
