"""The tab "Runs": a list that renews itself, and of one run, or of two, state, curves, numbers, warnings and answers.

Not here: the form that starts a run and the buttons that stop and resume one (`demos.control_panel`).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import pandas as pd

from demos import page, run_answers, run_list, runs
from demos.clickable import Clickable, picked
from demos.components import Choice, Html, Name
from demos.control_panel import ControlPanel
from demos.figures import data_url
from demos.run_answers import FILTERS
from demos.run_control import CONSOLE_FILE, Control, tail
from demos.run_numbers import numbers
from demos.run_plots import COLOURS, LINE_COLOURS, MAX_PLOTS, RunPlot, run_plots, shown_names
from demos.run_sample import opened
from demos.run_state import STATE_FILES, state_of
from demos.runs import Runs
from vlrl.data.images import ImageError, open_image
from vlrl.data.markup import Markup, joined, markup

NONE = "–"
EVERY_S = 2.0
"""How often an open page looks for what has changed."""
Folders = dict[str, Path]
HOW_TO_READ = (
    "Strong lines are smoothed (exponential moving average, 0.9), faint ones as logged. Drag over a plot to zoom all,"
    " double-click to see all again. What never changes has no plot."
)
TO_SAMPLE = "() => setTimeout(() => document.querySelector('#runs-sample .vl-opened')?.focus(), 60)"
"""Moves to the sample that was opened; it is below its table."""


def runs_tab(shelf: Runs, tasks: Sequence[str], *, may_control: bool) -> None:
    """Everything of the tab. `tasks`: those that a run may be started with."""
    view = View(shelf, Control(shelf))
    names = shelf.names()
    panel = ControlPanel(view.control, tasks) if may_control else None
    view.show_list(names)
    if panel is not None:
        panel.buttons(view.first)
    view.show_run()
    view.show_answers()
    view.connect()
    if panel is not None:
        panel.connect(view.first, view.status, view.listed, view.list_now)


@dataclass(frozen=True)
class Seen:
    """What an open page shows: of the chosen runs, and which runs, steps and rows its lists hold."""

    runs: str = ""
    names: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    listed: str = ""


NOTHING = Seen()


class View:
    """The parts of the tab, and what fills them."""

    def __init__(self, shelf: Runs, control: Control) -> None:
        self.shelf, self.control = shelf, control

    # -- parts

    def show_list(self, names: list[str]) -> None:
        self.listed = Clickable(elem_id="runs-list")
        with gr.Row():
            self.first = Name(names, value=names[0] if names else None, label="Run", elem_id="runs-first")
            self.second = Name([NONE, *names], value=NONE, label="Compare with", elem_id="runs-second")
        self.status = Html(elem_id="runs-status")

    def show_run(self) -> None:
        self.warnings = Html(elem_id="runs-events")
        self.reading = Html(elem_id="runs-reading")
        with gr.Row(elem_id="runs-plots"):
            self.plots = [
                gr.LinePlot(
                    x="step", y="value", color="line", x_title="step", y_title=" ", color_title=" ", height=240,
                    y_axis_format=".3~g", visible=False,
                    color_map=LINE_COLOURS, colors_in_legend=[],
                    elem_id=f"runs-plot-{i}", min_width=280, buttons=["fullscreen", "export"],
                )
                for i in range(MAX_PLOTS)
            ]  # fmt: skip
        self.numbers = Html(elem_id="runs-numbers")
        self.samples = Html(elem_id="runs-samples")

    def show_answers(self) -> None:
        with gr.Row():
            self.step = Name([], label="Answers of", elem_id="runs-step")
            self.chosen = Choice(list(FILTERS), value="all", label="Show", elem_id="runs-filter")
        self.rows = Clickable(elem_id="runs-rows")
        self.sample = Html(elem_id="runs-sample")
        self.console = Html(elem_id="runs-console")

    # -- events

    def connect(self) -> None:
        seen, timer = gr.State(NOTHING), gr.Timer(EVERY_S)
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        blocks = gr.context.Context.root_block
        assert blocks is not None
        both = [self.first, self.second]
        shown = [self.status, self.warnings, self.reading, *self.plots, self.numbers, self.samples, self.console]
        gr.on([self.first.change, self.second.change], self.look, both, [*shown, seen], **quiet)
        self.listed.click(self.pick, None, self.first, **quiet)
        self.first.change(self.list_now, self.first, self.listed, **quiet)
        lists = [*both, self.step, self.listed]
        gr.on([timer.tick, blocks.load], self.renew, [*both, self.step, seen], [*shown, *lists, seen], **quiet)
        asked = [self.first, self.step, self.chosen]
        # Another run may have rows under the same step, whose list then does not change.
        renewed = self.first.change(self.steps, self.first, self.step, **quiet)
        renewed.then(self.show_rows, asked, [self.rows, self.sample], **quiet)
        gr.on([self.step.change, self.chosen.change], self.show_rows, asked, [self.rows, self.sample], **quiet)
        self.rows.click(self.open_row, [self.first, self.step], self.sample, **quiet).then(None, None, None, js=TO_SAMPLE)
        for plot in self.plots:
            plot.select(zoom, None, self.plots, **quiet)
            plot.double_click(lambda: [gr.LinePlot(x_lim=None)] * MAX_PLOTS, None, self.plots, **quiet)

    # -- what is shown

    def look(self, first: str | None, second: str | None) -> Any:
        """The chosen runs, which were others before."""
        folders = folders_of(self.shelf, first, second)
        return (*self.show(folders), dataclasses.replace(NOTHING, runs=self.seen_now(folders)))

    def renew(self, first: str | None, second: str | None, step: str | None, seen: Seen) -> Any:
        """What has changed since `seen`, and nothing else: what a person has just chosen is not set back. Where the chosen run
        is gone, or none is chosen, the newest is."""
        names = self.shelf.names()
        is_gone = first not in names
        now = names[0] if is_gone and names else None if is_gone else first
        folders = folders_of(self.shelf, now, second, missing=False)
        steps = [one for folder in list(folders.values())[:1] for one in run_answers.logged(folder)]
        found = Seen(self.seen_now(folders), tuple(names), tuple(steps), str(self.list_now(now)))
        shown = [gr.skip()] * (6 + MAX_PLOTS) if found.runs == seen.runs else self.show(folders)
        return (
            *shown,
            relisted(names, first, now, is_new=found.names != seen.names),
            relisted([NONE, *names], second, NONE, is_new=found.names != seen.names),
            relisted(steps, step, steps[0] if steps else None, is_new=found.steps != seen.steps),
            gr.skip() if found.listed == seen.listed else markup("{}", self.list_now(now)),
            found,
        )

    def show(self, folders: Folders) -> tuple[Any, ...]:
        """State, warnings, how to read the plots, the plots, numbers, image and console."""
        if not folders:
            blank = markup("")
            return (blank, blank, blank, *_line_plots([]), blank, blank, blank)
        first = next(iter(folders.values()))
        stopping = [name for name, folder in folders.items() if self.control.is_stopping(name, folder)]
        about = joined(run_list.about(name, folder, stopping=name in stopping) for name, folder in folders.items())
        drawn = run_plots(folders)
        return (
            about,
            warnings(folders),
            how_to_read(list(folders)) if drawn else markup(""),
            *_line_plots(drawn),
            numbers(folders),
            samples_image(first),
            console(first),
        )

    def seen_now(self, folders: Folders) -> str:
        """What changes whenever `show` would show something else."""
        shown = [
            (
                name,
                run_list.about(name, folder, stopping=self.control.is_stopping(name, folder)),
                [runs.stamp(runs.file_of(folder, file)) for file in (*runs.SHOWN_FILES, *STATE_FILES, CONSOLE_FILE)],
                runs.stamp(runs.file_of(folder, "sft", "metrics.jsonl")),
            )
            for name, folder in folders.items()
        ]
        return hashlib.sha256(repr(shown).encode("utf-8", "backslashreplace")).hexdigest()

    def list_now(self, first: str | None) -> Markup:
        return run_list.listed(self.shelf, first, self.control.beginning())

    def pick(self, event: gr.EventData) -> Any:
        name = picked(event)
        folders_of(self.shelf, name, None)
        return name

    def steps(self, first: str | None) -> Any:
        known = [step for folder in folders_of(self.shelf, first, None).values() for step in run_answers.logged(folder)]
        return Name(choices=known, value=known[0] if known else None)

    def show_rows(self, first: str | None, step: str | None, chosen: str) -> Any:
        found = folders_of(self.shelf, first, None).values()
        return joined(answers_of(folder, step or "", chosen) for folder in found), markup("")

    def open_row(self, first: str | None, step: str | None, event: gr.EventData) -> Markup:
        place = picked(event)
        found = folders_of(self.shelf, first, None).values()
        if not place.isdecimal() or len(place) > 9:
            raise page.error("choose a row of the table")
        return joined(opened(folder, step or "", int(place)) for folder in found)


def relisted(choices: list[str], chosen: str | None, otherwise: str | None, *, is_new: bool) -> Any:
    """A list with new choices. What is chosen is not sent again: a person may have chosen something else by now. Where it is
    none of the choices, `otherwise` is chosen."""
    if chosen not in choices and chosen != otherwise:
        return Name(choices=choices, value=otherwise)
    return Name(choices=choices) if is_new else gr.skip()


def zoom(event: gr.SelectData) -> Any:
    """All plots over the chosen steps."""
    ends = event.index
    if not isinstance(ends, list | tuple) or len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        raise page.error("drag over a plot to choose its steps")
    return [gr.LinePlot(x_lim=[float(min(ends)), float(max(ends))])] * MAX_PLOTS


def how_to_read(names: list[str]) -> Markup:
    """How to read the plots; of two runs the colour of each."""
    keys = [
        markup("<span class='vl-key'><i style='border-color: {}'></i>{}</span>", colour, name)
        for name, colour in zip(shown_names(names), COLOURS, strict=False)
    ]
    return markup("<p class='vl-soft'>{}{}</p>", joined(keys) if len(names) > 1 else markup(""), HOW_TO_READ)


def unseen(plot: RunPlot) -> list[tuple[float, None, str]]:
    """A point without a value for every line that the plot lacks: gradio's plot knows only the lines that it was made with, and
    draws one that comes later without a colour."""
    return [(plot.rows[0][0], None, name) for name in LINE_COLOURS if name not in {line for _, _, line in plot.rows}]


def _line_plots(drawn: list[RunPlot]) -> list[Any]:
    """A gradio plot for each of `MAX_PLOTS` places; places without a plot are hidden."""
    made: list[Any] = []
    for plot in drawn:
        frame = pd.DataFrame([*plot.rows, *unseen(plot)], columns=["step", "value", "line"])
        made.append(gr.LinePlot(frame, label=plot.title, show_label=True, visible=True))
    return [*made, *(gr.LinePlot(visible=False) for _ in range(MAX_PLOTS - len(made)))]


def folders_of(shelf: Runs, first: str | None, second: str | None, *, missing: bool = True) -> Folders:
    """The chosen runs. Raises what gradio shows as a message for a name that is not one of them; with `missing=False` such a
    name is left out."""
    chosen = [name for name in dict.fromkeys((first, second)) if name and name != NONE]
    found = {}
    for name in chosen:
        try:
            found[name] = shelf.folder(name)
        except ValueError as error:
            if missing:
                raise page.error(error) from error
    return found


def warnings(folders: Folders) -> Markup:
    """What a run has said of itself: what was seen, and what to try."""
    head, rows = run_answers.events(folders)
    if not rows:
        is_over = any(state_of(folder).status.step for folder in folders.values())
        return (
            page.note("No warnings: the run has seen nothing odd in its rewards, data or numbers.") if is_over else markup("")
        )
    return markup("<div class='vl-said'><strong>Warnings</strong>{}</div>", page.table(head, rows))


def console(folder: Path) -> Markup:
    """The last lines that a run which was started here has printed."""
    path = runs.file_of(folder, CONSOLE_FILE)
    lines = tail(path) if path else []
    if not lines:
        return markup("")
    return markup(
        "<details class='vl-line'><summary>What the run has printed ({})</summary>"
        "<div class='vl-text vl-console' tabindex='0'>{}</div></details>",
        CONSOLE_FILE, "\n".join(lines),
    )  # fmt: skip


def samples_image(folder: Path) -> Markup:
    """The run's image of samples; nothing where there is none that can be read."""
    source = runs.file_of(folder, "samples.png")
    if source is None:
        return markup("")
    try:
        image = open_image(str(source))
    except (ImageError, OSError):
        return markup("")
    words = "Held-out samples with true boxes and those before and after training; the answers below have each in words"
    return markup("<img class='vl-samples' src='{}' alt='{}'>", data_url(image, max(image.size)), words)


def answers_of(folder: Path, step: str, chosen: str) -> Markup:
    """The answers of a step as a table whose rows can be opened."""
    try:
        rows = run_answers.chosen_rows(folder, step, chosen)
    except run_answers.OtherVersion as error:
        return page.box("cannot be shown", str(error))
    made = [row for _, row in rows]
    head, cells = run_answers.held_out_table(made) if step == run_answers.HELD_OUT else run_answers.completions_table(made)
    if not cells:
        return page.note("none")
    titles = joined(markup("<th scope='col'>{}</th>", one) for one in head)
    body = joined(_answer_row(place, texts) for (place, _), texts in zip(rows, cells, strict=True))
    return markup(
        "<p class='vl-soft'>Choose a row to open its sample below the table.</p>"
        "<div class='vl-scroll' tabindex='0' role='region' aria-label='answers'><table class='vl-table vl-answers'>"
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        titles, body,
    )  # fmt: skip


def _answer_row(place: int, texts: list[str]) -> Markup:
    name = markup("<td><button type='button' class='vl-link' data-pick='{}'>{}</button></td>", place, texts[0])
    rest = joined(markup("<td class='{}'>{}</td>", "vl-long" if len(one) > page.LONG else "", one) for one in texts[1:])
    return markup("<tr data-pick='{}'>{}{}</tr>", place, name, rest)
