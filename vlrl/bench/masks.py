"""`--masks sam:FOLDER`: the mask that a promptable segmenter makes of each predicted box, so that LISA's gIoU and cIoU can be
computed as published. `--masks masks.jsonl` takes those that such a run wrote, without the segmenter.

A row with `meta.polygons` (ReasonSeg) gets a mask; an answer without a box has none, which counts as an empty one. Without
`--masks` the boxes themselves stand for masks, in numbers of other names (`vlrl.metrics.grounding`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as rle
from tqdm.auto import tqdm

from vlrl.answers.read import read_box
from vlrl.bench.suite import Predictions, Suite, as_logged
from vlrl.data.files import read_json_lines, write_json_lines
from vlrl.data.images import open_images
from vlrl.schema import Prediction, Sample, SampleError
from vlrl.tasks.evaluate import Scored

TASK = "grounding"
SAM = "sam:"
MASKS_FILE = "masks.jsonl"
Corners = tuple[float, float, float, float]
Made = dict[str, tuple[list[float], dict[str, Any]]]
"""Sample id -> its box in pixels, to a hundredth, and its mask as run lengths."""


def with_masks(suite: Suite, given: str | None) -> Suite:
    """The suite with masks beside the boxes of grounding. Raises ValueError where nothing can be done with them."""
    if given is None:
        return suite
    if TASK not in suite.tasks:
        raise ValueError(f"--masks is for --task {TASK}; this run's is {', '.join(suite.tasks)}")
    if not any(_has_truth(sample) for sample in suite.stages[0]({})):
        raise ValueError("--masks: no sample has meta.polygons, the true outlines; data_prep/reasonseg.py writes them")
    folder = given.removeprefix(SAM) if given.startswith(SAM) else None
    if not folder if folder is not None else not Path(given).is_file():
        raise ValueError(f"--masks {given}: give {SAM}FOLDER, a segmenter, or the {MASKS_FILE} of an earlier run")
    source = _Source(folder, {} if folder is not None else read_masks(Path(given)))

    def score(samples: Sequence[Sample], predictions: Predictions) -> list[Scored]:
        masks = source.masks([sample for sample in samples if _has_truth(sample)], predictions)
        shown = {key: replace(predictions[key], meta={**predictions[key].meta, "mask": mask}) for key, mask in masks.items()}
        label = f"masks by {given}: {sum(mask is not None for mask in masks.values())} of {len(masks)} answers have a box"
        made = suite.score(samples, {**predictions, **shown})
        return [replace(one, label="; ".join(filter(None, (one.label, label)))) if one.name == TASK else one for one in made]

    def publish(predictions: Predictions, to: Path, result: Mapping[str, Any], missing: Sequence[str]) -> list[Path]:
        files = suite.publish(predictions, to, result, missing) if suite.publish else []
        rows = ({"id": key, "box_px": box, "mask": mask} for key, (box, mask) in source.made.items())
        write_json_lines(to / MASKS_FILE, rows)
        return [*files, to / MASKS_FILE]

    return replace(suite, score=score, publish=publish)


def _has_truth(sample: Sample) -> bool:
    return sample.task == TASK and sample.facts.get("polygons") is not None


def read_masks(path: Path) -> Made:
    """The masks of a file. Raises SampleError for a row that is none."""
    found: Made = {}
    for where, row in read_json_lines(path):
        mask, box = row.get("mask"), row.get("box_px")
        if not (isinstance(row.get("id"), str) and isinstance(box, list) and isinstance(mask, dict) and "counts" in mask):
            raise SampleError(f'{where}: a mask is {{"id", "box_px", "mask": {{"size", "counts"}}}}, got {str(row)[:80]}')
        found[row["id"]] = (box, mask)
    return found


class _Source:
    """Where masks come from: a segmenter, loaded when the first is needed, or a file."""

    def __init__(self, folder: str | None, made: Made) -> None:
        self.folder, self.made = folder, made

    def masks(self, samples: Sequence[Sample], predictions: Mapping[str, Prediction]) -> dict[str, dict[str, Any] | None]:
        """The mask of each sample that was answered; None where no box was read. Raises SampleError for a box that a file has
        no mask of."""
        boxes = dict(self._boxes(samples, predictions))
        wanted = [sample for sample in samples if boxes.get(sample.id) is not None]
        if self.folder is None:
            for sample in wanted:
                self._check(sample, _tidy(boxes[sample.id] or ()))
            return {key: None if box is None else self.made[key][1] for key, box in boxes.items()}
        self.made = {}
        if wanted:
            from vlrl.models.segmenter import Segmenter

            segmenter = Segmenter(self.folder)
            print(f"masks     {len(wanted)} boxes by {segmenter.name}", file=sys.stderr)
            for sample in tqdm(wanted, desc="masks", unit="box", disable=None):
                box = boxes[sample.id]
                assert box is not None
                image = open_images(sample)[int(sample.facts.get("image_index", 0))]
                self.made[sample.id] = (_tidy(box), encoded(segmenter.mask(image, _inside(box, image.size))))
        return {key: None if box is None else self.made[key][1] for key, box in boxes.items()}

    def _boxes(self, samples: Sequence[Sample], predictions: Mapping[str, Prediction]) -> Iterator[tuple[str, Corners | None]]:
        for sample in samples:
            if sample.id in predictions:
                prediction = predictions[sample.id]
                box, _ = read_box(prediction.completion, as_logged(sample, prediction))
                yield sample.id, None if box is None else box.xyxy

    def _check(self, sample: Sample, box: list[float]) -> None:
        if sample.id not in self.made or self.made[sample.id][0] != box:
            own = self.made[sample.id][0] if sample.id in self.made else "none"
            raise SampleError(
                f"--masks: sample {sample.id!r} has the box {box}, the file a mask of {own}: it is of other answers"
            )


def _tidy(box: Sequence[float]) -> list[float]:
    return [round(value, 2) for value in box]


def _inside(box: Corners, size_wh: tuple[int, int]) -> Corners:
    """The part of a box that is in the image; the whole box where none is."""
    width, height = size_wh
    x1, y1, x2, y2 = max(0.0, box[0]), max(0.0, box[1]), min(float(width), box[2]), min(float(height), box[3])
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else box


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask [H, W] as COCO's run lengths, in JSON."""
    found = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in found["size"]], "counts": found["counts"].decode("ascii")}
