"""RefCOCO, RefCOCO+ and RefCOCOg (lichengunc/refer) → grounding samples, one per sentence.

    python data_prep/refcoco.py --root data --dataset refcoco --split train --images train2014 --out refcoco_train.jsonl

Reads `<root>/<dataset>/refs(<splitBy>).p` and `instances.json`. Reading the pickle runs no code of it. The box is the
annotation's, [x, y, width, height] counted from 0, and the image is that of `instances.json`: the file name inside a ref
carries the annotation's number and names no file.

Splits: train, val, testA (people) and testB (other) for `--splitBy unc`; train, val, test for `umd` and `google` (there
the objects were divided, so one image can be in train and val). Images are COCO's train2014 in every split: leave the
evaluation images of one set out of the training file of another with `--exclude_images refcoco_val.jsonl ...`, and out
of COCO training files with the same option of `data_prep/coco.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.box_values import id_key
from data_prep.excluding import Excluded, add_exclude_option, check_exclude_option
from data_prep.fitting import box_counts, fit_box, stated_size, usable_size_px
from data_prep.instances import check_input_options
from data_prep.instances_file import Instance, Instances, kind_of_problem, read_instances
from data_prep.unpickling import read_pickle
from data_prep.writing import Report, Target, add_output_options, check_output_options, draw, finish, need_file, program
from vlrl.schema import Box, Sample

SPLIT_BY = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}
"""Who divided each set into splits; the first is what results are reported on."""
N_EXPRESSIONS = {
    ("refcoco", "unc"): {"train": 120_624, "val": 10_834, "testA": 5_657, "testB": 5_095},
    ("refcoco+", "unc"): {"val": 10_758, "testA": 5_726, "testB": 4_889},
    ("refcocog", "umd"): {"val": 4_896, "test": 9_602},
}
"""Published numbers of expressions."""
_REF_KEYS = ("ref_id", "ann_id", "image_id", "split", "sentences")


def main(argv: Sequence[str] | None = None) -> int:
    """Read, check, write. Returns the exit code; the last line printed is the file written."""
    args, target = _arguments(argv)
    report = Report.of(args)
    content = read_instances(args.instances)
    refs = read_refs(args.refs)
    known = Counter(ref["split"] for ref in refs)
    for split in args.split:
        if split not in known:
            raise SystemExit(f"--split: no {split!r} in {args.refs}; it has {', '.join(sorted(known))}")
    source = Source(args, content, report)
    wanted = [ref for ref in refs if ref["split"] in args.split]
    samples = [sample for ref in report.each("refs", wanted) for sample in source.samples_of(ref)]
    found = Counter(str(sample.meta["split"]) for sample in samples)
    for split, published in N_EXPRESSIONS.get((args.dataset, args.splitBy), {}).items():
        if split in args.split and found[split] != published:
            print(f"note: {found[split]} expressions in {split}, published: {published}", file=sys.stderr)
    lines = [f"sentences  {found[split]} in {split}" for split in args.split]
    if args.exclude_images:
        lines.append(f"excluded   {report.counts['excluded']} refs by their image")
    why = f"{report.counts['skipped']} bad annotations, {report.counts['excluded']} refs excluded"
    return finish(draw(samples, args.limit, args.seed), target, report, [*lines, *box_counts(report)], why)


def _arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, Target]:
    parser = argparse.ArgumentParser(description="RefCOCO, RefCOCO+, RefCOCOg -> grounding samples (JSONL)")
    parser.add_argument("--dataset", choices=tuple(SPLIT_BY), required=True)
    parser.add_argument("--splitBy", choices=("unc", "umd", "google"), help="default: unc; umd for refcocog")
    parser.add_argument("--split", nargs="+", required=True, metavar="NAME", help="train, val, testA, testB, test")
    parser.add_argument("--root", type=Path, help="folder that holds refcoco/, refcoco+/, refcocog/")
    parser.add_argument("--refs", type=Path, help="default: ROOT/DATASET/refs(SPLITBY).p")
    parser.add_argument("--instances", type=Path, help="default: ROOT/DATASET/instances.json")
    parser.add_argument("--images", type=Path, required=True, help="folder of COCO's train2014 images")
    add_exclude_option(parser)
    add_output_options(parser, dataset=False)
    args = parser.parse_args(argv)
    args.splitBy = args.splitBy or SPLIT_BY[args.dataset][0]
    if args.splitBy not in SPLIT_BY[args.dataset]:
        parser.error(f"--splitBy: {args.dataset} has no split by {args.splitBy}, only {' and '.join(SPLIT_BY[args.dataset])}")
    for name, file in (("refs", f"refs({args.splitBy}).p"), ("instances", "instances.json")):
        if getattr(args, name) is None:
            if args.root is None:
                parser.error("give --root, or both --refs and --instances")
            setattr(args, name, args.root / args.dataset / file)
    need_file(parser, "--refs", args.refs)
    check_input_options(args, parser)
    check_exclude_option(args, parser)
    args.split = list(dict.fromkeys(args.split))
    return args, check_output_options(args)


def read_refs(path: Path) -> list[dict[str, Any]]:
    """The refs of a pickle; ends the program where it holds something else."""
    refs = read_pickle(path)
    if not isinstance(refs, list):
        raise SystemExit(f"{path}: a {type(refs).__name__}, not the list of refs")
    for number, ref in enumerate(refs):
        if not isinstance(ref, dict) or any(key not in ref for key in _REF_KEYS):
            raise SystemExit(f"{path}: ref number {number} lacks {' or '.join(_REF_KEYS)}: {str(ref)[:200]}")
    return refs


@dataclass
class Source:
    """Refs joined with `instances.json`; each image is opened once."""

    args: argparse.Namespace
    content: Instances
    report: Report
    sizes: dict[Any, tuple[int, int] | None] = field(default_factory=dict)
    sentence_ids: set[Any] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.images = {id_key(row["id"]): row for row in self.content.images}
        self.annotations: dict[str, Instance] = {one.name: one for one in self.content.annotations}
        self.excluded = Excluded.read(self.args.exclude_images)

    def samples_of(self, ref: Mapping[str, Any]) -> list[Sample]:
        """One sample per sentence of `ref`; none (reported) where its box cannot be used."""
        where = f"{self.args.refs}: ref {ref['ref_id']}"
        image = self.images.get(id_key(ref["image_id"]))
        if image is None:
            self.report.bad(where, f"{self.args.instances} has no image with id {ref['image_id']}")
            return []
        if self.excluded.has(str(id_key(image["id"])), image["file_name"], self.args.images):
            self.report.counts["excluded"] += 1
            return []
        box = self._box(ref, where)
        size_wh = self._size(image)
        if box is None or size_wh is None:
            return []
        fitted = fit_box(box, size_wh, where, self.report)
        if fitted is None:
            return []
        return [
            sample
            for number, sentence in enumerate(ref["sentences"])
            if (sample := self._sample(ref, number, sentence, fitted, size_wh, where)) is not None
        ]

    def _size(self, image: Mapping[str, Any]) -> tuple[int, int] | None:
        where = f"{self.args.instances}: image {image['id']}"
        if image["id"] not in self.sizes:
            stated = stated_size(image.get("width"), image.get("height"))
            self.sizes[image["id"]] = usable_size_px(self._path(image), stated, where, self.report)
        elif self.sizes[image["id"]] is None:
            self.report.bad(where, "it cannot be used, as said before", "further refs of images that cannot be used")
        return self.sizes[image["id"]]

    def _path(self, image: Mapping[str, Any]) -> Path:
        return Path(self.args.images / image["file_name"])

    def _box(self, ref: Mapping[str, Any], where: str) -> Box | None:
        annotation = self.annotations.get(f"annotation {ref['ann_id']}")
        if annotation is None:
            self.report.bad(where, f"{self.args.instances} has no annotation with id {ref['ann_id']}")
            return None
        if annotation.image != id_key(ref["image_id"]):
            problem = f"its annotation {ref['ann_id']} is of image {annotation.image}, the ref of {ref['image_id']}"
            self.report.bad(where, problem)
            return None
        if annotation.box is None:
            self.report.bad(where, f"annotation {ref['ann_id']}: {annotation.problem}", kind_of_problem(annotation))
            return None
        return Box(*annotation.box)

    def _sample(
        self, ref: Mapping[str, Any], number: int, sentence: Any, box: Box, size_wh: tuple[int, int], where: str
    ) -> Sample | None:
        text = sentence.get("sent") if isinstance(sentence, dict) else None
        if not isinstance(text, str) or not text.strip() or "sent_id" not in sentence:
            self.report.bad(where, f"sentence number {number} lacks 'sent' or 'sent_id': {str(sentence)[:200]}")
            return None
        if sentence["sent_id"] in self.sentence_ids:
            self.report.bad(where, f"sentence id {sentence['sent_id']} was used before")
            return None
        self.sentence_ids.add(sentence["sent_id"])
        return Sample(
            id=f"{self.args.dataset}-{ref['split']}-{sentence['sent_id']}",
            task="grounding",
            question=text.strip(),
            answer={"bbox_2d": list(box.xyxy)},
            images=(str(self._path(self.images[id_key(ref["image_id"])])),),
            meta={
                "image_size": list(size_wh),
                "dataset": self.args.dataset,
                "split": ref["split"],
                "source_id": str(ref["image_id"]),
                "ref_id": ref["ref_id"],
            },
        )


if __name__ == "__main__":
    sys.exit(program(main))
