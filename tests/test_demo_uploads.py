"""Images and names of models that visitors bring: every usual kind of file, a question that fits, one line for what is wrong."""

import time

import gradio as gr
import httpx
import pytest
from PIL import Image

from demos.answering import Models, open_upload
from demos.asking import OTHER_QUESTION, WORLD, Asking
from demos.model_list import ModelList, Refused
from demos.page_tasks import PageTasks
from demos.runs import Runs
from vlrl.tasks import TASKS

PAGE = PageTasks()


def asking_of(root, allow_hub=False):
    return Asking(Models(ModelList(Runs(root), "tiny", allow_hub), TASKS), PAGE)


def saved(tmp_path, name, image, **how):
    image.save(tmp_path / name, **how)
    return str(tmp_path / name)


def test_usual_kinds_of_files_are_taken(tmp_path):
    red = Image.new("RGB", (40, 30), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.new("I;16", (40, 30), 65535)
    frames = [red, Image.new("RGB", (40, 30), "blue")]
    paths = {
        "cmyk": saved(tmp_path, "a.jpg", red.convert("CMYK")),
        "palette": saved(tmp_path, "b.png", red.convert("P")),
        "animated": saved(tmp_path, "c.gif", red, save_all=True, append_images=frames[1:]),
        "tiff": saved(tmp_path, "d.tif", red),
    }
    for name, path in paths.items():
        opened = open_upload(path)
        r, g, b = opened.getpixel((20, 15))
        assert (opened.mode, opened.size) == ("RGB", (40, 30)), name
        assert r > 200, name
        assert max(g, b) < 60, name
    assert open_upload(saved(tmp_path, "e.png", deep)).getpixel((5, 5)) == (255, 255, 255), "16 bits"
    assert open_upload(saved(tmp_path, "f.jpg", red, exif=exif)).size == (30, 40), "turned as cameras say"


def test_heic_is_taken_where_it_can_be_read_and_named_elsewhere(tmp_path, monkeypatch):
    heif = pytest.importorskip("pillow_heif", reason="pip install 'vlrl[images]'")
    heif.from_pillow(Image.new("RGB", (64, 48), (0, 0, 255))).save(str(tmp_path / "a.heic"))
    opened = open_upload(str(tmp_path / "a.heic"))
    assert opened.size == (64, 48)
    assert opened.getpixel((30, 20))[2] > 200
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + b"\0" * 40)
    monkeypatch.setattr("vlrl.data.images.can_open", lambda kind: False)
    with pytest.raises(Refused, match="not an image that can be read"):
        open_upload(str(tmp_path / "b.heic"))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["tiny", "another"])
def test_an_upload_gets_a_question_that_fits_and_never_keeps_the_old_one(tmp_path, task, model):
    asking, path = asking_of(tmp_path), saved(tmp_path, "a.png", Image.new("RGB", (50, 40), "red"))
    old = asking.show_example(task, 0)[2]
    sample, opened, question, image, said, scores = asking.take_upload(path, task, model)
    assert question
    assert (question != old) or (task, question) in (("planning", old), ("grounding", old), ("classification", old)), (
        "it is general"
    )
    assert (sample.task, sample.question, sample.answer, opened.size) == (task, question, None, (50, 40))
    assert "alt=" in image
    assert (WORLD[:40] in said) == (model == "tiny")
    assert scores == ""
    if task == "qa":
        assert question == OTHER_QUESTION
    if task == "detection":
        assert sample.facts["categories"] == [one.strip() for one in question.split(",")]


def test_a_refused_upload_leaves_the_page_as_it_was(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    *kept, said, _ = asking_of(tmp_path).take_upload(str(tmp_path / "a.png"), "detection", "tiny")
    assert kept == [gr.skip()] * 4
    assert "not an image that can be read" in said
    assert "role='alert'" in said
    *kept, said, _ = asking_of(tmp_path).take_drawing(None, "detection", "tiny")
    assert kept == [gr.skip()] * 4
    assert "nothing is drawn yet" in said


@pytest.mark.parametrize("name", ["tinny", "gpt2", "<b>x", "../../etc", "owner/model", "", None])
def test_a_wrong_model_is_one_line_at_once(tmp_path, name):
    asking = asking_of(tmp_path)
    start = time.monotonic()
    *_, (image, answer, scores) = asking.answer_it("detection", name or "", PAGE.example("detection", 0), None, "dog", 1, 1.0)
    assert time.monotonic() - start < 1
    assert "not in the list" in answer
    assert answer.count("role='alert'") == 1
    assert (image, scores) == (gr.skip(), "")


def test_a_hub_id_that_cannot_be_had_is_one_line_within_seconds(tmp_path, monkeypatch):
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError

    reply = httpx.Response(404, request=httpx.Request("GET", "https://hub/x"))
    loaded = []
    monkeypatch.setattr("vlrl.models.load.load_model", lambda name, **options: loaded.append(name))
    for error, words in (
        (RepositoryNotFoundError("404", response=reply), "the hub has no model owner/none"),
        (OfflineModeIsEnabled("offline"), "the hub cannot be reached"),
        (httpx.ConnectTimeout("slow"), "the hub cannot be reached"),
    ):

        def info(self, name, timeout, error=error):
            assert timeout <= 5
            raise error

        monkeypatch.setattr(HfApi, "model_info", info)
        *_, (_, answer, _) = asking_of(tmp_path, True).answer_it("detection", "owner/none", None, None, "dog", 1, 1.0)
        assert words in answer
    assert loaded == [], "nothing is loaded"


def test_an_empty_question_and_one_of_another_task_are_no_answer_to_the_old_one(tmp_path):
    asking = asking_of(tmp_path)
    *_, (_, answer, _) = asking.answer_it("detection", "tiny", None, None, "  ", 1, 1.0)
    assert "the question is empty" in answer
    stale = PAGE.example("detection", 0)
    assert asking.asked(stale, "grounding", stale.question).task == "grounding", "the task on the page counts"
