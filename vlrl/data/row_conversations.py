"""Rows of other projects that hold a conversation: LLaMA-Factory, ms-swift, OpenAI, ShareGPT, LLaVA, VLM-R1, TRL, verl.

Each reader gives the questions of one row. It raises BadRow for a row that cannot be used. Not here: question and answer in
columns (`vlrl.data.row_families`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vlrl.data.published_rows import says_nothing
from vlrl.data.row_families import (
    ANSWER_COLUMNS,
    MARKED_WRONG,
    Cells,
    box_of,
    decoded,
    first_text,
    images_of,
    method_of,
    pairs_with_images,
)
from vlrl.data.row_questions import A_POINT, ABOUT_A_BOX, ALL_OF_ONE, Asked
from vlrl.data.row_source import BadRow, LeftOut
from vlrl.data.row_wording import IMAGE, asks_for_a_place, wanted_all

_ASKING, _ANSWERING = ("user", "human", "usr"), ("assistant", "gpt", "model", "bot", "chatgpt")
_SYSTEM, _CALLING = ("system", "developer"), ("tool", "function", "function_call", "observation", "tool_call", "tool_response")
CONVERSATIONS = ("conversations", "conversation", "texts")
_IN_TEXT = re.compile(r"<img>(.*?)</img>", re.DOTALL)


def turns_of(listed: Any) -> list[tuple[str, Any]]:
    """(role, content) of the turns of a conversation, roles as user, assistant, system or call. Raises BadRow."""
    listed = decoded(listed)
    if not isinstance(listed, list) or not listed:
        raise BadRow(f"a conversation is a list of turns, got {str(listed)[:80]!r}")
    found = []
    for turn in listed:
        if not isinstance(turn, dict):
            raise BadRow(f"a turn is an object with role and content, got {str(turn)[:80]!r}")
        asking = next((key for key in ("human", "user") if {key, "assistant"} <= set(turn)), None)
        if asking is not None:  # ms-swift's older ShareGPT form, and the Cauldron's: one object a round
            found += [("user", turn[asking]), ("assistant", turn["assistant"])]
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
    if content is None:
        raise BadRow("one of its turns has no text")
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
            raise BadRow(f"a turn may hold texts and images, got {str(part)[:80]!r}")
    return text, images


def conversation(row: Cells, listed: Any) -> list[Asked]:
    """The questions of a conversation, each with the reply that follows it; one that ends with a question has its answer in a
    column of the row. Each is asked by itself, with the images of its own placeholders."""
    turns = [(role, content) for role, content in turns_of(listed) if role != "system"]
    if any(role == "call" for role, _ in turns):
        raise BadRow("its conversation calls tools, which a single question and answer cannot show")
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
            raise BadRow(
                "its last question has no answer: no reply, and none in a column such as answer, solution or ground_truth"
            )
        pairs.append((waiting, answer))
    if not pairs:
        raise BadRow("it holds no question")
    if not images and not named:  # older Qwen-VL files name the image inside the text
        named = [path.strip() for question, _ in pairs for path in _IN_TEXT.findall(question)]
    images = images or named
    return [
        Asked(question, answer, shown, turn=i if len(pairs) > 1 else 0, method=method_of(row))
        for i, (question, answer, shown) in enumerate(pairs_with_images(pairs, images), start=1)
    ]


def messages_rows(row: Cells, several: frozenset[str] = frozenset(), task: str = "") -> list[Asked]:
    """`messages` of LLaMA-Factory, ms-swift (with `objects`) and OpenAI. `several`: the questions (`swift_question`) that have
    several boxes somewhere in the set, so that one box is all that there is. `task`: what one box is, by the user."""
    objects = decoded(row.get("objects"))
    if isinstance(objects, dict) and objects.get("bbox"):
        return with_objects(row, objects, several, task)
    if isinstance(objects, dict) and isinstance(objects.get("ref"), list) and objects["ref"]:
        return _without_boxes(row, [str(one).strip() for one in objects["ref"]])
    return conversation(row, row.get("messages"))


def _without_boxes(row: Cells, names: list[str]) -> list[Asked]:
    """ms-swift's rows whose `objects` have names and no boxes: the names stand in the text, or are not in the image."""
    asked = conversation(row, row.get("messages"))
    if sum(str(text).count("<ref-object>") for one in asked for text in (one.question, one.answer)) != len(names):
        raise BadRow(f"objects has {len(names)} names, but its text has another number of <ref-object>")
    found, left = [], iter(names)
    for one in asked:
        own = [next(left) for _ in range(one.question.count("<ref-object>"))]
        question, answer = one.question, str(one.answer)
        for name in own:
            question = question.replace("<ref-object>", name, 1)
        for name in [next(left) for _ in range(answer.count("<ref-object>"))]:
            answer = answer.replace("<ref-object>", name, 1)
        is_none = bool(own) and says_nothing(answer) and asks_for_a_place(question)
        categories = tuple(dict.fromkeys(own)) if is_none else ()
        found.append(replace(one, question=question, answer=answer, categories=categories, boxes=() if is_none else None))
    return found


def conversations_rows(row: Cells) -> list[Asked]:
    """`conversations` of ShareGPT, LLaVA and VLM-R1 (`conversation` in some sets, `texts` in the Cauldron)."""
    return conversation(row, first_text(row, CONVERSATIONS))


def prompt_rows(row: Cells) -> list[Asked]:
    """TRL's `prompt` as messages, with a `completion` or the answer in a column."""
    prompt, completion = decoded(row.get("prompt")), decoded(row.get("completion"))
    if completion and row.get("label") is False:
        raise LeftOut(MARKED_WRONG)
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


def swift_question(row: Cells) -> str:
    """The question of a row with `objects`, its names apart; "" where it is none."""
    try:
        turns = [(role, turn_text(content)[0]) for role, content in turns_of(row.get("messages")) if role == "user"]
    except BadRow:
        return ""
    return turns[0][1].strip() if turns and "<ref-object>" in turns[0][1] else ""


def with_objects(row: Cells, objects: Mapping[str, Any], several: frozenset[str], task: str) -> list[Asked]:
    """ms-swift's grounding rows: `<ref-object>` and `<bbox>` in the text stand for the members of `objects`, in order."""
    turns = [(role, turn_text(content)[0]) for role, content in turns_of(row.get("messages")) if role != "system"]
    if [role for role, _ in turns] != ["user", "assistant"]:
        raise BadRow("a row with objects (boxes of ms-swift) must be one question and its reply; it has other turns")
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
        raise LeftOut(A_POINT)
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
            raise BadRow(f"its reply has {n_refs} <ref-object> for {n_boxes} <bbox>; each box needs one")
        found = tuple(box_of(box, label) for box, label in zip(boxes, labels, strict=True))
        return [Asked(question, None, images, boxes=found, categories=tuple(dict.fromkeys([*asked, *labels])), **about)]
    if len(asked) > 1:
        raise BadRow(f"it asks for {len(asked)} objects, but its reply does not say which box is whose")
    asks_all = wanted_all(question.replace("<ref-object>", "these")) is not None or question.strip() in several
    if len(boxes) == 1 and (task == "grounding" or not asked or (task != "detection" and not asks_all)):
        text = asked[0] if asked else question
        return [Asked(text, None, images, boxes=(box_of(boxes[0], None),), **about)]
    if not asked:
        raise BadRow(f"its reply has {len(boxes)} boxes without names")
    found = tuple(box_of(one, asked[0]) for one in boxes)
    noted = ALL_OF_ONE if len(boxes) == 1 else ""
    return [Asked(question, None, images, boxes=found, categories=(asked[0],), noted=noted, **about)]
