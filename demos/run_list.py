"""The runs of a folder as the page lists them, and the state of one: what it does, how far it is, how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from demos import page
from demos.run_state import State, state_of
from demos.runs import Runs, not_shown
from vlrl.bench.runs_list import clock, headline_words, text_on_one_line
from vlrl.data.markup import Markup, joined, markup

MOST_LISTED = 100
SAID = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped",
    "failed": "failed",
    "killed": "killed",
    "starting": "starting",
    "refused": "not started",
}
"""State of a run -> the word on its pill."""


def pill(state: str) -> Markup:
    return markup("<span class='vl-pill vl-is-{}'>{}</span>", state, SAID.get(state, state))


def bar(share: float | None, state: str) -> Markup:
    """A bar of progress, for people who see it and for those who hear it."""
    if share is None:
        return markup("")
    percent = f"{100 * share:.0f}"
    return markup(
        "<span class='vl-track vl-is-{}' role='progressbar' aria-label='training steps done' aria-valuemin='0'"
        " aria-valuemax='100' aria-valuenow='{}'><span style='width:{}%'></span></span>",
        state, percent, percent,
    )  # fmt: skip


def listed(shelf: Runs, chosen: str | None, beginning: Mapping[str, tuple[str, str]]) -> Markup:
    """The list, newest first, the `chosen` run marked. `beginning`: runs that were started here and have no folder to show yet,
    with "starting" or "refused" and a line about it."""
    found = shelf.found()
    rows = [_beginning_row(name, *about) for name, about in beginning.items() if name not in found]
    rows += [_row(name, folder, name == chosen) for name, folder in list(found.items())[:MOST_LISTED]]
    if not rows:
        return page.note(f"No runs yet: {shelf.root} holds none. Train one, or give another folder with --run_root.")
    more = len(found) - MOST_LISTED
    rest = page.note(f"and {more} older ones, in the list “Run” below") if more > 0 else markup("")
    heads = joined(markup("<th scope='col'>{}</th>", one) for one in ("run", "state", "steps", "before → after", "time"))
    return markup(
        "<div class='vl-runs-scroll' tabindex='0' role='region' aria-label='list of runs'><table class='vl-table vl-runs'>"
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>{}",
        heads, joined(rows), rest,
    )  # fmt: skip


def _row(name: str, folder: Path, is_chosen: bool) -> Markup:
    state = state_of(folder)
    now = state.status
    summary, config = now.summary or {}, now.config
    task = text_on_one_line(summary.get("task", config.get("task", "")))
    left = f"{left_words(state)} left" if now.state == "running" and left_words(state) else clock(now.seconds)
    return markup(
        "<tr data-pick='{}' class='{}'><td><button type='button' class='vl-link' data-pick='{}' aria-pressed='{}'>{}</button>"
        "<span class='vl-under'>{}</span></td><td>{}</td><td class='vl-value'>{}{}</td><td>{}</td>"
        "<td class='vl-value'>{}</td></tr>",
        name, "vl-chosen" if is_chosen else "", name, "true" if is_chosen else "false", name, task, pill(now.state),
        steps_words(state), bar(state.share, now.state), headline_words(summary), left,
    )  # fmt: skip


def _beginning_row(name: str, state: str, line: str) -> Markup:
    return markup(
        "<tr><td>{}<span class='vl-under'>{}</span></td><td>{}</td><td>–</td><td>–</td><td>–</td></tr>", name, line, pill(state)
    )


def steps_words(state: State) -> str:
    now = state.status
    return f"{now.step}" if now.n_steps is None else f"{now.step} of {now.n_steps}"


def left_words(state: State) -> str:
    """How long a run will take, such as "1:20"; "" where that is not known or it has taken all its steps. In steps of 5 s, so
    that it does not change with every look."""
    left = state.speed.left_s
    return "" if not left else clock(max(5, 5 * round(left / 5)))


def about(name: str, folder: Path, *, stopping: bool = False) -> Markup:
    """The state of a run in full: pill, progress, speed, and why it ended early."""
    state = state_of(folder)
    now, speed = state.status, state.speed
    facts: list[str] = []
    if now.state == "running":
        facts += ["stopping: a checkpoint is written after the step under way"] if stopping else []
        facts += [state.phase] if state.phase else []
        facts += [f"about {left_words(state)} left"] if left_words(state) else []
        facts += [f"nothing logged for {state.quiet_s // 60:.0f} min"] if state.quiet_s is not None else []
    elif now.seconds is not None:
        facts.append(f"took {clock(now.seconds)}")
    if speed.step_s is not None and now.step:
        facts.append(f"{speed.step_s:.2f} s a step" if speed.step_s < 10 else f"{speed.step_s:.0f} s a step")
    if speed.completions_per_s is not None:
        facts.append(f"{speed.completions_per_s:.3g} completions a second")
    share = state.share
    steps = f"step {steps_words(state)}" + ("" if share is None else f" ({100 * share:.0f} %)")
    why = now.why if now.state != "running" else ""
    what = "ended early: " if now.state == "finished" and why else ""
    hidden = not_shown(folder)
    left_out = f"not shown, because too large or a link out of the run: {', '.join(hidden)}" if hidden else ""
    return markup(
        "<div class='vl-box vl-about'><div class='vl-line'><strong>{}</strong> {}</div>{}"
        "<div class='vl-line'>{}</div>{}{}{}</div>",
        name, pill(now.state), bar(share, now.state), " · ".join([steps, *facts]), _line(_settings(state)),
        _line(what + why if why else ""), _line(left_out),
    )  # fmt: skip


def _line(text: str) -> Markup:
    return markup("<div class='vl-line vl-soft'>{}</div>", text_on_one_line(text)) if text else markup("")


def _settings(state: State) -> str:
    """Task, model, stage and seed of a run, as far as they are known."""
    summary, config = state.status.summary or {}, state.status.config
    found: Sequence[tuple[str, object]] = (
        ("task", summary.get("task", config.get("task"))),
        ("model", summary.get("model", config.get("model_name_or_path"))),
        ("stage", summary.get("stage", config.get("stage"))),
        ("seed", summary.get("seed", config.get("seed"))),
        ("data", summary.get("data", config.get("data"))),
    )
    return " · ".join(f"{name} {text_on_one_line(value)}" for name, value in found if value is not None)
