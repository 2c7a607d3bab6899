"""ReasonSeg (dvlab-research/LISA, arXiv 2308.00692) → grounding samples, one per instruction.

    python data_prep/reasonseg.py --root ReasonSeg --split train --out reasonseg_train.jsonl

Reads `<root>/<split>/<name>.jpg` with `<name>.json`: `text` (instructions, up to five in train), `is_sentence` and
`shapes` (labelled polygons). Shapes labelled `flag` are void, those whose label contains `ignore` are neither target nor
background, all others are the target. Some files are cp1252 and not UTF-8.

`--box union` (default): the box around all target points. `--box first`: around the first target polygon only, as
Visual-RFT did; for comparison with its numbers. Polygons go to `meta.polygons` and `meta.ignore_polygons`, lists of [x, y]
in original pixels, for mask metrics.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.fitting import box_counts, fit_box, is_pixel, tidy, usable_size_px
from data_prep.writing import Report, Target, add_output_options, check_output_options, draw, finish, need_folder, program
from vlrl.schema import Box, Sample

Polygon = list[list[float]]


@dataclass(frozen=True)
class Annotation:
    """One JSON file. Polygons are lists of [x, y] in original pixels, unchecked against the image."""

    instructions: tuple[str, ...]
    is_sentence: bool
    targets: tuple[Polygon, ...]
    ignored: tuple[Polygon, ...]


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    folder = args.root / args.split
    jpgs = {path.stem: path for path in sorted(folder.glob("*.jpg"))}
    jsons = {path.stem: path for path in sorted(folder.glob("*.json"))}
    samples = []
    for name in report.each("images", sorted({*jpgs, *jsons})):
        if name not in jpgs or name not in jsons:
            there, missing = (jpgs[name], "json") if name in jpgs else (jsons[name], "jpg")
            report.bad(str(there), f"no {name}.{missing} beside it")
            continue
        samples += samples_of(jpgs[name], jsons[name], args, report)
    n_instructions = Counter(sample.images for sample in samples)
    several = sum(n > 1 for n in n_instructions.values())
    lines = [f"several    {several} images with more than one instruction", *box_counts(report)]
    return finish(draw(samples, args.limit, args.seed), target, report, lines, f"{len(jpgs)} images in {folder}")


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="ReasonSeg -> grounding samples (JSONL)")
    parser.add_argument("--root", type=Path, required=True, help="folder that holds train/, val/ and test/")
    parser.add_argument("--split", default="train", help="train (default), val or test")
    parser.add_argument("--box", choices=("union", "first"), default="union", help="all target points or the first polygon's")
    add_output_options(parser)
    args = parser.parse_args(argv)
    need_folder(parser, "--root", args.root / args.split)
    args.dataset = args.dataset or "ReasonSeg"
    return args, check_output_options(args)


def samples_of(jpg: Path, path: Path, args: argparse.Namespace, report: Report) -> list[Sample]:
    """One sample per instruction of the image; none (reported) where its annotation cannot be used."""
    annotation = read_annotation(path)
    if isinstance(annotation, str):
        report.bad(str(path), annotation)
        return []
    size_wh = usable_size_px(jpg, None, str(path), report)
    if size_wh is None:
        return []
    points = [point for polygon in annotation.targets[: 1 if args.box == "first" else None] for point in polygon]
    xs, ys = zip(*points, strict=True)
    box = fit_box(Box(min(xs), min(ys), max(xs), max(ys)), size_wh, str(path), report)
    if box is None:
        return []
    meta: dict[str, Any] = {
        "image_size": list(size_wh),
        "polygons": list(annotation.targets),
        "ignore_polygons": list(annotation.ignored),
        "is_sentence": annotation.is_sentence,
        "dataset": args.dataset,
        "split": args.split,
        "source_id": path.stem,
    }
    return [
        Sample(
            id=f"{args.dataset}-{args.split}-{path.stem}-{number}",
            task="grounding",
            question=instruction,
            answer={"bbox_2d": list(box.xyxy)},
            images=(str(jpg),),
            meta=meta,
        )
        for number, instruction in enumerate(annotation.instructions)
    ]


def read_annotation(path: Path) -> Annotation | str:
    """One JSON file, or what is wrong with it."""
    try:
        content = json.loads(_decoded(path.read_bytes()))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        return f"not JSON: {error}"
    if not isinstance(content, dict):
        return "not a JSON object"
    texts = content.get("text")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        return f"'text' is {str(texts)[:200]!r}, not a list of instructions"
    shapes = content.get("shapes")
    if not isinstance(shapes, list):
        return f"'shapes' is {str(shapes)[:200]!r}, not a list of polygons"
    targets: list[Polygon] = []
    ignored: list[Polygon] = []
    for number, shape in enumerate(shapes, start=1):
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            return f"shape {number} has no label"
        if label.strip().lower() == "flag":
            continue
        polygon = _polygon(shape.get("points"))
        if polygon is None:
            return f"shape {number} ({label}): points {str(shape.get('points'))[:200]} are not [x, y] pairs of finite numbers"
        (ignored if "ignore" in label.lower() else targets).append(polygon)
    if not targets:
        return "no target among its shapes"
    instructions = tuple(" ".join(one.split()) for one in texts)
    return Annotation(instructions, bool(content.get("is_sentence", True)), tuple(targets), tuple(ignored))


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("cp1252")


def _polygon(points: Any) -> Polygon | None:
    if not isinstance(points, list) or not points:
        return None
    if not all(isinstance(point, list) and len(point) == 2 and all(map(is_pixel, point)) for point in points):
        return None
    return [[tidy(x), tidy(y)] for x, y in points]


if __name__ == "__main__":
    sys.exit(program(main))
