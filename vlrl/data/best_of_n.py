"""The files of a best-of-N evaluation: items, candidates, scores. A row that is not as stated here is an error, never repaired.

Items `{id, source, image, question, choices?, answer, answer_type?, precision?}`; candidates `{id, generator, index, response,
sampling?, steps?}`; scores `{id, generator, index, rm, mode, context?, step_scores | score, raw?}`. All JSON lines.
Not here: grading (`vlrl.metrics.best_of_n`), the drawn set (`vlrl.data.synthetic.best_of_n`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vlrl.answers.steps import SplitSolution, split_steps
from vlrl.data.files import read_json_lines
from vlrl.data.sample_json import file_of, in_file
from vlrl.data.subsets import answer_key, drawn_items
from vlrl.schema import SampleError

ITEM_KEYS = ("id", "source", "image", "question", "choices", "answer", "answer_type", "precision")
REQUIRED = ("id", "source", "question", "answer")
MODES = ("prm", "orm")
GREEDY = "greedy"
"""The value of `sampling` that marks the generator's greedy answer: it is reported by itself, never among the N."""


@dataclass(frozen=True)
class Item:
    """One question with its reference answer. `image`: an absolute path or a `synthetic:` address, None without one;
    `precision`: decimal places of the answer; `meta`: whatever else the row says, by which numbers can be grouped."""

    id: str
    source: str
    question: str
    answer: str
    image: str | None = None
    choices: tuple[str, ...] | None = None
    answer_type: str | None = None
    precision: int | None = None
    meta: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def facts(self) -> dict[str, Any]:
        """What numbers can be grouped by: the source, and `meta`."""
        return {"source": self.source, **self.meta}

    @property
    def question_with_choices(self) -> str:
        """The question and its lettered choices, as solver and judge see it."""
        listed = "".join(f"\n{chr(ord('A') + i)}. {choice}" for i, choice in enumerate(self.choices or ()))
        return f"{self.question}{listed}"


@dataclass(frozen=True)
class Candidate:
    """One solution of an item by a generator."""

    id: str
    generator: str
    index: int
    response: str
    steps: SplitSolution
    is_greedy: bool = False

    @property
    def key(self) -> tuple[str, str, int]:
        """(item id, generator, index), which names a candidate."""
        return (self.id, self.generator, self.index)

    def to_json(self) -> dict[str, Any]:
        """The row of a candidates file."""
        row: dict[str, Any] = {"id": self.id, "generator": self.generator, "index": self.index, "response": self.response}
        return row | ({"steps": list(self.steps.steps)} if self.steps.method == "given" else {})


@dataclass(frozen=True)
class CandidateScore:
    """A reward model's scores of a candidate: one per step (`mode="prm"`), or one for the whole solution (`"orm"`). None:
    the model gave no usable score."""

    id: str
    generator: str
    index: int
    rm: str
    mode: str
    values: tuple[float | None, ...]
    context: str | None = None
    raw: tuple[str, ...] = field(default=(), compare=False)

    @property
    def key(self) -> tuple[str, str, int]:
        """(item id, generator, index), which names a candidate."""
        return (self.id, self.generator, self.index)

    def to_json(self) -> dict[str, Any]:
        """The row of a scores file."""
        row: dict[str, Any] = {"id": self.id, "generator": self.generator, "index": self.index, "rm": self.rm}
        row |= {"mode": self.mode, "context": self.context}
        row |= {"step_scores": list(self.values)} if self.mode == "prm" else {"score": self.values[0]}
        return row | ({"raw": list(self.raw)} if self.raw else {})


def read_items(
    path: Path, image_root: Path | None = None, limit: int | None = None, fields: Mapping[str, str] | None = None
) -> list[Item]:
    """The items of a file. `fields` maps our names to the file's (`{"answer": "gt"}`). Raises SampleError; for a missing field
    it lists the fields of the row, as the schema of the released set is not published."""
    names = {key: key for key in ITEM_KEYS} | dict(fields or {})
    unknown = sorted(set(names) - set(ITEM_KEYS))
    if unknown:
        raise SampleError(f"the field map names {unknown[0]!r}; items have {', '.join(ITEM_KEYS)}")
    found: list[Item] = []
    seen: set[str] = set()
    for where, row in read_json_lines(path):
        missing = [names[key] for key in REQUIRED if names[key] not in row]
        if missing:
            raise SampleError(
                f"{where}: no field {missing[0]!r}; the row has {', '.join(sorted(row))}; map the names with --fields"
            )
        item = _item({key: row.get(name) for key, name in names.items()}, where, image_root or path.parent)
        meta = row.get("meta") or {}
        if not isinstance(meta, dict):
            raise SampleError(f"{where}: 'meta' must be an object, got {meta!r:.60}")
        item = replace(item, meta=meta)
        if item.id in seen:
            raise SampleError(f"{where}: id {item.id!r} was used before")
        seen.add(item.id)
        found.append(item)
    if not found:
        raise SampleError(f"{path}: holds no items")
    return drawn_items(found, [(item.source, answer_key(item.answer)) for item in found], limit, 0)


def _item(row: Mapping[str, Any], where: str, root: Path) -> Item:
    def text(key: str) -> str:
        value = row[key]
        if isinstance(value, bool) or not isinstance(value, str | int | float) or str(value).strip() == "":
            raise SampleError(f"{where}: {key!r} must be text or a number, got {value!r:.60}")
        return str(value)

    image, choices, precision = row["image"], row["choices"], row["precision"]
    if image is not None and not isinstance(image, str):
        raise SampleError(f"{where}: 'image' must be a path, got {type(image).__name__} (write images to files first)")
    if choices is not None and not (isinstance(choices, list) and all(isinstance(one, str) for one in choices)):
        raise SampleError(f"{where}: 'choices' must be a list of texts, got {choices!r:.60}")
    if isinstance(precision, float) and precision.is_integer():
        precision = int(precision)
    if precision is not None and (not isinstance(precision, int) or isinstance(precision, bool) or not 0 <= precision <= 12):
        raise SampleError(f"{where}: 'precision' must be a number of decimal places, 0 to 12, got {precision!r}")
    if image and (file := file_of(image)) is not None:
        image = in_file(image, str((root / file).resolve()))
    kind = None if row["answer_type"] is None else text("answer_type")
    options = tuple(choices) if choices else None
    return Item(text("id"), text("source"), text("question"), text("answer"), image or None, options, kind, precision)


def read_candidates(path: Path, items: Sequence[Item]) -> list[Candidate]:
    """The candidates of these items, sorted by item, generator and index; those of other items are left out. Raises
    SampleError for a malformed or repeated candidate, and where no candidate is left."""
    known = {item.id: place for place, item in enumerate(items)}
    found: dict[tuple[str, str, int], Candidate] = {}
    for where, row in read_json_lines(path):
        if str(row.get("id")) not in known:
            continue
        one = _candidate(row, where)
        if one.key in found:
            raise SampleError(f"{where}: candidate {one.index} of {one.id!r} by {one.generator!r} is there twice")
        found[one.key] = one
    if not found:
        raise SampleError(f"{path}: holds no candidates of the {len(items)} items; their 'id' must be the items'")
    return sorted(found.values(), key=lambda one: (known[one.id], one.generator, one.index))


def _candidate(row: Mapping[str, Any], where: str) -> Candidate:
    generator, index, response, steps = (row.get(key) for key in ("generator", "index", "response", "steps"))
    if not isinstance(generator, str) or not isinstance(index, int) or isinstance(index, bool) or index < 0:
        raise SampleError(f"{where}: a candidate has a 'generator' (text) and an 'index' from 0, got {generator!r}, {index!r}")
    if steps is not None and not (isinstance(steps, list) and steps and all(isinstance(one, str) for one in steps)):
        raise SampleError(f"{where}: 'steps' must be a list of texts, got {steps!r:.60}")
    if response is None and steps:
        response = "\n".join(steps)
    if not isinstance(response, str):
        raise SampleError(f"{where}: 'response' must be text, got {response!r:.60}")
    split = SplitSolution(tuple(steps), "given") if steps else split_steps(response)
    sampling = row.get("sampling")
    is_greedy = sampling == GREEDY or (isinstance(sampling, dict) and sampling.get("temperature") == 0)
    return Candidate(str(row["id"]), generator, index, response, split, is_greedy)


def read_scores(path: Path) -> list[CandidateScore]:
    """The scores of a file, of one or several reward models. Raises SampleError for a malformed or repeated score."""
    found: dict[tuple[Any, ...], CandidateScore] = {}
    for where, row in read_json_lines(path):
        one = _score(row, where)
        key = (one.key, one.rm, one.mode, one.context)
        if key in found:
            raise SampleError(f"{where}: {one.rm!r} scored candidate {one.index} of {one.id!r} twice ({one.mode})")
        found[key] = one
    if not found:
        raise SampleError(f"{path}: holds no scores")
    return list(found.values())


def _score(row: Mapping[str, Any], where: str) -> CandidateScore:
    mode, names = row.get("mode"), [row.get(key) for key in ("id", "generator", "rm")]
    if mode not in MODES or any(value is None for value in names) or not isinstance(row.get("index"), int):
        raise SampleError(f"{where}: a score has id, generator, index, rm and a mode ({' or '.join(MODES)}), got {row!r:.80}")
    key = "step_scores" if mode == "prm" else "score"
    if key not in row:
        raise SampleError(f"{where}: mode {mode!r} needs {key!r}")
    values = row[key] if mode == "prm" else [row[key]]
    if not isinstance(values, list) or not values or not all(_is_score(value) for value in values):
        raise SampleError(f"{where}: {key!r} must hold numbers or null, got {row[key]!r:.60}")
    values = tuple(None if value is None else float(value) for value in values)
    context = row.get("context")
    return CandidateScore(
        str(names[0]), str(names[1]), row["index"], str(names[2]), mode, values, None if context is None else str(context)
    )


def _is_score(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value))
