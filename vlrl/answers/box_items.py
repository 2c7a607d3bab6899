"""From a value of JSON or Python to the boxes it holds: which keys hold a box, a label and a confidence, and how corners are
written. What contradicts itself or does not say what it means raises `Unreadable` with what was seen; nothing is guessed.

Four bare numbers are x1, y1, x2, y2 whatever their key is called, `box_2d` too (Gemini writes y first there; such a model needs
prompts that ask for x first). Not here: finding the value in a text (`vlrl.answers.box_scan`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from vlrl.answers.category_words import WORDS
from vlrl.answers.corners import (
    boxes_in,
    confidence_of,
    corner_pair,
    four_numbers,
    is_xy,
    labelled_list,
    named_corners,
    plain,
    valid,
)
from vlrl.answers.literals import BareWord, Rivals, Unreadable
from vlrl.answers.span import canon
from vlrl.schema import Box

MAX_ITEMS = 300
BOX_KEYS = ("bbox_2d", "bbox", "box", "box_2d", "position", "bounding_box", "bbox_xyxy", "box_xyxy", "xyxy", "bndbox",
            "coordinates", "coords", "location", "rectangle", "rect", "region", "bboxes", "boxes", "bounding_boxes",
            "bounding_box_2d", "bbox_coordinates", "box_coordinates", "坐标", "位置", "边界框", "检测框", "座標")  # fmt: skip
LABEL_KEYS = ("label", "class", "class_name", "class_label", "category", "category_name", "category_label", "object",
              "object_name", "object_class", "object_label", "name", "labels", "classes", "categories", "标签", "类别", "名称",
              "ラベル", "ref", "phrase", "caption", "type", "tag", "text_content", "description",
              "item", "object_type", "cls", "text")  # fmt: skip
CONFIDENCE_KEYS = ("confidence", "score", "conf", "probability", "confidences", "scores")
WRAPPERS = (
    "objects", "object", "detections", "detection", "results", "result", "predictions", "prediction", "annotations",
    "annotation", "answer", "answers", "output", "outputs", "items", "instances", "data", "response", "targets",
    "target", "found", "detected", "list", "bboxes", "boxes", "bounding_boxes", "detected_objects", "bbox_list",
    "box_list", "object_list", "json", "final_answer", "结果", "目标", "检测结果", "对象", "答案",
)  # fmt: skip
"""Keys that only wrap the list of boxes; any other key over bare boxes is their label."""
NO_BOX = frozenset({"none", "null", "nil", "n/a", "no", "not found", "not present", "not visible", "absent", ""})


class Frame(NamedTuple):
    """How to convert what is written: pixels for one unit along x and y, the label of items that name none, and what was
    asked for (the categories, or the expression of one box)."""

    x: float = 1.0
    y: float = 1.0
    label: str | None = None
    categories: tuple[str, ...] = ()
    expression: str = ""


AS_WRITTEN = Frame()


@dataclass(frozen=True, slots=True)
class ParsedBoxes:
    """A box list as written. `items` are the valid boxes (at most 300), `n_pred` counts invalid ones too.

    `truncated`: the text ends inside the list. `unusable`: the labels of the other items, which hold no valid box or come after
    the 300th. `as_objects`: every item was written as an object with keys.
    """

    items: tuple[Box, ...]
    n_pred: int
    truncated: bool = False
    unusable: tuple[str | None, ...] = ()
    as_objects: bool = False

    @property
    def explicit_none(self) -> bool:
        return self.n_pred == 0

    @property
    def all_valid(self) -> bool:
        return len(self.items) == self.n_pred

    @property
    def n_unlabelled(self) -> int:
        """How many items name no label, where none is implied."""
        return [box.label for box in self.items].count(None) + self.unusable.count(None)


class BoxItem(NamedTuple):
    """One member of an answer: four corners as written, or None where they are no valid box."""

    corners: tuple[float, float, float, float] | None
    label: str | None = None
    confidence: float | None = None
    as_object: bool = False


class Roles(NamedTuple):
    """The keys of an object by what they hold, in our order of preference."""

    boxes: tuple[str, ...]
    labels: tuple[str, ...]
    confidence: str | None


_BOX_ORDER, _LABEL_ORDER, _CONFIDENCE_ORDER = (
    {plain(key): i for i, key in enumerate(keys)} for keys in (BOX_KEYS, LABEL_KEYS, CONFIDENCE_KEYS)
)
_WRAPPERS = frozenset(map(plain, WRAPPERS))


@lru_cache(maxsize=256)
def roles_of(names: tuple[str, ...]) -> Roles:
    """Which keys of an object hold its box, its label and its confidence."""
    if any(len(name) > 40 for name in names) or len(names) > 60:
        names = tuple(name for name in names[:60] if len(name) <= 40)

    def known(order: Mapping[str, int]) -> tuple[str, ...]:
        return tuple(sorted((n for n in names if plain(n) in order), key=lambda n: order[plain(n)]))

    confidences = known(_CONFIDENCE_ORDER)
    return Roles(known(_BOX_ORDER), known(_LABEL_ORDER), confidences[0] if confidences else None)


def items_in(value: dict[str, Any] | list[Any], frame: Frame, label: str | None = None) -> list[BoxItem] | None:
    """The items that a whole value holds; None where it claims to hold none at all (prose in brackets). An empty list of items
    is an explicit none. Raises Unreadable."""
    if isinstance(value, Rivals):
        raise Unreadable("a key twice with different values")
    if isinstance(value, dict):
        return _items_of_object(value, frame, label)
    if (one := _list_as_item(value, frame, label)) is not None:
        return [one]
    if (lines := _labelled_texts(value, frame)) is not None:
        return lines
    members = _without_echo(value)
    if not members:
        return None if value else []
    if not any(is_box_like(member) for member in members):
        return None
    pairs = _labelled_pairs(members)
    if pairs is not None:
        return [item for text, corners in pairs for item in items_in(corners, frame, category_of(text, frame)) or []]
    if any(_is_none(member) for member in members):
        raise Unreadable("none beside boxes")
    found: list[BoxItem] = []
    for member in members:
        if isinstance(member, str) and (corners := four_numbers(member)) is not None:
            found.append(BoxItem(valid(corners), label))
            continue
        items = items_in(member, frame, label) if is_box_like(member) else None
        found += items if items else [BoxItem(None, _label_in(member, frame) if isinstance(member, dict) else label)]
    return found


_LABELLED = re.compile(r"\s*(?P<label>[^\d\W][^\[\](){}:=]{0,59}?)\s*[:=]?\s*(?P<box>[\[(][^\[(]{1,200})")


def _labelled_texts(value: list[Any], frame: Frame) -> list[BoxItem] | None:
    """The items of `["dog: [..]", "cat: [..]"]`; None for another list."""
    found = [_LABELLED.fullmatch(one) if type(one) is str and len(one) < 400 else None for one in value]
    if not found or None in found:
        return None
    boxes = [(one["label"], four_numbers(one["box"])) for one in found if one is not None]
    return (
        None if any(box is None for _, box in boxes) else [BoxItem(valid(box), category_of(name, frame)) for name, box in boxes]
    )


def _labelled_pairs(members: list[Any]) -> list[tuple[str, list[Any]]] | None:
    """The pairs of `["dog", [..], "cat", [..]]`, or with each label behind its box; None for another list."""
    first, second = members[::2], members[1::2]
    if len(first) != len(second):
        return None
    if all(isinstance(one, list) for one in first):
        first, second = second, first
    if not all(isinstance(one, str) and not isinstance(one, BareWord) and four_numbers(one) is None for one in first):
        return None
    return list(zip(first, second, strict=True)) if all(isinstance(one, list) for one in second) else None


def _list_as_item(value: list[Any], frame: Frame, label: str | None) -> BoxItem | None:
    """A list that is one box: four values, two corner points, or a label and four numbers."""
    labelled = labelled_list(value)
    if labelled is not None:
        return BoxItem(valid(labelled[1]), category_of(labelled[0], frame))
    if len(value) == 4 and not any(isinstance(member, dict | list) for member in value):
        return BoxItem(valid(value), label)
    corners = corner_pair(value)
    return None if corners is None else BoxItem(valid(corners), label)


_NUMBERED = re.compile(r"\W*[0-9]{1,3}\W*\Z")
_ARTICLE = re.compile(r"(?:the|a|an|all|any|each|every) ")


def requested(text: str, frame: Frame) -> str | None:
    """The category asked for that a text names: as it is, as a plural, with an article or a number ("the dog 2")."""
    if len(text) > 200:
        return None
    names = {canon(category): category for category in frame.categories}
    word = canon(text).strip("\"'`*“”‘’「」《》.,:;：，。-– ")
    for form in (word, _ARTICLE.sub("", word, count=1), _NUMBERED.sub("", word)):
        for ending in ("", "s", "es"):
            if form.endswith(ending) and form.removesuffix(ending) in names:
                return names[form.removesuffix(ending)]
        if form.endswith("ies") and form[:-3] + "y" in names:
            return names[form[:-3] + "y"]
    return None


def category_of(text: str, frame: Frame) -> str:
    """The label that a text names: the category asked for, else the text itself."""
    return requested(text, frame) or text


def assemble(items: Sequence[BoxItem], truncated: bool, frame: Frame) -> ParsedBoxes:
    """The items in the unit of `frame`; those without a label get its only one."""
    boxes: list[Box] = []
    rest: list[str | None] = []
    for i, item in enumerate(items):
        label = item.label if item.label is not None else frame.label
        if item.corners is None or i >= MAX_ITEMS:
            rest.append(label)
            continue
        x1, y1, x2, y2 = item.corners
        boxes.append(Box(x1 * frame.x, y1 * frame.y, x2 * frame.x, y2 * frame.y, label, item.confidence))
    return ParsedBoxes(tuple(boxes), len(items), truncated, tuple(rest), all(item.as_object for item in items))


def is_box_like(value: Any) -> bool:
    """Whether a value claims to hold boxes, valid or not."""
    if isinstance(value, dict):
        if roles_of(tuple(value)).boxes or named_corners(value) is not None:
            return True
        return any(isinstance(member, dict | list | str) and is_box_like(member) for member in value.values())
    if isinstance(value, str):
        return not isinstance(value, BareWord) and four_numbers(value) is not None
    if not isinstance(value, list):
        return False
    if len(value) == 4 and not any(isinstance(member, dict | list) for member in value):
        return True
    if labelled_list(value) is not None or corner_pair(value) is not None:
        return True
    return any(isinstance(member, dict | list | str) and is_box_like(member) for member in value)


def _without_echo(items: list[Any]) -> list[Any]:
    """The items without the literal `...` of the prompt's example."""
    if items and isinstance(items[-1], BareWord) and items[-1] in ("...", "…"):
        return items[:-1]
    return items


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and canon(value) in NO_BOX) or value in ([], {})


# ---- objects


def _items_of_object(value: dict[str, Any], frame: Frame, label: str | None) -> list[BoxItem] | None:
    roles = roles_of(tuple(value))
    named = named_corners(value, bool(roles.boxes))
    if _holds_box(value, roles) or named is not None:
        held_by = (*roles.boxes, *roles.labels)
        if any(plain(key) in _WRAPPERS and key not in held_by and _is_none(member) for key, member in value.items()):
            raise Unreadable("none beside boxes")
        return list(_boxes_of_item(value, roles, named, frame, label))
    held = {key: member for key, member in value.items() if isinstance(member, dict | list | str) and is_box_like(member)}
    if not held:
        empty = [key for key, member in value.items() if _is_none(member) and member != ""]  # a blank form says nothing
        told = [key for key in value if key not in empty and not (plain(key) in _COUNTS and value[key] == 0)]
        if (
            (empty or not value)
            and not told
            and _denies_all(
                empty if len(empty) == 1 else [k for k in empty if k not in roles.labels and plain(k) not in _CONFIDENCE_ORDER],
                frame,
            )
        ):
            return []
        return [BoxItem(None, _label_in(value, frame), None, True)] if roles.boxes else None
    named_here = _label_in(value, frame) or label
    wraps = [key for key in held if (plain(key) in _WRAPPERS or key in roles.boxes) and not requested(key, frame)]
    if named_here is not None and len(held) == 1:
        wraps = list(held)
    beside = [key for key, member in value.items() if key not in held and _is_none(member) and member != ""]
    if any(plain(key) in _WRAPPERS or key in roles.boxes for key in beside if not requested(key, frame)):
        raise Unreadable("none beside boxes")
    if wraps and len(held) > 1:
        raise Unreadable(f"several lists of boxes: {', '.join(map(repr, list(held)[:4]))}")
    found: list[BoxItem] = []
    for key, member in held.items():
        if isinstance(member, str):
            member = [list(four_numbers(member) or ())]
        own = named_here if wraps else category_of(key, frame)
        items = items_in(member, frame, own) or []
        found += [item._replace(label=item.label or own, as_object=not wraps or item.as_object) for item in items]
    return found


_COUNTS = frozenset(["count", "total", "num", "number", "numobjects", "totalcount", "objectcount", "numdetections"])


def _denies_all(keys: Sequence[str], frame: Frame) -> bool:
    """Whether empty values under these keys say that nothing is there: under a wrapper, or under every category."""
    names = {requested(key, frame) for key in keys if plain(key) not in _WRAPPERS}
    return None not in names and (len(names) < len(keys) or not keys or names >= set(frame.categories))


def _holds_box(value: dict[str, Any], roles: Roles) -> bool:
    """Whether an object is one item: it has a key of a box that does not merely wrap objects of their own."""
    return any(not _wraps_objects(value[key]) for key in roles.boxes) and not all(_is_none(value[k]) for k in roles.boxes)


def _wraps_objects(value: Any) -> bool:
    """Whether what stands under a key of a box is objects or a map of labels with boxes of their own."""
    if isinstance(value, dict):
        return named_corners(value) is None and is_box_like(value)
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and not is_xy(m) and named_corners(m) is None for m in value)
    )


def _boxes_of_item(
    value: dict[str, Any], roles: Roles, named: tuple[float, ...] | None, frame: Frame, label: str | None
) -> Iterator[BoxItem]:
    """The box of an object with keys, or its boxes where the one key holds several."""
    readings: list[list[Sequence[Any] | None]] = [] if named is None else [[named]]
    for key in roles.boxes:
        if isinstance(value[key], Rivals):
            raise Unreadable(f"the key {key!r} twice with different values")
        if not isinstance(value[key], str) or any(c.isdigit() for c in value[key]):
            readings.append(boxes_in(value[key]))
    if any(reading != readings[0] for reading in readings[1:]):
        raise Unreadable(f"two box keys that disagree: {', '.join(map(repr, roles.boxes[:4]))}")
    boxes = readings[0] if readings else [None]
    confidence = None if roles.confidence is None else confidence_of(value[roles.confidence])
    labels = _labels_of(value, roles, len(boxes), frame)
    for box, own in zip(boxes, labels, strict=True):
        yield BoxItem(valid(box), own if own is not None else label, confidence, True)


def _labels_of(value: dict[str, Any], roles: Roles, n: int, frame: Frame) -> list[str | None]:
    """The labels of an object's `n` boxes: its one label, or a list of `n` labels beside a list of `n` boxes."""
    for key in roles.labels:
        several = value[key]
        if isinstance(several, list) and not isinstance(several, Rivals) and all(isinstance(one, str) for one in several):
            if len(several) != n:
                raise Unreadable(f"{n} boxes but {len(several)} labels")
            return [str(one) for one in several]
    return [_label_in(value, frame)] * n


_DESCRIPTIONS = frozenset(map(plain, ("description", "caption", "text_content", "phrase", "ref", "text", "tag", "type")))
_NO_THING = frozenset(["object", "bbox", "box", "boundingbox", "rectangle", "rect", "detection", "thing", "item"])


def _label_in(value: dict[str, Any], frame: Frame) -> str | None:
    """The label an object names: that of its first key of a label. Two keys that name different things contradict each other;
    a description may say more than the label, unless it names another category."""
    found: list[str] = []
    names: set[str] = set()
    for key in roles_of(tuple(value)).labels:
        if isinstance(value[key], Rivals):
            raise Unreadable(f"the key {key!r} twice with different values")
        if isinstance(value[key], str) and not (isinstance(value[key], BareWord) and canon(value[key]) in NO_BOX):
            found.append(str(value[key]))
            if plain(key) not in _DESCRIPTIONS and plain(value[key]) not in _NO_THING:
                names.add(canon(requested(value[key], frame) or value[key]))
            else:
                names |= {canon(one) for one in (requested(value[key], frame), value[key]) if one and canon(one) in WORDS}
    if (frame.categories and len(names) > 1) or len({canon(label) for label in found if requested(label, frame)}) > 1:
        raise Unreadable(f"two labels of one box: {', '.join(found[:3])}")
    return found[0] if found else None
