"""Our tasks inside lmms-eval, its own tasks scored by us: the same answers have the same numbers.

The library itself is used where it is installed; the functions of an exported folder are tried without it too.
"""

import importlib.util
import json
import math
import random

import pytest
import yaml

from vlrl.bench import main
from vlrl.bench.suite import json_round_trip
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_json import sample_to_json
from vlrl.schema import Prediction, Sample
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import measure, numbers


def functions_of(folder):
    spec = importlib.util.spec_from_file_location(f"utils_of_{folder.name}", folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def export(tmp_path, task, *extra):
    words = ["export", "--to", "lmms_eval", "--task", task, "--limit", "12", "--output_path", str(tmp_path / "tasks")]
    return main([*words, *extra])


def settings_of(folder):
    """The YAML, with the names of functions in the place of the functions."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: node.value)
    return yaml.load((folder / f"{folder.name}.yaml").read_text(), Loader)


def answer_of(task, sample, i):
    """Right, an answer to another sample, unreadable, a thought before an answer without tags, in turns."""
    other = task.synthetic(9, "heldout", i)
    bare = task.oracle(sample).replace("<answer>", "").replace("</answer>", "")
    return [task.oracle(sample), task.oracle(json_round_trip(other)), "I do not know", bare][i % 4]


@pytest.mark.quick
@pytest.mark.parametrize("name", ["detection", "qa"])
def test_an_exported_task_asks_and_scores_as_ours(name, tmp_path, capsys):
    assert export(tmp_path, name, "--coords", "norm1000") == 0
    out = capsys.readouterr().out
    assert f"--include_path {tmp_path / 'tasks'} --tasks vlrl_{name}" in out
    folder = tmp_path / "tasks" / f"vlrl_{name}"
    settings, functions = settings_of(folder), functions_of(folder)
    docs = [json.loads(line) for line in (folder / "docs.jsonl").read_text().splitlines()]
    assert settings["dataset_kwargs"]["data_files"]["test"] == str(folder / "docs.jsonl")
    assert settings["task"] == f"vlrl_{name}"
    assert settings["reasoning_tags"] == "none", "thoughts are not cut off before our metric reads the answer"
    assert settings["generation_kwargs"]["until"] == [], "an answer goes on after an empty line"
    samples = read_samples(folder / "samples.jsonl", need_images=False)
    task = TASKS[name]
    texts = [answer_of(task, sample, i) for i, sample in enumerate(samples)]
    logged = []
    for doc, sample, text in zip(docs, samples, texts, strict=True):
        assert functions.doc_to_text(doc) == functions.doc_to_text(doc, {}) == task.prompt(sample)
        assert all(image.mode == "RGB" for image in functions.doc_to_visual(doc))
        assert len(functions.doc_to_visual(doc)) == len(sample.images)
        assert isinstance(functions.doc_to_target(doc), str)
        logged.append(functions.process_results(doc, [text]))
    found = {}
    for one in settings["metric_list"]:
        aggregate = getattr(functions, one["aggregation"].removeprefix("utils."))
        found[one["metric"]] = aggregate([row[one["metric"]] for row in logged])
        assert one["higher_is_better"] is True
    made = [Prediction(sample.id, text, None, False) for sample, text in zip(samples, texts, strict=True)]
    ours = {metric: value for metric, value in numbers(task, measure(task, samples, made)).items() if "[" not in metric}
    assert sorted(found) == sorted(ours)
    assert next(iter(found)) == task.headline
    for metric, value in ours.items():
        assert found[metric] == value.value or (value.value is None and math.isnan(found[metric])), metric
    # And its log, as lmms-eval writes it, is read back.
    rows = [
        {"doc_id": i, "target": doc["target"], "input": doc["prompt"], "filtered_resps": [text], **row}
        for i, (doc, text, row) in enumerate(zip(docs, texts, logged, strict=True))
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in reversed(rows)))
    words = ["score", "--task", name, "--predictions", str(path), "--data", str(folder / "samples.jsonl")]
    assert main([*words, "--output_path", str(tmp_path / "out")]) == 0
    assert "joined to 12 samples by vlrl_id" in capsys.readouterr().err
    results = json.loads((tmp_path / "out" / "result.json").read_text())["results"][name]
    for metric, value in ours.items():
        assert results[f"{metric},none"] == pytest.approx(value.value, abs=1e-12), metric


@pytest.mark.quick
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("detection", "--coords: say how the model writes boxes"),
        ("blackjack", "a game is played in turns"),
        ("autotrust", "a benchmark of several stages"),
        ("detectoin", "unknown task 'detectoin'"),
    ],
)
def test_what_cannot_be_exported_is_refused(task, message, tmp_path, capsys):
    assert export(tmp_path, task) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "tasks").exists()


def boxes(n, seed=0):
    """True and predicted boxes as lmms-eval has them, shares of the image: near each other, apart, turned, not there."""
    draw = random.Random(seed)
    found = []
    for i in range(n):
        x, y = draw.uniform(0, 0.5), draw.uniform(0, 0.5)
        true = [x, y, x + draw.uniform(0.1, 0.4), y + draw.uniform(0.1, 0.4)]
        pred = [round(min(1, max(0, v + draw.gauss(0, 0.05))), 3) for v in true]
        found.append((true, ["I cannot see it.", "[0, 0, 1, 1]"][i % 2] if i % 10 > 7 else str(pred)))
    return found


def test_refcoco_of_lmms_eval_has_our_numbers(tmp_path):
    """Its own functions, of its own task, on 300 answers."""
    rec = pytest.importorskip("lmms_eval.tasks.refcoco.utils_rec", reason="lmms-eval is not installed")
    pairs = boxes(300)
    logged = [
        rec.refcoco_bbox_rec_process_result({"question_id": str(i), "answer": "it", "bbox": true}, [text])
        for i, (true, text) in enumerate(pairs)
    ]
    samples = [
        Sample(
            str(i), "grounding", "it", {"bbox_2d": [1000 * v for v in true]}, images=("a.png",), meta={"image_size": [1000, 1000]}
        )
        for i, (true, _) in enumerate(pairs)
    ]  # fmt: skip
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(sample_to_json(sample)) + "\n" for sample in samples))
    rows = [
        {"doc_id": i, "target": str(true), "input": "Please find it", "filtered_resps": [text], **row}
        for i, ((true, text), row) in enumerate(zip(pairs, logged, strict=True))
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        "score",
        "--task",
        "grounding",
        "--predictions",
        str(tmp_path / "log.jsonl"),
        "--data",
        str(tmp_path / "data.jsonl"),
    ]
    assert main([*words, "--coords", "norm1", "--output_path", str(tmp_path / "out")]) == 0
    ours = json.loads((tmp_path / "out" / "result.json").read_text())["results"]["grounding"]
    values = {name: [row[f"refcoco_{name}"] for row in logged] for name in ("IoU", "ACC@0.5")}
    assert ours["mean_iou,none"] == pytest.approx(rec.refcoco_bbox_rec_iou(values["IoU"]), abs=1e-9)
    assert ours["acc@0.5,none"] == pytest.approx(rec.refcoco_bbox_rec_acc05(values["ACC@0.5"]), abs=1e-9)


def test_pope_of_lmms_eval_has_our_numbers(tmp_path):
    pope = pytest.importorskip("lmms_eval.tasks.pope.utils", reason="lmms-eval is not installed")
    draw = random.Random(0)
    docs = [{"question_id": str(i), "answer": draw.choice(["yes", "no"])} for i in range(200)]
    texts = [draw.choice(["yes", "No", "YES ", "no", "maybe"]) for _ in docs]
    logged = [pope.pope_process_results(doc, [text]) for doc, text in zip(docs, texts, strict=True)]
    rows = [
        {"doc_id": i, "target": doc["answer"], "input": "Is it?", "filtered_resps": [text], **row}
        for i, (doc, text, row) in enumerate(zip(docs, texts, logged, strict=True))
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", "--task", "qa", "--predictions", str(tmp_path / "log.jsonl"), "--output_path", str(tmp_path / "out")]
    assert main(words) == 0
    ours = json.loads((tmp_path / "out" / "result.json").read_text())["results"]["qa"]
    assert ours["accuracy,none"] == pope.pope_aggregate_accuracy([row["pope_accuracy"] for row in logged])


def test_lmms_eval_runs_an_exported_task_and_has_our_numbers(tmp_path):
    """The whole program: it loads the folder, asks a model (here one that reads answers from a list), scores and logs."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is not installed")
    from lmms_eval.api.model import lmms
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    assert export(tmp_path, "detection", "--coords", "norm1000") == 0
    folder = tmp_path / "tasks" / "vlrl_detection"
    samples = read_samples(folder / "samples.jsonl", need_images=False)
    task = TASKS["detection"]
    texts = [answer_of(task, sample, i) for i, sample in enumerate(samples)]
    prompts = []

    class Reader(lmms):
        def generate_until(self, requests):
            found = []
            for one in requests:
                prompt, _, to_visual, doc_id, name, split = one.args
                prompts.append(prompt)
                assert len(to_visual(self.task_dict[name][split][doc_id])) == 1
                found.append(texts[doc_id])
            return found

        def loglikelihood(self, requests):
            raise NotImplementedError

        def generate_until_multi_round(self, requests):
            raise NotImplementedError

    from types import SimpleNamespace

    result = simple_evaluate(
        model=Reader(),
        tasks=["vlrl_detection"],
        task_manager=TaskManager(include_path=str(tmp_path / "tasks")),
        bootstrap_iters=0,
        cli_args=SimpleNamespace(process_with_media=False, reasoning_tags='[["<think>", "</think>"]]'),
    )
    assert sorted(prompts) == sorted(task.prompt(sample) for sample in samples)
    made = [Prediction(sample.id, text, None, False) for sample, text in zip(samples, texts, strict=True)]
    ours = {name: one.value for name, one in numbers(task, measure(task, samples, made)).items() if "[" not in name}
    theirs = result["results"]["vlrl_detection"]
    for name, value in ours.items():
        assert theirs[f"{name},none"] == pytest.approx(value, abs=1e-12, nan_ok=True), name
