"""ViLBench's protocol without a model: judging, files, overlap with training data, numbers."""

import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from vlrl.bench.vilbench import RELEASED_ITEMS, benchmark_name
from vlrl.bench.vilbench.judging import outcome_prompt, read_score, step_prompt
from vlrl.bench.vilbench.summary import column, differences, picks, results, results_table, reward_models
from vlrl.data import decontaminate
from vlrl.data.best_of_n import CandidateScore, read_candidates, read_items, read_scores
from vlrl.data.decontaminate import KnownItems, question_form
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.metrics.best_of_n import pools_of
from vlrl.rewards.step_aggregation import AGGREGATIONS
from vlrl.schema import SampleError

pytestmark = pytest.mark.quick

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


def test_overlap_finds_reworded_punctuation():
    known = KnownItems([], ["How many  cats, are there?"])
    assert known.has_question("how many cats are there")
    assert not known.has_question("how many dogs are there")
    assert question_form("A-b!") == "a b"
    assert not known.has_image(Image.new("RGB", (9, 9)))


def test_overlap_finds_copies_of_images():
    pytest.importorskip("imagehash")
    cells = np.random.default_rng(0).integers(40, 190, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(cells).resize((120, 90), Image.Resampling.BICUBIC)
    known = KnownItems([image], [])
    written = io.BytesIO()
    image.resize((90, 70)).save(written, "JPEG", quality=30)
    for copy in (image, image.resize((300, 220)), Image.open(written), ImageEnhance.Brightness(image).enhance(1.2)):
        assert known.has_image(copy)
    assert not known.has_image(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert not known.has_image(Image.new("RGB", (120, 90)))
    plain = KnownItems([Image.new("RGB", (60, 40), "red")], [])
    assert plain.has_image(Image.new("RGB", (30, 20), "red"))
    assert not plain.has_image(Image.new("RGB", (60, 40), "blue"))


def test_images_are_not_compared_without_the_library(monkeypatch):
    monkeypatch.setattr(decontaminate, "can_compare", lambda: False)
    with pytest.raises(SampleError, match=r"imagehash, which is missing: pip install 'vlrl\[data\]'"):
        KnownItems([Image.new("RGB", (9, 9))], [])


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
