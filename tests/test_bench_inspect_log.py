"""`--log_format inspect`: refused in one line without the package; with it, a log that the library reads back whole."""

import json

import pytest

from vlrl.bench import inspect_log, main
from vlrl.tasks import TASKS


def words(tmp_path, *extra):
    samples = [TASKS["detection"].synthetic(0, "heldout", i) for i in range(4)]
    texts = [TASKS["detection"].oracle(samples[0]), TASKS["detection"].oracle(samples[2]), "no <b>idea</b>", "<answer>cut"]
    rows = [
        {"id": one.id, "completion": text, "truncated": i == 3, **({"n_tokens": 9} if i == 0 else {})}
        for i, (one, text) in enumerate(zip(samples, texts, strict=True))
    ]
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["score", "--task", "detection", "--limit", "4", "--coords", "px", "--predictions", str(path)]
    return [*flags, "--output_path", str(tmp_path / "out"), *extra]


@pytest.mark.quick
def test_a_missing_package_is_one_line_before_anything_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(inspect_log, "find_spec", lambda name: None)
    for command in (words(tmp_path), ["run", "--task", "detection", "--output_path", str(tmp_path / "out")]):
        assert main([*command, "--log_format", "inspect"]) == 2
        told = capsys.readouterr().err
        assert told == "error: --log_format inspect needs inspect_ai, which is not installed: pip install 'vlrl[inspect]'\n"
    assert not (tmp_path / "out").exists()


def test_the_library_reads_the_log_back_whole(tmp_path, capsys):
    pytest.importorskip("inspect_ai", reason="inspect_ai is not installed; pip install 'vlrl[inspect]'")
    from inspect_ai.log import list_eval_logs, read_eval_log

    assert main(words(tmp_path, "--log_format", "inspect")) == 0
    path = tmp_path / "out" / "inspect" / "detection.eval"
    assert str(path) in capsys.readouterr().out
    assert [one.name.rpartition("/")[2] for one in list_eval_logs(str(path.parent))] == ["detection.eval"]
    log = read_eval_log(str(path))
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert (log.status, log.eval.task) == ("success", "detection")
    (scorer,) = log.results.scores
    for name, metric in scorer.metrics.items():
        assert metric.value == result["results"]["detection"][f"{name},none"]
    assert scorer.metrics["f1@0.5"].metadata["n"] == 4
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    found = {one.id: one for one in log.samples}
    assert list(found) == sorted(row["id"] for row in scores)
    for row in scores:
        one = found[row["id"]]
        top, bottom = row["parts"]["f1@0.5"]
        assert one.scores["f1@0.5"].value == (top / bottom if bottom else 1)
        assert one.scores["f1@0.5"].explanation == row["outcome"]
        assert one.output.completion == row["completion"]
        image, prompt = one.input[0].content
        assert image.image.startswith("data:image/jpeg;base64,") or image.image.startswith("attachment://")
        assert "Find every" in prompt.text
    assert [found[row["id"]].output.stop_reason for row in scores] == ["stop", "stop", "stop", "max_tokens"]
    assert [bool(found[row["id"]].model_usage) for row in scores] == [True, False, False, False]
    assert main(words(tmp_path, "--log_format", "inspect")) == 0, "written again, it replaces the log"
    assert len(list(path.parent.iterdir())) == 1
