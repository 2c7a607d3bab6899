"""`hack`: what degenerate answers earn from the rewards of a task, as a share of what the reference answer earns.

A reward that pays for them trains a model to write them. Without a model: only text and samples. The answers are those of
`vlrl.bench.hack_answers`, `hack_boxes` and `hack_games`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from vlrl.answers.kind import BOX, BOXES, GAME, PLAN
from vlrl.answers.span import canon
from vlrl.bench.hack_answers import (
    MAX_VARIANTS,
    NO_NUMBER,
    Degenerate,
    ReferencedSample,
    attacks_on_anything,
    is_right_text,
    plan_attacks,
    text_attacks,
)
from vlrl.bench.hack_boxes import are_right_boxes, box_attacks
from vlrl.bench.hack_games import game_attacks, is_won
from vlrl.bench.hack_report import BY_CHANCE, NO_VALUE, NOTHING, SUM, Finding, HackReport, report
from vlrl.bench.held_models import with_models_here
from vlrl.bench.suite import task_suite
from vlrl.data.images import ImageError, image_size
from vlrl.data.subsets import drawn
from vlrl.rewards.scoring import score_rows
from vlrl.schema import Reward, Sample, Task, TaskError
from vlrl.tasks.rubric import FORMS, Rubric, choose, own_rewards, try_once

N_SAMPLES = 40
N_GROUP = 4
"""Rewards of a group score groups of this many equal completions, and their mean counts."""
MAX_OTHERS = 4
CHARS_PER_TOKEN = 4
"""For rewards that need a completion's length in tokens, which no model has counted here."""
_Key = tuple[str, str]
"""A sample's id and a completion."""


def hack(args: argparse.Namespace) -> int:
    """Print the table of attacks, write it with `--output_path`. Returns 0, or 1 where an attack earns 0.9 or more of the
    reference answer's reward or a judge did not reply. Raises ValueError for flags or data that cannot be used."""
    samples, tasks, about = _samples(args)
    rubric = choose(args.rewards, samples, tasks)
    weights = _weights(args.reward_weights, rubric)
    try_once(rubric, samples)
    rubric = dataclasses.replace(rubric, rewards=with_models_here(rubric.rewards))
    cases = [ReferencedSample(sample, tasks[sample.task], tasks[sample.task].reference(sample)) for sample in samples]
    attacks = {case.sample.id: _attacks(case, cases, rubric) for case in cases}
    values = _Values(rubric)
    texts = {case.sample.id: [text for attack in attacks[case.sample.id] for text in attack.texts] for case in cases}
    values.unreal = {
        (id, text) for id, of in attacks.items() for attack in of if attack.name in NO_NUMBER for text in attack.texts
    }
    values.ask(cases, texts)
    reads_nothing = [reward.name for reward in rubric.rewards if _reads_no_answer(reward, cases, values)]
    columns = [reward.name for reward in rubric.rewards if reward.name not in reads_nothing]
    columns += [SUM] if len(rubric.rewards) > 1 else [] if columns else reads_nothing
    parts = sorted({case.part for case in cases})
    findings = {
        (attack.name, column, part): Finding(attack, column, part)
        for part in ("", *(parts if len(parts) > 1 else ()))
        for case in cases
        if part in ("", case.part)
        for attack in attacks[case.sample.id]
        for column in columns
    }
    for case, column in itertools.product(cases, columns):
        full, floor = _range(case, column, attacks[case.sample.id], values, weights)
        for attack in attacks[case.sample.id]:
            of = [findings[attack.name, column, part] for part in ("", case.part) if (attack.name, column, part) in findings]
            _judge(of, case, attack, values, weights, full, floor)
    is_alone = sum(any(value is not None for value in one.values()) for one in values.of.values()) == 1
    outcome = HackReport(about, list(findings.values()), columns, reads_nothing, values.missing, is_alone, values.failed)
    return report(outcome, args.output_path)


# ---- the samples and the attacks on them


def _samples(args: argparse.Namespace) -> tuple[list[Sample], Mapping[str, Task], str]:
    """The samples, the tasks by name, and what the data is. Raises ValueError for a task without reference answers."""
    limit = args.limit or N_SAMPLES
    given = argparse.Namespace(**{**vars(args), "limit": limit if args.data is None else None})
    suite = task_suite(given, None)
    samples = list(suite.stages[0]({}))
    if len(samples) > limit:
        samples = drawn(samples, limit, args.seed)
    lacking = next((sample.task for sample in samples if suite.tasks[sample.task].oracle is None), None)
    if lacking is not None:
        raise ValueError(f"task {lacking} has no oracle, so nothing says what a right answer earns; give its Task an oracle")
    about = f"{suite.name}: {len(samples)} samples of {suite.source.description}"
    return [_with_size(sample, args.coords) for sample in samples], suite.tasks, about


def _with_size(sample: Sample, coords: str) -> Sample:
    """The sample with its coordinate convention and, where the image can be read, its size."""
    meta = {**sample.meta}
    if sample.images and "image_size" not in meta:
        with contextlib.suppress(ImageError, IndexError, ValueError):
            meta["image_size"] = list(image_size(sample.images[int(meta.get("image_index", 0))]))
    return dataclasses.replace(sample, meta=meta, view=dataclasses.replace(sample.view, coords=sample.view.coords or coords))


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
        self.missing: list[str] = []
        """Why a judge gave no value, once for each completion that it did not judge."""
        self.unreal: set[_Key] = set()
        """Completions with nan or an infinite number, which make some rewards of users fail."""
        self.failed: dict[str, str] = {}
        """Reward -> how it failed on one of those."""

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
            wanted = {key: sample for key, sample in wanted.items() if self.rubric.applies(reward, sample)}
            try:
                self._score(reward, wanted)
            except TaskError as error:
                self._score(reward, {key: sample for key, sample in wanted.items() if key not in self.unreal})
                self.failed[reward.name] = str(error)  # else it failed again, and that is raised

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
        if "network" in reward.needs:
            print(f"{reward.name}: {len(texts)} completions to judge", flush=True)
        scores = score_rows(reward, texts, samples, 0, [_n_tokens(text) for text in texts], built_on)
        found.update(zip(keys, (score.value for score in scores), strict=True))
        if "network" in reward.needs:
            self.missing += [score.why for score in scores if score.value is None]

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
    pays = any(own != 0 for _, own in known)
    return pays and "network" not in reward.needs and all(abs(crossed - own) < 1e-9 for crossed, own in known)


def _range(
    case: ReferencedSample, column: str, attacks: Sequence[Degenerate], values: _Values, weights: Mapping[str, float]
) -> tuple[float | None, float]:
    """What the reference answer of a sample earns, and what counts as nothing: 0, or where degenerate answers usually earn less
    than 0, or the reference answer earns no more, what they usually earn (the median, else the lowest value).

    So a reward of 0 for right and -1 for wrong answers is judged as one of 1 and 0.
    """
    full = values.get(column, (case.sample.id, case.reference), weights)
    texts = dict.fromkeys(text for attack in attacks if not attack.is_right for text in attack.texts)
    found = [value for text in texts if (value := values.get(column, (case.sample.id, text), weights)) is not None]
    if full is None or not found:
        return full, 0.0
    usual = statistics.median_low(found)
    if full > 0 and usual >= 0:
        return full, 0.0
    return full, usual if usual < full else min(found)


def _judge(
    findings: Sequence[Finding],
    case: ReferencedSample,
    attack: Degenerate,
    values: _Values,
    weights: Mapping[str, float],
    full: float | None,
    floor: float,
) -> None:
    """Add what an attack earns on one sample to its findings, between what counts as nothing and the reference's value."""
    key, reward = case.sample.id, findings[0].reward
    if reward != SUM and (key, case.reference) not in values.of[reward]:
        return  # another task's sample
    wrong = [text for text in attack.texts if not _by_chance(case, attack, text, reward)]
    earned = [(value, text) for text in wrong if (value := values.get(reward, (key, text), weights)) is not None]
    for finding in findings:
        if full is None or full - floor <= 1e-9:
            finding.left_out[NO_VALUE if full is None else NOTHING] += 1
        elif not wrong:
            finding.left_out[BY_CHANCE] += 1
        elif not earned:
            finding.left_out[NO_VALUE] += 1
        else:
            value, text = max(earned, key=lambda one: one[0])
            finding.shares.append(((value - floor) / (full - floor), text))


def _by_chance(case: ReferencedSample, attack: Degenerate, text: str, reward: str) -> bool:
    if GAME in case.kinds:
        return attack.is_answer and is_won(case, text)
    if case.kinds & {BOX, BOXES} and attack.is_answer and are_right_boxes(text, case.sample):
        return True
    return is_right_text(case, attack, text, reward)
