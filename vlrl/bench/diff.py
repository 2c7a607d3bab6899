"""`diff A B`: two scored runs on the same samples, by a paired bootstrap, and the samples whose answers changed sides."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.bench.results import RESULT, SCORES
from vlrl.metrics.bootstrap import paired_test, ratio
from vlrl.schema import SampleError
from vlrl.tasks.evaluate import write_json

Rows = dict[tuple[str, str], dict[str, Any]]


def read_folder(folder: Path) -> tuple[dict[str, Any], Rows]:
    """`result.json` and the rows by task and id. Raises SampleError."""
    for name in (RESULT, SCORES):
        if not (folder / name).is_file():
            raise SampleError(f"{folder} holds no {name}; give folders written by `vlrl-bench run` or `score`")
    result = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    lines = (folder / SCORES).read_text(encoding="utf-8").splitlines()
    return result, {(row["task"], row["id"]): row for row in map(json.loads, lines)}


def diff(args: argparse.Namespace) -> int:
    """Print the differences B - A with interval and p-value, then what changed; of several runs a side, `diff_several`."""
    from vlrl.bench.diff_runs import check_folders, diff_several

    check_folders(args.folders, args.to)
    if args.to:
        return diff_several(args)
    at_a, at_b = args.folders
    (result_a, rows_a), (result_b, rows_b) = read_folder(at_a), read_folder(at_b)
    compared = compare(rows_a, rows_b)
    common = sorted(rows_a.keys() & rows_b.keys())
    changes = changed(rows_a, rows_b)
    sha = [(result.get("data") or {}).get("sha256") for result in (result_a, result_b)]
    print(f"A  {at_a}  model {result_a.get('model')}\nB  {at_b}  model {result_b.get('model')}")
    print(f"{len(common)} samples in both, {len(rows_a) - len(common)} only in A, {len(rows_b) - len(common)} only in B")
    if sha[0] != sha[1]:
        print("the data files differ (SHA-256): compared by sample id alone")
    print(difference_table(compared))
    for kind in ("better", "worse"):
        rows = changes[kind]
        print(f"\n{len(rows)} samples are {kind} in B")
        for row in rows[: args.n]:
            print(f"  {row['id']}  true {row['ground_truth'][:60]!r}")
            for side, how in (("a", "was"), ("b", "is")):
                print(f"    {side.upper()} {row[how]}: {(row[f'completion_{side}'] or row[side])!r:.300}")
        if len(rows) > args.n:
            print(f"  ... and {len(rows) - args.n} more")
    if args.output_path:
        args.output_path.mkdir(parents=True, exist_ok=True)
        told = {"a": str(at_a), "b": str(at_b), "n_common": len(common), "differences": compared, "changed": changes}
        write_json(args.output_path / "diff.json", told)
        print(args.output_path / "diff.json")
    return 0


def compare(rows_a: Rows, rows_b: Rows) -> list[dict[str, Any]]:
    """A record a metric that both runs have: values over the common samples, B - A with its interval, two-sided p-value.

    Samples that share a picture are resampled together. Raises SampleError where no sample is common, or a sample's truth
    differs.
    """
    common = rows_a.keys() & rows_b.keys()
    if not common:
        raise SampleError(f"the runs share no sample ({len(rows_a)} and {len(rows_b)} rows); compare runs on the same data")
    for key in sorted(common):
        if rows_a[key]["ground_truth"] != rows_b[key]["ground_truth"]:
            raise SampleError(f"sample {key[1]!r} has another right answer in B than in A; score both on the same data")
    found = []
    for task, name in dict.fromkeys((key[0], name) for key in sorted(common) for name in rows_a[key]["parts"]):
        keys = [k for k in sorted(common) if k[0] == task and name in rows_a[k]["parts"] and name in rows_b[k]["parts"]]
        if not keys:
            continue
        parts = [{k[1]: rows[k]["parts"][name] for k in keys} for rows in (rows_a, rows_b)]
        pictures = {k[1]: rows_a[k]["image"] for k in keys}
        metric, p_value = paired_test(parts[0], parts[1], ratio, clusters=pictures)
        values = [float(ratio(np.array([list(part.values())]).sum(axis=1))[0]) for part in parts]
        found.append(
            {
                "task": task,
                "metric": name,
                "a": values[0],
                "b": values[1],
                "difference": metric.value,
                "stderr": metric.stderr,
                "ci95": None if metric.ci95 is None else list(metric.ci95),
                "p_value": p_value,
                "n": metric.n,
            }
        )
    return found


def changed(rows_a: Rows, rows_b: Rows) -> dict[str, list[dict[str, Any]]]:
    """The common samples whose headline value rose ("better") or fell ("worse") from A to B."""
    found: dict[str, list[dict[str, Any]]] = {"better": [], "worse": []}
    for key in rows_a:
        if key not in rows_b:
            continue
        a, b = rows_a[key], rows_b[key]
        gap = _worth(b) - _worth(a)
        if gap:
            told = {"task": key[0], "id": key[1], "ground_truth": a["ground_truth"], "a": a["answer"], "b": b["answer"]}
            told |= {f"completion_{side}": row.get("completion", "") for side, row in (("a", a), ("b", b))}
            found["better" if gap > 0 else "worse"].append({**told, "was": a["outcome"], "is": b["outcome"], "gap": gap})
    for rows in found.values():
        rows.sort(key=lambda row: -abs(row["gap"]))
    return found


def _worth(row: Mapping[str, Any]) -> float:
    """A sample's first metric, the headline."""
    if not row["parts"]:
        return float(row["outcome"] == "right")
    top, bottom = next(iter(row["parts"].values()))
    return top / bottom if bottom else 1.0


def difference_table(compared: list[dict[str, Any]]) -> str:
    rows = [["Tasks", "Metric", "Baseline", "Value", "Diff", "Stderr", "CI", "P_Value", "n"]]
    for one in compared:
        interval = "N/A" if one["ci95"] is None else f"[{one['ci95'][0]:+.4f}, {one['ci95'][1]:+.4f}]"
        numbers = [_shown(one[key]) for key in ("a", "b", "difference", "stderr")]
        rows.append([one["task"], one["metric"], *numbers, interval, _shown(one["p_value"]), str(one["n"])])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["|" + "|".join(f" {cell.ljust(width)} " for cell, width in zip(row, widths, strict=True)) + "|" for row in rows]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _shown(value: float | None) -> str:
    return "N/A" if value is None or value != value else f"{value:.4f}"
