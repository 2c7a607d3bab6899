"""The options about prompts: a system message and words of the user's own, how videos are shown, and what of prompts that are
too long. No torch."""

from __future__ import annotations

import math
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

    video_fps: float | None = field(
        default=None,
        metadata={"help": "Frames a second that are taken of a video (default: 2); meta.video_fps of a row goes first."},
    )
    video_max_frames: int | None = field(
        default=None,
        metadata={"help": "The most frames that are taken of a video (default: 16); meta.video_frames of a row goes first."},
    )
    video_as: Literal["video", "frames"] = field(
        default="video",
        metadata={
            "help": "How models that take videos are shown them: video, or frames, one image each, as all other models are."
        },
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
    if options.video_max_frames is not None and options.video_max_frames < 2:
        raise ConfigError(f"--video_max_frames {options.video_max_frames}: must be at least 2")
    if options.video_fps is not None and not 0 < options.video_fps < math.inf:
        raise ConfigError(f"--video_fps {options.video_fps}: must be above 0")
    if options.video_as not in ("video", "frames"):
        raise ConfigError(f"--video_as {options.video_as}: must be one of video, frames")
    if options.overlong_prompts not in ("refuse", "skip"):
        raise ConfigError(f"--overlong_prompts {options.overlong_prompts}: must be one of refuse, skip")
