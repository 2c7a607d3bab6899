"""Best of N over N: hand-computed points, costs, votes, the table and the picture."""

import json

import pytest

from vlrl.answers.steps import split_steps
from vlrl.bench import main
from vlrl.bench.vilbench.growth import growth, growth_table
from vlrl.bench.vilbench.suite import BestOfN, judge_samples, sample_id
from vlrl.bench.vilbench.summary import column, reward_models
from vlrl.data.best_of_n import Candidate, CandidateScore, Item
from vlrl.metrics.best_of_n import pools_of
from vlrl.schema import Prediction

pytestmark = pytest.mark.quick

ITEMS = [Item(f"i{i}", "s", "How many?", "4") for i in range(3)]
# Which of four candidates are right, by item; the score is highest for the last right one.
RIGHT = {"i0": [0, 1, 0, 1], "i1": [1, 0, 0, 0], "i2": [0, 0, 0, 1]}


def candidates():
    found = []
    for item, rights in RIGHT.items():
        for k, right in enumerate(rights):
            text = f"Step 1: look\nStep 2: count\nThe answer is {4 if right else 5}."
            found.append(Candidate(item, "g", k, text, split_steps(text)))
    return found


def scores(rm="m", mode="prm"):
    made = []
    for one in candidates():
        value = float(RIGHT[one.id][one.index]) + one.index / 10
        values = (value,) * (len(one.steps.steps) if mode == "prm" else 1)
        made.append(CandidateScore(one.id, "g", one.index, rm, mode, values))
    return made


def records():
    pools = pools_of(ITEMS, candidates())
    models = reward_models([*scores(), *scores("o", "orm")])
    columns = [column(rm, how, n, pools) for rm in models for how in rm.aggregations for n in (2, 4)]
    return growth(columns, pools, [2, 4], lambda one, candidate: (len(candidate.steps.steps), 7))


def test_points_by_hand():
    found = {(r["chosen_by"], r["N"]): r for r in records()}
    # N = 1: the first candidates, of which one is right. N = 2: items 0 and 1. N = 4: all.
    assert [found["m (mean)", n]["accuracy"] for n in (1, 2, 4)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [found["o (orm)", n]["accuracy"] for n in (1, 2, 4)] == pytest.approx([1 / 3, 2 / 3, 1])
    assert [found["random", n]["accuracy"] for n in (1, 2, 4)] == pytest.approx(
        [1 / 3, (0.5 + 0.5 + 0) / 3, (0.5 + 0.25 + 0.25) / 3]
    )
    assert [found["oracle", n]["accuracy"] for n in (1, 2, 4)] == pytest.approx([1 / 3, 2 / 3, 1])
    n_steps = len(candidates()[0].steps.steps)
    assert [found["m (mean)", n]["requests_an_item"] for n in (1, 2, 4)] == [0, 2 * n_steps, 4 * n_steps]
    assert found["m (mean)", 4]["tokens_an_item"] == 28
    assert found["m (mean)", 2]["ci95"][0] <= 2 / 3 <= found["m (mean)", 2]["ci95"][1]


def test_the_table_has_a_row_a_model_and_what_it_costs():
    text = " ".join(growth_table(records()).split())
    assert "| chosen by | N = 1 | N = 2 | N = 4 |" in text
    assert "| o (orm) | 0.333" in text
    assert "asked for an item" in text
    assert "28 tokens" in text


def judged(votes):
    run = BestOfN(ITEMS, candidates(), "judge", False, "prefix", "b", "l", {}, votes=votes)
    samples = run.stage({})
    replies = {}
    for i, sample in enumerate(samples):
        value = "no score" if i % 7 == 3 else f"Reasoning: so.\nOverall Score: {1 + i % 5}"
        replies[sample.id] = Prediction(sample.id, value, 3, False)
    return run, samples, replies


def test_votes_are_averaged_over_those_that_can_be_read():
    one = candidates()[0]
    single = judge_samples(ITEMS[0], one, "prefix")
    three = judge_samples(ITEMS[0], one, "prefix", 3)
    assert [s.id for s in three[::3]] == [s.id for s in single]
    assert len({s.id for s in three}) == 3 * len(single)
    run, _, _ = judged(3)
    texts = ["Overall Score: 5", "Overall Score: 2", "none"]
    answered = {}
    for vote, text in enumerate(texts):
        key = sample_id(one, "prm/0" if vote == 0 else f"prm/0~{vote}")
        answered[key] = Prediction(key, text, 3, False)
    (made,) = run.scores(answered)
    assert made.values[0] == 3.5
    assert made.values[1] is None


def test_cost_counts_the_run_s_own_requests_and_tokens():
    run, samples, replies = judged(2)
    run.score(samples, replies)
    found = {(r["chosen_by"], r["N"]): r for r in run.found["growth"]}
    n_steps = len(candidates()[0].steps.steps)
    assert found["judge (mean, prefix)", 4]["requests_an_item"] == 4 * n_steps * 2
    assert found["judge (mean, prefix)", 4]["tokens_an_item"] == 4 * n_steps * 2 * 3
    assert found["judge (orm)", 4]["requests_an_item"] == 8


def test_from_the_command_line(tmp_path, capsys):
    (tmp_path / "items.jsonl").write_text(
        "".join(json.dumps({"id": i.id, "source": "s", "question": "?", "answer": "4"}) + "\n" for i in ITEMS)
    )
    (tmp_path / "candidates.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in candidates()))
    for name, some in (("judge", scores("judge")), ("prm", scores("prm:x", "prm"))):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one.to_json()) + "\n" for one in some))
    words = ["score", "--task", "vilbench", "--data", tmp_path / "items.jsonl", "--candidates", tmp_path / "candidates.jsonl"]
    words += [
        "--predictions",
        tmp_path / "judge.jsonl",
        "--other_scores",
        tmp_path / "prm.jsonl",
        "--output_path",
        tmp_path / "o",
    ]
    assert main([str(word) for word in words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "| judge (mean) | 0.333" in shown
    assert "| prm:x (mean) | 0.333" in shown
    assert (tmp_path / "o" / "best_of_n.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((tmp_path / "o" / "report.json").read_text())
    assert {record["chosen_by"] for record in report["best_of_n"]} == {
        "judge (mean)",
        "prm:x (mean)",
        "random",
        "majority",
        "oracle",
    }
