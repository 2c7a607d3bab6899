"""Fuzzed completions against every reward and every game's reader of replies: nothing raises, values stay in the stated range,
a call takes at most half a second.

    python tests/fuzz_rewards.py --n 100000 --seed 0            # prints a table of counts; exit code 1 if anything is wrong
    python tests/fuzz_rewards.py --seed 0 --start 4711 --n 1    # one completion again

A completion depends on the seed and its number alone: right answers of the tasks and answers of other forms, mutated; text of
hostile structure; and long text, up to 1 MB. A call that takes longer than the bound is timed again, as the machine may have been
busy; the lesser time counts. Not here: `llm_judge`, which asks an endpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache

from vlrl.answers.kind import GAME, answer_kinds
from vlrl.envs.cards import GAMES, read_action, thought_fields
from vlrl.envs.cards.claims import announced_formula, dealer_value, decision, direction, next_token
from vlrl.envs.cards.replies import last_object
from vlrl.envs.cards.transcripts import read_transcript
from vlrl.gtr.masks import thought_span
from vlrl.rewards import REWARDS, score_rows
from vlrl.schema import ModelView, Reward, Sample
from vlrl.tasks import KNOWN

MAX_SECONDS, MAX_CHARS = 0.5, 1_000_000
SHARE_HOSTILE, SHARE_LONG = 0.1, 0.002
DOG, CAT = {"bbox_2d": [10, 20, 110, 220], "label": "dog"}, {"bbox_2d": [200, 20, 300, 220], "label": "cat"}
OWN_SAMPLES = [
    Sample("d1", "detection", "dog, cat", [DOG, CAT], meta={"categories": ["dog", "cat"]}),
    Sample("d2", "detection", "dog", [], meta={"categories": ["dog"]}),
    Sample("d3", "detection", "狗", [{**DOG, "label": "狗"}], meta={"image_size": [640, 480]}, view=ModelView("norm1000")),
    Sample("g1", "grounding", "the dog not on a leash", {"bbox_2d": [10, 20, 110, 220]}),
    Sample("c1", "classification", "what", "great_pyrenees", choices=("great_pyrenees", "pug", "a cat")),
    Sample("p1", "planning", "plan", {"speed": "KEEP", "path": "LEFT_TURN"}, meta={"speed_mps": 4}),
    Sample("q1", "qa", "which", "B", choices=("red", "green", "blue")),
    Sample("q2", "qa", "is it", "yes"),
    Sample("q3", "qa", "how many", 42),
    Sample("q4", "qa", "how long", "2\\sqrt{3}"),
    Sample("q5", "qa", "what", ["a red bus", "bus"]),
]
ANSWERS = [
    json.dumps([DOG, CAT]), str([DOG, CAT]), json.dumps({"objects": [DOG, CAT]}), json.dumps({"dog": [10, 20, 110, 220], "cat": None}),
    "<|object_ref_start|>dog<|object_ref_end|><|box_start|>(10,20),(110,220)<|box_end|>", "<ref>dog</ref><box>[[10,20,110,220]]</box>",
    "dog: [10, 20, 110, 220]\ncat: [200, 20, 300, 220]", "(10,20),(110,220)", "10, 20, 110, 220", "[{'Position': [1, 2, 3, 4], 'Confidence': 0.9}]",
    '[{"bbox_2d"：[10，20，110，220]，"label"："dog"}]', '{"label": "dog", "xmin": 10, "ymin": 20, "xmax": 110, "ymax": 220}',
    "None", "There is no dog in the image.", "没有狗。", "[]", "{}", "B", "B. green", "The answer is B", "\\boxed{B}", "选B", "green", "yes", "No.",
    "42", "$2\\sqrt{3}$", "\\frac{1}{2}", "x=3", "1.2e3", "−3", "５", "43 or 42", "KEEP, LEFT_TURN", '{"speed": "KEEP", "path": "LEFT_TURN"}',
    "Speed: KEEP, Path: LEFT_TURN", "great pyrenees", "a red bus", '{"thoughts": "1 is below 4, so up", "current": 1, "target": 4, "action": "+"}',
]  # fmt: skip
JUNK = [
    "[", "]", "{", "}", "(", ")", "<", ">", '"', "'", "`", "```", "```json\n", "\\", "$", "\\boxed{", "\\frac{", "^", "_", ",", "，", "。", "：", ":", ";",
    "=", "-", "−", "+", "*", "/", "%", "#", "//", "|", "~", "@", "\x00", "\x1b[31m", "\r", "\n", "\t", "\u2028", "\u200b", "\u202e", "\ud800", "\udfff",
    "\u0301", "é", "狗", "无", "或", "不是", "１２", "١٢", "½", "²", "🐶", "NaN", "Infinity", "-0", "1e400", "9" * 400, "9" * 4301, "null", "true", "...",
    "None", "not ", " or ", " and ", "no dog", "yes", "no", "A", "B", "C", "bbox_2d", "label", '"bbox_2d": [1, 2, 3, 4]', "dog", "<answer>", "</answer>",
    "<think>", "</think>", "<box>", "</box>", "<ref>", "</ref>", "<|box_start|>", "<loc0123>", "KEEP", "STOP", "answer is ", "score: 1", "\\neq ", "\\sqrt{",
]  # fmt: skip
HOSTILE = [
    "{", "[", "(", "[[", '{"a":', '[{"bbox_2d":[', '["', "['", "\\", '"', "'", "`", "```json\n", "<answer>", "</answer>", "<think>", "</think>", "<ref>",
    "<|box_start|>", "<|object_ref_start|>dog", "(1,2)", "(1,2),(3,4)", "[1,2,3,4]\n", "[]", "{}", "1", "9", "1,", "1 ", "1/", "2^", "2^{", "\\frac{", "\\sqrt{",
    "\\boxed{", "$", "$1$", "+", "-", ".", ",", ";", ":", "=", "*", "_", "#", "//", " ", "\n", "\t", "\r", "\u2028", "\x00", "\x1b[31m", "\ud800", "\u0316\u0301",
    "\u200b", "１，", "。", "没有", "或", "None ", "no ", "no dog, ", "not ", "or B ", "B ", "A, ", "yes ", "KEEP, ", "the answer is ", "next ", "total ", "dealer ", "a", "a ",
    '{"action": "+"} ', '"dog": ', "label: dog\n", "x: 1\n",
]  # fmt: skip


def completion(seed: int, number: int) -> tuple[str, Sample]:
    """The fuzzed completion `number` of a seed, and the sample it answers."""
    rng = random.Random(f"{seed} {number}")
    pool = samples()
    group = rng.choice(sorted({of for of, _, _ in pool}))
    sample, reference = rng.choice([(one, text) for of, one, text in pool if of == group])
    if rng.random() < SHARE_LONG:
        unit = rng.choice([*HOSTILE, *ANSWERS, reference])
        body = (rng.choice(["", "<answer>", "[", '{"a": "']) + unit * (rng.choice([99_000, MAX_CHARS]) // len(unit)))[
            :MAX_CHARS
        ]
        return rng.choice([body, body, f"<think>t</think><answer>{body}</answer>"]), sample
    if rng.random() < SHARE_HOSTILE:
        body = "".join(rng.choice(HOSTILE) * rng.choice([1, 2, 40, 500, 3000]) for _ in range(rng.randint(1, 3)))
    else:
        body = rng.choice([reference, reference, rng.choice(pool)[2], rng.choice(ANSWERS), rng.choice(ANSWERS)])
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 6])):
            body = mutated(body, rng)
    return wrapped(body, rng), sample


def mutated(text: str, rng: random.Random) -> str:
    """The text with one change: something cut, doubled, inserted, renumbered, put beside another answer, or in full width."""
    at = rng.randint(0, len(text))
    end = min(len(text), at + rng.choice([1, 2, 5, 20]))
    other = rng.choice(ANSWERS)
    return rng.choice(
        [
            text[:at] + text[end:],
            text[:at],
            text[at:],
            text[:end] + text[at:],
            text[:at] + rng.choice(JUNK) + text[at:],
            text[:at] + rng.choice(JUNK) + text[end:],
            text[:at] + rng.choice(JUNK) * rng.choice([2, 40]) + text[at:],
            text.translate({code: code + 0xFEE0 for code in range(0x21, 0x7F) if rng.random() < 0.3}),
            "".join(rng.choice("0123456789.-") if c.isdigit() and rng.random() < 0.3 else c for c in text),
            text + rng.choice([" ", "\n", ", ", " or ", " and ", "; not "]) + other,
            rng.choice(["not ", "None\n", "Answer: ", "I think ", "不是"]) + text,
            f"```{rng.choice(['json', 'python', '', 'x'])}\n{text}\n```",
            rng.choice(["[{}]", "{{{}}}", "\\boxed{{{}}}", "${}$", '{{"answer": {}}}', '"{}"', "({})", "**{}**"]).format(text),
            text.upper(),
            text.replace('"', "'"),
            json.dumps(text),
        ]
    )


def wrapped(body: str, rng: random.Random) -> str:
    """A body in the layouts that models write, some of them broken."""
    return rng.choice(
        [
            body,
            f"<think>t</think><answer>{body}</answer>",
            f"<think>t</think><answer>{body}</answer>",
            f"<think>t</think>\n<answer>\n{body}\n</answer>\n",
            f"<think>t</think><answer>{body}",
            f"<answer>{body}</answer>",
            f"<answer>{body}</answer><think>t</think>",
            f"<think>{body}</think><answer>{body}</answer>",
            f"<answer>{body}</answer><answer>{body}</answer>",
            f"{body}</think><answer>{body}</answer>",
        ]
    )


@cache
def samples() -> list[tuple[str, Sample, str]]:
    """Samples with a right answer each, under the name of their kind: those of every task (games are one kind), and own ones."""
    drawn = [(task, task.draw(0, "fuzz", i)) for task in KNOWN.values() for i in range(4)]
    found = [
        ("game" if GAME in answer_kinds(sample) else sample.task, sample, task.reference(sample)) for task, sample in drawn
    ]
    return found + [(sample.task, sample, ANSWERS[0]) for sample in OWN_SAMPLES]


def readers() -> dict[str, Callable[[str], object]]:
    """What reads a game's replies and thoughts besides the rewards, by name."""
    found: dict[str, Callable[[str], object]] = {}
    for name, game in GAMES.items():
        found[f"read_action, {name}"] = lambda text, game=game: [  # type: ignore[misc]
            read_action(text, game, parser=parser, layout=layout)
            for parser in ("strict", "compat")
            for layout in ("json", "tags")
        ]
        found[f"thought_fields, {name}"] = lambda text, game=game: thought_fields(text, game)  # type: ignore[misc]
    found["read_transcript"] = read_transcript
    found["thought_span"] = lambda text: (last_object(text), thought_span(text, "json"), thought_span(text, "tags"))
    found["claims of a thought"] = lambda text: (
        announced_formula(text[:20_000], 4), next_token(text[:20_000]), direction(text[:20_000]), decision(text[:20_000]), dealer_value(text[:20_000]),
    )  # fmt: skip
    return found


@dataclass
class Count:
    """What came of the calls of one reward or reader."""

    calls: int = 0
    raised: int = 0
    out_of_range: int = 0
    too_slow: int = 0
    slowest_s: float = 0.0
    slowest: int = -1
    where: list[str] = field(default_factory=list)


def timed(call: Callable[[], object]) -> tuple[object, float]:
    """What a call returns, and its seconds; the lesser of two where the first took too long."""
    started = time.perf_counter()
    value = call()
    seconds = time.perf_counter() - started
    if seconds > MAX_SECONDS:
        started = time.perf_counter()
        call()
        seconds = min(seconds, time.perf_counter() - started)
    return value, seconds


def calls_of(text: str, sample: Sample) -> Iterator[tuple[str, Reward | None, Callable[[], object]]]:
    """Every reward that applies to the sample, and for a game's sample the readers of replies."""
    for name, reward in REWARDS.items():
        if reward.needs & {"network", "model"} or (reward.answers and not reward.answers & answer_kinds(sample)):
            continue
        n = 2 if "group" in reward.needs else 1
        yield name, reward, lambda reward=reward, n=n: score_rows(reward, [text] * n, [sample] * n, 7, [40] * n, [0.5] * n)  # type: ignore[misc]
    if GAME in answer_kinds(sample):
        for name, reader in readers().items():
            yield name, None, lambda reader=reader: reader(text)  # type: ignore[misc]


def fuzz(n: int, seed: int, start: int = 0, progress: bool = False) -> dict[str, Count]:
    """Counts by reward and reader over the completions `start` to `start + n - 1` of a seed."""
    counts: dict[str, Count] = {}
    for number in range(start, start + n):
        text, sample = completion(seed, number)
        for name, reward, call in calls_of(text, sample):
            count = counts.setdefault(name, Count())
            count.calls += 1
            try:
                scores, seconds = timed(call)
            except Exception as error:  # noqa: BLE001 - any exception is what is looked for
                count.raised += 1
                count.where.append(f"{number} ({sample.id}): {type(error).__name__}: {error}"[:300])
                continue
            if seconds > count.slowest_s:
                count.slowest_s, count.slowest = seconds, number
            if seconds > MAX_SECONDS:
                count.too_slow += 1
                count.where.append(f"{number} ({sample.id}): {seconds:.2f} s")
            if reward is not None and not all(s.value is None or reward.low <= s.value <= reward.high for s in scores):  # type: ignore[attr-defined]
                count.out_of_range += 1
                count.where.append(f"{number} ({sample.id}): {scores}"[:300])
        if progress and (number - start + 1) % 5000 == 0:
            print(f"{number - start + 1} completions", file=sys.stderr, flush=True)
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0)
    args = parser.parse_args()
    started = time.perf_counter()
    counts = fuzz(args.n, args.seed, args.start, progress=True)
    print(f"{args.n} completions (seed {args.seed}, from {args.start}) in {time.perf_counter() - started:.0f} s")
    print(f"{'reward or reader':28} {'calls':>9} {'raised':>7} {'out of range':>13} {'over 0.5 s':>11} {'slowest':>9}")
    for name, one in sorted(counts.items()):
        row = f"{one.calls:9,} {one.raised:7} {one.out_of_range:13} {one.too_slow:11} {one.slowest_s:7.3f} s"
        print(f"{name:28} {row}  (completion {one.slowest})")
    total = [sum(getattr(one, key) for one in counts.values()) for key in ("calls", "raised", "out_of_range", "too_slow")]
    print(f"{'all':28} {total[0]:9,} {total[1]:7} {total[2]:13} {total[3]:11}")
    for name, one in counts.items():
        for where in one.where[:5]:
            print(f"{name}: completion {where.encode('ascii', 'backslashreplace').decode()}")
    return int(any(total[1:]))


if __name__ == "__main__":
    sys.exit(main())
