"""Held-out samples measured while a run trains: what is logged, which checkpoint is the best, when training ends early."""

import json
import shutil
from types import SimpleNamespace

import pytest
import transformers

from vlrl.tasks import TASKS
from vlrl.training import training_run
from vlrl.training.checkpoints import RunStopped
from vlrl.training.config import parse
from vlrl.training.evaluation import best_metric, check_best_metric, evaluation_line
from vlrl.training.evaluation_flags import evaluation_defaults, is_better_high
from vlrl.training.guarded_trainer import GuardedTrainer
from vlrl.training.options import ConfigError

DETECTION = TASKS["detection"]
VALUES = [0.2, 0.9, 0.5, 0.4]
"""Of the headline after each step, as dictated to the run below."""


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.long
def test_the_best_weights_are_kept_and_training_ends_early(tmp_path, run_train, small, monkeypatch):
    folder = tmp_path / "run"
    values = iter(VALUES)
    monkeypatch.setattr(training_run, "step_metrics", lambda _found: {"f1@0.5": next(values), "mean_iou": 0.5})
    flags = [*small, "--max_steps", "6", "--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "10"]
    flags += ["--load_best_model_at_end", "--early_stopping_patience", "2", "--save_total_limit", "1", "--output_dir", folder]
    code, out, err = run_train(*flags)
    assert code == 0, err
    rows = logged(folder)
    assert [row["step"] for row in rows] == [1, 2, 3, 4], "each step once"
    assert [row["eval_f1@0.5"] for row in rows] == VALUES
    said = " ".join(out.split())
    assert "early stopping after step 4 of 6: f1@0.5 was best in step 2 (0.900)" in said
    assert "the weights of step 2 are kept" in said
    assert "held out step 3: f1@0.5 0.500, mean_iou 0.500 (4 samples" in said
    best = weights(folder / "final")
    assert best == weights(folder / "checkpoint-2")
    assert json.loads((folder / "checkpoint-2" / "trainer_state.json").read_text())["best_model_checkpoint"] == str(
        folder / "checkpoint-2"
    )
    code, out, _ = run_train(*flags, "--resume_from_checkpoint", "true")
    assert code == 0
    assert "nothing is trained" in " ".join(out.split())
    assert weights(folder / "final") == best
    shutil.rmtree(folder / "final")
    (folder / "predictions_after.jsonl").unlink()
    code, out, _ = run_train(*flags, "--resume_from_checkpoint", "true")
    assert code == 0
    assert weights(folder / "final") == best, "the best checkpoint's, not those of the last step"
    assert [row["step"] for row in logged(folder)] == [1, 2, 3, 4]


@pytest.mark.long
def test_measuring_on_the_way_changes_nothing_else(tmp_path, run_train, small, monkeypatch):
    resolved = []

    def spied(words):
        config = parse(words)
        resolved.append((config, config.grpo.to_dict()))
        return config

    monkeypatch.setattr("vlrl.train.parse", spied)
    for name, more in (("plain", []), ("measured", ["--eval_strategy", "steps", "--eval_steps", "1", "--eval_on_start"])):
        code, _, err = run_train(*small, "--save_strategy", "no", "--output_dir", tmp_path / name, *more)
        assert code == 0, err
    assert all(config.grpo.to_dict() == at_first for config, at_first in resolved), "a resolved run stays as it is"
    plain, measured = (logged(tmp_path / name) for name in ("plain", "measured"))
    assert [row["step"] for row in measured] == [0, 1, 2]
    assert weights(tmp_path / "plain" / "final") == weights(tmp_path / "measured" / "final")
    for one, other in zip(plain, measured[1:], strict=True):
        kept = {key: value for key, value in other.items() if not key.startswith("eval_")}
        timed = ("time", "per_second")
        assert [(k, v) for k, v in one.items() if not any(word in k for word in timed)] == [
            (k, v) for k, v in kept.items() if not any(word in k for word in timed)
        ]
    before, after = (json.loads((tmp_path / "measured" / "summary.json").read_text())[name] for name in ("before", "after"))
    assert measured[0]["eval_f1@0.5"] == pytest.approx(before["f1@0.5"]["value"])
    assert measured[2]["eval_f1@0.5"] == pytest.approx(after["f1@0.5"]["value"])


def guarded(monkeypatch, *, is_best, is_asked, at_end):
    monkeypatch.setattr(transformers.Trainer, "_determine_best_metric", lambda *_args: is_best)
    trainer = object.__new__(GuardedTrainer)
    trainer.control = SimpleNamespace(should_save=is_asked)
    trainer.args = SimpleNamespace(load_best_model_at_end=at_end)
    return trainer._determine_best_metric({}, None), trainer.control.should_save


def test_a_checkpoint_that_was_asked_for_is_written_whatever_was_measured(monkeypatch):
    """With `--save_strategy best` what is returned decides alone, so a request to stop must not be lost."""
    assert guarded(monkeypatch, is_best=False, is_asked=True, at_end=False) == (True, True)
    assert guarded(monkeypatch, is_best=False, is_asked=False, at_end=True) == (False, False)
    assert guarded(monkeypatch, is_best=True, is_asked=False, at_end=True) == (True, True), "also between save steps"
    assert guarded(monkeypatch, is_best=True, is_asked=False, at_end=False) == (True, False)


def test_the_metric_is_known_before_anything_is_trained():
    tasks, samples = {"detection": DETECTION}, [DETECTION.synthetic(0, "heldout", i) for i in range(3)]
    check_best_metric("f1@0.5", tasks, samples)
    check_best_metric("eval_mean_iou", tasks, samples)
    check_best_metric(None, tasks, samples)
    with pytest.raises(ConfigError, match=r"--metric_for_best_model f1: no metric of these held-out samples.*f1@0.5"):
        check_best_metric("f1", tasks, samples)
    with pytest.raises(RunStopped, match="mean_iou has no value on these held-out samples"):
        best_metric("mean_iou", {"f1@0.5": 0.5})
    assert best_metric(None, {"f1@0.5": 0.5}) == "f1@0.5"


def test_what_holds_where_nothing_is_set():
    assert evaluation_defaults({}, [DETECTION]) == {}
    assert evaluation_defaults({"eval_strategy": "no"}, [DETECTION]) == {}
    found = evaluation_defaults({"eval_strategy": "steps", "save_steps": 20}, [DETECTION])
    assert found == {
        "num_generations_eval": 1,
        "metric_for_best_model": "f1@0.5",
        "greater_is_better": True,
        "eval_steps": 20,
    }
    two = evaluation_defaults({"eval_strategy": "epoch"}, [DETECTION, TASKS["qa"]])
    assert two["metric_for_best_model"] == "detection/f1@0.5"
    assert not is_better_high("eval_qa/calibration_error")
    assert is_better_high("eval_qa/accuracy")


def test_a_measurement_is_one_line():
    line = evaluation_line(
        40, {"mean_iou": 0.5, "f1@0.5": 0.61234, "f1[dog]": 1.0, "n_tokens": 17.6, "n_unparsed": 0.0}, 400, 21.2, "f1@0.5"
    )
    assert line == "held out  step 40: f1@0.5 0.612, mean_iou 0.500, n_tokens 17.6 (400 samples, 21 s)"
