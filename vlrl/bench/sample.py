"""`vlrl bench sample`: N completions of each row by any engine, scored, and rows for training made of them.

Completions are logged as they are made (`predictions.jsonl`), so that a stopped command goes on; the same seed gives the same
bytes. Not here: what is written (`vlrl.bench.sample_rows`, `vlrl.bench.sample_steps`), where searches look
(`vlrl.bench.sample_tree`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.bench.chat_messages import GO_ON, chat_messages
from vlrl.bench.engines import Engine, Server
from vlrl.bench.held_models import with_models_here
from vlrl.bench.report import check_folder
from vlrl.bench.run import BenchRun, answering_model, begin, settings_of
from vlrl.bench.sample_flags import OF_METHOD, OF_WRITE, settle_sample_flags
from vlrl.bench.sample_page import write_tree_page
from vlrl.bench.sample_rows import (
    PairOptions,
    SampledRow,
    ScoredCompletion,
    SftOptions,
    completions_json,
    preference_rows,
    sft_rows,
)
from vlrl.bench.sample_steps import StepOptions, copy_of, grow_trees, step_value_rows, summary_of, tree_json, with_step_values
from vlrl.bench.sample_tree import SearchOptions, Tree
from vlrl.bench.suite import Suite, as_logged, task_suite
from vlrl.bench.suites import entry_of
from vlrl.data.files import write_json_lines
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Prediction, Reward, Sample, SampleError, Score, Task
from vlrl.tasks.evaluate import write_json
from vlrl.tasks.rubric import FORMS, Rubric, choose, try_once

COMPLETIONS_FILE, TREE_FILE, TREE_PAGE, SUMMARY_FILE = "completions.jsonl", "tree.json", "tree.html", "sample.json"
WRITTEN_FILES = {"sft": "sft.jsonl", "preferences": "preferences.jsonl", "step_values": "step_values.jsonl"}


def sample(args: argparse.Namespace) -> int:
    """Sample, score and write. Returns 0, or 1 where requests failed (the same command repeats them). Raises ValueError."""
    settle_sample_flags(args)
    args.model_name_or_path = args.model_name_or_path or answering_model(args.task)
    check_folder(args.output_path)
    if entry_of(args.task) is not None:
        raise SampleError(f"--task {args.task} is a benchmark; rows are sampled of tasks (detection, qa, ...) or my_task.py")
    suite = task_suite(args, args.max_new_tokens, split="train")
    samples = list(suite.stages[0]({}))
    rubric = choose(args.rewards, samples, suite.tasks)
    weights = args.reward_weights or [1.0] * len(rubric.rewards)
    if len(weights) != len(rubric.rewards):
        names = ", ".join(reward.name for reward in rubric.rewards)
        raise SampleError(f"{len(weights)} --reward_weights for {len(rubric.rewards)} rewards ({names})")
    try_once(rubric, samples)
    rubric = dataclasses.replace(rubric, rewards=with_models_here(rubric.rewards))
    judged = RightAnswers(rubric, args.right_at) if needs_judge(args) else None
    check_rows(args, suite, samples, judged)
    bench_run = begin(args, suite, samples, sample_settings(args, suite, samples), of_tasks=True)
    if bench_run is None:
        return 0
    if "step_values" in args.write:
        check_goes_on(bench_run.engine, suite.tasks, samples)
    bench_run.answer(lambda _: [copy_of(one, i) for one in samples for i in range(args.n)])
    there = [one for one in samples if copy_of(one, 0).id not in bench_run.missing]
    trees: dict[str, Tree] | None = {}
    if "step_values" in args.write and not bench_run.failed:
        trees = grow_trees(bench_run, there, lambda asked, made: judge_rows(bench_run, judged, asked, made), step_options(args))
    first = bench_run.engine.rank == 0
    if first and not bench_run.failed:
        bench_run.log.sort([one.id for one in bench_run.samples])
        print(*write_files(Writing(args, suite, rubric, weights, judged), bench_run, there, trees or {}), sep="\n")
    elif first:
        for key, why in list(bench_run.failed.items())[:10]:
            print(f"failed: {key}: {why}", file=sys.stderr)
        print(f"{len(bench_run.failed)} requests failed and nothing is written yet; repeat the command", file=sys.stderr)
    bench_run.engine.finish()
    return 1 if bench_run.failed else 0


# ---- what is right


def needs_judge(args: argparse.Namespace) -> bool:
    return "step_values" in args.write or args.negatives != "none"


class RightAnswers:
    """Which completions are right: those whose first reward of the answer (no reward of form) has `right_at` or more, by
    default its highest value; of a function of the user's, 1."""

    def __init__(self, rubric: Rubric, right_at: float | None) -> None:
        self.rubric, self.right_at = rubric, right_at

    def reward_of(self, sample: Sample) -> Reward:
        """Raises SampleError where no reward can say so of one completion."""
        for reward in self.rubric.rewards:
            if reward.name not in FORMS and "base" not in reward.needs and self.rubric.applies(reward, sample):
                if "group" in reward.needs:
                    why = f"reward {reward.name} scores groups, so it cannot say which completion is right"
                    raise SampleError(f"id {sample.id!r}: {why}; name another first, by --rewards")
                return reward
        raise SampleError(f"id {sample.id!r}: no reward of its answer says which completions are right; name one by --rewards")

    def threshold(self, reward: Reward) -> float:
        if self.right_at is not None:
            return self.right_at
        return reward.high if math.isfinite(reward.high) else 1.0

    def right(self, samples: Sequence[Sample], texts: Sequence[str], n_tokens: Sequence[int | None]) -> list[bool]:
        """Raises SampleError for a completion that its reward gives no value."""
        rewards = [self.reward_of(one) for one in samples]
        found: dict[int, bool] = {}
        for name in dict.fromkeys(reward.name for reward in rewards):
            rows = [i for i, reward in enumerate(rewards) if reward.name == name]
            reward = rewards[rows[0]]
            lengths = [n_tokens[i] or len(texts[i]) // 4 for i in rows]
            scores = score_rows(reward, [texts[i] for i in rows], [samples[i] for i in rows], 0, lengths)
            for i, score in zip(rows, scores, strict=True):
                if score.value is None:
                    why = f"reward {name} gave a completion of {samples[i].id!r} no value ({score.why or 'no reason given'})"
                    raise SampleError(f"{why}, so it is not known whether it is right; repeat the command")
                found[i] = score.value >= self.threshold(reward) - 1e-9
        return [found[i] for i in range(len(samples))]


def judge_rows(
    bench_run: BenchRun, judged: RightAnswers | None, samples: Sequence[Sample], made: Sequence[Prediction]
) -> list[bool]:
    """`RightAnswers.right` of logged completions, by the first process for all."""
    assert judged is not None
    ready = [as_logged(sample, one) for sample, one in zip(samples, made, strict=True)]
    texts, lengths = [one.completion for one in made], [one.n_tokens for one in made]
    if bench_run.engine.world == 1:
        return judged.right(ready, texts, lengths)
    from vlrl.training.first_process import of_first_process

    return of_first_process(lambda: judged.right(ready, texts, lengths))


# ---- checks before anything is loaded


def check_rows(args: argparse.Namespace, suite: Suite, samples: Sequence[Sample], judged: RightAnswers | None) -> None:
    """Every row can be written as asked. Raises SampleError."""
    for one in samples:
        problem = None
        if args.write and suite.tasks[one.task].is_episode(one):
            problem = f"is a game of several replies, of which --write {args.write[0]} makes no rows; leave --write out"
        elif "preferences" in args.write and one.video is not None:
            problem = "shows a video, which pairs cannot hold; leave it out, or give its frames as images"
        elif "step_values" in args.write and (one.video is not None or len(one.images) != 1):
            problem = "must show exactly one image for --write step_values, as vlrl train --task prm reads"
        if problem is not None:
            raise SampleError(f"{suite.source.description} (id {one.id!r}): {problem}")
        if judged is not None:
            judged.reward_of(one)


def check_goes_on(engine: Engine, tasks: Mapping[str, Task], samples: Sequence[Sample]) -> None:
    """A server goes on with a begun completion instead of beginning anew: its prompt is shorter by the end of the assistant's
    turn and the beginning of another. Raises SampleError where it is not, or where nobody counts."""
    if not isinstance(engine, Server):
        return
    one = engine.prepare_sample(samples[0])
    one = dataclasses.replace(one, meta={**one.meta, "begun": "Step 1:"})
    body = {"model": engine.model, "messages": chat_messages(one, tasks), "max_tokens": 1, "temperature": 0.0}
    counts = [engine.endpoint.call(body | how).usage.get("prompt_tokens") for how in (GO_ON, {})]
    if not all(isinstance(count, int) for count in counts) or counts[0] == counts[1]:
        shown = " and ".join(str(count) for count in counts)
        raise SampleError(
            f"--base_url: the server does not go on with a begun completion (prompts of {shown} tokens with and without"
            " continue_final_message), so steps cannot be completed; use vLLM or SGLang as the server, --use_vllm, or a model"
            " in this process"
        )


def sample_settings(args: argparse.Namespace, suite: Suite, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the completions depend on. The number of rows is among them: batches are drawn together."""
    own = settings_of(args, suite)
    own |= {"n_rows": len(samples), "n": args.n}
    if own["engine"] == "transformers":
        own |= {"batch_size": args.batch_size}
    if "step_values" in args.write:
        unused = {"estimate", *(() if args.method == "rest_mcts" else OF_METHOD["rest_mcts"])}
        own |= {name: getattr(args, name) for name in OF_WRITE["step_values"] if name not in unused}
        own |= {"rewards": args.rewards, "right_at": args.right_at}
    return own


def step_options(args: argparse.Namespace) -> StepOptions:
    of_selection = (args.alpha, args.beta, args.length_tokens, args.c_puct, args.exploration)
    return StepOptions(args.method, args.estimate, SearchOptions(args.n, args.k, args.max_completions, *of_selection))


# ---- scores and files


def scored_rows(what: Writing, bench_run: BenchRun, samples: Sequence[Sample]) -> list[SampledRow]:
    """Every row with its completions, scored by every reward that applies to it."""
    found = bench_run.log.read()
    made = {one.id: [found[copy_of(one, i).id] for i in range(what.args.n)] for one in samples}
    ready = {one.id: as_logged(one, made[one.id][0]) for one in samples}
    places = [(one.id, i) for one in samples for i in range(what.args.n)]
    columns: dict[str, dict[tuple[str, int], Score]] = {}
    for reward in what.rubric.rewards:
        rows = [place for place in places if what.rubric.applies(reward, ready[place[0]])]
        texts = [made[key][i].completion for key, i in rows]
        lengths = [n if (n := made[key][i].n_tokens) is not None else len(made[key][i].completion) // 4 for key, i in rows]
        base = None
        if "base" in reward.needs and what.rubric.base is not None:
            of_base = columns.get(what.rubric.base.name, {})
            base = [of_base[place].value if place in of_base else None for place in rows]
        scores = score_rows(reward, texts, [ready[key] for key, _ in rows], 0, lengths, base)
        columns[reward.name] = dict(zip(rows, scores, strict=True))
    rows_ = []
    for one in samples:
        task = what.suite.tasks[one.task]
        completions = []
        rights: Sequence[bool | None] = [None] * what.args.n
        if what.judged is not None:
            predictions = made[one.id]
            rights = what.judged.right(
                [ready[one.id]] * what.args.n, [p.completion for p in predictions], [p.n_tokens for p in predictions]
            )
        for i, prediction in enumerate(made[one.id]):
            own = {name: column[one.id, i] for name, column in columns.items() if (one.id, i) in column}
            completions.append(ScoredCompletion(i, prediction, own, total_of(own, what.weights_by_name), rights[i]))
        prompt = str(made[one.id][0].meta.get("prompt", task.prompt(ready[one.id])))
        rows_.append(SampledRow(one, ready[one.id], task.system, prompt, task.boxes is not None, tuple(completions)))
    return rows_


def total_of(scores: Mapping[str, Score], weights: Mapping[str, float]) -> float | None:
    """The weighted sum of the rewards that apply, as GRPO receives it; None where none does."""
    values = [weights[name] * score.value for name, score in scores.items() if score.value is not None]
    return math.fsum(values) if values else None


@dataclass(frozen=True)
class Writing:
    """What files are made by."""

    args: argparse.Namespace
    suite: Suite
    rubric: Rubric
    weights: Sequence[float]
    judged: RightAnswers | None

    @property
    def weights_by_name(self) -> dict[str, float]:
        return {reward.name: weight for reward, weight in zip(self.rubric.rewards, self.weights, strict=True)}


def write_files(what: Writing, bench_run: BenchRun, samples: Sequence[Sample], trees: Mapping[str, Tree]) -> list[str]:
    """Write everything; returns what to print, the path of the completions last."""
    args, folder = what.args, what.args.output_path
    rows = scored_rows(what, bench_run, samples)
    write_json_lines(folder / COMPLETIONS_FILE, map(completions_json, rows))
    totals = [one.total for row in rows for one in row.completions if one.total is not None]
    about: dict[str, Any] = {
        "n_rows": len(rows),
        "n_missing_image": len(bench_run.missing) // args.n,
        "n_completions": len(rows) * args.n,
        "n_truncated": sum(one.prediction.truncated for row in rows for one in row.completions),
        "n_empty": sum(not one.text.strip() for row in rows for one in row.completions),
        "mean_score": math.fsum(totals) / len(totals) if totals else None,
        "mean_best_score": _mean([max(t) for row in rows if (t := [c.total for c in row.completions if c.total is not None])]),
    }
    lines = []
    sft = SftOptions(args.best, args.min_score, args.negatives, args.negative_weight)
    pairs = PairOptions(args.pairs, args.pair_choice, args.min_margin, bool(args.spans))

    def with_values(row: SampledRow, made: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return with_step_values(made, trees[row.sample.id], step_options(args)) if "step_values" in args.write else made

    makers: dict[str, Callable[[SampledRow], list[dict[str, Any]]]] = {
        "sft": lambda row: sft_rows(row, sft),
        "preferences": lambda row: with_values(row, preference_rows(row, pairs)),
        "step_values": lambda row: step_value_rows(row.sample, trees[row.sample.id], step_options(args)),
    }
    for name in args.write:
        made = [makers[name](row) for row in rows]
        written = [one for some in made for one in some]
        n_without = sum(not some for some in made)
        write_json_lines(folder / WRITTEN_FILES[name], written)
        about[name] = {"n": len(written), "n_rows_without": n_without}
        without = f" ({n_without} of {len(rows)} rows give none)" if n_without else ""
        lines += [f"{name}: {len(written)} rows{without}", str(folder / WRITTEN_FILES[name])]
    if "step_values" in args.write:
        by_distance = args.method == "rest_mcts"
        shown = [tree_json(row.sample, trees[row.sample.id], qualities=by_distance) for row in rows]
        about["search"] = summary_of(trees)
        header = {"method": args.method, "n": args.n, "k": args.k, "max_completions": args.max_completions, **about["search"]}
        write_json(folder / TREE_FILE, {**header, "trees": shown})
        write_tree_page(folder / TREE_PAGE, header, shown)
        lines += [f"search: {json.dumps(about['search'])}", str(folder / TREE_FILE), str(folder / TREE_PAGE)]
    if "sft" in args.write and (args.system_prompt or args.prompt_template):
        lines.append("note: rows of sft hold no prompt; train with the same --system_prompt and --prompt_template")
    write_json(folder / SUMMARY_FILE, about)
    counts = Counter(one.prediction.truncated for row in rows for one in row.completions)
    said = f"{about['n_completions']} completions of {len(rows)} rows, {counts[True]} cut at the token limit"
    if about["mean_score"] is not None:
        said += f"; mean score {about['mean_score']:.4f}, of the best {about['mean_best_score']:.4f}"
    return [said, *lines, str(Path(folder) / COMPLETIONS_FILE)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
