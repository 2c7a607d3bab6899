"""Users' rewards: `path/to/file.py:function`, a function `(text, sample) -> float | bool | Score | None`."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlrl.data.name_values import nearest
from vlrl.data.user_files import load_file
from vlrl.rewards.options import PASSED, with_options
from vlrl.rewards.scoring import as_score
from vlrl.schema import Reward, Sample, Score


def reward_from_file(path: Path, name: str, options: str = "") -> Reward:
    """The function `name` of a file as a reward of that name, of any range, with `options` set (`name=value,...`).

    Raises ValueError in one line where the file cannot be imported, does not define the function, or the function cannot be
    called as `function(text, sample)` with these options. What it returns is checked when it is called
    (`vlrl.rewards.scoring.as_score`).
    """
    what = f"reward {path}:{name}"
    module = load_file(path, what)
    function = getattr(module, name, None)
    if function is None:
        defined = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise ValueError(f"{what}: the file defines no function {name!r}{nearest(name, defined)}")
    reward = with_options(_reward(function, name, what, options_follow=True), options)
    for option in _required_options(reward.function):
        raise ValueError(f"{what}: it needs the option {option}; write {path}:{name}:{option}=VALUE")
    return reward


def functions_listed(path: Path) -> str:
    """ " (functions of the file: a, b)" for the public functions that a file defines, without running it; "" where it cannot be
    read or defines none."""
    try:
        body = ast.parse(path.expanduser().read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return ""
    found = [node.name for node in body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")]
    return f" (functions of the file: {', '.join(found)})" if found else ""


def reward_of_function(function: Any, name: str, what: str) -> Reward:
    """A user's function as a reward of any range. `what` begins the message of the ValueError for what is no such function."""
    return _reward(function, name, what, options_follow=False)


def _reward(function: Any, name: str, what: str, *, options_follow: bool) -> Reward:
    problem = _problem(function, options_follow=options_follow)
    if problem is not None:
        raise ValueError(f"{what}: {problem}")
    return Reward(name, _scored(name, function), float("-inf"), float("inf"))


def _problem(function: Any, *, options_follow: bool) -> str | None:
    """Why an object of a user's file cannot be a reward, or None. `options_follow`: its options are set later."""
    if not callable(function):
        return f"it is a value of type {type(function).__name__}, not a function"
    called = (function, type(function).__call__)
    if any(inspect.iscoroutinefunction(one) or inspect.isasyncgenfunction(one) for one in called):
        return "async functions are not supported; write `def`, not `async def`"
    if any(map(inspect.isgeneratorfunction, called)):
        return "it yields values; a reward returns one"
    try:
        signature = inspect.signature(function)
    except ValueError:
        return None  # written in C, without a signature
    options = dict.fromkeys(_required_options(function)) if options_follow else {}
    try:
        signature.bind("text", None, **options)
    except TypeError as error:
        keywords = [name for name in _required_keywords(signature) if name in PASSED]
        hint = f" ({', '.join(keywords)}: built-in rewards alone get these)" if keywords else ""
        return f"it takes {signature}, but is called with (text, sample): {error}{hint}"
    return None


def _required_options(function: Any) -> list[str]:
    """Keyword-only parameters that have no value yet, beside those that built-in rewards are passed."""
    try:
        return [name for name in _required_keywords(inspect.signature(function)) if name not in PASSED]
    except ValueError:
        return []


def _required_keywords(signature: inspect.Signature) -> list[str]:
    return [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
    ]


def _scored(name: str, function: Callable[..., Any]) -> Callable[..., Score]:
    def scored(text: str, sample: Sample, **options: Any) -> Score:
        return as_score(name, function(text, sample, **options), sample)

    functools.update_wrapper(scored, function)
    return scored
