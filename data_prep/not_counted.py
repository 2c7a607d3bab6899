"""What files mark as not to be counted: flags of objects (`iscrowd`, `difficult`, `ignore`) and names of regions that are no
category (`DontCare`). All readers ask here, so that a flag means the same in every format.

Names are compared without case, blanks, `_` and `-`. An object with such a flag is there, yet no part of the answer. A region
of such a name holds objects of any category that nobody annotated; a background is only no category.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from data_prep.annotated import Annotated
from data_prep.box_values import flag
from data_prep.report import Report

_FLAGS = frozenset(
    [
        *("ignore", "ignored", "isignore", "isignored", "ignoreflag", "toignore", "dontcare", "isdontcare"),
        *("crowd", "iscrowd", "crowded", "iscrowded", "groupof", "isgroupof", "difficult", "isdifficult"),
        *("deleted", "isdeleted", "excluded", "isexcluded"),
    ]
)
_REGIONS = frozenset(
    ["ignore", "ignored", "ignoreregion", "ignoreregions", "ignoredregion", "ignoredregions", "dontcare", "neutral"]
)
_BACKGROUND = frozenset({"background"})
_ALSO_CATEGORIES = frozenset({"neutral", "crowd"})
"""Names of regions in one tool only: a neutral face is a category elsewhere, and so is a crowd of people."""


_OF_IMAGES = _FLAGS - {"crowd", "iscrowd", "crowded", "iscrowded", "groupof", "isgroupof", "difficult", "isdifficult"}
"""Marks of a whole image: a difficult photograph is one to be asked about."""
_PLACES = ("attributes", "flags", "tags", "extra", "properties")
"""Keys below which tools put marks and other attributes."""


@lru_cache(maxsize=4096)
def _bare(name: str) -> str:
    return re.sub(r"[\W_]", "", name).casefold()


def is_flag(name: object) -> bool:
    """Whether a key, column, attribute or tag of this name marks objects that are not to be counted."""
    return isinstance(name, str) and _bare(name) in _FLAGS


def is_marked(*values: Any) -> bool | None:
    """Whether one of these mappings (name → value) marks its object as not to be counted; None: a flag cannot be read. What
    is no mapping marks nothing."""
    flags = [_truth(value) for one in values if isinstance(one, Mapping) for key, value in one.items() if is_flag(key)]
    return None if None in flags else any(flags)


def marks_in(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The mappings in which the marks of an object may stand: its own keys, and what stands below `attributes`, `flags`, `tags`
    and the like, as a mapping, a list of names, a list of names with values, or a text."""
    found = [row]
    for key in _PLACES:
        inside = row.get(key)
        if isinstance(inside, str):
            inside = re.split(r"[,;]", inside)
        if isinstance(inside, Mapping):
            found.append(inside)
        elif isinstance(inside, list):
            found += [
                {str(one.get("name", one.get("key"))): one.get("value", True)}
                if isinstance(one, Mapping)
                else {str(one).strip(): True}
                for one in inside
            ]
    return found


def is_left_out(*values: Any) -> bool:
    """Whether one of these mappings marks a whole image as not to be used. A mark that cannot be read does, too."""
    marks = [one for value in values if isinstance(value, Mapping) for one in marks_in(value)]
    return any(_bare(key) in _OF_IMAGES and _truth(on) is not False for one in marks for key, on in one.items() if is_flag(key))


def _truth(value: Any) -> bool | None:
    """A flag; of options to tick, the one that is ticked."""
    if isinstance(value, Mapping):
        value = [key for key, on in value.items() if on]
    if isinstance(value, list):
        truths = {True if is_flag(one) else flag(one) for one in value}
        return truths.pop() if len(truths) == 1 else None if truths else False
    return flag(value)


def is_region(label: str | None, *, neutral: bool = False) -> bool:
    """Whether this names a region that nobody annotated, or is the name of a mark (`difficult`) in place of a category, so that
    the object may be of any. `neutral`: in this format `neutral` is one too."""
    name = _bare(label or "")
    if name in _ALSO_CATEGORIES:
        return neutral and name in _REGIONS
    return name in _REGIONS or name in _FLAGS


def is_category(label: str | None) -> bool:
    """Whether a label names a category, not a region that nobody annotated or the background."""
    return not is_region(label) and _bare(label or "") not in _BACKGROUND


def without_regions(annotated: Iterable[Annotated], report: Report) -> list[Annotated]:
    """The images without boxes of what is no category; each category may have objects where a region was not annotated."""
    return [_without_regions(one, report) for one in annotated]


def _without_regions(one: Annotated, report: Report) -> Annotated:
    labels = {box.label or "" for box in one.boxes} | one.crowd | one.doubtful
    apart = {label for label in labels if not is_category(label)}
    if not apart:
        return one
    for number, box in enumerate(one.boxes):
        if box.label in apart:
            what = f"{box.label!r} is no category: it is left out"
            if is_region(box.label):
                what += ", and nothing is asked for as absent in this image"
            report.note(one.place(number), what, "regions and backgrounds that are no category, left out")
    kept = one.without(apart)
    return replace(
        kept,
        crowd=one.crowd - apart,
        doubtful=one.doubtful - apart,
        any_crowd=one.any_crowd or any(map(is_region, apart)),
        searched=one.searched or bool(one.boxes),
    )
