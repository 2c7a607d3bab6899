"""A system message and a prompt of the user's own around the questions of any task: `--system_prompt`, `--prompt_template`.

Both are texts, or files that hold one. Training, the supervised stage and evaluation ask through the task, so all use them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from vlrl.answers.text import LETTERS
from vlrl.schema import Sample, Task

QUESTION, PROMPT = "{question}", "{prompt}"
_MAX_PATH_CHARS = 1000
_LOOKS_LIKE_A_FILE = re.compile(r"[^\s{}]+\.(?:txt|md|jinja2?|j2|prompt)")


def text_or_file(name: str, value: str | None) -> str | None:
    """The text that `--name` gives, or that of the file which it names. Raises ValueError for a file that cannot be read."""
    if value is None or not value.strip():
        return None
    is_short = len(value) <= _MAX_PATH_CHARS and "\n" not in value
    if is_short and Path(value).is_file():
        try:
            return Path(value).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--{name} {value}: cannot be read as a text in UTF-8: {error}") from error
    if _LOOKS_LIKE_A_FILE.fullmatch(value):
        raise ValueError(f"--{name} {value}: no such file (a text is taken as it is)")
    return value


def template_problem(template: str | None) -> str | None:
    """What is wrong with a prompt template, or None."""
    if template is None or QUESTION in template or PROMPT in template:
        return None
    found = re.search(r"\{\{?\s*(\w+)", template)
    wrong = f", but {{{found[1]}}}" if found else ""
    return (
        f"--prompt_template has no {QUESTION}{wrong}: write {QUESTION} where the row's question and choices go, or"
        f" {PROMPT} for the whole prompt of the task"
    )


def with_prompt(task: Task, system: str | None, template: str | None) -> Task:
    """The task with this system message and prompt; itself without either."""
    if system:
        task = replace(task, system=system)
    if not template:
        return task
    own = task.prompt

    def prompt(sample: Sample) -> str:
        # in one pass: what a row's words hold stays as it is
        parts = re.split(r"(\{question\}|\{prompt\})", template)
        fill = {QUESTION: question_of, PROMPT: own}
        return "".join(fill[part](sample) if part in fill else part for part in parts)

    return replace(task, prompt=prompt)


def question_of(sample: Sample) -> str:
    """What a row asks, with its choices: lettered, or of a classification the list of names."""
    if not sample.choices:
        return sample.question
    if sample.task == "classification":
        return f"{sample.question}\nOne of: {', '.join(sample.choices)}"
    return sample.question + "".join(f"\n{letter}. {one}" for letter, one in zip(LETTERS, sample.choices, strict=False))
