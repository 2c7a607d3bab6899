"""`report.html`: one file with the table, plots and a browsable choice of answers with their pictures and boxes.

Everything is inside (pictures as base64, a few lines of style and script), so it opens without a network.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw

from vlrl.bench.results import shown
from vlrl.bench.suite import Suite, as_answered
from vlrl.data.images import ImageError, open_images
from vlrl.schema import Prediction, Sample, Task, is_there
from vlrl.tasks.evaluate import OUTCOMES, Row, Scored, boxes_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

N_CARDS = 24
"""Answers shown of each outcome and task."""
SIDE_PX = 320
TRUE_COLOUR, ANSWER_COLOUR = (20, 160, 60), (214, 39, 40)
COLOUR_OF = {"right": "#2e7d32", "partly": "#c08000", "wrong": "#c62828", "unparsed": "#757575"}
STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1200px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}
td.n{font-variant-numeric:tabular-nums}.note{background:#fff3cd;padding:.5em 1em;border-radius:6px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(260px,1fr));gap:12px}
.card{border:1px solid #ccc;border-top:6px solid;border-radius:6px;padding:8px;overflow-wrap:anywhere;font-size:13px}
.card img{max-width:100%;display:block;margin:0 auto 6px}
.card pre{white-space:pre-wrap;margin:.3em 0;max-height:12em;overflow:auto}
button{margin-right:.5em;padding:.3em .9em;border:1px solid #999;border-radius:6px;background:#fff;cursor:pointer}
button.on{background:#222;color:#fff}dt{font-weight:600}dd{margin:0 0 .3em 0}figure{margin:1em 0}figure img{max-width:100%}"""
SCRIPT = """document.querySelectorAll('.filter').forEach(function(bar){bar.addEventListener('click',function(e){
if(!e.target.dataset.show)return;bar.querySelectorAll('button').forEach(function(b){b.classList.toggle('on',b===e.target)});
var show=e.target.dataset.show;bar.nextElementSibling.querySelectorAll('.card').forEach(function(c){
c.style.display=(show==='all'||c.dataset.outcome===show)?'':'none'})})})"""


def write_page(
    path: Path,
    suite: Suite,
    asked: Sequence[Sample],
    answered: Mapping[str, Prediction],
    scored: Sequence[Scored],
    result: Mapping[str, Any],
) -> None:
    """Write the report of a scored run; pictures that are not there are said to be missing."""
    by_id = {sample.id: sample for sample in asked}
    parts = [f"<h1>{_e(suite.name)}</h1>", _facts(result)]
    for one in scored:
        parts += [f"<h2>{_e(one.name)}</h2>"]
        parts += [f'<p class="note">{_e(one.label)}</p>'] if one.label else []
        parts += [_table(one), *_plots(one), _cards(suite, one, by_id, answered)]
    text = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{_e(suite.name)}, {_e(str(result.get('model')))}</title><style>{STYLE}</style></head>\n<body>"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script></body></html>\n"
    )
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _e(text: str) -> str:
    return html.escape(text)


def _facts(result: Mapping[str, Any]) -> str:
    data = result.get("data") or {}
    facts = {
        "model": result.get("model"),
        "engine": result.get("engine"),
        "data": f"{data.get('description')} ({data.get('n')} samples, SHA-256 {str(data.get('sha256'))[:16]}…)",
        "seed": result.get("seed"),
        "date": result.get("date"),
        "git revision": result.get("git_hash"),
        "counts": ", ".join(
            f"{key} {result.get(key, 0)}" for key in ("n_unparsed", "n_truncated", "n_missing_image", "n_failed")
        ),
    }
    rows = "".join(f"<dt>{_e(key)}</dt><dd>{_e(str(value))}</dd>" for key, value in facts.items() if value is not None)
    return f"<dl>{rows}</dl>"


def _table(one: Scored) -> str:
    head = "<tr><th>metric</th><th></th><th>value</th><th>standard error</th><th>95 % interval</th><th>n</th></tr>"
    rows = []
    for name, metric in one.metrics.items():
        arrow = "↓" if name in one.lower_is_better else "↑"
        cells = "".join(f'<td class="n">{_e(cell)}</td>' for cell in (*shown(metric), str(metric.n)))
        bold = f"<b>{_e(name)}</b>" if name == one.headline else _e(name)
        rows.append(f"<tr><td>{bold}</td><td>{arrow}</td>{cells}</tr>")
    table = f"<table>{head}{''.join(rows)}</table>"
    return table if len(rows) <= 30 else f"<details open><summary>{len(rows)} numbers</summary>{table}</details>"


# ---- plots


def _plots(one: Scored) -> list[str]:
    drawn = [_plot("numbers in 0..1 with 95 % intervals", _bars(one)), _plot("answers", _outcomes(one))]
    for name, matrix in (one.extra.get("confusion") or {}).items():
        drawn.append(_plot(f"{name}: true word (rows) and word said (columns)", _matrix(matrix)))
    if one.extra.get("reliability"):
        drawn.append(_plot("stated confidence and share of right answers", _reliability(one.extra["reliability"])))
    return [plot for plot in drawn if plot]


def _plot(caption: str, figure: Any) -> str:
    if figure is None:
        return ""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=90)
    plt.close(figure)
    return f'<figure><img alt="{_e(caption)}" src="{_png(buffer.getvalue())}"><figcaption>{_e(caption)}</figcaption></figure>'


def _png(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _bars(one: Scored) -> Any:
    values = {
        name: metric
        for name, metric in one.metrics.items()
        if metric.value is not None and 0 <= metric.value <= 1 and name != "n_tokens"
    }
    values = dict(list(values.items())[:40])
    if not values:
        return None
    figure, axis = plt.subplots(figsize=(9, 0.6 + 0.27 * len(values)), constrained_layout=True)
    for place, (name, metric) in enumerate(reversed(values.items())):
        axis.barh(place, metric.value or 0.0, color="#1f77b4" if name == one.headline else "#9ecae1")
        if metric.ci95 is not None:
            axis.plot(metric.ci95, (place, place), color="black", linewidth=1.5)
    axis.set_yticks(range(len(values)), list(reversed(values)), fontsize=8)
    axis.set_xlim(0, 1)
    axis.grid(axis="x", alpha=0.3)
    return figure


def _outcomes(one: Scored) -> Any:
    counts = {outcome: sum(row.outcome == outcome for row in one.rows) for outcome in OUTCOMES}
    if not any(counts.values()):
        return None
    figure, axis = plt.subplots(figsize=(9, 1.1), constrained_layout=True)
    left = 0
    for outcome, n in counts.items():
        if n:
            axis.barh(0, n, left=left, color=COLOUR_OF[outcome], label=f"{outcome} {n}")
            left += n
    axis.set_yticks([])
    axis.set_xlim(0, left)
    axis.legend(ncol=4, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.25), frameon=False)
    return figure


def _matrix(matrix: Mapping[str, Mapping[str, int]]) -> Any:
    said = list(next(iter(matrix.values())))
    counts = [[row[word] for word in said] for row in matrix.values()]
    figure, axis = plt.subplots(figsize=(1.5 + 0.9 * len(said), 1.2 + 0.45 * len(matrix)), constrained_layout=True)
    axis.imshow(counts, cmap="Blues", aspect="auto")
    most = max(max(row) for row in counts) or 1
    for y, row in enumerate(counts):
        for x, n in enumerate(row):
            axis.text(x, y, str(n), ha="center", va="center", fontsize=8, color="white" if n > most / 2 else "black")
    axis.set_xticks(range(len(said)), said, fontsize=7, rotation=30, ha="right")
    axis.set_yticks(range(len(matrix)), list(matrix), fontsize=7)
    return figure


def _reliability(table: Sequence[Mapping[str, Any]]) -> Any:
    figure, axis = plt.subplots(figsize=(4.5, 4), constrained_layout=True)
    axis.plot((0, 1), (0, 1), color="grey", linestyle="--", linewidth=1)
    for row in table:
        if row["n"]:
            axis.bar((row["low"] + row["high"]) / 2, row["accuracy"], width=0.09, color="#9ecae1")
            axis.plot(row["confidence"], row["accuracy"], "o", color="#1f77b4")
            axis.text(row["confidence"], min(1.0, row["accuracy"] + 0.03), f"n={row['n']}", fontsize=7, ha="center")
    axis.set_xlabel("stated confidence")
    axis.set_ylabel("share right")
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1.05)
    return figure


# ---- answers


def _cards(suite: Suite, one: Scored, by_id: Mapping[str, Sample], answered: Mapping[str, Prediction]) -> str:
    shown_rows = [row for row in one.rows if row.id in by_id and suite.shows_answers(by_id[row.id])]
    chosen: list[Row] = []
    for outcome in OUTCOMES:
        chosen += [row for row in shown_rows if row.outcome == outcome][:N_CARDS]
    if not chosen:
        return ""
    buttons = "".join(
        f'<button data-show="{outcome}"{" class=on" if outcome == "all" else ""}>{outcome}</button>'
        for outcome in ("all", *(name for name in OUTCOMES if any(row.outcome == name for row in chosen)))
    )
    cards = "\n".join(_card(row, by_id[row.id], answered[row.id], suite) for row in chosen)
    held = len(one.rows) - len(shown_rows)
    note = f"<p>{held} answers are kept out of this page: they may describe people or places.</p>" if held else ""
    head = f"<h3>Answers ({len(chosen)} of {len(one.rows)})</h3>"
    if suite.boxes:
        head += "<p>Boxes: green is right, red is the answer's.</p>"
    return f'{head}{note}<div class="filter">{buttons}</div><div class="cards">{cards}</div>'


def _card(row: Row, sample: Sample, prediction: Prediction, suite: Suite) -> str:
    picture = _picture(suite.tasks[sample.task], as_answered(sample, prediction), prediction)
    asked = suite.tasks[sample.task].prompt(sample)
    return (
        f'<div class="card" data-outcome="{row.outcome}" style="border-top-color:{COLOUR_OF[row.outcome]}">{picture}'
        f"<b>{row.outcome}</b> · {_e(row.id)}<pre>{_e(asked[:1500])}</pre>"
        f"<div>true: {_e(row.ground_truth[:600])}</div><div>answer: {_e(row.answer[:600]) or '(none)'}</div>"
        f"<details><summary>completion{', cut off' if prediction.truncated else ''}</summary>"
        f"<pre>{_e(prediction.completion[:4000])}</pre></details></div>"
    )


def _picture(task: Task, sample: Sample, prediction: Prediction) -> str:
    """The sample's pictures side by side, true boxes in green, the answer's in red."""
    pictures = [*sample.images, *([sample.video] if sample.video else [])]
    if not pictures:
        return ""
    if not all(map(is_there, pictures)):
        return "<i>the picture is not here</i>"
    try:
        images = open_images(sample)[:4]
    except ImageError as error:
        return f"<i>{_e(str(error))}</i>"
    found = []
    for number, image in enumerate(images):
        scale = min(1.0 if max(image.size) >= SIDE_PX else SIDE_PX / max(image.size), SIDE_PX / max(image.size))
        small = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR
        )
        if number == int(sample.meta.get("image_index", 0)):
            _draw_boxes(small, task, sample, prediction, scale)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=85)
        found.append(f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}">')
    return "".join(found)


def _draw_boxes(image: Image.Image, task: Task, sample: Sample, prediction: Prediction, scale: float) -> None:
    found = boxes_of(task, sample, prediction)
    if found is None:
        return
    draw = ImageDraw.Draw(image)
    for boxes, colour in ((found[0], TRUE_COLOUR), (found[1] or (), ANSWER_COLOUR)):
        for box in boxes:
            draw.rectangle([scale * v for v in box.xyxy], outline=colour, width=2)
