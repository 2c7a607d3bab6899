"""Label Studio's JSON (export "JSON" or "JSON-MIN"): tasks with regions in per cent of the image.

Of several annotations of a task the one marked as ground truth counts; where none is and they differ, the image is left out. A
submitted annotation without regions says that nothing is in its image; a skipped one or none says nothing. Predictions are no
annotations. Rectangles (turned about their top left corner), polygons and ellipses become boxes; brush strokes, key points and
tags are no boxes here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from data_prep.class_folders import SUFFIXES
from data_prep.formats.gathering import Gathering, OneImage, Tree, note, number, size_of, some, suffix
from data_prep.formats.shapes import Corners, around, of_ellipse, turned
from data_prep.not_counted import is_flag

AREAS = {"rectangle": "box", "polygon": "polygon", "ellipse": "ellipse"}
NO_BOXES = {"keypoint": "point", "brush": "brush stroke", "vector": "line", "bitmask": "bit mask"}
NO_REGIONS = ("choices", "taxonomy", "textarea", "rating", "number", "datetime", "relation", "pairwise", "ranker")
"""Answers about the whole image, and relations of regions: they are counted and say nothing about boxes."""


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"tasks of Label Studio in {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """A list of tasks, or of JSON-MIN's rows, which have `annotation_id` and regions in per cent."""
    tasks = re.compile(r'"(annotations|completions)"\s*:\s*\[')
    found = []
    for name in tree.with_suffix(".json"):
        head = tree.head(name).lstrip()
        if not head.startswith("["):
            continue
        whole = head if len(head) < 4000 else tree.text(name)
        is_task = tasks.search(whole) and '"data"' in whole
        if is_task or ('"annotation_id"' in whole and '"original_width"' in whole):
            found.append(name)
    return found


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all files of tasks."""
    only_predicted = 0
    for name in files_of(tree):
        tasks = tree.json(name)
        for place, task in enumerate(tasks if isinstance(tasks, list) else [], start=1):
            task = task if isinstance(task, dict) else {}
            one = gathering.image(f"{tree.path(name)}: task {task.get('id', f'number {place}')}")
            names = _image_names(_dict(task.get("data")) or task)
            if "annotations" not in task and "completions" not in task:
                _regions(_of_rows(task), one)
                one.done(one.named(*names), _size(_of_rows(task)))
                continue
            annotations = [_dict(found) for found in task.get("annotations", task.get("completions")) or []]
            only_predicted += bool(task.get("predictions")) and not annotations
            chosen, problem = _choose(annotations)
            if problem is not None:
                one.missing(problem)
                continue
            results = [_dict(result) for result in _dict(chosen).get("result") or []]
            _regions(results, one)
            one.done(one.named(*names), _size(results), searched=chosen is not None)
    if only_predicted:
        note(f"{only_predicted} tasks have predictions and no annotation; predictions are not read")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _choose(annotations: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any] | None, str | None]:
    """The annotation that counts, None where there is none; and why none can be chosen."""
    done = [one for one in annotations if not one.get("was_cancelled") and not one.get("skipped")]
    marked = [one for one in done if one.get("ground_truth")]
    if len(marked) == 1 or len(done) == 1:
        return (marked or done)[0], None
    contents = {json.dumps([_dict(_dict(r).get("value")) for r in one.get("result") or []], sort_keys=True) for one in done}
    if len(contents) > 1:
        return None, f"{len(done)} annotations that differ, and not one of them is marked as ground truth"
    return (done[0] if done else None), None


def _of_rows(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """JSON-MIN: the regions of all keys, with the kinds that their own keys state."""
    rows = [_dict(region) for value in task.values() if isinstance(value, list) for region in value]
    return [{"value": row, **row} for row in rows if "original_width" in row]


def _image_names(data: Mapping[str, Any]) -> list[str]:
    """The names that the image of a task may have on disk: as stated, and without the number that an upload puts before it."""
    stated = [value for value in data.values() if isinstance(value, str)]
    paths = []
    for value in stated:
        parsed = urlsplit(value)
        path = parse_qs(parsed.query).get("d", [parsed.path])[0]
        if suffix(path) in SUFFIXES:
            paths.append(unquote(path))
    if len(paths) != 1 and isinstance(data.get("image"), str):
        parsed = urlsplit(data["image"])
        paths = [unquote(parse_qs(parsed.query).get("d", [parsed.path])[0])]
    if len(paths) != 1:
        return []
    base = paths[0].rpartition("/")[2]
    return list(dict.fromkeys([paths[0].lstrip("/"), base, re.sub(r"^[0-9a-f]{8}-", "", base)]))


def _size(results: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    sizes = [size_of(result.get("original_width"), result.get("original_height")) for result in results]
    return next((size for size in sizes if size), None)


def _regions(results: Sequence[Mapping[str, Any]], one: OneImage) -> None:
    """Enter the regions. A region and its label may be two results of one id (tags Rectangle and Labels)."""
    parts: dict[str, list[Mapping[str, Any]]] = {}
    for number_, result in enumerate(results, start=1):
        parts.setdefault(str(result.get("id") or f"number {number_}"), []).append(result)
    for key, members in parts.items():
        kinds = [kind for kind in map(_kind, members) if kind not in (*NO_REGIONS, "labels")]
        labels = list(dict.fromkeys(label for member in members for label in _labels(member)))
        place = f"region {key}"
        if not kinds:
            if any(_kind(member) == "labels" for member in members):
                one.unreadable("region", labels[0] if labels else None, place, "labels without a shape")
            continue
        shape = next(member for member in members if _kind(member) == kinds[0])
        for label in labels:
            _region(kinds[0], label, shape, one, place, _marks(members))
        if not labels:
            _region(kinds[0], None, shape, one, place, _marks(members))


def _kind(result: Mapping[str, Any]) -> str:
    """rectangle, polygon ... : the type without "labels"; in JSON-MIN the key that holds the labels says it."""
    kind = result.get("type")
    if not isinstance(kind, str):
        kind = next((key for key in _dict(result.get("value")) if key.endswith("labels")), "rectangle")
    return kind if kind == "labels" else kind.removesuffix("labels")


def _labels(result: Mapping[str, Any]) -> list[str]:
    value = _dict(result.get("value"))
    return [
        label
        for key, found in value.items()
        if key.endswith("labels") and isinstance(found, list)
        for label in found
        if isinstance(label, str)
    ]


def _marks(members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was chosen for a region: a choice may be a flag, or the name of its question is one."""
    marks: dict[str, Any] = {}
    for member in members:
        choices = _dict(member.get("value")).get("choices")
        if isinstance(choices, list):
            marks[str(member.get("from_name"))] = choices
            marks |= {choice: True for choice in choices if is_flag(choice)}
    return marks


def _region(
    kind: str, label: str | None, result: Mapping[str, Any], one: OneImage, place: str, marks: Mapping[str, Any]
) -> None:
    if kind in AREAS:
        name = "rotated box" if kind == "rectangle" and _dict(result.get("value")).get("rotation") else AREAS[kind]
        one.box(name, label, lambda: _corners(kind, result), place, marks)
    elif kind in NO_BOXES:
        one.no_box(NO_BOXES[kind], label, place)
    else:
        one.unreadable(kind, label, place, f"{label}: a region {kind!r} is not known", "regions that are not known")


def _corners(kind: str, result: Mapping[str, Any]) -> Corners:
    """The box in pixels: what is turned is turned in pixels, not in per cent."""
    value = result["value"]
    size = size_of(result.get("original_width"), result.get("original_height"))
    if size is None:
        raise ValueError("no original_width and original_height")
    if number(result.get("image_rotation") or 0) % 360:
        raise ValueError(f"the image was turned by {result['image_rotation']} degrees while it was annotated")
    x_px, y_px = size[0] / 100, size[1] / 100
    degrees = number(value.get("rotation") or 0)
    if kind == "polygon":
        return around([(number(x) * x_px, number(y) * y_px) for x, y in value["points"]])
    x, y = number(value["x"]) * x_px, number(value["y"]) * y_px
    if kind == "ellipse":
        return of_ellipse(x, y, number(value["radiusX"]) * x_px, number(value["radiusY"]) * y_px, degrees)
    box = x, y, x + number(value["width"]) * x_px, y + number(value["height"]) * y_px
    if not (box[2] > x and box[3] > y):
        raise ValueError(f"width {value['width']} and height {value['height']}")
    return turned(box, degrees, (x, y))
