"""What a set that no reader recognises looks like, for the message: forms that are common and have no reader here, near misses
of forms that have one, and the beginning of a file where it is none of these."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from data_prep.formats.tree import Tree

_LOOKED_AT = 30
_N = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
_SHARE = r"(?:0?\.\d+(?:e-?\d+)?|0|1(?:\.0*)?|0\.)"
_LINES = {
    r"\d+,-?\d+(,\d+){4},[01],(\d|1[01]),-?\d+,-?\d+": "tracks of VisDrone's videos (frame,target,x,y,w,h,score,category,"
    "truncation,occlusion), which have no reader here",
    rf"\d+,-?\d+(,{_N}){{5,8}}": "tracks (frame,id,x,y,w,h,...) as MOT and UAVDT have them: try --format datumaro:mot_seq",
    rf"\d+,{_SHARE}(,{_SHARE}){{3}}": "YOLO's lines with commas: put blanks in their place",
    rf"\d+(\s+{_SHARE}){{4,}}": "YOLO's lines, in a file that has the name of no image (a.txt is of a.jpg)",
    rf"\S+(\s+{_SHARE}){{4}}": "YOLO's lines with names in place of the numbers of their classes: write the numbers, and the"
    " names in classes.txt",
    rf"\d+(\s+{_N}){{4}}": "YOLO's lines in other units than shares of the image (0 to 1)",
    r"\S+\.\w{3,4}(\s+\d+,\d+,\d+,\d+,\d+)+": "lists of an image and its x1,y1,x2,y2,class (keras-yolo3): write a table"
    " file,x1,y1,x2,y2,label for --format csv",
    rf"(\s*{_N},){{8}}.*": "corners and texts (x1,y1,...,x4,y4,text) as ICDAR has them, which have no reader here",
    rf"{_N}([,\s]+{_N}){{3}}": "four bare numbers a line, which say neither what they are nor of which category: write a table"
    " file,x1,y1,x2,y2,label for --format csv",
}
"""A whole line → what files with such lines are."""
_KEYS = {
    ("image_id", "category_id", "bbox", "score"): "predictions in COCO's form, and predictions are no annotations",
    ("image_id", "category_id", "bbox"): "annotations in COCO's form without their images and categories",
    ("name", "labels", "attributes"): "labels of BDD100K, which have no reader here: convert them with the toolkit of that set",
    (
        "imgHeight",
        "imgWidth",
        "objects",
    ): "polygons of Cityscapes, which have no reader here: convert them with its own scripts",
    ("images", "annotations"): "COCO's form without 'categories', so that nothing says what the numbers of categories mean",
    ("messages",): "conversations, no annotations of boxes: data_prep/rows.py reads them",
    ("conversations",): "conversations, no annotations of boxes: data_prep/rows.py reads them",
}
"""Keys of a JSON object, or of the first of a list → what the file is."""


def described(tree: Tree) -> str | None:
    """What the files look like, in a sentence; None where there is no text to look at."""
    texts = tree.with_suffix(".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".ndjson")
    named = re.compile(r"(readme|license|classes|labels)\b", re.I)
    texts = [name for name in texts if not named.match(name.rpartition("/")[2])][:_LOOKED_AT]
    for name in texts:
        head = tree.head(name)
        what = _of_keys(head) if head.lstrip()[:1] in ("{", "[") else _of_lines(head.splitlines()[:5])
        if what is not None:
            return f"{name} looks like {what}"
    for name in texts:
        first = next((line.strip() for line in tree.head(name).splitlines() if line.strip()), None)
        if first:
            return f"{name} begins {first[:80]!r}"
    return None


def _of_lines(lines: Sequence[str]) -> str | None:
    whole = [line.strip().rstrip(",") for line in lines if line.strip()]
    for pattern, what in _LINES.items():
        if whole and all(re.fullmatch(pattern, line, re.I) for line in whole):
            return what
    return None


def _of_keys(head: str) -> str | None:
    """By the keys that the beginning of a file shows, as the file may be large."""
    first = re.match(r"\s*(?:\[\s*)?\{", head)
    if first is None:
        return None
    try:
        content, _ = json.JSONDecoder().raw_decode(head[first.end() - 1 :])
        keys = set(content)
    except (ValueError, RecursionError):
        keys = set(re.findall(r'"(\w+)"\s*:', head))
    return next((what for wanted, what in _KEYS.items() if keys.issuperset(wanted)), None)
