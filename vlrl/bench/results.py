"""`result.json` in lmms-eval's habits, `scores.jsonl` (a row a sample, for `diff`), the table in the terminal."""

from __future__ import annotations

import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.data.files import write_json_lines
from vlrl.data.masking import masked_command, without_secrets
from vlrl.metrics.bootstrap import N_RESAMPLES
from vlrl.metrics.tables import text_table
from vlrl.schema import Metric
from vlrl.tasks.evaluate import Row, Scored, git_revision, versions, write_json

_ADDRESS = re.compile(r"https?://.*")
RESULT_FILE, SCORES_FILE = "result.json", "scores.jsonl"
MEAN_OVER = "/mean_over_"
"""In the names of means over groups (`vlrl.bench.groups`)."""


def result_json(scored: Sequence[Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """lmms-eval's keys (`results` with `<metric>,none` and `<metric>_stderr,none`, `n-samples`, `versions`, ...) and ours.

    `about` adds what the numbers were made with: model, seed, data, settings. Beside every value stand `_ci95`, `_n`, and for
    means the closed forms `_stderr_clt` and, where samples share images, `_stderr_clustered`.
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
        **({"composites": made} if (made := {one.name: one.composites for one in scored if one.composites}) else {}),
        "n-samples": {one.name: {"original": one.n + one.n_missing_image, "effective": one.n} for one in scored},
        **{key: sum(getattr(one, key) for one in scored) for key in ("n_unparsed", "n_truncated", "n_missing_image")},
        **about,
        "config": {**about.get("config", {}), "bootstrap_iters": N_RESAMPLES, "resolved_cli_args": shlex.join(_redacted())},
        "git_hash": git_revision(),
        "packages": versions(),
    }


def about_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What `run.json` states of a run, as `result.json` holds it."""
    decoding = str(settings.get("decoding", "greedy"))
    temperature = 0.0 if decoding == "greedy" else float(decoding.rpartition(" ")[2])
    generation = {"temperature": temperature, "max_tokens": settings.get("max_new_tokens")}
    return {
        "model": settings.get("model"),
        "seed": settings.get("seed"),
        "config": {**settings, "gen_kwargs": generation},
    }


def _redacted() -> list[str]:
    """The command line, without keys, and without user, password and query of addresses."""
    return masked_command([_ADDRESS.sub(lambda found: without_secrets(found[0]), word) for word in sys.argv[1:]])


def closed_forms(rows: Sequence[Row], name: str) -> dict[str, float]:
    """Standard errors of a mean over rows without resampling: `stderr_clt` takes rows for independent, `stderr_clustered`
    takes rows of one image together. Empty for numbers that are not means of rows."""
    found = [(row.parts[name], row.image) for row in rows if name in row.parts]
    if len(found) < 2 or any(bottom != 1 for (_, bottom), _ in found):
        return {}
    values_N = np.array([top for (top, _), _ in found])
    gaps_N = values_N - values_N.mean()
    n = len(values_N)
    errors = {"stderr_clt": float(values_N.std(ddof=1) / math.sqrt(n))}
    images = {image: i for i, image in enumerate(dict.fromkeys(image for _, image in found))}
    if len(images) < n:
        sums_U = np.bincount([images[image] for _, image in found], weights=gaps_N)
        errors["stderr_clustered"] = float(np.sqrt((sums_U**2).sum()) / n)
    return errors


def write_results(folder: Path, scored: Sequence[Scored], about: Mapping[str, Any]) -> dict[str, Any]:
    """Write `result.json` and `scores.jsonl`; returns what `result.json` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(folder / SCORES_FILE, ({"task": one.name, **row.to_json()} for one in scored for row in one.rows))
    result = result_json(scored, about)
    write_json(folder / RESULT_FILE, result)
    return result


def shown(metric: Metric) -> tuple[str, str, str]:
    """Value, standard error and interval as the table shows them."""
    if metric.value is None:
        return "N/A", "N/A", "N/A"
    stderr = "N/A" if metric.stderr is None else f"{metric.stderr:.4f}"
    interval = "N/A" if metric.ci95 is None else f"[{metric.ci95[0]:.4f}, {metric.ci95[1]:.4f}]"
    return f"{metric.value:.4f}", stderr, interval


def result_table(scored: Sequence[Scored]) -> str:
    """lmms-eval's Markdown table with the interval and n added; numbers of single classes (`name[class]`) and means over
    groups are left to `result.json`, except those of a task that has nothing else. A task with a card shows that alone."""
    rows = []
    for one in scored:
        if one.card:
            continue
        plain = {name: m for name, m in one.metrics.items() if "[" not in name and MEAN_OVER not in name} or one.metrics
        for i, (name, metric) in enumerate(plain.items()):
            arrow = "↓" if name in one.lower_is_better else "↑"
            value, stderr, interval = shown(metric)
            first = [one.name, one.version] if i == 0 else ["", ""]
            rows.append([*first, "none", "0", name, arrow, value, "±", stderr, interval, str(metric.n)])
    header = ["Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr", "95 % interval", "n"]
    cards = [one.card for one in scored if one.card]
    tables = [table for one in scored for table in one.tables]
    return "\n\n".join([*cards, *([text_table(header, rows, markdown=True)] if rows else []), *tables])


def counts_line(scored: Sequence[Scored], n_failed: int) -> str:
    """How many answers were not read or truncated, and how many samples were left out."""
    counts = {key: sum(getattr(one, key) for one in scored) for key in ("n_unparsed", "n_truncated", "n_missing_image")}
    return "  ".join(f"{key} {value}" for key, value in {**counts, "n_failed": n_failed}.items())
