"""Released files of question sets → qa samples with what their protocols group and grade by.

    python data_prep/questions.py --format cv_bench --data test_2d.parquet test_3d.parquet --out cv_bench.jsonl
    python data_prep/questions.py --format mathvista --data testmini.json --images MathVista --out mathvista.jsonl
    python data_prep/questions.py --format sat --data SAT_train_15000.json --images SAT --out sat.jsonl

- `cv_bench` (nyu-visionx/CV-Bench): letter answers; `meta.source` (ADE20K, COCO, Omni3D), `meta.type` (2D, 3D), `meta.task`.
- `sat` (array/SAT, or the file of VisualThinker-R1-Zero): the texts to choose from become choices, in an order drawn by
  `--seed`, so that no place gives the answer away; `meta.question_type`.
- `mathvista` (AI4Math/MathVista): `meta.rewards` name its own rule, `meta.answer_type`, `meta.precision`, `meta.task`,
  `meta.context`, `meta.grade`, `meta.skills` (a row is in the group of each of its skills).
- `mathverse` (AI4Math/MathVerse): the choices inside its questions become choices; `meta.problem_version`, `meta.subject`. Its
  own evaluation asks a language model whether an answer is right; here rules do (`--judge NAME` makes it a judge's).
- `counting` (CountBench, PixMo-Count, CLEVR and others): a whole number under `count`, `number` or `answer`, and a `question`,
  or the name of what is counted under `label`; `meta.kind` is "count", so that the mean absolute error stands beside accuracy.
- `visual_arft` (laolao77/MAT, steps of the search agent): the chain of searches and results so far stays in the question;
  `meta.step` says whether a search or the answer comes next, `meta.rewards` name its rewards.

Numbers by group: `vlrl bench run --task qa --data FILE --group_by meta.task`; CV-Bench's own mean: `--protocol cvbench`.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data_prep.rows_with_images import add_input_options, list_of, text_of, write_rows
from data_prep.writing import add_output_options, check_output_options, need_folder, program
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS
from vlrl.data.row_source import BadRow
from vlrl.schema import Sample

FORM = "think_answer_format"
_LETTER = re.compile(r"\s*\(?([A-Za-z])\)?\s*[.:]?\s*")
_LISTED = re.compile(r"^\s*\(?([A-Z])\)?\s*[:.)]\s*(\S.*?)\s*$", re.MULTILINE)
_IMAGE_MARK = re.compile(r"<image>\s*|<img>.*?</img>", re.DOTALL)
_OPTIONS = re.compile(r"(?:Choose between the following options|Options)\s*:\s*(.*)\Z", re.DOTALL | re.IGNORECASE)
_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_LAID_OUT = re.compile(r"<answer>\s*(.*?)\s*</answer>", re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Read, convert, check, write. Returns the exit code; the last line printed is the file written."""
    parser = argparse.ArgumentParser(description="released question sets -> qa samples (JSONL)")
    parser.add_argument("--format", choices=FORMATS, required=True, help="whose data it is")
    add_input_options(parser)
    parser.add_argument(
        "--judge", metavar="NAME", help="mathverse: free-form answers are graded by this judge model (llm_judge)"
    )
    add_output_options(parser)
    args = parser.parse_args(argv)
    if args.images is not None:
        need_folder(parser, "--images", args.images)
    if args.judge and args.format != "mathverse":
        parser.error("--judge is for --format mathverse")
    target = check_output_options(args)
    return write_rows(args, target, partial(FORMATS[args.format], args=args))


def _sample(
    args: argparse.Namespace,
    images: tuple[str, ...],
    key: object,
    question: str,
    answer: object,
    choices: Sequence[str] | None,
    meta: Mapping[str, Any],
) -> Sample:
    dataset = args.dataset or args.format
    found = {"dataset": dataset, "source_id": str(key), **meta}
    kept = {name: value for name, value in found.items() if value not in (None, "", [])}
    return Sample(f"{dataset}-{key}", "qa", question, answer, images, None, tuple(choices) if choices else None, kept)


def cv_bench(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """A row of CV-Bench. Raises BadRow."""
    choices = list_of(row, "choices")
    if choices is None:
        raise BadRow("no choices")
    letter = letter_of(row.get("answer"), len(choices))
    meta = {name: text_of(row, name) for name in ("source", "type", "task")}
    return _sample(args, images, _key(row, "idx", "id"), text_of(row, "question"), letter, choices, meta)


def letter_of(value: object, n: int) -> str:
    """The letter of an answer such as "(B)", one of the first `n`. Raises BadRow."""
    found = _LETTER.fullmatch(value) if isinstance(value, str) else None
    letter = found[1].upper() if found else ""
    if not letter or letter not in LETTERS[:n]:
        raise BadRow(f"the answer {value!r} is no letter of {n} choices")
    return letter


def sat(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """A row of SAT, in either form. Raises BadRow."""
    if isinstance(row.get("messages"), list):
        asked, answer = (_content(row["messages"], place) for place in (0, 1))
        question = _IMAGE_MARK.sub("", asked).strip()
        listed = _OPTIONS.search(question)
        choices: Sequence[str] | None = None
        if listed is not None:
            parts = re.split(r"\s*,\s*or\s+|\s+or\s+|\s*,\s*|\s*\n\s*", listed[1].strip().rstrip("."))
            choices, question = [part for part in parts if part], question[: listed.start()].strip()
    else:
        question, answer = text_of(row, "question"), text_of(row, "correct_answer", "answer")
        choices = list_of(row, "answers", "answer_choices", "choices")
    key = _key(row, "id", "idx", "database_idx")
    if choices is not None and canon(answer.rstrip(".")) in map(canon, choices):
        answer = answer.rstrip(".")
        choices = random.Random(f"{args.seed}:{key}:{question}").sample(sorted(set(choices)), len(set(choices)))
    else:
        choices = None  # an answer that is not among them is graded as text
    return _sample(args, images, key, question, answer, choices, {"question_type": row.get("question_type")})


def _content(messages: Sequence[Any], place: int) -> str:
    content = messages[place].get("content") if len(messages) > place and isinstance(messages[place], Mapping) else None
    if not isinstance(content, str) or not content.strip():
        raise BadRow("messages are a question and its answer, each {'content': text}")
    return content.strip()


def mathvista(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """A row of MathVista. Raises BadRow for one without an answer (its test split)."""
    found: Any = row.get("metadata")
    facts: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    precision = row.get("precision")
    meta = {
        "rewards": ["mathvista_match", FORM],
        "answer_type": row.get("answer_type"),
        "precision": int(precision) if isinstance(precision, int | float) and precision == precision else None,
        "question_type": row.get("question_type"),
        **{key: facts.get(key) for key in ("task", "context", "grade", "category", "source", "language")},
        "skills": list(facts.get("skills") or []),
    }
    question, unit = text_of(row, "question"), row.get("unit")
    question = f"{question} (Unit: {unit})" if isinstance(unit, str) and unit.strip() else question
    return _sample(args, images, _key(row, "pid", "uid"), question, text_of(row, "answer"), list_of(row, "choices"), meta)


def mathverse(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """A row of MathVerse. Raises BadRow."""
    found: Any = row.get("metadata")
    facts: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    question, answer, choices = text_of(row, "question_for_eval", "question"), text_of(row, "answer"), None
    meta: dict[str, Any] = {"problem_version": row.get("problem_version"), "question_type": row.get("question_type")}
    meta |= {key: facts.get(key) for key in ("subject", "subfield", "source")}
    if "multi" in str(row.get("question_type", "")).lower():
        question, choices = split_choices(question)
        if choices is None:
            meta["rewards"] = ["mcq", FORM]
        else:
            answer = letter_of(answer, len(choices))
    elif args.judge:
        meta["rewards"] = [f"llm_judge:judge_model={args.judge}", FORM]
    key = f"{row.get('problem_index', '')}-{_key(row, 'sample_index', 'id')}"
    return _sample(args, images, key, question, answer, choices, meta)


def split_choices(question: str) -> tuple[str, list[str] | None]:
    """A question and the lettered choices below it; (the question, None) where they are not A, B, C ... in order."""
    text, mark, below = question.partition("Choices:")
    found = _LISTED.findall(below) if mark else []
    if len(found) < 2 or [letter for letter, _ in found] != list(LETTERS[: len(found)]):
        return question, None
    return text.strip(), [choice for _, choice in found]


def counting(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """A row that asks for a number of things. Raises BadRow."""
    value: Any = next((row[key] for key in ("count", "number", "answer", "solution") if row.get(key) is not None), None)
    if isinstance(value, str):
        laid_out = _LAID_OUT.search(value)
        value = (laid_out[1] if laid_out else value).strip()
        value = int(value) if value.isascii() and value.isdigit() else value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadRow(f"a count is a whole number, got {value!r}")
    label = row.get("label")
    asked = f"How many {label} are in the image?" if isinstance(label, str) and label.strip() else ""
    question = asked or _IMAGE_MARK.sub("", text_of(row, "question", "problem")).strip()
    return _sample(args, images, _key(row, "id", "idx"), question, value, None, {"kind": "count", "label": label})


def visual_arft(row: Mapping[str, Any], images: tuple[str, ...], args: argparse.Namespace) -> Sample:
    """A step of Visual-ARFT's search agent. Raises BadRow."""
    solution = text_of(row, "solution")
    found = _ACTION.search(solution)
    if found is None:
        raise BadRow("a solution holds one <search> or one <answer>")
    meta = {"step": found[1], "rewards": ["arft_step", "arft_format"]}
    question = _IMAGE_MARK.sub("", text_of(row, "problem")).strip()
    return _sample(args, images, _key(row, "id", "idx"), question, found[2].strip(), None, meta)


def _key(row: Mapping[str, Any], *names: str) -> str:
    """What names the row in its set, "row" where it says nothing (ids are then numbered)."""
    return next((str(row[name]) for name in names if row.get(name) not in (None, "")), "row")


FORMATS: dict[str, Callable[..., Sample]] = {
    "cv_bench": cv_bench,
    "sat": sat,
    "mathvista": mathvista,
    "mathverse": mathverse,
    "counting": counting,
    "visual_arft": visual_arft,
}

if __name__ == "__main__":
    sys.exit(program(main))
