"""Rewards that hold a model, ready for use: their models are loaded once, frozen, and handed to them.

Not here: the options of such a reward (`vlrl.rewards.model_reward`, `judge_model`, `image_text`), and the models at work
(`vlrl.models.value_models`, `judge_models`, `image_text_models`).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vlrl.models.image_text_models import ImageTextModel
from vlrl.models.judge_models import JudgeModels
from vlrl.models.names import adapter_base, is_adapter_folder
from vlrl.models.value_models import ValueModels
from vlrl.rewards.image_text import CLIP, agreement_words, weight_files
from vlrl.rewards.implicit_reward import Prime, prime_words
from vlrl.rewards.judge_model import JUDGE, judge_banner, trial_problem
from vlrl.rewards.model_reward import RM, combination_words, folders_of, options_given
from vlrl.schema import Reward
from vlrl.tasks.rubric import Rubric
from vlrl.training.banner import banner_line
from vlrl.training.options import ConfigError
from vlrl.training.sharding import shards_weights

ROOM = 1.2
"""So many times its weights a frozen model takes while it scores, at the least."""
_BANNER: dict[str, Callable[[Reward], str]] = {RM: combination_words, CLIP: agreement_words}


def holding(rewards: Sequence[Reward], device: torch.device | str) -> tuple[Reward, ...]:
    """The rewards, those that hold models with theirs loaded on `device` (or that of their option `device=`). Raises
    ConfigError where they do not fit there, ModelError where they cannot be loaded."""
    return tuple(_with_models(reward, device) if "model" in reward.needs else reward for reward in rewards)


def with_models(rubric: Rubric, device: torch.device, arguments: Any) -> Rubric:
    """A run's rubric with the models of its rewards loaded. Raises ConfigError, ModelError."""
    holds = [reward.name for reward in rubric.rewards if "model" in reward.needs]
    if holds and shards_weights(arguments):
        raise ConfigError(f"reward {holds[0]} where weights are sharded (FSDP, ZeRO-3) is not supported; use DDP or ZeRO-2")
    return dataclasses.replace(rubric, rewards=holding(rubric.rewards, device))


def _with_models(reward: Reward, device: torch.device | str) -> Reward:
    options = options_given(reward)
    place = device_of(reward, device)
    if problem := memory_problem(reward, place):
        raise ConfigError(problem)
    models: ValueModels | JudgeModels | ImageTextModel
    if reward.name == JUDGE:
        models = JudgeModels(options["folder"], options.get("meta", ""), place, options.get("batch_size", 16))
        if problem := trial_problem(reward, models):
            raise ConfigError(problem)
    elif reward.name == CLIP:
        models = ImageTextModel(options["folder"], place, options.get("batch_size", 64))
    else:
        models = ValueModels(held_folders(reward), place, options.get("batch_size", 32))
    return dataclasses.replace(reward, function=partial(reward.function, models=models))


def held_folders(reward: Reward) -> list[str]:
    """The folders of the models that a reward holds."""
    options = options_given(reward)
    if reward.name == RM:
        return folders_of(options["folder"])
    return [options[name] for name in ("folder", "meta") if options.get(name)]


def device_of(reward: Reward, device: torch.device | str) -> torch.device:
    """Where its models are to be. Raises ConfigError for a device that this machine does not have."""
    named = options_given(reward).get("device") or device
    try:
        place = torch.device(named)
        if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
            raise RuntimeError(f"this machine has {torch.cuda.device_count()} GPUs")
    except RuntimeError as error:
        raise ConfigError(
            f"reward {reward.name}: device={named}: {str(error).partition(chr(10))[0]}; give cpu or cuda:N"
        ) from error
    return place


def weight_bytes(reward: Reward) -> int:
    """Of the files of its models; a model is held in the precision of its files."""
    if reward.name == CLIP:
        return sum(file.stat().st_size for file in weight_files(reward))
    folders = held_folders(reward)
    folders += [adapter_base(folder) for folder in folders if is_adapter_folder(folder)]
    return sum(file.stat().st_size for folder in folders for file in Path(folder).glob("*.safetensors"))


def memory_problem(reward: Reward, device: torch.device) -> str | None:
    """Why its models do not fit on a device beside what is there, or None."""
    free = free_bytes(device)
    needed = ROOM * weight_bytes(reward)
    if needed <= free:
        return None
    return (
        f"reward {reward.name}: its models take at least {needed / 2**30:.2f} GiB and {device} has {free / 2**30:.2f} GiB left;"
        " name fewer or smaller models, or another device (device=cpu, device=cuda:1)"
    )


def free_bytes(device: torch.device) -> float:
    """What nothing holds on a device; of the memory of the machine this process' share."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return free / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def model_seconds(reward: Reward) -> float:
    """What the models of a reward took so far; 0 for one without."""
    models = options_given(reward).get("models") if "model" in reward.needs else None
    return models.seconds if isinstance(models, ValueModels | JudgeModels | ImageTextModel) else 0.0


def say_reward_models(rewards: Sequence[Reward], say: Callable[..., None], prime: Prime | None = None) -> None:
    """In a run's banner: of each reward that holds models what it compares or combines, and what its weights take; what `prime`
    learns."""
    for reward in rewards:
        if "model" in reward.needs:
            size = f"{weight_bytes(reward) / 2**20:,.1f} MiB of weights, frozen"
            words = _BANNER.get(reward.name, judge_banner)(reward)
            say(banner_line("models", f"{words}; {size}"))
    if prime is not None:
        more = "beside the run's own it has one more copy of the weights, and gradients and moments of those that are trained"
        say(banner_line("models", f"{prime_words(prime, [reward.name for reward in rewards])}; {more}"))
