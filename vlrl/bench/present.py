"""`--present`: detection that asks for those categories only that a list names in each image, as Visual-RFT evaluates.

A list is a JSON object: image -> names of categories. Each name is one question; a category that is in the image and not on
its list is not asked for, and its boxes count as missed, so that AP is over all true boxes. `--present ask` lets the model of
the run make the list first, and writes it as `present.json`: give that of the start model to the runs of trained ones. Numbers
depend on the list as much as on the model, so it is named beside them. Without `--present` a row asks what its file says.

Source: Visual-RFT (arXiv 2503.01785). Its own prompt for such lists is not published.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlrl.answers.read import read_span, requested_categories
from vlrl.answers.span import canon
from vlrl.bench.suite import Predictions, Suite
from vlrl.data.files import read_json_object, sha256_of
from vlrl.data.name_values import nearest
from vlrl.schema import Prediction, Result, Sample, SampleError, Task
from vlrl.tasks.answer_format import instruction, lay_out, no_object
from vlrl.tasks.evaluate import Scored, write_json

ASK = "ask"
PRESENT_FILE = "present.json"
UNASKED = "not_asked"
"""In the meta of a prediction that no model made."""
PRESENT_TASK = "present"
_PARTS = re.compile(r"[,;\n\[\]\"]|\band\b")
_MARKS = " \t\r.*-•'`"


def present_key(given: str | None) -> dict[str, str]:
    """What the answers of a run depend on, for `run.json`. Raises SampleError for a file that is not there."""
    if given is None:
        return {}
    if given != ASK and not Path(given).is_file():
        raise SampleError(f"--present {given}: no such file; give a JSON object image -> categories, or `{ASK}`")
    return {"present": given if given == ASK else sha256_of(Path(given))}


def with_present(suite: Suite, given: str | None) -> Suite:
    """The suite of detection, asking by a list. Raises ValueError for another task or a list that does not fit the data."""
    if given is None:
        return suite
    if list(suite.tasks) != ["detection"]:
        raise ValueError(f"--present is for --task detection alone; this run's is {', '.join(suite.tasks)}")
    present_key(given)
    images = _images(suite.stages[0]({}))
    listing = _Listing(images, given)
    if given != ASK:
        listing.names = read_list(Path(given), images)
        return replace(suite, stages=(listing.questions,), given=listing.given, score=listing.scored(suite))
    return replace(
        suite,
        tasks={**suite.tasks, PRESENT_TASK: TASK},
        stages=(listing.asking, listing.questions),
        given=listing.given,
        score=listing.scored(suite),
        publish=listing.publish,
    )


@dataclass(frozen=True)
class _Image:
    """What the rows of one image ask for, and all its true boxes. `rows`: category -> the row that asks for it alone."""

    key: str
    first: Sample
    categories: tuple[str, ...]
    items: tuple[Mapping[str, Any], ...]
    rows: Mapping[str, Sample]

    def question(self, name: str) -> Sample:
        """The sample that asks for one category."""
        if canon(name) in self.rows:
            return self.rows[canon(name)]
        items = [item for item in self.items if canon(item["label"]) == canon(name)]
        meta = {**_plain_meta(self.first), "categories": [name]}
        return replace(self.first, id=f"{self.first.id}::{name}", question=name, answer=items, meta=meta)

    @property
    def true_names(self) -> list[str]:
        """The categories that are in the image, in the order of `categories`."""
        there = {canon(item["label"]) for item in self.items}
        return [name for name in self.categories if canon(name) in there]


def _plain_meta(row: Sample) -> dict[str, Any]:
    """What a row states of its image, without what it states of its own question."""
    own = ("negatives", "crowd", "loose_answer", "loose_reply", "thinking", "rewards")
    return {key: value for key, value in row.meta.items() if key not in own}


def _images(samples: Sequence[Sample]) -> list[_Image]:
    """The images of detection rows, in order, whether a row asks for one category or for a list."""
    of_image: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        of_image.setdefault(sample.images or (sample.video or sample.id,), []).append(sample)
    keys = _short_keys([paths[0] for paths in of_image])
    found = []
    for paths, rows in of_image.items():
        categories: dict[str, str] = {}
        items: dict[str, Mapping[str, Any]] = {}
        alone: dict[str, Sample] = {}
        for row in rows:
            asked = requested_categories(row)
            for name in asked:
                categories.setdefault(canon(name), name)
            if len(asked) == 1:
                alone.setdefault(canon(asked[0]), row)
            for item in row.answer:
                items.setdefault(json.dumps([canon(item["label"]), item["bbox_2d"]]), item)
        found.append(_Image(keys[paths[0]], rows[0], tuple(categories.values()), tuple(items.values()), alone))
    return found


def _short_keys(paths: Sequence[str]) -> dict[str, str]:
    """The name of each image in a list: the file's, or the whole path where two files share a name."""
    counts = Counter(Path(path).name for path in paths)
    return {path: Path(path).name if counts[Path(path).name] == 1 else path for path in paths}


def read_list(path: Path, images: Sequence[_Image]) -> dict[str, list[str]]:
    """Image key -> categories. The file names an image by its file name, with or without its ending, its path or its
    `meta.source_id` (COCO's number). Raises SampleError for images that it lacks and for unknown categories."""
    content = read_json_object(path, "--present")
    spelling = {canon(name): name for image in images for name in image.categories}
    found: dict[str, list[str]] = {}
    lacking = []
    for image in images:
        key = next((one for one in _names_of(image) if one in content), None)
        if key is None:
            lacking.append(image.key)
            continue
        names = content[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SampleError(f"--present {path}: {key!r} must be a list of categories, got {names!r:.80}")
        for name in names:
            if canon(name) not in spelling:
                raise SampleError(f"--present {path}: {key!r} names {name!r}, no category of the data{nearest(name, spelling)}")
        found[image.key] = list(dict.fromkeys(spelling[canon(name)] for name in names))
    if lacking:
        raise SampleError(
            f"--present {path}: lists nothing for {len(lacking)} of {len(images)} images, the first {lacking[0]!r}; an image"
            ' without any of the categories has an empty list, {"name": []}'
        )
    return found


def _names_of(image: _Image) -> Iterable[str]:
    path = image.first.images[0] if image.first.images else image.key
    names = [image.key, path]
    if image.key == Path(path).name:  # no other image has this name
        names.append(Path(path).stem)
    source_id = image.first.meta.get("source_id")
    return [*names, *([str(source_id)] if source_id is not None else [])]


@dataclass
class _Listing:
    """The questions that a list leaves, and what is not asked."""

    images: Sequence[_Image]
    origin: str
    names: dict[str, list[str]] = field(default_factory=dict)
    not_asked: dict[str, Prediction] = field(default_factory=dict)
    n_asked: int = 0

    def asking(self, answered: Predictions) -> list[Sample]:
        """The first stage of `--present ask`: which of its categories are in each image."""
        samples = []
        for image in self.images:
            first = image.first
            meta = {**_plain_meta(first), "categories": list(image.categories)}
            question = f"Which of these are in the image? {', '.join(image.categories)}"
            samples.append(
                replace(first, id=_ask_id(image), task=PRESENT_TASK, question=question, answer=image.true_names, meta=meta)
            )
        return samples

    def questions(self, answered: Predictions) -> list[Sample]:
        """One question for each name on the list, and one, which is not asked, for each other category that is there. An image
        whose list the model was asked for in vain waits for it: its questions come when the same command goes on."""
        if self.origin == ASK:
            for image, asked in zip(self.images, self.asking({}), strict=True):
                if asked.id in answered:
                    self.names[image.key] = names_in_reply(answered[asked.id].completion, asked) or []
        samples: list[Sample] = []
        self.n_asked = 0
        self.not_asked = {}
        for image in self.images:
            if image.key not in self.names:
                continue
            listed = self.names[image.key]
            samples += [image.question(name) for name in listed]
            self.n_asked += len(listed)
            known = {canon(name) for name in listed}
            for name in image.true_names:
                if canon(name) not in known:
                    sample = image.question(name)
                    samples.append(sample)
                    text = lay_out("not on the list of what is present, so not asked", no_object(sample), sample)
                    self.not_asked[sample.id] = Prediction(sample.id, text, 0, False, {UNASKED: True})
        return samples

    def given(self, sample: Sample) -> Prediction | None:
        """What stands for the answer to a question that is not asked."""
        return self.not_asked.get(sample.id)

    def scored(self, suite: Suite) -> Any:
        """The suite's scores, which say what list they depend on."""

        def score(samples: Sequence[Sample], predictions: Predictions) -> list[Scored]:
            own = "made by the model itself" if self.origin == ASK else self.origin
            n_unread = sum(
                names_in_reply(predictions[_ask_id(image)].completion, asked) is None
                for image, asked in zip(self.images, self.asking({}) if self.origin == ASK else (), strict=self.origin == ASK)
                if _ask_id(image) in predictions
            )
            label = f"list of present categories: {own}; {self.n_asked} pairs of image and category asked,"
            label += f" {len(self.not_asked)} true pairs not on it, counted as missed"
            label += f"; of {n_unread} images no list could be read, so nothing was asked" if n_unread else ""
            n_without = len(self.images) - len(self.names)
            label += f"; {n_without} images without a list are left out" if n_without else ""
            made = suite.score([sample for sample in samples if sample.task != PRESENT_TASK], predictions)
            return [replace(one, label="; ".join(filter(None, (one.label, label)))) for one in made]

        return score

    def publish(self, answered: Predictions, folder: Path, result: Mapping[str, Any], missing: Sequence[str]) -> list[Path]:
        """`present.json`."""
        write_json(folder / PRESENT_FILE, self.names)
        return [folder / PRESENT_FILE]


def _ask_id(image: _Image) -> str:
    return f"{PRESENT_TASK}::{image.first.id}"


def names_in_reply(text: str, sample: Sample) -> list[str] | None:
    """The categories that a reply names, in the order they were asked for; None where no answer could be read. Words that are
    no category are left out."""
    span = read_span(text, sample)
    if span.text is None or not span.text:
        return None
    said = {canon(part.strip(_MARKS)) for part in _PARTS.split(span.text[:20_000])} - {""}
    whole = canon(span.text[:20_000])
    found = [
        name for name in requested_categories(sample) if canon(name) in said or (_PARTS.search(name) and canon(name) in whole)
    ]
    return found if found or not said or said & {"none", "nothing", "no"} else None


def _metric(sample: Sample, prediction: Prediction) -> Result:
    """F1 of the names that a reply gives."""
    named = names_in_reply(prediction.completion, sample)
    right = len(set(named or ()) & set(sample.answer))
    parts = {"f1": (2.0 * right, float(len(named or ()) + len(sample.answer)))}
    return Result(parts, None if named is None else ", ".join(named), named is not None)


def _prompt(sample: Sample) -> str:
    return f"{sample.question}\n{instruction(sample, 'the names of those that are, or None', 'name, name')}"


TASK = Task(
    name=PRESENT_TASK,
    prompt=_prompt,
    rewards=("exact_match",),
    metric=_metric,
    headline="f1",
    oracle=lambda sample: lay_out("it shows", ", ".join(sample.answer) or "None", sample),
)
"""Asked before detection by `--present ask`; not a task of the command line."""
