import json

import pytest
from PIL import Image

from vlrl.schema import Box, Metric, Prediction
from vlrl.tasks import TASKS
from vlrl.tasks.detection import TASK
from vlrl.tasks.evaluate import Evaluation, evaluate, headline, table, write_json
from vlrl.training.curves import Headline, draw_curves
from vlrl.training.metrics_log import drop_after, read_metrics
from vlrl.training.sample_images import chosen_samples, draw_samples, mean_overlap, mean_overlap_words
from vlrl.training.smoothing import smoothed

DETECTION = {"detection": TASK}


def predictions(samples, text=None):
    return [Prediction(s.id, TASK.oracle(s) if text is None else text, 5, False) for s in samples]


@pytest.fixture
def samples(tiny):
    from vlrl.models.inputs import prepare_sample

    return [prepare_sample(TASK.synthetic(0, "heldout", i), tiny) for i in range(6)]


def test_evaluation_and_table(samples):
    before, after = (
        evaluate(DETECTION, samples, predictions(samples, "no idea")),
        evaluate(DETECTION, samples, predictions(samples)),
    )
    assert (before.n, before.n_unparsed) == (6, 6)
    assert after.n_unparsed == 0
    assert after.to_json()["f1@0.5"]["value"] == 1
    shown = table({"before": before, "after": after})
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "1.000 [1.000, 1.000]" in lines["f1@0.5"]
    assert lines["n_unparsed"].split()[1:3] == ["6", "0"]
    with pytest.raises(ValueError, match="same ids"):
        evaluate(DETECTION, samples, predictions(samples)[::-1])


def test_a_missing_value_is_a_dash_not_zero():
    shown = table({"x": Evaluation({"ap": Metric(None, None, 0), "f": Metric(0.5, None, 3)}, 3, 0, 0)})
    assert shown.splitlines()[2].split() == ["ap", "-", "0"]
    assert shown.splitlines()[3].split() == ["f", "0.500", "3"]


def test_metrics_of_a_killed_run_can_be_read_and_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "reward": 0.1}\n{"step": 2, "reward": 0.2}\n{"step": 3, "rew')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    drop_after(path, 1)
    assert path.read_text() == '{"step": 1, "reward": 0.1}\n'
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_pictures(tmp_path, samples):
    path = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "reward": i / 9, "rewards/iou_f1/mean": i / 9, "reward_std": None} for i in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(path, tmp_path / "curves.png")
    assert Image.open(tmp_path / "curves.png").width > 400
    made = predictions(samples, "?"), predictions(samples)
    draw_samples(DETECTION, samples, made, [evaluate(DETECTION, samples, one) for one in made], tmp_path / "samples.png")
    sheet = Image.open(tmp_path / "samples.png").convert("RGB")
    colours = {colour for _, colour in sheet.getcolors(10**7)}
    assert (31, 119, 180) in colours, "boxes after training"
    assert (20, 20, 20) in colours, "true boxes"


def test_curves_are_two_by_two_without_a_panel_that_never_changes(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        {"step": i, "reward": i / 90, "reward_std": i / 100, "completions/mean_length": 7.0, "eval_f1@0.5": i / 90, "loss": 0.0}
        for i in range(30)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ends = Metric(0.2, (0.1, 0.3), 10), Metric(0.6, (0.5, 0.7), 10)
    draw_curves(path, tmp_path / "three.png", Headline("f1@0.5", *ends))
    path.write_text("".join(json.dumps(row | {"completions/mean_length": row["step"]}) + "\n" for row in rows))
    draw_curves(path, tmp_path / "four.png", Headline("f1@0.5", *ends))
    three, four = (Image.open(tmp_path / name).size for name in ("three.png", "four.png"))
    assert three[0] > 2.5 * three[1], "three in a row"
    assert 1 < four[0] / four[1] < 1.5, "two rows of two"
    path.write_text(json.dumps({"step": 1, "reward": 0.5}) + "\n")
    draw_curves(path, tmp_path / "one.png")
    assert (tmp_path / "one.png").is_file()


def test_smoothing_starts_at_the_first_value_and_keeps_a_constant():
    assert smoothed([3.0] * 40) == pytest.approx([3.0] * 40)
    assert smoothed([1.0, 0.0])[1] == pytest.approx(0.9 / 1.9)
    assert smoothed([float("nan"), 2.0])[1] == pytest.approx(2.0)


def test_the_largest_gains_typical_ones_and_losses_are_drawn():
    changes = [0.0, 0.5, -0.2, 0.1, 0.9, None, -0.7, 0.3, 0.2, 0.05, 0.0, -0.1]
    chosen = chosen_samples(changes, 8)
    assert chosen[:4] == [(4, "gain"), (1, "gain"), (7, "gain"), (8, "gain")]
    assert chosen[-2:] == [(2, "loss"), (6, "loss")]
    assert [kind for _, kind in chosen[4:6]] == ["typical", "typical"]
    assert len({i for i, _ in chosen}) == 8
    assert chosen_samples([0.0] * 3, 8) == [(0, "typical"), (1, "typical"), (2, "typical")]
    assert chosen_samples([None, 1.0], 8) == [(1, "gain"), (0, "typical")]
    assert chosen_samples([], 8) == []


def test_boxes_are_matched_and_not_only_counted():
    true = [Box(0, 0, 10, 10, "a"), Box(20, 0, 30, 10, "b")]
    assert mean_overlap(true, [Box(0, 0, 10, 5, "a")]) == pytest.approx(0.25)
    assert mean_overlap(true, [Box(0, 0, 10, 10, "b"), Box(20, 0, 30, 10, "a")]) == 0
    assert mean_overlap([Box(0, 0, 10, 10)], [Box(0, 0, 10, 5, "a"), Box(0, 0, 10, 10, "b")]) == 1
    assert mean_overlap_words([(true, None), (true, true)]) == "IoU unread → 1.00"
    assert mean_overlap_words([([], [Box(0, 0, 1, 1)]), ([], [])]) == "no true box, found 1 → 0"


def test_json_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_several_tasks_are_measured_side_by_side_and_drawn(tiny, tmp_path):
    from vlrl.models.inputs import prepare_sample

    names = ["detection", "grounding", "classification", "planning", "qa"]
    samples = [prepare_sample(TASKS[name].synthetic(0, "heldout", i), tiny) for i in range(4) for name in names]
    right = [Prediction(s.id, TASKS[s.task].oracle(s), 5, False) for s in samples]
    found = evaluate(TASKS, samples, right)
    assert found.n_unparsed == 0
    for name, task in TASKS.items():
        assert found.metrics[f"{name}/{task.headline}"].value == 1
    assert headline(TASKS) == "detection/f1@0.5"
    assert headline({"qa": TASKS["qa"]}) == "accuracy"
    wrong = [Prediction(s.id, "no idea", 5, False) for s in samples]
    scores = evaluate(TASKS, samples, wrong), found
    draw_samples(TASKS, samples, (wrong, right), scores, tmp_path / "samples.png", n=len(samples))
    assert Image.open(tmp_path / "samples.png").height > 5 * 300


def test_a_video_is_drawn_by_its_first_frame(tiny, tmp_path):
    from dataclasses import replace

    from vlrl.models.inputs import open_image, prepare_sample

    sample = TASKS["grounding"].synthetic(0, "heldout", 0)
    (tmp_path / "film").mkdir()
    for number in range(3):
        open_image(sample.images[0]).save(tmp_path / "film" / f"{number}.png")
    film = prepare_sample(replace(sample, images=(), video=str(tmp_path / "film")), tiny)
    made = [Prediction(film.id, TASKS["grounding"].oracle(film), 5, False)]
    scores = evaluate({"grounding": TASKS["grounding"]}, [film], made)
    draw_samples(TASKS, [film], (made, made), (scores, scores), tmp_path / "samples.png")
    colours = {colour for _, colour in Image.open(tmp_path / "samples.png").convert("RGB").getcolors(10**7)}
    assert (31, 119, 180) in colours
