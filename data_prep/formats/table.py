"""CSV and TSV tables with one box a row: `file,x1,y1,x2,y2,label`, TensorFlow's, VoTT's, RetinaNet's (without a heading),
Kaggle's.

Columns are known by their headings. `x, y, width, height` may be a corner or the middle, and a column `bbox` may be anything:
`--boxes xyxy|xywh|cxcywh` says it. A row of a file without a box says that nothing is in its image.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from data_prep.class_folders import SUFFIXES
from data_prep.formats import visdrone
from data_prep.formats.gathering import Gathering, OneImage, Tree, number, size_of, some, suffix
from data_prep.formats.open_images import BOX_COLUMNS
from data_prep.formats.shapes import Corners
from data_prep.image_finding import split_of
from data_prep.not_counted import is_flag

HEADINGS = {
    "file": "file filename filepath image imagename imagepath imagefile imageid imageuri img imgname imgpath imgid path",
    "label": "label labels labelname class classname classlabel category categoryname objectcategory objectclass name",
    "x1": "x1 xmin left minx xtl bboxx1 bboxxmin boxx1 topleftx bboxleft boxleft bbleft",
    "y1": "y1 ymin top miny ytl bboxy1 bboxymin boxy1 toplefty bboxtop boxtop bbtop",
    "x2": "x2 xmax right maxx xbr bboxx2 bboxxmax boxx2 bottomrightx bboxright boxright",
    "y2": "y2 ymax bottom maxy ybr bboxy2 bboxymax boxy2 bottomrighty bboxbottom boxbottom",
    "cx": "cx xcenter xcentre centerx bboxxcenter",
    "cy": "cy ycenter ycentre centery bboxycenter",
    "x": "x bboxx boxx",
    "y": "y bboxy boxy",
    "w": "w bboxw bboxwidth boxw boxwidth bbwidth",
    "h": "h bboxh bboxheight boxh boxheight bbheight",
    "bbox": "bbox box boundingbox",
    "width": "width",
    "height": "height",
    "image_width": "imagewidth imgwidth imgw imagew",
    "image_height": "imageheight imgheight imgh imageh",
    "split": "split subset usage mlusage",
    "score": "score confidence conf probability prob",
}
ROLE_OF = {heading: role for role, headings in HEADINGS.items() for heading in headings.split()}
CORNERS = ("x1", "y1", "x2", "y2")
VISDRONE = ("score", "label", "truncation", "occlusion")


@dataclass(frozen=True)
class Layout:
    """How to read a table. `columns`: role → place in a row. `boxes`: xyxy, xywh or cxcywh; None: the headings leave it open.
    `four`: the columns of the numbers, or one column with all of them. `rest`: the columns that a table of VisDrone has beside
    these (score, category, truncation, occlusion), where it is one. `several`: the headings that may be that of the label."""

    delimiter: str
    headed: bool
    columns: Mapping[str, int]
    boxes: str | None
    four: tuple[str, ...]
    rest: tuple[str, ...] = ()
    several: tuple[str, ...] = ()


def recognise(tree: Tree) -> str | None:
    """Why the tree is of this format, or None."""
    files = files_of(tree)
    return f"tables of files and boxes: {some(files)}" if files else None


def files_of(tree: Tree) -> list[str]:
    """The files of the tree that are of this format."""
    return [name for name in tree.with_suffix(".csv", ".tsv") if _layout(tree.head(name), tree.options.label_key) is not None]


def _label_columns(rows: Sequence[Sequence[str]], places: Sequence[int], wanted: str | None) -> list[int]:
    """Those of the columns `places` that may hold the labels: the one with the heading `wanted`, else those with texts, where
    others have numbers; of columns that agree one."""
    for place, heading in enumerate(rows[0]):
        if wanted is not None and heading.strip() == wanted.strip():
            return [place]
    cells = {place: tuple(row[place].strip() if place < len(row) else "" for row in rows[1:]) for place in places}
    texts = [place for place in places if not all(cell.isdecimal() or not cell for cell in cells[place])] or list(places[:1])
    return list({cells[place]: place for place in reversed(texts)}.values())[::-1]


def _layout(head: str, wanted: str | None = None) -> Layout | None:
    """The layout that the first lines of a file show, or None where it is no table of boxes. `wanted`: the heading of the
    column of labels."""
    lines = [line for line in head.splitlines() if line.strip()]
    if not lines:
        return None
    delimiter = max(",;\t|", key=lines[0].count)
    rows = list(csv.reader(lines[:20], delimiter=delimiter))
    headings = [re.sub(r"[^a-z0-9]", "", word.lower()) for word in rows[0]]
    columns: dict[str, int] = {}
    labels: list[int] = []
    for place, heading in enumerate(headings):
        if ROLE_OF.get(heading) == "label":
            labels.append(place)
        elif heading in ROLE_OF:
            columns.setdefault(ROLE_OF[heading], place)
        elif is_flag(heading) or heading in VISDRONE:
            columns[heading] = place
    labels = _label_columns(rows, labels, wanted)
    if labels:
        columns["label"] = labels[0]
    if "file" in columns and not _is_file(rows[0][columns["file"]]):
        if {word.strip() for word in rows[0]} >= BOX_COLUMNS:
            return None
        found = _four(columns)
        rest = VISDRONE if all(role in columns for role in VISDRONE) else ()
        several = tuple(rows[0][place].strip() for place in labels) if len(labels) > 1 else ()
        return None if found is None else Layout(delimiter, True, columns, *found, rest, several)
    return _without_heading(rows, delimiter)


def _four(columns: Mapping[str, int]) -> tuple[str | None, tuple[str, ...]] | None:
    """What the headings say about the four numbers, and where they stand."""
    if all(role in columns for role in CORNERS):
        return "xyxy", CORNERS
    sizes = next((pair for pair in (("w", "h"), ("width", "height")) if all(role in columns for role in pair)), None)
    for start, boxes in ((("cx", "cy"), "cxcywh"), (("x1", "y1"), "xywh"), (("x", "y"), None)):
        if sizes is not None and all(role in columns for role in start):
            return boxes, (*start, *sizes)
    return (None, ("bbox",)) if "bbox" in columns else None


def _without_heading(rows: Sequence[Sequence[str]], delimiter: str) -> Layout | None:
    """RetinaNet's `path,x1,y1,x2,y2,class`; SKU-110K adds the size of the image."""
    if len(rows[0]) not in (6, 8) or any(len(row) != len(rows[0]) for row in rows[:-1]):
        return None
    fits = all(_is_file(row[0]) and (all(map(_is_number, row[1:5])) or not any(row[1:6])) for row in rows[:-1] or rows)
    columns = {"file": 0, "x1": 1, "y1": 2, "x2": 3, "y2": 4, "label": 5}
    if len(rows[0]) == 8:
        columns |= {"image_width": 6, "image_height": 7}
    return Layout(delimiter, False, columns, "xyxy", CORNERS) if fits else None


def _is_file(text: str) -> bool:
    return suffix(text.strip()) in SUFFIXES


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\s*-?\d+([.,]\d+)?(e-?\d+)?\s*", text, re.I))


def read(tree: Tree, gathering: Gathering) -> None:
    """Read all tables of the tree."""
    for file in files_of(tree):
        layout = _layout(tree.head(file), tree.options.label_key)
        if layout is None:
            continue
        boxes = tree.options.boxes or layout.boxes
        if boxes is None:
            raise SystemExit(
                f"{tree.path(file)}: the headings do not say what {', '.join(layout.four)} are; --boxes xyxy (two corners), "
                "xywh (top left corner and size) or cxcywh (middle and size)"
            )
        if "label" not in layout.columns and tree.options.label is None:
            raise SystemExit(
                f"{tree.path(file)}: no column of labels ({HEADINGS['label'].replace(' ', ', ')}); --label NAME if all are one"
            )
        if layout.several:
            choices = ", ".join(f"--label_key {heading}" for heading in layout.several)
            raise SystemExit(f"{tree.path(file)}: several columns may hold the label: {choices}")
        _table(file, layout, boxes, tree, gathering)


def _rows(file: str, layout: Layout, tree: Tree) -> Iterator[tuple[int, dict[str, str]]]:
    is_heading = layout.headed
    for line, row in tree.table(file, layout.delimiter):
        if any(cell.strip() for cell in row) and not is_heading:
            yield line, {role: row[at].strip() if at < len(row) else "" for role, at in layout.columns.items()}
        is_heading = False


def _table(file: str, layout: Layout, boxes: str, tree: Tree, gathering: Gathering) -> None:
    stem = re.split(r"[_\W]", PurePosixPath(file).stem)
    of_file = next((split for split in map(split_of, stem) if split), None)
    images: dict[str, list[tuple[int, dict[str, str]]]] = {}
    scores = set()
    for line, row in _rows(file, layout, tree):
        images.setdefault(row["file"], []).append((line, row))
        scores.add(row.get("score", ""))
    if not layout.rest and any(score and float(score) != 1 for score in scores if _is_number(score)):
        raise SystemExit(f"{tree.path(file)}: a column of scores that are not 1; predictions are no annotations")
    for name, rows in images.items():
        said = next((row["split"] for _, row in rows if row.get("split")), None)
        one = gathering.image(
            f"{tree.path(file)}: {name or 'rows without a file'}", split=split_of(said) or said if said else of_file
        )
        for line, row in rows:
            _row(row, layout, boxes, one, f"line {line}")
        beside = f"{file.rpartition('/')[0]}/{name}".lstrip("/")
        near = [beside] if (tree.images_root / beside).is_file() else []
        first = rows[0][1]
        has_size = layout.four[-1] != "height"
        width = first.get("image_width") or (first.get("width") if has_size else None)
        height = first.get("image_height") or (first.get("height") if has_size else None)
        one.done(one.named(*near, *([name] if name else [])), size_of(width, height))


def _row(row: Mapping[str, str], layout: Layout, boxes: str, one: OneImage, place: str) -> None:
    words = ["" if _is_nothing(row[role]) else row[role] for role in layout.four]
    label = row.get("label") or None
    if label is not None and _is_nothing(label):
        label = None
    if not any(words):
        if label is not None:
            one.unreadable("box", label, place, f"{label}: no numbers of a box", "rows with a label and no box")
        return
    if layout.rest and boxes == "xywh" and (label or "").isdecimal():
        visdrone.enter([*words, *(row[role] for role in layout.rest)], one, place)
        return
    if layout.four == ("bbox",):
        words = re.findall(r"[^\s,;()\[\]{}]+", words[0])
    one.box("box", label, lambda: _corners(words, boxes, layout.delimiter), place, row)


def _is_nothing(cell: str) -> bool:
    """Whether a cell says that it has no value, as pandas and databases write it."""
    return cell.casefold() in ("nan", "<na>", "null", "\\n")


def _corners(words: Sequence[str], boxes: str, delimiter: str) -> Corners:
    if delimiter == ";":
        words = [word.replace(",", ".") for word in words]
    if len(words) != 4:
        raise ValueError(f"{len(words)} numbers, needs 4: {list(words)}")
    a, b, c, d = (number(word) for word in words)
    if boxes == "xyxy":
        return a, b, c, d
    if min(c, d) <= 0:
        raise ValueError(f"width {c:g} and height {d:g}")
    return (a, b, a + c, b + d) if boxes == "xywh" else (a - c / 2, b - d / 2, a + c / 2, b + d / 2)
