"""The one table of tolerances: what is compared, how far it may differ, and why."""

from __future__ import annotations

from typing import NamedTuple


class Tolerance(NamedTuple):
    """``abs(a - b) <= atol + rtol * abs(b)``, and the reason in words."""

    rtol: float
    atol: float
    reason: str


TOLERANCES: dict[str, Tolerance] = {
    "kernel_f32": Tolerance(1e-5, 1e-6, "summation order only"),
    "kernel_f16": Tolerance(1e-2, 1e-2, "ten bits of mantissa in the inputs"),
    "export_score": Tolerance(
        0.0, 1e-3, "same graph, other summation order; in units of score_scale"
    ),
    "beta_quantile": Tolerance(1e-10, 1e-13, "bisection to the last bit of a continued fraction"),
    "metric_exact": Tolerance(0.0, 1e-12, "same sums of the same scores, other order"),
    "export_map": Tolerance(0.0, 1e-4, "same graph, other summation order; of the map's range"),
    "module_f32": Tolerance(
        1e-4, 1e-5, "float32 sums of a module against a plain loop, other order"
    ),
    "flow_inverse": Tolerance(0.0, 1e-4, "exp and atan of four blocks and back, float32"),
    "flow_jacobian": Tolerance(1e-8, 1e-8, "float64; sums of log-scales against an LU determinant"),
    "export_output": Tolerance(
        0.0, 1e-4, "same graph, other summation order; of the output's range"
    ),
    "histogram_bin": Tolerance(0.01, 0.0, "a clipping point moves by a bin when bins were joined"),
    "fp16_map": Tolerance(
        0.0, 5e-3, "eleven bits of mantissa in each of a few layers; of the map's range"
    ),
    "same_function": Tolerance(0.0, 1e-4, "float32 sums in another order, of values up to 100"),
    "int8_map": Tolerance(0.0, 0.1, "127 steps in each of three layers; of the map's range"),
}
