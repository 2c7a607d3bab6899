"""The tab "Try": a gallery, a question, the answer with its boxes and rewards; images and servers of the visitor's own."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demos import figures
from demos.answering import Models
from demos.asking import Asking
from demos.components import Choice, Html, Name, Number, Sheet, Text
from demos.page_tasks import PageTasks
from demos.servers import COORDS

ONE_AT_A_TIME = "model"
"""The queue of everything that asks a model of this machine."""
SERVERS_AT_A_TIME = 4
PAD_PX = 448
PENS: list[str | tuple[str, float]] = ["#c0392b", "#2471a3", "#1e8449", "#d4ac0d", "#111111"]
TO_ANSWER = """() => {
  if (window.innerWidth < 800) document.querySelector('#try-image')?.scrollIntoView({block: 'start'});
}"""
"""On a narrow screen the answer stands below what asks for it."""


def try_tab(models: Models, tasks: PageTasks, servers: bool) -> None:
    """Ask a model about an example or an image of one's own; greedy, or a group as GRPO sees it. `servers`: whether
    a server may be asked, too."""
    asking = Asking(models, tasks)
    sample, uploaded = gr.State(None), gr.State(None)
    gallery = Html(asking.gallery(tasks.names[0]), elem_id="try-gallery", js_on_load=figures.PRESSED)
    with gr.Row(elem_classes="vl-columns"):
        with gr.Column(scale=4, min_width=280):
            with gr.Row():
                task = tasks_list(tasks, "try-task", 120)
                model = models_list(models, models.models.first, "Model", "try-model")
            question = Text(
                label="Question", info="In detection: what to find, with commas between.", elem_id="try-question", lines=1
            )  # fmt: skip
            ask = gr.Button("Ask", variant="primary", elem_id="try-ask")
            with gr.Accordion("Other examples, several answers", open=False, elem_id="try-more"):
                number = Number(0, label="Example", precision=0, minimum=0, elem_id="try-number", min_width=90)
                n = gr.Slider(1, 8, 1, step=1, label="Answers, sampled as a group", elem_id="try-n", min_width=140)
                temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature of a group", min_width=140)
            upload = gr.UploadButton("Upload an image", file_types=["image", ".heic", ".avif"], elem_id="try-upload", size="sm")
            pad, drawn = _sketch()
            server = _server_fields() if servers else None
        with gr.Column(scale=5, min_width=280):
            shown_image = Html(elem_id="try-image")
        with gr.Column(scale=6, min_width=280, elem_id="try-said"):
            answer = Html(elem_id="try-answer", elem_classes="vl-live")
            scores = Html(elem_id="try-scores")
    results = [shown_image, answer, scores]
    shown = [sample, uploaded, question, *results]
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    # Who waits sees the place in the queue where the answer will stand.
    waits: dict[str, Any] = {"show_progress": "full", "show_progress_on": answer}
    one: dict[str, Any] = {"concurrency_id": ONE_AT_A_TIME, "concurrency_limit": 1, **waits}
    asked = [task, model, sample, uploaded, question, n, temperature]
    task.change(asking.show_task, task, [gallery, number, *shown], **quiet)
    gr.on([number.input, number.submit], asking.show_example, [task, number], shown, **quiet)
    picked = gallery.select(_picked, None, number, **quiet)
    picked.then(asking.show_example, [task, number], shown, **quiet).then(asking.answer_it, asked, results, **one)
    own = [sample, uploaded, question, *results]
    at_once: dict[str, Any] = {"concurrency_id": "upload", "concurrency_limit": 1}
    upload.upload(asking.take_upload, [upload, task, model], own, **at_once)
    drawn.click(asking.take_drawing, [pad, task, model], own, **at_once)
    gr.on([ask.click, question.submit], asking.answer_it, asked, results, **one)
    for event in (ask.click, gallery.select):
        event(None, None, None, js=TO_ANSWER)
    if server is not None:
        fields, button = server
        button.click(
            asking.answer_from_server, [task, *fields, sample, uploaded, question, n, temperature], results,
            concurrency_id="server", concurrency_limit=SERVERS_AT_A_TIME, **waits,
        )  # fmt: skip
        button.click(None, None, None, js=TO_ANSWER)
    page_of().load(asking.show_example, [task, number], shown, **quiet)


def _picked(event: gr.EventData) -> int:
    """The number of the example whose button was pressed."""
    number = getattr(event, "number", 0)
    return number if isinstance(number, int) and 0 <= number < 1000 else 0


def models_list(models: Models, first: str, label: str, name: str) -> Name:
    """The models to choose from, anew whenever the page is opened. A hub id may be typed where that is allowed."""
    listed = models.models.names(first)
    shown = Name(
        listed, value=first, label=label, allow_custom_value=models.models.allow_hub, elem_id=name, min_width=140
    )  # fmt: skip
    page_of().load(lambda: Name(choices=models.models.names(first)), None, shown, show_progress="hidden")
    return shown


def tasks_list(tasks: PageTasks, name: str, width: int) -> Choice:
    return Choice(tasks.names, value=tasks.names[0], label="Task", elem_id=name, min_width=width)


def _sketch() -> tuple[Sheet, gr.Button]:
    """A sheet to draw on, closed at first, and the button that takes the drawing."""
    with gr.Accordion("Draw an image", open=False, elem_id="try-draw"):
        pad = Sheet(
            type="pil", canvas_size=(PAD_PX, PAD_PX), fixed_canvas=True, label="Sheet to draw on", show_label=False,
            elem_id="try-pad", brush=gr.Brush(default_size=8, default_color="#c0392b", colors=PENS),
            sources=[], transforms=[], layers=False,
        )  # fmt: skip
        return pad, gr.Button("Use the drawing", elem_id="try-drawn")


def _server_fields() -> tuple[list[Any], gr.Button]:
    """Address, model, key and box form of an OpenAI-compatible server, closed at first, and the button that asks it."""
    with gr.Accordion("Ask a server (OpenAI-compatible)", open=False, elem_id="try-server"):
        base = Text(label="Address", placeholder="http://127.0.0.1:8000/v1", elem_id="try-server-url")
        model = Text(label="Model on the server", elem_id="try-server-model")
        key = Text(
            label="Key, if it needs one", type="password", info="Sent to this server alone, and kept nowhere.",
            elem_id="try-server-key", html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
        )  # fmt: skip
        coords = Choice(list(COORDS), value=next(iter(COORDS)), label="It writes boxes in", elem_id="try-server-coords")
        return [base, model, key, coords], gr.Button("Ask the server", variant="primary", elem_id="try-server-ask")


def page_of() -> gr.Blocks:
    """The page that is being built."""
    blocks = gr.context.Context.root_block
    assert blocks is not None
    return blocks
