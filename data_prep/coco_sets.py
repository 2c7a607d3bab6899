"""Many COCO-format sets, named by one JSON file of paths → one file of detection samples (ODinW and suites like it).

    python data_prep/coco_sets.py --suite odinw13.json --out odinw13.jsonl
    vlrl bench run --task detection --data odinw13.jsonl --protocol coco --group_by meta.dataset --output_path results/odinw

The JSON is an object: name of the set → `{"instances": "...json", "images": "folder"}`, paths relative to the JSON file. A set
may also state `classes`, a list of the names to ask for. Each set is read by `data_prep/coco.py`, whose further options are
passed on; `meta.dataset` holds the name, by which the benchmark groups: the mean of AP over sets is ODinW's number. By default
one category that is present is asked for in each sample, as Vision-R1 does.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep import coco
from data_prep.rows import read_json
from data_prep.writing import need_file, program


def main(argv: Sequence[str] | None = None) -> int:
    """Read every set, write one file. Returns the exit code; the last line printed is the file written."""
    args, passed_on = _arguments(argv)
    suite = _suite(args.suite)
    parts: list[Path] = []
    try:
        for number, (name, entry) in enumerate(suite.items()):
            part = args.out.with_name(f"{args.out.stem}.{number}.part.jsonl")
            words = ["--instances", str(entry["instances"]), "--images", str(entry["images"]), "--dataset", name]
            words += ["--classes", *entry["classes"]] if entry.get("classes") else []
            print(f"set        {name}")
            part.unlink(missing_ok=True)
            parts.append(part)
            code = coco.main([*words, "--out", str(part), *passed_on])
            if code:
                print(f"{args.suite}: set {name!r} could not be used; nothing written", file=sys.stderr)
                return code
        unfinished = args.out.with_name(f"{args.out.name}.partial")
        with unfinished.open("wb") as out:
            for part in parts:
                out.write(part.read_bytes())
        unfinished.replace(args.out)
    finally:
        for part in parts:
            part.unlink(missing_ok=True)
    print(f"sets       {len(suite)}")
    print(args.out)
    return 0


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        description="many COCO-format sets -> detection samples (JSONL); other options are those of data_prep/coco.py",
        allow_abbrev=False,
    )
    parser.add_argument("--suite", type=Path, required=True, help="JSON: name of a set -> its instances file and image folder")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write; image paths are relative to it")
    parser.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    args, passed_on = parser.parse_known_args(argv)
    need_file(parser, "--suite", args.suite)
    if args.out.exists() and not args.overwrite:
        raise SystemExit(f"{args.out} exists; choose another --out or add --overwrite")
    own = {"--instances", "--images", "--dataset", "--classes"} & {word.partition("=")[0] for word in passed_on}
    if own:
        parser.error(f"{min(own)} is stated for each set in --suite")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    return args, passed_on


def _suite(path: Path) -> dict[str, dict[str, Any]]:
    """Name → paths of a set; ends the program for an entry that lacks one, before any set is read."""
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise SystemExit(f'{path}: a JSON object is needed, {{"name": {{"instances": "file", "images": "folder"}}}}')
    suite = {}
    for name, entry in content.items():
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("instances", "images")):
            raise SystemExit(f'{path}: set {name!r} needs "instances" and "images", got {str(entry)[:80]}')
        classes = entry.get("classes")
        if classes is not None and not (isinstance(classes, list) and all(isinstance(one, str) for one in classes)):
            raise SystemExit(f"{path}: set {name!r}: classes is a list of names, got {str(classes)[:80]}")
        found = {"classes": classes, **{key: path.parent / entry[key] for key in ("instances", "images")}}
        if not found["instances"].is_file() or not found["images"].is_dir():
            raise SystemExit(f"{path}: set {name!r}: no file {found['instances']}, or no folder {found['images']}")
        suite[name] = found
    return suite


if __name__ == "__main__":
    sys.exit(program(main))
