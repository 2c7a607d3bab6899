"""ViLBench's protocol without a model: steps, aggregations, selection, judging, grading, files, numbers."""

import json
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vlrl.answers.steps import split_steps, statistics
from vlrl.bench.vilbench import RELEASED_ITEMS, benchmark_name
from vlrl.bench.vilbench.judging import outcome_prompt, read_score, step_prompt
from vlrl.bench.vilbench.summary import column, differences, picks, results, results_table, reward_models
from vlrl.data.best_of_n import CandidateScore, Item, read_candidates, read_items, read_scores
from vlrl.data.decontaminate import KnownItems, image_hash, question_form
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.metrics.answer_grading import grade, kind_of, read_number, stated_answer
from vlrl.metrics.best_of_n import pools_of
from vlrl.metrics.selection import baselines, best, headroom, majority, subsets
from vlrl.metrics.step_aggregation import AGGREGATIONS, aggregate
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick

# ---- steps


@pytest.mark.parametrize(
    ("text", "steps", "method"),
    [
        ("Step 1: a b c\nStep 2: d e f", ["Step 1: a b c", "Step 2: d e f"], "markers"),
        ("**Step 1:** look\nit is red\n**Step 2.** add\nThe answer is 3.", ["**Step 1:** look\nit is red", "**Step 2.** add\nThe answer is 3."], "markers"),
        ("### step 1. x y\n\ntext\n\n### STEP 2: z w", ["### step 1. x y\n\ntext", "### STEP 2: z w"], "markers"),
        ("Let me see.\nStep 1: one two\nStep 2: two three\n\nFinal answer: 4", ["Let me see.\nStep 1: one two", "Step 2: two three\n\nFinal answer: 4"], "markers"),
        ("first block\nof lines\n\nsecond block\n \nthird", ["first block\nof lines", "second block", "third"], "blank lines"),
        ("1. apples\n2. pears\n3. so five", ["1. apples", "2. pears", "3. so five"], "lines"),
        ("First do step 2 of it, then stop.", ["First do step 2 of it, then stop."], "one step"),
        ("a line\nok\nno\nanother line", ["a line\nok\nno", "another line"], "lines"),
        ("", [""], "one step"),
    ],
)  # fmt: skip
def test_splitting(text, steps, method):
    found = split_steps(text)
    assert (list(found.steps), found.method) == (steps, method)


@given(st.text(alphabet="aS tep1:.\n*#-é", max_size=200))
def test_splitting_loses_nothing_but_white_space(text):
    found = split_steps(text)
    assert "".join("".join(found.steps).split()) == "".join(text.split())
    assert all(len(step) >= 3 for step in found.steps) or len(found.steps) == 1


def test_splitting_is_linear():
    assert len(split_steps("Step 1 " * 40_000).steps) == 1


def test_statistics_name_methods_and_unsplit_share():
    told = statistics([split_steps("Step 1: abc\nStep 2: def"), split_steps("whole")])
    assert told["mean"] == 1.5
    assert told["methods"] == {"markers": 1, "one step": 1}
    assert told["unsplit"] == 0.5


# ---- aggregation: the published example (project page)

URSA = [[0.922, 0.914, 0.922, 0.805], [0.926, 0.930, 0.297]]
VILPRM = [[0.793, 0.758, 0.719, 0.766], [0.785, 0.859, 0.816]]


def test_published_means():
    assert [round(aggregate(scores, "mean"), 3) for scores in URSA] == [0.891, 0.718]
    assert [round(aggregate(scores, "mean"), 3) for scores in VILPRM] == [0.759, 0.820]
    correct = [False, True]
    assert best([aggregate(scores, "mean") for scores in URSA], correct).accuracy == 0
    assert best([aggregate(scores, "mean") for scores in VILPRM], correct).accuracy == 1


def test_aggregations():
    scores = [1.0, 0.5, None, 0.2]
    assert aggregate(scores, "mean") == pytest.approx(1.7 / 3)
    assert aggregate(scores, "last_1") == aggregate(scores, "last") == 0.2
    assert aggregate(scores, "last_2") == 0.2
    assert aggregate(scores, "last_4") == aggregate(scores, "last_8") == aggregate(scores, "mean")
    assert aggregate(scores, "min") == 0.2
    assert aggregate(scores, "product") == pytest.approx(0.1)
    assert aggregate([0.3, None], "last_1") is None
    assert aggregate([0.3, None], "last") == 0.3
    assert aggregate([None, None], "mean") is None
    with pytest.raises(ValueError, match="median"):
        aggregate(scores, "median")


# ---- selection


def test_ties_in_expectation_and_by_first_index():
    pick = best([4, 4, 3], [True, False, True])
    assert (pick.accuracy, pick.first_index, pick.indices) == (0.5, 1.0, (0, 1))


def test_a_candidate_without_a_score_loses():
    assert best([None, 1.0], [True, False]).accuracy == 0
    assert best([None, None], [True, False]).accuracy == 0.5
    with pytest.raises(ValueError, match="1 scores for 2"):
        best([1.0], [True, False])


POOLS = st.lists(
    st.tuples(st.booleans(), st.sampled_from([None, 1, 2, 3, 4, 5]), st.sampled_from("AB")), min_size=1, max_size=16
)


@given(POOLS)
def test_bounds(pool):
    correct, scores = [row[0] for row in pool], [row[1] for row in pool]
    answers = ["right" if row[0] else row[2] for row in pool]
    rules = baselines(answers, correct, [len(a) for a in answers], [1] * len(pool))
    assert all(0 <= value <= rules["oracle"] for value in rules.values())
    assert 0 <= best(scores, correct).accuracy <= rules["oracle"]
    assert best([3] * len(pool), correct).accuracy == pytest.approx(rules["random"])
    assert best([float(c) for c in correct], correct).accuracy == rules["oracle"]
    if len(pool) == 1:
        assert len(set(rules.values())) == 1


def test_a_reversed_scorer_does_not_exceed_random():
    pools = [[True, False], [False, True], [True, True], [False, False]]
    reverse = [best([1.0 - c for c in pool], pool).accuracy for pool in pools]
    assert sum(reverse) <= sum(sum(pool) / 2 for pool in pools)


def test_majority():
    assert majority(["a", "a", "b"], [False, False, True]) == 0
    assert majority(["a", "b"], [True, False]) == 0.5
    assert majority([None, None, "b"], [False, False, True]) == 1
    assert majority([None], [False]) == 0
    assert headroom(0.5, 0.25, 0.75) == 0.5
    assert headroom(0.5, 0.5, 0.5) is None


def test_subsets_are_seeded_and_distinct():
    assert subsets(16, 4, 3) == subsets(16, 4, 3)
    assert subsets(16, 4, 3) != subsets(16, 4, 4)
    assert all(len(set(some)) == 4 for some in subsets(16, 4, 3))
    assert subsets(4, 4, 0) == [[0, 1, 2, 3]]


# ---- judge


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Reasoning: fine.\nOverall Score: 4", 4),
        ("**Overall Score:** 5", 5),
        ("Overall score is unclear. Overall Score: 2", 2),
        ("Overall Score: 3\n...\nOverall Score: 1", 1),
        ("overall score: 4/5", 4),
        ("Overall Score: 4 out of 5.", 4),
        ("Overall Score: 4/10", None),
        ("Overall Score: 3-4", None),
        ("Overall Score: 3 or 4", None),
        ("Overall Score: 3.5", None),
        ("Overall Score: 0", None),
        ("Overall Score: 6", None),
        ("Overall Score: -2", None),
        ("Overall Score: 45", None),
        ("Overall Score: four", None),
        ("I give 4.", None),
        ("CandidateScore: 4", None),
        ("", None),
    ],
)
def test_reading_a_judge(reply, score):
    assert read_score(reply) == score


def test_what_the_judge_sees():
    steps = ["Step 1: one", "Step 2: two"]
    assert "Step 1: one" in step_prompt("Q?", steps, 1, "prefix")
    assert "Step 1: one" not in step_prompt("Q?", steps, 1, "step")
    assert "Step 2: two" not in step_prompt("Q?", steps, 0, "prefix")
    assert read_score(step_prompt("Q?", steps, 0)) is None, "the prompt itself holds no score"
    assert read_score(outcome_prompt("Q?", "x")) is None
    with pytest.raises(ValueError, match="all"):
        step_prompt("Q?", steps, 0, "all")


# ---- grading

TEN = (*(f"option {i}" for i in range(9)), "None of the above")


@pytest.mark.parametrize(
    ("response", "item", "correct", "answer"),
    [
        ("Step 1: x\nThe answer is (B).", {"choices": ("cat", "dog"), "answer": "B"}, True, "B"),
        ("The answer is A. No, the answer is B", {"choices": ("cat", "dog"), "answer": "B"}, True, "B"),
        ("so\n<answer>dog</answer>", {"choices": ("cat", "dog"), "answer": "B"}, True, "B"),
        ("Answer: dog", {"choices": ("cat", "dog"), "answer": "dog"}, True, "B"),
        ("we get \\boxed{J}", {"choices": TEN, "answer": "J"}, True, "J"),
        ("Final answer: none of the above", {"choices": TEN, "answer": "J"}, True, "J"),
        ("it may be A or B\nor C", {"choices": ("x", "y", "z"), "answer": "A"}, False, None),
        ("The answer is K", {"choices": TEN, "answer": "J"}, False, None),
        ("The answer is 1,250 cm.", {"answer": "1250"}, True, "1250"),
        ("The answer is $12.50.", {"answer": "12.5"}, True, "25/2"),
        ("The answer is \\frac{1}{2}", {"answer": "0.5"}, True, "1/2"),
        ("\\boxed{\\frac{3}{4}\\text{ m}}", {"answer": "0.75"}, True, "3/4"),
        ("The answer is 45%.", {"answer": "45"}, True, "45"),
        ("x = 3.14159\nThe answer is 3.14159", {"answer": "3.14", "precision": 2}, True, "157/50"),
        ("The answer is 3.15", {"answer": "3.14", "precision": 2}, False, "63/20"),
        ("The answer is 1000.5", {"answer": "1000"}, True, "2001/2"),
        ("The answer is 1002", {"answer": "1000"}, False, "1002"),
        ("The answer is −5", {"answer": "-5"}, True, "-5"),
        ("The answer is yes.", {"answer": "Yes"}, True, "yes"),
        ("The answer is a Stop sign!", {"answer": "the stop sign", "answer_type": "text"}, True, "stop sign"),
        ("long\ntext without any", {"answer": "3"}, False, None),
        ("", {"answer": "3"}, False, None),
        ("the answer is \\boxed{3", {"answer": "3"}, False, None),
    ],
)
def test_grading(response, item, correct, answer):
    item = Item("1", "s", "q", **item)
    assert grade(response, item) == (correct, answer)


def test_kinds_and_numbers():
    assert kind_of(Item("1", "s", "q", "B", choices=("a", "b"))) == "letter"
    assert kind_of(Item("1", "s", "q", "no")) == "yes_no"
    assert kind_of(Item("1", "s", "q", "7", answer_type="text")) == "text"
    assert read_number("about 3 or 4") is None
    assert read_number("2 + 1 = 3") == 3
    assert read_number("90^\\circ") == 90
    assert stated_answer("one\ntwo") is None


@settings(deadline=None)
@given(st.text(max_size=300))
def test_grading_never_raises(text):
    for item in (Item("1", "s", "q", "3"), Item("1", "s", "q", "B", choices=("a", "b")), Item("1", "s", "q", "cat")):
        grade(text, item)
        read_score(text)


# ---- files


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


ITEM = {"id": "a", "source": "MMStar", "image": "a.png", "question": "q?", "answer": "B", "choices": ["x", "y"]}


def test_items_and_field_map(tmp_path):
    (found,) = read_items(write(tmp_path / "i.jsonl", [ITEM]))
    assert found.image == str((tmp_path / "a.png").resolve())
    assert found.question_with_choices == "q?\nA. x\nB. y"
    other = {**{k: v for k, v in ITEM.items() if k != "answer"}, "gt": 3}
    with pytest.raises(SampleError, match=r"gt.*--fields"):
        read_items(write(tmp_path / "j.jsonl", [other]))
    (found,) = read_items(tmp_path / "j.jsonl", fields={"answer": "gt"})
    assert found.answer == "3"
    for bad in ({**ITEM, "choices": "ab"}, {**ITEM, "answer": None}, {**ITEM, "precision": -1}, {**ITEM, "image": 3}, ["x"]):
        with pytest.raises(SampleError, match=r"k\.jsonl:1"):
            read_items(write(tmp_path / "k.jsonl", [bad]))
    with pytest.raises(SampleError, match="used before"):
        read_items(write(tmp_path / "k.jsonl", [ITEM, ITEM]))


def test_candidates_and_scores(tmp_path):
    items = read_items(write(tmp_path / "i.jsonl", [ITEM]))
    row = {"id": "a", "generator": "g", "index": 0, "response": "Step 1: x y\nStep 2: z w"}
    found = read_candidates(
        write(tmp_path / "c.jsonl", [row, {**row, "index": 1, "steps": ["p q", "r s"]}, {**row, "id": "z"}]), items
    )
    assert [one.steps.method for one in found] == ["markers", "given"]
    with pytest.raises(SampleError, match="there twice"):
        read_candidates(write(tmp_path / "c.jsonl", [row, row]), items)
    for bad in (
        {**row, "index": -1},
        {**row, "response": 3},
        {**row, "steps": []} | {"response": None},
        {**row, "generator": 1},
    ):
        with pytest.raises(SampleError, match=r"c\.jsonl:1"):
            read_candidates(write(tmp_path / "c.jsonl", [bad]), items)
    score = {"id": "a", "generator": "g", "index": 0, "rm": "r", "mode": "prm", "context": "prefix", "step_scores": [4, None]}
    (one,) = read_scores(write(tmp_path / "s.jsonl", [score]))
    assert one.to_json() == {**score, "step_scores": [4.0, None]}
    for bad in (
        {**score, "mode": "x"},
        {**score, "step_scores": ["4"]},
        {**score, "step_scores": [math.nan]},
        {**score, "mode": "orm"},
    ):
        with pytest.raises(SampleError, match=r"s\.jsonl:1"):
            read_scores(write(tmp_path / "s.jsonl", [bad]))


def test_the_label_needs_the_released_items():
    assert benchmark_name(RELEASED_ITEMS, True) == "ViLBench"
    assert benchmark_name(RELEASED_ITEMS, False) != "ViLBench"
    assert benchmark_name({**RELEASED_ITEMS, "MMStar": 149}, True) != "ViLBench"


# ---- overlap


def test_overlap_finds_scaled_images_and_reworded_punctuation():
    image = Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 60).convert("RGB")
    known = KnownItems([image], ["How many  cats, are there?"])
    assert known.has_image(image.resize((300, 220)))
    assert not known.has_image(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert known.has_question("how many cats are there")
    assert not known.has_question("how many dogs are there")
    assert question_form("A-b!") == "a b"
    assert not KnownItems([], []).has_image(image)
    assert image_hash(image) == image_hash(image.copy())


# ---- numbers


def scored(how, n=40):
    """The built-in set, scored by how right each candidate is (`how` maps it to a score)."""
    items, candidates = fixture.items(0, n), fixture.candidates(0, n)
    pools = pools_of(items, candidates)
    right = {one.key: g.correct for pool in pools for one, g in zip(pool.candidates, pool.grades, strict=True)}
    made = [
        CandidateScore(c.id, c.generator, c.index, "rm", "prm", (how(right[c.key]),) * len(c.steps.steps)) for c in candidates
    ]
    (rm,) = reward_models(made)
    return pools, [column(rm, h, size, pools) for h in rm.aggregations for size in (2, 4, 8)]


def test_an_oracle_scorer_has_the_oracle_row_and_a_constant_one_the_random_row():
    for how, row in ((float, "oracle"), (lambda right: 0.5, "random")):
        pools, columns = scored(how)
        for record in results(columns, pools):
            assert record["accuracy"] == pytest.approx(record[row])
            assert record["random"] <= record["accuracy_first_index"] + 1 if row == "random" else True
            assert record["random"] <= record["oracle"]
            assert record["tie_rate"] == 1.0 if row == "random" else record["tie_rate"] <= 1
    assert {record["aggregation"] for record in results(columns, pools)} == set(AGGREGATIONS)


def test_records_tables_and_differences():
    pools, columns = scored(float)
    records = results(columns, pools)
    whole = next(r for r in records if r["source"] == "all" and r["N"] == 8 and r["aggregation"] == "mean")
    assert whole["n_items"] == 40
    assert whole["ci95"][0] < whole["accuracy"] < whole["ci95"][1]
    assert whole["headroom"] == 1
    assert {r["source"] for r in records} == {"all", "two shapes", "three shapes"}
    against = {row["a"]: row for row in differences(columns, pools, 8)}
    assert against["random"]["b_minus_a"] == pytest.approx(whole["accuracy"] - whole["random"])
    assert against["random"]["ci95"][0] > 0
    assert against["random"]["p_value"] < 0.01
    chosen = picks(columns)
    assert len(chosen) == 40 * 3 * len(AGGREGATIONS)
    assert all(row["tie_size"] == len(row["tied"]) and row["chosen"] < row["N"] for row in chosen)
    assert re.search(r"\| careless +\| all +\| 40 +\|", results_table(records, 8))


def test_one_candidate_makes_all_rows_equal():
    items = fixture.items(0, 5)
    candidates = [one for one in fixture.candidates(0, 5) if one.index == 0]
    pools = pools_of(items, candidates)
    (rm,) = reward_models([CandidateScore(*one.key, "rm", "orm", (3.0,)) for one in candidates])
    for record in results([column(rm, "orm", 1, pools)], pools):
        assert len({record[name] for name in ("accuracy", "random", "oracle", "majority", "first", "longest")}) == 1


def test_the_fixture_is_seeded_and_its_solutions_are_graded_as_they_were_made():
    from vlrl.data.synthetic.steps import solution, step_question

    assert fixture.candidates(1, 3) == fixture.candidates(1, 3) != fixture.candidates(2, 3)
    for pool in pools_of(fixture.items(0, 30), fixture.candidates(0, 30)):
        number = int(pool.item.id.rsplit("-", 1)[1])
        asked = step_question(0, fixture.DRAWN_SET_SPLIT, number)
        for one, found in zip(pool.candidates, pool.grades, strict=True):
            made = solution(0, fixture.DRAWN_SET_SPLIT, number, one.index)
            assert found.answer == str(made.answer)
            assert found.correct == (made.answer == asked.answer)
            assert one.steps.steps == made.steps
            assert list(made.values) == sorted(made.values, reverse=True), "what is wrong stays wrong"
        right = solution(0, fixture.DRAWN_SET_SPLIT, number, 0, noisy=False)
        assert set(right.values) == {1.0}
        assert right.answer == asked.answer


def test_boards_are_drawn_anew_from_their_address_and_only_the_image_shows_which_colour_is_right():
    from vlrl.data.synthetic import IMAGE_SIDE_PX, draw
    from vlrl.data.synthetic.steps import SIMILAR_COLOURS, board, step_question

    seen = board("train", 3, 5)
    assert draw(step_question(3, "train", 5).image).tobytes() == seen.image.tobytes() != board("test", 3, 5).image.tobytes()
    assert seen.image.size == (IMAGE_SIDE_PX, IMAGE_SIDE_PX)
    counts = dict.fromkeys(SIMILAR_COLOURS, 0)
    for i in range(300):
        colours = board("train", 0, i).colours
        assert not {SIMILAR_COLOURS[colour] for colour in colours} & set(colours), "no two neighbours on one board"
        for colour in colours:
            counts[colour] += 1
    assert min(counts.values()) > 0.7 * max(counts.values()), "without looking, a colour is as likely as its neighbour"


def test_digests_of_the_built_in_set_stay_those_of_earlier_versions():
    from vlrl.bench.vilbench import command

    digests = [command._digest(made(0, 3))[:16] for made in (fixture.items, fixture.candidates)]
    assert digests == ["0040b4671b4cec24", "3757ac00e78ed904"], "diff of two results would report other data"
