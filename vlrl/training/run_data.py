"""The samples of a run: read and checked before a model is loaded, prepared for it afterwards; and the rewards they get.

Not here: one sample's own checks (`vlrl.models.inputs`), and what reward scores which sample (`vlrl.tasks.rubric`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState

from vlrl.data.image_checks import boxes_in_shares, decode_problem, drawn_to_decode
from vlrl.data.image_notes import form_notes, refuse_unreadable_formats
from vlrl.data.overlap import shared_ids
from vlrl.data.sample_files import missing_in
from vlrl.data.sample_sets import SampleSet, read_set
from vlrl.data.special_tokens import KEY
from vlrl.data.synthetic import item_rng
from vlrl.envs.cards.transcripts import read_transcript
from vlrl.models.inputs import Samples, check_samples, measured, messages, n_shown, prepare_sample
from vlrl.models.load import LoadedModel, ModelInputs
from vlrl.models.names import EMBEDDED, TINY_NAMES
from vlrl.models.prompt_lengths import PromptLengths, TokenCounts
from vlrl.models.videos import video_notes
from vlrl.schema import Sample, SampleError, Task
from vlrl.tasks.rubric import Rubric, answer_problem_of, try_once, with_planned_steps
from vlrl.tasks.rubric import choose as rubric_for
from vlrl.training.config import Config
from vlrl.training.events import Event
from vlrl.training.first_process import check_alike, of_first_process
from vlrl.training.flight_recorder import data_events
from vlrl.training.held_out import hold_out, overlap_words, wanted_of
from vlrl.training.large_sets import checked_when_used, some_of
from vlrl.training.options import ConfigError
from vlrl.training.prompt_limits import prompt_limit

N_SYNTHETIC_TRAIN = 20_000
N_SYNTHETIC_HELD_OUT = 400
HELD_OUT_SEED = 0
"""Runs of every seed are measured on the same part of `--eval_data`."""
N_SYNTHETIC_KNOWN = 500
"""How many samples of an endless synthetic set are looked at before training, for each task."""
N_MEASURED = 16
"""How many of those have their prompts measured: all are drawn alike."""


@dataclass(frozen=True)
class RunData:
    """Samples as read (`read_data`), or as a model needs them (`prepare_data`)."""

    train: Samples
    held_out: list[Sample]
    description: str
    episodes: bool = False
    """Whether the samples are episodes, to be played."""
    length: str = ""
    """How long reference answers and completions are, in words (`fit_length`)."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the files were read."""
    shared: tuple[str, ...] = ()
    """The ids of all rows of `--eval_data` that show a picture of any row of `--data`."""
    large: SampleSet | None = None
    """The training rows of a set that is too large to be looked at as a whole."""
    drawn: tuple[Sample, ...] = ()
    """Those of `large` that are looked at before training; the others are checked when they are used."""

    def known(self, config: Config) -> list[Sample]:
        """The training samples that are looked at before training: all of a file, some of a large set, the first of an endless
        synthetic set."""
        if self.large is not None:
            return list(self.drawn)
        n = self.train.n if config.run.data else min(self.train.n, N_SYNTHETIC_KNOWN * len(config.tasks))
        return [self.train.get(i) for i in range(n)]


def draw_sample(config: Config, seed: int, split: str, index: int) -> Sample:
    """Synthetic item `index`; several tasks take turns."""
    turn, place = divmod(index, len(config.turns))
    name = config.turns[place]
    number = turn * config.turns.count(name) + config.turns[:place].count(name)
    return config.tasks[name].draw(seed, split, number)


def read_data(config: Config) -> RunData:
    """Training and held-out samples, before any model is loaded. Without `--data` both are synthetic; without `--eval_data` a
    tenth of the images is held out by seed. Raises SampleError, ConfigError."""
    run, seed = config.run, config.grpo.seed
    if run.data is None:
        n = run.limit or N_SYNTHETIC_TRAIN
        n_held_out = run.eval_limit or N_SYNTHETIC_HELD_OUT * len(config.tasks)
        held_out = [draw_sample(config, 0, "heldout", i) for i in range(n_held_out)]
        train = Samples(n, lambda i: draw_sample(config, seed, "train", i))
        description = f"{n} synthetic samples (seed {seed}), {len(held_out)} held out"
        return RunData(train, held_out, description, _plays(config, held_out))
    whole, rows = _read(config, run.data, run.limit, seed)
    shared = list[str]()
    if run.eval_data is not None:
        all_held_out, read = _read(config, run.eval_data, run.eval_limit, HELD_OUT_SEED)
        held_out = list(read)
        shared, said = shared_ids(whole, all_held_out)
        notes = [*rows.notes, *read.notes, *said]
        description = f"{len(rows)} samples of {run.data}, {len(held_out)} of {run.eval_data} held out"
        description += overlap_words(run.eval_data, run.data, shared, len(all_held_out))
    else:
        rows, held_out = hold_out(rows, seed, run.eval_limit, wanted_of(run.val_split, len(rows)))
        notes = list(rows.notes)
        description = f"{len(rows)} samples of {run.data}, {len(held_out)} more held out (no image in both)"
    train, looked_at = Samples(len(rows), rows.__getitem__), some_of(rows, seed)
    found = RunData(train, held_out, description, _plays(config, looked_at), notes=tuple(notes), shared=tuple(shared))
    if not rows.is_large:
        return found
    notes.append(
        f"{len(looked_at):,} of {len(rows):,} rows are checked before training, drawn by seed; each other one when it is used"
        f" (vlrl bench check --data {run.data} checks all)"
    )
    return dataclasses.replace(found, notes=tuple(notes), large=rows, drawn=tuple(looked_at))


def _read(config: Config, path: str, limit: int | None, seed: int) -> tuple[SampleSet, SampleSet]:
    """All samples behind a path, and those that `limit` leaves, which are checked."""
    whole = read_set(path, config.run.image_root, tasks=list(config.tasks))
    rows = whole.drawn(limit, seed)
    looked_at = some_of(rows, seed)
    refuse_unreadable_formats(looked_at, path)
    if problem := boxes_in_shares(looked_at):
        raise SampleError(f"{path}: {problem}")
    for sample in looked_at:
        if rows.is_large and (lost := missing_in(sample)):
            raise SampleError(f"{path} (id {sample.id!r}): {lost} (--image_root says where relative paths start)")
        if sample.task not in config.tasks:
            theirs = dict.fromkeys(one.task for one in looked_at)
            needed = theirs if theirs.keys().isdisjoint(config.tasks) else {**dict.fromkeys(config.tasks), **theirs}
            raise SampleError(
                f"{path} (id {sample.id!r}): its task is {sample.task!r}, but this run's are {', '.join(config.tasks)}"
                f" (--task {','.join(needed)} for all)"
            )
        if problem := answer_problem_of(config.tasks[sample.task], sample):
            raise SampleError(f"{path} (id {sample.id!r}): {problem}")
    return whole, rows


def prepare_data(
    config: Config, data: RunData, loaded: ModelInputs, rubric: Rubric | None = None
) -> tuple[Config, RunData, list[str]]:
    """The run with room for the reference answers; the samples as this model is prompted and answers, those of files checked
    against their images; and what a person should know of them. Overlong prompts are refused or left out
    (`--overlong_prompts`). `rubric`: what scores them, for rows that are checked when used. Raises SampleError, ConfigError."""
    run = config.run
    layout, box_format = config.layout
    forms: dict[str, Any] = {"answer_format": layout, "box_format": box_format}
    lengths = [PromptLengths(loaded.processor, loaded.template) for _ in range(2)]
    if run.data is None:

        def prepared(sample: Sample) -> Sample:
            return prepare_sample(sample, loaded, **forms)

        raw = data.train
        endless = Samples(raw.n, lambda i: prepared(raw.get(i)))
        data = dataclasses.replace(data, train=endless, held_out=[prepared(sample) for sample in data.held_out])
        known = data.known(config)[: len(config.turns) * N_MEASURED]
        for part, rows in zip(lengths, (known, data.held_out), strict=True):
            for sample in rows:
                part.add(messages(sample, config.tasks, n_shown(sample)), measured(sample))
    else:
        known, held_out, lengths = _checked(config, data, loaded, forms)
        train = Samples(len(known), known.__getitem__) if data.large is None else data.train
        data = dataclasses.replace(data, train=train, held_out=held_out, drawn=() if data.large is None else tuple(known))
    config, said = fit_length(config, loaded, data)
    if data.large is not None:
        when_used = checked_when_used(config, data.large, loaded, rubric, prompt_limit(config, loaded))
        data = dataclasses.replace(data, train=Samples(data.train.n, when_used))
    data, skipped = without_overlong(config, data, known, lengths, loaded)
    shown = video_notes([*known, *data.held_out], loaded)
    return config, dataclasses.replace(data, length=said), [*data.notes, *skipped, *shown, *_notes(config, data)]


def _checked(
    config: Config, data: RunData, loaded: ModelInputs, forms: Mapping[str, Any]
) -> tuple[list[Sample], list[Sample], list[PromptLengths]]:
    """Training and held-out samples of files, prepared and checked by the first process; and the lengths of their prompts."""
    path = str(config.run.data)

    def check() -> tuple[list[list[Sample]], list[TokenCounts]]:
        lengths = [PromptLengths(loaded.processor, loaded.template) for _ in range(2)]
        parts = ((data.known(config), path, lengths[0]), (data.held_out, config.run.eval_data or path, lengths[1]))
        ready = [check_samples(rows, config.tasks, loaded, name, **forms, lengths=part) for rows, name, part in parts]
        return ready, [part.counts for part in lengths]

    if data.large is not None:
        rows = (repr((sample.id, sample.question, sample.answer)) for sample in data.drawn)
        check_alike(f"set of {len(data.large):,} rows", hashlib.sha256("\n".join(rows).encode()).hexdigest()[:12])
    (known, held_out), counts = of_first_process(check)
    return known, held_out, [PromptLengths(loaded.processor, loaded.template, part) for part in counts]


def without_overlong(
    config: Config, data: RunData, known: Sequence[Sample], lengths: Sequence[PromptLengths], loaded: ModelInputs
) -> tuple[RunData, list[str]]:
    """The samples without those of overlong prompts, and a line that counts them. Raises SampleError where they are to be
    refused, or nothing is left."""
    limit, why = prompt_limit(config, loaded)
    if limit is None:
        return data, []
    run, lines = config.run, []
    parts: list[list[Sample]] = []
    for rows, part, path in ((known, lengths[0], run.data), (data.held_out, lengths[1], run.eval_data or run.data)):
        rows = list(rows)

        def words(i: int, rows: list[Sample] = rows) -> list[dict[str, Any]]:
            return messages(rows[i], config.tasks, n_shown(rows[i]))

        found = part.longer_than(limit, words)
        parts.append([sample for i, sample in enumerate(rows) if i not in found])
        if not found:
            continue
        first = ", ".join(f"{rows[i].id!r} ({n:,} tokens)" for i, n in list(found.items())[:3])
        what = (
            f"{len(found):,} of {len(rows):,} prompts of {path or 'the drawn samples'} are longer than {limit:,} tokens ({why})"
        )
        if config.prompts.overlong_prompts == "refuse" or path is None or not parts[-1]:
            raise SampleError(
                f"{what}; the first: {first}. --max_pixels makes images smaller, --overlong_prompts skip leaves such rows out"
            )
        lines.append(f"{what} and left out; the first: {first}")
    if not lines:
        return data, []
    if data.large is not None:
        return dataclasses.replace(data, drawn=tuple(parts[0]), held_out=parts[1]), lines
    train = Samples(len(parts[0]), parts[0].__getitem__)
    return dataclasses.replace(data, train=train, held_out=parts[1]), lines


def _notes(config: Config, data: RunData) -> list[str]:
    """What rows hold that a person should know before training: special tokens, and images that cannot be decoded. Raises
    SampleError for held-out images, which every measurement needs."""
    notes = []
    known = data.known(config)
    written = [sample for sample in [*known, *data.held_out] if KEY in sample.meta]
    if written:
        first = written[0]
        notes.append(
            f"{len(written):,} rows spell out special tokens of this model, the first: {first.id!r}"
            f" ({', '.join(first.meta[KEY])}); they are shown to the model as text"
        )
    if config.run.data is not None:
        notes += of_first_process(lambda: _image_notes(config, data, known))
    return notes


def _image_notes(config: Config, data: RunData, known: Sequence[Sample]) -> list[str]:
    """Of images that are decoded for it: all held-out ones, and some others. Raises SampleError."""
    notes = []
    for sample in drawn_to_decode(data.held_out, config.grpo.seed, len(data.held_out)):
        if problem := decode_problem(sample):
            raise SampleError(f"{config.run.eval_data or config.run.data} (id {sample.id!r}): {problem}; leave this row out")
    drawn = drawn_to_decode(known, config.grpo.seed)
    notes += form_notes([*drawn, *data.held_out], "drawn and held-out images")
    bad = [(sample.id, problem) for sample in drawn if (problem := decode_problem(sample))]
    if bad:
        shown = "; ".join(f"{key!r}: {problem}" for key, problem in bad[:3])
        notes.append(
            f"{len(bad)} of {len(drawn)} drawn images cannot be decoded, so other samples will take their places"
            f" (vlrl bench check --data {config.run.data} names all): {shown}"
        )
    return notes


def _plays(config: Config, samples: Sequence[Sample]) -> bool:
    """Whether these are episodes. Raises ConfigError for some that are and some that are not, or an option that episodes
    cannot have."""
    n = sum(config.tasks[sample.task].is_episode(sample) for sample in samples)
    if n and n < len(samples):
        raise ConfigError(f"{n} of {len(samples)} samples are episodes and the others single questions; train on them apart")
    if n and config.rewards is not None:
        raise ConfigError("episodes are rewarded by their game, step by step; leave out --rewards")
    if n and config.run.dynamic_sampling:
        raise ConfigError("--dynamic_sampling is for single completions; episodes are played once a step")
    guide = config.guide
    if not n and (guide.judge_reward or guide.length_reward or guide.led):
        raise ConfigError("--gtr judge_reward, length_reward, led are for episodes of card games")
    return n > 0


def choose_rubric(config: Config, data: RunData) -> Rubric:
    """The rewards of this run, each tried on one sample. Raises ConfigError where one of them or a task fails, and where rows
    and rewards, or weights and rewards, do not fit."""
    samples = data.known(config)
    steps = planned_steps(config, data.train.n)
    try:
        rubric = rubric_for(config.rewards, samples, config.tasks)
        rubric = dataclasses.replace(rubric, rewards=tuple(with_planned_steps(reward, steps) for reward in rubric.rewards))
        try_once(rubric, samples)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    grpo = config.grpo
    weights = grpo.reward_weights
    names = [reward.name for reward in rubric.rewards]
    if weights is not None and len(weights) != len(names):
        raise ConfigError(f"{len(weights)} reward_weights for {len(names)} rewards ({', '.join(names)})")
    if any("tags" in reward.needs and config.layout[0] == "none" for reward in rubric.rewards):
        raise ConfigError(f"--answer_format none asks for no tags, which one of {', '.join(names)} needs; name --rewards")
    return rubric


def planned_steps(config: Config, n_samples: int) -> int:
    """The optimizer steps of the GRPO stage: `--max_steps`, or what the epochs over the samples come to."""
    grpo = config.grpo
    if grpo.max_steps > 0:
        return int(grpo.max_steps)
    per_step = grpo.per_device_train_batch_size * PartialState().num_processes * grpo.gradient_accumulation_steps
    steps: int = math.ceil(grpo.num_train_epochs * n_samples * config.group_size / per_step)
    return steps


def data_events_of(config: Config, data: RunData, n_processes: int) -> list[Event]:
    """What a run's own file of samples makes known before its first step: copies, and how often all of it is passed over."""
    if config.run.data is None:
        return []
    grpo = config.grpo
    message = f"{len(data.shared):,} rows of --eval_data show a picture of --data, so that held-out numbers are too good"
    overlap = [Event(0, "held_out_overlap", message, data.shared, {"n_samples": len(data.shared)})] if data.shared else []
    n_prompts = max(1, grpo.per_device_train_batch_size * n_processes * grpo.gradient_accumulation_steps // config.group_size)
    n_steps = planned_steps(config, data.train.n)
    if data.large is not None and data.large.prompts is not None:
        keys: list[Any] = data.large.prompts.tolist()
        found = data_events(keys, [""] * len(keys), n_prompts, n_steps)
        return overlap + [dataclasses.replace(event, samples=()) for event in found]
    rows = [data.train.get(i) for i in range(data.train.n)]
    keys = [repr((row.question, row.images, row.video)) for row in rows]
    return overlap + data_events(keys, [row.id for row in rows], n_prompts, n_steps)


def fit_length(config: Config, loaded: ModelInputs, data: RunData) -> tuple[Config, str]:
    """The run with room for the reference answers in a completion, and a description of what was found.

    The embedded model gets the length that its longest reference answer needs (a quarter more), unless one was set. For other
    models a limit that is too short is only reported: the length of their thoughts is not known.
    """
    samples = data.known(config) + data.held_out
    texts = [reply for sample in samples for reply in _replies(sample, config.tasks[sample.task])]
    if not texts:
        missing = f"{', '.join(config.tasks)} has no reference answers (oracle)"
        return config, f"completions of up to {config.grpo.max_completion_length} tokens; {missing} to compare with"
    lengths = [len(ids) + 1 for ids in loaded.tokenizer(texts).input_ids]
    longest = max(lengths)
    if "max_completion_length" not in config.values and config.model.model_name_or_path in TINY_NAMES:
        config = config.with_arguments(max_completion_length=longest + longest // 4)
    limit = config.max_tokens
    found = f"completions of up to {limit} tokens (reference answers: {longest} at most)"
    if limit < longest:
        n_cut = sum(length > limit for length in lengths)
        found += f"; WARNING: {n_cut} of {len(lengths)} do not fit, raise --max_completion_length"
    return config, found


def _replies(sample: Sample, task: Task) -> list[str]:
    """The reference answer of a sample, if its task has one: of an episode, each reply of it."""
    if task.oracle is None:
        return []
    text = task.reference(sample)
    turns = read_transcript(text) if task.is_episode(sample) else None
    return [text] if turns is None else [turn.reply for turn in turns]


def sft_samples(config: Config, loaded: ModelInputs | LoadedModel, train: Samples, n_processes: int) -> Samples:
    """All samples of the supervised stage in their order: the data shuffled anew each epoch, or synthetic scenes, of
    which the first tenth holds one object each and the next fifth at most two."""
    seed = config.grpo.seed
    layout, box_format = config.layout
    n = config.run.sft_steps * config.run.sft_batch_size * n_processes
    if config.run.data is None:

        def easy_first(i: int) -> Sample:
            split = "coldstart-1" if i < 0.1 * n else "coldstart-2" if i < 0.3 * n else "coldstart"
            return prepare_sample(draw_sample(config, seed, split, i), loaded, answer_format=layout, box_format=box_format)

        return Samples(n, easy_first, train.report)
    orders: dict[int, Any] = {}

    def get(i: int) -> Sample:
        epoch, place = divmod(i, train.n)
        if epoch not in orders:
            orders[epoch] = item_rng("sft order", seed, epoch).permutation(train.n)
        return train.get(int(orders[epoch][place]))

    return Samples(n, get, train.report)


def is_shipped_start(config: Config) -> bool:
    """Whether the supervised stage of this run is the shipped cold start itself: nobody asked for more steps of it."""
    embedded = config.model.model_name_or_path in EMBEDDED and config.run.stage == "sft+grpo" and config.run.data is None
    return embedded and "sft_steps" not in config.chosen
