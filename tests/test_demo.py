"""What the demo's page shows, without a browser: scores, runs, games, uploads."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from demos import app, completions, page, runs, scoring
from demos.answering import KEPT_PX, Models, open_drawing, open_upload
from demos.asking import Asking
from demos.games import Game
from demos.model_list import ModelList, Refused
from demos.page_tasks import PageTasks, load_page_tasks
from vlrl.data.images import MAX_IMAGE_PIXELS
from vlrl.schema import Sample, SampleError
from vlrl.tasks import TASKS

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PAGE = PageTasks()


def models_of(tasks, root=Path("/nonexistent")):
    return Models(ModelList(runs.Runs(root), "tiny"), tasks)


def write_run(folder, steps=3, reward=0.5):
    """A run folder as training leaves it, its log's last line half-written."""
    (folder / "completions").mkdir(parents=True)
    (folder / "config.yaml").write_text("task: detection\n")
    lines = [
        json.dumps(
            {"step": i, "reward": reward + i / 10, "rewards/iou_f1/mean": reward, "reward_std": 0.2, "thoughts/self_bleu2": 0.3}
        )
        for i in range(1, steps + 1)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 99, "rew')
    metric = {"value": 0.4, "ci95": [0.3, 0.5], "n": 10}
    numbers = {"f1@0.5": metric, "f1@0.5[dog]": metric}
    summary = {"task": "detection", "model": "tiny", "stage": "grpo", "seed": 0, "before": numbers, "after": numbers}
    (folder / "summary.json").write_text(json.dumps(summary))
    rows = []
    for k, value in enumerate((0.9, 0.1, None)):
        verdict = {"iou_f1": {"value": value, "answer": None if value is None else "[]", "why": f"why {k}"}}
        rows.append(
            {
                "id": f"s{k}",
                "completion": f"<b>text {k}</b> of {folder.name}",
                "rewards": verdict,
                "advantage": 1 - k,
                "truncated": k == 2,
            }
        )
    (folder / "completions" / "step_000001.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Image.new("RGB", (60, 40), "white").save(folder / "samples.png")
    return folder


@pytest.mark.parametrize("task", TASKS)
def test_the_right_answer_to_an_example_earns_full_marks_and_a_broken_one_says_why(task):
    sample = PAGE.read_sample(PAGE.as_text(PAGE.example(task, 3)))
    right, wrong = scoring.score(sample, [TASKS[task].oracle(sample), "no answer"], TASKS)
    assert right[0].value > 0.7
    assert wrong[0].value == 0
    assert wrong[0].why
    assert completions.figure(TASKS[task], sample, TASKS[task].oracle(sample)).count("<img") == len(sample.images)


def test_advantages_are_grpo_s():
    import torch

    values = [0.2, 0.9, 0.4, 0.4]
    t = torch.tensor(values, dtype=torch.float64)
    expected = ((t - t.mean()) / (t.std() + 1e-4)).tolist()
    assert scoring.advantages(values) == pytest.approx(expected)
    assert scoring.advantages([0.5, 0.5]) == [0, 0]
    assert scoring.advantages([None, None]) == [None, None]
    assert scoring.advantages([1.0, None, 0.0])[1] is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"images": ["/etc/passwd"]}, "files are not opened"),
        ({"task": "points24"}, "give one of"),
        ({"answer": 3}, "detection answer"),
        ({"extra": 1}, "unknown key"),
        ({"meta": {"rewards": ["/tmp/uploaded.py:mine"]}}, "files are not run"),
    ],
)
def test_a_sample_that_cannot_be_graded_is_refused_in_words(change, words):
    row = json.loads(PAGE.as_text(PAGE.example("detection", 0)))
    with pytest.raises(SampleError, match=words):
        PAGE.read_sample(json.dumps({**row, **change}))
    with pytest.raises(SampleError, match="not JSON"):
        PAGE.read_sample("{")


def test_uploads_that_are_not_images_are_refused(tmp_path):
    good = tmp_path / "good.png"
    Image.new("RGBA", (30, 20), (255, 0, 0, 128)).save(good)
    assert open_upload(str(good)).mode == "RGB"
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(good.read_bytes()[:40])
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    thin = tmp_path / "thin.png"
    Image.new("RGB", (900, 2)).save(thin)
    huge = tmp_path / "huge.png"
    Image.new("1", (MAX_IMAGE_PIXELS // 1000 + 1, 1001)).save(huge)
    drawing = tmp_path / "drawing.eps"
    Image.new("RGB", (30, 20)).save(drawing)
    faults = {corrupt: "not an image", text: "not an image", thin: "too thin", huge: "are the most", drawing: "not an image"}
    for path, words in {
        **faults,
        tmp_path / "none.png": "not an image",
        "/etc/passwd": "not an image",
        "": "not an image",
    }.items():
        with pytest.raises(Refused, match=words) as refused:
            open_upload(str(path))
        assert str(tmp_path) not in str(refused.value)
    large = tmp_path / "large.png"
    Image.new("1", (4000, 3000)).save(large)
    assert 0.99 * KEPT_PX < open_upload(str(large)).width * open_upload(str(large)).height <= KEPT_PX


def test_a_drawing_comes_on_white_and_an_empty_sheet_is_refused():
    sheet = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    for empty in (None, {}, {"composite": None}, {"composite": sheet}, {"composite": Image.new("RGB", (40, 30), "white")}):
        with pytest.raises(Refused, match="nothing is drawn"):
            open_drawing(empty)
    sheet.paste((255, 0, 0, 255), (5, 5, 10, 10))
    drawn = open_drawing({"composite": sheet})
    assert (drawn.mode, drawn.size) == ("RGB", (40, 30))
    assert drawn.getpixel((7, 7)) == (255, 0, 0)
    assert drawn.getpixel((20, 20)) == (255, 255, 255)


@pytest.mark.parametrize("task", TASKS)
def test_any_task_asks_any_question_about_any_image(task):
    """An upload has no true answer, which nothing on the way to the prompt may need."""
    models, image = models_of(TASKS), Image.new("RGB", (200, 150), "white")
    asking = Asking(models, PAGE)
    sample = asking.asked(Sample("upload", task, "", None, ("upload",)), task, "red square, blue disk")
    sample = models.prepare_sample("tiny", sample, image)
    words = models._inputs(models.load("tiny"), sample, image)
    prompt = models.load("tiny").tokenizer.decode(words["input_ids"][0])
    assert "red square, blue disk" in prompt
    assert asking.scores(sample, ["x"]) == [[]], "no reward applies"


def test_a_game_by_hand_with_the_corrector_s_remark():
    game = Game("ezpoints", 5)
    rules = game.episode.env.game
    while not game.episode.done:
        game.play_token(rules.best(game.episode.env.state), "")
    assert game.status.startswith("Over after")
    assert "won, return +10" in game.status
    assert game.tokens == []
    judged = Game("numberline", 1)
    state = judged.episode.env.state
    judged.play_token(rules_best(judged), f"The target {state.target} is nowhere")
    assert judged.lines[0][4] == "no move is named"
    judged = Game("points24", 3)
    judged.play_reply("gibberish")
    assert "could not be read" in judged.lines[0][2]


def rules_best(game):
    return game.episode.env.game.best(game.episode.env.state)


def test_an_agent_is_asked_about_the_state_on_the_table():
    game = Game("points24", 8)
    game.play_token(game.tokens[0], "")
    sample = game.state_sample()
    from vlrl.envs.cards.deals import deal_of

    assert deal_of(sample).state() == game.episode.env.state


# ---- a task of one's own


def test_a_users_task_is_listed_shown_scored_and_asked():
    """`python demos/app.py --task examples/own_task.py --data examples/own_task.jsonl`"""
    tasks = load_page_tasks([str(EXAMPLES / "own_task.py")], [EXAMPLES / "own_task.jsonl"])
    assert tasks.names == ["counting", *TASKS]
    sample = tasks.example("counting", 0)
    assert tasks.example("counting", len(tasks.samples["counting"])) == sample, "the file's rows, again and again"
    text = tasks.as_text(sample)
    assert json.loads(text)["images"] == ["images/0.png"], "no folder of this machine is shown"
    assert tasks.read_sample(text) == sample
    right, near = scoring.score(sample, [tasks.reference(sample), "<think>t</think><answer>3</answer>"], tasks.tasks)
    assert [(one.reward, one.value) for one in right] == [("closeness", 1.0), ("think_answer_format", 1.0)]
    assert near[0].value == 0.5
    assert scoring.parsed(near, "<think>t</think><answer>3</answer>", sample) == "3", "not the reward's plain number"
    assert "nan" not in page.rewards(right), "a user's reward has no known range"
    assert completions.figure(tasks["counting"], sample, None).count("<img") == 1
    for path in ("/etc/passwd", "images/../own_task.py", str(EXAMPLES / "own_task.py")):
        with pytest.raises(SampleError, match="files are not opened"):
            tasks.read_sample(json.dumps({**json.loads(text), "images": [path]}))
    asking = Asking(models_of(tasks.tasks), tasks)
    *_, (image, answer, scores) = asking.answer_it("counting", "tiny", sample, None, sample.question, 1, 1.0)
    assert "<img" in image
    assert answer
    assert "closeness" in scores
    lists = {one["props"].get("elem_id"): one["props"] for one in app.build(EXAMPLES, "tiny", tasks).config["components"]}
    for name in ("try-task", "grade-task"):
        assert [choice for _, choice in lists[name]["choices"]] == tasks.names


def test_a_users_task_without_samples_takes_uploads(tmp_path):
    tasks = load_page_tasks([str(EXAMPLES / "own_task.py")], [])
    asking = Asking(models_of(tasks.tasks), tasks)
    chosen, _, question, image, about, _ = asking.show_example("counting", 0)
    assert (question, image) == ("", "")
    assert "--data" in about
    assert tasks.reference(chosen) == ""
    Image.new("RGB", (64, 48), "red").save(tmp_path / "upload.png")
    chosen, opened, question, *_ = asking.take_upload(str(tmp_path / "upload.png"), "counting", "tiny")
    assert question == "What does the picture show?"
    *_, (_, answer, scores) = asking.answer_it("counting", "tiny", chosen, opened, "How many red discs?", 1, 1.0)
    assert answer
    assert "not known" in scores


FAILING = """
from vlrl.schema import Task
def prompt(sample):
    return sample.question + sample.meta["hint"]
TASK = Task(name="hinted", prompt=prompt, rewards=["exact_match"], metric=lambda sample, prediction: 1)
"""


def test_tasks_and_files_that_cannot_be_shown_are_one_line(tmp_path):
    own, other = str(EXAMPLES / "own_task.py"), str(shutil.copy(EXAMPLES / "own_task.py", tmp_path / "other.py"))
    rows = EXAMPLES / "own_task.jsonl"
    failing, hinted = tmp_path / "failing.py", tmp_path / "hinted.jsonl"
    failing.write_text(FAILING)
    hinted.write_text(json.dumps({"id": "a", "task": "hinted", "question": "What?", "answer": "x"}) + "\n")
    for paths, data, words in (
        (["points24"], [], "tab Play"),
        ([own, other], [], "a task named 'counting' already"),
        (["detectoin"], [], "unknown task"),
        ([], [rows], "its task is 'counting'; add it with --task"),
        ([own], [tmp_path / "none.jsonl"], "no such file"),
        ([str(failing)], [hinted], "task hinted: its prompt failed on sample 'a'"),
    ):
        with pytest.raises(ValueError, match=words):
            load_page_tasks(paths, data)
    assert load_page_tasks([own, own], []).names == ["counting", *TASKS], "the same file twice is one task"
    tasks = load_page_tasks([str(failing)], [])
    asking = Asking(models_of(tasks.tasks), tasks)
    *_, (_, answer, _) = asking.answer_it("hinted", "tiny", None, None, "What?", 1, 1.0)
    assert "task hinted: its prompt failed on sample &#39;example&#39;" in answer
