"""Best of N over N = 1, 2, 4 ...: what each reward model gains with more solutions, with intervals, and what it costs to ask
it.

Judges, trained process reward models, outcome scores and votes stand side by side: those of the run, and those of
`--other_scores`. Cost is counted in requests (a trained model: solutions read) and, where the run made them, tokens written,
for one item. Not here: the numbers at one N by source (`vlrl.bench.vilbench.summary`), the picture (`growth_picture`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vlrl.bench.vilbench.summary import OUTCOME, PickColumn, mean_over, name_of, pool_key, rule_values
from vlrl.data.best_of_n import Candidate
from vlrl.metrics.best_of_n import Pool
from vlrl.metrics.tables import text_table
from vlrl.rewards.step_aggregation import HEADLINE
from vlrl.schema import Metric

RULES = ("random", "majority", "oracle")
Cost = Callable[[PickColumn, Candidate], tuple[int, int | None]]
"""(requests, tokens written) for the scores of a candidate; None where the tokens are not known."""


def growth(columns: Sequence[PickColumn], pools: Sequence[Pool], sizes: Sequence[int], cost: Cost) -> list[dict[str, Any]]:
    """A record for each reward model (headline aggregation) and rule at each N, over the pools that have the largest N, so that
    all points are of the same items. At N = 1 nothing is chosen."""
    most = max(sizes)
    whole = [pool for pool in pools if len(pool.candidates) >= most]
    keys = [pool_key(pool) for pool in whole]
    first = mean_over({key: float(pool.correct[0]) for key, pool in zip(keys, whole, strict=True)}, keys)
    records: list[dict[str, Any]] = []
    heads = [one for one in columns if one.how in (HEADLINE, OUTCOME) and one.n == most]
    for head in heads:
        name = name_of(head)
        records.append(_record(name, head.rm.mode, 1, first, (0.0, 0.0)))
        for one in columns:
            if one.rm is head.rm and one.how == head.how and one.n > 1:
                records.append(_record(name, head.rm.mode, one.n, mean_over(one.accuracy, keys), _spent(one, whole, cost)))
    for rule in RULES:
        for n in dict.fromkeys((1, *sizes)):
            values = {key: rule_values(pool, n)[rule] for key, pool in zip(keys, whole, strict=True)}
            records.append(_record(rule, "rule", n, mean_over(values, keys), None))
    return records


def _spent(one: PickColumn, pools: Sequence[Pool], cost: Cost) -> tuple[float, float | None]:
    """Requests and tokens an item, over the candidates that have scores."""
    found = [cost(one, candidate) for pool in pools for candidate in pool.candidates[: one.n]]
    tokens = [n for _, n in found if n is not None]
    mean_tokens = sum(tokens) / len(pools) if len(tokens) == len(found) else None
    return sum(n for n, _ in found) / len(pools), mean_tokens


def _record(name: str, mode: str, n: int, metric: Metric, spent: tuple[float, float | None] | None) -> dict[str, Any]:
    record: dict[str, Any] = {"chosen_by": name, "mode": mode, "N": n, "accuracy": metric.value, "n": metric.n}
    record["ci95"] = None if metric.ci95 is None else list(metric.ci95)
    if spent is not None:
        record |= {"requests_an_item": spent[0], "tokens_an_item": spent[1]}
    return record


def growth_table(records: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table: a row a reward model or rule, accuracy with its interval at each N; below the requests (and tokens)
    that an item costs."""
    sizes = sorted({record["N"] for record in records})
    lines, costs = [], []
    for name in dict.fromkeys(record["chosen_by"] for record in records):
        own = {record["N"]: record for record in records if record["chosen_by"] == name}
        lines.append([name, *(_cell(own.get(n)) for n in sizes)])
        if any("requests_an_item" in record for record in own.values()):
            costs.append([name, *(_cost_cell(own.get(n)) for n in sizes)])
    header = [f"N = {n}" for n in sizes]
    table = text_table(["chosen by", *header], lines, markdown=True)
    if not costs:
        return table
    return f"{table}\n\n{text_table(['asked for an item', *header], costs, markdown=True)}"


def _cell(record: Mapping[str, Any] | None) -> str:
    if record is None or record["accuracy"] is None:
        return ""
    interval = record["ci95"]
    return f"{record['accuracy']:.3f}" + ("" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]")


def _cost_cell(record: Mapping[str, Any] | None) -> str:
    if record is None:
        return ""
    tokens = record["tokens_an_item"]
    return f"{record['requests_an_item']:.1f}" + ("" if not tokens else f", {tokens:.0f} tokens")
