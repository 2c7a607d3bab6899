"""Scoring text without a model: one case (sample, completions, what the reward needs) to one result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrl.data.sample_json import sample_from_json
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Reward, SampleError, Score

CASE_KEYS = {
    "sample", "completion", "completions", "step", "n_tokens", "base", "value", "values", "note", "reward", "expected"
}  # fmt: skip
"""What a case may hold besides options. Values that are expected, notes and the name of the reward are not used."""


def grade_case(reward: Reward, case: Mapping[str, Any], where: str, root: Path = Path()) -> list[Score]:
    """The scores of a case's `completion`, or of all its `completions` (one group, in order).

    `step`, and for one completion or a list for several, `n_tokens` and `base` (the value of the reward this one builds on)
    are passed on where the reward needs them. Any other key must be an option of the reward, already set by the caller.
    Raises SampleError naming `where` for a case that is malformed.
    """
    if "sample" not in case or ("completion" in case) == ("completions" in case):
        raise SampleError(f'{where}: a case is {{"sample": {{...}}, "completion": "..."}} or "completions": [...] for a group')
    texts = [case["completion"]] if "completion" in case else case["completions"]
    if texts == []:
        raise SampleError(f"{where}: completions is an empty list, so there is nothing to score; give one text or more")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise SampleError(f"{where}: completions must be text, got {texts!r:.80}")
    sample = sample_from_json(case["sample"], where, root)

    def column(name: str) -> list[Any] | None:
        value = case.get(name)
        if value is None:
            return None
        column = value if isinstance(value, list) else [value] * len(texts)
        if len(column) != len(texts):
            raise SampleError(f"{where}: {len(column)} values of {name} for {len(texts)} completions")
        return column

    return score_rows(reward, texts, [sample] * len(texts), case.get("step"), column("n_tokens"), column("base"))


def options_in(case: Mapping[str, Any]) -> str:
    """The options a case asks for (`variant`, `adaptive`, ...), as `vlrl.rewards.load_reward` reads them."""
    words = {name: value for name, value in case.items() if name not in CASE_KEYS}
    return ",".join(f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in words.items())
