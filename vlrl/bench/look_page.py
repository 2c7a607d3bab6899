"""The page of `vlrl data look`: what is odd, counts, sizes, copies, and a contact sheet of samples with boxes and prompts.

One file without script; images are inside as base64. Every text that is not `Markup` is escaped (`vlrl.data.markup`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from vlrl.bench.look_numbers import Numbers, image_with_boxes
from vlrl.data.files import write_whole
from vlrl.data.images import ImageError, open_image, open_images
from vlrl.data.markup import Markup, in_base64, joined, markup
from vlrl.schema import Box, Sample

_THUMBNAIL_PX, _COPY_PX = 300, 110
"""The longer side of an image on the page."""
_MAX_IMAGES, _MAX_COPIES, _MAX_GROUPS, _MAX_LINES = 4, 8, 40, 40
"""Shown of one sample, of one group of copies, groups of copies, lines of a table."""
_COLOURS = ("#e6194b", "#0082c8", "#3cb44b", "#f58231", "#911eb4", "#008080", "#9a6324", "#e377c2", "#808000", "#000075")
_STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2em auto;max-width:1250px;padding:0 1em;color:#222}
h2{margin-top:1.6em;border-bottom:1px solid #ddd}table{border-collapse:collapse;margin:.6em 0}
td,th{padding:.15em .8em;border-bottom:1px solid #e4e4e4;text-align:left;vertical-align:middle;overflow-wrap:anywhere}
td.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}.bar{background:#9ecae1;height:.8em}
.odd{background:#fff3cd;padding:.5em 1em .5em 2em;border-radius:6px}.plots{display:flex;flex-wrap:wrap;gap:18px}
figure{margin:0}figcaption{font-size:13px;color:#555}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(290px,1fr));gap:12px}
.card{border:1px solid #ccc;border-radius:6px;padding:8px;overflow-wrap:anywhere;font-size:13px}
.card img{max-width:100%;display:block;margin:0 auto 6px}
.card pre{white-space:pre-wrap;margin:.3em 0;max-height:16em;overflow:auto}
.small{color:#666;font-size:12px}.bad{color:#b00020}.copies{display:flex;flex-wrap:wrap;gap:10px}
.group{display:flex;gap:6px;border:1px solid #ccc;border-radius:6px;padding:6px;max-width:100%;overflow:auto}
.group.apart{border-color:#c08000;background:#fff8e1}
.group img{display:block}.group div{width:112px;font-size:11px;overflow-wrap:anywhere}
dt{font-weight:600}dd{margin:0 0 .3em 0}"""
LOOK_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


@dataclass(frozen=True)
class AskedSample:
    """How a sample is asked: itself with the forms of prompt and answer in `meta`, the prompt, and facts about that."""

    ready: Sample
    prompt: str
    lines: Sequence[str]


@dataclass(frozen=True)
class SampleCard:
    """A sample on the contact sheet. `prompt`: as the model will see it; `answer`: as it would earn full marks; `boxes`: true
    ones in pixels of the image; `lines`: other facts; `problem`: why it cannot be used."""

    sample: Sample
    shown: Sample
    prompt: str
    answer: str
    boxes: Sequence[Box] = ()
    lines: Sequence[str] = ()
    problem: str | None = None


@dataclass(frozen=True)
class Copies:
    """Images that look alike. `shown`: path and the ids of samples; `apart`: whether a split may part them."""

    shown: Sequence[tuple[str, str]]
    apart: bool


@dataclass(frozen=True)
class Look:
    """All that the page shows. `odd`: what a person should know first; `facts`: name and value; `sizes`: width and height in
    pixels of the images looked at; `copies`: groups of images that look alike; `copies_note`: what was compared."""

    title: str
    facts: Mapping[str, str]
    odd: Sequence[str]
    numbers: Mapping[str, Numbers]
    sizes: Sequence[tuple[int, int]]
    copies: Sequence[Copies] = ()
    copies_note: str = ""
    cards: Sequence[SampleCard] = field(default=())
    cards_note: str = ""


def write_look(path: Path, look: Look) -> None:
    """Write the page. Raises OSError."""
    facts = joined(markup("<dt>{}</dt><dd>{}</dd>", name, value) for name, value in look.facts.items())
    odd = joined(markup("<li>{}</li>", line) for line in look.odd)
    parts = [markup("<h1>{}</h1><dl>{}</dl>", look.title, facts)]
    parts += [markup('<h2>Look at this first</h2><ul class="odd">{}</ul>', odd)] if look.odd else []
    for task, numbers in look.numbers.items():
        parts += [markup("<h2>{}: {} rows</h2>", task, f"{numbers.n_rows:,}"), _answers(numbers), _categories(numbers)]
        parts.append(markup('<div class="plots">{}</div>', joined(_plots(numbers))))
    parts += [_sizes(look.sizes), markup("<h2>Samples</h2><p>{}</p>", look.cards_note)]
    parts += [markup('<div class="cards">{}</div>', joined(map(_card, look.cards))), _copies(look)]
    text = markup(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<meta http-equiv="Content-Security-Policy" content="{}"><title>{}</title><style>{}</style></head>\n'
        "<body>{}</body></html>\n",
        LOOK_POLICY, look.title, Markup(_STYLE), joined(parts),
    )  # fmt: skip
    write_whole(path, text)


# ---- numbers


def _answers(numbers: Numbers) -> Markup:
    if not numbers.answers:
        return markup("")
    most = numbers.answers.most_common(1)[0][1]
    rows = [
        markup('<tr><td>{}</td><td class="n">{}</td><td class="n">{}</td><td>{}</td></tr>',
               answer[:200], f"{n:,}", f"{n / numbers.n_rows:.1%}", _bar(n / most))
        for answer, n in numbers.answers.most_common(_MAX_LINES)
    ]  # fmt: skip
    rest = len(numbers.answers) - len(rows)
    more = markup('<p class="small">and {} other answers</p>', f"{rest:,}") if rest else markup("")
    return markup("<table><tr><th>answer</th><th>rows</th><th></th><th></th></tr>{}</table>{}", joined(rows), more)


def _categories(numbers: Numbers) -> Markup:
    if not numbers.categories:
        return markup("")
    ordered = sorted(numbers.categories.items(), key=lambda pair: (-pair[1].n_boxes, pair[0]))
    most = max(1, ordered[0][1].n_boxes)
    rows = [
        markup('<tr><td>{}</td><td class="n">{}</td><td class="n">{}</td><td class="n">{}</td><td>{}</td></tr>',
               name[:200] or "(no label)", f"{one.n_boxes:,}", f"{one.n_rows:,}", f"{one.n_absent:,}", _bar(one.n_boxes / most))
        for name, one in ordered[:_MAX_LINES]
    ]  # fmt: skip
    rest = len(ordered) - len(rows)
    more = markup('<p class="small">and {} other categories</p>', f"{rest:,}") if rest else markup("")
    head = Markup("<tr><th>category</th><th>boxes</th><th>rows with it</th><th>asked, none there</th><th></th></tr>")
    return markup("<table>{}{}</table>{}", head, joined(rows), more)


def _bar(share: float) -> Markup:
    return markup('<div class="bar" style="width:{}px"></div>', round(max(1.0, 220 * share)))


def _plots(numbers: Numbers) -> list[Markup]:
    plots = []
    if numbers.boxes_a_row:
        plots.append(_histogram("boxes a row", numbers.boxes_a_row, whole=True))
    if numbers.shares:
        plots.append(_histogram("box size: square root of its share of the image, %", [100 * one for one in numbers.shares]))
    if numbers.sides:
        plots.append(_histogram("shorter side of a box, px", [min(pair) for pair in numbers.sides]))
        plots.append(_histogram("width / height of a box", [min(width / height, 10.0) for width, height in numbers.sides]))
    plots.append(_histogram("question, characters", numbers.question_lengths, whole=True))
    plots.append(_histogram("reference answer, characters", numbers.answer_lengths, whole=True))
    if len(numbers.images_a_row) > 1:
        each = [n for n, rows in numbers.images_a_row.items() for _ in range(rows)]
        plots.append(_histogram("images a row", each, whole=True))
    return plots


def _histogram(caption: str, values: Sequence[float], whole: bool = False) -> Markup:
    """Bars as SVG; the highest 1 % of values share the last bar."""
    found = np.asarray(values, dtype=np.float64)
    if found.min() == found.max():
        return markup("<figure><figcaption><b>{}</b><br>always {}</figcaption></figure>", caption, _number(float(found[0])))
    low, high = float(found.min()), float(np.percentile(found, 99))
    step = max((high - low) / 24, 1 if whole else 1e-9)
    step = float(np.ceil(step)) if whole else step
    places = np.clip(((found - low) / step).astype(np.int64), 0, 24)
    counts = np.bincount(places, minlength=1)
    width, most = 300 / len(counts), int(counts.max())
    bars = joined(
        markup('<rect x="{}" y="{}" width="{}" height="{}" fill="#9ecae1"><title>{}</title></rect>',
               f"{i * width:.1f}", f"{90 - 90 * n / most:.1f}", f"{max(width - 1, 0.5):.1f}", f"{90 * n / most:.1f}",
               f"{_number(low + i * step)} and up: {n:,}")
        for i, n in enumerate(map(int, counts)) if n
    )  # fmt: skip
    marks = f"{_number(low)} to {_number(float(found.max()))}, half of them below {_number(float(np.median(found)))}"
    return markup(
        '<figure><svg width="300" height="92" role="img" aria-label="{}">{}</svg>'
        "<figcaption><b>{}</b><br>{}</figcaption></figure>",
        caption, bars, caption, marks,
    )  # fmt: skip


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _sizes(sizes: Sequence[tuple[int, int]]) -> Markup:
    if not sizes:
        return markup("")
    plots = [
        _histogram("width, px", [width for width, _ in sizes], whole=True),
        _histogram("height, px", [height for _, height in sizes], whole=True),
        _histogram("width / height", [min(width / height, 10.0) for width, height in sizes]),
    ]
    return markup('<h2>Images</h2><div class="plots">{}</div>', joined(plots))


# ---- images


def _copies(look: Look) -> Markup:
    groups = []
    for group in look.copies[:_MAX_GROUPS]:
        shown = joined(
            markup('<div title="{}">{}{}</div>', path, _thumbnail(path), ids) for path, ids in group.shown[:_MAX_COPIES]
        )
        n_more = len(group.shown) - _MAX_COPIES
        more = markup("<div>and {} more</div>", n_more) if n_more > 0 else markup("")
        groups.append(markup('<div class="group {}">{}{}</div>', "apart" if group.apart else "", shown, more))
    rest = len(look.copies) - _MAX_GROUPS
    more = markup("<p>and {} more groups</p>", rest) if rest > 0 else markup("")
    return markup(
        '<h2>Images that look alike</h2><p>{}</p><div class="copies">{}</div>{}', look.copies_note, joined(groups), more
    )


def _thumbnail(path: str) -> Markup:
    try:
        image = open_image(path)
    except (ImageError, ValueError) as error:
        return markup('<i class="bad">{}</i>', error)
    return _picture(image, _COPY_PX, (), {})


def _picture(image: Image.Image, side_px: int, boxes: Sequence[Box], colours: Mapping[str, str]) -> Markup:
    """An image in small, with boxes in the colours of their labels."""
    scale = min(1.0, side_px / max(image.size))
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(small)
    for box in boxes:
        corners = [scale * value for value in box.xyxy]
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            draw.rectangle(corners, outline=colours[box.label or ""], width=2)
    written = io.BytesIO()
    small.save(written, format="JPEG", quality=85)
    return markup('<img alt="" src="data:image/jpeg;base64,{}">', in_base64(written.getvalue()))


def _card(card: SampleCard) -> Markup:
    labels = list(dict.fromkeys(box.label or "" for box in card.boxes))
    colours = {label: _COLOURS[i % len(_COLOURS)] for i, label in enumerate(labels)}
    named = labels if labels != [""] else []
    legend = joined(markup('<span style="color:{}">■</span> {} ', colours[label], label or "(no label)") for label in named)
    problem = markup('<p class="bad">{}</p>', card.problem) if card.problem else markup("")
    lines = joined(markup("{}<br>", line) for line in card.lines)
    return markup(
        '<div class="card">{}{}{}<b>{}</b><p>{}</p><div>answer:</div><pre>{}</pre><p class="small">{}</p>'
        "<details><summary>the prompt as the model will see it</summary><pre>{}</pre></details></div>",
        _images(card, colours), legend, problem, card.sample.id[:200], card.sample.question[:1000], card.answer[:2000], lines,
        card.prompt,
    )  # fmt: skip


def _images(card: SampleCard, colours: Mapping[str, str]) -> Markup:
    sample = card.shown
    if not sample.images and sample.video is None:
        return markup("")
    try:
        images = open_images(sample)[:_MAX_IMAGES]
    except (ImageError, ValueError) as error:
        return markup('<p class="bad">{}</p>', error)
    with_boxes = sample.images.index(path) if (path := image_with_boxes(sample)) in sample.images else 0
    found = [_picture(image, _THUMBNAIL_PX, card.boxes if i == with_boxes else (), colours) for i, image in enumerate(images)]
    rest = len(sample.images) - _MAX_IMAGES
    more = markup('<p class="small">and {} more images</p>', rest) if rest > 0 else markup("")
    return markup("{}{}", joined(found), more)
