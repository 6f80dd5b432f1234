"""Draw the tables of README and docs from ``benchmarks/results/*.json``; no figure is typed.

``python benchmarks/tables.py`` rewrites what stands between ``<!-- table:NAME -->`` and ``<!-- /table -->``;
``--check`` only says whether that would change anything.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import speed_tables
import stream_tables
from harness import NOT_MEASURED, RESULTS, ROOT, markdown

from edgead import files

__all__ = ["PAGES", "draw", "markdown"]

_TABLE = re.compile(r"(<!-- table:([a-z_]+) -->\n).*?(<!-- /table -->)", re.DOTALL)
NONE = f"{NOT_MEASURED}\n"


def draw(text: str, tables: dict[str, Callable[[], str]]) -> str:
    """``text`` with every marked table drawn anew."""

    def fresh(found: re.Match[str]) -> str:
        return f"{found[1]}{tables[found[2]]()}{found[3]}"

    return _TABLE.sub(fresh, text)


def main_job() -> str:
    """The main job: what the product's one path reaches, a column a data set, weak ones too."""
    sets = [
        json.loads(path.read_text())["figures"] for path in sorted(RESULTS.glob("main_job*.json"))
    ]
    rows = [[name, *(figures[name] for figures in sets)] for name in sets[0] if name != "set"]
    return markdown(["figure", *(figures["set"] for figures in sets)], rows)


def kernels() -> str:
    """The kernels against their peers."""
    import kernels as benchmark

    return benchmark.readme_table() if (RESULTS / "kernels-cpu.json").exists() else NONE


def accuracy() -> str:
    """Methods by data set, beside the papers' figures."""
    from accuracy_table import table

    path = RESULTS / "accuracy.json"
    return f"{table(json.loads(path.read_text()))}\n" if path.exists() else NONE


def training_time() -> str:
    """Accuracy over the minutes that a training was given."""
    from accuracy_table import curves

    return _drawn("accuracy_minutes.json", curves)


def ablations() -> str:
    """A recipe's own settings against others."""
    from accuracy_table import ablations as drawn

    return _drawn("ablations.json", drawn)


def _drawn(name: str, draw_runs: Callable[[Any], str]) -> str:
    path = RESULTS / name
    return f"{draw_runs(json.loads(path.read_text()))}\n" if path.exists() else NONE


def precision() -> str:
    """Each precision against FP32: agreement from the certificates, speed from a run of its own."""
    text = ""
    for path in sorted(RESULTS.glob("precision_*.json")):
        found = json.loads(path.read_text())
        rows = [
            [
                one["backend"],
                one["precision"],
                f"{one['figures']['auroc_loss']:.4f}",
                one["figures"]["flips"],
                f"{one['figures']['rank_correlation']:.4f}",
                f"{found['speedup'][one['backend']][one['precision']]:.2f}x",
                _ratio(found.get("processor_speedup"), one),
                f"{one['figures']['size_ratio']:.0%}",
                ("yes" if one["passed"] else "no") + _after(one.get("refused", 0)),
            ]
            for one in found["certificates"]
            if one["arithmetic"] == "native"
        ]
        head = ["back end", "precision", "image AUROC loss", "flipped verdicts", "rank correlation"]
        head += ["speed against fp32", "in processor time", "size", "passed"]
        text += f"{found['method']} on {found['set']}, {found['test_frames']} frames, "
        text += (
            f"{found['provenance']['cpu']}, {found['threads']} threads:\n\n{markdown(head, rows)}\n"
        )
        text += f"{found['note']}\n\n" if found.get("note") else ""
    return text or NONE


def _after(refused: int) -> str:
    """What makes a pass weaker evidence: plans that the same frames refused before."""
    return f", after {refused} refused" if refused else ""


def _ratio(table: dict[str, Any] | None, one: dict[str, Any]) -> str | None:
    """A speed-up, None where it was not measured."""
    return None if table is None else f"{table[one['backend']][one['precision']]:.2f}x"


def choosing() -> str:
    """For docs/methods.md: each method's longest run on a set, with speed and memory of that very bundle."""
    from accuracy_table import PAPERS

    paths = RESULTS / "accuracy.json", RESULTS / "method_speed.json"
    if not all(path.exists() for path in paths):
        return NONE
    runs, timed = (json.loads(path.read_text()) for path in paths)
    speed = {row["bundle_hash"]: row for row in timed["rows"]}
    sets = sorted({run["category"] for run in runs})
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for run in sorted(runs, key=lambda one: one["training"]["seconds"]):
        best[run["method"], run["category"]] = run
    for path in RESULTS.glob("main_job*.json"):  # the default method at its defaults
        found = json.loads(path.read_text())["figures"]
        training = {"seconds": found["training, all in, s"]}
        run = {
            "figures": {"image_auroc": found["image AUROC"]},
            "training": training,
            "bundle_hash": "",
        }
        best.setdefault(("trisimplenet", found["set"]), run)
    rows = []
    for method in PAPERS:
        reached = [best.get((method, name)) for name in sets]
        costs = next(
            (speed[r["bundle_hash"]] for r in reached if r and r["bundle_hash"] in speed), None
        )
        rows.append([f"`{method}`", *(_reached(run) for run in reached), *_costs(costs)])
    head = ["method", *(f"{name}: image AUROC, training" for name in sets)]
    head += ["ms a frame (median)", "frames a second", "peak memory", "bundle"]
    where = f"{timed['provenance']['cpu']}, {timed['threads']} threads"
    return (
        markdown(head, rows)
        + "\nThe longest run of each method on each set. Speed and memory: decoded frames to verdicts by OpenVINO in "
        f"FP32, the bundle trained on bottle, {where}.\n"
    )


def _reached(run: dict[str, Any] | None) -> str | None:
    if run is None:
        return None
    minutes = run["training"]["seconds"] / 60
    return f"{100 * run['figures']['image_auroc']:.1f}, {minutes:.1f} min"


def _costs(row: dict[str, Any] | None) -> list[str | None]:
    if row is None:
        return [None] * 4
    return [
        f"{row['p50_ms']:.1f}",
        f"{row['fps']:.0f}",
        f"{row['peak_rss_mb']:.0f} MB",
        f"{row['bundle_mb']:.0f} MB",
    ]


def outputs() -> str:
    """For docs/plc.md: nothing lost, in order, and how soon it fails safe."""
    path = RESULTS / "outputs.json"
    if not path.exists():
        return NONE
    found = json.loads(path.read_text())
    restart, safe = found["mqtt_over_a_restart"], found["fail_safe"]
    names = {
        "modbus": "Modbus TCP, a client that acknowledges",
        "opcua": "OPC UA, a subscribed client",
    }
    rows: list[list[object]] = [
        [
            "MQTT, a subscriber, the broker ended half-way and started again",
            restart["received"],
            restart["lost"],
            "yes" if restart["in_order"] else "no",
            f"{found['mqtt']['per_second']:.0f} without the restart",
        ]
    ]
    for name, text in names.items():
        one = found[name]
        order = "yes" if one["in_order"] else "no"
        rows.append([text, one["received"], one["lost"], order, f"{one['per_second']:.0f}"])
    state, reject = safe["verdict_taken_back_s"], safe["plc_rejects_by_heartbeat_s"]
    return (
        markdown(["output", "verdicts received", "lost", "in order", "a second"], rows)
        + f"\nAfter a stall the verdict is taken back within {state['max']:.2f} s and the PLC of `tests/modbus_plc.py` "
        f"rejects by the heartbeat within {reject['max']:.2f} s (worst of {safe['turns']}). "
        f"{found['provenance']['cpu']}, loopback: `{found['command']}`.\n"
    )


def serving() -> str:
    """For docs/serve.md: what a page and slow connections cost the loop."""
    path = RESULTS / "serve_slow.json"
    if not path.exists():
        return NONE
    found = json.loads(path.read_text())
    names = {
        "plain": "no server",
        "served": "served, nobody watches",
        "page": "a page is open",
        "slow": f"{found['connections']} slow connections",
    }
    rows = []
    for name, text in names.items():
        one, ratio = found["paced"][name], found["fps_ratios"].get(f"{name} / plain")
        throughput = None
        if ratio is not None:
            low, high = ratio["quartiles"]
            throughput = f"{ratio['median']:.3f} ({low:.3f} to {high:.3f})"
        low, high = one["p99_interval_ms"]
        late = [f"{one['p50_ms']:.1f}", f"{one['p99_ms']:.1f} ({low:.1f} to {high:.1f})"]
        rows.append(
            [text, "1" if name == "plain" else throughput, *late, f"{one['core_share']:.1%}"]
        )
    head = ["", "throughput of a saturated loop (quartiles)", "p50 ms", "p99 ms (95 % interval)"]
    return (
        markdown([*head, "a core's time for serving"], rows)
        + f"\nThroughput: against no server in the same round, median of {found['rounds']} rounds. Latency: "
        f"{found['paced_frames']} frames each, one every {found['period_ms']:g} ms. "
        f"{found['provenance']['cpu']}, {found['provenance']['cores']} cores, the clients on the same machine.\n"
    )


def engines() -> str:
    """TensorRT-RTX engines built without a GPU."""
    path = RESULTS / "engines_trt.json"
    if not path.exists():
        return NONE
    found = json.loads(path.read_text())
    kinds = {None: "", True: "", False: " (by the recipe, not certified)"}
    rows = [
        [
            f"{one['method']}, {one['input'][0]}",
            f"{one['asked']}{kinds[one['certified']]}",
            f"{min(one['seconds']):.1f}, {max(one['seconds']):.1f}",
            f"{one['onnx_bytes'] / 1e6:.1f}",
            f"{one['bytes'] / 1e6:.1f}",
            "yes" if one["same_plan_twice"] else "no",
        ]
        for one in found["built"]
    ]
    where = found["provenance"]
    head = ["method, input", "precision", "seconds, both builds", "ONNX, MB", "engine, MB"]
    return (
        f"`{found['command']}`, TensorRT-RTX {found['built'][0]['version']}, {where['cpu']}, "
        f"{where['cores']} cores, load {where['load_at_end']}, {where['date']}:\n\n"
        f"{markdown([*head, 'same plan twice'], rows)}"
    )


TABLES: dict[str, Callable[[], str]] = {
    "main_job": main_job,
    "accuracy": accuracy,
    "end_to_end": speed_tables.end_to_end,
    "overhead": speed_tables.overhead,
    "scaling": speed_tables.scaling,
    "precision": precision,
    "kernels": kernels,
    "archive": speed_tables.archive,
}
#: Page -> its tables.
PAGES: dict[Path, dict[str, Callable[[], str]]] = {
    ROOT / "README.md": TABLES,
    ROOT / "docs" / "fleet.md": {"arithmetic": speed_tables.arithmetic},
    ROOT / "docs" / "cameras.md": {"streams": stream_tables.streams},
    ROOT / "docs" / "line.md": {
        "swaps": stream_tables.swaps,
        "faults": stream_tables.faults,
    },
    ROOT / "docs" / "methods.md": {
        "choosing": choosing,
        "training_time": training_time,
        "ablations": ablations,
        "head_inside": speed_tables.head_inside,
    },
    ROOT / "docs" / "plc.md": {"outputs": outputs},
    ROOT / "docs" / "serve.md": {"serving": serving},
    ROOT / "docs" / "versions.md": {"engines": engines},
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    stale = []
    for page, tables in PAGES.items():
        old = page.read_text()
        new = draw(old, tables)
        if new != old:
            stale.append(page.name)
            if not arguments.check:
                files.write_text(page, new)
    if arguments.check and stale:
        sys.exit(f"{', '.join(stale)}: run python benchmarks/tables.py")


if __name__ == "__main__":
    main()
