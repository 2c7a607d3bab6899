"""`result.json` in lmms-eval's habits, `scores.jsonl` (a row a sample, for `diff`), the table in the terminal."""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.metrics.bootstrap import N_RESAMPLES
from vlrl.rewards.chat_client import without_secrets
from vlrl.schema import Metric
from vlrl.tasks.evaluate import Row, Scored, git_revision, versions, write_json

_ADDRESS = re.compile(r"https?://.*")
RESULT, SCORES = "result.json", "scores.jsonl"


def result_json(scored: Sequence[Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """lmms-eval's keys (`results` with `<metric>,none` and `<metric>_stderr,none`, `n-samples`, `versions`, ...) and ours.

    `about` adds what the numbers were made with: model, seed, data, settings. Beside every value stand `_ci95`, `_n`, and for
    means the closed forms `_stderr_clt` and, where pictures are shared, `_stderr_clustered`.
    """
    results: dict[str, dict[str, Any]] = {}
    for one in scored:
        values: dict[str, Any] = {"alias": one.name}
        for name, metric in one.metrics.items():
            values[f"{name},none"] = metric.value
            values[f"{name}_stderr,none"] = metric.stderr
            for kind, stderr in closed_forms(one.rows, name).items():
                values[f"{name}_{kind},none"] = stderr
            values[f"{name}_ci95,none"] = None if metric.ci95 is None else list(metric.ci95)
            values[f"{name}_n,none"] = metric.n
        counts = {"n_unparsed": one.n_unparsed, "n_truncated": one.n_truncated, "n_missing_image": one.n_missing_image}
        results[one.name] = {**values, **counts, **({"label": one.label} if one.label else {}), **one.extra}
    return {
        "results": results,
        "headline": {one.name: one.headline for one in scored},
        "versions": {one.name: one.version for one in scored},
        "n-shot": {one.name: 0 for one in scored},
        "higher_is_better": {one.name: {name: name not in one.lower_is_better for name in one.metrics} for one in scored},
        "n-samples": {one.name: {"original": one.n + one.n_missing_image, "effective": one.n} for one in scored},
        **{key: sum(getattr(one, key) for one in scored) for key in ("n_unparsed", "n_truncated", "n_missing_image")},
        **about,
        "config": {**about.get("config", {}), "bootstrap_iters": N_RESAMPLES, "resolved_cli_args": shlex.join(_redacted())},
        "git_hash": git_revision(),
        "packages": versions(),
    }


def _redacted() -> list[str]:
    """The command line, without user, password and query of addresses."""
    return [_ADDRESS.sub(lambda found: without_secrets(found[0]), word) for word in sys.argv[1:]]


def closed_forms(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Standard errors of a mean over rows without resampling: `stderr_clt` takes rows for independent, `stderr_clustered`
    takes rows of one picture together. Nothing for numbers that are no means of rows."""
    found = [(row.parts[name], row.image) for row in rows if name in row.parts]
    if len(found) < 2 or any(bottom != 1 for (_, bottom), _ in found):
        return {}
    values_N = np.array([top for (top, _), _ in found])
    gaps_N = values_N - values_N.mean()
    n = len(values_N)
    errors = {"stderr_clt": float(values_N.std(ddof=1) / math.sqrt(n))}
    pictures = {picture: i for i, picture in enumerate(dict.fromkeys(picture for _, picture in found))}
    if len(pictures) < n:
        sums_U = np.bincount([pictures[picture] for _, picture in found], weights=gaps_N)
        errors["stderr_clustered"] = float(np.sqrt((sums_U**2).sum()) / n)
    return errors


def write_results(folder: Path, scored: Sequence[Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `result.json` and `scores.jsonl`; returns what `result.json` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{SCORES}.partial"
    with partial.open("w", encoding="utf-8") as file:
        for one in scored:
            file.writelines(json.dumps({"task": one.name, **row.to_json()}, ensure_ascii=True) + "\n" for row in one.rows)
    partial.replace(folder / SCORES)
    result = result_json(scored, about)
    write_json(folder / RESULT, result)
    return result


def shown(metric: Metric) -> tuple[str, str, str]:
    """Value, standard error and interval as the table shows them."""
    if metric.value is None:
        return "N/A", "N/A", "N/A"
    stderr = "N/A" if metric.stderr is None else f"{metric.stderr:.4f}"
    interval = "N/A" if metric.ci95 is None else f"[{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]"
    return f"{metric.value:.4f}", stderr, interval


def table(scored: Sequence[Scored]) -> str:
    """lmms-eval's Markdown table with the interval and n added; numbers of single classes (`name[class]`) are left to
    `result.json`, except those of a task that has nothing else."""
    rows = [["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr", "95 % interval", "n"]]
    for one in scored:
        plain = {name: m for name, m in one.metrics.items() if "[" not in name} or one.metrics
        for i, (name, metric) in enumerate(plain.items()):
            arrow = "↓" if name in one.lower_is_better else "↑"
            value, stderr, interval = shown(metric)
            first = [one.name, one.version] if i == 0 else ["", ""]
            rows.append([*first, "none", "0", name, arrow, value, "±", stderr, interval, str(metric.n)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["|" + "|".join(f" {cell.ljust(width)} " for cell, width in zip(row, widths, strict=True)) + "|" for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def counts_line(scored: Sequence[Scored], n_failed: int) -> str:
    """What was not read, cut off, left out: never silently."""
    counts = {key: sum(getattr(one, key) for one in scored) for key in ("n_unparsed", "n_truncated", "n_missing_image")}
    return "  ".join(f"{key} {value}" for key, value in {**counts, "n_failed": n_failed}.items())
