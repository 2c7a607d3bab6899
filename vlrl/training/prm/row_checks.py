"""Solutions of a file against the model that is to value them, before its weights are loaded: images and lengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tqdm.auto import tqdm

from vlrl.data.image_checks import decode_problem, drawn_to_decode, shown_sizes, size_problem
from vlrl.data.images import ImageError
from vlrl.data.special_tokens import without_special_tokens
from vlrl.data.step_values import StepRecord, prompt_text
from vlrl.models.load import ModelInputs, special_token_pattern
from vlrl.models.prompt_lengths import PromptLengths, context_length
from vlrl.schema import Sample, SampleError

ValuedText = tuple[str, tuple[str, ...], str, Sequence[str]]
"""Id, images, question and steps."""


def check_solutions(rows: Sequence[StepRecord], inputs: ModelInputs, where: str, seed: int) -> None:
    """As `check_texts`, of solutions."""
    texts = [(row.id, (row.image,) if row.image else (), row.question, row.steps) for row in rows]
    check_texts(texts, inputs, where, seed)


def check_texts(rows: Sequence[ValuedText], inputs: ModelInputs, where: str, seed: int) -> None:
    """Image headers of all rows, a drawn part decoded, and question with steps within the model's context. Raises SampleError
    that names the rows."""
    lengths, special = PromptLengths(inputs.processor), special_token_pattern(inputs.processor)

    def words(i: int) -> list[dict[str, Any]]:
        _, images, question, steps = rows[i]
        text = without_special_tokens("\n".join([prompt_text(question), *steps]), special)
        return [{"role": "user", "content": [*({"type": "image"} for _ in images), {"type": "text", "text": text}]}]

    shown = [Sample(name, "prm", question, None, images) for name, images, question, _ in rows]
    for i, sample in enumerate(tqdm(shown, desc=f"checking {where}", disable=True if len(rows) < 2000 else None, leave=False)):
        try:
            sizes = shown_sizes(sample)
            problem = size_problem(sample, sizes)
            if problem is None:
                lengths.add(words(i), sizes)
        except (ImageError, ValueError) as error:
            raise SampleError(f"{where} (id {sample.id!r}): {error}") from error
        if problem:
            raise SampleError(f"{where} (id {sample.id!r}): {problem}")
    for sample in drawn_to_decode(shown, seed):
        if problem := decode_problem(sample):
            raise SampleError(f"{where} (id {sample.id!r}): {problem}; leave this row out")
    limit = context_length(inputs.config)
    found = {} if limit is None else lengths.longer_than(limit, words)
    if found:
        first = ", ".join(f"{rows[i][0]!r} ({n:,} tokens)" for i, n in list(found.items())[:3])
        raise SampleError(
            f"{len(found):,} of {len(rows):,} solutions of {where} are longer than the model's context of {limit:,} tokens; the"
            f" first: {first}. Leave them out, or make images smaller by --max_pixels"
        )
