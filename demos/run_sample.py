"""One sample of a run, opened: its image with labelled boxes, the full texts, every reward with its reason."""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demos import page
from demos.run_answers import HELD_OUT, OtherVersion, all_rows, as_object, in_words, scores_in
from demos.runs import file_of, read_lines
from vlrl.answers.geometry import best_matching
from vlrl.bench.runs_list import text_on_one_line
from vlrl.data.images import MAX_IMAGE_PIXELS, ImageError, open_image
from vlrl.data.markup import Markup, in_base64, joined, markup
from vlrl.schema import Box, Prediction
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import boxes_of
from vlrl.training.held_out_images import FOLDER, INDEX
from vlrl.training.run_status import finite

MAX_BOXES = 100
"""Boxes of one side that are drawn."""
MAX_IMAGE_BYTES = 2_000_000
_DRAWN = re.compile(r"synthetic-([a-z_0-9]{1,40})-(train|heldout)-([0-9]{1,9})-([0-9]{1,9})")
SIDES = ("before", "after")


@dataclass(frozen=True)
class Shown:
    """An image to look at. `boxes`: "true", "before", "after" -> boxes in its pixels; None: the answer could not be read."""

    image: Markup
    """As a `data:` address."""
    width_px: float
    height_px: float
    boxes: Mapping[str, Sequence[Box] | None]


def opened(folder: Path, which: str, place: int) -> Markup:
    """The sample at a place of the file of one of `logged`; a note where there is none."""
    try:
        rows = all_rows(folder, which)
    except OtherVersion as error:
        return page.box("cannot be shown", str(error))
    if not 0 <= place < len(rows):
        return page.note("This row is there no more; choose another.")
    return _held_out(folder, rows[place]) if which == HELD_OUT else _completion(rows[place], which)


def _held_out(folder: Path, row: Mapping[str, Any]) -> Markup:
    index = file_of(folder, FOLDER, INDEX)
    kept = next((one for one in read_lines(index) if one.get("id") == row["id"]), {})
    texts = {side: _text(as_object(kept.get(side)).get("completion"), as_object(row[side]).get("answer")) for side in SIDES}
    shown = _kept_image(folder, kept) or _drawn_image(str(row["id"]), {})
    columns = []
    for side in SIDES:
        value = in_words(as_object(row[side]).get("value"))
        outcome = as_object(row[side]).get("outcome") or ""
        parts = [page.box(f"{side}: {value} {text_on_one_line(outcome)}", texts[side], "no text")]
        scored = scores_in(as_object(kept.get(side)))
        parts.append(rewards_list(scored) if scored else _why_no_rewards(bool(kept), index is not None))
        columns.append(markup("<div>{}</div>", joined(parts)))
    change = in_words(row["change"], "+.2f")
    head = _head(str(row["id"]), f"change {change}", str(row["question"]), str(row["ground_truth"]))
    return _laid_out(head, shown, markup("<div class='vl-two'>{}</div>", joined(columns)))


def _completion(row: Mapping[str, Any], which: str) -> Markup:
    text = str(row.get("completion", ""))
    shown = _drawn_image(str(row.get("id", "")), {"sampled": _logged_boxes(row)})
    facts = [which, f"advantage {in_words(row.get('advantage'), '+.2f')}", f"{in_words(row.get('n_tokens'), '.0f')} tokens"]
    facts += ["cut off at the limit"] if row.get("truncated") else []
    texts = joined([page.box("prompt", str(row.get("prompt", "")), "no text"), page.box("completion", text, "no text")])
    head = _head(str(row.get("id", "")), " · ".join(facts), "", "")
    return _laid_out(head, shown, joined([texts, rewards_list(scores_in(row))]))


def _laid_out(head: Markup, shown: Shown | None, texts: Markup) -> Markup:
    """The image beside the texts; above them on a narrow screen."""
    return markup(
        "{}<div class='vl-sample'><div>{}{}</div><div>{}</div></div>", head, _figure(shown), _boxes_table(shown), texts
    )


def _text(*found: Any) -> str:
    return next((one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in found if one is not None), "")


def _head(name: str, facts: str, question: str, truth: str) -> Markup:
    asked = markup("<div class='vl-line'><b>question</b> {}</div>", question) if question else markup("")
    known = markup("<div class='vl-line'><b>ground truth</b> {}</div>", truth) if truth else markup("")
    return markup(
        "<h3 class='vl-opened' tabindex='-1'>{}</h3><div class='vl-line vl-soft'>{}</div>{}{}",
        text_on_one_line(name), facts, asked, known,
    )  # fmt: skip


def _why_no_rewards(is_kept: bool, has_index: bool) -> Markup:
    if is_kept:
        return page.note("No reward applies to this sample by itself (an episode is rewarded step by step).")
    why = "this is none of the samples kept for the page" if has_index else "the run was written by an earlier version"
    return page.note(f"Rewards and their reasons are not shown: {why}.")


def rewards_list(scored: Mapping[str, Mapping[str, Any]]) -> Markup:
    """Every reward: value, why, what it read."""
    parts = []
    for name, one in scored.items():
        value = finite(one.get("value"))
        shown = "does not apply" if value is None else f"{value:.3g}"
        read = "nothing" if one.get("answer") in (None, "null") else str(one["answer"])
        parts.append(
            markup(
                "<div class='vl-reward'><div class='vl-line'><strong>{}</strong> <span class='vl-value'>{}</span></div>"
                "<div class='vl-line'>{}</div><div class='vl-line vl-soft'>read: {}</div></div>",
                page.name(text_on_one_line(name)), shown, text_on_one_line(one.get("why") or ""), text_on_one_line(read),
            )
        )  # fmt: skip
    return joined(parts) if parts else page.note("no rewards")


# ---- images


def _kept_image(folder: Path, kept: Mapping[str, Any]) -> Shown | None:
    """The image that the run kept of a held-out sample."""
    name = kept.get("image")
    path = file_of(folder, FOLDER, name) if isinstance(name, str) and re.fullmatch(r"[0-9]{1,6}\.jpg", name) else None
    width, height = finite(kept.get("width_px")), finite(kept.get("height_px"))
    if path is None or not width or not height or width * height > MAX_IMAGE_PIXELS:
        return None
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_IMAGE_BYTES else b""
    except OSError:
        return None
    if not data.startswith(b"\xff\xd8\xff"):
        return None
    boxes = {"true": _boxes(kept.get("true"))} | {side: _boxes(as_object(kept.get(side)).get("boxes")) for side in SIDES}
    has_boxes = any(one is not None for one in boxes.values())
    return Shown(markup("data:image/jpeg;base64,{}", in_base64(data)), width, height, boxes if has_boxes else {})


def _boxes(found: Any) -> list[Box] | None:
    if not isinstance(found, list):
        return None
    boxes = []
    for one in found[:MAX_BOXES]:
        sides = as_object(one).get("bbox_2d")
        ends = [finite(v) for v in sides] if isinstance(sides, list) else []
        known = [v for v in ends if v is not None]
        label = as_object(one).get("label")
        if len(known) == 4:
            boxes.append(Box(known[0], known[1], known[2], known[3], label if isinstance(label, str) else None))
    return boxes


def _drawn_image(name: str, predicted: Mapping[str, Sequence[Box] | None]) -> Shown | None:
    """The image of a drawn sample, which its name says how to draw again. `predicted`: boxes in its pixels."""
    found = _DRAWN.fullmatch(name)
    task = TASKS.get(found[1]) if found else None
    if found is None or task is None or task.synthetic is None:
        return None
    sample = task.draw(int(found[3]), found[2], int(found[4]))
    if sample.id != name or not sample.images:
        return None
    try:
        image = open_image(sample.images[int(sample.facts.get("image_index", 0))]).convert("RGB")
    except ImageError:
        return None
    written = io.BytesIO()
    image.save(written, "PNG")
    address = markup("data:image/png;base64,{}", in_base64(written.getvalue()))
    true = boxes_of(task, sample, Prediction(name, "", None, truncated=False))
    boxes: dict[str, Sequence[Box] | None] = {} if true is None else {"true": true[0][:MAX_BOXES], **predicted}
    return Shown(address, image.width, image.height, boxes)


def _logged_boxes(row: Mapping[str, Any]) -> list[Box] | None:
    """The boxes that the rewards of a completion have read, in pixels of the image; None where none has read any."""
    for one in scores_in(row).values():
        try:
            answer = json.loads(str(one.get("answer")))
        except (ValueError, RecursionError):
            continue
        found = _boxes(answer if isinstance(answer, list) else [answer])
        if found or answer == []:
            return found
    return None


def _figure(shown: Shown | None) -> Markup:
    """The image with its boxes over it, each named: whose it is, its label, its IoU with the true box it is matched with."""
    if shown is None:
        return page.note("No image is shown: the run kept none of this sample.")
    marks = [
        markup(
            "<span class='vl-mark vl-is-{}{}' style='left:{}%;top:{}%;width:{}%;height:{}%'><b>{}</b></span>",
            "after" if side == "sampled" else side, _where_named(box, shown), *_place(box, shown), _label(box, overlap),
        )
        for side, boxes in shown.boxes.items()
        for box, overlap in with_overlaps(shown.boxes.get("true") or (), boxes or (), is_true=side == "true")
    ]  # fmt: skip
    keys = joined(
        markup(
            "<span class='vl-key'><i class='vl-is-{}'></i>{}</span>", "after" if side == "sampled" else side, _key(side, boxes)
        )
        for side, boxes in shown.boxes.items()
    )
    said = "; ".join(_key(side, boxes) for side, boxes in shown.boxes.items()) or "no boxes"
    return markup(
        "<div>{}</div><div class='vl-figure'><img src='{}' alt='{}'>{}</div>", keys, shown.image,
        f"the image of this sample: {said}", joined(marks),
    )  # fmt: skip


def _key(side: str, boxes: Sequence[Box] | None) -> str:
    if boxes is None:
        return f"{side}: no boxes could be read"
    return f"{side}: {len(boxes)} {'box' if len(boxes) == 1 else 'boxes'}"


def _place(box: Box, shown: Shown) -> list[str]:
    """Left, top, width and height in % of the image; what lies outside is cut off."""
    x1, x2 = (max(0.0, min(shown.width_px, x)) / shown.width_px for x in sorted((box.x1, box.x2)))
    y1, y2 = (max(0.0, min(shown.height_px, y)) / shown.height_px for y in sorted((box.y1, box.y2)))
    return [f"{100 * v:.2f}" for v in (x1, y1, x2 - x1, y2 - y1)]


def _where_named(box: Box, shown: Shown) -> str:
    """Where the name of a box stands, so that it is not cut off at the image's edge."""
    left, top, width, height = (float(v) for v in _place(box, shown))
    found = (("vl-to-left", left + width > 60 and left > 30), ("vl-at-top", top < 6), ("vl-at-bottom", top + height > 88))
    return "".join(f" {name}" for name, is_so in found if is_so)


def _label(box: Box, overlap: float | None) -> str:
    label = text_on_one_line(box.label or "box")[:30]
    return label if overlap is None else f"{label} {overlap:.2f}"


def with_overlaps(true: Sequence[Box], boxes: Sequence[Box], *, is_true: bool) -> list[tuple[Box, float | None]]:
    """Each box with its IoU in 0..1 with the true box that it is matched with, as `samples.png` matches them: one to one, of
    the same label where the true boxes have labels. 0 without a partner; None for the true boxes themselves."""
    if is_true:
        return [(box, None) for box in boxes]
    named = all(box.label is not None for box in true)
    sides = [list(boxes), list(true)]
    if not named:
        sides = [[dataclasses.replace(box, label="") for box in some] for some in sides]
    matched = {i: overlap for i, _, overlap in best_matching(sides[0], sides[1], 0.0)}
    return [(box, matched.get(i, 0.0)) for i, box in enumerate(boxes)]


def _boxes_table(shown: Shown | None) -> Markup:
    """The same boxes in numbers."""
    if shown is None or not any(shown.boxes.values()):
        return markup("")
    true = shown.boxes.get("true") or ()
    rows = [
        [side, _label(box, None), ", ".join(f"{v:.0f}" for v in box.xyxy), "" if overlap is None else f"{overlap:.2f}"]
        for side, boxes in shown.boxes.items()
        for box, overlap in with_overlaps(true, boxes or (), is_true=side == "true")
    ]
    inner = page.table(["whose", "label", "corners in pixels (x1, y1, x2, y2)", "IoU"], rows)
    return markup("<details class='vl-line'><summary>Boxes in numbers</summary>{}</details>", inner)
