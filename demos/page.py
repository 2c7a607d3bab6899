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
.gradio-container {max-width: 1180px !important; width: 100% !important; margin: auto !important}
.vl-code .cm-editor {max-width: calc(100vw - 4rem); max-height: 18rem} .vl-code .cm-scroller {overflow: auto}
@media (max-width: 600px) {#runs-plot {overflow-x: auto} #runs-plot * {justify-content: flex-start !important}
  #runs-plot img {width: 46rem; max-width: none}}
.vl-head h1 {font-size: 1.5rem; margin: .2rem 0 0} .vl-head p {margin: 0; opacity: .75}
.vl-table, .vl-table thead, .vl-table tbody, .vl-table tr {border: 0 !important}
.vl-table {width: 100%; border-collapse: collapse; font-size: .9rem}
.vl-table th, .vl-table td {text-align: left; padding: .35rem .5rem; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important;
  vertical-align: top; overflow-wrap: break-word; word-break: normal}
.vl-table td.vl-long {overflow-wrap: anywhere; min-width: 10rem}
.vl-table th {font-weight: 600; opacity: .75; white-space: nowrap}
.vl-scroll {overflow-x: auto; max-height: 30rem; overflow-y: auto}
.vl-bar {display: inline-block; height: .6rem; border-radius: .3rem; background: #2f6fde; vertical-align: middle;
  margin-right: .4rem}
.vl-none {opacity: .6} .vl-value {white-space: nowrap}
.vl-text {white-space: pre-wrap; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .85rem}
.vl-box {border: 1px solid var(--border-color-primary); border-radius: .6rem; padding: .6rem .8rem; margin-bottom: .5rem}
.vl-box b {display: block; font-size: .8rem; opacity: .7; margin-bottom: .2rem}
.vl-up {color: #2da44e} .vl-down {color: #d1453b}
"""


LONG = 40
"""Letters from which a cell may be broken anywhere."""
MOST_IN_CELL, MOST_IN_ERROR = 4000, 600
"""Characters of one cell and one message that are shown."""


def theme() -> gr.themes.Base:
    return gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=["ui-monospace", "monospace"])


def heading() -> Markup:
    words = "Ask a vision-language model, score any answer, compare training runs, play a card game."
    return markup("<div class='vl-head'><h1>vlrl</h1><p>{}</p></div>", words)


def note(text: str) -> Markup:
    """A line in grey."""
    return markup("<p class='vl-none'>{}</p>", text)


def box(title: str, text: str, empty: str = "nothing") -> Markup:
    shown = markup("<span class='vl-text'>{}</span>", text) if text else markup("<span class='vl-none'>{}</span>", empty)
    return markup("<div class='vl-box'><b>{}</b>{}</div>", title, shown)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> Markup:
    """A table of cells, each text or Markup."""
    if not rows:
        return note(empty) if empty else markup("")

    def cell(content: str) -> Markup:
        long = len(content) > LONG and not isinstance(content, Markup)
        return markup("<td class='vl-long'>{}</td>" if long else "<td>{}</td>", escaped(content, MOST_IN_CELL))

    titles = joined(markup("<th>{}</th>", one) for one in head)
    body = joined(markup("<tr>{}</tr>", joined(map(cell, row))) for row in rows)
    return markup(
        "<div class='vl-scroll'><table class='vl-table'><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>", titles, body
    )


def rewards(scored: Sequence[Scored]) -> Markup:
    rows: list[list[str]] = []
    for one in scored:
        if one.value is None:
            value = markup("<span class='vl-none'>does not apply</span>")
        elif math.isinf(one.high - one.low):  # a user's reward, whose range is not known
            value = markup("<span class='vl-value'>{}</span>", f"{one.value:.3g}")
        else:
            share = max(0.0, min(1.0, (one.value - one.low) / (one.high - one.low or 1)))
            value = markup(
                "<span class='vl-value'><span class='vl-bar' style='width:{}rem'></span>{}"
                " <span class='vl-none'>({})</span></span>",
                f"{4 * share:.2f}", f"{one.value:.3g}", f"{one.low:g} to {one.high:g}",
            )  # fmt: skip
        rows.append([name(one.reward), value, one.why])
    return table(["reward", "value", "why"], rows, "No reward applies: the reference answer is not known.")


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
