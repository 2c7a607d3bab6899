"""The four tabs: try a model, grade a text, look at runs, play a card game."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from demos import page, runs, scoring
from demos.answering import Models, Refused
from demos.asking import Asking
from demos.games import Game
from demos.page_tasks import PageTasks
from demos.runs import FILTERS, Runs
from vlrl.envs.cards import GAMES
from vlrl.rewards import REWARDS

ONE_AT_A_TIME = "model"
"""The queue of everything that asks a model."""
OWN = "the task's own"
PAD_PX = 448
PENS: list[str | tuple[str, float]] = ["#c0392b", "#2471a3", "#1e8449", "#d4ac0d", "#111111"]
LOCAL_REWARDS = sorted(name for name, reward in REWARDS.items() if not reward.needs & {"network", "base"})


def try_tab(models: Models, shelf: Runs, tasks: PageTasks, default_model: str) -> None:
    """Ask a model about an example or an uploaded image; greedy, or a group as GRPO sees it."""
    asking = Asking(models, tasks)
    sample, uploaded = gr.State(None), gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                task = _tasks_list(tasks, "try-task", 140)
                model = gr.Dropdown(
                    [default_model, *(m for m in ["tiny", *shelf.models()] if m != default_model)], value=default_model,
                    label="Model", allow_custom_value=True, elem_id="try-model", min_width=140,
                )  # fmt: skip
            with gr.Row():
                number = gr.Number(0, label="Example", precision=0, minimum=0, elem_id="try-number", min_width=90)
                upload = gr.UploadButton("Upload an image", file_types=["image"], elem_id="try-upload", min_width=140)
            pad, drawn = _sketch()
            question = gr.Textbox(label="Question", elem_id="try-question")
            with gr.Row():
                n = gr.Slider(1, 8, 1, step=1, label="Answers", elem_id="try-n", min_width=140)
                temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature", min_width=140)
            ask = gr.Button("Ask", variant="primary", elem_id="try-ask")
        with gr.Column(scale=3, min_width=300):
            shown_image = _image("try-image", "Ground truth boxes are green, predicted boxes red.")
            answer = gr.HTML(elem_id="try-answer")
            scores = gr.HTML(elem_id="try-scores")
    results = [shown_image, answer, scores]
    shown = [sample, uploaded, question, *results]
    gr.on([task.change, number.change], asking.show_example, [task, number], shown, show_progress="hidden")
    upload.upload(asking.take_upload, [upload, task], [sample, uploaded, *results])
    drawn.click(asking.take_drawing, [pad, task], [sample, uploaded, *results])
    ask.click(
        asking.answer_it, [task, model, sample, uploaded, question, n, temperature], results,
        concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal",
    )  # fmt: skip
    _page().load(asking.show_example, [task, number], shown, show_progress="hidden")


def _tasks_list(tasks: PageTasks, name: str, width: int) -> gr.Dropdown:
    return gr.Dropdown(tasks.names, value=tasks.names[0], label="Task", elem_id=name, min_width=width)


def _sketch() -> tuple[gr.Sketchpad, gr.Button]:
    """A sheet to draw on, closed at first, and the button that takes the drawing."""
    with gr.Accordion("Draw an image", open=False, elem_id="try-draw"):
        pad = gr.Sketchpad(
            type="pil", canvas_size=(PAD_PX, PAD_PX), fixed_canvas=True, show_label=False, elem_id="try-pad",
            brush=gr.Brush(default_size=8, default_color="#c0392b", colors=PENS), sources=[], transforms=[], layers=False,
        )  # fmt: skip
        return pad, gr.Button("Use the drawing", elem_id="try-drawn")


def _page() -> gr.Blocks:
    """The page that is being built."""
    blocks = gr.context.Context.root_block
    assert blocks is not None
    return blocks


def _plot(figure: Any) -> Any:
    return gr.Plot(figure, visible=figure is not None)


def _shown(image: Image.Image | None) -> Any:
    return gr.Image(image, visible=image is not None)


def _image(name: str, caption: str, height: int = 380) -> gr.Image:
    """An image with its caption below instead of a label over it."""
    shown = gr.Image(
        show_label=False, format="png", interactive=False, elem_id=name, height=height, buttons=["fullscreen", "download"],
    )  # fmt: skip
    gr.HTML(f"<p class='vl-none'>{caption}</p>")
    return shown


def grade_tab(tasks: PageTasks) -> None:
    """Score any text against a sample, without a model."""
    with gr.Row():
        with gr.Column(min_width=300):
            with gr.Row():
                task = _tasks_list(tasks, "grade-task", 120)
                reward = gr.Dropdown(
                    [OWN, *LOCAL_REWARDS],
                    value=OWN,
                    label="Rewards",
                    elem_id="grade-reward",
                    min_width=160,
                )
            text = gr.Textbox(label="Completion", lines=5, elem_id="grade-text")
            sample = gr.Code(
                label="Sample (JSON)", language="json", lines=8, max_lines=16, elem_id="grade-sample", elem_classes="vl-code"
            )  # fmt: skip
        with gr.Column(min_width=300):
            image = _image("grade-image", "Ground truth boxes are green, predicted boxes red.")
            read = gr.HTML(elem_id="grade-read")
            scores = gr.HTML(elem_id="grade-scores")

    def fill(task: str, reward: str) -> Any:
        chosen = tasks.example(task, 0)
        written, completion = tasks.as_text(chosen), tasks.reference(scoring.nearly(chosen))
        return written, completion, *grade(written, completion, reward)

    def grade(sample_text: str | None, text: str | None, reward: str) -> Any:
        if not sample_text:
            return None, "", ""
        text = text or ""
        try:
            chosen = tasks.read_sample(sample_text)
            scored = scoring.score(chosen, [text], tasks.tasks, None if reward == OWN else [reward])[0]
            parsed = scoring.parsed(scored, text, chosen)
            read_answer = page.box("parsed answer", parsed, "none: no answer could be read")
            return scoring.draw_image(tasks[chosen.task], chosen, text), read_answer, page.rewards(scored)
        except ValueError as error:
            return None, page.box("cannot be scored", str(error)), ""

    shown = [image, read, scores]
    # What a person types is graded as it is typed. An example is graded where it is filled in: texts that change one after the
    # other would be graded in between.
    task.change(fill, [task, reward], [sample, text, *shown], show_progress="hidden")
    gr.on(
        [sample.input, text.input, reward.input], grade, [sample, text, reward], shown, show_progress="hidden",
        concurrency_limit=8, trigger_mode="always_last",
    )  # fmt: skip
    _page().load(fill, [task, reward], [sample, text, *shown], show_progress="hidden")


def runs_tab(shelf: Runs) -> None:
    """Curves, numbers, images and completions of one run, or of two."""
    names = shelf.names()
    with gr.Row():
        first = gr.Dropdown(names, value=names[0] if names else None, label="Run", elem_id="runs-first")
        second = gr.Dropdown(["–", *names], value="–", label="Compare with (dashed)", elem_id="runs-second")
        again = gr.Button("Refresh", elem_id="runs-again", min_width=100, scale=0)
    status = gr.HTML(elem_id="runs-status")
    plot = gr.Plot(show_label=False, elem_id="runs-plot", visible=False)
    numbers = gr.HTML(elem_id="runs-numbers")
    samples = gr.Image(
        show_label=False, format="png", interactive=False, visible=False, elem_id="runs-samples", height=None,
        buttons=["fullscreen", "download"],
    )  # fmt: skip
    with gr.Row():
        step = gr.Dropdown([], label="Completions of", elem_id="runs-step")
        chosen = gr.Dropdown(list(FILTERS), value="all", label="Show", elem_id="runs-filter")
    rows = gr.HTML(elem_id="runs-rows")
    timer = gr.Timer(5)

    def look(first: str | None, second: str | None) -> Any:
        if not first:
            nothing = page.box("no runs", "", f"{shelf.root} holds no runs; train one, or give another folder with --run_root")
            return nothing, _plot(None), "", _shown(None)
        try:
            folders = {first: shelf.folder(first)}
            if second and second != "–" and second != first:
                folders[second] = shelf.folder(second)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        about = "".join(page.box(name, runs.status(folder)) for name, folder in folders.items())
        found = folders[first] / "samples.png"
        drawn = Image.open(found).convert("RGB") if found.is_file() else None
        return about, _plot(runs.curves(folders)), page.table(*runs.comparison(folders), "no numbers yet"), _shown(drawn)

    def steps(first: str | None) -> Any:
        known = runs.logged(shelf.folder(first)) if first else []
        return gr.Dropdown(choices=known, value=known[0] if known else None)

    def names_now() -> Any:
        known = shelf.names()
        return gr.Dropdown(choices=known), gr.Dropdown(choices=["–", *known])

    def show_rows(first: str | None, step: str | None, chosen: str) -> str:
        return _answers_of(shelf.folder(first), step, chosen) if first and step else ""

    outputs = [status, plot, numbers, samples]
    gr.on([first.change, second.change, timer.tick, again.click], look, [first, second], outputs, show_progress="hidden")
    again.click(names_now, None, [first, second], show_progress="hidden")
    asked = [first, step, chosen]
    # Another run may have rows under the same step, whose list then does not change.
    renewed = gr.on([first.change, again.click], steps, first, step, show_progress="hidden")
    renewed.then(show_rows, asked, rows, show_progress="hidden")
    gr.on([step.change, chosen.change], show_rows, asked, rows, show_progress="hidden")
    _page().load(look, [first, second], outputs, show_progress="hidden")
    _page().load(steps, first, step, show_progress="hidden")


def _answers_of(folder: Path, step: str, chosen: str) -> str:
    try:
        return page.table(*runs.answers(folder, step, chosen), "none")
    except runs.OtherVersion as error:
        return page.box("cannot be shown", str(error))


def look_at(game: Game) -> Any:
    tokens = game.tokens
    lines = page.table(["step", "thought", "move", "reward", "corrector"], game.lines)
    return game, game.image, gr.Radio(choices=tokens, value=None), page.box("game", game.status), lines


def deal(name: str, seed: float | None) -> Any:
    return look_at(Game(name, max(0, int(seed or 0))))


def play_tab(models: Models, shelf: Runs) -> None:
    """A card game by hand, or by an agent, with the corrector's verdict on every thought."""
    table = gr.State(None)
    with gr.Row():
        with gr.Column(min_width=280):
            image = _image("play-image", "What the player sees.", 320)
        with gr.Column(min_width=280):
            with gr.Row():
                name = gr.Dropdown(list(GAMES), value="points24", label="Game", elem_id="play-game", min_width=120)
                seed = gr.Number(17, label="Deal number", precision=0, minimum=0, elem_id="play-seed", min_width=100)
            new = gr.Button("New deal", elem_id="play-new")
            move = gr.Radio([], label="Move", elem_id="play-move")
            thought = gr.Textbox(label="Thought (checked by the corrector)", elem_id="play-thought")
            play = gr.Button("Play", variant="primary", elem_id="play-play")
            agent = gr.Dropdown(
                ["tiny-cards", *shelf.models()],
                value="tiny-cards",
                label="Agent",
                allow_custom_value=True,
                elem_id="play-agent",
            )
            step = gr.Button("Let the agent move", elem_id="play-step")
            status = gr.HTML(elem_id="play-status")
    history = gr.HTML(elem_id="play-history")
    shown = [table, image, move, status, history]

    def by_hand(game: Game | None, token: str | None, thought: str) -> Any:
        if game is None or game.episode.done:
            raise gr.Error("the game is over; start a new deal")
        if token not in game.tokens:
            raise gr.Error("choose a move first")
        game.play_token(token, thought[:2000])
        return (*look_at(game), "")

    def by_agent(game: Game | None, model: str) -> Any:
        if game is None or game.episode.done:
            raise gr.Error("the game is over; start a new deal")
        try:
            sample = models.prepare_sample(model, game.state_sample(), None)
            *_, text = models.stream(model, sample, None)
        except Refused as error:
            raise gr.Error(str(error)) from error
        game.play_reply(text)
        return look_at(game)

    new.click(lambda: secrets.randbelow(10**6), None, seed, show_progress="hidden")
    gr.on([name.change, seed.change], deal, [name, seed], shown, show_progress="hidden")
    play.click(by_hand, [table, move, thought], [*shown, thought], show_progress="hidden")
    step.click(
        by_agent, [table, agent], shown, concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal"
    )  # fmt: skip
    _page().load(deal, [name, seed], shown, show_progress="hidden")
