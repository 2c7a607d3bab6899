"""`vlrl bench sample`: searches in closed form, rows that training reads, and runs that go on bit for bit."""

import json
import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.answers.steps import split_steps, step_starts
from vlrl.bench import main, parse_command
from vlrl.bench.sample_flags import settle_sample_flags
from vlrl.bench.sample_page import write_tree_page
from vlrl.bench.sample_rows import (
    PairOptions,
    SampledRow,
    ScoredCompletion,
    SftOptions,
    preference_rows,
    sft_rows,
    shaped_negative,
)
from vlrl.bench.sample_steps import tree_json, value_rows
from vlrl.bench.sample_tree import (
    Attempt,
    SearchOptions,
    Tree,
    exploration,
    monte_carlo,
    omegaprm,
    rollout_value,
    selected,
)
from vlrl.data.changed_spans import changed_spans, shared_share, spans_problem
from vlrl.data.step_values import read_rewards
from vlrl.schema import Prediction, Sample

pytestmark = pytest.mark.quick
TEXTS = st.text(st.sampled_from("Step 12:.\n\r\t <>\u2028\x85\u00fcab\u4e16\U0001f600"), max_size=60)


# ---- searches


def grown(tree, search, complete):
    """Run a search to its end; `complete(state, i)` -> (text, right). Returns the number of batches."""
    n = 0
    for asked in search(tree):
        n += 1
        for state in asked:
            assert not state.rollouts, "a state is completed once"
            made = (complete(state, i) for i in range(state.n_wanted))
            state.rollouts += [Attempt(i, text, right, 3) for i, (text, right) in enumerate(made)]
    return n


def planted(n_steps, error):
    """Completions of a question: one right, one whose step number `error` is the first wrong one."""
    text = "\n".join(f"Step {i}: {'wrong' if i >= error else 'fine'} {i}" for i in range(1, n_steps + 1))

    def complete(state, i):
        if not state.text:
            return (text, False) if i else ("so it is", True)
        return f"{state.text}done", len(state.steps) < error

    return complete


@given(st.integers(1, 64).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_binary_search_finds_the_planted_error_in_log2_batches(case):
    n_steps, error = case
    tree = Tree(SearchOptions(n=2, k=1, most=10_000))
    n_batches = grown(tree, omegaprm, planted(n_steps, error)) - 1
    (found,) = [one for one in tree.found if one.state == 0]
    assert (found.first_error, found.number) == (error, 1)
    assert found.step.startswith(f"Step {error}: wrong")
    assert n_batches <= math.ceil(math.log2(n_steps))
    assert all((one.value == 1) == (len(one.steps) < error) for one in tree.states.values() if one is not tree.root)


def test_monte_carlo_completes_every_step_but_the_last_once():
    tree = Tree(SearchOptions(n=3, k=4, most=1000))
    solutions = ["aaa\nbbb\nccc", "aaa\nbbb\nddd", "one step"]

    def complete(state, i):
        return (solutions[i], i == 0) if not state.text else (state.text + "x", i == 0 and state.text.startswith("aaa\nbbb"))

    assert grown(tree, monte_carlo, complete) == 2, "the second solution shares its beginnings with the first"
    assert {text.strip(): one.value for text, one in tree.states.items()} == {"": 1 / 3, "aaa": 0.0, "aaa\nbbb": 0.25}
    assert tree.n_completions == 3 + 2 * 4


@pytest.mark.parametrize("search", [monte_carlo, omegaprm])
@given(most=st.integers(2, 40))
def test_no_search_completes_more_than_it_may(search, most):
    tree = Tree(SearchOptions(n=2, k=3, most=most))
    grown(tree, search, planted(12, 7))
    assert tree.n_completions <= most


def test_a_question_that_is_always_or_never_answered_has_nothing_to_search():
    for right in (True, False):
        tree = Tree(SearchOptions(n=4, k=4))
        assert grown(tree, omegaprm, lambda state, i, right=right: ("a\nb\nc", right)) == 1
        assert not tree.found


def test_selection_in_closed_form():
    options = SearchOptions()
    assert rollout_value(1.0, 0, options) == 1
    assert rollout_value(0.0, 0, options) == pytest.approx(0.5)
    assert rollout_value(0.25, 1000, options) == pytest.approx(0.5**0.75 * 0.9**2)
    assert exploration(3, 16, 0.125) == pytest.approx(0.125 * 4 / 4)
    tree = Tree(options)
    tree.root.rollouts = [Attempt(0, "r", True, 5), Attempt(1, "long", False, 400), Attempt(2, "short", False, 10)]
    other = tree.state_at("a\n", ("a",))
    other.rollouts = [Attempt(0, "a\nr", True, 5), Attempt(1, "a\nw", False, 10)]
    states = list(tree.states.values())
    assert selected(states, set(), options) == (other, other.rollouts[1]), "half of its completions are right, not a third"
    assert selected(states, {(other.id, 1)}, options) == (tree.root, tree.root.rollouts[2]), "the shorter one"
    assert selected(states, {(other.id, 1), (0, 1), (0, 2)}, options) is None
    other.visits = 100  # U: 0.125 * 10 / 101 against 0.125 * 10 / 1
    assert selected(states, set(), options) == (tree.root, tree.root.rollouts[2])


def test_completions_cut_at_the_limit_are_not_searched_and_have_no_value():
    tree = Tree(SearchOptions(n=3, k=2))
    tree.root.rollouts = [Attempt(0, "a\nb", True), Attempt(1, "a\nc\nd", False, truncated=True), Attempt(2, "\n", False)]
    assert selected(list(tree.states.values()), set(), tree.options) is None
    rows = value_rows(Sample("q", "qa", "?", "a", ("synthetic:steps/train/0/0",)), tree, "soft")
    assert [(row["process"], row["value"]) for row in rows] == [("a\nb", 1.0)]


@given(TEXTS)
def test_steps_are_found_again_in_their_text(text):
    steps = split_steps(text).steps
    starts = step_starts(text, steps)
    assert len(starts) == len(steps) + 1
    assert (starts[0], starts[-1]) == (0, len(text))
    parts = [text[a:b] for a, b in pairwise(starts)]
    assert "".join(parts) == text
    assert ["".join(part.split()) for part in parts] == ["".join(step.split()) for step in steps]


# ---- rows


def row_of(*made, task="qa", **facts):
    """A sampled row of (text, score, right)."""
    sample = Sample("q", task, "How many?", "2", ("synthetic:steps/train/0/0",), **facts)
    completions = [
        ScoredCompletion(i, Prediction("q", text, 3, False, {"prompt": "P"}), {}, score, right)
        for i, (text, score, right) in enumerate(made)
    ]
    return SampledRow(sample, sample, "", "P", False, tuple(completions))


def test_the_best_of_a_row_are_imitated():
    row = row_of(("a", 0.5, None), ("b", 1.0, None), ("b", 1.0, None), ("c", 1.0, None), ("", 2.0, None), ("d", None, None))

    def texts(options):
        return [(one["id"], one["meta"]["imitate"]["completion"]) for one in sft_rows(row, options)]

    assert texts(SftOptions()) == [("q/1", "b")]
    assert texts(SftOptions(best=9)) == [("q/1", "b"), ("q/3", "c"), ("q/0", "a")], "each text once, none empty or unscored"
    assert texts(SftOptions(best=9, min_score=0.6)) == [("q/1", "b"), ("q/3", "c")]
    assert texts(SftOptions(min_score=1.5)) == []


def test_negatives_have_the_weight_of_the_paper():
    assert shaped_negative(1, 2) == pytest.approx(-1, abs=1e-3)
    assert shaped_negative(1, 5) == pytest.approx(-math.sqrt(0.2 / 0.8), abs=1e-3), "few are right: wrong ones say little"
    assert shaped_negative(4, 5) == pytest.approx(-2, abs=2e-3)
    options = SftOptions(negatives="oreal", negative_weight=0.5)
    rows = sft_rows(row_of(("r", 1.0, True), ("w", 0.0, False), ("v", 0.5, False), ("w", 0.0, False)), options)
    weights = {one["meta"]["imitate"]["completion"]: one["meta"]["imitate"]["weight"] for one in rows}
    shaped = pytest.approx(0.5 * shaped_negative(1, 4), abs=1e-6)
    assert weights == {"r": 1.0, "w": shaped, "v": shaped}
    assert sft_rows(row_of(("r", 1.0, True)), options) == []
    assert sft_rows(row_of(("w", 1.0, False)), options) == []


def test_pairs_differ_in_score():
    row = row_of(("a b c", 1.0, None), ("a b d", 0.0, None), ("x y", 0.5, None), ("a b c", 1.0, None))
    (pair,) = preference_rows(row, PairOptions())
    assert (pair["chosen"], pair["rejected"], pair["margin"], pair["prompt"]) == ("a b c", "a b d", 1.0, "P")
    assert pair["image"] == "synthetic:steps/train/0/0"
    near = row_of(("a b c d e", 1.0, None), ("x", 0.0, None), ("a b c d f", 0.5, None))
    assert preference_rows(near, PairOptions())[0]["rejected"] == "x"
    (pair,) = preference_rows(near, PairOptions(choice="nearest", spans=True, pairs=3))
    assert (pair["rejected"], pair["chosen_changed"], pair["rejected_changed"]) == ("a b c d f", [[7, 9]], [[7, 9]])
    assert preference_rows(near, PairOptions(min_margin=1.0)) == []
    assert preference_rows(row_of(("a", 1.0, None), ("a", 0.0, None)), PairOptions()) == [], "one text cannot be both"


@given(TEXTS, TEXTS)
def test_what_stands_outside_of_changed_spans_is_the_same(first, second):
    kept = []
    for text, spans in zip((first, second), changed_spans(first, second), strict=True):
        assert spans_problem(spans, text) is None
        outside, last = "", 0
        for start, end in spans:
            outside, last = outside + text[last:start], end
        kept.append(outside + text[last:])
    assert kept[0] == kept[1]
    assert 0 <= shared_share(first, second) <= 1
    assert changed_spans(first, first) == ((), ())


def test_hostile_completions_make_rows_that_are_read(tmp_path):
    bad = [
        "",
        " \n",
        "\ud800 half",
        "<script>alert(1)</script>\n\u202e<|im_end|>\x00",
        "x" * 200_000,
        "</pre>\nStep 1: \U0001f600",
    ]
    tree = Tree(SearchOptions(n=len(bad), k=2))
    tree.root.rollouts = [Attempt(i, text, i % 2 == 1) for i, text in enumerate(bad)]
    tree.state_at("<b>\n", ("<b>",)).rollouts = [Attempt(0, "<b>\n</details>", False)]
    sample = Sample("<i>", "qa", "</script>?", "a", ("synthetic:steps/train/0/0",))
    path = tmp_path / "v.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in value_rows(sample, tree, "hard")))
    records = read_rewards(path).records
    assert len(records) == 4
    assert all(record.values[-1] in (0.0, 1.0) for record in records)
    write_tree_page(tmp_path / "t.html", {"n": "<u>"}, [json.loads(json.dumps(tree_json(sample, tree)))])
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    assert not any(word in page for word in ("<script", "<i>", "<u>", "<b>", "\ud800", "\x00", "\u202e"))
    assert page.count("<details") == page.count("</details")
    assert "prefers-color-scheme:dark" in page
    rows = sft_rows(row_of(*((text, float(i), None) for i, text in enumerate(bad))), SftOptions(best=9))
    assert [row["meta"]["imitate"]["completion"] for row in rows] == [bad[5], bad[4], bad[3]]


def test_a_deep_tree_is_drawn(tmp_path):
    tree = Tree(SearchOptions())
    for i in range(1, 3000):
        tree.states["s\n" * i] = tree.state_at("s\n" * i, ("s",) * i)
    states = [{"id": i, "parent": i - 1 if i else None, "adds": "s", "value": 0.5} for i in range(3000)]
    states = [{**one, "n_completions": 0, "n_right": 0, "visits": 0, "completions": []} for one in states]
    row = {"id": "q", "question": "?", "answer": 1, "n_completions": 0, "states": states, "first_errors": []}
    write_tree_page(tmp_path / "t.html", {}, [row])
    assert (tmp_path / "t.html").stat().st_size > 3000


# ---- flags


def settled(*words):
    args = parse_command(["sample", "--task", "qa", "--output_path", "x", *words])
    settle_sample_flags(args)
    return args


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--best", "2"], "--best is for --write sft, which is not asked for"),
        (["--spans", "--write", "sft"], "--spans is for --write preferences"),
        (["--k", "2"], "--k is for --write step_values"),
        (["--write", "step_values", "--alpha", "0.4"], "--alpha is for --method omegaprm"),
        (["--write", "sft", "--right_at", "0.5"], "--right_at is for --write step_values and for --negatives oreal"),
        (["--write", "sft", "--negative_weight", "2"], "--negative_weight is for --negatives oreal"),
        (["--write", "sft", "sft"], "names one twice"),
        (["--write", "step_values", "--n", "9", "--max_completions", "8"], "less than --n 9"),
        (["--write", "preferences", "--n", "1"], "two completions"),
        (["--write", "preferences", "--min_margin", "-1"], "must be 0 or more"),
        (["--write", "step_values", "--method", "omegaprm", "--beta", "0"], "must be above 0"),
        (["--temperature", "0"], "differ only above 0"),
        (["--reward_weights", "nan"], "must be finite"),
    ],
)
def test_flags_without_effect_are_refused(words, said):
    with pytest.raises(ValueError, match=said):
        settled(*words)


def test_defaults_are_filled_in():
    args = settled("--write", "step_values")
    assert (args.method, args.k, args.max_completions, args.estimate, args.best, args.temperature) == (
        *("monte_carlo", 8, 64, "soft", 1),
        1.0,
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--task", "detection", "--rewards", "no_such"], "unknown reward"),
        (["--task", "vilbench"], "is a benchmark"),
        (["--task", "detection", "--reward_weights", "1"], "1 --reward_weights for 2 rewards"),
        (["--task", "qa", "--write", "step_values"], "must show exactly one image"),
        (["--task", "detection", "--rewards", "think_answer_format", "--write", "step_values"], "no reward of its answer"),
        (["--task", "planning", "--rewards", "alphadrive_speed", "--write", "step_values"], "scores groups"),
        (["--task", "blackjack", "--write", "sft"], "a game of several replies"),
    ],
)
def test_what_cannot_be_sampled_is_one_line(words, said, tmp_path, capsys):
    assert main(["sample", *words, "--limit", "2", "--output_path", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists(), "before anything is written"


def test_rows_state_steps_that_are_those_of_their_text(tmp_path):
    row = {"image": "synthetic:steps/train/0/0", "question": "q", "process": "aaa\nbbb\n\nccc", "value": 0.5}
    path = tmp_path / "v.json"
    path.write_text(json.dumps([row, {**row, "process": "aaa\nbbb", "steps": ["aaa\nbbb"]}]))
    records = read_rewards(path).records
    assert [record.steps for record in records] == [("aaa\nbbb", "ccc"), ("aaa\nbbb",)]
    path.write_text(json.dumps([{**row, "steps": ["aaa", "ddd"]}]))
    with pytest.raises(ValueError, match="different texts"):
        read_rewards(path)


def test_the_scripted_solver_goes_on_as_it_began():
    import numpy as np
    import solver_server

    found = solver_server.solved(("red", "blue"), "<think>Step 1: One shape is orange, 6 points.\n", np.random.default_rng(0))
    assert found.startswith("Step 2: One shape is ")
    assert "Step 3: 6 + " in found
    rights = 0
    for seed in range(200):
        rights += solver_server.solved(("red", "blue"), "", np.random.default_rng(seed)).endswith("<answer>4</answer>")
    assert 30 < rights < 80, "0.55 x 0.55 x 0.8 of 200 is 48, and some are right by two errors"


def test_boards_are_written_as_rows(tmp_path):
    from data_prep.step_boards import main as write_boards

    assert write_boards(["--n", "3", "--out", str(tmp_path / "q.jsonl")]) == 0
    assert write_boards(["--n", "3", "--each", "2", "--values", "--out", str(tmp_path / "v.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [(row["task"], row["answer"]) for row in rows] == [("qa", row["answer"]) for row in rows]
    records = read_rewards(tmp_path / "v.jsonl").records
    assert {record.steps[0].startswith("<think>Step 1:") for record in records} == {True}
    assert {value for record in records for value in record.values if value is not None} <= {0.0, 1.0}
