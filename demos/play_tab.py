"""The tab "Play": a card game by hand or by an agent, with goal, hint and the corrector's verdict; logged episodes again."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import gradio as gr

from demos import episodes, figures, page
from demos.answering import Models
from demos.components import Choice, Html, Name, Number, Text
from demos.episodes import Logged
from demos.games import Game, meaning
from demos.model_list import Refused
from demos.runs import Runs
from demos.try_tab import ONE_AT_A_TIME, models_list, page_of
from vlrl.data.markup import Markup, markup
from vlrl.envs.cards import GAMES, thought_fields

QUIET: dict[str, Any] = {"show_progress": "hidden"}
OVER = "the game is over; start a new deal"


def look_at(game: Game, message: Markup | None = None) -> tuple[Any, ...]:
    """Game, image, moves, goal and status, history; `message`: what is said beside the status."""
    image = figures.figure([game.image], f"What the player sees. {game.described}")
    lines = page.table(["step", "thought", "move", "reward", "corrector"], game.lines, "No move yet.", "moves of the game")
    choices = [(meaning(token), token) for token in game.tokens]
    info = "Legal now. Whatever else an agent writes is replaced by a random move." if choices else "The game is over."
    status = page.verdict(game.goal) + page.box("game", game.status) + (message or markup(""))
    return game, image, gr.Radio(choices=choices, value=None, info=info), status, lines


def deal(name: str, seed: float | None) -> Any:
    return look_at(Game(name, max(0, int(seed or 0))))


def by_hand(game: Game | None, token: str | None, thought: str | None) -> Any:
    """Play a move. A message where there is none to play."""
    if game is None:
        return *(gr.skip(),) * 3, page.problem("no game", "start a new deal"), gr.skip(), gr.skip()
    if game.episode.done or token not in game.tokens:
        why = OVER if game.episode.done else "choose a move first"
        return *look_at(game, page.problem("not played", why)), gr.skip()
    game.play_token(token, (thought or "")[:2000])
    return *look_at(game), ""


def hint(game: Game | None) -> Any:
    if game is None:
        return (gr.skip(),) * 5
    return look_at(game, page.box("hint", game.hint(), OVER))


def play_tab(models: Models) -> None:
    """A card game by hand, or by an agent, with the corrector's verdict on every thought."""
    table = gr.State(None)
    with gr.Row(elem_classes="vl-columns"):
        with gr.Column(scale=5, min_width=280):
            image = Html(elem_id="play-image")
        with gr.Column(scale=6, min_width=280):
            with gr.Row():
                name = Choice(list(GAMES), value="points24", label="Game", elem_id="play-game", min_width=120)
                seed = Number(17, label="Deal number", precision=0, minimum=0, elem_id="play-seed", min_width=100)
            status = Html(elem_id="play-status", elem_classes="vl-live")
            move = gr.Radio([], label="Move", elem_id="play-move")
            thought = Text(label="Thought, if you like: the corrector judges it", elem_id="play-thought")
            with gr.Row():
                play = gr.Button("Play", variant="primary", elem_id="play-play", min_width=90)
                clue = gr.Button("Hint", elem_id="play-hint", min_width=90)
                new = gr.Button("New deal", elem_id="play-new", min_width=90)
        with gr.Column(scale=5, min_width=280):
            with gr.Row():
                agent = models_list(models, "tiny-cards", "Agent", "play-agent")
                step = gr.Button("Let the agent move", elem_id="play-step", min_width=120, size="sm")
            history = Html(elem_id="play-history")
    shown = [table, image, move, status, history]

    def by_agent(game: Game | None, model: str) -> Iterator[Any]:
        if game is None or game.episode.done:
            yield (gr.skip(),) * 5 if game is None else look_at(game, page.problem("not played", OVER))
            return
        try:
            sample, texts = models.prepare_sample(model, game.state_sample(), None), [""]
            for text in models.stream(model, sample, None):
                texts.append(text)
                yield (gr.skip(),) * len(shown)  # at each of these, a visitor who has left is noticed
        except Refused as error:
            yield look_at(game, page.problem("the agent cannot be asked", error))
            return
        game.play_reply(texts[-1])
        yield look_at(game)

    new.click(lambda: secrets.randbelow(10**6), None, seed, **QUIET)
    gr.on([name.change, seed.change], deal, [name, seed], shown, **QUIET)
    gr.on([play.click, thought.submit], by_hand, [table, move, thought], [*shown, thought], **QUIET)
    clue.click(hint, table, shown, **QUIET)
    step.click(
        by_agent, [table, agent], shown, concurrency_id=ONE_AT_A_TIME, concurrency_limit=1, show_progress="minimal"
    )  # fmt: skip
    page_of().load(deal, [name, seed], shown, **QUIET)
    _replay(models.models.shelf)


def _replay(shelf: Runs) -> None:
    """A logged episode, step by step."""
    with gr.Accordion("Replay an episode that a run has logged", open=False, elem_id="play-replay"):
        with gr.Row():
            run = Name(shelf.names(), value=None, label="Run", elem_id="replay-run", min_width=160)
            log = Name([], label="Log", elem_id="replay-log", min_width=160)
            number = Number(0, label="Episode", precision=0, minimum=0, elem_id="replay-number", min_width=80)
            at = Number(1, label="Step", precision=0, minimum=1, elem_id="replay-step", min_width=80)
        with gr.Row():
            back = gr.Button("Previous step", elem_id="replay-back", min_width=120)
            on = gr.Button("Next step", elem_id="replay-on", min_width=120)
        with gr.Row(elem_classes="vl-columns"):
            with gr.Column(scale=5, min_width=280):
                image = Html(elem_id="replay-image")
            with gr.Column(scale=11, min_width=280):
                said = Html(elem_id="replay-said", elem_classes="vl-live")

    def logs_of(run: str | None) -> Any:
        known = _logs(shelf, run)
        return Name(choices=known, value=known[0] if known else None), 0, 1

    def show(run: str | None, log: str | None, number: float | None, at: float | None) -> Any:
        return replayed(shelf, run, log, int(number or 0), int(at or 1))

    def moved(at: float | None, by: int) -> int:
        return max(1, int(at or 1) + by)

    page_of().load(lambda: Name(choices=shelf.names()), None, run, **QUIET)
    asked, results = [run, log, number, at], [image, said, at]
    chosen = run.change(logs_of, run, [log, number, at], **QUIET)
    chosen.then(show, asked, results, **QUIET)
    renewed = gr.on([log.input, number.input], lambda: 1, None, at, **QUIET)
    renewed.then(show, asked, results, **QUIET)
    at.input(show, asked, results, **QUIET)
    back.click(lambda at: moved(at, -1), at, at, **QUIET).then(show, asked, results, **QUIET)
    on.click(lambda at: moved(at, 1), at, at, **QUIET).then(show, asked, results, **QUIET)


def _logs(shelf: Runs, run: str | None) -> list[str]:
    try:
        return episodes.logs(shelf.folder(run)) if run else []
    except ValueError:
        return []


def replayed(shelf: Runs, run: str | None, log: str | None, number: int, at: int) -> tuple[Any, Any, Any]:
    """Image, words and step (from 1) of a moment of a logged episode."""
    if not run or not log:
        return "", page.note("Choose a run and one of its logs."), gr.skip()
    try:
        found = episodes.episodes(shelf.folder(run), log)
    except ValueError as error:  # no such run, no episodes
        return "", page.problem("nothing to replay", error), gr.skip()
    logged = found[min(number, len(found) - 1)]
    played = logged.played()
    if not played:
        return "", page.problem("nothing to replay", "this episode has no reply"), gr.skip()
    at = max(1, min(at, len(played)))
    seen = episodes.moment(logged, played, at - 1)
    image = figures.figure([seen.image], f"What the player saw. {seen.description}")
    title = f"episode {min(number, len(found) - 1)} of {len(found)}: {logged.id}"
    words = page.verdict(seen.goal) + page.box(title, seen.status) + page.box("reply", played[at - 1].turn.reply)
    return image, words + _steps(logged, played, at - 1), at


def _steps(logged: Logged, played: Any, at: int) -> Markup:
    rows = []
    for t, one in enumerate(played):
        fields = thought_fields(one.turn.reply, logged.rules, one.turn.ended)
        verdict = "not valid" if fields is None else logged.rules.problem(one.state, fields) or "right"
        move = one.token if one.action is not None else f"{one.token} (random)"
        thought = one.turn.reply if fields is None else str(fields.get("thoughts", ""))
        rows.append([f"{'▶ ' if t == at else ''}{t + 1}", thought, move, f"{one.reward:+g}", verdict])
    return page.table(["step", "thought", "move", "reward", "corrector"], rows, title="steps of the episode")
