"""Finds AutoTrust's question files for a run: the built-in fixture, a copy of the release, or one file; and lists what is
missing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlrl.bench.autotrust import fixture
from vlrl.bench.autotrust.parts import NO_SUBSTITUTE, NOT_ASKED, PATTERNS, Options, Part
from vlrl.bench.autotrust.questions import QuestionFile, read_file, read_question_files
from vlrl.data.files import read_json_object
from vlrl.schema import SampleError


def files_for(
    data: Path | None, parts: Sequence[Part], options: Options, whole: bool, seed: int
) -> tuple[dict[str, list[QuestionFile]], Options, list[str], list[str]]:
    """(files by part, options with the prefixes and labels of the data, reasons why parts are not run, "name sha256" of each
    file).

    `data`: None for the fixture. `whole`: all parts were requested, not one by name. Raises ValueError, SampleError.
    """
    named = [part.name for part in parts]
    not_run = [f"{name}: {why}" for name, why in NOT_ASKED.items() if whole and name not in named]
    if data is None:
        made, patterns, labels = fixture.files(seed)
        files = {part.name: [file for file in made if file.name in part.files] for part in parts}
        options = replace(options, patterns=patterns, group_labels=options.group_labels or labels)
        not_run += [f"{part.name}: {part.files[0]} {NO_SUBSTITUTE}" for part in parts if not files[part.name]]
        lines = [f"{file.name} {file.sha256}" for file in made]
        return files, options, not_run, lines
    if data.is_file():
        if whole:
            raise ValueError(
                f"--data {data} is one file; name the part it is for, --task autotrust/factuality, or give the folder"
            )
        one = read_file(data)
        files = {part.name: [one] for part in parts}
        patterns_at = data.parent.parent / PATTERNS
    else:
        files = {}
        for part in parts:
            files[part.name], lacking = read_question_files(data, part.files)
            not_run += [f"{part.name}: {name} is not in {data}" for name in lacking]
        patterns_at = data / PATTERNS
    if "ego" in files:
        if patterns_at.is_file():
            options = replace(options, patterns=_patterns(patterns_at))
        else:
            files["ego"] = []
            not_run.append(f"ego: no {patterns_at}")
    if not any(files.values()):
        raise SampleError(
            f"{data} holds none of the files that {', '.join(part.name for part in parts)} needs:\n  " + "\n  ".join(not_run)
        )
    used = {file.name: file for some in files.values() for file in some}
    return files, options, not_run, [f"{file.name} {file.sha256}" for file in used.values()]


def files_label(files: Mapping[str, Sequence[QuestionFile]], options: Options) -> str:
    """A sentence for reports: how many question files are the released ones, and where the prompts come from."""
    used = {file.name: file for some in files.values() for file in some}
    other = [file.name for file in used.values() if not file.is_released]
    label = f"{len(used) - len(other)} of {len(used)} question files are the released ones"
    label += f" (not: {', '.join(other)})" if other else ""
    prompts = "our own sentences" if options.prompt_set == "vlrl" else f"the sentences of {options.prompt_set}"
    return f"{label}; prompts with {prompts}"


def _patterns(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """`ego_pattern.json`, an array of objects, as one object. Raises SampleError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        merged = {who: dict(attributes) for part in content for who, attributes in part.items()}
        texts = [text for attributes in merged.values() for groups in attributes.values() for text in groups.values()]
    except (ValueError, AttributeError, TypeError) as error:
        raise SampleError(f"{path}: not the prefixes of ego fairness: {error}") from error
    if not all(isinstance(text, str) for text in texts):
        raise SampleError(f"{path}: a prefix must be text")
    return merged


def read_object(path: Path | None, flag: str) -> dict[str, Any] | None:
    """The JSON object in the file of an optional flag, None without one. Raises SampleError."""
    return None if path is None else read_json_object(path, flag)
