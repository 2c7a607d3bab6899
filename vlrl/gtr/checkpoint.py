"""The corrector that is an earlier checkpoint of the policy: it writes its own thought for the same prompt and image.

Loading and running a checkpoint is the caller's; this keeps what of its completions may be imitated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from vlrl.envs.cards import thought_fields, write_reply
from vlrl.envs.cards.replies import last_object
from vlrl.gtr.corrector import Correction, Corrector, Request, StepRequest
from vlrl.gtr.masks import thought_span

Write = Callable[[Sequence[Request]], list[str]]
"""Requests -> the checkpoint's completions for the same prompts and images; text that did not end by itself is ""."""


class CheckpointCorrector:
    """Every valid thought of the checkpoint is a correction, with the policy's own action or answer kept. `check`: a corrector
    that must find the checkpoint's thought right (privileged if that one is). `correct_invalid`: as of `OracleCorrector`."""

    def __init__(self, name: str, write: Write, check: Corrector | None = None, correct_invalid: bool = False) -> None:
        self.tier = f"checkpoint:{name}"
        self.write, self.check, self.correct_invalid = write, check, correct_invalid

    @property
    def privileged(self) -> bool:
        return self.check is not None and self.check.privileged

    def correct(self, request: Request) -> Correction:
        return self.correct_many([request])[0]

    def correct_many(self, requests: Sequence[Request]) -> list[Correction]:
        start = time.perf_counter()
        texts = self.write(requests)
        found = [self._correction(request, text) for request, text in zip(requests, texts, strict=True)]
        seconds = (time.perf_counter() - start) / max(1, len(requests))
        return [
            replace(correction, tier=self.tier, privileged=self.privileged, n_attempts=1, seconds=seconds)
            for correction in found
        ]

    def _correction(self, request: Request, text: str) -> Correction:
        own = _with_thought_of(request, request.completion) if request.ended else None
        if own is None and not self.correct_invalid:
            return Correction("invalid", why="the completion is not valid")
        corrected = _valid(request, text) if own is None else _with_thought_of(request, text)
        if corrected is None:
            return Correction("failed", why="the checkpoint wrote no valid thought")
        if self.check is not None:
            verdict = self.check.correct(replace(request, completion=text, ended=True))
            if verdict.status != "ok":
                return Correction("failed", why=f"the checkpoint's thought is not right: {verdict.why}")
        return Correction("ok") if corrected == own else Correction("corrected", text=corrected)


def _valid(request: Request, text: str) -> str | None:
    """`text` if it is a valid completion."""
    game = request.game if isinstance(request, StepRequest) else None
    found = thought_span(text, "tags") if game is None else thought_fields(text, game)
    return None if found is None else text


def _with_thought_of(request: Request, text: str) -> str | None:
    """The thought of `text` before the action or answer of the request's completion; None where either has none."""
    if isinstance(request, StepRequest):
        fields, found = thought_fields(text, request.game), last_object(request.completion)
        return None if fields is None or found is None else write_reply(fields, found[0].get("action", ""))
    thought, own = thought_span(text, "tags"), thought_span(request.completion, "tags")
    if thought is None or own is None:
        return None
    return request.completion[: own[0]] + text[slice(*thought)] + request.completion[own[1] :]
