"""The corrector that is a model behind an OpenAI-compatible endpoint. It sees the image and the thought, may call the solver,
and replies in JSON; it is bounded in time, tries, money and concurrency, and never stops a run.

What fails is reported once and skipped; when too much fails, asking pauses and is taken up again later.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vlrl.answers.span import END_THINK, THINK
from vlrl.answers.whole_text import whole_json
from vlrl.envs.cards import thought_fields, write_reply
from vlrl.envs.cards.deck import rank_of
from vlrl.envs.cards.replies import last_object
from vlrl.gtr import corrector_prompts as questions
from vlrl.gtr.corrector import Correction, Request, SampleRequest, StepRequest
from vlrl.gtr.masks import thought_span
from vlrl.rewards.budget import Counts, Spending, check_prices
from vlrl.rewards.chat_client import EndpointError, base_url
from vlrl.rewards.endpoint import Endpoint, Limits, Unanswered

MAX_TRIES = 3
MAX_INVALID_CHARS = 2_000
"""Characters shown of a reply that is not valid."""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """`url=""`: the environment's OPENAI_API_BASE, else OpenAI's. The key is the environment's VLRL_CORRECTOR_API_KEY, else its
    OPENAI_API_KEY.

    `solver`: offer it as a function (24 points). `gold`: show the right answer of a sample (privileged).
    `correct_invalid`: have a reply that is not valid rewritten as one that is, of which all is shown. `timeout_s`: of a
    request; `n_parallel`: requests at a time; `max_tokens`: of a reply. Asking pauses for `pause_s`, each time twice as long,
    while more than `max_failed_share` of the last 200 requests failed. No requests after `max_calls` of them or once
    `max_cost` is spent; `input_cost`, `output_cost`: the prices of a million tokens, in one currency. `cache`: the folder of
    replies, `spent`: the file of counts, both kept from run to run.
    """

    model: str
    url: str = ""
    solver: bool = True
    gold: bool = False
    correct_invalid: bool = False
    cache: Path | None = None
    spent: Path | None = None
    timeout_s: float = 60.0
    backoff_s: tuple[float, float] = (1.0, 15.0)
    n_parallel: int = 8
    max_failed_share: float = 0.2
    pause_s: float = 60.0
    temperature: float = 0.4
    max_tokens: int = 400
    max_calls: int | None = None
    max_cost: float | None = None
    input_cost: float = 0.0
    output_cost: float = 0.0

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("a corrector behind an endpoint needs the name of its model; give model:<name>")
        if self.max_tokens <= 0:
            raise ValueError(f"max_tokens={self.max_tokens:g}: must be positive")
        check_prices(self.max_calls, self.max_cost, self.input_cost, self.output_cost)
        _ = self.limits

    @property
    def limits(self) -> Limits:
        """How the endpoint is asked. Raises ValueError."""
        return Limits(
            timeout_s=self.timeout_s,
            n_tries=MAX_TRIES,
            backoff_s=self.backoff_s,
            n_parallel=self.n_parallel,
            max_failed_share=self.max_failed_share,
            pause_s=self.pause_s,
            longest_pause_s=16 * self.pause_s,
        )


class RemoteCorrector:
    """Thread-safe. `report` gets one line when requests stop, pause or go on, and for the first failure."""

    def __init__(
        self,
        options: RemoteOptions,
        report: Callable[[str], None] = print,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options
        self.tier, self.privileged = f"model:{options.model}", options.gold
        prices = (options.input_cost, options.output_cost)
        self.endpoint = Endpoint(
            f"corrector {self.tier}",
            base_url(options.url),
            "corrector_url",
            options.limits,
            Spending(options.max_calls, options.max_cost, prices, options.spent),
            loss="such steps are not corrected",
            report=report,
            clock=clock,
            sleep=sleep,
        )
        if options.cache is not None:
            options.cache.mkdir(parents=True, exist_ok=True)

    def correct_many(self, requests: Sequence[Request]) -> list[Correction]:
        found = self.endpoint.many(self.correct, requests)
        self.endpoint.spending.keep()
        return found

    @property
    def counts(self) -> Counts:
        return self.endpoint.counts

    def correct(self, request: Request) -> Correction:
        start = time.perf_counter()
        found = self._correct(request)
        self.endpoint.spending.count(found.status, found.cached)
        seconds = time.perf_counter() - start
        return replace(found, tier=self.tier, privileged=self.privileged, seconds=seconds)

    def _correct(self, request: Request) -> Correction:
        fields = _fields(request)
        is_valid = fields is not None
        target = request.target if isinstance(request, StepRequest) else None
        if fields is None and self.options.correct_invalid:
            fields = {"thoughts": request.completion.strip()[:MAX_INVALID_CHARS]}
        if fields is None:
            return Correction("invalid", target=target, why="the completion is not valid")
        body = self._body(request, fields)
        path = self._cache_path(body)
        kept, n_attempts = _cached(path, request), 0
        if kept is not None:
            reply = kept
        else:
            try:
                reply, n_attempts = self.endpoint.ask(lambda: _checked(self._exchange(body, request), request))
            except Unanswered as error:
                return Correction("failed", target=target, why=str(error), n_attempts=error.n_tries)
            _keep(path, reply)
        found = _verdict(request, reply)
        if not is_valid and found.status == "ok":
            found = replace(found, status="invalid", why="the corrector left a reply that is not valid as it is")
        return replace(found, n_attempts=n_attempts, cached=not n_attempts)

    # ---- asking

    def _body(self, request: Request, fields: dict[str, Any]) -> dict[str, Any]:
        """The first request of an exchange; its hash is the key of the cache."""
        tool = request.game.brief.solver if self.options.solver and isinstance(request, StepRequest) else None
        if isinstance(request, StepRequest):
            system, text = questions.step_texts(request, fields, tool is not None)
            images = [] if request.image is None else [request.image]
        else:
            reference = json.dumps(request.sample.answer, ensure_ascii=False) if self.options.gold else None
            system, text = questions.sample_texts(request, fields["thoughts"], reference)
            images = list(request.images)
        content = [{"type": "image_url", "image_url": {"url": _data_url(image)}} for image in images]
        body: dict[str, Any] = {
            "model": self.options.model,
            "temperature": self.options.temperature,
            "max_tokens": self.options.max_tokens,
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": [*content, {"type": "text", "text": text}]},
            ],
        }
        return {**body, "tools": [tool]} if tool is not None else {**body, **_JSON_REPLY}

    def _exchange(self, body: dict[str, Any], request: Request) -> str:
        """The text of the model's last message; calls of the solver are answered once. Raises EndpointError."""
        reply = self.endpoint.call(body)
        calls = reply.message.get("tool_calls")
        if not calls:
            return reply.text
        if "tools" not in body or not isinstance(request, StepRequest):
            raise EndpointError("a call of a function that was not offered")
        ranks, ids = _called_ranks(calls, body["tools"][0]["function"])
        answer = questions.solver_reply(request.game, ranks)
        called = {"role": "assistant", "content": reply.message.get("content") or "", "tool_calls": calls}
        results = [{"role": "tool", "tool_call_id": call_id, "content": answer} for call_id in ids]
        further = {key: value for key, value in body.items() if key != "tools"}
        return self.endpoint.call({**further, **_JSON_REPLY, "messages": [*body["messages"], called, *results]}).text

    def _cache_path(self, body: dict[str, Any]) -> Path | None:
        if self.options.cache is None:
            return None
        key = hashlib.sha256(
            json.dumps([questions.PROMPT_VERSION, self.options.model, body], sort_keys=True).encode()
        ).hexdigest()
        return self.options.cache / key[:2] / f"{key}.json"


_JSON_REPLY = {"response_format": {"type": "json_object"}}


def _fields(request: Request) -> dict[str, Any] | None:
    """What is handed over of a valid completion: never its action or answer."""
    if isinstance(request, StepRequest):
        return thought_fields(request.completion, request.game, request.ended)
    span = thought_span(request.completion, "tags")
    if span is None or not request.ended:
        return None
    return {"thoughts": request.completion[slice(*span)].removeprefix(THINK).removesuffix(END_THINK)}


def _data_url(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _called_ranks(calls: Any, solver: Mapping[str, Any]) -> tuple[tuple[str, ...], list[str]]:
    """The ranks all calls of the solver agree on (in any order), and the calls' ids. Raises EndpointError."""
    found, ids = [], []
    try:
        for call in calls:
            arguments = json.loads(call["function"]["arguments"])
            if call["function"]["name"] != solver["name"]:
                raise ValueError(f"no function {call['function']['name']!r}")
            found.append(tuple(sorted(rank_of(arguments[card]) for card in solver["parameters"]["required"])))
            ids.append(str(call["id"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        names = ", ".join(solver["parameters"]["required"])
        raise EndpointError(f"a call of the solver without ranks for {names}: {error}") from error
    if len(set(found)) != 1:
        raise EndpointError(f"calls of the solver disagree: {sorted(set(found))}")
    return found[0], ids


def _checked(text: str, request: Request) -> dict[str, Any]:
    """The reply as an object of the form that the prompt asks for. Raises EndpointError."""
    found = last_object(text)
    if found is None:
        raise EndpointError(f"a reply without one JSON object: {text!r:.80}")
    reply: dict[str, Any] = whole_json(found[0])
    evaluation = str(reply.get("evaluation")).strip().upper()
    if evaluation not in ("YES", "NO"):
        raise EndpointError(f"a reply whose evaluation is {reply.get('evaluation')!r:.40}, not YES or NO")
    follows_target = isinstance(request, StepRequest) and request.game.follows_target
    unsolvable = follows_target and _is_no(reply.get("possible_solution"))
    keys = request.game.thought_keys if isinstance(request, StepRequest) else ("thoughts",)
    correction = reply.get("correction")
    if evaluation == "NO" and not unsolvable:
        if not isinstance(correction, dict) or any(key not in correction for key in keys):
            raise EndpointError(f"a correction without the keys {', '.join(keys)}")
        if not isinstance(correction["thoughts"], str) or not correction["thoughts"].strip():
            raise EndpointError("a correction without thoughts")
    return {**reply, "evaluation": evaluation}


def _is_no(value: Any) -> bool:
    return isinstance(value, str) and value.strip().upper() == "NO"


def _verdict(request: Request, reply: dict[str, Any]) -> Correction:
    """What a checked reply comes to. The policy's own action or answer is kept."""
    if isinstance(request, SampleRequest):
        if reply["evaluation"] == "YES":
            return Correction("ok")
        span = thought_span(request.completion, "tags") if request.ended else None
        thought = THINK + reply["correction"]["thoughts"].replace(THINK, "").replace(END_THINK, "") + END_THINK
        before, after = ("", "") if span is None else (request.completion[: span[0]], request.completion[span[1] :])
        text = before + thought + after
        return Correction("corrected", text=text, why=str(reply.get("answer1", ""))[:200])
    follows_target = request.game.follows_target
    named = reply.get("target_formula") if follows_target else None
    target = " ".join(_tokens(named)) if isinstance(named, str) and _tokens(named) else request.target
    if reply["evaluation"] == "YES":
        return Correction("ok", target=request.target or target)
    if follows_target and _is_no(reply.get("possible_solution")):
        return Correction("unsolvable", target=request.target, why="the corrector sees no solution")
    corrected = {key: reply["correction"][key] for key in request.game.thought_keys}
    found = last_object(request.completion)
    action = found[0].get("action", "") if found else ""
    why = "; ".join(str(reply[key]) for key in sorted(reply) if key.startswith("answer"))[:200]
    return Correction("corrected", text=write_reply(corrected, action), target=target, why=why)


def _tokens(formula: str) -> list[str]:
    """The tokens of a formula as a model writes it; empty where it holds anything else."""
    text = formula.replace("×", "*").replace("÷", "/").split("=")[0]
    spaced = "".join(f" {c} " if c in "+-*/()" else c for c in text).split()
    return spaced if all((token.isdecimal() and len(token) < 10) or token in "+-*/()" for token in spaced) else []


def _cached(path: Path | None, request: Request) -> dict[str, Any] | None:
    if path is None:
        return None
    try:
        return _checked(path.read_text(encoding="utf-8"), request)
    except (OSError, UnicodeDecodeError, EndpointError):
        return None  # absent, or cut off by a stopped run: ask again


def _keep(path: Path | None, reply: dict[str, Any]) -> None:
    if path is None:
        return
    path.parent.mkdir(exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    partial.write_text(json.dumps(reply, ensure_ascii=True), encoding="utf-8")
    os.replace(partial, path)
