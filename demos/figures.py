"""An image with labelled boxes as HTML: the image with a description for who cannot see it, the boxes as SVG over it.

True boxes have a solid line and a label T, predicted ones a dashed line and a label P, so that colour is not what tells them
apart. Nothing of it is a file on the server. Not here: which boxes there are and how they match (`demos.scoring`).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image

from vlrl.data.markup import Markup, in_base64, joined, markup
from vlrl.schema import Box

SIDE = 380
"""Units of the longer side of a figure, in which lines and labels are measured."""
MAX_SIDE_PX, THUMBNAIL_PX = 960, 112
MAX_MARKS = 60
"""Boxes that are drawn; of more the first."""
MAX_LABEL, MAX_ALT = 24, 700
"""Characters of a label on an image, and of a description."""
LETTER, LINE = 7.3, 17.0
"""Width of a letter and height of a line of labels, in units of the figure."""
Kind = Literal["true", "predicted", "above"]
"""`above`: predicted, by a completion whose advantage is above 0."""


@dataclass(frozen=True)
class Mark:
    """A box to draw, in pixels of the image, and its label."""

    box: Box
    label: str
    kind: Kind


def data_url(image: Image.Image, side_px: int) -> Markup:
    """The image as a `data:` address, made smaller where it is larger than `side_px`; PNG where that is not much longer."""
    scale = side_px / max(image.size)
    if scale < 1:
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    image = image if image.mode in ("RGB", "L") else image.convert("RGB")
    buffer, kind = io.BytesIO(), "png"
    image.save(buffer, "PNG")
    if buffer.tell() > 150_000:
        buffer, kind = io.BytesIO(), "jpeg"
        image.save(buffer, "JPEG", quality=88)
    return markup("data:image/{};base64,{}", kind, in_base64(buffer.getvalue()))


def figure(images: Sequence[Image.Image], alt: str, marks: Sequence[Mark] = (), on: int = 0, legend: str = "") -> Markup:
    """The images side by side, `marks` on number `on`. `alt`: what the image shows, in words; `legend`: a line below."""
    if not images:
        return markup("")
    pictures = []
    for i, image in enumerate(images):
        words = alt if len(images) == 1 else f"Image {i + 1} of {len(images)}. {alt}"
        drawn = overlay(marks, image.size) if i == on and marks else markup("")
        pictures.append(
            markup(
                "<div class='vl-picture' style='aspect-ratio: {} / {}'><img src='{}' alt='{}'>{}</div>",
                image.width,
                image.height,
                data_url(image, MAX_SIDE_PX),
                words[:MAX_ALT],
                drawn,
            )
        )
    below = markup("<figcaption class='vl-none'>{}</figcaption>", legend) if legend else markup("")
    return markup("<figure class='vl-shown'><div class='vl-pictures'>{}</div>{}</figure>", joined(pictures), below)


def overlay(marks: Sequence[Mark], size_px: tuple[int, int]) -> Markup:
    """The boxes and labels over an image of `size_px` = width, height. Labels do not cover each other where there is room."""
    scale = SIDE / max(size_px)
    width, height = size_px[0] * scale, size_px[1] * scale
    shapes, labels, taken = [], [], list[tuple[float, float, float]]()
    for mark in marks[:MAX_MARKS]:
        x1, x2 = (min(max(scale * v, 0.0), width) for v in sorted((mark.box.x1, mark.box.x2)))
        y1, y2 = (min(max(scale * v, 0.0), height) for v in sorted((mark.box.y1, mark.box.y2)))
        corners = (f"{x1:.1f}", f"{y1:.1f}", f"{max(1.0, x2 - x1):.1f}", f"{max(1.0, y2 - y1):.1f}")
        for part in ("casing", mark.kind):
            shapes.append(markup("<rect class='vl-{}' x='{}' y='{}' width='{}' height='{}'/>", part, *corners))
        text = mark.label if len(mark.label) <= MAX_LABEL else mark.label[: MAX_LABEL - 1] + "…"
        wide = LETTER * len(text) + 6
        x = max(0.0, min(x1, width - wide))
        y = _free(x, wide, y1 - LINE if mark.kind == "true" else y2, height, taken)
        taken.append((x, y, wide))
        labels.append(
            markup(
                "<rect class='vl-chip vl-chip-{}' x='{}' y='{}' width='{}' height='{}'/><text x='{}' y='{}'>{}</text>",
                mark.kind,
                f"{x:.1f}",
                f"{y:.1f}",
                f"{wide:.1f}",
                LINE,
                f"{x + 3:.1f}",
                f"{y + 13:.1f}",
                text,
            )
        )
    return markup(
        "<svg class='vl-marks' viewBox='0 0 {} {}' aria-hidden='true' focusable='false'>{}{}</svg>",
        f"{width:.1f}", f"{height:.1f}", joined(shapes), joined(labels),
    )  # fmt: skip


def _free(x: float, wide: float, wanted: float, height: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """A height near `wanted` at which no label stands yet; `wanted` itself where there is none."""
    wanted = max(0.0, min(wanted, height - LINE))
    for step in range(12):
        for y in (wanted + step * LINE, wanted - step * LINE):
            clear = all(abs(y - other_y) >= LINE or x + wide <= other_x or other_x + w <= x for other_x, other_y, w in taken)
            if 0 <= y <= height - LINE and clear:
                return y
    return wanted


def gallery(entries: Sequence[tuple[Image.Image | None, str]], chosen: int | None = None) -> Markup:
    """Buttons with a small image and a text each, in a row; the page's script says which was pressed (`PRESSED`)."""
    buttons = []
    for i, (image, words) in enumerate(entries):
        picture = markup("<img src='{}' alt=''>", data_url(image, THUMBNAIL_PX)) if image is not None else markup("")
        pressed = "true" if i == chosen else "false"
        buttons.append(
            markup(
                "<li><button type='button' class='vl-thumb' data-number='{}' aria-pressed='{}' title='{}'>{}<span>{}</span>"
                "</button></li>",
                i,
                pressed,
                words,
                picture,
                words,
            )
        )
    return markup("<ul class='vl-gallery' aria-label='Examples: one click asks the model'>{}</ul>", joined(buttons))


PRESSED = """
element.addEventListener('click', event => {
  const pressed = event.target.closest('.vl-thumb');
  if (!pressed) return;
  element.querySelectorAll('.vl-thumb').forEach(one => one.setAttribute('aria-pressed', one === pressed));
  trigger('select', {number: Number(pressed.dataset.number)});
});"""
"""What the gallery's buttons do in the browser."""

CSS = """
:root {--vl-true: #1a7f37; --vl-predicted: #b3400a; --vl-above: #1d4ed8}
.vl-shown {margin: 0} .vl-shown figcaption {font-size: .8rem; margin-top: .25rem}
.vl-pictures {display: flex; gap: .5rem; justify-content: center}
.vl-picture {position: relative; flex: 1 1 0; min-width: 0; max-width: 27rem; max-height: 27rem}
.vl-picture img {position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; border-radius: .3rem; object-fit: fill}
.vl-marks {position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible}
.vl-marks rect {fill: none} .vl-marks .vl-casing {stroke: #fff; stroke-width: 6; opacity: .85}
.vl-marks .vl-true {stroke: var(--vl-true); stroke-width: 3}
.vl-marks .vl-predicted {stroke: var(--vl-predicted); stroke-width: 3; stroke-dasharray: 9 5}
.vl-marks .vl-above {stroke: var(--vl-above); stroke-width: 3} .vl-marks .vl-chip-above {fill: var(--vl-above)}
.vl-marks .vl-chip-true {fill: var(--vl-true)} .vl-marks .vl-chip-predicted {fill: var(--vl-predicted)}
.vl-marks text {fill: #fff; font: 600 12px ui-monospace, monospace}
.vl-gallery {display: flex; gap: .5rem; list-style: none; padding: .2rem; margin: 0; overflow-x: auto}
.vl-gallery li {flex: 0 0 auto; margin: 0; padding: 0}
.vl-thumb {display: flex; flex-direction: column; align-items: center; width: 6.6rem; padding: .25rem; border-radius: .5rem;
  border: 2px solid var(--border-color-primary); background: var(--block-background-fill); color: var(--body-text-color);
  cursor: pointer; font-size: .78rem}
.vl-thumb img {height: 4rem; width: 100%; object-fit: contain; margin: 0}
.vl-thumb span {max-width: 100%; overflow: hidden; display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical;
  line-height: 1.2; overflow-wrap: anywhere; font-weight: 400}
.vl-thumb[aria-pressed=true] {border-color: var(--vl-fill); box-shadow: inset 0 -4px 0 var(--vl-fill)}
"""
