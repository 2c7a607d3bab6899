"""How the page looks: its theme and style, and small pieces of HTML. All text from outside is escaped here."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import gradio as gr

from demos.scoring import Scored

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


def theme() -> gr.themes.Base:
    return gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=FONT, font_mono=["ui-monospace", "monospace"])


def heading() -> str:
    words = "Ask a vision-language model, score any answer, compare training runs, play a card game."
    return f"<div class='vl-head'><h1>vlrl</h1><p>{words}</p></div>"


def box(title: str, text: str, empty: str = "nothing") -> str:
    shown = (
        f"<span class='vl-text'>{html.escape(text)}</span>" if text else f"<span class='vl-none'>{html.escape(empty)}</span>"
    )
    return f"<div class='vl-box'><b>{html.escape(title)}</b>{shown}</div>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], empty: str = "") -> str:
    """A table of escaped cells; a cell that begins with `<span` was made here."""
    if not rows:
        return f"<p class='vl-none'>{html.escape(empty)}</p>" if empty else ""

    def cell(text: str) -> str:
        shown = text if text.startswith("<span") else html.escape(text)
        return f"<td class='vl-long'>{shown}</td>" if len(text) > LONG and not text.startswith("<span") else f"<td>{shown}</td>"

    titles = "".join(f"<th>{html.escape(one)}</th>" for one in head)
    body = "".join("<tr>" + "".join(cell(str(one)) for one in row) + "</tr>" for row in rows)
    return f"<div class='vl-scroll'><table class='vl-table'><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>"


def rewards(scored: Sequence[Scored]) -> str:
    rows = []
    for one in scored:
        if one.value is None:
            value = "<span class='vl-none'>does not apply</span>"
        elif math.isinf(one.high - one.low):  # a user's reward, whose range is not known
            value = f"<span class='vl-value'>{one.value:.3g}</span>"
        else:
            share = max(0.0, min(1.0, (one.value - one.low) / (one.high - one.low or 1)))
            bar = f"<span class='vl-bar' style='width:{4 * share:.2f}rem'></span>"
            value = (
                f"<span class='vl-value'>{bar}{one.value:.3g} <span class='vl-none'>({one.low:g} to {one.high:g})</span></span>"
            )
        rows.append([name(one.reward), value, one.why])
    return table(["reward", "value", "why"], rows, "No reward applies: the reference answer is not known.")


def name(identifier: str) -> str:
    """A name that a narrow column breaks at its underscores alone."""
    return f"<span>{html.escape(identifier).replace('_', '_<wbr>')}</span>"


def signed(value: float | None) -> str:
    if value is None:
        return "–"
    kind = "vl-up" if value > 0 else "vl-down" if value < 0 else "vl-none"
    return f"<span class='{kind}'>{value:+.2f}</span>"
