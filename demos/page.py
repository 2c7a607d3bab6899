"""How the page looks: its theme and style, and small pieces of HTML. What is not `Markup` is escaped (`vlrl.data.markup`)."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import gradio as gr

from demos.scoring import Scored
from vlrl.data.markup import Markup, escaped, joined, markup, readable

FONT = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
"""Fonts that every machine has: nothing is fetched from elsewhere."""
CSS = """
.gradio-container {max-width: 1340px !important; width: 100% !important; margin: auto !important;
  padding: 0 !important}
.gradio-container .main {padding: .8rem 1rem 2rem !important}
.gradio-container .html-container {padding: 0 !important}
.dark button[role=tab].selected {color: #93c5fd !important}
:root {--vl-up: #116329; --vl-down: #b91c1c; --vl-meter: #dbe2ea; --vl-fill: #1d4ed8;
  --vl-problem: #b91c1c}
.dark {--vl-up: #4ade80; --vl-down: #fca5a5; --vl-meter: #334155; --vl-fill: #60a5fa; --vl-problem: #fca5a5}
.vl-head {display: flex; flex-wrap: wrap; align-items: baseline; gap: 0 .8rem}
.vl-head h1 {font-size: 1.4rem; margin: 0}
.vl-head p, .vl-none, .vl-box h2, .vl-table th {color: var(--body-text-color-subdued)}
.vl-head p {margin: 0}
.vl-table, .vl-table thead, .vl-table tbody, .vl-table tr {border: 0 !important}
.vl-table {width: 100%; border-collapse: collapse; font-size: .9rem}
.vl-table th, .vl-table td {text-align: left; padding: .3rem .5rem; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
  vertical-align: top; overflow-wrap: break-word; word-break: normal}
.vl-table td.vl-long {overflow-wrap: anywhere; min-width: 10rem}
.vl-table th {font-weight: 600; white-space: nowrap}
.vl-scroll {overflow-x: auto; max-height: 30rem; overflow-y: auto}
.vl-meter {display: inline-block; width: 4rem; height: .65rem; border-radius: .3rem; background: var(--vl-meter);
  vertical-align: middle; margin-right: .4rem; overflow: hidden}
.vl-bar {display: block; height: 100%; background: var(--vl-fill)}
.vl-value {white-space: nowrap}
.vl-text {white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .85rem}
.vl-box {border: 1px solid var(--border-color-primary); border-radius: .6rem; padding: .45rem .7rem; margin-bottom: .5rem;
  max-height: 16rem; overflow-y: auto}
.vl-box h2 {font-size: .8rem; font-weight: 600; margin: 0 0 .1rem}
.vl-problem {border: 2px solid var(--vl-problem)} .vl-problem h2 {color: var(--vl-problem)}
.vl-up {color: var(--vl-up)} .vl-down {color: var(--vl-down)}
.vl-verdict {font-weight: 600; margin: 0 0 .5rem}
.vl-group {list-style: none; margin: 0; padding: 0}
.vl-bars {list-style: none; margin: 0; padding: 0; font-size: .85rem}
.vl-bars li {display: inline-block; margin: 0 .8rem .2rem 0}
.vl-mono textarea {font-family: ui-monospace, monospace; font-size: .85rem}
.gradio-container a.vl-link {color: var(--link-text-color); text-decoration: underline}
.gradio-container :is(button, a, input, textarea, summary, [tabindex]):focus-visible
  {outline: 3px solid var(--vl-fill) !important; outline-offset: 2px}
"""


LONG = 40
"""Letters from which a cell may be broken anywhere."""
SCROLLS = 300
"""Characters from which a box may be so high that it scrolls; it then can be reached by the keyboard."""
MOST_IN_CELL, MOST_IN_ERROR = 4000, 600
"""Characters of one cell and one message that are shown."""


def theme() -> gr.themes.Base:
    """Gradio's soft theme with colours whose contrast is at least 4.5:1 (WCAG 2.2, AA), in light and dark."""
    found = gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=["ui-monospace", "monospace"])
    quiet, plain = {"light": "*neutral_600", "dark": "*neutral_300"}, {"light": "*neutral_800", "dark": "*neutral_100"}
    return found.set(
        body_text_color_subdued=quiet["light"], body_text_color_subdued_dark=quiet["dark"],
        block_title_text_color=plain["light"], block_title_text_color_dark=plain["dark"],
        block_title_background_fill="transparent", block_title_background_fill_dark="transparent", block_title_padding="0",
        block_label_text_color=plain["light"], block_label_text_color_dark=plain["dark"],
        block_info_text_color=quiet["light"], block_info_text_color_dark=quiet["dark"],
        input_placeholder_color="*neutral_500", input_placeholder_color_dark="*neutral_300",
        button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700", button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white", button_primary_text_color_dark="white",
        color_accent="*primary_700", link_text_color="*primary_700", link_text_color_dark="*primary_300",
        link_text_color_hover="*primary_800", link_text_color_hover_dark="*primary_200",
        link_text_color_visited="*primary_700", link_text_color_visited_dark="*primary_300",
        input_border_width="1px", input_border_width_dark="1px",
        input_border_color="*neutral_500", input_border_color_dark="*neutral_400",
        checkbox_border_color="*neutral_500", checkbox_border_color_dark="*neutral_400",
        checkbox_label_border_width="1px", checkbox_label_border_color="*neutral_400",
        checkbox_label_border_width_dark="1px", checkbox_label_border_color_dark="*neutral_500",
        button_border_width="1px", button_border_width_dark="1px", button_secondary_border_color="*neutral_500",
        button_secondary_border_color_dark="*neutral_400",
        block_padding="*spacing_md *spacing_lg", layout_gap="*spacing_lg",
    )  # fmt: skip


def heading() -> Markup:
    words = "Ask a vision-language model, score any answer, compare training runs, play a card game."
    return markup("<div class='vl-head'><h1>vlrl</h1><p>{}</p></div>", words)


def note(text: str) -> Markup:
    """A line in grey."""
    return markup("<p class='vl-none'>{}</p>", text)


def box(title: str, text: str, empty: str = "nothing") -> Markup:
    shown = markup("<span class='vl-text'>{}</span>", text) if text else markup("<span class='vl-none'>{}</span>", empty)
    if len(text) > SCROLLS:
        return markup("<div class='vl-box' tabindex='0' role='region' aria-label='{}'><h2>{}</h2>{}</div>", title, title, shown)
    return markup("<div class='vl-box'><h2>{}</h2>{}</div>", title, shown)


def verdict(text: str) -> Markup:
    """The most important sentence of an answer."""
    return markup("<p class='vl-verdict'>{}</p>", text)


def problem(title: str, text: object) -> Markup:
    """What went wrong, in one line, read out by screen readers."""
    line = " ".join(str(text).split())[:MOST_IN_ERROR]
    return markup("<div class='vl-box vl-problem' role='alert'><h2>{}</h2><span>{}</span></div>", title, line)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "", title: str = "") -> Markup:
    """A table of cells, each text or Markup; it scrolls by the keyboard too. `title`: what screen readers call it."""
    if not rows:
        return note(empty) if empty else markup("")

    def cell(content: str) -> Markup:
        long = len(content) > LONG and not isinstance(content, Markup)
        return markup("<td class='vl-long'>{}</td>" if long else "<td>{}</td>", escaped(content, MOST_IN_CELL))

    titles = joined(markup("<th scope='col'>{}</th>", one) for one in head)
    body = joined(markup("<tr>{}</tr>", joined(map(cell, row))) for row in rows)
    return markup(
        "<div class='vl-scroll' tabindex='0' role='region' aria-label='{}'>"
        "<table class='vl-table'><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        title or f"table of {', '.join(filter(None, head))}"[:200], titles, body,
    )  # fmt: skip


def rewards(scored: Sequence[Scored]) -> Markup:
    """A bar, a value and a reason a reward."""
    rows: list[list[str]] = []
    for one in scored:
        if one.value is None:
            value = markup("<span class='vl-none'>does not apply</span>")
        elif math.isinf(one.high - one.low):  # a user's reward, whose range is not known
            value = markup("<span class='vl-value'>{}</span>", f"{one.value:.3g}")
        else:
            of = "" if (one.low, one.high) == (0, 1) else f"({one.low:g} to {one.high:g})"
            value = markup(
                "<span class='vl-value'>{}{} <span class='vl-none'>{}</span></span>", bar(one), f"{one.value:.3g}", of
            )
        rows.append([name(one.reward), value, one.why])
    return table(["reward", "value", "why"], rows, "No reward applies: the reference answer is not known.", "rewards")


def bar(one: Scored) -> Markup:
    """A value within its reward's range as a bar; the number stands beside it."""
    share = 0.0 if one.value is None else max(0.0, min(1.0, (one.value - one.low) / (one.high - one.low or 1)))
    percent = f"{100 * share:.0f}"
    return markup("<span class='vl-meter' aria-hidden='true'><span class='vl-bar' style='width:{}%'></span></span>", percent)


def name(identifier: str) -> Markup:
    """A name that a narrow column breaks at its underscores alone."""
    parts = identifier.split("_")
    return markup("<span>{}</span>", joined([*(markup("{}_<wbr>", part) for part in parts[:-1]), escaped(parts[-1])]))


def signed(value: float | None) -> str:
    if value is None:
        return "–"
    kind = "vl-up" if value > 0 else "vl-down" if value < 0 else "vl-none"
    return markup("<span class='{}'>{}</span>", kind, f"{value:+.2f}")


def error(message: object) -> gr.Error:
    """What is raised to show a message over the page, which gradio takes for HTML between tags. Programs that call the page
    get it too: quotes stay."""
    return gr.Error(html.escape(readable(str(message))[:MOST_IN_ERROR], quote=False), print_exception=False)
