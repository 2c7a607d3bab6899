"""VoTT's JSON export: assets with regions and tags.

Only assets that were tagged (state 2) or visited (state 1) were looked at. A tag such as "difficult" beside that of the
category marks an object that leaves the answer. An asset that VoTT cut from a video has a name of its own and is found by
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from data_prep.formats.gathering import Gathering, OneImage, Tree, number, size_of, some, text_of
from data_prep.formats.shapes import Corners, around
from data_prep.not_counted import is_flag, marks_in


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"assets of VoTT in {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    return [
        name
        for name in tree.with_suffix(".json")
        if tree.head(name).lstrip().startswith("{") and tree.has(name, '"assets"', '"regions"', '"tags"')
    ]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all exports."""
    for file in files_of(tree):
        content = _dict(tree.json(file))
        tags = content.get("tags")
        gathering.declare([name for tag in tags or () if (name := text_of(_dict(tag).get("name"))) and not is_flag(name)])
        for key, entry in _dict(content.get("assets")).items():
            asset = _dict(_dict(entry).get("asset"))
            one = gathering.image(f"{tree.path(file)}: asset {key} ({asset.get('name')})")
            for place, region in enumerate(_dict(entry).get("regions") or [], start=1):
                _region(_dict(region), one, f"region {place}")
            names = [str(value).removeprefix("file:") for value in (asset.get("path"), asset.get("name")) if value]
            size = _dict(asset.get("size"))
            one.done(
                one.named(*names),
                size_of(size.get("width"), size.get("height")),
                searched=asset.get("state") in (1, 2, "1", "2"),
            )


def _region(region: Mapping[str, Any], one: OneImage, place: str) -> None:
    """A region, for each of its tags; a tag may be a mark ("difficult") in place of a category."""
    tags = region.get("tags") or []
    tags = [_dict(tag).get("name", tag) for tag in ([tags] if isinstance(tags, str) else tags)]
    marks = {tag: True for tag in tags if is_flag(tag)}
    for tag in [tag for tag in tags if not is_flag(tag)] or [None]:
        one.box("box", tag, lambda: _corners(region), place, marks, *marks_in({**region, "tags": None}))


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _corners(region: Mapping[str, Any]) -> Corners:
    box = region.get("boundingBox")
    if not isinstance(box, dict):
        return around([(number(point["x"]), number(point["y"])) for point in region["points"]])
    left, top, width, height = (number(box[key]) for key in ("left", "top", "width", "height"))
    return left, top, left + width, top + height
