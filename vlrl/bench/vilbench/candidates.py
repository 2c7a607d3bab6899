"""`--task vilbench/candidates`: any model writes N solutions of every item, step by step, for a reward model to choose from.

Not here: choosing among them (`vlrl.bench.vilbench.suite`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.answers.steps import split_steps
from vlrl.bench.suite import Predictions, Source, Suite
from vlrl.bench.vilbench import VILBENCH_VERSION
from vlrl.data.best_of_n import Candidate, Item, read_items
from vlrl.data.files import sha256_of, write_json_lines
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.metrics.answer_grading import grade
from vlrl.metrics.best_of_n import pools_of
from vlrl.metrics.bootstrap import bootstrap_mean
from vlrl.metrics.selection import baselines
from vlrl.schema import Prediction, Sample, Task
from vlrl.tasks.evaluate import Row, Scored

CANDIDATES = "vilbench/candidates"
CANDIDATES_FILE = "candidates.jsonl"
SOLUTION_INSTRUCTION = (
    'Solve it step by step, each step on a line of its own ("Step 1: ..."), and end with "The answer is ...".'
)
N_FIXTURE = 20
SOLUTION_TOKENS, TINY_SOLUTION_TOKENS = 1024, 64
TEMPERATURE = 1.0

TASK = Task(
    name=CANDIDATES,
    prompt=lambda sample: sample.question,
    oracle=lambda sample: f"The answer is {sample.answer}.",
    rewards=("exact_match",),
    metric=lambda sample, prediction: None,
    headline="random",
    synthetic=lambda seed, split, index: _sample(fixture.items(seed, index + 1)[-1], 0),
)


def _sample(item: Item, number: int) -> Sample:
    key = json.dumps([item.id, number])
    return Sample(
        key,
        CANDIDATES,
        f"{item.question_with_choices}\n{SOLUTION_INSTRUCTION}",
        item.answer,
        (item.image,) if item.image else (),
        meta=item.facts,
    )


class Solutions:
    """The items of a run, `n` solutions of each, and the `generator` that writes them."""

    def __init__(self, items: Sequence[Item], n: int, generator: str, temperature: float, label: str) -> None:
        self.items, self.n, self.generator, self.temperature, self.label = items, n, generator, temperature, label

    def stage(self, answered: Predictions) -> list[Sample]:
        """The only stage of the suite: every item `n` times."""
        return [_sample(item, number) for item in self.items for number in range(self.n)]

    def candidates(self, answered: Mapping[str, Prediction]) -> list[Candidate]:
        """The solutions that were answered, in the order of the items."""
        found = []
        for item in self.items:
            for number in range(self.n):
                prediction = answered.get(json.dumps([item.id, number]))
                if prediction is not None:
                    steps = split_steps(prediction.completion)
                    found.append(Candidate(item.id, self.generator, number, prediction.completion, steps))
        return found

    def score(self, samples: Sequence[Sample], answered: Predictions) -> list[Scored]:
        """The metrics that need no reward model, and the number of solutions without a readable answer."""
        pools = pools_of(self.items, self.candidates(answered))
        columns: dict[str, list[float]] = {}
        rows = []
        for pool in pools:
            texts = [len(one.response) for one in pool.candidates]
            steps = [len(one.steps.steps) for one in pool.candidates]
            values = baselines([one.answer for one in pool.grades], pool.correct, texts, steps)
            for name, value in values.items():
                columns.setdefault(name, []).append(value)
            parts = {name: (value, 1.0) for name, value in values.items()}
            outcome = "right" if values["random"] == 1 else "partly" if values["random"] else "wrong"
            answers = ", ".join(str(one.answer) for one in pool.grades)
            rows.append(
                Row(json.dumps([pool.item.id, 0]), pool.item.image or pool.item.id, parts, outcome, pool.item.answer, answers)
            )
        known = {item.id: item for item in self.items}
        grades = [grade(one.response, known[one.id]) for one in self.candidates(answered)]
        return [
            Scored(
                name=CANDIDATES,
                version=VILBENCH_VERSION,
                headline="random",
                metrics={name: bootstrap_mean(values) for name, values in columns.items()},
                rows=rows,
                n=len(samples),
                n_unparsed=sum(one.answer is None for one in grades),
                n_truncated=sum(answered[sample.id].truncated for sample in samples),
                label=self.label,
            )
        ]

    def publish(self, answered: Predictions, folder: Path, result: Mapping[str, Any], missing: Sequence[str]) -> list[Path]:
        """`candidates.jsonl`."""
        sampling = {"temperature": self.temperature, "top_p": 1.0, "seed": result.get("seed"), "prompt": SOLUTION_INSTRUCTION}
        rows = [{**one.to_json(), "sampling": sampling} for one in self.candidates(answered)]
        path = folder / CANDIDATES_FILE
        write_json_lines(path, rows)
        return [path]


def solutions_suite(args: argparse.Namespace, max_tokens: int | None, fields: Mapping[str, str] | None) -> Suite:
    """The suite of `--task vilbench/candidates`. Raises SampleError for items that cannot be read, ValueError without a
    model."""
    generator = getattr(args, "model_name_or_path", None)
    if generator is None:
        raise ValueError(f"--task {CANDIDATES} asks a model: `run`, not `score`")
    if args.temperature is None:
        args.temperature = TEMPERATURE
    if args.data is None:
        items = fixture.items(args.seed or 0, args.limit or N_FIXTURE)
        digest = hashlib.sha256(str(items).encode()).hexdigest()
        source = Source("the built-in set of drawn boards", digest, len(items))
        label = fixture.DRAWN_SET_LABEL
    else:
        items = read_items(args.data, args.image_root, args.limit, fields)
        source = Source(str(args.data), sha256_of(args.data), len(items), str(args.data))
        label = f"candidates of {generator}, own wording, temperature {args.temperature:g}"
    made = Solutions(items, args.n_candidates, str(generator), args.temperature, label)
    limit = max_tokens or (TINY_SOLUTION_TOKENS if str(generator).startswith("tiny") else SOLUTION_TOKENS)
    return Suite(
        name=CANDIDATES,
        tasks={CANDIDATES: TASK},
        source=source,
        stages=(made.stage,),
        limit=lambda sample: limit,
        score=made.score,
        boxes=False,
        publish=made.publish,
    )
