"""Numbers of a best-of-N evaluation: a record for each reward model, generator, source, N and aggregation, with its intervals.

An accuracy is a mean over pools (the candidates of one generator for one item), ties counted by their expectation. Intervals
resample items. Not here: grading and picking in one pool (`vlrl.metrics.best_of_n`, `vlrl.metrics.selection`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.data.best_of_n import CandidateScore
from vlrl.metrics.best_of_n import Key, Pool
from vlrl.metrics.bootstrap import bootstrap_mean, paired_test
from vlrl.metrics.selection import SIZES, baselines, headroom, subsets
from vlrl.metrics.tables import text_table
from vlrl.rewards.step_aggregation import AGGREGATIONS, HEADLINE
from vlrl.schema import Metric

ALL_GROUPS = "all"
OUTCOME = "orm"
BASELINE_RULES = ("random", "majority", "oracle", "first", "shortest", "longest", "fewest_steps")


@dataclass(frozen=True)
class RewardModel:
    """The scores of one reward model in one mode (`prm` or `orm`), by candidate."""

    name: str
    mode: str
    context: str | None
    scores: Mapping[Key, tuple[float | None, ...]]

    @property
    def aggregations(self) -> tuple[str, ...]:
        """The ways to make one score of the scores of the steps; `product` only for scores in 0..1."""
        if self.mode == OUTCOME:
            return (OUTCOME,)
        known = [value for values in self.scores.values() for value in values if value is not None]
        in_0_1 = bool(known) and all(0 <= value <= 1 for value in known)
        return tuple(how for how in AGGREGATIONS if how != "product" or in_0_1)

    def rule(self, how: str) -> str:
        """The aggregation to compute for a name: any serves for an outcome score, which is one number."""
        return HEADLINE if how == OUTCOME else how


def reward_models(scores: Sequence[CandidateScore]) -> list[RewardModel]:
    """The reward models of a score file, process scores before outcome scores."""
    found: dict[tuple[str, str, str | None], dict[Key, tuple[float | None, ...]]] = {}
    for one in scores:
        found.setdefault((one.rm, one.mode, one.context), {})[one.key] = one.values
    order = sorted(found, key=lambda key: (key[0], key[1] == OUTCOME, str(key[2])))
    return [RewardModel(*key, found[key]) for key in order]


def sizes_of(pools: Sequence[Pool]) -> list[int]:
    """The numbers of candidates to report: those of `SIZES` that some pool has, else the size of the largest pool."""
    most = max(len(pool.candidates) for pool in pools)
    return [n for n in SIZES if n <= most] or [most]


@dataclass(frozen=True)
class PickColumn:
    """The picks of one reward model and aggregation at one N, by pool."""

    rm: RewardModel
    how: str
    n: int
    accuracy: dict[Key, float]
    first_index: dict[Key, float]
    over_subsets: dict[Key, float]
    ties: dict[Key, bool]
    chosen: dict[Key, tuple[int, ...]]


def pool_key(pool: Pool) -> Key:
    """(item, generator, 0): the key of a pool."""
    return (pool.item.id, pool.generator, 0)


def column(rm: RewardModel, how: str, n: int, pools: Sequence[Pool]) -> PickColumn:
    """The picks of one reward model among the first `n` candidates of each pool that has as many, and over random subsets."""
    found = PickColumn(rm, how, n, {}, {}, {}, {}, {})
    for number, pool in enumerate(pools):
        if len(pool.candidates) < n:
            continue
        key, values = pool_key(pool), pool.values(rm.scores, rm.rule(how))
        pick = pool.pick(values, range(n))
        found.accuracy[key], found.first_index[key] = pick.accuracy, pick.first_index
        found.ties[key], found.chosen[key] = pick.is_tie, pick.indices
        drawn = subsets(len(pool.candidates), n, number)
        over = [pool.pick(values, some).accuracy for some in drawn]
        found.over_subsets[key] = sum(over) / len(over)
    return found


def rule_values(pool: Pool, n: int) -> dict[str, float]:
    """Accuracies of the rules that need no reward model, over the first `n` candidates; `greedy` where the generator has a
    greedy answer."""
    some, grades = pool.candidates[:n], pool.grades[:n]
    texts, steps = [len(one.response) for one in some], [len(one.steps.steps) for one in some]
    values = baselines([one.answer for one in grades], [one.correct for one in grades], texts, steps)
    return values | ({} if pool.greedy is None else {"greedy": float(pool.greedy.correct)})


def groups_of(pools: Sequence[Pool]) -> Iterator[tuple[str, str, list[Pool]]]:
    """(generator, source, pools) for each generator and source, and for all together where there are several."""
    generators = sorted({pool.generator for pool in pools})
    sources = list(dict.fromkeys(pool.item.source for pool in pools))
    for generator in [*generators, *([ALL_GROUPS] if len(generators) > 1 else [])]:
        for source in [*(sources if len(sources) > 1 else []), ALL_GROUPS]:
            some = [p for p in pools if generator in (ALL_GROUPS, p.generator) and source in (ALL_GROUPS, p.item.source)]
            if some:
                yield generator, source, some


def mean_over(values: Mapping[Key, float], keys: Sequence[Key]) -> Metric:
    """The mean over these pools, its interval by bootstrap over items."""
    return bootstrap_mean([values[key] for key in keys], clusters=[key[0] for key in keys])


def results(columns: Sequence[PickColumn], pools: Sequence[Pool]) -> list[dict[str, Any]]:
    """The records of `report.json`, for every group of pools."""
    found = []
    rules = {n: {pool_key(pool): rule_values(pool, n) for pool in pools if len(pool.candidates) >= n} for n in sizes_of(pools)}
    for generator, source, group in groups_of(pools):
        for one in columns:
            keys = [pool_key(pool) for pool in group if pool_key(pool) in one.accuracy]
            if not keys:
                continue
            metric = mean_over(one.accuracy, keys)
            beside = _means([rules[one.n][key] for key in keys])
            candidates = [c.key for pool in group if pool_key(pool) in one.accuracy for c in pool.candidates[: one.n]]
            grades = [g for pool in group if pool_key(pool) in one.accuracy for g in pool.grades[: one.n]]
            scored = [one.rm.scores.get(key, (None,)) for key in candidates]
            accuracy = float(metric.value or 0.0)
            found.append(
                {
                    "generator": generator,
                    "rm": one.rm.name,
                    "mode": one.rm.mode,
                    "context": one.rm.context,
                    "aggregation": one.how,
                    "N": one.n,
                    "source": source,
                    "n_items": len({key[0] for key in keys}),
                    "accuracy": accuracy,
                    "ci95": None if metric.ci95 is None else list(metric.ci95),
                    "accuracy_first_index": sum(one.first_index[key] for key in keys) / len(keys),
                    "accuracy_random_subsets": sum(one.over_subsets[key] for key in keys) / len(keys),
                    "tie_rate": sum(one.ties[key] for key in keys) / len(keys),
                    "n_unparsed_scores": sum(value is None for values in scored for value in values),
                    "n_unscored_candidates": sum(all(value is None for value in values) for values in scored),
                    "n_unextracted_answers": sum(grade.answer is None for grade in grades),
                    **beside,
                    "headroom": headroom(accuracy, beside["random"], beside["oracle"]),
                }
            )
    return found


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row[name] for row in rows if name in row) / sum(name in row for row in rows) for name in names}


def differences(columns: Sequence[PickColumn], pools: Sequence[Pool], n: int) -> list[dict[str, Any]]:
    """Paired differences at N = `n` of the headline aggregations: reward models against random and majority, and against each
    other, on the same candidates."""
    heads = [one for one in columns if one.n == n and one.how in (HEADLINE, OUTCOME)]
    rules = {pool_key(pool): rule_values(pool, n) for pool in pools if len(pool.candidates) >= n}
    sides: list[tuple[str, Mapping[Key, float]]] = [
        (name, {key: row[name] for key, row in rules.items()}) for name in ("random", "majority")
    ]
    found = []
    for one in heads:
        name = name_of(one)
        for other, values in sides:
            found.append(_difference(other, values, name, one.accuracy, n))
        sides.append((name, one.accuracy))
    return found


def _difference(a: str, values_a: Mapping[Key, float], b: str, values_b: Mapping[Key, float], n: int) -> dict[str, Any]:
    keys = {"|".join(map(str, key)): key for key in values_a if key in values_b}
    metric, p_value = paired_test(
        {name: values_a[key] for name, key in keys.items()},
        {name: values_b[key] for name, key in keys.items()},
        clusters={name: key[0] for name, key in keys.items()},
    )
    interval = None if metric.ci95 is None else list(metric.ci95)
    return {"a": a, "b": b, "N": n, "b_minus_a": metric.value, "ci95": interval, "p_value": p_value, "n": metric.n}


def name_of(one: PickColumn) -> str:
    """The name of a column in reports: "model (aggregation, context)"."""
    return f"{one.rm.name} ({one.how}{', ' + one.rm.context if one.rm.context else ''})"


def picks(columns: Sequence[PickColumn]) -> list[dict[str, Any]]:
    """The rows of `picks.jsonl`: the candidate picked among the first N, and all that tied with it."""
    return [
        {
            "item": key[0],
            "generator": key[1],
            "rm": one.rm.name,
            "mode": one.rm.mode,
            "aggregation": one.how,
            "N": one.n,
            "chosen": places[0],
            "tied": list(places),
            "tie_size": len(places),
            "correct": one.accuracy[key],
        }
        for one in columns
        for key, places in one.chosen.items()
    ]


def results_table(records: Sequence[Mapping[str, Any]], n: int) -> str:
    """A Markdown table at N = `n`: one row per generator and source, with the headline aggregations beside the baseline
    rules."""
    heads = [row for row in records if row["N"] == n and row["aggregation"] in (HEADLINE, OUTCOME)]
    rms = list(dict.fromkeys((row["rm"], row["mode"], row["context"]) for row in heads))
    several = len({rm for rm, _, _ in rms}) > 1
    names = [f"{rm} {mode}" if several else mode for rm, mode, _ in rms]
    rules = [rule for rule in ("greedy", *BASELINE_RULES) if any(rule in row for row in heads)]
    lines = []
    for place in dict.fromkeys((row["generator"], row["source"]) for row in heads):
        some = {(r["rm"], r["mode"], r["context"]): r for r in heads if (r["generator"], r["source"]) == place}
        first = next(iter(some.values()))
        cells = [_cell(some.get(rm)) for rm in rms] + [f"{first[rule]:.3f}" if rule in first else "" for rule in rules]
        lines.append([*place, str(first["n_items"]), *cells])
    return text_table(["generator", "source", "items", *names, *rules], lines, markdown=True)


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['accuracy']:.3f}" + ("" if row["ci95"] is None else f" [{row['ci95'][0]:.3f}, {row['ci95'][1]:.3f}]")
