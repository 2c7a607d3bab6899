"""ReST-MCTS*: values of steps that are inferred from a searched tree, by how many steps are left to a right answer.

Source: Zhang et al. 2024 (arXiv 2406.03816), section 3.1, with its released code where the paper leaves a choice. Not here: the
search's bookkeeping (`vlrl.bench.sample_tree`), what is written (`vlrl.bench.sample_steps`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from vlrl.bench.sample_tree import Attempt, Search, Tree, solution_steps


@dataclass
class StepNode:
    """The beginning of a solution up to the end of a step, as some completion holds it. `n`: completions that pass through it;
    `is_end`: some completion ends here; `is_right`: one that does is right. The rest is what `infer` finds."""

    text: str
    steps: tuple[str, ...]
    children: list[StepNode] = field(default_factory=list)
    n: int = 0
    is_end: bool = False
    is_right: bool = False
    leads: bool = False
    """Whether a completion that begins so is right: r = 0 in the paper's terms, else r = 1."""
    distance: int | None = None
    """The reasoning distance m: the fewest steps that are left to a right answer; of a node that leads to none, those of the
    last one before it that does. None where no completion of the question is right."""
    weighted_reward: float = 0.0
    value: float = 0.0


def weighted_reward(before: float, distance: int, is_wrong: bool) -> float:
    """w_k = (1 - v_{k-1}) / (m_k + 1) x (1 - 2 r_k), r_k being 1 for a wrong step (equation 2)."""
    return (1 - before) / (distance + 1) * (-1 if is_wrong else 1)


def quality_value(before: float, reward: float) -> float:
    """v_k = max(v_{k-1} + w_k, 0), with v_0 = 0 (equation 1); at most 1."""
    return max(before + reward, 0.0)


def step_tree(tree: Tree) -> StepNode:
    """The nodes of all completions that can be read (neither empty nor cut at the token limit), in the order they were made."""
    root = StepNode("", ())
    nodes = {"": root}
    for state in list(tree.states.values()):
        for rollout in state.rollouts:
            if is_readable(rollout):
                _add(nodes, rollout)
    return root


def is_readable(rollout: Attempt) -> bool:
    return not rollout.truncated and bool(rollout.text.strip())


def _add(nodes: dict[str, StepNode], rollout: Attempt) -> None:
    steps, starts = solution_steps(rollout.text)
    above = nodes[""]
    above.n += 1
    for k, end in enumerate(starts[1:], start=1):
        text = rollout.text[:end]
        if text not in nodes:
            nodes[text] = StepNode(text, tuple(steps[:k]))
            above.children.append(nodes[text])
        above = nodes[text]
        above.n += 1
    above.is_end = True
    above.is_right |= rollout.right


def infer(root: StepNode) -> None:
    """Fill in `leads`, `distance`, `weighted_reward` and `value` of every node.

    differs: the paper's r_k is a reward model's score of the step where one is at hand; here it is the hard estimate, as in the
    released code: 0 where some completion from there is right, else 1."""
    order = list(walk(root))
    for node in reversed(order):
        left = [0] if node.is_right else [one.distance + 1 for one in node.children if one.distance is not None]
        node.distance = min(left) if left else None
        node.leads = node.distance is not None
    for node in order:
        for child in node.children:
            if child.distance is None:  # it leads nowhere: counted as the released code does
                child.distance = node.distance
            if child.distance is None:
                continue
            child.weighted_reward = weighted_reward(node.value, child.distance, not child.leads)
            child.value = quality_value(node.value, child.weighted_reward)


def walk(root: StepNode) -> Iterator[StepNode]:
    """Every node, those above before those below."""
    order = [root]
    for node in order:
        order += node.children
    return iter(order)


def upper_bound(value: float, n: int, n_above: int, exploration: float) -> float:
    """V + c sqrt(2 ln N(parent) / N), as the released code selects."""
    return value + exploration * math.sqrt(2 * math.log(n_above) / n)


def next_node(root: StepNode, completed: Sequence[str], exploration: float) -> StepNode | None:
    """The node to complete from: from the question down, the child of the largest bound (the first of equals) among those below
    which something is left, until one that no completion was asked of. None where nothing is left."""
    done = set(completed)
    open_nodes: set[str] = set()
    for node in reversed(list(walk(root))):
        if (node.text not in done and not node.is_end) or any(one.text in open_nodes for one in node.children):
            open_nodes.add(node.text)
    node = root
    while node.text in open_nodes:
        if node.text not in done:
            return node
        node = max(
            (one for one in node.children if one.text in open_nodes),
            key=lambda one: upper_bound(_mean(one), one.n, node.n, exploration),
        )
    return None


def _mean(node: StepNode) -> float:
    """The value that guides: of its children's, weighed by how often each was completed (the paper's backpropagation)."""
    below, n = 0.0, 0
    for one in node.children:
        below += one.n * one.value
        n += one.n
    return below / n if n else node.value


def rest_mcts(tree: Tree) -> Search:
    """Complete the question, then again and again the node that `next_node` names, until `most` completions are made or nothing
    is left. differs: a completion here is whole, so that each expands every step to its end; what guides is the value inferred
    from the tree so far, where the paper trains a value model between its searches."""
    yield [tree.root]
    while tree.has_room():
        root = step_tree(tree)
        infer(root)
        node = next_node(root, [text for text, state in tree.states.items() if state.rollouts], tree.options.exploration)
        if node is None:
            return
        state = tree.state_at(node.text, node.steps)
        state.visits += 1
        yield [state]
