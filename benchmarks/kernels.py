"""Times edgead's kernels against what else a user could call, in one interleaved run.

    python benchmarks/kernels.py --json

`speedup` is the best peer's time over ours; `limit_share` is our rate over the machine's, measured in the same run: a
large sgemm for the products, a large copy for heatmap and resize. Patches and centroids are independent normal draws,
which have no cluster structure and so leave a first pass the least to prune.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

THREADS = 2
if __name__ == "__main__":  # before NumPy and torch read them
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = str(THREADS)

import harness  # noqa: E402
import numpy as np  # noqa: E402

from edgead import kernels  # noqa: E402

K = 9
SIGMA = 4.0
SECONDS = 4.0
"""For all candidates of a case together."""
PAUSE_S = 0.04
"""OpenBLAS lets its threads spin for some 25 ms after a call."""


class Case(NamedTuple):
    """One line of the table."""

    kernel: str
    shape: str
    edgead: Callable[[], Any]
    peers: dict[str, Callable[[], Any]]
    error: Callable[[], float]
    """Largest deviation from the NumPy reference."""
    flop: float
    bytes: float


def kmeans_cases() -> Iterator[Case]:
    """784 patches a frame (28 x 28) of 1536 channels, against faiss, scikit-learn and torch."""
    import faiss
    import torch
    from sklearn.metrics import pairwise_distances_argmin_min

    faiss.omp_set_num_threads(THREADS)
    rng = np.random.default_rng(0)
    for batch in (1, 16):
        for count in (100, 512, 2048):
            x = rng.standard_normal((784 * batch, 1536), dtype=np.float32)
            c = rng.standard_normal((count, 1536), dtype=np.float32)
            tx, tc = torch.from_numpy(x), torch.from_numpy(c)
            index = faiss.IndexFlatL2(1536)
            index.add(c)
            peers = {
                "torch addmm+min": lambda tx=tx, tc=tc: torch.addmm(
                    tc.square().sum(1), tx, tc.T, alpha=-2
                ).min(1),
                "torch cdist+min": lambda tx=tx, tc=tc: torch.cdist(tx, tc).min(1),
                "faiss": lambda index=index, x=x: index.search(x, 1),
                "scikit-learn": lambda x=x, c=c: pairwise_distances_argmin_min(x, c),
            }
            yield Case(
                "kmeans_assign", f"{len(x)}x1536 against {count}",
                lambda x=x, c=c: kernels.kmeans_assign(x, c, threads=THREADS), peers,
                lambda x=x, c=c: _kmeans_error(x[:100], c), 2.0 * len(x) * count * 1536,
                4.0 * (x.size + c.size),
            )  # fmt: skip


def _kmeans_error(x: np.ndarray, c: np.ndarray) -> float:
    index, distance = kernels.kmeans_assign(x, c)
    exact = np.sqrt(np.square(x.astype(np.float64) - c[index]).sum(axis=1))
    return float(np.abs(distance - exact).max())


def topk_cases() -> Iterator[Case]:
    """SLSG's graph: the 9 nearest of 64 or 1024 nodes, against torch and NumPy."""
    import torch
    from torch.nn.functional import normalize

    rng = np.random.default_rng(1)
    for batch in (1, 16):
        for nodes, channels in ((64, 64), (64, 256), (1024, 64), (1024, 256)):
            f, g = rng.standard_normal((2, batch, nodes, channels), dtype=np.float32)
            position = rng.random((nodes, nodes), dtype=np.float32)
            tf, tg, tp = (torch.from_numpy(array) for array in (f, g, position))
            peers = {
                "torch": lambda tf=tf, tg=tg, tp=tp: (
                    normalize(tf, dim=-1) @ normalize(tg, dim=-1).mT - tp
                ).topk(K).indices,
                "NumPy argpartition": lambda f=f, g=g, p=position: np.argpartition(
                    p - (f / np.linalg.norm(f, axis=-1, keepdims=True))
                    @ (g / np.linalg.norm(g, axis=-1, keepdims=True)).swapaxes(1, 2), K, axis=-1
                )[..., :K],
            }  # fmt: skip
            yield Case(
                "topk_neighbours", f"{batch}x{nodes}x{channels}",
                lambda f=f, g=g, p=position: kernels.topk_neighbours(f, g, p, K, threads=THREADS), peers,
                lambda f=f, g=g, p=position: _topk_error(f[:1], g[:1], p),
                2.0 * batch * nodes * nodes * channels, 4.0 * (f.size + g.size + position.size),
            )  # fmt: skip


def _topk_error(f: np.ndarray, g: np.ndarray, position: np.ndarray) -> float:
    """How much worse than the true best the similarities of the chosen are, in float64."""
    f, g = f.astype(np.float64), g.astype(np.float64)
    unit = [array / np.linalg.norm(array, axis=-1, keepdims=True) for array in (f, g)]
    similarity = unit[0] @ unit[1].swapaxes(1, 2) - position
    index = kernels.topk_neighbours(f.astype(np.float32), g.astype(np.float32), position, K)
    best = -np.sort(-similarity, axis=-1)[..., :K]
    return float(np.abs(np.take_along_axis(similarity, index, axis=-1) - best).max())


def heatmap_cases() -> Iterator[Case]:
    """Up-sampling and smoothing with sigma 4, against OpenCV, torch, SciPy and two dense products."""
    import cv2
    import scipy.ndimage
    import torch
    from torch.nn.functional import conv2d, interpolate, pad

    from edgead.kernels.tables import gaussian_kernel, heatmap_table

    cv2.setNumThreads(THREADS)
    rng = np.random.default_rng(2)
    weights = torch.from_numpy(gaussian_kernel(SIGMA).astype(np.float32))
    radius = len(weights) // 2

    def opencv(x: np.ndarray, size: int, up: Any = None, out: Any = None) -> np.ndarray:
        up = cv2.resize(x, (size, size), dst=up, interpolation=cv2.INTER_LINEAR)
        width = 2 * radius + 1
        return cv2.GaussianBlur(
            up, (width, width), SIGMA, dst=out, borderType=cv2.BORDER_REFLECT_101
        )

    def with_torch(x: torch.Tensor, size: int) -> torch.Tensor:
        up = interpolate(x[None, None], (size, size), mode="bilinear", align_corners=False)
        up = pad(up, (radius,) * 4, mode="reflect")
        return conv2d(conv2d(up, weights[None, None, None]), weights[None, None, :, None])

    def with_scipy(x: np.ndarray, size: int) -> np.ndarray:
        up = scipy_zoom(x, size)
        return scipy.ndimage.gaussian_filter(up, SIGMA, mode="mirror")

    def scipy_zoom(x: np.ndarray, size: int) -> np.ndarray:
        return scipy.ndimage.zoom(x, size / len(x), order=1, mode="nearest", grid_mode=True)

    for size in (256, 512, 1024, 2048):
        for side in (28, 36, 64):
            x = rng.random((side, side), dtype=np.float32)
            tx = torch.from_numpy(x)
            # Outputs given on both sides: fresh memory costs a page fault every 4 kB, whoever asks for it.
            up, out = np.empty((size, size), np.float32), np.empty((1, size, size), np.float32)
            spread = np.ascontiguousarray(heatmap_table(side, size, SIGMA).spread[:, :size])
            peers: dict[str, Callable[[], Any]] = {
                "OpenCV": lambda x=x, s=size, up=up, out=out[0]: opencv(x, s, up, out),
                "torch": lambda x=tx, s=size: with_torch(x, s),
                "SciPy": lambda x=x, s=size: with_scipy(x, s),
                "two NumPy products": lambda x=x, a=spread: a.T @ x @ a,
            }
            yield Case(
                "heatmap", f"{side} to {size}",
                lambda x=x, s=size, out=out: kernels.heatmap(
                    x[None], (s, s), sigma=SIGMA, threads=THREADS, out=out), peers,
                lambda x=x, s=size: float(np.abs(
                    kernels.heatmap(x[None], (s, s), sigma=SIGMA).map[0] - opencv(x, s)).max()),
                0.0, 4.0 * (size * size + side * side),
            )  # fmt: skip


def resize_cases() -> Iterator[Case]:
    """Camera frames to the engine's input, against OpenCV's INTER_AREA, torch and Pillow (both antialiased)."""
    import cv2
    import torch
    from PIL import Image
    from torch.nn.functional import interpolate

    cv2.setNumThreads(THREADS)
    rng = np.random.default_rng(3)
    for (height, width), size in (((512, 512), (256, 256)), ((1080, 1920), (512, 512))):
        x = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        out = np.empty((*size, 3), np.uint8)
        image, tensor = Image.fromarray(x), torch.from_numpy(x).permute(2, 0, 1)[None]
        peers = {
            "OpenCV INTER_AREA": lambda x=x, s=size, out=out: cv2.resize(
                x, s[::-1], dst=out, interpolation=cv2.INTER_AREA
            ),
            "torch antialias": lambda t=tensor, s=size: interpolate(
                t, s, mode="bilinear", antialias=True
            ),
            "Pillow BILINEAR": lambda i=image, s=size: np.asarray(
                i.resize(s[::-1], Image.Resampling.BILINEAR)
            ),
        }
        yield Case(
            "resize", f"{width}x{height} to {size[1]}x{size[0]}",
            lambda x=x, s=size, out=out: kernels.resize(x, s, threads=THREADS, out=out), peers,
            lambda x=x, s=size: _resize_error(x, s), 0.0, float(x.size + size[0] * size[1] * 3),
        )  # fmt: skip


def _resize_error(x: np.ndarray, size: tuple[int, int]) -> float:
    from edgead.kernels import reference
    from edgead.kernels.tables import resize_table

    tables = resize_table(x.shape[0], size[0]), resize_table(x.shape[1], size[1])
    expected = reference.resize(x, *tables, (0, 1, 2)).astype(int)
    return float(np.abs(kernels.resize(x, size).astype(int) - expected).max())


def limits() -> dict[str, float]:
    """The machine's own rates: a 2048-cubed sgemm and a copy of 256 MB, with torch on the same threads."""
    import torch

    torch.set_num_threads(THREADS)
    a, b = torch.rand(2, 2048, 2048)
    source, target = torch.rand(2, 2**25)
    times = harness.interleave(
        {"sgemm": lambda: a @ b, "copy": lambda: target.copy_(source)}, seconds=4
    )
    return {
        "sgemm_gflops": 2 * 2048**3 / times["sgemm"] / 1e6,
        "bandwidth_gb_s": 2 * 4 * 2**25 / times["copy"] / 1e6,
    }


def measure(case: Case, machine: dict[str, float]) -> dict[str, Any]:
    """Time one case; a result in the form that other programs read."""
    candidates = {"edgead": case.edgead, **case.peers}
    for call in candidates.values():
        call()
    started = time.perf_counter()
    for call in candidates.values():
        call()
    slow = time.perf_counter() - started > SECONDS / 20  # a cold first call no longer matters
    peers = harness.interleave(
        candidates, seconds=SECONDS, warm_up=0, least=3, burst=1 if slow else 5, pause_s=PAUSE_S
    )
    edgead = peers.pop("edgead")
    peers = {name: round(ms, 4) for name, ms in peers.items()}
    best = min(peers, key=peers.__getitem__)
    rate = (
        case.flop / edgead / 1e6 / machine["sgemm_gflops"]
        if case.flop
        else case.bytes / edgead / 1e6 / machine["bandwidth_gb_s"]
    )
    return {
        "kernel": case.kernel, "shape": case.shape, "threads": THREADS, "edgead_ms": round(edgead, 4),
        "peers_ms": peers, "best_peer": best, "speedup": round(peers[best] / edgead, 2),
        "max_error": case.error(), "limit_share": round(rate, 3),
    }  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--json", action="store_true", help="print the report on stdout too")
    options.add_argument(
        "--only", default="", help="a kernel's name; the results file is left alone"
    )
    chosen = options.parse_args()
    machine = limits()
    results = []
    for cases in (kmeans_cases, topk_cases, heatmap_cases, resize_cases):
        for case in cases():
            if chosen.only not in ("", case.kernel):
                break
            result = measure(case, machine)
            print("{kernel:16} {shape:22} {edgead_ms:9.3f} ms  {speedup:6.2f}x {best_peer:20} "
                  "limit {limit_share:6.1%}".format(**result), file=sys.stderr, flush=True)  # fmt: skip
            results.append(result)
    body = {
        "implementation": kernels.implementation(), "limits": machine, "scratch_bytes": _scratch_bytes(),
        "results": results,
    }  # fmt: skip
    if not chosen.only:
        harness.save("kernels-cpu", "python benchmarks/kernels.py --json", body)
    if chosen.json:
        sys.stdout.write(json.dumps(body, indent=1, allow_nan=False) + "\n")


def readme_table() -> str:
    """The table of README: CPU figures, and the GPU's where they were measured."""
    from tables import NOT_MEASURED, markdown

    document = harness.load("kernels-cpu")
    rows = [
        [one["kernel"], one["shape"], f"{one['edgead_ms']:.3g}", one["best_peer"], f"{one['speedup']:.1f}x",
         f"{one['limit_share']:.0%}"]
        for one in document["results"]
    ]  # fmt: skip
    where = document["provenance"]
    head = ["kernel", "size", "ms", "best peer", "speed-up", "share of the machine's limit"]
    text = f"{where['cpu']}, {THREADS} threads, {document['implementation']}:\n\n{markdown(head, rows)}\n"
    gpu = harness.load("gpu") if (harness.RESULTS / "gpu.json").exists() else {}
    timed = [
        one for one in gpu.get("timings", {}).get("results", []) if "failed" not in one
    ]  # fmt: skip
    if not timed:
        return f"{text}On a GPU: {NOT_MEASURED}.\n"
    rows = [
        [one["kernel"], one["shape"], f"{one['edgead_ms']:.3g}", one["best_peer"], f"{one['speedup']:.1f}x",
         f"{one['limit_share']:.0%}"]
        for one in timed
    ]  # fmt: skip
    return f"{text}{gpu['gpu']['name']}:\n\n{markdown(head, rows)}"


def _scratch_bytes() -> int | None:
    """What the calling thread keeps after all these sizes: packed operands and strips, nothing of size N x K."""
    try:
        from edgead import _C
    except ImportError:
        return None
    return _C.scratch_bytes()


if __name__ == "__main__":
    main()
