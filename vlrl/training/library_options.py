"""The options that dataclasses define, read from their source text: names, kinds, defaults and help.

Importing TRL's and transformers' option classes takes ten seconds, reading their source a twentieth of one. So a misspelt flag
is answered at once; what passes here is parsed again by the classes themselves (`vlrl.training.config`). A test compares both.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

TRUE_WORDS, FALSE_WORDS = ("yes", "true", "t", "y", "1"), ("no", "false", "f", "n", "0")


@dataclass(frozen=True)
class Option:
    """One flag. `kind`: its annotation as written, `int | None`; `default`: the expression as written, "" for none.
    `is_switch`: it may stand without a value."""

    name: str
    kind: str
    default: str = ""
    help: str = ""
    is_switch: bool = False

    @property
    def shown_default(self) -> str:
        """The default as a user would write it; "" where it says nothing (none, false) or is no constant."""
        try:
            value = ast.literal_eval(self.default)
        except (ValueError, SyntaxError):
            return ""
        return "" if value is None or value is False or value == "" else str(value)

    @property
    def read_as(self) -> str:
        """The one type that transformers' parser reads a union as: `bool | None` stays whole, `int | str | None` is `str`."""
        members = [member.strip() for member in self.kind.split("|")]
        if "None" in members and "bool" not in members:
            return members[0] if members[1] == "None" else members[1]
        return next(m for m in members if m != "str") if len(members) == 2 and "str" in members else self.kind

    @property
    def is_bool(self) -> bool:
        return self.read_as in ("bool", "bool | None")

    @property
    def is_list(self) -> bool:
        return self.read_as.startswith("list[")

    def value(self, words: Sequence[str]) -> Any:
        """The words of a command line as the value they stand for; kinds that are not simple stay text. Raises ValueError."""
        if self.is_list:
            item = Option(self.name, self.read_as[len("list[") : -1])
            return [item.value([word]) for word in words]
        if self.is_bool:
            word = words[0].lower() if words else "true"
            if word not in TRUE_WORDS + FALSE_WORDS:
                raise ValueError(f"--{self.name} {words[0]}: give true or false")
            return word in TRUE_WORDS
        if not words:
            return True
        word = words[0]
        if self.read_as in ("int", "float"):
            try:
                return int(word) if self.read_as == "int" else float(word)
            except ValueError as error:
                raise ValueError(f"--{self.name} {word}: not a {'whole ' if self.read_as == 'int' else ''}number") from error
        if (choices := self.choices) and word not in choices:
            raise ValueError(f"--{self.name} {word}: must be one of {', '.join(choices)}")
        return word

    @property
    def choices(self) -> tuple[str, ...]:
        """What a `Literal` allows; empty for other kinds."""
        kind = self.read_as
        return tuple(map(str, ast.literal_eval(f"({kind[len('Literal[') : -1]},)"))) if kind.startswith("Literal[") else ()


@cache
def read_options(path: Path, *classes: str) -> Mapping[str, Option]:
    """The fields of the dataclasses named, by name; of a field in several the first. Raises OSError."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    bodies = {node.name: node.body for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    found: dict[str, Option] = {}
    for name in classes:
        for node in bodies[name]:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
                found.setdefault(node.target.id, _option(node.target.id, node))
    return found


def _option(name: str, node: ast.AnnAssign) -> Option:
    kind = ast.unparse(node.annotation)
    value = node.value
    if not (isinstance(value, ast.Call) and ast.unparse(value.func).endswith("field")):
        return Option(name, kind, "" if value is None else ast.unparse(value))
    given: Mapping[str | None, ast.expr] = {keyword.arg: keyword.value for keyword in value.keywords}
    default = given.get("default")
    metadata = _constants(given.get("metadata"))
    shown = " ".join(str(metadata.get("help", "")).split())
    return Option(name, kind, "" if default is None else ast.unparse(default), shown, metadata.get("nargs") == "?")


def _constants(metadata: ast.expr | None) -> dict[Any, Any]:
    """The constants among the values of `metadata={"help": ..., "nargs": ...}`."""
    if not isinstance(metadata, ast.Dict):
        return {}
    pairs = zip(metadata.keys, metadata.values, strict=True)
    return {k.value: v.value for k, v in pairs if isinstance(k, ast.Constant) and isinstance(v, ast.Constant)}


SOURCES = {
    "training": [("transformers", "training_args.py", "TrainingArguments")],
    "grpo": [
        ("trl", "trainer/grpo_config.py", "GRPOConfig"),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("transformers", "training_args.py", "TrainingArguments"),
    ],
    "dpo": [
        ("trl", "trainer/dpo_config.py", "DPOConfig"),
        ("trl", "trainer/base_config.py", "_BaseConfig"),
        ("transformers", "training_args.py", "TrainingArguments"),
    ],
    "model": [("trl", "trainer/model_config.py", "ModelConfig")],
}
"""Where the libraries define their options; a class before those it inherits from."""


def library_options(*groups: str) -> dict[str, Option]:
    """The options of groups of `SOURCES`. Raises OSError or KeyError where a library keeps them elsewhere."""
    found: dict[str, Option] = {}
    for group in groups:
        for package, file, name in SOURCES[group]:
            spec = importlib.util.find_spec(package)
            if spec is None or not spec.submodule_search_locations:
                raise OSError(f"{package} is not installed")
            for option in read_options(Path(spec.submodule_search_locations[0]) / file, name).values():
                found.setdefault(option.name, option)
    return found
