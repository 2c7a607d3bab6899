"""A reward of your own: short answers. Any function of a completion's text and its sample will do.

vlrl train --task detection --rewards iou_f1 examples/own_reward.py:short_answer
vlrl bench grade --reward examples/own_reward.py:short_answer --cases examples/own_reward.jsonl --out scores.jsonl
"""

from vlrl.answers.read import read_span
from vlrl.schema import Sample, Score


def short_answer(text: str, sample: Sample, *, longest: int = 120) -> Score:
    """1 for an answer of at most `longest` characters, falling to 0 at twice as many; 0 where no answer can be read.

    A plain number (or a bool) would do; a Score also holds the answer and a reason, which are logged with each completion.
    Set the option with `short_answer:longest=60`.
    """
    answer = read_span(text, sample).text
    if not answer:
        return Score(0.0, None, "no answer")
    value = min(1.0, max(0.0, 2 - len(answer) / longest))
    return Score(value, answer, f"{len(answer)} characters, {longest} are free")
