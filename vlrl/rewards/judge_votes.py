"""Several votes of a judge as one score, and replies that reason before they give a number.

Source: DeepSeek-GRM (arXiv 2504.02495): principles, critique, score; k samples, added up, or those that a second model, the
meta RM, finds best. Not here: who is asked (`vlrl.rewards.judge`, `vlrl.rewards.judge_model`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import pstdev
from typing import Any

from vlrl.data.masking import masked
from vlrl.data.value_head_files import STEPS, read_head
from vlrl.rewards.model_reward import Models, ShownSolution, options_given
from vlrl.schema import Reward, Score

CRITIQUE = (
    " First write the principles by which this answer is to be graded, then a critique of the answer by each of them, then, as"
    " the last line and nothing else on it, Score: and one number between 0 (wrong) and 1 (fully correct)."
)
"""Takes the place of the instruction to reply with a number alone."""
CRITIQUE_LAST = "That was the answer to grade. Write principles, then the critique, and as the last line Score: NUMBER."


@dataclass(frozen=True)
class Vote:
    """One judgement: its number, in 0..1, and the whole reply that it stands in."""

    value: float
    reply: str


@dataclass(frozen=True)
class Ballot:
    """How votes become a score, see `llm_judge`."""

    votes: int = 1
    vote: str = "mean"
    meta: str = ""
    meta_votes: int | None = None
    meta_by: str = "top"

    @property
    def n_kept(self) -> int:
        """How many votes the meta model keeps: k_meta, half of k unless it is named."""
        return max(1, self.votes // 2) if self.meta_votes is None else self.meta_votes


def voted(values: Sequence[float], how: str, weights: Sequence[float] | None = None) -> float:
    """`mean`: (w_1 v_1 + ... + w_k v_k) / (w_1 + ... + w_k); `majority`: the value that has most weight, of several the least.
    Without `weights` each vote has 1; where all are 0, too. Raises ValueError."""
    weighed = [1.0] * len(values) if weights is None or not any(weights) else list(weights)
    if how == "mean":
        return math.fsum(w * v for w, v in zip(weighed, values, strict=True)) / math.fsum(weighed)
    if how == "majority":
        totals = {
            value: math.fsum(w for w, v in zip(weighed, values, strict=True) if v == value) for value in dict.fromkeys(values)
        }
        most = max(totals.values())
        return min(value for value, total in totals.items() if total == most)
    raise ValueError(f"vote={how}: must be mean or majority")


def weights_by(metas: Sequence[float], ballot: Ballot) -> list[float]:
    """What each vote weighs by the meta model's values of them.

    `top`: 1 for the k_meta votes of the highest values, of equal ones the earlier, 0 for the others: the paper's guided voting,
    S = sum over i in top k_meta of S_i. `weights`: the value itself, in 0..1.
    """
    if ballot.meta_by == "weights":
        return list(metas)
    best = sorted(range(len(metas)), key=lambda i: (-metas[i], i))[: ballot.n_kept]
    return [float(i in best) for i in range(len(metas))]


def score_of_votes(who: str, answer: str, votes: Sequence[Vote], ballot: Ballot, metas: Sequence[float] | None = None) -> Score:
    """The score of an answer by its votes, more than half of those asked for. `metas`: the meta model's values of them."""
    values = [vote.value for vote in votes]
    weights = None if metas is None else weights_by(metas, ballot)
    value = voted(values, ballot.vote, weights)
    return Score(value, answer, f"{who} gives {value:g}{votes_words(values, ballot.votes, metas, weights)}")


def votes_words(
    values: Sequence[float],
    n_asked: int,
    metas: Sequence[float] | None = None,
    weights: Sequence[float] | None = None,
) -> str:
    """The votes and their spread (standard deviation), for people, and what the meta model makes of them; "" for a single
    one."""
    if n_asked == 1:
        return ""
    shown = " ".join(f"{value:g}" for value in values)
    guided = ""
    if metas is not None and weights is not None:
        guided = f"; meta {' '.join(f'{one:.3f}' for one in metas)}, weights {' '.join(f'{one:.3g}' for one in weights)}"
    return f" ({len(values)} of {n_asked} votes: {shown}; spread {pstdev(values):.3f}{guided})"


def meta_values(folder: str, asked: Sequence[ShownSolution], models: Models) -> list[float]:
    """What the meta model of `folder` gives replies, in 0..1. `asked`: of each reply the images, what was judged, and the
    reply as the one step. Of a model of preferences the sigmoid of its logit, as the paper trains its meta RM."""
    is_logit = read_head(Path(folder)).kind != STEPS
    values = [row[-1] for row in models(folder, asked)]
    return [1 / (1 + math.exp(-max(-700.0, one))) if is_logit else one for one in values]


def checked_votes(reward: Reward) -> Reward:
    """The judge as it is. Raises ValueError for options of votes that do not go together."""
    given = options_given(reward)
    votes = given.get("votes", 1)
    problem = None
    if votes < 1:
        problem = f"votes={votes} must be 1 or more"
    elif "vote" in given and votes == 1:
        problem = f"vote={given['vote']} is for several votes; give votes=3 or more, or drop it"
    else:
        problem = _meta_problem(given, votes)
    if problem:
        raise ValueError(f"reward {reward.name}: {problem}")
    return reward


def _meta_problem(given: Mapping[str, Any], votes: int) -> str | None:
    """Why options about the meta model do not go together, or its folder holds none; None where all is well."""
    lone = next((name for name in ("meta_votes", "meta_by") if name in given), None)
    if not given.get("meta"):
        return f"{lone}= is about the model that weighs votes; name its folder: meta=FOLDER" if lone else None
    if votes == 1:
        return "meta= chooses among several votes; give votes=4 or more, or drop it"
    if not given.get("critique"):
        return "meta= reads the critiques of the votes; add critique=true"
    kept = given.get("meta_votes")
    if kept is not None and given.get("meta_by") == "weights":
        return "meta_votes= is how many votes meta_by=top keeps, and meta_by=weights keeps all; drop one"
    if kept is not None and not 1 <= kept <= votes:
        return f"meta_votes={kept} must be between 1 and votes={votes}"
    try:
        read_head(Path(given["meta"]))
    except ValueError as error:
        return f"meta: {error}"
    return None


def last_line(reply: str) -> str:
    """The last line that says something: the number of a reply that reasons first; what stands before it is no verdict."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def asks_endpoint(words: str) -> bool:
    """Whether what follows `judge:` names a model behind an address, not a folder."""
    return re.match(r"[^,]+?@https?://", words) is not None


def judge_words(words: str) -> str:
    """`NAME@URL,option=value` as options of `llm_judge`. Raises ValueError without a name or an address."""
    judge, _, rest = words.partition(",")
    found = re.fullmatch(r"(.+?)@(https?://.+)", judge)
    if found is None:
        raise ValueError(f"reward judge:{masked(judge)}: {HOW_TO_NAME}")
    name, url = found.groups()
    return ",".join([f"judge_model={name}", f"judge_url={url}", *([rest] if rest else [])])


HOW_TO_NAME = (
    "write judge:NAME@URL[,option=value], as in judge:qwen@http://host:8000/v1,votes=4, or judge:FOLDER[,option=value] for a"
    " model in the process"
)
