"""The options about prompts: a system message and words of the user's own, and what of those that are too long. No torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from vlrl.schema import Task
from vlrl.tasks import is_built_in
from vlrl.tasks.games import GAME_TASKS
from vlrl.tasks.prompt_template import template_problem, text_or_file, with_prompt
from vlrl.training.options import ConfigError


@dataclass(frozen=True)
class PromptConfig:
    """The options of a run about its prompts."""

    system_prompt: str | None = field(
        default=None, metadata={"help": "A system message before every question: a text, or a file that holds one."}
    )
    prompt_template: str | None = field(
        default=None,
        metadata={
            "help": "The prompt in your own words, a text or a file: {question} stands for the row's question with its choices,"
            " {prompt} for the whole prompt of the task."
        },
    )

    max_prompt_length: int | None = field(
        default=None,
        metadata={
            "help": "Most tokens of a prompt, those of its images included. Default: what the model's context leaves beside"
            " max_completion_length."
        },
    )
    overlong_prompts: Literal["refuse", "skip"] = field(
        default="refuse", metadata={"help": "Longer prompts: refuse names the first of them and stops, skip leaves them out."}
    )


def read_prompts(options: PromptConfig) -> PromptConfig:
    """The options with the texts of files that they name. Raises ConfigError."""
    try:
        system = text_or_file("system_prompt", options.system_prompt)
        template = text_or_file("prompt_template", options.prompt_template)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if problem := template_problem(template):
        raise ConfigError(problem)
    return replace(options, system_prompt=system, prompt_template=template)


def prompted(tasks: Iterable[Task], options: PromptConfig) -> dict[str, Task]:
    """The tasks by name, asked as these options say. Raises ConfigError for games, whose prompts are their rules."""
    found = {}
    for task in tasks:
        if (options.system_prompt or options.prompt_template) and is_built_in(task) and task.name in GAME_TASKS:
            raise ConfigError(f"--system_prompt and --prompt_template are for questions; {task.name} is asked by its rules")
        found[task.name] = with_prompt(task, options.system_prompt, options.prompt_template)
    return found


def check_prompts(options: PromptConfig) -> None:
    """Raises ConfigError."""
    read_prompts(options)
    if options.max_prompt_length is not None and options.max_prompt_length < 1:
        raise ConfigError(f"--max_prompt_length {options.max_prompt_length}: must be at least 1")
    if options.overlong_prompts not in ("refuse", "skip"):
        raise ConfigError(f"--overlong_prompts {options.overlong_prompts}: must be one of refuse, skip")
