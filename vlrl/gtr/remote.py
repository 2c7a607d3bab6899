"""The corrector that is a model behind an OpenAI-compatible endpoint. It sees the image and the thought, may call the solver,
and replies in JSON; it is bounded in time, tries, money and concurrency, and never stops a run.

What fails is reported once and skipped; when too much fails, asking pauses and is taken up again later.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vlrl.answers.span import END_THINK, THINK
from vlrl.envs.cards import thought_fields, write_reply
from vlrl.envs.cards.deck import rank_of
from vlrl.envs.cards.replies import last_object
from vlrl.gtr import corrector_prompts as questions
from vlrl.gtr.budget import Counts, LimitReached, Spending
from vlrl.gtr.corrector import Correction, Request, SampleRequest, StepRequest
from vlrl.gtr.masks import thought_span
from vlrl.rewards.chat_client import ChatReply, EndpointError, base_url, chat

MAX_TRIES = 3
RECENT = 200
MIN_RECENT = 10
MAX_INVALID_CHARS = 2_000
"""Characters shown of a reply that is not valid."""


@dataclass(frozen=True, slots=True)
class RemoteOptions:
    """`url=""`: the environment's OPENAI_API_BASE, else OpenAI's. The key is the environment's OPENAI_API_KEY alone.

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
        for name in ("n_parallel", "timeout_s", "max_tokens"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name):g}: must be positive")
        for name in ("max_calls", "max_cost", "input_cost", "output_cost"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name}={getattr(self, name):g}: must not be negative")
        if not 0 <= self.max_failed_share <= 1:
            raise ValueError(f"max_failed_share={self.max_failed_share:g} is outside 0..1")
        if self.max_cost is not None and not (self.input_cost or self.output_cost):
            raise ValueError("max_cost needs input_cost and output_cost, the prices of a million tokens")


class RemoteCorrector:
    """Thread-safe. `report` gets one line when requests stop, pause or go on, and for the first failure."""

    def __init__(
        self,
        options: RemoteOptions,
        report: Callable[[str], None] = print,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options, self.report, self.sleep, self.clock = options, report, sleep, clock
        self.tier, self.privileged = f"model:{options.model}", options.gold
        prices = (options.input_cost, options.output_cost)
        self.spending = Spending(options.max_calls, options.max_cost, prices, options.spent)
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(options.n_parallel)
        self._recent: deque[bool] = deque(maxlen=RECENT)
        self._paused_until, self._pause_s, self._is_trying = -math.inf, options.pause_s, False
        self._reported: set[str] = set()
        self._refused: set[str] = set()
        if options.cache is not None:
            options.cache.mkdir(parents=True, exist_ok=True)

    def correct_many(self, requests: Sequence[Request]) -> list[Correction]:
        with ThreadPoolExecutor(max_workers=self.options.n_parallel) as pool:
            found = list(pool.map(self.correct, requests))
        self.spending.keep()
        return found

    @property
    def counts(self) -> Counts:
        return self.spending.counts

    def correct(self, request: Request) -> Correction:
        start = time.perf_counter()
        found = self._correct(request)
        self.spending.count(found.status, found.cached)
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
        reply = _cached(path, request)
        n_attempts = 0
        if reply is None:
            with self._slots:
                reply, n_attempts, why = self._ask(body, request)
            if reply is None:
                return Correction("failed", target=target, why=why, n_attempts=n_attempts)
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

    def _ask(self, body: dict[str, Any], request: Request) -> tuple[dict[str, Any] | None, int, str]:
        """A checked reply or None, the number of tries, and why there is none."""
        why = ""
        for attempt in range(1, MAX_TRIES + 1):
            if self.clock() < self._paused_until:
                return None, attempt - 1, why or "asking is paused after too many failures"
            try:
                reply = _checked(self._exchange(body, request), request)
            except LimitReached as reached:
                self._report_once(f"corrector {self.tier}: {reached}; no more corrections", key="limit")
                return None, attempt - 1, str(reached)
            except EndpointError as error:
                why = f"try {attempt}: {error}"
                if attempt == MAX_TRIES or not error.again:
                    self._note(failed=True, why=why)
                    return None, attempt, why
                low, high = self.options.backoff_s
                self.sleep(max(error.wait_s, min(high, low * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)))
                continue
            self._note(failed=False)
            return reply, attempt, ""
        raise AssertionError("the last try returns")

    def _exchange(self, body: dict[str, Any], request: Request) -> str:
        """The text of the model's last message; calls of the solver are answered once. Raises EndpointError."""
        reply = self._call(body)
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
        return self._call({**further, **_JSON_REPLY, "messages": [*body["messages"], called, *results]}).text

    def _call(self, body: dict[str, Any]) -> ChatReply:
        """One request; a setting that the endpoint refuses by name is left out from then on, which is reported."""
        sent = self._taken(body)
        self.spending.take_call()
        try:
            reply = chat(base_url(self.options.url), sent, timeout_s=self.options.timeout_s)
        except EndpointError as error:
            refused = next((name for name in _OPTIONAL if name in sent and f"'{name}'" in str(error)), None)
            if refused is None or error.again:
                raise
            with self._lock:
                self._refused.add(refused)
            self._report_once(f"corrector {self.tier}: asked without {refused} from here on ({error})", key=refused)
            return self._call(body)
        self.spending.pay(reply.usage)
        return reply

    def _taken(self, body: dict[str, Any]) -> dict[str, Any]:
        """A request without the settings that were refused."""
        with self._lock:
            refused = set(self._refused)
        taken = {key: value for key, value in body.items() if key not in refused}
        return taken | {"max_completion_tokens": body["max_tokens"]} if "max_tokens" in refused else taken

    # ---- when not to ask

    def _note(self, failed: bool, why: str = "") -> None:
        """Keeps the recent outcomes and pauses when too many of them are failures. The first failure after a pause brings
        the next one, twice as long."""
        if failed:
            self._report_once(f"corrector {self.tier}: {why}; such steps are not corrected", key="first failure")
        with self._lock:
            self._recent.append(failed)
            n_failed, n = sum(self._recent), len(self._recent)
            if not failed:
                self._pause_s, self._is_trying = self.options.pause_s, False
                return
            too_many = n >= MIN_RECENT and n_failed > self.options.max_failed_share * n
            if not (too_many or self._is_trying) or self.clock() < self._paused_until:
                return
            self._paused_until, pause_s = self.clock() + self._pause_s, self._pause_s
            self._pause_s, self._is_trying = min(2 * self._pause_s, 16 * self.options.pause_s), True
            self._recent.clear()
        self.report(
            f"corrector {self.tier}: {n_failed} of the last {n} requests failed ({why}); asking pauses for {pause_s:g} s"
        )

    def _report_once(self, line: str, key: str = "") -> None:
        with self._lock:
            if (key or line) in self._reported:
                return
            self._reported.add(key or line)
        self.report(line)

    def _cache_path(self, body: dict[str, Any]) -> Path | None:
        if self.options.cache is None:
            return None
        key = hashlib.sha256(
            json.dumps([questions.PROMPT_VERSION, self.options.model, body], sort_keys=True).encode()
        ).hexdigest()
        return self.options.cache / key[:2] / f"{key}.json"


_OPTIONAL = ("max_tokens", "temperature", "response_format")
"""Settings that some models do not take: reasoning models want `max_completion_tokens` and their own temperature."""
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
    reply: dict[str, Any] = found[0]
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
