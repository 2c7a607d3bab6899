"""Rows of other projects, by where they hold question, answer and images.

Each reader gives the questions of one row. It raises BadRow for a row that cannot be used. Not here: which words of these are
question and answer (`vlrl.data.row_questions`), boxes and labels of image sets (`vlrl.data.row_labels`).
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.answers.text import LETTERS
from vlrl.data.row_questions import ABOUT_A_BOX, IMAGE, LONG_ANSWER_CHARS, Asked, read_answer
from vlrl.data.row_source import BadRow, LeftOut
from vlrl.data.tables import IMAGE_COLUMNS, numbered_images
from vlrl.schema import Box, box_problem

Cells = Mapping[str, Any]
ANSWER_COLUMNS = ("answer", "solution", "ground_truth", "gt_answer", "reference", "label", "response", "output", "answers")
QUESTION_COLUMNS = ("problem", "question", "instruction", "query", "prompt")
_CHOICE_COLUMNS = tuple(
    tuple(name.format(letter) for letter in letters)
    for name, letters in (
        ("{}", LETTERS[:10]),
        *((name, letters) for name in ("choice_{}", "option_{}") for letters in (LETTERS[:10].lower(), LETTERS[:10])),
    )
)
_ASKING, _ANSWERING = ("user", "human", "usr"), ("assistant", "gpt", "model", "bot", "chatgpt")
_SYSTEM, _CALLING = ("system",), ("tool", "function", "function_call", "observation", "tool_call", "tool_response")
_IN_TEXT = re.compile(r"<img>(.*?)</img>", re.DOTALL)


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
    if isinstance(named, str) and named.lstrip().startswith("["):
        named = decoded(named)
    numbered = [row[key] for key in numbered_images(row) if row[key] not in (None, "")]
    if named is None:
        return tuple(numbered)
    if not isinstance(named, list | tuple):
        return (named, *numbered)
    if named and numbered:
        raise BadRow("it has a list of images and columns of single ones; which of them belong to the question is not known")
    return (*named, *numbered)


def first_text(row: Cells, columns: Sequence[str]) -> Any:
    """The first of these columns that holds something; None where none does."""
    for key in columns:
        if key in row and row[key] not in (None, "", []):
            return row[key]
    return None


# ---- conversations


def turns_of(listed: Any) -> list[tuple[str, Any]]:
    """(role, content) of the turns of a conversation, roles as user, assistant, system or call. Raises BadRow."""
    listed = decoded(listed)
    if not isinstance(listed, list) or not listed:
        raise BadRow(f"a conversation is a list of turns, got {str(listed)[:80]!r}")
    found = []
    for turn in listed:
        if not isinstance(turn, dict):
            raise BadRow(f"a turn is an object with role and content, got {str(turn)[:80]!r}")
        if {"human", "assistant"} <= set(turn):  # ms-swift's older ShareGPT form: one object a round
            found += [("user", turn["human"]), ("assistant", turn["assistant"])]
            continue
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        name = str(role).lower()
        for ours, theirs in (("user", _ASKING), ("assistant", _ANSWERING), ("system", _SYSTEM), ("call", _CALLING)):
            if name in theirs:
                found.append((ours, content))
                break
        else:
            raise BadRow(f"a turn has the role {role!r}; known: user, assistant, system (human, gpt)")
    return found


def turn_text(content: Any) -> tuple[str, list[Any]]:
    """The text of a turn, with a placeholder for each image among its parts, and the images that the parts name."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, list):
        raise BadRow(f"the content of a turn is a text or a list of parts, got {str(content)[:80]!r}")
    text, images = "", []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text":
            text += str(part.get("text") or "")
        elif kind in ("image", "image_url"):
            text += IMAGE
            cell = part.get("image", part.get("image_url", part.get("url", part.get("path"))))
            cell = cell.get("url") if isinstance(cell, dict) and "url" in cell else cell
            images += [] if cell is None else [cell]
        else:
            raise BadRow(f"a part of a turn is a text or an image, got {str(part)[:80]!r}")
    return text, images


def conversation(row: Cells, listed: Any) -> list[Asked]:
    """The questions of a conversation, each with the reply that follows it; one that ends with a question has its answer in a
    column of the row. Each is asked by itself, with the images of its own placeholders."""
    turns = [(role, content) for role, content in turns_of(listed) if role != "system"]
    if any(role == "call" for role, _ in turns):
        raise BadRow("it calls tools, which single questions cannot")
    images, pairs, waiting = list(images_of(row)), [], ""
    named: list[Any] = []
    for role, content in turns:
        text, own = turn_text(content)
        named += own
        if role == "user":
            waiting = f"{waiting}\n{text}".strip() if waiting else text
        elif waiting:
            pairs.append((waiting, text))
            waiting = ""
        else:
            raise BadRow("a reply comes before any question")
    if waiting:
        answer = first_text(row, ANSWER_COLUMNS)
        if answer is None:
            raise BadRow(f"its last question has no answer: no reply, and none of the columns {', '.join(ANSWER_COLUMNS)}")
        pairs.append((waiting, answer))
    if not pairs:
        raise BadRow("it holds no question")
    if not images and not named:  # older Qwen-VL files name the image inside the text
        named = [path.strip() for question, _ in pairs for path in _IN_TEXT.findall(question)]
    images = images or named
    return [
        Asked(question, answer, shown, turn=i if len(pairs) > 1 else 0, method=_method(row))
        for i, (question, answer, shown) in enumerate(_with_images(pairs, images), start=1)
    ]


def _method(row: Cells) -> str | None:
    method = row.get("accu_reward_method")
    return str(method) if method else None


def _with_images(pairs: Sequence[tuple[str, Any]], images: Sequence[Any]) -> list[tuple[str, Any, tuple[Any, ...]]]:
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


def messages_rows(row: Cells) -> list[Asked]:
    """`messages` of LLaMA-Factory, ms-swift (with `objects`) and OpenAI."""
    objects = decoded(row.get("objects"))
    if isinstance(objects, dict) and objects.get("bbox"):
        return with_objects(row, objects)
    return conversation(row, row.get("messages"))


def conversations_rows(row: Cells) -> list[Asked]:
    """`conversations` of ShareGPT, LLaVA and VLM-R1 (`conversation` in some sets)."""
    return conversation(row, row.get("conversations", row.get("conversation")))


def prompt_rows(row: Cells) -> list[Asked]:
    """TRL's `prompt` as messages, with a `completion` or the answer in a column."""
    prompt, completion = decoded(row.get("prompt")), decoded(row.get("completion"))
    if isinstance(completion, list):
        prompt = [*prompt, *completion]
    elif isinstance(completion, str) and completion:
        prompt = [*prompt, {"role": "assistant", "content": completion}]
    return conversation(row, prompt)


def verl_rows(row: Cells) -> list[Asked]:
    """verl's Parquet: `prompt`, and `reward_model` with the ground truth."""
    truth = decoded(row.get("reward_model"))
    answer = decoded(truth.get("ground_truth")) if isinstance(truth, dict) else None
    if isinstance(answer, dict):
        answer = answer.get("target", answer.get("answer"))
    prompt = decoded(row.get("prompt"))
    if answer in (None, ""):
        raise BadRow("its reward_model has no ground_truth")
    if isinstance(prompt, str):
        return [Asked(prompt, answer, images_of(row))]
    turns = [turn for turn in turns_of(prompt) if turn[0] != "system"]
    if [role for role, _ in turns] != ["user"]:
        raise BadRow(f"its prompt must be one question of the user, got the roles {', '.join(role for role, _ in turns)}")
    text, named = turn_text(turns[0][1])
    return [Asked(text, answer, images_of(row) or tuple(named))]


def with_objects(row: Cells, objects: Mapping[str, Any]) -> list[Asked]:
    """ms-swift's grounding rows: `<ref-object>` and `<bbox>` in the text stand for the members of `objects`, in order."""
    turns = [(role, turn_text(content)[0]) for role, content in turns_of(row.get("messages")) if role != "system"]
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise BadRow("a row with objects must be one question and its reply")
    question, reply = (text for _, text in turns)
    if "<bbox>" in question:
        raise LeftOut(ABOUT_A_BOX)
    refs, boxes = objects.get("ref") or [], objects["bbox"]
    if not isinstance(refs, list) or not isinstance(boxes, list):
        raise BadRow("objects.ref and objects.bbox must be lists")
    n_asked, n_refs, n_boxes = (
        text.count(mark) for text, mark in ((question, "<ref-object>"), (reply, "<ref-object>"), (reply, "<bbox>"))
    )
    if n_asked + n_refs != len(refs) or n_boxes != len(boxes):
        has = f"objects has {len(refs)} and {len(boxes)}"
        raise BadRow(f"{n_asked + n_refs} <ref-object> and {n_boxes} <bbox> stand in the text, but {has}")
    if any(isinstance(box, list) and len(box) == 2 for box in boxes):
        raise LeftOut("questions whose answer is a point")
    asked = [str(one).strip() for one in refs[:n_asked]]
    labels = [str(one).strip() for one in refs[n_asked:]]
    images, of_box = images_of(row), objects.get("image_id") or []
    index = {int(one) for one in of_box} or {0}
    if len(index) != 1 or not 0 <= min(index) < max(1, len(images)):
        raise BadRow("its boxes lie in several images, or in one that the row does not have")
    unit = {"real": None, None: None, "norm1": "norm1", "norm1000": "norm1000"}
    kind = objects.get("bbox_type")
    if kind not in unit:
        raise BadRow(f"objects.bbox_type is {kind!r}; known: real, norm1")
    about: dict[str, Any] = {"coords": unit[kind], "image_index": min(index)}
    if labels:
        if n_refs != n_boxes:
            raise BadRow(f"{n_refs} names for {n_boxes} boxes in its reply")
        found = tuple(_box(box, label) for box, label in zip(boxes, labels, strict=True))
        return [Asked(question, None, images, boxes=found, categories=tuple(dict.fromkeys([*asked, *labels])), **about)]
    if len(asked) > 1:
        raise BadRow(f"it asks for {len(asked)} objects, but its reply does not say which box is whose")
    if len(boxes) == 1:
        text = asked[0] if asked else question
        return [Asked(text, None, images, boxes=(_box(boxes[0], None),), **about)]
    if not asked:
        raise BadRow(f"its reply has {len(boxes)} boxes without names")
    return [Asked(question, None, images, boxes=tuple(_box(one, asked[0]) for one in boxes), categories=(asked[0],), **about)]


def _box(corners: Any, label: str | None) -> Box:
    problem = box_problem(corners, None)
    if problem is not None:
        raise BadRow(problem)
    x1, y1, x2, y2 = map(float, corners)
    return Box(x1, y1, x2, y2, label)


# ---- question and answer in columns


def listed_choices(row: Cells) -> Any:
    """The choices of a row: `choices` or `options`, or columns A, B, C ... (`choice_a`, `option_a`), of which the first two are
    there. None where it has none, so that its question is an open one; what is no list stays as it is."""
    listed = decoded(first_text(row, ("choices", "options")))
    if isinstance(listed, str) and listed.lstrip().startswith("["):
        listed = _python_list(listed.strip())
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
    written = first_text(row, ("choices", "options"))
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
    if isinstance(answer, str) and answer.strip().isdigit() and answer.strip() not in choices:
        answer = int(answer)
    hint = row.get("hint")
    text = f"{hint.strip()}\n{question}" if isinstance(hint, str) and hint.strip() else question
    return [Asked(text, answer, images_of(row), choices=choices, meta=_thought(row, answer))]


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


def _python_list(text: str) -> Any:
    """A list of texts as Python prints it, as MMMU has it."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def question_rows(row: Cells) -> list[Asked]:
    """A question and an answer in columns: EasyR1, R1-V, Alpaca and whatever has names as these."""
    question, answer = first_text(row, QUESTION_COLUMNS), first_text(row, ANSWER_COLUMNS)
    if not isinstance(question, str) or answer is None:
        raise BadRow(f"a row needs a question and an answer, got {question!r:.60} and {answer!r:.60}")
    more = row.get("input")
    if isinstance(more, str) and more.strip():
        question = f"{question}\n{more}"
    return [
        Asked(
            question,
            decoded(answer) if isinstance(answer, list) else answer,
            images_of(row),
            method=_method(row),
            meta=_thought(row, answer),
        )
    ]


def mapped_rows(row: Cells) -> list[Asked]:
    """A question whose answer is one box, in columns that the user names."""
    question, corners = row.get("question"), decoded(row.get("bbox"))
    if isinstance(corners, list) and len(corners) == 1 and isinstance(corners[0], list):
        corners = corners[0]
    if not isinstance(question, str):
        raise BadRow(f"a row needs a question, got {question!r:.60}")
    return [Asked(question, None, images_of(row), boxes=(_box(corners, None),))]
