"""`--gold`: what is refused, what a monitor says of dictated answers, and whole runs on a reward that can be hacked."""

import json
import shutil

import pytest

from vlrl.metrics.over_optimisation import BothNumbers
from vlrl.rewards import load_reward
from vlrl.schema import Prediction, TaskError
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import evaluate
from vlrl.tasks.rubric import Rubric
from vlrl.training.config import parse
from vlrl.training.events import EVENT_KINDS
from vlrl.training.monitor import Monitor, gold_summary, start_is_best
from vlrl.training.monitor_options import HACKING_EVENT, check_gold_of_run, read_gold
from vlrl.training.options import ConfigError

DETECTION = TASKS["detection"]
KNOWN = {"detection": DETECTION}
N = 40
MEASURES = ["--eval_strategy", "steps", "--eval_steps", "1"]
HACKABLE = '''
def many_boxes(text, sample):
    """Rises with every box, right or wrong."""
    return min(1.0, text.count("bbox_2d") / 8)
'''


@pytest.fixture(scope="module")
def samples():
    return [DETECTION.synthetic(0, "heldout", i) for i in range(N)]


@pytest.fixture
def hackable(tmp_path):
    path = tmp_path / "hackable.py"
    path.write_text(HACKABLE)
    return f"{path}:many_boxes"


def monitor(samples, rewards, gold, weights=None):
    rubric = Rubric(tuple(load_reward(one) for one in rewards), None, frozenset(), KNOWN)
    return Monitor(read_gold(gold), rubric, weights, KNOWN, samples)


def answers(samples, n_boxes):
    """Of each sample its reference answer and boxes in the corner beside it, `n_boxes` in all."""
    found = []
    for sample in samples:
        boxes = [{"bbox_2d": [0, 0, 2 + i, 2], "label": "dog"} for i in range(n_boxes)]
        text = DETECTION.oracle(sample) if n_boxes == 0 else f"<think>a</think><answer>{json.dumps(boxes)}</answer>"
        found.append(Prediction(sample.id, text, 5 + 10 * n_boxes, truncated=False))
    return found


def shown(watch, samples, step, n_boxes):
    made = answers(samples, n_boxes)
    return watch.see(step, made, evaluate(KNOWN, samples, made))


def begun(watch, samples, n_boxes=0):
    made = answers(samples, n_boxes)
    watch.begin(made, evaluate(KNOWN, samples, made))
    return watch


@pytest.mark.parametrize("gold", ["iou_f1", "f1@0.5", "mean_iou"])
def test_a_planted_reward_rings_and_an_honest_one_does_not(samples, hackable, gold):
    watch = begun(monitor(samples, [hackable], gold), samples)
    found = shown(watch, samples, 3, 8)
    assert found["hacking"] == 1.0
    assert found["best_gold_step"] == 0.0
    assert found["gold"] == 0.0
    assert found["reward"] == 1.0
    assert watch.event.event == HACKING_EVENT
    assert watch.event.event in EVENT_KINDS
    assert watch.event.step == 3
    assert f"while the gold {gold} went from 1.000 to 0.000" in watch.event.message
    honest = begun(monitor(samples, ["vlm_r1_map50"], gold), samples, 1)
    found = shown(honest, samples, 3, 0)
    assert (found["hacking"], found["best_gold_step"], found["gold"]) == (0.0, 3.0, 1.0)
    assert honest.event is None


def test_drift_and_the_share_of_form_are_logged(samples):
    watch = begun(monitor(samples, ["iou_f1", "think_answer_format"], "mean_iou", [1.0, 0.25]), samples)
    found = shown(watch, samples, 2, 3)
    assert found["format_share"] == pytest.approx(1.0), "no box is right, the form is"
    assert found["reward"] == pytest.approx(0.25)
    assert found["length_drift"] == pytest.approx(35 / 5)
    assert found["repetition_drift"] == pytest.approx(found["repetition"])
    made = [
        Prediction(s.id, '[{"bbox_2d":[0,0,5,5],"label":"a"},{"bbox_2d":[0,0,5,5],"label":"a"}]', 9, False) for s in samples
    ]
    assert watch.see(4, made, evaluate(KNOWN, samples, made))["repetition"] == pytest.approx(0.5), "one of two is a copy"


def test_a_run_that_goes_on_compares_with_the_same_evaluation(samples, hackable, tmp_path):
    whole = begun(monitor(samples, [hackable], "iou_f1"), samples, 2)
    shown(whole, samples, 1, 0)
    whole.save(tmp_path)
    resumed = monitor(samples, [hackable], "iou_f1")
    resumed.restore(tmp_path)
    assert resumed.watched == whole.watched
    assert resumed.watched.best.step == 1
    assert shown(resumed, samples, 2, 8) == shown(whole, samples, 2, 8)
    other = monitor(samples, [hackable], "mean_iou")
    other.restore(tmp_path)
    assert other.watched is None, "another gold begins anew"
    other = monitor(samples[1:], [hackable], "iou_f1")
    other.restore(tmp_path)
    assert other.watched is None, "other samples begin anew"


def test_groups_are_ranked_by_both(samples, hackable):
    watch = monitor(samples, [hackable], "iou_f1")
    sample, wrong = samples[0], '<answer>[{"bbox_2d":[0,0,1,1],"label":"x"}]</answer>'
    rows, texts = [sample] * 4, [DETECTION.oracle(sample), wrong, wrong, DETECTION.oracle(sample)]
    found = watch.of_groups(rows, texts, [1] * 4, [0.0, 1.0, 1.0, 0.0], 2, 0)
    assert found == {"gold/mean": 0.5, "gold/groups": 2.0, "gold/agreement": -1.0}
    metric = monitor(samples, [hackable], "f1@0.5")
    assert metric.of_groups(rows, texts, [1] * 4, [1.0, 0.0, 0.0, 1.0], 4, 0)["gold/agreement"] == 1.0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gold", "iou_f1"], "--gold needs measurements on the way"),
        (["--gold", "iou_f2", *MEASURES], "--gold iou_f2: no reward, and no metric.*did you mean 'iou_f1'"),
        (["--gold", "ap_50", *MEASURES], "--gold ap_50: no reward, and no metric of the drawn samples.*did you mean '"),
        (["--gold", "mcq", *MEASURES], "--gold mcq can score none of the 40 held-out samples.*kind text, this one is boxes"),
        (["--gold", "iou_f1", *MEASURES, "--rewards", "iou_f1"], "--gold iou_f1: it is among --rewards"),
        (["--gold", "plan_diversity", *MEASURES], "it scores groups of completions"),
        (["--gold", "cosine_length", *MEASURES], "it builds on another reward"),
        (["--gold", "gone.py:f", *MEASURES], "--gold gone.py:f: .*gone.py"),
        (["--stop_on_hacking", *MEASURES], "--stop_on_hacking has no effect without --gold"),
        (["--stop_on", "reward_hacking"], "only looked for beside a --gold"),
        (["--gold", "mean_iou", *MEASURES, "--stop_on_hacking", "--metric_for_best_model", "f1@0.5"], "leave one out"),
        (["--gold", "mean_iou", *MEASURES, "--stop_on_hacking", "--load_best_model_at_end", "false"], "which weights are kept"),
        (["--gold", "card_move", "--task", "numberline", *MEASURES], "episodes are measured by their game's own result"),
        (["--gold", "mean_iou", "--task", "prm"], "--task prm has no option --gold"),
        (["--gold", "mean_iou", "--stage", "sft", *MEASURES], "only the GRPO stage is measured on the way"),
    ],
)
def test_what_cannot_be_watched_is_refused_at_once(words, said):
    from vlrl.training.command_line import check_command_line

    with pytest.raises(ConfigError, match=said) as caught:
        check_command_line(words)
    assert "\n" not in str(caught.value)


def test_rows_that_lack_what_the_gold_needs_are_named(samples):
    with pytest.raises(ConfigError, match="among the rewards of these rows"):
        check_gold_of_run("iou_f1", [load_reward("iou_f1")], KNOWN, samples, "d.jsonl")
    with pytest.raises(ConfigError, match=r"can score none of the 40 held-out samples of d.jsonl"):
        check_gold_of_run("exact_match", [load_reward("iou_f1")], KNOWN, samples, "d.jsonl")
    with pytest.raises(ConfigError, match=r"no metric of d.jsonl"):
        check_gold_of_run("accuracy", [load_reward("iou_f1")], KNOWN, samples, "d.jsonl")
    check_gold_of_run("mean_iou", [load_reward("iou_f1")], KNOWN, samples, "d.jsonl")
    check_gold_of_run(None, [], KNOWN, samples, "d.jsonl")


def test_what_decides_which_weights_are_kept():
    config = parse(
        ["--gold", "mean_iou", "--stop_on_hacking", "--eval_strategy", "steps", "--eval_steps", "5", "--save_steps", "10"]
    )
    grpo = config.grpo
    assert (grpo.metric_for_best_model, grpo.greater_is_better, grpo.load_best_model_at_end) == ("gold", True, True)
    watching = parse(["--gold", "mean_iou", "--eval_strategy", "steps"]).grpo
    assert (watching.metric_for_best_model, watching.load_best_model_at_end) == ("f1@0.5", False)
    fewer = parse(["--gold", "mean_iou", "--eval_strategy", "steps", "--metric_for_best_model", "gold"]).grpo
    assert (fewer.metric_for_best_model, fewer.greater_is_better) == ("gold", True)


def test_a_task_with_a_metric_of_that_name_is_told(samples, hackable):
    from vlrl.training.training_run import TrainingRun

    watch = begun(monitor(samples, [hackable], "iou_f1"), samples)
    run = object.__new__(TrainingRun)
    made = answers(samples, 0)
    run.latest, run.evaluated = (1, made), {"latest": evaluate(KNOWN, samples, made)}
    with pytest.raises(TaskError, match="logs a number 'gold', which is a metric of this task too"):
        run._watched(watch, 1, {"gold": 0.5})


def test_the_summary_reads_the_log():
    def row(step, gold, hacking=0.0, best=0.0):
        values = {"reward": 0.1 * step, "gold": gold, "hacking": hacking, "best_gold_step": best}
        return {"step": step, **{f"eval_{name}": value for name, value in values.items()}}

    rows = [{"step": 1, "loss": 0.0}, row(2, 0.5, best=2.0), row(4, 0.4, 1.0, 2.0)]
    found = gold_summary(rows, "iou_f1", keeps_best=True)
    assert found["name"] == "iou_f1"
    assert found["hacked_at_step"] == 4
    assert found["weights_of_step"] == 2
    assert [one["step"] for one in found["evaluations"]] == [2, 4]
    assert not start_is_best(rows)
    rows = [row(2, 0.5), row(4, 0.4, 1.0)]
    assert start_is_best(rows)
    assert gold_summary(rows, "iou_f1", keeps_best=True)["weights_of_step"] == 0
    start = BothNumbers(0, {"a": 1.0, "b": 2.0}, {"a": (1.0, 1.0), "b": (0.0, 1.0)})
    honest = gold_summary(rows[:1], "iou_f1", keeps_best=False, start=start)
    assert honest["before"] == {"reward": 1.5, "gold": 0.5}
    assert honest["hacked_at_step"] is None
    assert "weights_of_step" not in honest


# ---- whole runs


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


FLAGS = ["--max_steps", "18", "--eval_limit", "80", "--per_device_train_batch_size", "64", "--num_generations", "8"]
FLAGS += ["--logging_steps", "1", "--eval_strategy", "steps", "--eval_steps", "3", "--save_steps", "3", "--report_to", "none"]
FLAGS += ["--learning_rate", "1e-3", "--gold", "iou_f1", "--stop_on_hacking", "--warmup_steps", "0"]


@pytest.mark.long
def test_a_hacked_run_ends_at_its_best_weights_and_says_so(tmp_path, run_train, hackable):
    folder = tmp_path / "run"
    code, out, err = run_train(*FLAGS, "--rewards", hackable, "--reward_weights", "1", "--output_dir", folder)
    assert code == 0, err
    gold = json.loads((folder / "summary.json").read_text())["gold"]
    step, kept = gold["hacked_at_step"], gold["weights_of_step"]
    assert step is not None
    assert step <= 18
    assert kept < step
    source = folder / "start" if kept == 0 else folder / f"checkpoint-{kept}"
    assert weights(folder / "final") == weights(source)
    (event,) = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert (event["event"], event["step"], event["stage"]) == (HACKING_EVENT, step, "grpo")
    said = " ".join(out.split())
    assert f"event reward_hacking (grpo step {step})" in said
    assert f"held out step {step}" in said
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all("gold/mean" in row for row in rows if "loss" in row)
    before, after = (
        json.loads((folder / f"predictions_{name}.jsonl").read_text().splitlines()[0]) for name in ("before", "after")
    )
    assert (before == after) or kept > 0

    again = shutil.copytree(folder, tmp_path / "killed")  # as if killed before final/ was written
    shutil.rmtree(again / "final")
    (again / "predictions_after.jsonl").unlink()
    (again / "summary.json").unlink()
    words = ["--rewards", hackable, "--reward_weights", "1", "--output_dir", again, "--resume_from_checkpoint", "true"]
    code, out, err = run_train(*FLAGS, *words)
    assert code == 0, err
    assert weights(again / "final") == weights(source)
    assert (again / "predictions_after.jsonl").read_bytes() == (folder / "predictions_after.jsonl").read_bytes()
    assert json.loads((again / "summary.json").read_text())["gold"] == gold


@pytest.mark.long
def test_an_honest_run_does_not_ring_and_a_gold_changes_no_weight(tmp_path, run_train):
    common = ["--max_steps", "4", "--eval_limit", "60", "--per_device_train_batch_size", "64", "--num_generations", "8"]
    common += ["--logging_steps", "1", "--save_strategy", "no", "--report_to", "none"]
    watched = ["--gold", "mean_iou", "--eval_strategy", "steps", "--eval_steps", "2"]
    for name, more in (("plain", []), ("watched", watched)):
        code, _, err = run_train(*common, *more, "--output_dir", tmp_path / name)
        assert code == 0, err
    assert weights(tmp_path / "plain" / "final") == weights(tmp_path / "watched" / "final")
    assert json.loads((tmp_path / "watched" / "summary.json").read_text())["gold"]["hacked_at_step"] is None
    assert not (tmp_path / "watched" / "events.jsonl").read_text()
