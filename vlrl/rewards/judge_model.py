"""`judge:FOLDER[,option=...]`: a generative model in the process that scores completions, image included.

It is shown what a judge behind an endpoint is (`vlrl.rewards.judge_prompt`), and its votes count alike
(`vlrl.rewards.judge_votes`). The model itself is loaded by a program (`vlrl.models.judge_models`) and handed over, once, for a
whole run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from vlrl.data.masking import masked
from vlrl.data.value_head_files import has_head
from vlrl.rewards.chat_client import EndpointError
from vlrl.rewards.judge_prompt import NO_JUDGEMENT, candidate_of, judge_texts, verdict
from vlrl.rewards.judge_votes import HOW_TO_NAME, Ballot, Vote, checked_votes, meta_values, score_of_votes
from vlrl.rewards.model_reward import ShownSolution, options_given
from vlrl.schema import Reward, Sample, Score

JUDGE = "judge"
NUMBER_TOKENS, CRITIQUE_TOKENS = 32, 1024
"""How long a reply may be unless it is named."""


class JudgeQuestion(NamedTuple):
    """What a judge is asked: its instruction, the user's text, and the images before it. `vote`: the how manieth of several
    replies, each drawn at temperature 1; None: the one greedy reply."""

    instruction: str
    text: str
    images: tuple[str, ...]
    vote: int | None = None


class Reply(NamedTuple):
    """`is_whole`: it ended by itself."""

    text: str
    is_whole: bool


class JudgeModel(Protocol):
    """A judge, loaded, and the model that weighs its votes, where one is named."""

    def write(self, questions: Sequence[JudgeQuestion], max_new_tokens: int) -> list[Reply]:
        """A reply to each question, the same again for equal ones. Raises ImageError."""

    def __call__(self, folder: str, solutions: Sequence[ShownSolution]) -> list[list[float]]:
        """The meta model's values (`vlrl.rewards.model_reward.Models`)."""


def folder_judge(
    texts: Sequence[str],
    samples: Sequence[Sample],
    *,
    folder: str = "",
    see_image: bool = True,
    votes: int = 1,
    vote: Literal["mean", "majority"] = "mean",
    critique: bool = False,
    meta: str = "",
    meta_votes: int | None = None,
    meta_by: Literal["top", "weights"] = "top",
    max_new_tokens: int | None = None,
    device: str = "",
    batch_size: int = 16,
    models: JudgeModel | None = None,
) -> list[Score]:
    """The score that the model in `folder` gives each answer of a batch, in 0..1; None where its reply has no number, or is cut
    at `max_new_tokens` (default 32, with a critique 1,024).

    It sees the question, the images, the right answer and the parsed answer (not the thought), and replies greedily. An
    answer that cannot be read, or without a letter or digit, is 0 and is not shown to it. `votes=k`: k replies drawn at
    temperature 1, the score their mean or majority, None unless more than half have a number. A reply depends on its question
    and the number of its vote alone, not on the run's seed. `critique=true`: principles and a critique first; the last line
    counts. `meta=FOLDER`: a model of `--task rm` or `--task prm` reads each vote's critique, and the best half of the votes
    count (`meta_votes=` for another number; `meta_by=weights`: all, weighed by its values). Raises ValueError without
    `models`.
    Source: DeepSeek-GRM (arXiv 2504.02495), meta RM guided voting. differs: one answer at a time, and a number in 0..1.
    """
    if models is None:
        raise ValueError("its model is not loaded here; this command cannot score with judge")
    ballot = Ballot(votes, vote, meta, meta_votes, meta_by)
    found = [_asked(text, sample, see_image, critique) for text, sample in zip(texts, samples, strict=True)]
    open_ones = [one for one in found if not isinstance(one, Score)]
    numbers: list[int | None] = [None] if votes == 1 else list(range(votes))
    questions = [one.question._replace(vote=number) for one in open_ones for number in numbers]
    limit = max_new_tokens or (CRITIQUE_TOKENS if critique else NUMBER_TOKENS)
    replies = models.write(questions, limit)
    ballots = [_counted(replies[i * votes : (i + 1) * votes], critique, limit) for i in range(len(open_ones))]
    weighed: list[list[float] | None] = [None] * len(ballots)
    if meta:
        shown = [
            (one.question.images, one.judged, (vote.reply,))
            for one, (cast, _) in zip(open_ones, ballots, strict=True)
            for vote in cast
        ]
        values = iter(meta_values(meta, shown, models))
        weighed = [[next(values) for _ in cast] for cast, _ in ballots]
    scored = iter(
        Score(None, one.answer, why) if 2 * len(cast) <= votes else score_of_votes("judge", one.answer, cast, ballot, metas)
        for one, (cast, why), metas in zip(open_ones, ballots, weighed, strict=True)
    )
    return [one if isinstance(one, Score) else next(scored) for one in found]


@dataclass(frozen=True)
class _Asked:
    """An answer that the judge is asked about. `judged`: question and answer as they are shown, without what is asked of
    them."""

    answer: str
    judged: str
    question: JudgeQuestion


def _asked(text: str, sample: Sample, see_image: bool, critique: bool) -> _Asked | Score:
    answer = candidate_of(text, sample)
    if isinstance(answer, Score):
        return answer
    images = sample.images if see_image else ()
    instruction, judged, last = judge_texts(answer, sample, sees=bool(images), critique=critique)
    return _Asked(answer, judged, JudgeQuestion(instruction, f"{judged}\n{last}", images))


def _counted(replies: Sequence[Reply], critique: bool, limit: int) -> tuple[list[Vote], str]:
    """The votes that count, and why the last of the others does not."""
    votes, why = [], ""
    for reply in replies:
        try:
            if not reply.is_whole:
                raise EndpointError(f"a reply that is cut at max_new_tokens={limit}: {reply.text[-60:]!r}")
            votes.append(Vote(verdict(reply.text, critique=critique), reply.text))
        except EndpointError as error:
            why = f"{NO_JUDGEMENT}: {error}"
    return votes, why


TRIAL = Sample("trial", "qa", "How much is 2 plus 2?", "4")


def trial_problem(reward: Reward, models: JudgeModel) -> str | None:
    """Why a judge is of no use: asked once to grade a right answer, it replies with no number; None where it does."""
    given = options_given(reward)
    critique = given.get("critique", False)
    asked = _asked("<think>2 + 2 = 4</think><answer>4</answer>", TRIAL, False, critique)
    assert isinstance(asked, _Asked), "the answer of the trial can be read"
    limit = given.get("max_new_tokens") or (CRITIQUE_TOKENS if critique else NUMBER_TOKENS)
    votes, why = _counted(models.write([asked.question], limit), critique, limit)
    if votes:
        return None
    return f"reward judge: {given['folder']}, asked to grade a right answer, gave {why}; name a model that can follow this"


# ---- the option as written


def folder_words(words: str) -> str:
    """`FOLDER,name=value` as options: `folder=FOLDER,name=value`. Raises ValueError without a folder."""
    folder, _, rest = words.partition(",")
    if not folder.strip() or folder.startswith("folder="):
        raise ValueError(f"reward judge: {HOW_TO_NAME}")
    return ",".join([f"folder={folder}", *([rest] if rest else [])])


def checked_judge(reward: Reward) -> Reward:
    """The judge as it is. Raises ValueError, in one line, for a folder that holds no generative model and options that do not
    go together."""
    given = options_given(reward)
    named = given["folder"]
    folder = Path(named)
    problem = None
    if not folder.is_dir():
        problem = f"{masked(named)}: no such folder; {HOW_TO_NAME}"
    elif has_head(folder):
        problem = f"{named} is a reward model, which writes nothing; rm:{named} pays its values"
    elif not (folder / "adapter_config.json").is_file() and not _architectures(folder):
        problem = f"{named}: its config.json names no model (or is not there), so nothing can be generated with it"
    elif given.get("batch_size", 1) < 1:
        problem = f"batch_size={given['batch_size']} must be 1 or more"
    elif (given.get("max_new_tokens") or 1) < 1:
        problem = f"max_new_tokens={given['max_new_tokens']} must be 1 or more"
    if problem:
        raise ValueError(f"reward judge: {problem}")
    return checked_votes(reward)


def _architectures(folder: Path) -> bool:
    """Whether a folder's config names a model."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and bool(config.get("architectures") or config.get("model_type"))


def judge_banner(reward: Reward) -> str:
    """How a judge's votes become a score, in one line for a run's banner."""
    given = options_given(reward)
    who = given.get("folder") or given.get("judge_model", "")
    votes = given.get("votes", 1)
    parts = [f"{reward.name}: {who}", f"{votes} votes, their {given.get('vote', 'mean')}" if votes > 1 else "one greedy reply"]
    if given.get("critique"):
        parts.append("principles and a critique first")
    if given.get("meta"):
        kept = given.get("meta_votes") or max(1, votes // 2)
        how = "all weighed by its values" if given.get("meta_by") == "weights" else f"the best {kept} count"
        parts.append(f"meta model {given['meta']}: {how}")
    return "; ".join(parts)


def video_problem(sample: Sample) -> str | None:
    """Why a judge that holds a model cannot score this sample, or None."""
    held = "a judge in the process, and a meta model, see images, and this sample has a video"
    return held if sample.video is not None else None


def may_lack_scores(reward: Reward) -> bool:
    """Whether a completion that this reward applies to may have no score of it: no reply came, or none with a number."""
    return reward.name == JUDGE or "network" in reward.needs
