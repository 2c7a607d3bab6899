"""The reward that a language model gives, behind an OpenAI-compatible endpoint (`vlrl.rewards.chat_client`).

The one reward that reads the environment (VLRL_JUDGE_API_KEY, OPENAI_API_KEY, OPENAI_API_BASE) and the network. Its failures
are values of None, counted and reported by its endpoint (`judges`).
What it is shown and which replies count is in `judge_prompt.py`, a judge in the process in `judge_model.py`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vlrl.data.images import ImageError
from vlrl.rewards.budget import Spending, check_prices, share_of
from vlrl.rewards.chat_client import EndpointError, base_url
from vlrl.rewards.endpoint import DEAD_BATCHES, Endpoint, Limits, asking, check_endpoint
from vlrl.rewards.judge_prompt import NO_JUDGEMENT, candidate_of, judge_messages, judge_texts, verdict
from vlrl.rewards.judge_votes import Ballot, Vote, meta_values, score_of_votes
from vlrl.rewards.model_reward import Models
from vlrl.schema import Reward, Sample, Score

N_TRIES = 3
N_PARALLEL = 16
"""Requests at the same time."""
_judged: dict[tuple[str, ...], Future[Vote]] = {}
"""Judgements made or under way, by endpoint, model and prompt: equal answers of a group are sent once."""
_judged_lock = threading.Lock()


@dataclass(frozen=True)
class Place:
    """Where judges report, keep their counts (None: in memory), and which process of how many this is."""

    report: Callable[[str], None]
    folder: Path | None = None
    rank: int = 0
    n_processes: int = 1


def _say(line: str) -> None:
    """On standard error as it is when something is said."""
    print(line, file=sys.stderr, flush=True)


_place = Place(_say)
_judges: dict[tuple[Any, ...], Endpoint] = {}


def place_judges(place: Place) -> None:
    """From here on judges report and count there; counts of before are dropped."""
    global _place
    with _judged_lock:
        _place = place
        _judges.clear()


def judges() -> list[Endpoint]:
    """The endpoints of the judges that were asked since `place_judges`."""
    with _judged_lock:
        return list(_judges.values())


def is_judge(reward: Reward) -> bool:
    """Whether a reward asks a judge."""
    return reward.name == llm_judge.__name__


def check_judge(reward: Reward) -> None:
    """Ask the judge of a reward once, before anything costly; nothing for another reward. Raises EndpointError in one line."""
    if is_judge(reward):
        options = reward.function.keywords if isinstance(reward.function, partial) else {}
        image = BLANK_IMAGE if options.get("see_image", True) else None
        address, model = base_url(options.get("judge_url", "")), options.get("judge_model", "")
        timeout_s = min(options.get("timeout_s", 60.0), 60.0)
        check_endpoint("judge", address, model, "judge_url", image_url=image, timeout_s=timeout_s)


BLANK_IMAGE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAcCAIAAAD9b0jDAAAAKElEQVR42mP8//8/A7UBEwMNwKiho4aOGjpq6Kih"
    "o4aOGjpq6OAzFADRYgM1sivIJAAAAABJRU5ErkJggg=="
)
"""28 x 28 px."""


def llm_judge(
    text: str,
    sample: Sample,
    *,
    judge_model: str = "",
    judge_url: str = "",
    see_image: bool = True,
    timeout_s: float = 60.0,
    backoff_s: float = 1.0,
    max_calls: int | None = None,
    max_cost: float | None = None,
    input_cost: float = 0.0,
    output_cost: float = 0.0,
    votes: int = 1,
    vote: Literal["mean", "majority"] = "mean",
    critique: bool = False,
    meta: str = "",
    meta_votes: int | None = None,
    meta_by: Literal["top", "weights"] = "top",
    device: str = "",
) -> Score:
    """The score that the model `judge_model` gives the answer, in 0..1; None after three tries without a usable reply, and
    while asking is paused after too many failures (`vlrl.rewards.endpoint`).

    The judge stands at `judge_url`, by default OPENAI_API_BASE. It sees the question, the images, the right answer and the
    parsed answer (not the thought), at temperature 0.
    `see_image=false`: no images, for a judge that reads text only. Images are scaled down and sent as data
    (`vlrl.rewards.image_uris`); one that cannot be read gives None. The reply must be one number in 0..1, apart from a label,
    emphasis and a `<think>` block before it. Waits up to `backoff_s`, then twice that, between tries. No requests after
    `max_calls` of them or once `max_cost` is spent, by `input_cost` and `output_cost`, the prices of a million tokens. Replies
    are kept by endpoint, model and prompt. An answer that cannot be read, or without a letter or digit, is 0 without a
    request. `votes=k`: asked k times at temperature 1, the score their mean or majority (`vlrl.rewards.judge_votes`), None
    unless more than half came. `critique=true`: the judge writes principles and a critique first; the last line counts.
    `meta=FOLDER`: a model of `--task rm` or `--task prm`, loaded on `device`, reads each vote's critique, and the best half of
    the votes count (`meta_votes=` for another number; `meta_by=weights`: all, weighed by its values). Raises
    ValueError without `judge_model`. Source: VLM-R1. differs: a failure there silently became string equality; a number outside
    0..1 was clipped, which made "10 of 10" and "1 of 10" the same."""
    if meta:
        raise ValueError("its meta model is not loaded here; this command cannot score with meta=")
    ballot = Ballot(votes, vote)
    budget = (max_calls, max_cost, input_cost, output_cost)
    asked = _Asked(judge_model, judge_url, see_image, timeout_s, backoff_s, budget, critique, ballot)
    heard = _heard(text, sample, asked)
    return heard if isinstance(heard, Score) else score_of_votes(judge_model, heard.answer, heard.votes, ballot)


def guided_judge(
    texts: Sequence[str], samples: Sequence[Sample], *, models: Models | None = None, meta: str = "", **options: Any
) -> list[Score]:
    """`llm_judge` with `meta=` on all rows of a batch, asked side by side; `models`: the meta model, loaded. Raises ValueError
    without it."""
    if models is None:
        raise ValueError("its meta model is not loaded here; this command cannot score with meta=")
    named = ("votes", "vote", "meta_votes", "meta_by")
    ballot = Ballot(meta=meta, **{name: options[name] for name in named if name in options})
    budget = (
        options.get("max_calls"),
        options.get("max_cost"),
        options.get("input_cost", 0.0),
        options.get("output_cost", 0.0),
    )
    see, url, model = options.get("see_image", True), options.get("judge_url", ""), options.get("judge_model", "")
    times = options.get("timeout_s", 60.0), options.get("backoff_s", 1.0)
    asked = _Asked(model, url, see, *times, budget, options.get("critique", False), ballot)
    with asking(len(texts), N_PARALLEL) as batch:
        heard = batch.all(lambda i: _heard(texts[i], samples[i], asked), range(len(texts)))
    shown = [
        (samples[i].images if see else (), one.judged, (vote.reply,))
        for i, one in enumerate(heard)
        if not isinstance(one, Score)
        for vote in one.votes
    ]
    metas = iter(meta_values(meta, shown, models))
    return [
        one
        if isinstance(one, Score)
        else score_of_votes(asked.model, one.answer, one.votes, ballot, [next(metas) for _ in one.votes])
        for one in heard
    ]


@dataclass(frozen=True)
class _Asked:
    """The options of `llm_judge` by which a judge is asked."""

    model: str
    url: str
    see_image: bool
    timeout_s: float
    backoff_s: float
    budget: tuple[Any, ...]
    critique: bool
    ballot: Ballot


@dataclass(frozen=True)
class _Heard:
    """What came back about an answer: more than half of the votes. `judged`: the question with the answer, as it was shown."""

    answer: str
    judged: str
    votes: tuple[Vote, ...]


def _heard(text: str, sample: Sample, asked: _Asked) -> _Heard | Score:
    """The votes on a completion, or its score where there are none."""
    votes = asked.ballot.votes
    if votes < 1:
        raise ValueError(f"llm_judge: votes={votes} must be 1 or more")
    if not asked.model:
        raise ValueError("llm_judge needs a model; name it: llm_judge:judge_model=<name at the endpoint OPENAI_API_BASE>")
    answer = candidate_of(text, sample)
    if isinstance(answer, Score):
        return answer
    try:
        messages = judge_messages(answer, sample, see_image=asked.see_image, critique=asked.critique)
    except ImageError as error:
        return Score(None, answer, f"{NO_JUDGEMENT}: {error} (see_image=false judges without it)")
    address = base_url(asked.url)
    endpoint = _endpoint(address, asked.model, asked.timeout_s, asked.backoff_s, asked.budget)
    found: list[Vote] = []
    for number in range(votes):
        vote = number if votes > 1 else None
        judgement, is_sent = _judged_once(endpoint, (address, asked.model), messages, vote, asked.critique)
        try:
            found.append(judgement.result())
        except EndpointError as error:
            endpoint.spending.count("failed", cached=False)
            hint = " (a judge that reads text only needs see_image=false)" if not error.again and _has_images(messages) else ""
            failure = f"{NO_JUDGEMENT}: {error}{hint}"
        else:
            endpoint.spending.count("judged", cached=is_sent)
    if 2 * len(found) <= votes:
        return Score(None, answer, failure)
    judged = judge_texts(answer, sample, sees=asked.see_image, critique=asked.critique)[1]
    return _Heard(answer, judged, tuple(found))


def _judged_once(
    endpoint: Endpoint, judge: tuple[str, str], messages: list[dict[str, Any]], vote: int | None, critique: bool
) -> tuple[Future[Vote], bool]:
    """The judgement of a prompt, and whether it was asked for before; a failure is not kept. `judge`: address and model.
    `vote`: which of several."""
    key = (*judge, str(vote), hashlib.sha256(json.dumps(messages).encode()).hexdigest())
    with _judged_lock:
        is_sent = key in _judged
        judgement = _judged.setdefault(key, Future())
    if not is_sent:
        try:
            judgement.set_result(_ask(endpoint, judge[1], messages, vote, critique))
        except BaseException as error:
            with _judged_lock:
                del _judged[key]
            judgement.set_exception(error)
            if not isinstance(error, EndpointError):
                raise
    return judgement, is_sent


def _endpoint(address: str, model: str, timeout_s: float, backoff_s: float, budget: tuple[Any, ...]) -> Endpoint:
    """The endpoint of a judge, one for all rows of a run. Raises ValueError for limits that make no sense."""
    key = (address, model, timeout_s, backoff_s, budget)
    with _judged_lock:
        if key not in _judges:
            max_calls, max_cost, *prices = budget
            check_prices(max_calls, max_cost, *prices)
            limits = Limits(
                timeout_s=timeout_s,
                n_tries=N_TRIES,
                backoff_s=(backoff_s, 15 * backoff_s),
                n_parallel=N_PARALLEL,
                max_failed_share=0.5,
                pause_s=15 * backoff_s,
                longest_pause_s=60 * backoff_s,
                waits="batch",
                gives_up_after=DEAD_BATCHES,
            )
            place, digest = _place, hashlib.sha256(f"{address} {model}".encode()).hexdigest()[:8]
            spending = Spending(
                None if max_calls is None else share_of(max_calls, place.rank, place.n_processes),
                None if max_cost is None else max_cost / place.n_processes,
                (prices[0], prices[1]),
                None if place.folder is None else place.folder / f"{digest}-rank-{place.rank}.json",
            )
            loss = "such rows have no score of it"
            _judges[key] = Endpoint(f"judge {model}", address, "judge_url", limits, spending, loss=loss, report=place.report)
        return _judges[key]


def _ask(endpoint: Endpoint, model: str, messages: list[dict[str, Any]], vote: int | None, critique: bool) -> Vote:
    """The judge's number by up to three tries. Raises EndpointError."""
    drawn = {"temperature": 0} if vote is None else {"temperature": 1, "seed": vote}
    body = {"model": model, "messages": messages, **drawn}

    def exchange() -> Vote:
        reply = endpoint.call(body).text
        return Vote(verdict(reply, critique=critique), reply)

    return endpoint.ask(exchange)[0]


def _has_images(messages: list[dict[str, Any]]) -> bool:
    return isinstance(messages[1]["content"], list)
