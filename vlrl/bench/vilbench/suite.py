"""ViLBench's protocol as a suite: the model of the run is the reward model, and its rating of each candidate is logged.

A language model rates every step and the whole solution, with one prompt each. A trained process reward model
(`--model_name_or_path runs/.../final` with its value head) scores all steps of a candidate at once. `predictions.jsonl` keeps
the ratings, so that a run can resume and be scored again without a model. Not here: files and flags
(`vlrl.bench.vilbench.command`).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from vlrl.answers.literals import strict_json
from vlrl.answers.steps import statistics
from vlrl.bench.suite import Predictions
from vlrl.bench.vilbench import CHOICES, SELECTION_BIAS, UNKNOWN, VILBENCH_VERSION
from vlrl.bench.vilbench.growth import growth, growth_table
from vlrl.bench.vilbench.judging import RUBRIC_VERSION, outcome_prompt, read_score, step_prompt
from vlrl.bench.vilbench.summary import (
    BASELINE_RULES,
    OUTCOME,
    PickColumn,
    column,
    differences,
    mean_over,
    picks,
    pool_key,
    results,
    results_table,
    reward_models,
    rule_values,
    sizes_of,
)
from vlrl.data.best_of_n import Candidate, CandidateScore, Item
from vlrl.data.files import write_json_lines, write_whole
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.metrics.best_of_n import Pool, pools_of
from vlrl.rewards.step_aggregation import HEADLINE
from vlrl.schema import Metric, Prediction, Sample, SampleError, Task
from vlrl.tasks.evaluate import Row, Scored, write_json

NAME = "vilbench"
NAME_OF_RELEASE = "ViLBench"
STEP_SCORES_FILE = "step_scores.jsonl"
GROWTH_FILE = "best_of_n.png"
STEPS = "steps"


def is_rating(sample: Sample, prediction: Prediction) -> bool:
    """Whether the completion can be read; the benchmark's own numbers are in `vlrl.bench.vilbench.summary`."""
    return read_score(prediction.completion) is not None


TASK = Task(
    name=NAME,
    prompt=lambda sample: sample.question,
    oracle=lambda sample: "Reasoning: it is right.\nOverall Score: 5",
    rewards=("exact_match",),
    metric=is_rating,
    headline="read",
    synthetic=lambda seed, split, index: _fixture_sample(seed, index),
)


def _fixture_sample(seed: int, index: int) -> Sample:
    items, candidates = fixture.items(seed, index + 1), fixture.candidates(seed, index + 1)
    return judge_samples(items[-1], candidates[-1], "prefix")[0]


def sample_id(candidate: Candidate, what: str) -> str:
    """The id of the sample that asks for `what` of a candidate: "prm/0", "orm" or "steps"."""
    return json.dumps([candidate.id, candidate.generator, candidate.index, what])


def judge_samples(item: Item, candidate: Candidate, context: str, votes: int = 1) -> list[Sample]:
    """One sample for each step of a candidate and one for the whole solution, each `votes` times. `context`: see
    `step_prompt`."""
    steps = candidate.steps.steps
    prompts = [(f"prm/{i}", step_prompt(item.question_with_choices, steps, i, context)) for i in range(len(steps))]
    prompts.append((OUTCOME, outcome_prompt(item.question_with_choices, candidate.response)))
    return [
        _sample(item, sample_id(candidate, vote_of(what, vote)), prompt) for what, prompt in prompts for vote in range(votes)
    ]


def vote_of(what: str, vote: int) -> str:
    """The name of one of several votes on a step or a whole solution; the first has the name of a single one."""
    return what if vote == 0 else f"{what}~{vote}"


def prm_sample(item: Item, candidate: Candidate) -> Sample:
    """One sample with all steps of a candidate, for a trained reward model."""
    sample = _sample(item, sample_id(candidate, STEPS), item.question_with_choices)
    return Sample(sample.id, NAME, sample.question, "", sample.images, meta={"steps": list(candidate.steps.steps)})


def _sample(item: Item, key: str, prompt: str) -> Sample:
    return Sample(key, NAME, prompt, item.answer, (item.image,) if item.image else ())


@dataclass
class BestOfN:
    """The items and candidates of a run. `rm`: the reward model's name; `trained`: whether it is a process reward model with a
    value head; `others`: scores of further reward models, from a file; `votes`: how often a judge is asked for each score,
    which is then the mean of those that could be read."""

    items: Sequence[Item]
    candidates: Sequence[Candidate]
    rm: str
    trained: bool
    context: str
    benchmark: str
    label: str
    hashes: Mapping[str, str]
    others: Sequence[CandidateScore] = ()
    votes: int = 1
    records: list[dict[str, Any]] = field(default_factory=list)
    found: dict[str, Any] = field(default_factory=dict)

    def stage(self, answered: Predictions) -> list[Sample]:
        """The only stage of the suite: the samples of all candidates."""
        known = {item.id: item for item in self.items}
        if self.trained:
            return [prm_sample(known[one.id], one) for one in self.candidates]
        return [sample for one in self.candidates for sample in judge_samples(known[one.id], one, self.context, self.votes)]

    def scores(self, answered: Predictions) -> list[CandidateScore]:
        """The scores in the log; None for a step without a reply."""
        made: list[CandidateScore] = []
        for one in self.candidates:
            key, n = (one.id, one.generator, one.index, self.rm), len(one.steps.steps)
            if self.trained:
                prediction = answered.get(sample_id(one, STEPS))
                if prediction is not None:
                    made.append(CandidateScore(*key, "prm", tuple(_values(prediction.completion, n))))
                continue
            replies = [self._votes(one, f"prm/{i}", answered) for i in range(n)]
            whole = self._votes(one, OUTCOME, answered)
            if any(replies):
                raw = tuple("\n\n".join(reply.completion for reply in some) for some in replies)
                made.append(CandidateScore(*key, "prm", tuple(map(_score, replies)), self.context, raw))
            if whole:
                raw = ("\n\n".join(reply.completion for reply in whole),)
                made.append(CandidateScore(*key, OUTCOME, (_score(whole),), None, raw))
        return made

    def _votes(self, candidate: Candidate, what: str, answered: Predictions) -> list[Prediction]:
        """The replies to one question, as far as they came."""
        found = (answered.get(sample_id(candidate, vote_of(what, vote))) for vote in range(self.votes))
        return [reply for reply in found if reply is not None]

    def cost(self, one: PickColumn, candidate: Candidate, answered: Predictions) -> tuple[int, int | None]:
        """Requests and tokens written for the scores of a candidate in one mode; tokens of this run's own model alone."""
        n = len(candidate.steps.steps)
        if one.rm.name != self.rm:
            return (1 if one.rm.mode == OUTCOME else n), None
        if self.trained:
            return 1, 0
        whats = [OUTCOME] if one.rm.mode == OUTCOME else [f"prm/{i}" for i in range(n)]
        replies = [reply for what in whats for reply in self._votes(candidate, what, answered)]
        tokens = [reply.n_tokens for reply in replies if reply.n_tokens is not None]
        known = bool(tokens) and len(tokens) == len(replies)
        return len(whats) * self.votes, sum(tokens) if known else None

    def score(self, asked: Sequence[Sample], answered: Predictions) -> list[Scored]:
        """Metrics and rows of the run's reward model and of the others. Raises SampleError without any score."""
        made = [*self.scores(answered), *self.others]
        scored_ids = {(one.id, one.generator) for one in made}
        pools = [p for p in pools_of(self.items, self.candidates) if (p.item.id, p.generator) in scored_ids]
        if not pools:
            raise SampleError("no candidate has a score")
        sizes = sizes_of(pools)
        columns = [column(rm, how, n, pools) for rm in reward_models(made) for how in rm.aggregations for n in sizes]
        records = results(columns, pools)
        self.found = {
            "scores": made,
            "records": records,
            "differences": differences(columns, pools, sizes[-1]),
            "picks": picks(columns),
            "steps": {
                name: statistics([one.steps for one in self.candidates if one.generator == name])
                for name in sorted({one.generator for one in self.candidates})
            },
            "n": sizes[-1],
            "growth": growth(columns, pools, sizes, lambda one, candidate: self.cost(one, candidate, answered)),
        }
        metrics, headline = self._metrics(columns, pools, sizes[-1])
        extra = {"benchmark": self.benchmark, "n_items": len(self.items), "n_candidates": len(self.candidates)}
        return [
            Scored(
                name=NAME,
                version=VILBENCH_VERSION,
                headline=headline,
                metrics=metrics,
                rows=_rows(columns, pools, sizes[-1]),
                n=len(asked) or len(made),
                n_unparsed=sum(value is None for one in made for value in one.values),
                n_truncated=sum(answered[sample.id].truncated for sample in asked),
                extra=extra | {"differences": self.found["differences"]},
                label=self.label,
            )
        ]

    def _metrics(self, columns: Sequence[PickColumn], pools: Sequence[Pool], n: int) -> tuple[dict[str, Metric], str]:
        """Metrics at the largest N, over the pools that have so many candidates, and the name of the headline: the mean
        aggregation of the first process reward model."""
        whole = [pool for pool in pools if len(pool.candidates) >= n]
        keys = [pool_key(pool) for pool in whole]
        several = len({one.rm.name for one in columns}) > 1
        metrics: dict[str, Metric] = {}
        for one in columns:
            if one.n == n:
                name = f"best_of_{n}" + ("" if one.how == HEADLINE else f"/{one.how}")
                metrics[f"{name} {one.rm.name}" if several else name] = mean_over(one.accuracy, keys)
        rules = {key: rule_values(pool, n) for key, pool in zip(keys, whole, strict=True)}
        for rule in ("greedy", *BASELINE_RULES):
            some = [key for key in keys if rule in rules[key]]
            if some:
                metrics[rule] = mean_over({key: rules[key][rule] for key in some}, some)
        return metrics, next(iter(metrics))

    def meta_of(self, row_id: str) -> dict[str, Any]:
        """What the item of a row or of a sample states."""
        item = self._item_of.get(json.loads(row_id)[0])
        return {} if item is None else item.facts

    @cached_property
    def _item_of(self) -> dict[str, Item]:
        return {item.id: item for item in self.items}

    def publish(self, answered: Predictions, folder: Path, result: Mapping[str, Any], missing: Sequence[str]) -> list[Path]:
        """`report.json`, `picks.jsonl`, `step_scores.jsonl` and `tables.md`."""
        report = {
            "benchmark": self.benchmark,
            "label": self.label,
            "n_items": len(self.items),
            **self.hashes,
            "rubric_version": RUBRIC_VERSION,
            "context": self.context,
            "choices": CHOICES,
            "selection_bias": SELECTION_BIAS,
            "unknown": list(UNKNOWN),
            "checklist": self._checklist(),
            "steps": self.found["steps"],
            "results": self.found["records"],
            "differences": self.found["differences"],
            "best_of_n": self.found["growth"],
            "votes": self.votes,
            "n_missing_image": len(missing),
        }
        write_json(folder / "report.json", report)
        write_json_lines(folder / "picks.jsonl", self.found["picks"])
        write_json_lines(folder / STEP_SCORES_FILE, [one.to_json() for one in self.found["scores"]])
        text = f"# {self.label}\n\nN = {self.found['n']}, 95 % bootstrap intervals over items\n\n"
        text += results_table(self.found["records"], self.found["n"]) + "\n\n" + growth_table(self.found["growth"]) + "\n"
        if self.benchmark == NAME_OF_RELEASE:
            text += f"\n{SELECTION_BIAS}\n"
        write_whole(folder / "tables.md", text)
        print(results_table(self.found["records"], self.found["n"]))
        print(growth_table(self.found["growth"]))
        from vlrl.bench.vilbench.growth_picture import write_growth  # matplotlib, which scoring alone need not wait for

        write_growth(folder / GROWTH_FILE, self.found["growth"], self.label)
        return [folder / name for name in ("report.json", "picks.jsonl", STEP_SCORES_FILE, "tables.md", GROWTH_FILE)]

    def _checklist(self) -> dict[str, Any]:
        """The conditions for calling a result ViLBench's, and whether this run meets them."""
        sampling = sorted({one.generator for one in self.candidates})
        return {
            "all 600 released items": self.benchmark == NAME_OF_RELEASE,
            "items by source": dict(Counter(item.source for item in self.items)),
            "generators": sampling,
            "candidates an item": dict(Counter(Counter((o.id, o.generator) for o in self.candidates).values())),
            "reward models": sorted({self.rm, *(one.rm for one in self.others)}),
            "tie rule, subset rule, grader": CHOICES,
            "reward model trained without these items": "not checked here; see n_excluded in the training run's summary.json",
        }


def _score(replies: Sequence[Prediction]) -> float | None:
    """The mean of the scores that can be read, None where none can."""
    values = [float(value) for reply in replies if (value := read_score(reply.completion)) is not None]
    return sum(values) / len(values) if values else None


def _values(completion: str, n: int) -> list[float | None]:
    """The values that a trained model logged; `n` times None where the text is not a list of `n` numbers."""
    try:
        values = strict_json(completion)
    except ValueError:
        return [None] * n
    if not isinstance(values, list) or len(values) != n:
        return [None] * n
    return [_finite(v) if isinstance(v, int | float) and not isinstance(v, bool) else None for v in values]


def _finite(value: float) -> float | None:
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _rows(columns: Sequence[PickColumn], pools: Sequence[Pool], n: int) -> list[Row]:
    """One row per pool: whether the pick of the headline is right."""
    head = next(one for one in columns if one.n == n)
    others = [one for one in columns if one.n == n and one.rm is head.rm and one is not head]
    rows = []
    for pool in pools:
        key = pool_key(pool)
        if key not in head.accuracy:
            continue
        value, chosen = head.accuracy[key], pool.grades[head.chosen[key][0]]
        name = f"best_of_{n}" + ("" if head.how == HEADLINE else f"/{head.how}")
        parts = {name: (value, 1.0), **{f"best_of_{n}/{one.how}": (one.accuracy[key], 1.0) for one in others}}
        outcome = "right" if value >= 1 else "partly" if value > 0 else "unparsed" if chosen.answer is None else "wrong"
        image = pool.item.image or pool.item.id
        text = pool.candidates[head.chosen[key][0]].response
        rows.append(Row(json.dumps(key[:2]), image, parts, outcome, pool.item.answer, chosen.answer or "", None, text))
    return rows
