"""ReST-MCTS*: values by reasoning distance in closed form, the search on planted errors, rows and page."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.bench import parse_command
from vlrl.bench.sample_flags import settle_sample_flags
from vlrl.bench.sample_mcts import infer, next_node, quality_value, rest_mcts, step_tree, upper_bound, walk, weighted_reward
from vlrl.bench.sample_page import write_tree_page
from vlrl.bench.sample_steps import StepOptions, step_value_rows, tree_json
from vlrl.bench.sample_tree import Attempt, SearchOptions, Tree
from vlrl.schema import Sample

pytestmark = pytest.mark.quick
SAMPLE = Sample("q", "qa", "?", "a", ("synthetic:steps/train/0/0",))


def tree_of(*solutions):
    """A tree whose question has these (steps, right) as completions."""
    tree = Tree(SearchOptions(n=len(solutions), k=2, most=20))
    for i, (steps, right) in enumerate(solutions):
        text = "\n".join(f"Step {k}: {word}" for k, word in enumerate(steps, start=1))
        tree.root.rollouts.append(Attempt(i, text, right, 5))
    return tree


def values(tree):
    root = step_tree(tree)
    infer(root)
    return {node.steps[-1].split(": ")[1]: node for node in walk(root) if node.steps}


def test_equations_on_numbers():
    assert weighted_reward(0.0, 2, False) == pytest.approx(1 / 3)
    assert weighted_reward(0.5, 1, True) == pytest.approx(-0.25)
    assert quality_value(0.5, -0.25) == 0.25
    assert quality_value(0.1, -0.9) == 0.0
    assert upper_bound(0.5, 2, 4, 0.7) == pytest.approx(0.5 + 0.7 * math.sqrt(math.log(4)))


def test_values_of_a_tree_by_hand():
    """a b c is right; a d is wrong: after a two steps are left, so that d costs (1 - 1/3) / (2 + 1)."""
    found = values(tree_of((["a", "b", "c"], True), (["a", "d"], False), (["e", "f"], False)))
    assert [(found[k].distance, found[k].value) for k in "abc"] == [
        (2, pytest.approx(1 / 3)),
        (1, pytest.approx(2 / 3)),
        (0, pytest.approx(1.0)),
    ]
    assert found["d"].weighted_reward == pytest.approx(-2 / 9)
    assert found["d"].value == pytest.approx(1 / 3 - 2 / 9)
    assert (found["d"].leads, found["d"].distance) == (False, 2)
    assert [found[k].value for k in "ef"] == [0.0, 0.0]


def test_the_shortest_way_counts():
    found = values(tree_of((["a", "b", "c", "g"], True), (["a", "h"], True)))
    assert (found["a"].distance, found["a"].value) == (1, 0.5)
    assert found["h"].value == pytest.approx(1.0)
    assert found["b"].value == pytest.approx(0.5 + 0.5 / 3)


@given(st.lists(st.tuples(st.lists(st.sampled_from("abcd"), min_size=1, max_size=5), st.booleans()), min_size=1, max_size=6))
def test_values_are_shares_and_right_ends_are_1(solutions):
    root = step_tree(tree_of(*solutions))
    infer(root)
    for node in walk(root):
        assert 0 <= node.value <= 1 + 1e-12
        if node.is_right:
            assert node.value == pytest.approx(1.0)
        for child in node.children:
            assert child.n <= node.n
            if child.distance is not None:
                assert child.value >= node.value if child.leads else child.value <= node.value
    if not any(right for _, right in solutions):
        assert all(node.distance is None for node in walk(root))


def test_selection_goes_where_the_bound_is_largest():
    tree = tree_of((["a", "b"], True), (["a", "b"], True), (["c", "d"], False))
    root = step_tree(tree)
    infer(root)
    by_value, by_rarity = (next_node(root, [""], exploration) for exploration in (0.0, 5.0))
    assert (by_value.steps[-1], by_rarity.steps[-1]) == ("Step 1: a", "Step 1: c")
    assert next_node(root, ["", by_value.text, by_rarity.text], 0.7) is None, "whole solutions are not completed"


def grown(tree, n_steps, error):
    """Run the search; step number `error` is the first wrong one of every other completion of the question."""

    def complete(state, i):
        done = len(state.steps)
        words = list(state.steps)
        for k in range(done + 1, n_steps + 1):
            wrong = any("wrong" in step for step in words) or (k >= error and i % 2 == 1)
            words.append(f"Step {k}: {'wrong' if wrong else 'fine'} {state.id}-{i}" if k > done else "")
        return "\n".join(words), not any("wrong" in step for step in words)

    for asked in rest_mcts(tree):
        for state in asked:
            assert not state.rollouts, "a state is completed once"
            made = (complete(state, i) for i in range(state.n_wanted))
            state.rollouts += [Attempt(i, text, right, 3) for i, (text, right) in enumerate(made)]
    return tree


@pytest.mark.parametrize("most", [4, 5, 6, 12, 40])
def test_no_more_is_completed_than_asked_and_the_same_again(most):
    first, second = (grown(Tree(SearchOptions(n=4, k=2, most=most)), 4, 2) for _ in range(2))
    assert first.n_completions <= most
    assert first.n_completions > most - 2
    assert tree_json(SAMPLE, first, qualities=True) == tree_json(SAMPLE, second, qualities=True)


def test_a_question_without_a_right_completion_has_no_rows():
    tree = tree_of((["a", "b"], False), (["c"], False))
    options = StepOptions("rest_mcts")
    assert step_value_rows(SAMPLE, tree, options) == []
    assert {row["value"] for row in step_value_rows(SAMPLE, tree, StepOptions())} == {0.0}, "others say that all are wrong"


def test_rows_and_page(tmp_path):
    tree = grown(Tree(SearchOptions(n=4, k=2, most=12)), 3, 2)
    rows = step_value_rows(SAMPLE, tree, StepOptions("rest_mcts"))
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["value"] for row in rows if len(row["steps"]) == 3 and "wrong" not in row["process"]} == {1.0}
    assert all(row["value"] < 1 for row in rows if "wrong" in row["process"])
    shown = tree_json(SAMPLE, tree, qualities=True)
    assert shown["states"][1]["quality"]["n_completions"] >= 2
    write_tree_page(tmp_path / "tree.html", {"method": "rest_mcts"}, [shown])
    page = (tmp_path / "tree.html").read_text()
    assert "steps from a right answer" in page
    plain = tree_json(SAMPLE, tree)
    assert "nodes" not in plain
    assert "quality" not in plain["states"][0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "rest_mcts", "--estimate", "hard"], "has values of its own"),
        (["--method", "omegaprm", "--exploration", "1"], "--exploration is for --method rest_mcts"),
        (["--method", "rest_mcts", "--alpha", "0.4"], "--alpha is for --method omegaprm"),
        (["--method", "rest_mcts", "--exploration", "-1"], "must be 0 or more"),
    ],
)
def test_flags_without_effect_are_refused(words, said, tmp_path):
    args = parse_command(["sample", "--task", "qa", "--output_path", str(tmp_path), "--write", "step_values", *words])
    with pytest.raises(ValueError, match=said):
        settle_sample_flags(args)
