"""The four tabs: try a model, grade a text, look at runs, play a card game."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr
from PIL import Image

from demos import page, runs, scoring
from demos.answering import Models, Refused, open_drawing, open_upload
from demos.games import Table
from demos.runs import FILTERS, Runs
from vlrl.envs.cards import GAMES
from vlrl.rewards import REWARDS
from vlrl.schema import Sample, SampleError
from vlrl.tasks import TASKS

ONE_AT_A_TIME = "model"
"""The queue of everything that asks a model."""
OWN = "its own"
PAD_PX = 448
PENS = ["#c0392b", "#2471a3", "#1e8449", "#d4ac0d", "#111111"]
LOCAL_REWARDS = sorted(name for name, reward in REWARDS.items() if not reward.needs & {"network", "base"})


def try_tab(models: Models, shelf: Runs, default_model: str) -> None:
    """Ask a model about an example or an uploaded picture; greedy, or a group as GRPO sees it."""
    sample = gr.State(None)
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            with gr.Row():
                task = gr.Dropdown(list(TASKS), value="detection", label="Task", elem_id="try-task", min_width=140)
                model = gr.Dropdown(
                    [default_model, *(m for m in ["tiny", *shelf.models()] if m != default_model)], value=default_model,
                    label="Model", allow_custom_value=True, elem_id="try-model", min_width=140,
                )  # fmt: skip
            with gr.Row():
                number = gr.Number(0, label="Example", precision=0, minimum=0, elem_id="try-number", min_width=90)
                upload = gr.UploadButton("Upload a picture", file_types=["image"], elem_id="try-upload", min_width=140)
            with gr.Accordion("Draw a picture", open=False, elem_id="try-draw"):
                pad = gr.Sketchpad(
                    type="pil", canvas_size=(PAD_PX, PAD_PX), fixed_canvas=True, show_label=False, elem_id="try-pad",
                    brush=gr.Brush(default_size=8, default_color=PENS[0], colors=PENS), sources=[], transforms=[], layers=False,
                )  # fmt: skip
                drawn = gr.Button("Use the drawing", elem_id="try-drawn")
            question = gr.Textbox(label="Question", elem_id="try-question")
            with gr.Row():
                n = gr.Slider(1, 8, 1, step=1, label="Answers", elem_id="try-n", min_width=140)
                temperature = gr.Slider(0.1, 2.0, 1.0, step=0.1, label="Temperature", min_width=140)
            ask = gr.Button("Ask", variant="primary", elem_id="try-ask")
        with gr.Column(scale=3, min_width=300):
            picture = _picture("try-picture", "True boxes green, given ones red.")
            answer = gr.HTML(elem_id="try-answer")
            scores = gr.HTML(elem_id="try-scores")
    image = gr.State(None)

    def show_example(task: str, number: float | None) -> Any:
        chosen = scoring.example(task, max(0, int(number or 0)))
        return chosen, None, chosen.question, scoring.picture(chosen, None), "", ""

    def take_upload(path: str, task: str) -> Any:
        try:
            return with_own(open_upload(path), task)
        except Refused as error:
            raise gr.Error(str(error)) from error

    def take_drawing(drawing: dict[str, Any] | None, task: str) -> Any:
        try:
            return with_own(open_drawing(drawing), task)
        except Refused as error:
            raise gr.Error(str(error)) from error

    def with_own(opened: Image.Image, task: str) -> Any:
        chosen = Sample("upload", task, "", None, ("upload",))
        return chosen, opened, scoring.picture(chosen, None, opened), "", ""

    def answer_it(
        task: str, model: str, chosen: Sample | None, opened: Image.Image | None, question: str, n: float, temperature: float
    ) -> Iterator[Any]:
        try:
            chosen = _asked(chosen, task, question)
            yield None, page.box("answer", "", "asking …"), ""
            chosen = models.prepare_sample(model, chosen, opened)
            if n > 1:
                texts = models.group(model, chosen, int(n), float(temperature), opened)
                yield scoring.picture(chosen, texts[0], opened), "", _group(chosen, list(texts))
                return
            text = ""
            for text in models.stream(model, chosen, opened):
                yield None, _answer(text, chosen), ""
            yield scoring.picture(chosen, text, opened), _answer(text, chosen), page.rewards(_scores(chosen, [text])[0])
        except Refused as error:
            raise gr.Error(str(error)) from error

    shown = [sample, image, question, picture, answer, scores]
    gr.on([task.change, number.change], show_example, [task, number], shown, show_progress="hidden")
    upload.upload(take_upload, [upload, task], [sample, image, picture, answer, scores])
    drawn.click(take_drawing, [pad, task], [sample, image, picture, answer, scores])
    ask.click(
        answer_it, [task, model, sample, image, question, n, temperature], [picture, answer, scores],
        concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal",
    )  # fmt: skip
    blocks = gr.context.Context.root_block
    assert blocks is not None
    blocks.load(show_example, [task, number], shown, show_progress="hidden")


def _plot(figure: Any) -> Any:
    return gr.Plot(figure, visible=figure is not None)


def _shown(picture: Image.Image | None) -> Any:
    return gr.Image(picture, visible=picture is not None)


def _picture(name: str, caption: str, height: int = 380) -> gr.Image:
    """A place for a picture, with words below instead of a label over it."""
    shown = gr.Image(
        show_label=False, format="png", interactive=False, elem_id=name, height=height, buttons=["fullscreen", "download"],
    )  # fmt: skip
    gr.HTML(f"<p class='vl-none'>{caption}</p>")
    return shown


def _asked(chosen: Sample | None, task: str, question: str) -> Sample:
    """The sample with the question that stands on the page (in detection: the classes asked for, with commas between); with
    another question its answer is not known."""
    if chosen is None:
        chosen = scoring.example(task, 0)
    question = question.strip()[:2000]
    if not question:
        raise Refused("ask something: the question is empty")
    if question == chosen.question:
        return chosen
    meta = {**chosen.meta}
    if task == "detection":
        meta["categories"] = [name for part in question.split(",") if (name := part.strip())] or [question]
    return dataclasses.replace(chosen, question=question, answer=None, choices=None, meta=meta)


def _scores(sample: Sample, texts: list[str]) -> list[list[scoring.Scored]]:
    return [[] for _ in texts] if sample.answer is None else scoring.score(sample, texts)


def _answer(text: str, sample: Sample) -> str:
    thought, answer = scoring.parts(text, sample)
    shown = page.box("thought", thought, "none yet") + page.box("answer", answer, "none yet")
    return shown if thought or answer else page.box("what was written", text, "nothing yet")


def _group(sample: Sample, texts: list[str]) -> str:
    scored = _scores(sample, texts)
    totals = [scoring.total(one) for one in scored]
    rows = []
    for i, (text, one, worth) in enumerate(zip(texts, scored, scoring.advantages(totals), strict=True), start=1):
        values = ", ".join(f"{s.reward} {s.value:.3g}" for s in one if s.value is not None) or "–"
        rows.append([str(i), page.signed(worth), values, text])
    return page.table(["", "advantage", "rewards", "answer"], rows)


def grade_tab() -> None:
    """Score any text against a sample, without a model."""
    with gr.Row():
        with gr.Column(min_width=300):
            with gr.Row():
                task = gr.Dropdown(list(TASKS), value="detection", label="Example of", elem_id="grade-task", min_width=120)
                reward = gr.Dropdown(
                    [OWN, *LOCAL_REWARDS],
                    value=OWN,
                    label="Reward",
                    elem_id="grade-reward",
                    min_width=160,
                )
            text = gr.Textbox(label="Completion", lines=5, elem_id="grade-text")
            sample = gr.Code(
                label="Sample (JSON)", language="json", lines=8, max_lines=16, elem_id="grade-sample", elem_classes="vl-code"
            )  # fmt: skip
        with gr.Column(min_width=300):
            picture = _picture("grade-picture", "True boxes green, read ones red.")
            read = gr.HTML(elem_id="grade-read")
            scores = gr.HTML(elem_id="grade-scores")

    def fill(task: str, reward: str) -> Any:
        chosen = scoring.example(task, 0)
        written, said = scoring.as_text(chosen), TASKS[task].reference(scoring.nearly(chosen))
        return written, said, *grade(written, said, reward)

    def grade(sample_text: str | None, text: str | None, reward: str) -> Any:
        if not sample_text:
            return None, "", ""
        text = text or ""
        try:
            chosen = scoring.read_sample(sample_text)
            scored = scoring.score(chosen, [text], None if reward == OWN else [reward])[0]
            said = json.dumps(scored[0].answer, ensure_ascii=False, default=str) if scored else ""
            return scoring.picture(chosen, text), page.box("what was read", said, "nothing"), page.rewards(scored)
        except (SampleError, ValueError) as error:
            return None, page.box("this cannot be graded", str(error)), ""

    shown = [picture, read, scores]
    # What a person types is graded as it is typed. An example is graded where it is filled in: texts that change one after the
    # other would be graded in between.
    task.change(fill, [task, reward], [sample, text, *shown], show_progress="hidden")
    gr.on(
        [sample.input, text.input, reward.input], grade, [sample, text, reward], shown, show_progress="hidden",
        concurrency_limit=8, trigger_mode="always_last",
    )  # fmt: skip
    blocks = gr.context.Context.root_block
    assert blocks is not None
    blocks.load(fill, [task, reward], [sample, text, *shown], show_progress="hidden")


def runs_tab(shelf: Runs) -> None:
    """Curves, numbers, pictures and completions of one run, or of two."""
    names = shelf.names()
    with gr.Row():
        first = gr.Dropdown(names, value=names[0] if names else None, label="Run", elem_id="runs-first")
        second = gr.Dropdown(["–", *names], value="–", label="Compare with (dashed)", elem_id="runs-second")
        again = gr.Button("Look again", elem_id="runs-again", min_width=100, scale=0)
    told = gr.HTML(elem_id="runs-told")
    plot = gr.Plot(show_label=False, elem_id="runs-plot", visible=False)
    numbers = gr.HTML(elem_id="runs-numbers")
    pictures = gr.Image(
        label="true black, before red, after blue", format="png", interactive=False, visible=False,
        elem_id="runs-pictures", height=None, buttons=["fullscreen", "download"],
    )  # fmt: skip
    with gr.Row():
        step = gr.Dropdown([], label="Answers of", elem_id="runs-step")
        chosen = gr.Dropdown(list(FILTERS), value="all", label="Show", elem_id="runs-filter")
    rows = gr.HTML(elem_id="runs-rows")
    timer = gr.Timer(5)

    def look(first: str | None, second: str | None) -> Any:
        if not first:
            nothing = page.box("no runs", "", f"{shelf.root} holds no runs; train one, or name another folder by --run_root")
            return nothing, _plot(None), "", _shown(None)
        try:
            folders = {first: shelf.folder(first)}
            if second and second != "–" and second != first:
                folders[second] = shelf.folder(second)
        except ValueError as error:
            raise gr.Error(str(error)) from error
        status = "".join(page.box(name, runs.status(folder)) for name, folder in folders.items())
        found = folders[first] / "samples.png"
        picture = Image.open(found).convert("RGB") if found.is_file() else None
        return status, _plot(runs.curves(folders)), page.table(*runs.comparison(folders), "no numbers yet"), _shown(picture)

    def steps(first: str | None) -> Any:
        known = runs.logged(shelf.folder(first)) if first else []
        return gr.Dropdown(choices=known, value=known[0] if known else None)

    def names_now() -> Any:
        known = shelf.names()
        return gr.Dropdown(choices=known), gr.Dropdown(choices=["–", *known])

    def show_rows(first: str | None, step: str | None, chosen: str) -> str:
        if not first or not step:
            return ""
        return page.table(*runs.answers(shelf.folder(first), step, chosen), "none")

    outputs = [told, plot, numbers, pictures]
    gr.on([first.change, second.change, timer.tick, again.click], look, [first, second], outputs, show_progress="hidden")
    again.click(names_now, None, [first, second], show_progress="hidden")
    gr.on([first.change, again.click], steps, first, step, show_progress="hidden")
    gr.on([step.change, chosen.change], show_rows, [first, step, chosen], rows, show_progress="hidden")
    blocks = gr.context.Context.root_block
    assert blocks is not None
    blocks.load(look, [first, second], outputs, show_progress="hidden")
    blocks.load(steps, first, step, show_progress="hidden")


def play_tab(models: Models, shelf: Runs) -> None:
    """A card game by hand, or by an agent, with the corrector's remark on every thought."""
    table = gr.State(None)
    with gr.Row():
        with gr.Column(min_width=280):
            picture = _picture("play-picture", "What a player sees.", 320)
        with gr.Column(min_width=280):
            with gr.Row():
                name = gr.Dropdown(list(GAMES), value="points24", label="Game", elem_id="play-game", min_width=120)
                seed = gr.Number(17, label="Deal", precision=0, minimum=0, elem_id="play-seed", min_width=100)
            new = gr.Button("New deal", elem_id="play-new")
            move = gr.Radio([], label="Move", elem_id="play-move")
            thought = gr.Textbox(label="Thought (the corrector judges it)", elem_id="play-thought")
            play = gr.Button("Play", variant="primary", elem_id="play-play")
            agent = gr.Dropdown(
                ["tiny-cards", *shelf.models()],
                value="tiny-cards",
                label="Agent",
                allow_custom_value=True,
                elem_id="play-agent",
            )
            step = gr.Button("Let the agent move", elem_id="play-step")
            told = gr.HTML(elem_id="play-told")
    history = gr.HTML(elem_id="play-history")
    shown = [table, picture, move, told, history]

    def look(game: Table) -> Any:
        tokens = game.tokens
        lines = page.table(["step", "thought", "move", "reward", "corrector"], game.lines)
        return game, game.picture, gr.Radio(choices=tokens, value=None), page.box("game", game.told), lines

    def deal(name: str, seed: float | None) -> Any:
        return look(Table(name, max(0, int(seed or 0))))

    def by_hand(game: Table | None, token: str | None, thought: str) -> Any:
        if game is None or game.episode.done:
            raise gr.Error("the game is over; deal anew")
        if token not in game.tokens:
            raise gr.Error("choose a move first")
        game.play_token(token, thought[:2000])
        return (*look(game), "")

    def by_agent(game: Table | None, model: str) -> Any:
        if game is None or game.episode.done:
            raise gr.Error("the game is over; deal anew")
        try:
            sample = models.prepare_sample(model, game.state_sample(), None)
            *_, text = models.stream(model, sample, None)
        except Refused as error:
            raise gr.Error(str(error)) from error
        game.play_reply(text)
        return look(game)

    new.click(lambda: secrets.randbelow(10**6), None, seed, show_progress="hidden")
    gr.on([name.change, seed.change], deal, [name, seed], shown, show_progress="hidden")
    play.click(by_hand, [table, move, thought], [*shown, thought], show_progress="hidden")
    step.click(
        by_agent, [table, agent], shown, concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal"
    )  # fmt: skip
    blocks = gr.context.Context.root_block
    assert blocks is not None
    blocks.load(deal, [name, seed], shown, show_progress="hidden")
