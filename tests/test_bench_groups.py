"""Numbers by group: hand-computed groups and means, in every benchmark; CV-Bench's own mean; counting."""

import argparse
import json

import pytest

from vlrl.bench import main
from vlrl.bench.groups import Grouping, read_groupings, rows_by_group, with_groups
from vlrl.bench.suite import score_tasks, task_suite
from vlrl.schema import Prediction, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import measure, numbers
from vlrl.tasks.protocols import with_protocol

pytestmark = pytest.mark.quick


def question(key, answer, **meta):
    choices = ("x", "y") if answer in ("A", "B") else None
    return Sample(key, "qa", "which", answer, choices=choices, meta=meta)


def said(sample, text):
    return Prediction(sample.id, f"<think>t</think><answer>{text}</answer>", 5, False)


def as_file(path, samples):
    rows = [{"id": s.id, "task": s.task, "question": s.question, "answer": s.answer, "meta": dict(s.meta)} for s in samples]
    rows = [row | ({"choices": list(s.choices)} if s.choices else {}) for row, s in zip(rows, samples, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def logged(path, predictions):
    path.write_text("".join(json.dumps({"id": p.id, "completion": p.completion, "n_tokens": 5}) + "\n" for p in predictions))
    return path


# answers: ADE 1 of 2, COCO 2 of 2, Omni 1 of 4
CV = [
    ("ADE20K", "2D", "Count", [1, 0]),
    ("COCO", "2D", "Relation", [1, 1]),
    ("Omni3D", "3D", "Depth", [1, 0]),
    ("Omni3D", "3D", "Distance", [0, 0]),
]


def cv_bench():
    samples, made = [], []
    for source, kind, task, rights in CV:
        for i, right in enumerate(rights):
            samples.append(question(f"{source}-{task}-{i}", "A", source=source, type=kind, task=task))
            made.append(said(samples[-1], "A" if right else "B"))
    return samples, made


def test_cv_bench_is_the_mean_of_2d_and_3d_as_published():
    samples, made = cv_bench()
    task = with_protocol({"qa": TASKS["qa"]}, "cvbench")["qa"]
    assert task.check(samples[0]) is None
    assert "needs meta.source, one of ADE20K, COCO, Omni3D" in task.check(question("q", "A"))
    found = {name: metric.value for name, metric in numbers(task, measure(task, samples, made)).items()}
    assert found["accuracy_2d"] == (1 / 2 + 1) / 2
    assert found["accuracy_3d"] == 1 / 4
    assert found["cvbench"] == pytest.approx((0.75 + 0.25) / 2)
    assert found["accuracy"] == 4 / 8
    by_task = [found[f"accuracy_{name}"] for name in ("count", "relation", "depth", "distance")]
    assert by_task == [0.5, 1, 0.5, 0]
    part = numbers(task, measure(task, samples[:4], made[:4]))
    assert (part["accuracy_2d"].value, part["accuracy_3d"].value, part["cvbench"].value) == (0.75, None, None)


def test_groups_and_their_mean_from_the_command_line(tmp_path, capsys):
    samples, made = cv_bench()
    data, log = as_file(tmp_path / "cv.jsonl", samples), logged(tmp_path / "predictions.jsonl", made)
    words = ["score", "--task", "qa", "--data", str(data), "--predictions", str(log), "--output_path", str(tmp_path / "out")]
    assert main([*words, "--group_by", "meta.source,type+task", "--protocol", "cvbench"]) == 0
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "out" / "result.json").read_text())["results"]["qa"]
    assert (result["accuracy[source=ADE20K],none"], result["accuracy[source=COCO],none"]) == (0.5, 1.0)
    assert result["accuracy/mean_over_source,none"] == pytest.approx((0.5 + 1 + 0.25) / 3)
    assert result["accuracy/mean_over_type+task,none"] == pytest.approx((0.5 + 1 + 0.5 + 0) / 4)
    assert result["groups"]["source"] == {"source=ADE20K": 2, "source=COCO": 2, "source=Omni3D": 4}
    assert result["cvbench,none"] == 0.5
    assert "protocol cvbench: CV-Bench's mean of 2D and 3D" in shown
    assert "| qa by type+task | n | accuracy |" in " ".join(shown.split()), "no group has the mean of both"
    assert "mean of 3 groups" in shown
    rows = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert rows[0]["parts"]["accuracy"] == [1.0, 1.0]
    # what nobody states is said before anything is scored
    assert main([*words, "--group_by", "meta.sorce"]) == 2
    assert "no sample states meta.sorce; did you mean 'source'? (there are source, type, task)" in capsys.readouterr().err


def test_groups_of_the_headline_are_compared_by_diff(tmp_path, capsys):
    samples, made = cv_bench()
    data = as_file(tmp_path / "cv.jsonl", samples)
    for name, answers in (("a", made), ("b", [said(sample, "A") for sample in samples])):
        log = logged(tmp_path / f"{name}.jsonl", answers)
        words = ["score", "--task", "qa", "--data", str(data), "--predictions", str(log)]
        assert main([*words, "--output_path", str(tmp_path / name), "--group_by", "meta.source"]) == 0
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "accuracy[source=Omni3D]" in line and "Diff" not in line]
    assert any("+0.7500" in line or "0.7500" in line for line in lines)


def test_a_list_is_several_groups_and_a_missing_key_is_counted(capsys):
    samples = [
        question(f"q{i}", "A", skills=skills) for i, skills in enumerate([["algebra", "logic"], ["logic"], [], ["logic"]])
    ]
    metas = [sample.meta for sample in samples]
    groups, n_outside = rows_by_group(metas, Grouping(("skills",)))
    assert groups == {"skills=algebra": [0], "skills=logic": [0, 1, 3]}
    assert n_outside == 1
    suite = with_groups(_suite(samples), "meta.skills")
    made = {s.id: said(s, "A" if i < 2 else "B") for i, s in enumerate(samples)}
    one = suite.score(samples, made)[0]
    assert one.metrics["accuracy[skills=logic]"].value == pytest.approx(2 / 3)
    assert one.metrics["accuracy/mean_over_skills"].value == pytest.approx((1 + 2 / 3) / 2)
    assert "1 of 4 answers of qa state no meta.skills" in capsys.readouterr().err


def _suite(samples):
    args = argparse.Namespace(task="qa", data=None, limit=1, seed=0, image_root=None)
    suite = task_suite(args, 10)
    score = lambda samples, predictions: score_tasks(suite.tasks, samples, predictions, "")  # noqa: E731
    return type(suite)(suite.name, suite.tasks, suite.source, (lambda _: samples,), suite.limit, score, False)


def test_ap_is_averaged_over_sets_as_odinw_does():
    """Two sets that share a label name: AP is made in each, then averaged."""
    box = {"bbox_2d": [0, 0, 10, 10], "label": "cat"}
    samples, made = [], {}
    for name, rights in (("Aquarium", [True, True]), ("pistols", [True, False])):
        for i, right in enumerate(rights):
            sample = Sample(f"{name}{i}", "detection", "cat", [box], (f"{name}{i}.jpg",), meta={"dataset": name})
            samples.append(sample)
            corners = box["bbox_2d"] if right else [50, 50, 60, 60]
            made[sample.id] = said(sample, json.dumps([{"bbox_2d": corners, "label": "cat"}]))
    suite = with_groups(_detection(samples), "dataset")
    found = suite.score(samples, made)[0].metrics
    assert found["ap[dataset=Aquarium]"].value == 1.0
    # equal scores: the hit first, so precision 1 up to recall 1/2, 51 of 101 recalls
    assert found["ap[dataset=pistols]"].value == pytest.approx(51 / 101)
    mean = found["ap/mean_over_dataset"]
    assert mean.value == pytest.approx((1 + 51 / 101) / 2)
    assert mean.ci95[0] < mean.value < mean.ci95[1]
    assert found["f1@0.5/mean_over_dataset"].value == pytest.approx((1 + 0.5) / 2)


def _detection(samples):
    args = argparse.Namespace(task="detection", data=None, limit=1, seed=0, image_root=None)
    suite = task_suite(args, 10)
    score = lambda samples, predictions: score_tasks(suite.tasks, samples, predictions, "")  # noqa: E731
    return type(suite)(suite.name, suite.tasks, suite.source, (lambda _: samples,), suite.limit, score, True)


def test_groupings_are_read_or_refused():
    assert read_groupings(None) == ()
    assert read_groupings("meta.a,b+meta.c") == (Grouping(("a",)), Grouping(("b", "c")))
    for wrong in ("", "a,", "a+", "a,meta.a"):
        with pytest.raises(ValueError, match="--group_by"):
            read_groupings(wrong)
    hostile = rows_by_group([{"a": "x\n| y\x1b[31m"}, {"a": "z" * 500}], Grouping(("a",)))[0]
    assert all(label.isprintable() and len(label) < 110 for label in hostile)
    nested = rows_by_group([{"a": {"b": 1}}, {"a.b": "x"}, {"a": {"b": {"c": 1}}}, {"a": None}], Grouping(("a.b",)))
    assert nested == ({"a.b=1": [0], "a.b=x": [1]}, 2)


def test_vilbench_is_grouped_by_what_its_items_state(tmp_path):
    items = [{"id": f"i{i}", "source": "s", "question": "?", "answer": "4", "meta": {"level": i % 2}} for i in range(4)]
    candidates = [
        {"id": f"i{i}", "generator": "g", "index": k, "response": f"Step 1: so\nThe answer is {4 if k == i % 2 else 5}."}
        for i in range(4)
        for k in range(2)
    ]
    scores = [
        {"id": f"i{i}", "generator": "g", "index": k, "rm": "m", "mode": "orm", "score": 1 - k}
        for i in range(4)
        for k in range(2)
    ]
    for name, rows in (("items", items), ("candidates", candidates), ("scores", scores)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", "--task", "vilbench", "--data", tmp_path / "items.jsonl", "--candidates", tmp_path / "candidates.jsonl"]
    words += ["--predictions", tmp_path / "scores.jsonl", "--output_path", tmp_path / "out", "--group_by", "meta.level"]
    assert main([str(word) for word in words]) == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())["results"]["vilbench"]
    grouped = {key: value for key, value in result.items() if "[level=" in key and key.endswith("],none")}
    assert set(grouped.values()) == {0.0, 1.0}
    assert main([str(word) for word in [*words, "--protocol", "coco"]]) == 2


# ---- counting


def test_a_count_has_its_distance_beside_accuracy():
    texts = [("3", 3), ("5", 3), ("There are 7.", 4), ("many", 2), ("12 apples", 12)]
    samples = [Sample(f"c{i}", "qa", "how many", true, meta={"kind": "count"}) for i, (_, true) in enumerate(texts)]
    made = [said(sample, text) for sample, (text, _) in zip(samples, texts, strict=True)]
    rows = measure(TASKS["qa"], samples, made)
    found = numbers(TASKS["qa"], rows)
    assert found["accuracy"].value == pytest.approx(sum(row.parts["accuracy"][0] for row in rows) / 5)
    assert (found["mae"].value, found["mae"].n) == (pytest.approx((0 + 2 + 3 + 0) / 4), 4)
    plain = numbers(
        TASKS["qa"], measure(TASKS["qa"], [Sample("q", "qa", "how many", 3)], [said(Sample("q", "qa", "?", 3), "3")])
    )
    assert "mae" not in plain
    huge = measure(TASKS["qa"], samples[:1], [said(samples[0], "9" * 390)])
    assert numbers(TASKS["qa"], huge)["mae"].value is None


def test_too_many_groups_are_refused_before_anything_is_asked():
    samples = [question(f"q{i}", "A", number=i) for i in range(1001)]
    with pytest.raises(ValueError, match="1001 groups, 1000 at most"):
        with_groups(_suite(samples), "meta.number")
