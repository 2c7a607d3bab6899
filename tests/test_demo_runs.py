"""The tab "Runs" without a browser: the list, the state of a run, plots, numbers, a sample that is opened."""

import json
import os
import re
import shutil

import pytest
from test_demo import write_run

from demos import run_answers, run_list, run_plots, runs, runs_tab
from demos.run_control import Control
from demos.run_numbers import measured, numbers, ranges
from demos.run_sample import opened, with_overlaps
from vlrl.data.files import write_json_lines
from vlrl.schema import Box, Prediction
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import before_and_after, evaluate
from vlrl.tasks.rubric import choose
from vlrl.training.held_out_images import write_held_out_images
from vlrl.training.run_lock import RunLock
from vlrl.training.run_speed import speed_of
from vlrl.training.run_status import write_ending
from vlrl.training.smoothing import smoothed


def test_runs_are_read_while_they_are_written(tmp_path):
    folder = write_run(tmp_path / "a")
    shelf = runs.Runs(tmp_path)
    assert shelf.names() == ["a"]
    assert "detection" in run_list.about("a", shelf.folder("a"))
    (folder / "summary.json").unlink()
    assert ">killed<" in run_list.about("a", folder)
    assert "step 3" in run_list.about("a", folder)
    assert "its process is gone without a word" in run_list.about("a", folder)
    write_ending(folder, "stopped by Ctrl-C; nothing is lost", 130)
    assert ">stopped<" in run_list.about("a", folder)
    assert "stopped by Ctrl-C; nothing is lost" in run_list.about("a", folder)


# ---- plots


def log(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_plot_a_number_raw_and_smoothed_and_none_that_never_changes(tmp_path):
    rows = [{"step": i, "reward": i / 10, "rewards/iou_f1/mean": 0.5, "kl": None, "loss": float("nan")} for i in range(1, 31)]
    rows.append({"step": 31, "reward": True, "rewards/iou_f1/mean": "0.7"})
    plots = run_plots.run_plots({"a": log(tmp_path / "a", rows)})
    assert [plot.title for plot in plots] == ["reward (mean of a batch)"], "what is constant or no number has no plot"
    lines = {name: [(x, y) for x, y, line in plots[0].rows if line == name] for name in run_plots.LINE_COLOURS}
    assert [name for name, line in lines.items() if line] == ["smoothed", "smoothed (as logged)"]
    assert lines["smoothed (as logged)"] == [(i, round(i / 10, 6)) for i in range(1, 31)]
    assert [y for _, y in lines["smoothed"]] == pytest.approx(smoothed([i / 10 for i in range(1, 31)]), rel=1e-4)
    assert run_plots.run_plots({"b": tmp_path / "none"}) == []


def test_few_points_are_not_smoothed_and_many_are_thinned_out(tmp_path):
    few = run_plots.run_plots({"a": log(tmp_path / "few", [{"step": i, "reward": i % 2} for i in range(1, 6)])})[0]
    assert [y for _, y, line in few.rows if line == "smoothed"] == [1, 0, 1, 0, 1]
    long = run_plots.run_plots({"a": log(tmp_path / "long", [{"step": i, "reward": i % 7} for i in range(1, 5001)])})[0]
    kept = [x for x, _, line in long.rows if line == "smoothed"]
    assert len(kept) <= run_plots.MAX_POINTS + 1
    assert (kept[0], kept[-1]) == (1, 5000), "the first and the last step are there"


def test_two_runs_lie_over_each_other(tmp_path):
    folders = {name: log(tmp_path / name, [{"step": i, "reward": i * k} for i in (1, 2)]) for k, name in ((1, "a"), (2, "b"))}
    plot = run_plots.run_plots(folders)[0]
    assert {line for _, _, line in plot.rows} == set(run_plots.LINE_COLOURS)
    assert len(set(run_plots.LINE_COLOURS.values())) == 4
    assert [y for _, y, line in plot.rows if line == "compared"] == [2, 4], "the second run's"
    read = runs_tab.how_to_read(["a", "<b>"])
    assert read.index(run_plots.COLOURS[0]) < read.index(">a<") < read.index(run_plots.COLOURS[1]) < read.index("&lt;b&gt;")
    assert run_plots.COLOURS[0] not in runs_tab.how_to_read(["a"])
    assert len(set(run_plots.shown_names([f"{'x' * 60}{k}" for k in (1, 2)]))) == 2, "names that are cut stay apart"


def test_the_supervised_stage_is_plotted_until_grpo_begins(tmp_path):
    log(tmp_path / "a" / "sft", [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}])
    assert [plot.title for plot in run_plots.run_plots({"a": tmp_path / "a"})] == ["loss"]


def test_rewards_of_many_names_leave_room_for_other_numbers(tmp_path):
    rows = [{"step": i, **{f"rewards/r{k}/mean": i * k for k in range(1, 20)}, "entropy": i} for i in (1, 2)]
    plots = run_plots.run_plots({"a": log(tmp_path / "a", rows)})
    assert len(plots) == run_plots.MAX_PLOTS
    assert "entropy of sampled tokens" in [plot.title for plot in plots]


# ---- numbers


def test_numbers_of_two_runs_with_their_intervals(tmp_path):
    folders = {name: write_run(tmp_path / name) for name in ("a", "b")}
    table = numbers(folders)
    for head in ("before · a", "after · a", "before · b", "after · b"):
        assert head in table
    assert table.count("0.400 [0.300, 0.500]</td>") == 4
    assert "dog" not in table, "single classes are left out"
    assert "aria-label='before 0.400 [0.300, 0.500], after" in table
    assert "No numbers yet" in numbers({"c": tmp_path})


def test_the_picture_of_a_metric_stands_where_its_numbers_are():
    cells = [measured({"value": 0.25, "ci95": [0.0, 0.5]}), measured({"value": 1.0, "ci95": None}), None]
    drawn = ranges(cells)
    assert [float(x) for x in re.findall(r"cx='([\d.]+)'", drawn)] == [4 + 192 * 0.25, 196.0]
    assert re.findall(r"class='vl-before' x1='([\d.]+)' x2='([\d.]+)'", drawn) == [("4.0", "100.0")]
    far = ranges([measured({"value": 100.0, "ci95": [50, 150]})])
    assert re.findall(r"cx='([\d.]+)'", far) == ["100.0"], "an axis of its own beyond 0 to 1"
    for wrong in (None, 3, {}, {"value": "x"}, {"value": float("nan")}, {"value": True}):
        assert measured(wrong) is None
    assert measured({"value": 1, "ci95": ["", 2]}).low is None


# ---- state and speed


def test_speed_and_what_is_left():
    rows = [{"step": i, "step_time": 2.0} for i in range(1, 31)]
    found = speed_of(rows, 40, 64)
    assert (found.step_s, found.left_s, found.completions_per_s) == (2.0, 20.0, 32.0)
    assert speed_of([*rows, *({"step": 30 + i, "step_time": 4.0} for i in range(1, 21))], 60).step_s == 4.0, "the latest steps"
    assert speed_of([], 40) == speed_of([{"step": "x", "step_time": None}], 40)
    assert speed_of([], 40).left_s is None
    assert speed_of([{"step": 10}], 20, age_s=50.0).left_s == 50.0, "a run that logs no times"
    assert speed_of(rows, None).left_s is None


def test_a_run_that_goes_on_says_what_it_does(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    lock = RunLock(folder / "run.lock", "--output_dir")
    lock.take()
    try:
        shelf = runs.Runs(tmp_path)
        assert shelf.names() == ["a"], "it is listed while it loads"
        assert "loading the model and the data" in run_list.about("a", folder)
        (folder / "config.yaml").write_text("task: qa\nmax_steps: 4\nsft_steps: 9\n")
        assert "measuring the model on held-out samples, before training" in run_list.about("a", folder)
        log(folder / "sft", [{"step": 3, "loss": 1.0}])
        assert "supervised stage, step 3 of 9" in run_list.about("a", folder)
        log(folder, [{"step": 2, "reward": 1.0, "step_time": 30.0}])
        (folder / "completions").mkdir()
        (folder / "completions" / "step_000002.jsonl").write_text("{}\n" * 60)
        about = run_list.about("a", folder)
        assert "step 2 of 4 (50 %) · about 1:00 left · 30 s a step · 2 completions a second" in about
        assert "aria-valuenow='50'" in about
        assert "1:00 left" in run_list.listed(shelf, "a", {})
        assert "stopping: a checkpoint is written" in run_list.about("a", folder, stopping=True)
        log(folder, [{"step": 4, "reward": 1.0, "step_time": 30.0}])
        assert "training is done; measuring the trained model" in run_list.about("a", folder)
        os.utime(folder / "metrics.jsonl", (1, 1))
        assert "nothing logged for" in run_list.about("a", folder)
    finally:
        lock.release()
    assert ">killed<" in run_list.about("a", folder)


def test_the_list_is_newest_first_and_stays_so_while_runs_are_written(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        write_run(tmp_path / name)
        os.utime(tmp_path / name / "config.yaml", (10_000 - age, 10_000 - age))
    (tmp_path / "old" / "written.txt").write_text("now")
    shelf = runs.Runs(tmp_path)
    assert shelf.names() == ["new", "middle", "old"]
    listed = run_list.listed(shelf, "middle", {"<b>next": ("refused", "error: <i>why")})
    assert re.findall(r"aria-pressed='true'>([^<]*)", listed) == ["middle"]
    assert "&lt;b&gt;next" in listed
    assert "error: &lt;i&gt;why" in listed
    assert "not started" in listed
    assert "No runs yet" in run_list.listed(runs.Runs(tmp_path / "none"), None, {})


def test_an_open_page_is_sent_what_has_changed_alone(tmp_path):
    folder = write_run(tmp_path / "a")
    shelf = runs.Runs(tmp_path)
    view = runs_tab.View(shelf, Control(shelf))
    *_, first, second, step, listed, seen = view.renew(None, None, None, runs_tab.NOTHING)
    assert (first.value, second.value, step.value) == ("a", runs_tab.NONE, "step 1"), "where nothing is chosen, the newest is"
    assert "data-pick='a'" in listed
    *sent, again = view.renew("a", runs_tab.NONE, "step 1", seen)
    assert again == seen
    assert all(isinstance(one, dict) for one in sent), "nothing new, nothing sent"
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"step": 4, "reward": 0.9}) + "\n")
    about, *_, first, second, step, listed, later = view.renew("a", runs_tab.NONE, "step 1", seen)
    assert "step 99" not in about
    assert later.runs != seen.runs
    assert isinstance(first, dict), "what a person has chosen is not set again, which could set it back"
    write_run(tmp_path / "b")
    shelf.renew()
    *_, first, second, step, listed, _ = view.renew("a", "gone", "step 7", later)
    assert [choice for _, choice in first.choices] == ["b", "a"]
    assert "value" not in first.constructor_args, "the choice stays"
    assert (second.value, step.value) == (runs_tab.NONE, "step 1")
    *_, first, _, _, _, _ = view.renew("gone", runs_tab.NONE, None, later)
    assert first.value == "b", "a run that was removed is no error"


# ---- a sample, opened


def test_a_held_out_sample_is_opened_with_boxes_texts_and_reasons(tmp_path):
    samples = [TASKS["detection"].draw(0, "heldout", i) for i in range(2)]
    made = [[Prediction(one.id, text, 3, False) for one in samples] for text in ("no idea <b>", "")]
    made[1] = [Prediction(one.id, TASKS["detection"].oracle(one), 20, False) for one in samples]
    tasks = {"detection": TASKS["detection"]}
    measured_sides = evaluate(tasks, samples, made[0]), evaluate(tasks, samples, made[1])
    folder = write_run(tmp_path / "a")
    write_json_lines(folder / "held_out.jsonl", before_and_after(samples, *measured_sides, made))
    write_held_out_images(choose(None, samples, tasks), samples, (made[0], made[1]), measured_sides, folder, 3)
    shown = opened(folder, run_answers.HELD_OUT, 1)
    assert samples[1].id in shown
    assert "data:image/jpeg;base64," in shown
    label = samples[1].answer[0]["label"]
    assert f"<b>{label}</b>" in shown, "a true box has its label"
    assert f"<b>{label} 1.00</b>" in shown, "a later box its label and IoU"
    assert "before: no boxes could be read" in shown
    assert "no idea &lt;b&gt;" in shown
    assert "iou_f1" in shown.replace("_<wbr>", "_")
    assert "read: " in shown
    assert "there no more" in opened(folder, run_answers.HELD_OUT, 2)
    assert "there no more" in opened(folder, run_answers.HELD_OUT, -1)
    shutil.rmtree(folder / "held_out_images")
    again = opened(folder, run_answers.HELD_OUT, 1)
    assert "data:image/png;base64," in again, "a drawn sample is drawn again"
    assert "written by an earlier version" in again


def test_a_completion_is_opened_with_the_boxes_that_its_rewards_have_read(tmp_path):
    folder = write_run(tmp_path / "a")
    sample = next(one for i in range(9) if (one := TASKS["detection"].draw(0, "train", i)).answer)
    box = sample.answer[0]
    answer = json.dumps([{"bbox_2d": box["bbox_2d"], "label": box["label"]}])
    row = {"id": sample.id, "prompt": "p", "completion": "c", "n_tokens": 3, "truncated": True, "advantage": -0.5}
    row["rewards"] = {"iou_f1": {"value": 0.5, "answer": answer, "why": "<i>because"}}
    (folder / "completions" / "step_000009.jsonl").write_text(json.dumps(row) + "\n")
    shown = opened(folder, "step 9", 0)
    assert f"<b>{box['label']} 1.00</b>" in shown
    assert "&lt;i&gt;because" in shown
    assert "cut off at the limit" in shown
    assert "advantage -0.50" in shown
    assert opened(folder, "step 1", 0).count("data:image") == 0, "its sample is not drawn, and no image was kept"


def test_boxes_are_named_with_the_iou_of_their_partner():
    true = [Box(0, 0, 10, 10, "a"), Box(20, 0, 30, 10, "b")]
    found = with_overlaps(true, [Box(20, 0, 30, 5, "b"), Box(0, 0, 10, 10, "c")], is_true=False)
    assert [overlap for _, overlap in found] == [0.5, 0.0], "another label is no partner"
    assert [one for _, one in with_overlaps(true, true, is_true=True)] == [None, None]
    assert [one for _, one in with_overlaps([Box(0, 0, 10, 10)], [Box(0, 0, 10, 5, "c")], is_true=False)] == [0.5]


HOSTILE_KEPT = {
    "id": "s0", "image": "../../secret.jpg", "width_px": 1e308, "height_px": -3, "true": [{"bbox_2d": ["x", 1, 2]}, 3, None],
    "before": {"completion": ["<b>"], "boxes": {"a": 1}, "rewards": {"<i>": {"value": "<b>", "why": {"<b>": 1}}}}, "after": 7,
}  # fmt: skip


def test_what_a_run_has_kept_may_be_anything(tmp_path):
    folder = write_run(tmp_path / "a")
    side = {"value": 1.0, "outcome": "right", "answer": "A"}
    row = {"id": "s0", "question": "dog", "ground_truth": "box", "before": side, "after": side, "change": 0.0}
    (folder / "held_out.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "held_out_images").mkdir()
    (tmp_path / "secret.jpg").write_bytes(b"\xff\xd8\xffsecret")
    for kept in (HOSTILE_KEPT, {**HOSTILE_KEPT, "image": "0.jpg", "width_px": 9, "height_px": 9}, {"id": "s0"}):
        (folder / "held_out_images" / "samples.jsonl").write_text(json.dumps(kept) + "\n")
        (folder / "held_out_images" / "0.jpg").unlink(missing_ok=True)
        (folder / "held_out_images" / "0.jpg").symlink_to(tmp_path / "secret.jpg")
        shown = opened(folder, run_answers.HELD_OUT, 0)
        assert "data:image" not in shown, "no file outside of the run is shown"
        assert "<i>" not in shown.replace("<i class", "")


# ---- answers


def test_completions_are_filtered_and_ordered(tmp_path):
    folder = write_run(tmp_path / "a")
    (folder / "completions" / "step_000012.jsonl").write_text("")
    assert run_answers.logged(folder) == ["step 12", "step 1"]
    ids = {chosen: [row[0] for row in run_answers.answers(folder, "step 1", chosen)[1]] for chosen in run_answers.FILTERS}
    assert ids["all"] == ids["highest advantage"] == ["s0", "s1", "s2"]
    assert ids["largest change"] == ["s0", "s2", "s1"]
    assert ids["lowest reward"] == ["s2", "s1", "s0"]
    assert ids["unparsed"] == ids["truncated"] == ["s2"]


def test_held_out_answers_stand_before_and_after(tmp_path):
    folder = write_run(tmp_path / "a")
    values = {"s0": (0.5, 0.6), "s1": (1.0, 0.0), "s2": (None, 0.2)}
    rows = [
        {
            "id": key, "question": "dog", "ground_truth": "a box", "change": None if before is None else after - before,
            "before": {"value": before, "outcome": "unparsed" if before is None else "partly", "answer": "A"},
            "after": {"value": after, "outcome": "partly", "answer": "B"},
        }
        for key, (before, after) in values.items()
    ]  # fmt: skip
    (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "predictions_after.jsonl").write_text('{"id": "s1", "truncated": true}\n{"id": "s0", "truncated": false}\n')
    assert run_answers.logged(folder) == [run_answers.HELD_OUT, "step 1"]
    ids = {
        chosen: [row[0] for row in run_answers.answers(folder, run_answers.HELD_OUT, chosen)[1]]
        for chosen in run_answers.FILTERS
    }
    assert ids["largest change"] == ["s1", "s0", "s2"]
    assert ids["lowest reward"] == ["s1", "s2", "s0"]
    assert (ids["unparsed"], ids["truncated"]) == (["s2"], ["s1"])
    _, table = run_answers.answers(folder, run_answers.HELD_OUT, "all")
    assert table[1] == ["s1", "dog", "a box", "1.00  A", "0.00  B", "-1.00"]
    assert table[2][5] == "–"


def test_held_out_answers_of_another_version_are_one_clear_line(tmp_path):
    folder = write_run(tmp_path / "old")
    side = {"value": 1.0, "outcome": "right", "answer": "A"}
    row = {"id": "s0", "question": "dog", "gold": "a box", "before": side, "after": side, "change": 0.0}
    (folder / "held_out.jsonl").write_text(json.dumps(row) + "\n")
    for chosen in run_answers.FILTERS:
        with pytest.raises(run_answers.OtherVersion, match=r"another version of vlrl \(its rows have no ground_truth\)"):
            run_answers.answers(folder, run_answers.HELD_OUT, chosen)
    assert run_answers.answers(folder, "step 1", "all")[1]


def test_nothing_outside_the_root_is_a_run(tmp_path):
    root = tmp_path / "root"
    write_run(root / "a")
    outside = write_run(tmp_path / "outside")
    (root / "link").symlink_to(outside)
    shelf = runs.Runs(root)
    assert shelf.names() == ["a"]
    for name in ("../outside", "link", str(outside), "a/../../outside", ""):
        with pytest.raises(ValueError, match="there is no such run"):
            shelf.folder(name)


def test_events_of_a_run_are_shown_as_text(tmp_path):
    folder, other = write_run(tmp_path / "a"), write_run(tmp_path / "b")
    event = {
        "stage": "grpo",
        "step": 20,
        "event": "truncated",
        "message": "<script>x</script>",
        "samples": ["<b>1", "2"],
        "what_to_try": "less",
    }
    (folder / "events.jsonl").write_text(json.dumps(event) + "\n" + "half a li")
    head, rows = run_answers.events({"a": folder})
    assert (head[0], rows[0][:3], rows[0][4]) == ("stage", ["grpo", "20", "truncated"], "<b>1, 2")
    about = runs_tab.warnings({"a": folder, "b": other})
    assert "&lt;script&gt;x" in about
    assert "<script>" not in about
    assert "<b>1" not in about
    assert run_answers.events({"b": other})[1] == []
