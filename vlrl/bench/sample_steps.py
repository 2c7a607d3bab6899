"""Step values by completions: the searches of all rows side by side, one batch of completions after another, and what is
written of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlrl.answers.whole_text import is_whole
from vlrl.bench.run import BenchRun
from vlrl.bench.sample_mcts import StepNode, infer, rest_mcts, step_tree, walk
from vlrl.bench.sample_rows import absolute, lettered_question
from vlrl.bench.sample_tree import Attempt, Begun, SearchOptions, Tree, monte_carlo, omegaprm, solution_steps
from vlrl.schema import Prediction, Sample

SEARCHES = {"monte_carlo": monte_carlo, "omegaprm": omegaprm, "rest_mcts": rest_mcts}
"""A search by the name of `--method`."""
Judge = Callable[[Sequence[Sample], Sequence[Prediction]], list[bool]]
"""Which completions are right."""


@dataclass(frozen=True)
class StepOptions:
    method: str = "monte_carlo"
    estimate: str = "soft"
    search: SearchOptions = SearchOptions()  # noqa: RUF009 (frozen)


def copy_of(sample: Sample, number: int, state: Begun | None = None) -> Sample:
    """Completion `number` of a row, or of a state of its tree, as a sample of its own."""
    begun = {} if state is None or not state.text else {"begun": state.text}
    key = json.dumps([sample.id, 0 if state is None else state.id, number])
    return dataclasses.replace(sample, id=key, meta={**sample.meta, **begun})


def grow_trees(bench_run: BenchRun, samples: Sequence[Sample], judge: Judge, options: StepOptions) -> dict[str, Tree] | None:
    """The tree of each row by its id. None where requests failed: the same command goes on. Raises ValueError."""
    trees = {sample.id: Tree(options.search) for sample in samples}
    searches = {key: SEARCHES[options.method](tree) for key, tree in trees.items()}
    while searches:
        wanted: dict[str, list[Begun]] = {}
        for key in list(searches):
            asked = next(searches[key], None)
            if asked is None:
                del searches[key]
            else:
                wanted[key] = asked
        copies = {
            copy.id: (sample, state, i, copy)
            for sample in samples
            for state in wanted.get(sample.id, ())
            for i in range(state.n_wanted)
            for copy in [copy_of(sample, i, state)]
        }
        if not copies:
            break
        stage = [copy for *_, copy in copies.values()]
        bench_run.answer(lambda _, stage=stage: stage)  # type: ignore[misc]
        if bench_run.failed:
            return None
        found = bench_run.log.read()
        made = [found[key] for key in copies]
        rights = judge([sample for sample, *_ in copies.values()], made)
        for (_, state, i, _), prediction, right in zip(copies.values(), made, rights, strict=True):
            state.rollouts.append(Attempt(i, prediction.completion, right, prediction.n_tokens, prediction.truncated))
    return trees


def step_value_rows(sample: Sample, tree: Tree, options: StepOptions) -> list[dict[str, Any]]:
    """The rows of a tree by the search that grew it."""
    return quality_rows(sample, tree) if options.method == "rest_mcts" else value_rows(sample, tree, options.estimate)


def value_rows(sample: Sample, tree: Tree, estimate: str) -> list[dict[str, Any]]:
    """Rows of ViLReward-73K's format, as `vlrl train --task prm` reads them: every completed state with its estimate ("hard": 1
    if any completion is right), and every whole completion of the question with its outcome. Completions that are empty or cut
    at the token limit have no value."""
    shown = absolute(sample)
    rows = []

    def add(key: str, text: str, steps: Sequence[str], value: float, n: int) -> None:
        if text.strip() and is_whole(text):
            row = {"id": f"{sample.id}/{key}", "image": shown.images[0], "question": lettered_question(sample)}
            rows.append({**row, "process": text.strip(), "steps": list(steps), "value": value, "n_completions": n})

    for state in tree.states.values():
        if state is not tree.root and state.value is not None:
            value = float(state.value > 0) if estimate == "hard" else round(state.value, 9)
            add(str(state.id), state.text, state.steps, value, len(state.rollouts))
    seen: set[str] = set()
    for one in tree.root.rollouts:
        if not one.truncated and one.text not in seen:
            seen.add(one.text)
            add(f"0-{one.number}", one.text, solution_steps(one.text)[0], float(one.right), 0)
    return rows


def quality_rows(sample: Sample, tree: Tree) -> list[dict[str, Any]]:
    """The same rows with the values that ReST-MCTS* infers: of every beginning in the tree, whole solutions among them. A
    question that no completion answers gives none."""
    shown = absolute(sample)
    root = step_tree(tree)
    infer(root)
    rows = []
    for number, node in enumerate(walk(root)):
        if node is root or node.distance is None or not node.text.strip() or not is_whole(node.text):
            continue
        row: dict[str, Any] = {"id": f"{sample.id}/{number}", "image": shown.images[0], "question": lettered_question(sample)}
        row |= {"process": node.text.strip(), "steps": list(node.steps), "value": round(node.value, 9)}
        rows.append({**row, "n_completions": node.n})
    return rows


def with_step_values(rows: Sequence[Mapping[str, Any]], tree: Tree, options: StepOptions) -> list[dict[str, Any]]:
    """Rows of preference pairs with `chosen_values` and `rejected_values`: of each step of a completion the value of the
    beginning that ends with it, null where the tree has none. The last step has the outcome."""
    by_text: dict[str, float | None]
    if options.method == "rest_mcts":
        root = step_tree(tree)
        infer(root)
        by_text = {node.text: round(node.value, 9) for node in walk(root) if node.distance is not None}
    else:
        by_text = {text: state.value for text, state in tree.states.items() if state is not tree.root}
        if options.estimate == "hard":
            by_text = {text: None if value is None else float(value > 0) for text, value in by_text.items()}
        by_text |= {one.text: float(one.right) for one in tree.root.rollouts if not one.truncated}

    def of_text(text: str) -> list[float | None]:
        _, starts = solution_steps(text)
        return [by_text.get(text[:end]) for end in starts[1:]]

    return [{**row, "chosen_values": of_text(row["chosen"]), "rejected_values": of_text(row["rejected"])} for row in rows]


def tree_json(sample: Sample, tree: Tree, *, qualities: bool = False) -> dict[str, Any]:
    """A tree as `tree.json` holds it: every state with its parent, what it adds to it, its completions; what searches found.
    `qualities`: the values that ReST-MCTS* infers of each state, and those of all beginnings as `nodes`."""
    states = []
    for state in tree.states.values():
        parent = tree.parent_of(state)
        row: dict[str, Any] = {"id": state.id, "parent": None if parent is None else parent.id, "n_steps": len(state.steps)}
        row |= {"adds": state.text if parent is None else state.text[len(parent.text) :], "value": state.value}
        row |= {"n_completions": len(state.rollouts), "n_right": sum(one.right for one in state.rollouts)}
        made = [{"text": one.text[len(state.text) :], "right": one.right} for one in state.rollouts]
        states.append({**row, "visits": state.visits, "completions": made})
    about = {
        "id": sample.id,
        "question": lettered_question(sample),
        "images": list(absolute(sample).images),
        "answer": sample.answer,
    }
    found = [dataclasses.asdict(one) for one in tree.found]
    if qualities:
        root = step_tree(tree)
        infer(root)
        nodes = {node.text: _quality_json(node) for node in walk(root)}
        for state, row in zip(tree.states.values(), states, strict=True):
            row["quality"] = nodes.get(state.text, {})
        about["nodes"] = [{"text": text, **row} for text, row in nodes.items()]
    return {**about, "n_completions": tree.n_completions, "states": states, "first_errors": found}


def _quality_json(node: StepNode) -> dict[str, Any]:
    about = {"value": round(node.value, 9), "weighted_reward": round(node.weighted_reward, 9), "distance": node.distance}
    return {**about, "leads": node.leads, "n_completions": node.n}


def summary_of(trees: Mapping[str, Tree]) -> dict[str, int]:
    """How much was completed and found, over all rows."""
    return {
        "n_completions": sum(tree.n_completions for tree in trees.values()),
        "n_states": sum(len(tree.states) - 1 for tree in trees.values()),
        "n_first_errors": sum(len(tree.found) for tree in trees.values()),
        "n_always_right": sum(tree.root.value == 1 for tree in trees.values()),
        "n_never_right": sum(tree.root.value == 0 for tree in trees.values()),
    }
