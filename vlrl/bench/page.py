"""`report.html`: one file with the table of numbers, plots, and a choice of answers with their images and boxes.

Everything is inside (images as base64, a few lines of style and script), so it opens without a network. What is not `Markup` is
escaped (`vlrl.data.markup`), and the page tells the browser to run its own script only.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from vlrl.bench.page_plots import OUTCOME_COLOURS, picture, plots_of
from vlrl.bench.results import shown
from vlrl.bench.suite import Suite, as_logged
from vlrl.data.files import write_whole
from vlrl.data.images import ImageError, open_images
from vlrl.data.markup import Markup, joined, markup
from vlrl.data.sample_files import is_there
from vlrl.schema import Metric, Prediction, Sample, Task
from vlrl.tasks.evaluate import OUTCOMES, Row, Scored, boxes_of

N_CARDS = 24
"""Answers shown of each outcome and task."""
THUMBNAIL_PX = 320
"""The longer side of an image on the page."""
TRUE_BOX_COLOUR, PREDICTED_BOX_COLOUR = (20, 160, 60), (214, 39, 40)
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

_SCRIPT_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
POLICY = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{_SCRIPT_HASH}'; base-uri 'none'"


def write_page(
    path: Path,
    suite: Suite,
    samples: Sequence[Sample],
    predictions: Mapping[str, Prediction],
    scored: Sequence[Scored],
    result: Mapping[str, Any],
) -> None:
    """Write the page of a scored run; images that do not exist are marked as missing."""
    by_id = {sample.id: sample for sample in samples}
    parts = [markup("<h1>{}</h1>", suite.name), _facts(result)]
    for one in scored:
        parts += [markup("<h2>{}</h2>", one.name)]
        parts += [markup('<p class="note">{}</p>', one.label)] if one.label else []
        parts += [_table(one), *plots_of(one), _cards(suite, one, by_id, predictions)]
    text = markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="{}"><title>{}</title><style>{}</style></head>\n<body>{}\n'
        "<script>{}</script></body></html>\n",
        POLICY, f"{suite.name}, {result.get('model')}", Markup(STYLE), joined(parts), Markup(SCRIPT),
    )  # fmt: skip
    write_whole(path, text)


def _facts(result: Mapping[str, Any]) -> Markup:
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
    rows = (markup("<dt>{}</dt><dd>{}</dd>", key, value) for key, value in facts.items() if value is not None)
    return markup("<dl>{}</dl>", joined(rows))


def _table(one: Scored) -> Markup:
    """The numbers; where some are made of the others, those first and the others folded."""
    first = {name: metric for name, metric in one.metrics.items() if _is_summary(name, one)}
    others = {name: metric for name, metric in one.metrics.items() if name not in first}
    if first:
        return joined(
            [
                _rows(one, first),
                markup("<details><summary>{} further numbers</summary>{}</details>", len(others), _rows(one, others)),
            ]
        )
    if len(others) <= 30:
        return _rows(one, others)
    return markup("<details open><summary>{} numbers</summary>{}</details>", len(others), _rows(one, others))


def _is_summary(name: str, one: Scored) -> bool:
    return any(name == made or name.startswith(f"{made}_") for made in one.composites)


def _rows(one: Scored, metrics: Mapping[str, Metric]) -> Markup:
    head = Markup("<tr><th>metric</th><th></th><th>value</th><th>standard error</th><th>95 % interval</th><th>n</th></tr>")
    rows = []
    for name, metric in metrics.items():
        arrow = "↓" if name in one.lower_is_better else "↑"
        cells = joined(markup('<td class="n">{}</td>', cell) for cell in (*shown(metric), str(metric.n)))
        title = markup("<b>{}</b>", name) if name == one.headline else name
        rows.append(markup("<tr><td>{}</td><td>{}</td>{}</tr>", title, arrow, cells))
    return markup("<table>{}{}</table>", head, joined(rows))


# ---- answers


def _cards(suite: Suite, one: Scored, by_id: Mapping[str, Sample], predictions: Mapping[str, Prediction]) -> Markup:
    shown_rows = [row for row in one.rows if row.id in by_id and suite.shows_answers(by_id[row.id])]
    chosen: list[Row] = []
    for outcome in OUTCOMES:
        chosen += [row for row in shown_rows if row.outcome == outcome][:N_CARDS]
    if not chosen:
        return markup("")
    buttons = joined(
        markup('<button data-show="{}" class="{}">{}</button>', outcome, "on" if outcome == "all" else "", outcome)
        for outcome in ("all", *(name for name in OUTCOMES if any(row.outcome == name for row in chosen)))
    )
    cards = joined(_card(row, by_id[row.id], predictions[row.id], suite) for row in chosen)
    n_hidden = len(one.rows) - len(shown_rows)
    hidden = f"{n_hidden} answers are not shown on this page: they may describe people or places."
    return markup(
        '<h3>Answers ({} of {})</h3>{}{}<div class="filter">{}</div><div class="cards">{}</div>',
        len(chosen), len(one.rows),
        markup("<p>Boxes: green is the ground truth, red the prediction.</p>") if suite.boxes else "",
        markup("<p>{}</p>", hidden) if n_hidden else "", buttons, cards,
    )  # fmt: skip


def _card(row: Row, sample: Sample, prediction: Prediction, suite: Suite) -> Markup:
    images = _images(suite.tasks[sample.task], as_logged(sample, prediction), prediction)
    prompt = suite.tasks[sample.task].prompt(sample)
    return markup(
        '<div class="card" data-outcome="{}" style="border-top-color:{}">{}<b>{}</b> · {}<pre>{}</pre>'
        "<div>ground truth: {}</div><div>answer: {}</div>"
        "<details><summary>completion{}</summary><pre>{}</pre></details></div>",
        row.outcome, OUTCOME_COLOURS[row.outcome], images, row.outcome, row.id, prompt[:1500],
        row.ground_truth[:600], row.answer[:600] or "(none)",
        ", truncated" if prediction.truncated else "", prediction.completion[:4000],
    )  # fmt: skip


def _images(task: Task, sample: Sample, prediction: Prediction) -> Markup:
    """The sample's images side by side, true boxes in green, predicted ones in red."""
    paths = [*sample.images, *([sample.video] if sample.video else [])]
    if not paths:
        return markup("")
    if not all(map(is_there, paths)):
        return markup("<i>the image does not exist</i>")
    try:
        images = open_images(sample)[:4]
    except ImageError as error:
        return markup("<i>{}</i>", error)
    found = []
    for number, image in enumerate(images):
        scale = THUMBNAIL_PX / max(image.size)
        small = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR
        )
        if number == int(sample.facts.get("image_index", 0)):
            _draw_boxes(small, task, sample, prediction, scale)
        buffer = io.BytesIO()
        small.save(buffer, format="JPEG", quality=85)
        found.append(picture("", "jpeg", buffer.getvalue()))
    return joined(found)


def _draw_boxes(image: Image.Image, task: Task, sample: Sample, prediction: Prediction, scale: float) -> None:
    found = boxes_of(task, sample, prediction)
    if found is None:
        return
    draw = ImageDraw.Draw(image)
    for boxes, colour in ((found[0], TRUE_BOX_COLOUR), (found[1] or (), PREDICTED_BOX_COLOUR)):
        for box in boxes:
            draw.rectangle([scale * v for v in box.xyxy], outline=colour, width=2)
