"""ScreenSpot, ScreenSpot-v2 and ScreenSpot-Pro (GUI grounding) → pointing samples.

    python data_prep/screenspot.py --data screenspot_mobile.json screenspot_desktop.json screenspot_web.json \\
        --images screenspot_imgs --out screenspot.jsonl
    vlrl bench run --task pointing --data screenspot.jsonl --group_by meta.platform+meta.data_type --output_path results/spots

Rows are `img_filename`, `bbox`, `instruction`, `data_type` (text or icon) and `data_source`. Boxes are x, y, width, height in
pixels (ScreenSpot and v2), corners in pixels (Pro, known by its `ui_type`), or corners in 0..1 (rows of the hub).
`meta.platform` is mobile, desktop or web, from the source; of Pro it is the operating system, beside `meta.field` and
`meta.application`. ScreenSpot's average is the mean over its six columns, platform by type. `--task grounding` asks for boxes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.fitting import tidy
from data_prep.rows_with_images import add_input_options, text_of, write_rows
from data_prep.writing import add_output_options, check_output_options, need_folder, program
from vlrl.data.images import ImageError, image_size
from vlrl.data.row_source import BadRow
from vlrl.schema import Sample

PLATFORMS = {
    **dict.fromkeys(("ios", "android", "mobile"), "mobile"),
    **dict.fromkeys(("windows", "macos", "mac", "desktop"), "desktop"),
    **dict.fromkeys(("web", "gitlab", "shop", "forum", "tool"), "web"),
}
"""Where a screenshot comes from → its platform, as ScreenSpot's tables have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Read, convert, check, write. Returns the exit code; the last line printed is the file written."""
    parser = argparse.ArgumentParser(description="ScreenSpot -> pointing samples (JSONL)")
    add_input_options(parser)
    parser.add_argument("--task", choices=("pointing", "grounding"), default="pointing", help="a point or a box is asked for")
    add_output_options(parser)
    args = parser.parse_args(argv)
    if args.images is not None:
        need_folder(parser, "--images", args.images)
    args.dataset = args.dataset or "screenspot"
    return write_rows(args, check_output_options(args), partial(sample_of, args=args))


def sample_of(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """The sample of a row. Raises BadRow."""
    if len(images) != 1:
        raise BadRow(f"{len(images)} images, one is needed")
    try:
        width, height = image_size(images[0])
    except ImageError as error:
        raise BadRow(str(error)) from error
    is_pro = "ui_type" in row
    kind = text_of(row, "ui_type", "data_type")
    source = text_of(row, "platform", "data_source") if is_pro else text_of(row, "data_source", "data_type")
    platform = source if is_pro else PLATFORMS.get(source.casefold())
    if platform is None:
        raise BadRow(f"data_source {source!r} is of no known platform ({', '.join(PLATFORMS)})")
    meta = {
        "image_size": [width, height],
        "platform": platform,
        "data_type": kind,
        "data_source": source,
        "dataset": args.dataset,
        **{key: row[key] for key in ("group", "application") if is_pro and isinstance(row.get(key), str)},
    }
    if "group" in meta:
        meta["field"] = meta.pop("group")  # `meta.group` keeps copies of an image together
    box = corners_px(row.get("bbox"), (width, height), is_pro)
    key = str(row.get("id") or Path(str(row.get("img_filename") or row.get("file_name") or "row")).stem)
    answer = {"bbox_2d": [tidy(value) for value in box]}
    return Sample(f"{args.dataset}-{key}", args.task, text_of(row, "instruction"), answer, images, meta=meta)


def corners_px(bbox: Any, size_wh: tuple[int, int], is_corners: bool) -> list[float]:
    """Corners in pixels, cut at the image's edge. `is_corners`: not x, y, width, height. Raises BadRow."""
    is_list = isinstance(bbox, list | tuple) and len(bbox) == 4
    if not is_list or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in bbox):
        raise BadRow(f"bbox {str(bbox)[:80]} is not four numbers")
    a, b, c, d = map(float, bbox)
    width, height = size_wh
    if max(a, b, c, d) <= 1.0:  # shares of width and height, as corners
        a, b, c, d = a * width, b * height, c * width, d * height
    elif not is_corners:
        c, d = a + c, b + d
    x1, y1, x2, y2 = max(a, 0.0), max(b, 0.0), min(c, float(width)), min(d, float(height))
    if not (x1 < x2 and y1 < y2):
        raise BadRow(f"bbox {list(bbox)} is not in the image of {width} x {height}")
    return [x1, y1, x2, y2]


if __name__ == "__main__":
    sys.exit(program(main))
