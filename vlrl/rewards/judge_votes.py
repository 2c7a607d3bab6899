"""Several votes of a judge as one score, and replies that reason before they give a number.

Source: DeepSeek-GRM (arXiv 2504.02495): principles, critique, score; k samples, added up. Not here: requests
(`vlrl.rewards.judge`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from statistics import fmean, pstdev

from vlrl.data.masking import masked
from vlrl.schema import Reward

CRITIQUE = (
    " First write the principles by which this answer is to be graded, then a critique of the answer by each of them, then, as"
    " the last line and nothing else on it, Score: and one number between 0 (wrong) and 1 (fully correct)."
)
"""Takes the place of the instruction to reply with a number alone."""
CRITIQUE_LAST = "That was the answer to grade. Write principles, then the critique, and as the last line Score: NUMBER."


def voted(values: Sequence[float], how: str) -> float:
    """`mean`: (v_1 + ... + v_k) / k; `majority`: the value that most votes give, of several the least. Raises ValueError."""
    if how == "mean":
        return fmean(values)
    if how == "majority":
        counts = Counter(values)
        most = max(counts.values())
        return min(value for value, n in counts.items() if n == most)
    raise ValueError(f"vote={how}: must be mean or majority")


def votes_words(values: Sequence[float], n_asked: int) -> str:
    """The votes and their spread (standard deviation), for people; "" for a single one."""
    if n_asked == 1:
        return ""
    shown = " ".join(f"{value:g}" for value in values)
    return f" ({len(values)} of {n_asked} votes: {shown}; spread {pstdev(values):.3f})"


def checked_votes(reward: Reward) -> Reward:
    """The judge as it is. Raises ValueError for options of votes that do not go together."""
    given = reward.function.keywords if isinstance(reward.function, partial) else {}
    if given.get("votes", 1) < 1:
        raise ValueError(f"reward {reward.name}: votes={given['votes']} must be 1 or more")
    if "vote" in given and given.get("votes", 1) == 1:
        raise ValueError(f"reward {reward.name}: vote={given['vote']} is for several votes; give votes=3 or more, or drop it")
    return reward


def last_line(reply: str) -> str:
    """The last line that says something: the number of a reply that reasons first; what stands before it is no verdict."""
    lines = [line.strip() for line in reply.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def judge_words(words: str) -> str:
    """`NAME@URL,option=value` as options of `llm_judge`. Raises ValueError without a name or an address."""
    judge, _, rest = words.partition(",")
    found = re.fullmatch(r"(.+?)@(https?://.+)", judge)
    if found is None:
        example = "judge:qwen@http://host:8000/v1,votes=4"
        raise ValueError(f"reward judge:{masked(judge)}: write judge:NAME@URL[,option=value], as in {example}")
    name, url = found.groups()
    return ",".join([f"judge_model={name}", f"judge_url={url}", *([rest] if rest else [])])
