"""The form that starts a run, and the buttons that stop and resume one. Whoever asks is checked each time they are pressed
(`demos.local_only`); elsewhere the form is hidden."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from demos import page
from demos.components import Choice, Html, Name, Number, Text
from demos.local_only import REFUSAL, is_local
from demos.run_control import Control, Refused, command_words, new_name, words_of
from demos.run_state import state_of
from vlrl.data.markup import Markup, markup
from vlrl.training.options import CONFIGS

NO_FILE = "none: the task's own settings"
CAN_RESUME = ("stopped", "failed", "killed")


class ControlPanel:
    """The form, at once; the buttons where `buttons` is called."""

    def __init__(self, control: Control, tasks: Sequence[str]) -> None:
        self.control = control
        files = [str(path) for path in sorted(CONFIGS.glob("*.yaml"))]
        listed = [(f"configs/{Path(path).name}", path) for path in files]
        with gr.Accordion("Start a run", open=False, elem_id="runs-start-form", visible=False) as self.form:
            with gr.Row():
                self.task = Name(list(tasks), value=_first(tasks), label="Task", elem_id="start-task", min_width=150)
                self.config = Choice(
                    [(NO_FILE, NO_FILE), *listed], value=NO_FILE, label="Settings file", elem_id="start-config"
                )
                self.model = Text(
                    label="Model", placeholder="as the settings say", elem_id="start-model", min_width=180
                )  # fmt: skip
            with gr.Row():
                self.steps = Number(0, label="Steps (0: as set)", precision=0, elem_id="start-steps", min_width=110)
                self.folder = Text(
                    label="Output folder", placeholder="named by task and time",
                    elem_id="start-folder", min_width=220,
                )  # fmt: skip
                self.flags = Text(
                    label="Further flags of vlrl train", placeholder="--data train.jsonl --learning_rate 1e-5",
                    elem_id="start-flags", scale=3, min_width=280,
                )  # fmt: skip
            self.start = gr.Button("Start", variant="primary", elem_id="runs-start")
        self.said = Html(elem_id="runs-said")

    def buttons(self, first: Name) -> None:
        """Stop and Resume, for the run that is chosen."""
        with gr.Row(elem_id="runs-buttons"):
            self.stop = gr.Button("Stop", visible=False, elem_id="runs-stop", min_width=110, scale=0)
            self.resume = gr.Button("Resume", visible=False, elem_id="runs-resume", min_width=110, scale=0)

    def connect(self, first: Name, status: Html, listed: Html, list_now: Callable[[str | None], Markup]) -> None:
        blocks = gr.context.Context.root_block
        assert blocks is not None
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        fields = [self.task, self.config, self.model, self.steps, self.folder, self.flags]
        one_at_a_time: dict[str, Any] = {"concurrency_id": "control", "concurrency_limit": 1, "show_progress": "minimal"}
        shown = [self.stop, self.resume]
        started = self.start.click(self.begin, fields, [self.said, first], **one_at_a_time)
        stopped = self.stop.click(self.end, first, self.said, **one_at_a_time)
        resumed = self.resume.click(self.go_on, first, self.said, **one_at_a_time)
        for event in (started, stopped, resumed):
            event.then(list_now, first, listed, **quiet).then(self.offered, first, shown, **quiet)
        first.change(self.offered, first, shown, **quiet)
        status.change(self.offered, first, shown, **quiet)
        blocks.load(self.offered, first, shown, **quiet)
        blocks.load(shown_here, None, self.form, **quiet)

    # -- what the buttons do

    def begin(
        self, task: str | None, config: str, model: str | None, steps: int | None, folder: str | None, flags: str | None,
        request: gr.Request,
    ) -> Any:  # fmt: skip
        check_local(request)
        file = "" if config == NO_FILE else config
        name = (folder or "").strip().strip("/") or new_name(task or "", file)
        try:
            words = words_of((task or "").strip(), file, model or "", steps, flags or "")
            self.control.start(words, name)
        except Refused as error:
            return problem(error), gr.skip()
        command = command_words(words, name, self.control.shelf.root)
        done = markup("<p class='vl-said'><b>{}</b> has started. The same in a terminal: <code>{}</code></p>", name, command)
        return done, name if name in self.control.shelf.names() else gr.skip()

    def end(self, first: str | None, request: gr.Request) -> Markup:
        check_local(request)
        try:
            return markup("<p class='vl-said'>{}</p>", self.control.stop(first or ""))
        except Refused as error:
            return problem(error)

    def go_on(self, first: str | None, request: gr.Request) -> Markup:
        check_local(request)
        try:
            self.control.resume(first or "")
        except Refused as error:
            return problem(error)
        return markup("<p class='vl-said'><b>{}</b> goes on from its newest checkpoint.</p>", first)

    def offered(self, first: str | None, request: gr.Request) -> Any:
        """Which of the two buttons fits the chosen run."""
        try:
            folder = self.control.shelf.folder(first or "") if is_local(request) else None
        except ValueError:
            folder = None
        state = state_of(folder).status.state if folder is not None else ""
        stopping = folder is not None and self.control.is_stopping(first or "", folder)
        return (
            gr.Button("Stopping …" if stopping else "Stop", visible=state == "running", interactive=not stopping),
            gr.Button(visible=state in CAN_RESUME),
        )


def _first(tasks: Sequence[str]) -> str | None:
    return tasks[0] if tasks else None


def shown_here(request: gr.Request) -> Any:
    return gr.Accordion(visible=is_local(request))


def check_local(request: gr.Request) -> None:
    """Raises what gradio shows as a message for whoever is not at this machine."""
    if not is_local(request):
        raise page.error(REFUSAL)


def problem(error: Refused) -> Markup:
    return markup("<p class='vl-said' role='alert'>{}</p>", str(error))
