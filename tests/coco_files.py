"""COCO instances files in the making, for the tests of the converters."""

import contextlib
import io
import json
from pathlib import Path

from PIL import Image

from data_prep import coco

RED, BLUE = [20, 10, 40, 40], [100, 20, 80, 60]
RED_XYXY, BLUE_XYXY = [20, 10, 60, 50], [100, 20, 180, 80]


def two_colours(*, images=1, **changes):
    """A sound file: in each image of 200x100 a red and a blue box. `changes` replace lists of it."""
    content = {
        "images": [{"id": i + 1, "file_name": f"{chr(97 + i)}.jpg", "width": 200, "height": 100} for i in range(images)],
        "annotations": [
            {"id": 2 * i + j, "image_id": i + 1, "category_id": category, "bbox": bbox, "iscrowd": 0}
            for i in range(images)
            for j, (category, bbox) in enumerate(((7, RED), (900, BLUE)), start=1)
        ],
        "categories": [{"id": 7, "name": "red"}, {"id": 900, "name": "blue"}],
    }
    return content | changes


def draw(path, size=(200, 100), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path, **options)


def convert(root, content, *options, name="set.json"):
    """(exit code or message, question → boxes for each image, standard error) of a run with five negatives an image."""
    (root / name).write_text(content if isinstance(content, str) else json.dumps(content))
    out = root / "out.jsonl"
    out.unlink(missing_ok=True)
    arguments = ["--instances", str(root / name), "--images", str(root / "img"), "--out", str(out), "--negatives", "5"]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            code = coco.main([*arguments, *options])
        except SystemExit as stop:
            code = stop.code
    asked = {}
    for line in out.read_text().splitlines() if out.exists() else ():
        row = json.loads(line)
        asked.setdefault(Path(row["images"][0]).name, {})[row["question"]] = [item["bbox_2d"] for item in row["answer"]]
    return code, asked, errors.getvalue() + printed.getvalue()
