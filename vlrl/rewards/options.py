"""Options of rewards as users write them, `name=value,name=value`: keyword-only parameters of the reward's function."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
import types
import typing
from typing import Any

from vlrl.data.masking import address_problem, remember_secret
from vlrl.data.name_values import split_pairs
from vlrl.schema import Reward

PASSED = frozenset({"step", "n_tokens", "base", "models"})
"""Keyword-only parameters that the scoring or a program passes (`Reward.needs`), so no options."""


def options_of(reward: Reward) -> dict[str, inspect.Parameter]:
    """The reward's options by name. Raises ValueError where a user's annotation cannot be read."""
    try:
        parameters = inspect.signature(reward.function, eval_str=True).parameters
    except (NameError, AttributeError, TypeError, SyntaxError) as error:
        raise ValueError(f"reward {reward.name}: an annotation of its parameters cannot be read: {error}") from error
    return {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name not in PASSED
    }


def with_options(reward: Reward, words: str) -> Reward:
    """The reward with the options in `words` set. Raises ValueError naming the nearest option, or what its value may be."""
    if not words:
        return reward
    known = options_of(reward)
    pairs = split_pairs(words.split(","), f"reward {reward.name}:", known)
    chosen = {name: _value(reward.name, known[name], text) for name, text in pairs.items()}
    return dataclasses.replace(reward, function=functools.partial(reward.function, **chosen))


def _value(reward: str, parameter: inspect.Parameter, text: str) -> Any:
    """An option's value, read by its annotation. Raises ValueError naming what is allowed."""
    kinds = _kinds(parameter)
    for kind in kinds:
        if typing.get_origin(kind) is typing.Literal:
            if text in typing.get_args(kind):
                return text
        elif kind is bool:
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
        elif kind in (int, float):
            try:
                number = kind(text)
            except ValueError:
                continue
            if math.isfinite(number):
                return number
        elif kind is str:
            problem = address_problem(parameter.name, text)
            if problem is not None:
                raise ValueError(f"reward {reward}: {parameter.name}={problem}")
            remember_secret(parameter.name, text)
            return text
    allowed = " or ".join(
        "/".join(typing.get_args(kind)) if typing.get_origin(kind) is typing.Literal else getattr(kind, "__name__", str(kind))
        for kind in kinds
    )
    raise ValueError(f"reward {reward}: {parameter.name}={text} must be {allowed}")


def _kinds(parameter: inspect.Parameter) -> tuple[Any, ...]:
    """The types an option may have: those of its annotation, else that of its default, else text."""
    wanted = parameter.annotation
    if wanted is not inspect.Parameter.empty:
        return typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)
    default = type(parameter.default)
    return (int, float) if default is int else (default,) if default in (bool, float) else (str,)
