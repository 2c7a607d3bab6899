"""Rates the open-ended answers of AutoTrust with the model of `--judge`, several at a time; replies are kept in the run's
folder.

Not here: the judge's prompt and how its reply is read (`vlrl.bench.autotrust.open_ended`).
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from vlrl.bench.autotrust import open_ended
from vlrl.bench.autotrust.scoring import Verdict, with_rating
from vlrl.bench.chat_messages import data_urls
from vlrl.data.sample_files import is_there
from vlrl.rewards.chat_client import base_url
from vlrl.rewards.endpoint import Endpoint, Limits, asking
from vlrl.schema import Sample

REPLIES = "judge.jsonl"
LIMITS = Limits(max_failed_share=0.5, pause_s=15.0, longest_pause_s=60.0, waits="always", gives_up_after=5)


def _say(line: str) -> None:
    """On standard error as it is when something is said."""
    print(line, file=sys.stderr, flush=True)


def rate(
    verdicts: Sequence[Verdict], samples: Mapping[str, Sample], model: str, folder: Path
) -> tuple[list[Verdict], dict[str, int]]:
    """The verdicts with ratings added to those on open-ended answers, and how many have no rating: no reply, or a reply without
    two numbers. A reply that the folder holds is not requested again."""
    path = folder / REPLIES
    folder.mkdir(parents=True, exist_ok=True)
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    endpoint = Endpoint(f"judge {model}", base_url(), "judge_url", LIMITS, loss="such answers have no rating", report=_say)
    known: dict[str, str] = {row["key"]: row["reply"] for row in map(json.loads, lines)}

    def reply(verdict: Verdict) -> tuple[str, str | None]:
        question, reference = verdict.ask.question, str(verdict.ask.question.row.get("answer", ""))
        key_parts = [model, open_ended.JUDGE_PROMPT, question.image_key, question.text("question"), reference, verdict.answer]
        key = hashlib.sha256(json.dumps(key_parts).encode()).hexdigest()
        if key in known:
            return key, known[key]
        sample = samples[verdict.ask.id]
        url = next(iter(data_urls(sample)), None) if all(map(is_there, sample.images)) else None
        return key, open_ended.ask_judge(endpoint, model, question.text("question"), reference, verdict.answer, url)

    rated, counts = list(verdicts), {"n_judge_failed": 0, "n_judge_unparsed": 0}
    open_answers = [i for i, verdict in enumerate(verdicts) if open_ended.is_open(verdict.fixed)]
    with asking(len(open_answers), LIMITS.n_parallel) as batch, path.open("a", encoding="utf-8") as file:
        replies = [batch.submit(reply, verdicts[i]) for i in open_answers]
        for i, (key, text) in zip(open_answers, (one.result() for one in replies), strict=True):
            if text is None:
                counts["n_judge_failed"] += 1
                continue
            if key not in known:
                file.write(json.dumps({"key": key, "reply": text}) + "\n")
                file.flush()
            value = open_ended.rating(text)
            counts["n_judge_unparsed"] += value is None
            if value is not None:
                rated[i] = with_rating(verdicts[i], value)
    if counts["n_judge_failed"]:
        _say(f"{counts['n_judge_failed']} of {len(open_answers)} answers have no rating; the same command asks for them again")
    return rated, counts
