"""Rows of other projects that hold question, answer and images in columns.

Each reader gives the questions of one row. It raises BadRow for a row that cannot be used. Not here: which words of these are
question and answer (`vlrl.data.row_questions`), conversations (`vlrl.data.row_conversations`), boxes and labels of image sets
(`vlrl.data.row_labels`).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.answers.geometry import box_problem
from vlrl.answers.span import canon
from vlrl.answers.text import LETTERS
from vlrl.data.row_options import options_of_text
from vlrl.data.row_questions import LONG_ANSWER_CHARS, Asked, read_answer
from vlrl.data.row_source import BadRow, LeftOut
from vlrl.data.row_wording import IMAGE
from vlrl.data.tables import FILE_COLUMNS, IMAGE_COLUMNS, IMAGE_FILES, numbered_images
from vlrl.schema import Box

Cells = Mapping[str, Any]
_USUAL_ANSWERS = ("answer", "solution", "ground_truth", "gt_answer", "reference", "label", "response", "output")
ANSWER_COLUMNS = (
    *_USUAL_ANSWERS,
    *("multiple_choice_answer", "answers", "correct_answer", "answerKey", "correct_choice_idx", "answer_idx", "answer_index"),
    *("direct_answers", "target"),
)
QUESTION_COLUMNS = ("problem", "question", "instruction", "query", "prompt")
CHOICE_LISTS = ("choices", "options", "candidates", "multiple_choices")
_CHOICE_COLUMNS = tuple(
    tuple(name.format(letter) for letter in letters)
    for name, letters in (
        ("{}", LETTERS[:10]),
        *((name, letters) for name in ("choice_{}", "option_{}") for letters in (LETTERS[:10].lower(), LETTERS[:10])),
    )
)
_N_AGREED = 3
_NO_INPUT = frozenset({"", "<noinput>", "noinput", "n/a", "none", "null"})
_FOUR_NUMBERS = re.compile(r"[\[(]?\s*" + r"[\s,;]+".join([r"(-?\d+(?:\.\d+)?)"] * 4) + r"\s*[\])]?")
_SEVERAL_FILES = re.compile(rf"[^,;|]+(?:{'|'.join(IMAGE_FILES)})(?:\s*[,;|]\s*[^,;|]+(?:{'|'.join(IMAGE_FILES)}))+")
MARKED_WRONG = "completions that their rows mark as wrong"


def decoded(value: Any) -> Any:
    """A list or object that a column holds as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def images_of(row: Cells) -> tuple[Any, ...]:
    """The cells of a row's images, in order: paths, addresses, or what cannot be one."""
    named = next((row[key] for key in IMAGE_COLUMNS if row.get(key) not in (None, "")), None)
    if named is None:
        named = next((row[key] for key in FILE_COLUMNS if _is_image_file(row.get(key))), None)
    if isinstance(named, str) and named.lstrip().startswith("["):
        named = options_of_text(named)
    elif isinstance(named, str) and _SEVERAL_FILES.fullmatch(named.lower()):
        named = [one.strip() for one in re.split("[,;|]", named)]
    numbered = [row[key] for key in numbered_images(row) if row[key] not in (None, "")]
    if named is None:
        return tuple(numbered)
    if not isinstance(named, list | tuple):
        return (named, *numbered)
    if named and numbered:
        raise BadRow(
            "it has a list of images and columns of single ones (image_1), so which of them the question is about is not known"
        )
    return (*named, *numbered)


def _is_image_file(value: Any) -> bool:
    texts = value if isinstance(value, list) and value else [value]
    return all(isinstance(one, str) and one.lower().endswith(IMAGE_FILES) for one in texts)


def first_text(row: Cells, columns: Sequence[str]) -> Any:
    """The first of these columns that holds something; None where none does."""
    for key in columns:
        if key in row and row[key] not in (None, "", []):
            return row[key]
    return None


def method_of(row: Cells) -> str | None:
    """How VLM-R1 rewards a row."""
    method = row.get("accu_reward_method")
    return str(method) if method else None


def pairs_with_images(pairs: Sequence[tuple[str, Any]], images: Sequence[Any]) -> list[tuple[str, Any, tuple[Any, ...]]]:
    """Each question with its images: all those shown so far, as a person has them before the eyes; the first question has all
    that no placeholder stands for."""
    counts = [question.count(IMAGE) for question, _ in pairs]
    if len(pairs) == 1 or sum(counts) != len(images) or counts[0] == len(images):
        return [
            (question.replace(IMAGE, "") if i else question, answer, tuple(images))
            for i, (question, answer) in enumerate(pairs)
        ]
    found, shown = [], 0
    for (question, answer), n in zip(pairs, counts, strict=True):
        shown += n
        found.append((question if n == shown else question.replace(IMAGE, ""), answer, tuple(images[:shown])))
    return found


def box_of(corners: Any, label: str | None) -> Box:
    """A box as two corners. Raises BadRow."""
    problem = box_problem(corners, None)
    if problem is not None:
        raise BadRow(problem)
    x1, y1, x2, y2 = map(float, corners)
    return Box(x1, y1, x2, y2, label)


# ---- question and answer in columns


def listed_choices(row: Cells) -> Any:
    """The choices of a row: `choices` or `options`, or columns A, B, C ... (`choice_a`, `option_a`), of which the first two are
    there. None where it has none, so that its question is an open one; what is no list stays as it is."""
    listed = decoded(first_text(row, CHOICE_LISTS))
    if isinstance(listed, str):
        listed = options_of_text(listed) if listed.strip("[]{} \n") else None
    if isinstance(listed, dict):  # {"A": ..., "B": ...}, or {"text": [...], "label": [...]}
        listed = listed["text"] if isinstance(listed.get("text"), list) else list(listed.values())
    if isinstance(listed, list):
        return listed if any(str(one).strip() for one in listed if one is not None) else None
    if listed is not None:
        return listed
    for columns in _CHOICE_COLUMNS:
        if row.get(columns[0]) in (None, "") or row.get(columns[1]) in (None, ""):
            continue
        cells = [row.get(column) for column in columns]
        n = next((i for i, cell in enumerate(cells) if cell in (None, "")), len(cells))
        if any(cell not in (None, "") for cell in cells[n:]):
            raise BadRow(f"its choice {LETTERS[n]} is empty, but a later one is not")
        return cells[:n]
    return None


def has_choices(row: Cells) -> bool:
    """Whether a row seems to have choices (see `listed_choices`)."""
    written = first_text(row, CHOICE_LISTS)
    if isinstance(written, str):  # reading it twice takes time
        return bool(written.strip("[]{} \n"))
    try:
        return listed_choices(row) is not None
    except BadRow:
        return True


def choice_rows(row: Cells) -> list[Asked]:
    """ScienceQA and other multiple choice: `question`, its choices, and the answer as a letter, a text or a number from 0. Rows
    without choices are open questions."""
    question, listed = first_text(row, ("question", *QUESTION_COLUMNS)), listed_choices(row)
    if listed is None:
        return question_rows(row)
    answer = next((row[key] for key in ANSWER_COLUMNS if row.get(key) not in (None, "")), None)
    if not isinstance(question, str) or not isinstance(listed, list) or answer is None:
        raise BadRow(f"a row needs question, choices and answer, got {question!r:.40}, {listed!r:.40} and {answer!r:.40}")
    choices = tuple(str(one).strip() for one in listed)
    if isinstance(answer, list) and answer and all(isinstance(one, str) for one in answer):
        answer = agreed(answer)[0]
    if str(answer).strip() in (marks := _marks_of(row)):
        answer = marks.index(str(answer).strip())
    elif isinstance(answer, str) and answer.strip().isdigit() and answer.strip() not in choices:
        answer = int(answer)
    hint = row.get("hint")
    text = f"{hint.strip()}\n{question}" if isinstance(hint, str) and hint.strip() else question
    return [Asked(text, answer, images_of(row), choices=choices, meta=_thought(row, answer))]


def _marks_of(row: Cells) -> list[str]:
    """What stands for each choice in the answer where the row says so, as in ARC (`label`) or as keys of an object."""
    listed = decoded(first_text(row, CHOICE_LISTS))
    if not isinstance(listed, dict):
        return []
    marks = listed.get("label") if isinstance(listed.get("text"), list) else list(listed)
    return [str(one).strip() for one in marks] if isinstance(marks, list) else []


def _thought(row: Cells, answer: Any) -> dict[str, Any]:
    """`meta.thinking` of a row whose `solution` says how its `answer` is found, as ScienceQA has it."""
    solution = row.get("solution")
    if not isinstance(solution, str) or solution is answer or row.get("answer") in (None, ""):
        return {}
    try:
        text, thinking = read_answer(solution)
    except BadRow:
        return {}
    if not thinking and isinstance(text, str) and len(text) > LONG_ANSWER_CHARS:
        thinking = text
    return {"thinking": thinking} if thinking else {}


def column_question(row: Cells) -> Any:
    """The question in a column: of the usual names, or a `text` that ends as one; None where there is none."""
    found, text = first_text(row, QUESTION_COLUMNS), row.get("text")
    return text if found is None and isinstance(text, str) and text.rstrip().endswith(("?", "？")) else found


def question_rows(row: Cells) -> list[Asked]:
    """A question and an answer in columns: EasyR1, R1-V, Alpaca (its `history` too), VQA and whatever has names as these."""
    question, answer = column_question(row), _answer_of(row)
    if not isinstance(question, str) or answer is None:
        raise BadRow(f"a row needs a question and an answer, got {question!r:.60} and {answer!r:.60}")
    images, more = images_of(row), row.get("input")
    if isinstance(more, str) and more.strip().lower() not in _NO_INPUT:
        question = "\n".join(part for part in (question, more) if part.strip(" \n") != IMAGE) + (
            f"\n{IMAGE}" if IMAGE in (question.strip(), more.strip()) else ""
        )
    meta = _thought(row, answer)
    history = decoded(row.get("history"))
    if isinstance(history, list) and history:
        rounds = [one for one in history if isinstance(one, list | tuple) and len(one) == 2]
        pairs = [*((str(asked), replied) for asked, replied in rounds), (question, answer)]
        return [
            Asked(asked, said, shown, turn=i, meta=meta if i == len(pairs) else {})
            for i, (asked, said, shown) in enumerate(pairs_with_images(pairs, images), start=1)
        ]
    return [Asked(question, decoded(answer) if isinstance(answer, list) else answer, images, method=method_of(row), meta=meta)]


def _answer_of(row: Cells) -> Any:
    """The answer in a column. Of answers that people gave apart those that several agree on, as in VQA."""
    if row.get("completion") not in (None, "") and isinstance(row.get("label"), bool):  # TRL's rows of liked completions
        if not row["label"]:
            raise LeftOut(MARKED_WRONG)
        return row["completion"]
    answer = decoded(first_text(row, ANSWER_COLUMNS))
    key = next((key for key in ANSWER_COLUMNS if row.get(key) not in (None, "", [])), "")
    many = decoded(row.get("answers" if key == "multiple_choice_answer" else key))
    if key == "direct_answers" and isinstance(many, str):
        many = options_of_text(many)
    if isinstance(many, list) and many and all(isinstance(one, Mapping) and isinstance(one.get("answer"), str) for one in many):
        many = agreed([one["answer"] for one in many])
        return [answer, *(one for one in many if canon(one) != canon(answer))] if isinstance(answer, str) else many
    return agreed(many) if key == "direct_answers" and isinstance(many, list) else first_text(row, ANSWER_COLUMNS)


def agreed(answers: Sequence[str]) -> list[str]:
    """Of the answers of several people those that three or more gave, as VQA counts them fully right; else the commonest."""
    counts = Counter(canon(one) for one in answers)
    firsts = {canon(one): one for one in reversed(answers)}
    most = [name for name, n in counts.most_common() if n >= _N_AGREED]
    return [firsts[name] for name in most or [counts.most_common(1)[0][0]]]


def mapped_rows(row: Cells) -> list[Asked]:
    """A question whose answer is one box, in columns that the user names."""
    question, corners = row.get("question"), decoded(row.get("bbox"))
    if isinstance(corners, list) and len(corners) == 1 and isinstance(corners[0], list):
        corners = corners[0]
    if isinstance(corners, str) and _FOUR_NUMBERS.fullmatch(corners):
        corners = [float(one) for one in _FOUR_NUMBERS.fullmatch(corners).groups()]  # type: ignore[union-attr]
    if not isinstance(question, str):
        raise BadRow(f"a row needs a question, got {question!r:.60}")
    return [Asked(question, None, images_of(row), boxes=(box_of(corners, None),))]
