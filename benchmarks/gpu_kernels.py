"""The kernels beside torch on a GPU: device times in turns, and the share of what the device can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np


class Case(NamedTuple):
    """One line of the results."""

    kernel: str
    shape: str
    edgead: Callable[[], object]
    peers: dict[str, Callable[[], object]]
    flop: float
    bytes: float


def device_times(
    calls: dict[str, Callable[[], object]], seconds: float
) -> dict[str, dict[str, float]]:
    """Medians of the device time (CUDA events, in turns) and of the host time of a call, on torch's current stream."""
    import torch

    for call in calls.values():
        for _ in range(5):
            call()
    torch.cuda.synchronize()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    flush = torch.empty(
        64 << 20, dtype=torch.uint8, device="cuda"
    )  # larger than a second-level cache
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(spent.values()))) < 5:
        for name, call in calls.items():
            flush.zero_()
            first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            first.record()
            started = time.perf_counter()
            call()
            host = time.perf_counter() - started
            last.record()
            last.synchronize()
            spent[name].append((first.elapsed_time(last), host * 1e3))
    return {
        name: dict(
            zip(
                ("device_ms", "host_ms"), (float(v) for v in np.median(values, axis=0)), strict=True
            )
        )
        for name, values in spent.items()
    }


def cases() -> Iterator[Case]:
    """The sizes of benchmarks/kernels.py, with arrays of torch on the device."""
    import torch
    from torch.nn.functional import conv2d, interpolate, normalize, pad

    from edgead import kernels
    from edgead.kernels.tables import gaussian_kernel

    def rand(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda")

    for batch in (1, 16):
        for count in (100, 512, 2048):
            x, c = rand(784 * batch, 1536), rand(count, 1536)
            yield Case(
                "kmeans_assign", f"{len(x)}x1536 against {count}", lambda x=x, c=c: kernels.kmeans_assign(x, c),
                {"torch addmm+min": lambda x=x, c=c: torch.addmm(c.square().sum(1), x, c.T, alpha=-2).min(1),
                 "torch cdist+min": lambda x=x, c=c: torch.cdist(x, c).min(1)},
                2.0 * len(x) * count * 1536, 0,
            )  # fmt: skip
        for nodes, channels in ((64, 64), (64, 256), (1024, 64), (1024, 256)):
            f, g, p = rand(batch, nodes, channels), rand(batch, nodes, channels), rand(nodes, nodes)
            yield Case(
                "topk_neighbours", f"{batch}x{nodes}x{channels}",
                lambda f=f, g=g, p=p: kernels.topk_neighbours(f, g, p, 9),
                {"torch": lambda f=f, g=g, p=p: (normalize(f, dim=-1) @ normalize(g, dim=-1).mT - p).topk(9)},
                2.0 * batch * nodes * nodes * channels, 0,
            )  # fmt: skip
        weights = torch.from_numpy(gaussian_kernel(4.0).astype(np.float32)).cuda()
        radius = len(weights) // 2

        def smooth(
            m: torch.Tensor, size: int, weights: Any = weights, radius: int = radius
        ) -> torch.Tensor:
            up = pad(
                interpolate(m[:, None], (size, size), mode="bilinear"),
                (radius,) * 4,
                mode="reflect",
            )
            return conv2d(conv2d(up, weights[None, None, None]), weights[None, None, :, None])

        for side, size in ((28, 256), (36, 512), (64, 1024), (64, 2048)):
            m = rand(batch, side, side)
            yield Case(
                "heatmap", f"{batch}x{side} to {size}",
                lambda m=m, s=size: kernels.heatmap(m, (s, s), sigma=4, threshold=0.5),
                {"torch": lambda m=m, s=size, smooth=smooth: smooth(m, s)}, 0, 5.0 * batch * size * size,
            )  # fmt: skip
    for (height, width), size in (((512, 512), (256, 256)), ((1080, 1920), (512, 512))):
        frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, device="cuda")
        planar = frame.permute(2, 0, 1)[None].float()
        yield Case(
            "resize", f"{width}x{height} to {size[1]}x{size[0]}", lambda x=frame, s=size: kernels.resize(x, s),
            {"torch antialias, float": lambda x=planar, s=size: interpolate(x, s, mode="bilinear", antialias=True)},
            0, float(frame.numel() + size[0] * size[1] * 3),
        )  # fmt: skip


def timings(deadline: float, tell: Callable[[dict[str, Any]], None]) -> None:
    """Time all cases in what is left until the deadline; one that fails is told, and the next one runs."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    a, b = torch.randn(2, 4096, 4096, device="cuda")
    target = torch.empty(1 << 28, dtype=torch.uint8, device="cuda")
    machine = device_times({"sgemm": lambda: a @ b, "write": lambda: target.zero_()}, 3)
    limits = {
        "sgemm_gflops": 2 * 4096**3 / machine["sgemm"]["device_ms"] / 1e6,
        "write_gb_s": target.numel() / machine["write"]["device_ms"] / 1e6,
    }
    every = list(cases())
    results: list[dict[str, Any]] = []
    for number, case in enumerate(every):
        left = max(deadline - time.monotonic(), 0) / (len(every) - number)
        head = {"kernel": case.kernel, "shape": case.shape}
        try:
            results.append({**head, **timed(case, min(4.0, left), limits)})
            print(
                "{kernel:16} {shape:24} {edgead_ms:8.4f} ms {speedup:6.2f}x".format(**results[-1])
            )
        except (RuntimeError, TypeError, ValueError) as error:
            results.append({**head, "failed": f"{type(error).__name__}: {error}"})
        tell({"limits": limits, "results": results})
    tell({"passed": not any("failed" in one for one in results)})


def timed(case: Case, seconds: float, limits: dict[str, float]) -> dict[str, Any]:
    """One line of the results."""
    times = device_times({"edgead": case.edgead, **case.peers}, seconds)
    own = times.pop("edgead")
    best = min(times, key=lambda name: times[name]["device_ms"])
    rate = (
        case.flop / limits["sgemm_gflops"] if case.flop else case.bytes / limits["write_gb_s"]
    ) / 1e6
    return {
        "edgead_ms": own["device_ms"], "edgead_host_ms": own["host_ms"],
        "peers_ms": {name: one["device_ms"] for name, one in times.items()}, "best_peer": best,
        "speedup": times[best]["device_ms"] / own["device_ms"], "limit_share": rate / own["device_ms"],
    }  # fmt: skip
