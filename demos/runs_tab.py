"""The tab "Runs": curves, numbers, images and completions of one run, or of two."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData
from gradio.utils import get_upload_folder

from demos import curves, page, runs
from demos.components import Choice, Html, Name
from demos.runs import FILTERS, Runs
from vlrl.data.images import ImageError, open_image
from vlrl.data.markup import Markup, joined, markup

NONE = "–"
Folders = dict[str, Path]
_saving = threading.Lock()


def runs_tab(shelf: Runs) -> None:
    """Curves, numbers, images and completions of one run, or of two."""
    names = shelf.names()
    with gr.Row():
        first = Name(names, value=names[0] if names else None, label="Run", elem_id="runs-first")
        second = Name([NONE, *names], value=NONE, label="Compare with (dashed)", elem_id="runs-second")
        again = gr.Button("Refresh", elem_id="runs-again", min_width=100, scale=0)
    status = Html(elem_id="runs-status")
    plot = gr.Plot(show_label=False, elem_id="runs-plot", visible=False)
    numbers = Html(elem_id="runs-numbers")
    samples = gr.Image(
        show_label=False, format="png", interactive=False, visible=False, elem_id="runs-samples", height=None,
        buttons=["fullscreen", "download"],
    )  # fmt: skip
    with gr.Row():
        step = Name([], label="Completions of", elem_id="runs-step")
        chosen = Choice(list(FILTERS), value="all", label="Show", elem_id="runs-filter")
    rows = Html(elem_id="runs-rows")
    seen = gr.State("")
    timer = gr.Timer(5)

    def look(first: str | None, second: str | None) -> Any:
        folders = _folders(shelf, first, second)
        return (*show(folders), seen_now(folders))

    def look_again(first: str | None, second: str | None, seen: str) -> Any:
        folders = _folders(shelf, first, second)
        now = seen_now(folders)
        return (gr.skip(),) * 5 if now == seen else (*show(folders), now)

    def steps(first: str | None) -> Any:
        known = [step for folder in _folders(shelf, first, None).values() for step in runs.logged(folder)]
        return Name(choices=known, value=known[0] if known else None)

    def names_now() -> Any:
        known = shelf.names()
        return Name(choices=known), Name(choices=[NONE, *known])

    def show_rows(first: str | None, step: str | None, chosen: str) -> Any:
        return joined(_answers_of(folder, step or "", chosen) for folder in _folders(shelf, first, None).values())

    outputs = [status, plot, numbers, samples, seen]
    gr.on([first.change, second.change, again.click], look, [first, second], outputs, show_progress="hidden")
    timer.tick(look_again, [first, second, seen], outputs, show_progress="hidden")
    again.click(names_now, None, [first, second], show_progress="hidden")
    asked = [first, step, chosen]
    # Another run may have rows under the same step, whose list then does not change.
    renewed = gr.on([first.change, again.click], steps, first, step, show_progress="hidden")
    renewed.then(show_rows, asked, rows, show_progress="hidden")
    gr.on([step.change, chosen.change], show_rows, asked, rows, show_progress="hidden")
    loaded = gr.context.Context.root_block
    assert loaded is not None
    loaded.load(look, [first, second], outputs, show_progress="hidden")
    loaded.load(steps, first, step, show_progress="hidden")


def _folders(shelf: Runs, first: str | None, second: str | None) -> Folders:
    """The chosen runs. Raises what gradio shows as a message for a name that is not one of them."""
    chosen = [name for name in dict.fromkeys((first, second)) if name and name != NONE]
    try:
        return {name: shelf.folder(name) for name in chosen}
    except ValueError as error:
        raise page.error(error) from error


def show(folders: Folders) -> tuple[Any, Any, Markup, Any]:
    """Status with events, curves, numbers and images."""
    if not folders:
        nothing = page.box("no runs", "", "the folder of runs holds none; train one, or give another folder with --run_root")
        return nothing, gr.Plot(None, visible=False), markup(""), gr.Image(None, visible=False)
    boxes = [page.box(name, runs.status(folder)) for name, folder in folders.items()]
    about = joined([*boxes, page.table(*runs.events(folders))])
    drawn, image = curves.drawn(folders), _samples_image(next(iter(folders.values())))
    plot = None if drawn is None else PlotData(type="matplotlib", plot=drawn)
    numbers = page.table(*runs.comparison(folders), "no numbers yet")
    return about, gr.Plot(plot, visible=plot is not None), numbers, gr.Image(image, visible=image is not None)


def seen_now(folders: Folders) -> str:
    """What changes whenever `show` would show something else."""
    shown = [
        (name, runs.status(folder), [runs.stamp(runs.file_of(folder, file)) for file in runs.SHOWN_FILES])
        for name, folder in folders.items()
    ]
    return hashlib.sha256(repr(shown).encode("utf-8", "backslashreplace")).hexdigest()


def _samples_image(folder: Path) -> str | None:
    """The run's image of samples as a file that gradio serves; made once for all who look, again when it has changed."""
    source = runs.file_of(folder, "samples.png")
    if source is None:
        return None
    name = hashlib.sha256(repr(runs.stamp(source)).encode("utf-8", "backslashreplace")).hexdigest()
    shown = Path(get_upload_folder()) / "samples" / name / "samples.png"
    with _saving:
        try:
            if shown.exists():
                os.utime(shown)
            else:
                shown.parent.mkdir(parents=True, exist_ok=True)
                open_image(str(source)).save(shown.with_suffix(".partial"), "PNG")
                shown.with_suffix(".partial").replace(shown)
        except (ImageError, OSError):
            return None
    return str(shown)


def _answers_of(folder: Path, step: str, chosen: str) -> Markup:
    try:
        return page.table(*runs.answers(folder, step, chosen), "none")
    except runs.OtherVersion as error:
        return page.box("cannot be shown", str(error))
