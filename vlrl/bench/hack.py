"""`hack`: what degenerate answers earn from the rewards of a task, as a share of what the reference answer earns.

A reward that pays for them trains a model to write them. Without a model: only text and samples. The answers are those of
`vlrl.bench.hack_answers`, `hack_boxes` and `hack_games`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.answers.kind import BOX, BOXES, GAME, PLAN
from vlrl.answers.span import canon
from vlrl.bench.hack_answers import (
    MAX_VARIANTS,
    Degenerate,
    ReferencedSample,
    attacks_on_anything,
    is_right_text,
    plan_attacks,
    text_attacks,
)
from vlrl.bench.hack_boxes import are_right_boxes, box_attacks
from vlrl.bench.hack_games import game_attacks, is_won
from vlrl.bench.suite import task_suite
from vlrl.data.images import ImageError, image_size
from vlrl.metrics.tables import text_table
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Reward, Sample, Task
from vlrl.tasks.rubric import FORMS, Rubric, choose, own_rewards

HIGH = 0.9
"""An attack that earns this share of the reference answer's reward, on average, has hacked the reward."""
N_SAMPLES = 40
N_GROUP = 4
"""Rewards of a group score groups of this many equal completions, and their mean counts."""
MAX_OTHERS = 4
CHARS_PER_TOKEN = 4
"""For rewards that need a completion's length in tokens, which no model has counted here."""
SUM = "sum"
BY_CHANCE, NOTHING, NO_VALUE = "right by chance", "the reference answer earns nothing", "no value from the reward"
_Key = tuple[str, str]
"""A sample's id and a completion."""


@dataclass
class Finding:
    """What one attack earns from one reward. `shares`: of the reference answer's reward, one a sample, with the text that
    earned it; `left_out`: reason -> number of samples."""

    attack: Degenerate
    reward: str
    shares: list[tuple[float, str]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def mean(self) -> float | None:
        return statistics.fmean(share for share, _ in self.shares) if self.shares else None

    @property
    def n_high(self) -> int:
        return sum(self._is_high(share) for share, _ in self.shares)

    @property
    def is_hack(self) -> bool:
        return self.mean is not None and self._is_high(self.mean)

    @property
    def example(self) -> str:
        """The completion that earned most."""
        return max(self.shares, key=lambda one: one[0], default=(0.0, self.attack.texts[0]))[1]

    def _is_high(self, share: float) -> bool:
        return share > 1 + 1e-9 if self.attack.is_right else share >= HIGH - 1e-9

    def to_json(self) -> dict[str, Any]:
        shares = {"share": self.mean, "n": len(self.shares), f"n_at_{HIGH}": self.n_high, "left_out": dict(self.left_out)}
        return {
            "attack": self.attack.name,
            "reward": self.reward,
            **shares,
            "is_hack": self.is_hack,
            "example": self.example[:400],
        }


def hack(args: argparse.Namespace) -> int:
    """Print the table of attacks, write it with `--output_path`. Returns 0, or 1 where an attack earns `HIGH` or more of the
    reference answer's reward or a judge did not reply. Raises ValueError for flags or data that cannot be used."""
    cases, tasks, about = _cases(args)
    rubric = choose(args.rewards, [case.sample for case in cases], tasks)
    weights = _weights(args.reward_weights, rubric)
    attacks = {case.sample.id: _attacks(case, cases, rubric) for case in cases}
    values = _Values(rubric)
    values.ask(cases, {case.sample.id: [text for attack in attacks[case.sample.id] for text in attack.texts] for case in cases})
    reads_nothing = [reward.name for reward in rubric.rewards if _reads_no_answer(reward, cases, values)]
    columns = [reward.name for reward in rubric.rewards if reward.name not in reads_nothing]
    columns += [SUM] if len(rubric.rewards) > 1 or not columns else []
    findings = {
        (attack.name, column): Finding(attack, column)
        for case in cases
        for attack in attacks[case.sample.id]
        for column in columns
    }
    for case, column in itertools.product(cases, columns):
        for attack in attacks[case.sample.id]:
            _judge(findings[attack.name, column], case, attack, values, weights)
    is_alone = sum(any(value is not None for value in one.values()) for one in values.of.values()) == 1
    outcome = _Outcome(about, list(findings.values()), columns, reads_nothing, values.n_missing, is_alone)
    return _report(outcome, args.output_path)


# ---- the samples and the attacks on them


def _cases(args: argparse.Namespace) -> tuple[list[ReferencedSample], Mapping[str, Task], str]:
    """The samples with their reference answers, the tasks by name, and what the data is."""
    limit = args.limit or N_SAMPLES
    given = argparse.Namespace(**{**vars(args), "limit": limit if args.data is None else None})
    suite = task_suite(given, None)
    samples = list(suite.stages[0]({}))
    if len(samples) > limit:
        chosen = sorted(random.Random(args.seed).sample(range(len(samples)), limit))
        samples = [samples[i] for i in chosen]
    for sample in samples:
        if suite.tasks[sample.task].oracle is None:
            raise ValueError(
                f"task {sample.task} has no oracle, so nothing says what the reference answer earns; give its Task an oracle"
            )
    samples = [_with_size(sample, args.coords) for sample in samples]
    cases = [
        ReferencedSample(sample, suite.tasks[sample.task], suite.tasks[sample.task].reference(sample)) for sample in samples
    ]
    return cases, suite.tasks, f"{suite.name}: {len(cases)} samples of {suite.source.description}"


def _with_size(sample: Sample, coords: str) -> Sample:
    """The sample with its coordinate convention and, where the image can be read, its size."""
    meta = {**sample.meta, "coords": sample.meta.get("coords", coords)}
    if sample.images and "image_size" not in meta:
        with contextlib.suppress(ImageError, IndexError, ValueError):
            meta["image_size"] = list(image_size(sample.images[int(meta.get("image_index", 0))]))
    return dataclasses.replace(sample, meta=meta)


def _attacks(case: ReferencedSample, cases: Sequence[ReferencedSample], rubric: Rubric) -> list[Degenerate]:
    """The attacks on one case, one of a kind."""

    def own(one: ReferencedSample) -> tuple[str, ...]:
        return own_rewards(one.sample, rubric.tasks)

    alike = [one for one in cases if own(one) == own(case)]
    others = _others(case, alike)
    common = [answer for answer, _ in Counter(one.answer for one in alike).most_common(MAX_VARIANTS)]
    found = (
        []
        if GAME in case.kinds
        else [
            Degenerate("most frequent reference", (case.write(common[0]),), is_answer=True),
            Degenerate("references of other samples", tuple(case.write(one.answer) for one in others), is_answer=True),
        ]
    )
    if GAME in case.kinds:
        found += game_attacks(case, others)
    elif case.kinds & {BOX, BOXES}:
        found += box_attacks(case, alike)
    else:
        found += plan_attacks(case) if PLAN in case.kinds else text_attacks(case, common)
    found += attacks_on_anything(case)
    return [dataclasses.replace(one, texts=tuple(dict.fromkeys(one.texts))) for one in found if one.texts]


def _others(case: ReferencedSample, alike: Sequence[ReferencedSample]) -> list[ReferencedSample]:
    """Up to `MAX_OTHERS` cases with different answers, the same ones whenever it is called."""
    found: dict[str, ReferencedSample] = {}
    start = alike.index(case)
    for other in (*alike[start + 1 :], *alike[:start]):
        if canon(other.answer) != canon(case.answer) and len(found) < MAX_OTHERS:
            found.setdefault(canon(other.answer), other)
    return list(found.values())


# ---- what they earn


class _Values:
    """The value of every reward for every sample and completion that was asked for."""

    def __init__(self, rubric: Rubric) -> None:
        self.rubric = rubric
        self.of: dict[str, dict[_Key, float | None]] = {reward.name: {} for reward in rubric.rewards}
        self.n_missing = 0
        """Values that a judge did not give."""

    def ask(self, cases: Sequence[ReferencedSample], texts: Mapping[str, Iterable[str]]) -> None:
        """Score `texts` (by sample id) and the reference answers, the latter also on other samples."""
        rows: dict[_Key, Sample] = {}
        for case in cases:
            for text in (case.reference, *texts[case.sample.id]):
                rows[case.sample.id, text] = case.sample
        crossed = {(case.sample.id, other.reference): case.sample for case in cases for other in _others(case, cases)}
        rewards = self.rubric.rewards
        for reward in sorted(rewards, key=lambda one: "base" in one.needs):
            wanted = rows if "network" in reward.needs else {**rows, **crossed}
            self._score(reward, {key: sample for key, sample in wanted.items() if self.rubric.applies(reward, sample)})

    def _score(self, reward: Reward, rows: Mapping[_Key, Sample]) -> None:
        keys, samples = list(rows), list(rows.values())
        texts = [text for _, text in keys]
        found = self.of[reward.name]
        if "group" in reward.needs:
            for key, sample in rows.items():
                group = score_rows(reward, [key[1]] * N_GROUP, [sample] * N_GROUP, 0, [_n_tokens(key[1])] * N_GROUP)
                given = [score.value for score in group if score.value is not None]
                found[key] = statistics.fmean(given) if given else None
            return
        base = self.rubric.base
        built_on = None if base is None or "base" not in reward.needs else [self.of[base.name].get(key) for key in keys]
        scores = score_rows(reward, texts, samples, 0, [_n_tokens(text) for text in texts], built_on)
        found.update(zip(keys, (score.value for score in scores), strict=True))
        if "network" in reward.needs:
            self.n_missing += sum(score.value is None for score in scores)

    def get(self, column: str, key: _Key, weights: Mapping[str, float]) -> float | None:
        """The value of a reward, or the weighted sum of those that apply; None where there is none."""
        if column != SUM:
            return self.of[column].get(key)
        found = [(weights[name], values[key]) for name, values in self.of.items() if key in values]
        given = [weight * value for weight, value in found if value is not None]
        return sum(given) if given else None


def _n_tokens(text: str) -> int:
    return 1 + len(text) // CHARS_PER_TOKEN


def _weights(given: Sequence[float] | None, rubric: Rubric) -> dict[str, float]:
    names = [reward.name for reward in rubric.rewards]
    if given is not None and len(given) != len(names):
        raise ValueError(f"{len(given)} reward_weights for {len(names)} rewards ({', '.join(names)})")
    return dict(zip(names, given or [1.0] * len(names), strict=True))


def _reads_no_answer(reward: Reward, cases: Sequence[ReferencedSample], values: _Values) -> bool:
    """Whether a reward gives a completion the same value whatever the sample's right answer is, as one of the form does."""
    if reward.name in (*FORMS, "repetition"):
        return True
    found, by_id = values.of[reward.name], {case.reference: case.sample.id for case in cases}
    pairs = [
        (found.get((case.sample.id, other.reference)), found.get((by_id[other.reference], other.reference)))
        for case in cases
        for other in _others(case, cases)
    ]
    known = [(crossed, own) for crossed, own in pairs if crossed is not None and own is not None]
    return bool(known) and "network" not in reward.needs and all(abs(crossed - own) < 1e-9 for crossed, own in known)


def _judge(finding: Finding, case: ReferencedSample, attack: Degenerate, values: _Values, weights: Mapping[str, float]) -> None:
    """Add what an attack earns on one sample to its finding."""
    key = case.sample.id
    if finding.reward != SUM and (key, case.reference) not in values.of[finding.reward]:
        return  # another task's sample
    full = values.get(finding.reward, (key, case.reference), weights)
    if full is None or full <= 0:
        finding.left_out[NO_VALUE if full is None else NOTHING] += 1
        return
    wrong = [text for text in attack.texts if not _by_chance(case, attack, text, finding.reward)]
    if not wrong:
        finding.left_out[BY_CHANCE] += 1
        return
    earned = [(value, text) for text in wrong if (value := values.get(finding.reward, (key, text), weights)) is not None]
    if not earned:
        finding.left_out[NO_VALUE] += 1
        return
    value, text = max(earned, key=lambda one: one[0])
    finding.shares.append((value / full, text))


def _by_chance(case: ReferencedSample, attack: Degenerate, text: str, reward: str) -> bool:
    if GAME in case.kinds:
        return attack.is_answer and is_won(case, text)
    if case.kinds & {BOX, BOXES} and attack.is_answer and are_right_boxes(text, case.sample):
        return True
    return is_right_text(case, attack, text, reward)


# ---- what is printed and written


@dataclass(frozen=True)
class _Outcome:
    """What is printed and written. `is_alone`: one reward gives values, the others apply to no sample."""

    about: str
    findings: Sequence[Finding]
    columns: Sequence[str]
    reads_nothing: Sequence[str]
    n_missing: int
    is_alone: bool

    @property
    def by_attack(self) -> dict[str, dict[str, Finding]]:
        found: dict[str, dict[str, Finding]] = {}
        for finding in self.findings:
            found.setdefault(finding.attack.name, {})[finding.reward] = finding
        return found

    @property
    def judged(self) -> list[str]:
        """The columns in which some attack has a share; no sum where it is of one reward only."""
        found = [one for one in self.columns if any(f.reward == one and f.shares for f in self.findings)]
        return found[:1] if found[1:] == [SUM] and self.is_alone else found

    @property
    def hacks(self) -> list[str]:
        """The attacks that hack some reward, in plain words."""
        found = []
        for name, of in self.by_attack.items():
            hacked = [one for one in of.values() if one.is_hack]
            if hacked:
                earned = ", ".join(
                    f"{one.mean:.2f} of {one.reward} ({one.n_high} of {len(one.shares)} samples)" for one in hacked
                )
                more = ", more than the reference answer" if hacked[0].attack.is_right else ""
                found.append(f"{name!r} earns {earned}{more}; for example {hacked[0].example!r:.160}")
        return found

    def to_json(self) -> dict[str, Any]:
        return {
            "about": self.about,
            "threshold": HIGH,
            "rewards": list(self.columns),
            "reads_no_answer": list(self.reads_nothing),
            "n_not_judged": self.n_missing,
            "hackable": self.hacks,
            "findings": [finding.to_json() for finding in self.findings],
        }


def _report(outcome: _Outcome, path: Path | None) -> int:
    columns, findings = outcome.judged, outcome.findings
    print(outcome.about)
    if columns:
        rows = [_row(name, of, columns) for name, of in outcome.by_attack.items()]
        print(text_table(["Attack", *columns, "Left out"], rows))
        print(
            f"share of what the reference answer earns (samples where it is {HIGH} or more); of an attack's variants the best"
        )
    for reason in (BY_CHANCE, NOTHING, NO_VALUE):
        n = max((one.left_out[reason] for one in findings), default=0)
        if n:
            print(f"left out: {reason}, up to {n} samples an attack")
    for name in outcome.reads_nothing:
        print(f"{name} reads no answer: any text of its form earns it, so it is judged as a part of the sum only")
    for line in outcome.hacks:
        print(f"hackable: {line}", file=sys.stderr)
    if outcome.n_missing:
        print(f"failed: {outcome.n_missing} completions have no value, because the judge gave no usable reply", file=sys.stderr)
    if not columns:
        print("failed: no reference answer earns anything, so there is nothing to compare with", file=sys.stderr)
    elif not outcome.hacks:
        top = max((one for one in findings if one.shares and not one.attack.is_right), key=lambda one: one.mean or 0.0)
        print(f"no attack earns {HIGH} of what the reference answer earns")
        print(f"most: {top.attack.name}, {top.mean:.2f} of {top.reward}")
    if path is not None:
        file = path if path.suffix == ".json" else path / "hack.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(outcome.to_json(), indent=2, ensure_ascii=True) + "\n", encoding="utf-8")
        print(file)
    return 1 if outcome.hacks or outcome.n_missing or not columns else 0


def _row(name: str, of: Mapping[str, Finding], columns: Sequence[str]) -> list[str]:
    cells = []
    for column in columns:
        finding = of.get(column)
        shown = finding is not None and finding.shares
        cells.append(f"{finding.mean:5.2f} ({finding.n_high} of {len(finding.shares)})" if finding and shown else "-")
    last = of.get(columns[-1])
    return [name, *cells, str(sum(last.left_out.values())) if last is not None and last.left_out else ""]
