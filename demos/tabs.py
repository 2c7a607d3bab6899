"""Three of the four tabs: try a model, grade a text, play a card game (`demos.runs_tab` is the fourth)."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr

from demos import page, scoring
from demos.answering import Models
from demos.asking import Asking
from demos.components import Choice, Html, Json, Name, Number, Sheet, Text
from demos.games import Game
from demos.model_list import Refused
from demos.page_tasks import PageTasks
from vlrl.envs.cards import GAMES
from vlrl.rewards import REWARDS

ONE_AT_A_TIME = "model"
"""The queue of everything that asks a model."""
OWN = "the task's own"
PAD_PX = 448
PENS: list[str | tuple[str, float]] = ["#c0392b", "#2471a3", "#1e8449", "#d4ac0d", "#111111"]
LOCAL_REWARDS = sorted(name for name, reward in REWARDS.items() if not reward.needs & {"network", "base"})


def try_tab(models: Models, tasks: PageTasks) -> None:
    """Ask a model about an example or an uploaded image; greedy, or a group as GRPO sees it."""
    asking = Asking(models, tasks)
    sample, uploaded = gr.State(None), gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                task = _tasks_list(tasks, "try-task", 140)
                model = models_list(models, models.models.first, "Model", "try-model")
            with gr.Row():
                number = Number(0, label="Example", precision=0, minimum=0, elem_id="try-number", min_width=90)
                upload = gr.UploadButton("Upload an image", file_types=["image"], elem_id="try-upload", min_width=140)
            pad, drawn = _sketch()
            question = Text(label="Question", elem_id="try-question")
            with gr.Row():
                n = gr.Slider(1, 8, 1, step=1, label="Answers", elem_id="try-n", min_width=140)
                temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature", min_width=140)
            ask = gr.Button("Ask", variant="primary", elem_id="try-ask")
        with gr.Column(scale=3, min_width=300):
            shown_image = _image("try-image", "Ground truth boxes are green, predicted boxes red.")
            answer = Html(elem_id="try-answer")
            scores = Html(elem_id="try-scores")
    results = [shown_image, answer, scores]
    shown = [sample, uploaded, question, *results]
    gr.on([task.change, number.change], asking.show_example, [task, number], shown, show_progress="hidden")
    one_at_a_time: dict[str, Any] = {"concurrency_id": "upload", "concurrency_limit": 1}
    upload.upload(asking.take_upload, [upload, task], [sample, uploaded, *results], **one_at_a_time)
    drawn.click(asking.take_drawing, [pad, task], [sample, uploaded, *results], **one_at_a_time)
    ask.click(
        asking.answer_it, [task, model, sample, uploaded, question, n, temperature], results,
        concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal",
    )  # fmt: skip
    _page().load(asking.show_example, [task, number], shown, show_progress="hidden")


def models_list(models: Models, first: str, label: str, name: str) -> Name:
    """The models to choose from, anew whenever the page is opened. A hub id may be typed where that is allowed."""
    listed = models.models.names(first)
    shown = Name(
        listed, value=first, label=label, allow_custom_value=models.models.allow_hub, elem_id=name, min_width=140
    )  # fmt: skip
    _page().load(lambda: Name(choices=models.models.names(first)), None, shown, show_progress="hidden")
    return shown


def _tasks_list(tasks: PageTasks, name: str, width: int) -> Choice:
    return Choice(tasks.names, value=tasks.names[0], label="Task", elem_id=name, min_width=width)


def _sketch() -> tuple[Sheet, gr.Button]:
    """A sheet to draw on, closed at first, and the button that takes the drawing."""
    with gr.Accordion("Draw an image", open=False, elem_id="try-draw"):
        pad = Sheet(
            type="pil", canvas_size=(PAD_PX, PAD_PX), fixed_canvas=True, show_label=False, elem_id="try-pad",
            brush=gr.Brush(default_size=8, default_color="#c0392b", colors=PENS), sources=[], transforms=[], layers=False,
        )  # fmt: skip
        return pad, gr.Button("Use the drawing", elem_id="try-drawn")


def _page() -> gr.Blocks:
    """The page that is being built."""
    blocks = gr.context.Context.root_block
    assert blocks is not None
    return blocks


def _image(name: str, caption: str, height: int = 380) -> gr.Image:
    """An image with its caption below instead of a label over it."""
    shown = gr.Image(
        show_label=False, format="png", interactive=False, elem_id=name, height=height, buttons=["fullscreen", "download"],
    )  # fmt: skip
    Html(page.note(caption))
    return shown


def grade_tab(tasks: PageTasks) -> None:
    """Score any text against a sample, without a model."""
    with gr.Row():
        with gr.Column(min_width=300):
            with gr.Row():
                task = _tasks_list(tasks, "grade-task", 120)
                reward = Choice(
                    [OWN, *LOCAL_REWARDS],
                    value=OWN,
                    label="Rewards",
                    elem_id="grade-reward",
                    min_width=160,
                )
            text = Text(label="Completion", lines=5, elem_id="grade-text")
            sample = Json(
                label="Sample (JSON)", language="json", lines=8, max_lines=16, elem_id="grade-sample", elem_classes="vl-code"
            )  # fmt: skip
        with gr.Column(min_width=300):
            image = _image("grade-image", "Ground truth boxes are green, predicted boxes red.")
            read = Html(elem_id="grade-read")
            scores = Html(elem_id="grade-scores")

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


def look_at(game: Game) -> tuple[Any, ...]:
    tokens = game.tokens
    lines = page.table(["step", "thought", "move", "reward", "corrector"], game.lines)
    return game, game.image, gr.Radio(choices=tokens, value=None), page.box("game", game.status), lines


def deal(name: str, seed: float | None) -> Any:
    return look_at(Game(name, max(0, int(seed or 0))))


def play_tab(models: Models) -> None:
    """A card game by hand, or by an agent, with the corrector's verdict on every thought."""
    table = gr.State(None)
    with gr.Row():
        with gr.Column(min_width=280):
            image = _image("play-image", "What the player sees.", 320)
        with gr.Column(min_width=280):
            with gr.Row():
                name = Choice(list(GAMES), value="points24", label="Game", elem_id="play-game", min_width=120)
                seed = Number(17, label="Deal number", precision=0, minimum=0, elem_id="play-seed", min_width=100)
            new = gr.Button("New deal", elem_id="play-new")
            move = gr.Radio([], label="Move", elem_id="play-move")
            thought = Text(label="Thought (checked by the corrector)", elem_id="play-thought")
            play = gr.Button("Play", variant="primary", elem_id="play-play")
            agent = models_list(models, "tiny-cards", "Agent", "play-agent")
            step = gr.Button("Let the agent move", elem_id="play-step")
            status = Html(elem_id="play-status")
    history = Html(elem_id="play-history")
    shown = [table, image, move, status, history]

    def by_hand(game: Game | None, token: str | None, thought: str | None) -> Any:
        if game is None or game.episode.done:
            raise page.error("the game is over; start a new deal")
        if token not in game.tokens:
            raise page.error("choose a move first")
        game.play_token(token, (thought or "")[:2000])
        return (*look_at(game), "")

    def by_agent(game: Game | None, model: str) -> Iterator[Any]:
        if game is None or game.episode.done:
            raise page.error("the game is over; start a new deal")
        try:
            sample, texts = models.prepare_sample(model, game.state_sample(), None), [""]
            for text in models.stream(model, sample, None):
                texts.append(text)
                yield (gr.skip(),) * len(shown)  # at each of these, a visitor who has left is noticed
        except Refused as error:
            raise page.error(error) from error
        game.play_reply(texts[-1])
        yield look_at(game)

    new.click(lambda: secrets.randbelow(10**6), None, seed, show_progress="hidden")
    gr.on([name.change, seed.change], deal, [name, seed], shown, show_progress="hidden")
    play.click(by_hand, [table, move, thought], [*shown, thought], show_progress="hidden")
    step.click(
        by_agent, [table, agent], shown, concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal"
    )  # fmt: skip
    _page().load(deal, [name, seed], shown, show_progress="hidden")
