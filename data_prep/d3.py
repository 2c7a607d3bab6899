"""D3, the Description Detection Dataset (shikras/d-cube, arXiv 2307.12813) → detection samples.

    python data_prep/d3.py --pkl d3_pkl --images d3_images --out d3.jsonl
    python data_prep/d3.py --json d3_json/d3_pres_annotations.json --pkl d3_pkl --images d3_images --out d3_pres.jsonl

Its categories are 422 sentences, 106 of them about an absence ("a dog without a leash"). Two forms are published: dictionaries
in pickles (images, annotations, sentences and groups; `--pkl`), and JSON in COCO's form, in which a category has the id of its
sentence, without groups (`--json`). With both, the boxes come from the JSON.

`--scenario intra` (default, as published) asks in each image only for the sentences of its group, usually 4; `inter` for all.
Every image was searched for every sentence, but the published JSON may keep only the boxes of an image's own group (the default
of the authors' converter): for `inter` prefer `--pkl` alone.

`--presence` and `--absence` keep the sentences of one kind.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.detection_set import Annotated, add_options, check_options, write_detection
from data_prep.fitting import stated_size, xywh_to_box
from data_prep.instances import annotated_images, read_instances
from data_prep.unpickling import ARRAYS, read_pickle
from data_prep.writing import Report, Target, need_file, need_folder, program
from vlrl.answers.span import canon

_TABLES: Mapping[str, Mapping[str, type | tuple[type, ...]]] = {
    "images": {"file_name": str, "anno_id": list, "group_id": (int, str)},
    "annotations": {"bbox": list, "sent_id": list},
    "sentences": {"raw_sent": str, "is_negative": (bool, int)},
    "groups": {"inner_sent_id": list},
}
"""Pickle → the keys that each of its entries needs, with their types."""


@dataclass(frozen=True)
class Pickles:
    """The published dictionaries, each by id. `folder` is for reports."""

    folder: Path
    images: Mapping[Any, Mapping[str, Any]]
    annotations: Mapping[Any, Mapping[str, Any]]
    sentences: Mapping[Any, Mapping[str, Any]]
    groups: Mapping[Any, Mapping[str, Any]]


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, ask, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    pickles = None if args.pkl is None else read_pickles(args.pkl)
    if args.json is not None:
        content = read_instances(args.json)
        names = content.names
        annotated = [replace(one, searched=True) for one in annotated_images(content, args.images, report)]
    elif pickles is not None:
        names = {str(key): row["raw_sent"] for key, row in pickles.sentences.items()}
        annotated = pickled_images(pickles, args.images, report)
    if pickles is not None and args.scenario == "intra":
        annotated = intra_scenario(annotated, pickles, names, report)
    wanted = None
    if pickles is not None and args.kind is not None:
        wanted = sentences_of_kind(names, pickles, args.kind)
    dataset = args.dataset or "d3"
    return write_detection(
        annotated,
        names.values(),
        args,
        target,
        report,
        dataset=dataset,
        split=args.kind,
        wanted=wanted,
        is_xywh=True,
        all_annotated=True,
    )


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="D3 (d-cube) -> detection samples (JSONL)")
    parser.add_argument("--pkl", type=Path, help="folder of images.pkl, annotations.pkl, sentences.pkl and groups.pkl")
    parser.add_argument("--json", type=Path, help="d3_{full,pres,abs}_annotations.json; its boxes instead of the pickles'")
    parser.add_argument("--images", type=Path, required=True, help="folder the file names are relative to")
    parser.add_argument("--scenario", choices=("intra", "inter"), default="intra", help="sentences requested (default intra)")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--presence", action="store_const", dest="kind", const="presence", help="sentences about what is there")
    kind.add_argument("--absence", action="store_const", dest="kind", const="absence", help="sentences about what is missing")
    add_options(parser, per="image")
    args = parser.parse_args(argv)
    if args.pkl is None and args.json is None:
        parser.error("give --pkl, --json or both")
    if args.pkl is None and (args.scenario == "intra" or args.kind is not None):
        parser.error("the JSON does not say which sentences belong to a scenario or an absence; add --pkl, or --scenario inter")
    if args.json is not None:
        need_file(parser, "--json", args.json)
    for table in _TABLES if args.pkl is not None else ():
        need_file(parser, "--pkl", args.pkl / f"{table}.pkl")
    need_folder(parser, "--images", args.images)
    return args, check_options(args, parser)


def read_pickles(folder: Path) -> Pickles:
    """The four dictionaries, arrays as lists; ends the program where one of them lacks what `_TABLES` states."""
    tables = {}
    for table, needed in _TABLES.items():
        path = folder / f"{table}.pkl"
        rows = read_pickle(path, ARRAYS)
        if not isinstance(rows, dict):
            raise SystemExit(f"{path}: a {type(rows).__name__}, not the dictionary of D3's {table}")
        tables[table] = {key: _plain_row(row) for key, row in rows.items()}
        for key, row in tables[table].items():
            for name, kind in needed.items():
                if not isinstance(row.get(name), kind):
                    raise SystemExit(f"{path}: {name!r} of entry {key!r} is {str(row.get(name))[:200]}; is this D3's {table}?")
    return Pickles(folder, **tables)


def _plain_row(row: Any) -> dict[str, Any]:
    """Arrays and numpy numbers as Python's own."""
    if not isinstance(row, dict):
        return {}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in row.items()}


def pickled_images(pickles: Pickles, images: Path, report: Report) -> list[Annotated]:
    """One record per image, with the boxes of every sentence."""
    annotated = []
    for key, image in pickles.images.items():
        boxes, wheres, doubtful = [], [], set()
        for number in image["anno_id"]:
            where = f"{pickles.folder / 'annotations.pkl'}: annotation {number} (image {key})"
            row = pickles.annotations.get(number)
            if row is None:
                report.bad(where, "no annotation with this id")
                continue
            labels = []
            for sentence in row["sent_id"]:
                if sentence in pickles.sentences:
                    labels.append(pickles.sentences[sentence]["raw_sent"])
                else:
                    report.bad(where, f"no sentence with id {sentence}")
            # published as an array of one row
            bbox = row["bbox"][0] if row["bbox"] and isinstance(row["bbox"][0], list) else row["bbox"]
            box = xywh_to_box(bbox, None)
            if box is None:
                report.bad(where, f"bbox {row['bbox']} is not [x, y, width, height], four finite numbers")
                doubtful.update(labels)
                continue
            boxes += [replace(box, label=label) for label in labels]
            wheres += [f"annotation {number} of annotations.pkl"] * len(labels)
        annotated.append(
            Annotated(
                path=images / image["file_name"],
                source_id=str(key),
                where=f"{pickles.folder / 'images.pkl'}: image {key}",
                size_wh=stated_size(image.get("width"), image.get("height")),
                boxes=tuple(boxes),
                object_wheres=tuple(wheres),
                doubtful=frozenset(doubtful),
            )
        )
    return annotated


def intra_scenario(
    annotated: Sequence[Annotated], pickles: Pickles, names: Mapping[str, str], report: Report
) -> list[Annotated]:
    """Each image with the sentences of its own group only; those without a box are known to be absent."""
    image_of = {str(key): row for key, row in pickles.images.items()}
    kept = []
    for one in annotated:
        image = image_of.get(one.source_id)
        if image is None or image["group_id"] not in pickles.groups:
            missing = f"image {one.source_id}" if image is None else f"group {image['group_id']}"
            report.bad_image(one.where, f"{pickles.folder} has no {missing}, so its scenario is not known", len(one.boxes))
            continue
        inner = pickles.groups[image["group_id"]]["inner_sent_id"]
        requested = frozenset(names[str(number)] for number in inner if str(number) in names)
        others = {box.label or "" for box in one.boxes} - requested
        kept.append(replace(one.without(others), absent=requested))
    return kept


def sentences_of_kind(names: Mapping[str, str], pickles: Pickles, kind: str) -> frozenset[str]:
    """The sentences about a presence or an absence, in canonical form."""
    sentences = {str(key): row for key, row in pickles.sentences.items()}
    for key in names:
        if key not in sentences:
            raise SystemExit(f"{pickles.folder / 'sentences.pkl'}: no sentence {key}, a category of the JSON file")
    absence = {key for key in names if sentences[key]["is_negative"]}
    return frozenset(canon(names[key]) for key in names if (key in absence) == (kind == "absence"))


if __name__ == "__main__":
    sys.exit(program(main))
