"""Scored rows of two folders, paired by task and sample id: reading them, their differences, the table of differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.bench.results import RESULT_FILE, SCORES_FILE
from vlrl.data.files import read_json_lines, read_json_object
from vlrl.metrics.bootstrap import paired_test, ratio
from vlrl.metrics.composite import Composite, cells_of, columns_of, statistic_of, with_holm, without_parts
from vlrl.metrics.tables import text_table
from vlrl.schema import SampleError

Rows = dict[tuple[str, str], dict[str, Any]]
Composites = Mapping[str, Mapping[str, Composite]]
"""Task -> metric -> the parts that it is made of, as `result.json` has them."""
ROW_KEYS = ("task", "id", "image", "outcome", "ground_truth", "answer")
OLDER_KEYS = frozenset({"gold", "picture"})
"""Keys of rows written by older versions."""


def read_result_folder(folder: Path) -> tuple[dict[str, Any], Rows]:
    """`result.json` and the rows of `scores.jsonl` by task and id. Raises SampleError for files that are missing or damaged."""
    for name in (RESULT_FILE, SCORES_FILE):
        if not (folder / name).is_file():
            raise SampleError(f"{folder} holds no {name}; give folders written by `vlrl bench run` or `vlrl bench score`")
    result = read_json_object(folder / RESULT_FILE)
    if not isinstance(result.get("results"), dict):
        raise SampleError(f"{folder / RESULT_FILE}: has no 'results'; it was not written by `vlrl bench run` or `score`")
    rows: Rows = {}
    for where, row in read_json_lines(folder / SCORES_FILE):
        _check_row(row, where, folder)
        key = (row["task"], row["id"])
        if key in rows:
            raise SampleError(f"{where}: id {row['id']!r} of task {row['task']} occurs twice")
        rows[key] = row
    return result, rows


def _check_row(row: dict[str, Any], where: str, folder: Path) -> None:
    if OLDER_KEYS & row.keys():
        raise SampleError(
            f"{where}: written by an older version of vlrl; score it again:"
            f" vlrl bench score --predictions {folder / 'predictions.jsonl'} --task ... --output_path ..."
        )
    for key in ROW_KEYS:
        if not isinstance(row.get(key), str):
            raise SampleError(f"{where}: {key!r} must be text, got {row.get(key)!r:.60}; not a row of `vlrl bench score`")
    parts = row.get("parts")
    if not isinstance(parts, dict):
        raise SampleError(f"{where}: 'parts' must be an object, got {parts!r:.60}")
    for name, part in parts.items():
        if not (isinstance(part, list) and len(part) == 2 and all(map(_is_finite, part))):
            raise SampleError(f"{where}: {name} must be two finite numbers [numerator, denominator], got {part!r:.60}")


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def compare_rows(rows_a: Rows, rows_b: Rows, composites: Composites | None = None) -> list[dict[str, Any]]:
    """One record for each metric that both runs have: its values over the common samples, B - A with interval and two-sided
    p-value. `composites`: task -> metrics made of several parts, which come first; their p-values are also corrected for their
    number (`p_holm`).

    Samples that share an image are resampled together. Raises SampleError where no sample is common, or where the ground truth
    of a sample differs.
    """
    common = rows_a.keys() & rows_b.keys()
    if not common:
        raise SampleError(f"the runs share no sample ({len(rows_a)} and {len(rows_b)} rows); compare runs on the same data")
    for key in sorted(common):
        if rows_a[key]["ground_truth"] != rows_b[key]["ground_truth"]:
            raise SampleError(f"sample {key[1]!r} has another ground truth in B than in A; score both on the same data")
    found = _compare_composites(rows_a, rows_b, sorted(common), composites or {})
    for task, name in dict.fromkeys((key[0], name) for key in sorted(common) for name in rows_a[key]["parts"]):
        keys = [k for k in sorted(common) if k[0] == task and name in rows_a[k]["parts"] and name in rows_b[k]["parts"]]
        if not keys:
            continue
        parts = [{k[1]: rows[k]["parts"][name] for k in keys} for rows in (rows_a, rows_b)]
        images = {k[1]: rows_a[k]["image"] for k in keys}
        metric, p_value = paired_test(parts[0], parts[1], ratio, clusters=images)
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


def _compare_composites(
    rows_a: Rows, rows_b: Rows, common: list[tuple[str, str]], composites: Composites
) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for task, named in composites.items():
        for name, composite in named.items():
            wanted = set(cells_of(composite))
            keys = [k for k in common if k[0] == task and wanted & rows_a[k]["parts"].keys() & rows_b[k]["parts"].keys()]
            statistic = statistic_of(composite)
            sides = [{k[1]: columns_of(rows[k]["parts"], composite) for k in keys} for rows in (rows_a, rows_b)]
            values = [float(statistic(np.array([list(side.values())]).sum(axis=1))[0]) if keys else math.nan for side in sides]
            if any(map(math.isnan, values)):
                continue  # a part has no common sample
            images = {k[1]: rows_a[k]["image"] for k in keys}
            metric, p_value = paired_test(sides[0], sides[1], statistic, clusters=images)
            interval = None if metric.ci95 is None else list(metric.ci95)
            record = {"task": task, "metric": name, "a": values[0], "b": values[1], "difference": metric.value}
            found.append({**record, "stderr": metric.stderr, "ci95": interval, "p_value": p_value, "n": metric.n})
    tested = [one for one in found if one["p_value"] is not None]
    for one, corrected in zip(tested, with_holm([one["p_value"] for one in tested]), strict=True):
        one["p_holm"] = corrected
    return found


def difference_table(compared: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of `compare_rows`' records, a row a metric."""
    rows, (shown, n_others) = [], without_parts(compared)
    holm = any("p_holm" in one for one in shown)
    for one in shown:
        interval = "N/A" if one["ci95"] is None else f"[{one['ci95'][0]:+.4f}, {one['ci95'][1]:+.4f}]"
        numbers = [_shown(one[key]) for key in ("a", "b", "difference", "stderr")]
        corrected = [_shown(one.get("p_holm"))] if holm else []
        rows.append([one["task"], one["metric"], *numbers, interval, _shown(one["p_value"]), *corrected, str(one["n"])])
    corrected = ["P_Holm"] if holm else []
    header = ["Tasks", "Metric", "Baseline", "Value", "Diff", "Stderr", "CI", "P_Value", *corrected, "n"]
    table = text_table(header, rows, markdown=True)
    return (
        f"{table}\n{n_others:,} further differences, of single parts, are in diff.json (--output_path)" if n_others else table
    )


def _shown(value: float | None) -> str:
    return "N/A" if value is None or value != value else f"{value:.4f}"
