"""`diff A1 A2 ... --to B1 B2 ...`: several runs a side, as several seeds of one recipe are.

Two sources of chance are reported apart: which run (interquartile means over runs, `vlrl.metrics.runs`), and which samples (the
mean over runs of each sample, paired as `diff` of two folders pairs them).
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.bench.paired_rows import Rows, compare_rows, difference_table, read_result_folder
from vlrl.metrics.runs import Comparison, compare_runs
from vlrl.metrics.tables import text_table
from vlrl.schema import Metric, SampleError
from vlrl.tasks.evaluate import write_json

Results = Sequence[Mapping[str, Any]]
ALL_TASKS = "all tasks"


def diff_several(args: argparse.Namespace) -> int:
    """Print both tables; write `diff.json` where asked. Raises SampleError."""
    sides = [[read_result_folder(folder) for folder in folders] for folders in (args.folders, args.to)]
    results = [[result for result, _ in side] for side in sides]
    for name, folders, side in zip("AB", (args.folders, args.to), results, strict=True):
        models = ", ".join(dict.fromkeys(str(result.get("model")) for result in side))
        print(f"{name}  {len(side)} runs: {' '.join(map(str, folders))}  models {models}")
    paired = seeds_pair(*results)
    if paired:
        print("runs pair by their seeds; runs of one seed are resampled together")
    elif len({(result.get("data") or {}).get("sha256") for side in results for result in side}) > 1:
        print("the data files differ (SHA-256) and seeds do not pair: samples are matched by their ids alone")
    over_runs = compare_results(results[0], results[1], paired=paired)
    print(f"\nover runs: interquartile means, stratified bootstrap of {len(sides[0])} and {len(sides[1])} runs")
    print(runs_table(over_runs))
    over_samples: list[dict[str, Any]] = []
    merged = [
        merge([rows for _, rows in side], [result.get("seed") for result, _ in side] if paired else None) for side in sides
    ]
    common = merged[0].keys() & merged[1].keys()
    if common:
        over_samples = compare_rows(merged[0], merged[1], results[0][0].get("composites"))
        which = "on both sides, by seed" if paired else "that every run answered, means over runs"
        print(f"\nover samples: {len(common)} {which}, paired")
        print(difference_table(over_samples))
    else:
        print("\nno sample was answered by every run: nothing to pair over samples")
    if args.output_path:
        args.output_path.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {side: list(map(str, folders)) for side, folders in (("a", args.folders), ("b", args.to))}
        record |= {"paired_by_seed": paired, "over_runs": over_runs, "over_samples": over_samples}
        write_json(args.output_path / "diff.json", record)
        print(args.output_path / "diff.json")
    return 0


def seeds_pair(a: Results, b: Results) -> bool:
    """Whether both sides hold the same seeds, each once."""
    seeds = [[result.get("seed") for result in side] for side in (a, b)]
    if any(None in side or len(set(side)) < len(side) for side in seeds):
        return False
    return len(seeds[0]) > 1 and set(seeds[0]) == set(seeds[1])


def compare_results(a: Results, b: Results, paired: bool = False) -> list[dict[str, Any]]:
    """A record a metric that all runs have a value of; over several tasks also one of their headlines together.

    Raises SampleError where there is none.
    """
    if paired:
        a, b = (sorted(side, key=lambda result: result["seed"]) for side in (a, b))
    found = []
    names = [key for key in _values(a[0]) if all(key in _values(result) for result in (*a, *b))]
    for task, metric in names:
        lower = not a[0].get("higher_is_better", {}).get(task, {}).get(metric, True)
        strata = [{"": [_values(result)[task, metric] for result in side]} for side in (a, b)]
        made = compare_runs(strata[0], strata[1], lower_is_better=[""] if lower else [], paired=paired)
        found.append(_record(task, metric, made))
    heads = [(task, metric) for task, metric in a[0].get("headline", {}).items() if (task, metric) in names]
    if len(heads) > 1:
        strata = [{f"{key}": [_values(result)[key] for result in side] for key in heads} for side in (a, b)]
        found.append(_record(ALL_TASKS, "headlines", compare_runs(strata[0], strata[1], paired=paired)))
    if not found:
        raise SampleError("there is no number that every run has; compare runs of the same tasks")
    return found


def _values(result: Mapping[str, Any]) -> dict[tuple[str, str], float]:
    """The numbers of a result by task and metric, those of single groups (`name[group]`) left out."""
    found = {}
    for task, values in result["results"].items():
        for metric in result.get("higher_is_better", {}).get(task, {}):
            value = values.get(f"{metric},none")
            if value is not None and "[" not in metric:
                found[task, metric] = float(value)
    return found


def _record(task: str, metric: str, made: Comparison) -> dict[str, Any]:
    def as_json(one: Metric) -> dict[str, Any]:
        return {"value": one.value, "ci95": None if one.ci95 is None else list(one.ci95), "n_runs": one.n}

    parts = {"a": made.a, "b": made.b, "difference": made.difference, "p_improvement": made.improvement}
    return {"task": task, "metric": metric, **{name: as_json(one) for name, one in parts.items()}}


def merge(runs: Sequence[Rows], seeds: Sequence[Any] | None) -> Rows:
    """The rows of several runs as one: the parts of each sample are means over runs, so that sides of unequal size can be
    compared. Samples that not every run has are left out. With `seeds`, samples of different seeds are different samples."""
    if seeds is not None:
        return {
            (task, f"{key} (seed {seed})"): {**row, "image": f"{row['image']} (seed {seed})"}
            for rows, seed in zip(runs, seeds, strict=True)
            for (task, key), row in rows.items()
        }
    first, *others = runs
    found: Rows = {}
    for key, row in first.items():
        same = [rows[key] for rows in others if key in rows]
        if len(same) < len(others):
            continue
        for other in same:
            if other["ground_truth"] != row["ground_truth"]:
                raise SampleError(f"sample {key[1]!r} has another ground truth in another run; score all on the same data")
        names = [name for name in row["parts"] if all(name in other["parts"] for other in same)]
        parts = {name: [sum(one["parts"][name][i] for one in (row, *same)) / len(runs) for i in (0, 1)] for name in names}
        found[key] = {**row, "parts": parts}
    return found


def runs_table(found: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table of `compare_results`' records, a row a metric."""
    rows = []
    for one in found:
        rows.append(
            [
                one["task"],
                one["metric"],
                f"{one['a']['value']:.4f}",
                f"{one['b']['value']:.4f}",
                f"{one['difference']['value']:+.4f}",
                _interval(one["difference"], "+.4f"),
                f"{one['p_improvement']['value']:.2f}",
                _interval(one["p_improvement"], ".2f"),
                f"{one['a']['n_runs']}+{one['b']['n_runs']} runs",
            ]
        )
    header = ["Tasks", "Metric", "IQM A", "IQM B", "Diff", "CI", "P(B better)", "CI", "n"]
    return text_table(header, rows, markdown=True)


def _interval(one: Mapping[str, Any], form: str) -> str:
    return "N/A" if one["ci95"] is None else f"[{one['ci95'][0]:{form}}, {one['ci95'][1]:{form}}]"
