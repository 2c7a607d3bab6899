"""VGG Image Annotator: projects and annotations of VIA 1, 2 (JSON, CSV) and 3 (JSON).

The label is an attribute of the region, whose name each project chooses: the only one, several that always agree, or the one
that `--label_key` names. Rectangles, polygons, circles and ellipses become boxes; points and lines are no boxes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_prep.formats.gathering import Gathering, OneImage, Tree, note, number, some, text_of
from data_prep.formats.shapes import Corners, around, of_ellipse
from data_prep.not_counted import is_flag, is_left_out

NO_BOXES = {"point": "point", "polyline": "line", "line": "line"}
SHAPES = {"rect": "box", "polygon": "polygon", "circle": "circle", "ellipse": "ellipse"}
SHAPES_3 = {1: "point", 2: "rect", 3: "circle", 4: "ellipse", 5: "line", 6: "polyline", 7: "polygon", 8: "polygon"}
"""Numbers of the shapes in VIA 3; 8 is a rectangle by points on its sides."""
CSV_COLUMNS = "region_shape_attributes"


@dataclass(frozen=True)
class Region:
    """A region of VIA, of any version. `attributes`: name → value."""

    image: str
    place: str
    shape: Mapping[str, Any]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Listed:
    """One file of VIA: its images in order, and its regions."""

    file: str
    images: list[str]
    regions: list[Region]
    left_out: frozenset[str] = frozenset()


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"regions of VIA in {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    mark = re.compile(r'"_via_|"shape_attributes"|"base64_img_data"|"filename"\s*:.*"regions"|"regions".*"filename"\s*:', re.S)
    third = re.compile(r'"data_format_version"|_VIA_PROJECT')
    files = [name for name in tree.with_suffix(".json") if mark.search(head := tree.head(name)) or third.search(head)]
    return [*files, *(name for name in tree.with_suffix(".csv") if CSV_COLUMNS in tree.head(name))]


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all files of the tree."""
    listed = [_listed(name, tree) for name in files_of(tree)]
    key = _label_key([region for one in listed for region in one.regions], tree)
    for file in listed:
        regions: dict[str, list[Region]] = {image: [] for image in file.images}
        for region in file.regions:
            regions.setdefault(region.image, []).append(region)
        for image, found in regions.items():
            one = gathering.image(f"{tree.path(file.file)}: {image}")
            if image in file.left_out:
                one.left_out()
                continue
            for region in found:
                _region(region, key, one)
            one.done(one.named(*_names(file.file, image, tree)), searched=False)


def _names(file: str, image: str, tree: Tree) -> list[str]:
    beside = f"{file.rpartition('/')[0]}/{image}".lstrip("/")
    return [beside, image] if (tree.images_root / beside).is_file() else [image]


def _listed(name: str, tree: Tree) -> Listed:
    if name.endswith(".csv"):
        return _of_csv(name, tree)
    content = tree.json(name)
    if isinstance(content, dict) and isinstance(content.get("metadata"), dict) and isinstance(content.get("file"), dict):
        return _of_third(name, content)
    if isinstance(content, dict) and "_via_img_metadata" in content:
        content = content["_via_img_metadata"]
    images: dict[str, None] = {}
    regions: list[Region] = []
    left_out: set[str] = set()
    for key, entry in content.items() if isinstance(content, dict) else ():
        image = entry.get("filename") if isinstance(entry, dict) else None
        found = entry.get("regions", []) if isinstance(entry, dict) else None
        found = list(found.values()) if isinstance(found, dict) else found
        if not isinstance(image, str) or not isinstance(found, list):
            tree.report.bad(f"{tree.path(name)}: {key}", "no 'filename' and 'regions'", what="images")
            continue
        images[image] = None
        left_out |= {image} if is_left_out(entry, entry.get("file_attributes")) else set()
        for place, region in enumerate(found, start=1):
            region = region if isinstance(region, dict) else {}
            shape, attributes = region.get("shape_attributes"), region.get("region_attributes")
            regions.append(Region(image, f"region {place}", _dict(shape), _dict(attributes)))
    return Listed(name, list(images), regions, frozenset(left_out))


def _of_csv(name: str, tree: Tree) -> Listed:
    images: dict[str, None] = {}
    regions = []
    headings: list[str] | None = None
    for line, cells in tree.table(name):
        if headings is None:
            headings = cells
            continue
        row = dict(zip(headings, cells, strict=False))
        image = (row.get("filename") or row.get("#filename") or "").strip()
        try:
            shape, attributes = (json.loads(row.get(key) or "{}") for key in (CSV_COLUMNS, "region_attributes"))
        except ValueError:
            shape, attributes = {"name": "unreadable JSON"}, {}
        images[image] = None
        if shape:
            regions.append(Region(image, f"line {line}", _dict(shape), _dict(attributes)))
    return Listed(name, list(images), regions)


def _of_third(name: str, content: Mapping[str, Any]) -> Listed:
    """VIA 3: shapes are lists of numbers, attributes are known by number and their options too."""
    attributes = _dict(content.get("attribute"))
    views = {key: _dict(view).get("fid_list") or [] for key, view in _dict(content.get("view")).items()}
    files = {str(key): str(_dict(file).get("fname", "")) for key, file in _dict(content.get("file")).items()}
    regions = []
    for key, entry in _dict(content.get("metadata")).items():
        entry = _dict(entry)
        of = views.get(str(entry.get("vid")), [])
        image = files.get(str(of[0]), "") if of else ""
        values = {}
        for number_, value in _dict(entry.get("av")).items():
            attribute = _dict(attributes.get(number_))
            options = _dict(attribute.get("options"))
            values[str(attribute.get("aname") or number_)] = options.get(str(value), value)
        if entry.get("xy"):
            regions.append(Region(image, f"region {key}", _third_shape(entry["xy"]), values))
    return Listed(name, [file for file in files.values() if file], regions)


def _third_shape(xy: Any) -> dict[str, Any]:
    if not isinstance(xy, list) or not xy or SHAPES_3.get(xy[0]) is None:
        return {"name": f"number {str(xy)[:20]}"}
    kind, values = SHAPES_3[xy[0]], xy[1:]
    if kind == "polygon":
        return {"name": kind, "all_points_x": values[::2], "all_points_y": values[1::2]}
    keys = {"rect": ("x", "y", "width", "height"), "circle": ("cx", "cy", "r"), "ellipse": ("cx", "cy", "rx", "ry")}
    return {"name": kind, **dict(zip(keys.get(kind, ()), values, strict=False))}


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _label_key(regions: list[Region], tree: Tree) -> str | None:
    """The attribute that holds the label; ends the program where several may."""
    wanted = tree.options.label_key
    values: dict[str, dict[int, str | None]] = {}
    for place, region in enumerate(regions):
        for key, value in region.attributes.items():
            values.setdefault(key, {})[place] = _value(value)
    if wanted is not None:
        if wanted not in values:
            raise SystemExit(f"--label_key: no region has an attribute {wanted!r}; there are: {some(sorted(values)) or 'none'}")
        return wanted
    used = {key: found for key, found in values.items() if any(found.values()) and not is_flag(key)}
    if len(used) <= 1:
        return next(iter(used), None)
    first = next(iter(used))
    if all(found == used[first] for found in used.values()):
        note(f"the attributes {some(sorted(used))} always agree; the label is {first!r}")
        return first
    shown = "; ".join(
        f"--label_key {key}: {some(sorted({value for value in found.values() if value}))}" for key, found in used.items()
    )
    raise SystemExit(f"{tree.root}: regions have several attributes, and the label is one of them: {shown}")


def _value(value: Any) -> str | None:
    """A label as text; a checkbox has the one option that is ticked."""
    if isinstance(value, dict):
        ticked = [key for key, on in value.items() if on is True]
        return text_of(ticked[0]) if len(ticked) == 1 else None
    return text_of(value)


def _marks(region: Region, key: str | None) -> list[Any]:
    """The attributes other than the label; checkboxes may hold several flags."""
    return [{name: value for name, value in region.attributes.items() if name != key}, *region.attributes.values()]


def _region(region: Region, key: str | None, one: OneImage) -> None:
    label = _value(region.attributes.get(key)) if key is not None else None
    kind = str(region.shape.get("name"))
    if kind in NO_BOXES:
        one.no_box(NO_BOXES[kind], label, region.place)
    elif kind in SHAPES:
        one.box(SHAPES[kind], label, lambda: _corners(kind, region.shape), region.place, *_marks(region, key))
    else:
        one.unreadable("region", label, region.place, f"{label}: a shape {kind!r} is not known", "shapes that are not known")


def _corners(kind: str, shape: Mapping[str, Any]) -> Corners:
    if kind == "polygon":
        xs, ys = shape["all_points_x"], shape["all_points_y"]
        return around([(number(x), number(y)) for x, y in zip(xs, ys, strict=True)])
    if kind == "rect":
        x, y, width, height = (number(shape[name]) for name in ("x", "y", "width", "height"))
        return x, y, x + width, y + height
    if kind == "circle":
        cx, cy, radius = (number(shape[name]) for name in ("cx", "cy", "r"))
        return of_ellipse(cx, cy, radius, radius)
    cx, cy, rx, ry = (number(shape[name]) for name in ("cx", "cy", "rx", "ry"))
    return of_ellipse(cx, cy, rx, ry, math.degrees(number(shape.get("theta") or 0)))
