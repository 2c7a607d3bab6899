"""Special tokens written out in a row's own words, such as `<|im_end|>` in a question about chat formats. No torch.

A tokenizer turns such words into the token itself, and a processor takes `<|image_pad|>` for an image that is not there, which
ends training. They are text, so they reach the model as text: an invisible character after the first sign of each keeps it from
being one token. Readers of answers drop invisible characters (`vlrl.answers.normalise`), so answers compare as before.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from vlrl.schema import Sample

ZERO_WIDTH = "\u200b"
KEY = "written_tokens"
"""The key of `meta` under which a prepared sample holds the special tokens that its row spells out."""
USUAL = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>|</?(?:image|img|video|IMG_CONTEXT|image_soft_token|start_of_image|end_of_image|start_of_turn"
    r"|end_of_turn|bos|eos|s|pad|unk|fake_token_around_image|end_of_utterance|row_\d+_col_\d+)>|\[/?(?:INST|IMG|IMG_BREAK|IMG_END)\]"
)
"""Special tokens of the families in use, for a server whose tokenizer is not at hand."""


def token_pattern(tokens: Iterable[str]) -> re.Pattern[str]:
    """A pattern that finds any of these tokens, the longest first. Words of letters and digits alone are left out, and single
    characters, which cannot be split."""
    usable = sorted(
        {token for token in tokens if len(token.strip()) > 1 and not token.strip().isalnum()}, key=len, reverse=True
    )
    return re.compile("|".join(map(re.escape, sorted(usable, key=len, reverse=True))) or r"(?!)")


def written_tokens(sample: Sample, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """The special tokens that the row's question, choices, answer or `meta` spell out, each once."""
    found: dict[str, None] = {}
    for text in _texts((sample.question, sample.choices, sample.answer, sample.meta)):
        if pattern.search(text):
            found |= dict.fromkeys(pattern.findall(text))
    return tuple(found)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            if key != KEY:
                yield from _texts(key)
                yield from _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def with_written_tokens(sample: Sample, pattern: re.Pattern[str]) -> Sample:
    """The sample with what `split_tokens` needs in its `meta`; itself where it spells out no special token."""
    found = written_tokens(sample, pattern)
    if not found:
        return sample
    return dataclasses.replace(sample, meta={**sample.meta, KEY: found})


def split_tokens(text: str, tokens: Sequence[str]) -> str:
    """The text with these special tokens written so that a tokenizer reads them as text."""
    for token in sorted(tokens, key=len, reverse=True):
        text = text.replace(token, token[0] + ZERO_WIDTH + token[1:])
    return text


def without_special_tokens(text: str, pattern: re.Pattern[str]) -> str:
    """A text that nothing but words belongs in, every special token in it written as text."""
    found = pattern.findall(text)
    return split_tokens(text, sorted(set(found))) if found else text


def as_plain_text(sample: Sample, text: str) -> str:
    """A prompt or target of a prepared sample, the special tokens that its row spells out written as text."""
    tokens: Sequence[str] = sample.meta.get(KEY, ())
    return split_tokens(text, tokens) if tokens else text
