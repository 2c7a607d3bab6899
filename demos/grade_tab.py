"""The tab "Grade": any text scored against a sample, without a model."""

from __future__ import annotations

from typing import Any

import gradio as gr

from demos.components import Choice, Html, Number, Text
from demos.grading import LOCAL_REWARDS, OWN, Grading
from demos.page_tasks import PageTasks
from demos.try_tab import page_of, tasks_list

COUNTED = """async (sample, text, reward, number) => {
  await new Promise(done => setTimeout(done, 80));
  const now = (name, given) => document.querySelector(`#${name} textarea`)?.value ?? given;
  window.vlGraded = (window.vlGraded || 0) + 1;
  return [now("grade-sample", sample), now("grade-text", text), reward, window.vlGraded];
}"""
"""Run in the browser before each request: waits until fields that change together have changed, takes what stands in them, and
counts the request."""


def grade_tab(tasks: PageTasks, tabs: gr.Tabs) -> None:
    """`tabs`: those of the page, of which a link opens this one."""
    grading = Grading(tasks)
    with gr.Row(elem_classes="vl-columns"):
        with gr.Column(scale=5, min_width=280):
            with gr.Row():
                task = tasks_list(tasks, "grade-task", 120)
                number = Number(0, label="Example", precision=0, minimum=0, elem_id="grade-number", min_width=80)
            reward = Choice([OWN, *LOCAL_REWARDS], value=OWN, label="Rewards", elem_id="grade-reward", min_width=150)
            text = Text(
                label="Completion", info="Change it: it is scored as you type.", lines=4, max_lines=10, elem_id="grade-text",
                elem_classes="vl-mono",
            )  # fmt: skip
            sample = Text(
                label="Sample: a row of a data file (JSON)", lines=7, max_lines=12, elem_id="grade-sample",
                elem_classes="vl-mono",
            )  # fmt: skip
        with gr.Column(scale=5, min_width=280):
            image = Html(elem_id="grade-image")
            link = Html(elem_id="grade-link")
        with gr.Column(scale=6, min_width=280):
            read = Html(elem_id="grade-read")
            scores = Html(elem_id="grade-scores")
    asked = Number(0, precision=0, visible=False)
    shown = [image, read, scores, link]
    quiet: dict[str, Any] = {"show_progress": "hidden"}
    # What is typed or pasted is graded at once (`input` leaves out what is pasted). An example comes with its grades, and
    # is graded once more as its texts change, each by itself.
    gr.on([task.input, number.input], grading.fill, [task, number, reward], [sample, text, *shown], **quiet)
    gr.on(
        [sample.change, text.change, reward.input], grading.grade_latest, [sample, text, reward, asked], shown, **quiet,
        js=COUNTED, api_name="grade", concurrency_limit=8, trigger_mode="always_last",
    )  # fmt: skip

    def opened(request: gr.Request) -> Any:
        """What the page's address asks for, else the first example."""
        is_link, *found, graded = grading.restore({key: str(value) for key, value in request.query_params.items()})
        return gr.Tabs(selected="grade") if is_link else gr.skip(), *found, *graded

    page_of().load(opened, None, [tabs, sample, text, reward, *shown], **quiet)
