"""The run folder: opening one, finding where a stopped run goes on, its data, its final weights.

Not here: training and numbers. `vlrl/train.py` calls these in order.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import AutoModelForImageTextToText, TrainingArguments

from vlrl.data.synthetic import item_rng
from vlrl.envs.cards.transcripts import read_transcript
from vlrl.models.inputs import Samples, check_samples, prepare_sample
from vlrl.models.load import LoadedModel
from vlrl.models.names import EMBEDDED, TINY_NAMES
from vlrl.schema import Prediction, Sample, SampleError, Task, read_samples
from vlrl.tasks.rubric import Rubric, answer_problem_of, try_once, with_planned_steps
from vlrl.tasks.rubric import choose as rubric_for
from vlrl.training.checkpoints import last_checkpoint
from vlrl.training.config import Config
from vlrl.training.options import ConfigError
from vlrl.training.report import versions

N_SYNTHETIC_TRAIN = 20_000
N_SYNTHETIC_HELD_OUT = 400
HELD_OUT_SHARE, MAX_HELD_OUT = 0.1, 400
RESUME_LAST = ("true", "last", "1", "yes")


@dataclass(frozen=True)
class RunFolder:
    path: Path
    checkpoint: str | None
    """Where to go on from, or None for a fresh start."""
    resuming: bool


def open_folder(config: Config) -> RunFolder:
    """See `open_run`."""
    return open_run(config.grpo, "-".join(config.tasks))


def open_run(arguments: TrainingArguments, name: str) -> RunFolder:
    """Create the run's folder, or find the checkpoint to go on from. Raises ConfigError where data could be lost."""
    wanted = arguments.resume_from_checkpoint
    wanted = None if wanted in (None, "", "false", "False") else str(wanted)
    named = arguments.output_dir
    checkpoint: str | None = None
    if wanted is not None and wanted.lower() not in RESUME_LAST:
        if not (Path(wanted) / "trainer_state.json").is_file():
            raise ConfigError(f"--resume_from_checkpoint {wanted}: not a checkpoint (no trainer_state.json in it)")
        checkpoint = wanted
        named = named or str(Path(wanted).resolve().parent)
    elif wanted is not None:
        if not named:
            raise ConfigError("--resume_from_checkpoint true: name the run to go on with, --output_dir runs/<its folder>")
        checkpoint = last_checkpoint(named)
    if not named:
        shared = [f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"]
        if PartialState().num_processes > 1:
            broadcast_object_list(shared)
        named = shared[0]
    path = Path(named)
    if wanted is None and (path / "config.yaml").exists():
        raise ConfigError(
            f"--output_dir {path} already holds a run; go on with it by --resume_from_checkpoint true, or name another"
        )
    PartialState().wait_for_everyone()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--output_dir {path}: {error.strerror or error}") from error
    arguments.output_dir = str(path)
    return RunFolder(path, checkpoint, resuming=wanted is not None)


def write_config(config: Config, folder: Path) -> None:
    """See `write_values`."""
    write_values(config.values, folder)


def write_values(values: Mapping[str, Any], folder: Path) -> None:
    """`config.yaml`: what was set, by whom and with which versions; `--config` on it repeats the run."""
    values = {key: v for key, v in values.items() if key not in ("output_dir", "resume_from_checkpoint")}
    head = [f"# {' '.join(shlex.quote(word) for word in ['vlrl/train.py', *sys.argv[1:]])}"]
    head += [f"# {name} {version}" for name, version in versions().items()]
    text = "\n".join(head) + "\n" + yaml.safe_dump(values, sort_keys=True, allow_unicode=True)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def check_disk(config: Config, loaded: LoadedModel, folder: Path) -> None:
    """Refuse to start where not even one checkpoint fits (weights, and two Adam moments of what is trained)."""
    weights = sum(p.numel() * p.element_size() for p in loaded.model.parameters())
    trained = 0 if config.model.use_peft else sum(p.numel() * 4 for p in loaded.model.parameters())
    needed = 2 * weights + (0 if config.grpo.save_only_model else 2 * trained) + 2**20
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder} has {free // 2**20} MiB free, but one checkpoint and the final weights take about"
            f" {needed // 2**20} MiB; free some space or name another --output_dir"
        )


@dataclass(frozen=True)
class Data:
    train: Samples
    held_out: list[Sample]
    description: str
    plays: bool = False
    """Whether the samples are episodes, to be played."""


def draw(config: Config, loaded: LoadedModel, seed: int, split: str, index: int) -> Sample:
    """Synthetic item `index`; several tasks take turns."""
    turn, place = divmod(index, len(config.turns))
    name = config.turns[place]
    number = turn * config.turns.count(name) + config.turns[:place].count(name)
    layout, box_format = config.layout
    sample = config.tasks[name].draw(seed, split, number)
    return prepare_sample(sample, loaded, answer_format=layout, box_format=box_format)


def load_data(config: Config, loaded: LoadedModel) -> Data:
    """Training and held-out samples, checked. Without `--data` both are synthetic; without `--eval_data` a tenth of the
    pictures is held out by seed."""
    run, seed = config.run, config.grpo.seed
    if run.data is None:
        n = run.limit or N_SYNTHETIC_TRAIN
        n_held_out = run.eval_limit or N_SYNTHETIC_HELD_OUT * len(config.tasks)
        held_out = [draw(config, loaded, 0, "heldout", i) for i in range(n_held_out)]
        train = Samples(n, lambda i: draw(config, loaded, seed, "train", i))
        described = f"{n} synthetic samples (seed {seed}), {len(held_out)} held out"
        return Data(train, held_out, described, _plays(config, held_out))

    def read(path: str, limit: int | None) -> list[Sample]:
        layout, box_format = config.layout
        rows = read_samples(path, run.image_root, limit)
        return check_samples(rows, config.tasks, loaded, path, answer_format=layout, box_format=box_format)

    rows = read(run.data, run.limit)
    if run.eval_data is not None:
        held_out = read(run.eval_data, run.eval_limit)
        described = f"{len(rows)} samples of {run.data}, {len(held_out)} of {run.eval_data} held out"
    else:
        rows, held_out = hold_out(rows, seed, run.eval_limit or MAX_HELD_OUT)
        described = f"{len(rows)} samples of {run.data}, {len(held_out)} more held out (no picture in both)"
    return Data(Samples(len(rows), rows.__getitem__), held_out, described, _plays(config, rows))


def _plays(config: Config, samples: Sequence[Sample]) -> bool:
    """Whether these are episodes. Raises ConfigError for some that are and some that are not, or an option that episodes
    cannot have."""
    n = sum(config.tasks[sample.task].is_episode(sample) for sample in samples)
    if n and n < len(samples):
        raise ConfigError(f"{n} of {len(samples)} samples are episodes and the others single questions; train on them apart")
    if n and config.rewards is not None:
        raise ConfigError("episodes are paid by their game, step by step; leave out --rewards")
    if n and config.run.dynamic_sampling:
        raise ConfigError("--dynamic_sampling is for single completions; episodes are played once a step")
    guide = config.guide
    if not n and (guide.judge_reward or guide.length_reward or guide.led):
        raise ConfigError("--gtr judge_reward, length_reward, led are for episodes of card games")
    return n > 0


def fit_length(config: Config, loaded: LoadedModel, data: Data) -> str:
    """See to it that right answers fit into a completion; returns what was found, in words.

    The embedded model gets the length its longest right answer needs (a quarter more), unless one was set; for others a
    limit that is too short is only told: their thoughts have no known length.
    """
    samples = [data.train.get(i) for i in range(n_known(config, data))] + data.held_out
    texts = [reply for sample in samples for reply in _replies(sample, config.tasks[sample.task])]
    if not texts:
        missing = f"{', '.join(config.tasks)} has no reference answers (oracle)"
        return f"completions may take {config.grpo.max_completion_length} tokens; {missing} to compare with"
    lengths = [len(ids) + 1 for ids in loaded.tokenizer(texts).input_ids]
    longest = max(lengths)
    if "max_completion_length" not in config.values and config.model.model_name_or_path in TINY_NAMES:
        config.grpo.max_completion_length = longest + longest // 4
    limit = config.grpo.max_completion_length
    found = f"right answers take {longest} tokens at most, completions may take {limit}"
    if limit < longest:
        n_cut = sum(length > limit for length in lengths)
        found += f"; WARNING: {n_cut} of {len(lengths)} do not fit, raise --max_completion_length"
    return found


def _replies(sample: Sample, task: Task) -> list[str]:
    """The reference answer of a sample, if its task has one: of an episode, each reply of it."""
    if task.oracle is None:
        return []
    text = task.reference(sample)
    turns = read_transcript(text) if task.is_episode(sample) else None
    return [text] if turns is None else [turn.reply for turn in turns]


def n_known(config: Config, data: Data) -> int:
    """How many training samples are looked at before training: all of a file, the first of an endless synthetic set."""
    return data.train.n if config.run.data else min(data.train.n, 500 * len(config.tasks))


def try_before_loading(config: Config) -> None:
    """Check the data's answers and ask every task and reward once, so that what a user's code does wrong is said before a model
    is loaded. Raises ConfigError or SampleError in one line."""
    run = config.run
    if run.data is None:
        samples = [config.tasks[name].draw(0, "heldout", i) for name in config.tasks for i in range(4)]
    else:
        samples = read_samples(run.data, run.image_root, run.limit, need_images=False)
    if any(sample.task not in config.tasks for sample in samples):
        return  # said when the samples are loaded
    try:
        for sample in samples:
            if problem := answer_problem_of(config.tasks[sample.task], sample):
                raise SampleError(f"{run.data} (id {sample.id!r}): {problem}")
        try_once(rubric_for(config.rewards, samples, config.tasks), samples)
    except SampleError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from error


def choose_rubric(config: Config, data: Data) -> Rubric:
    """The rewards of this run. Raises ConfigError where rows and rewards do not fit, or weights and rewards."""
    samples = [data.train.get(i) for i in range(n_known(config, data))]
    try:
        rubric = rubric_for(config.rewards, samples, config.tasks)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    grpo = config.grpo
    weights = grpo.reward_weights
    names = [reward.name for reward in rubric.rewards]
    if weights is not None and len(weights) != len(names):
        raise ConfigError(f"{len(weights)} reward_weights for {len(names)} rewards ({', '.join(names)})")
    if any("tags" in reward.needs and config.layout[0] == "none" for reward in rubric.rewards):
        raise ConfigError(f"--answer_format none asks for no tags, which one of {', '.join(names)} needs; name --rewards")
    steps = grpo.max_steps
    if steps <= 0:
        per_step = grpo.per_device_train_batch_size * PartialState().num_processes * grpo.gradient_accumulation_steps
        steps = math.ceil(grpo.num_train_epochs * data.train.n * grpo.num_generations / per_step)
    return dataclasses.replace(rubric, rewards=tuple(with_planned_steps(reward, steps) for reward in rubric.rewards))


def hold_out(samples: Sequence[Sample], seed: int, at_most: int) -> tuple[list[Sample], list[Sample]]:
    """Split by picture: a tenth of the samples, `at_most` of them, share no picture with the rest."""
    keys = list(dict.fromkeys(sample.images or (sample.id,) for sample in samples))
    order = item_rng("held out", seed).permutation(len(keys))
    wanted = min(at_most, max(1, round(HELD_OUT_SHARE * len(samples))))
    count = dict.fromkeys(keys, 0)
    for sample in samples:
        count[sample.images or (sample.id,)] += 1
    chosen: set[tuple[str, ...]] = set()
    n = 0
    for index in order:
        if n >= wanted or len(chosen) + 1 >= len(keys):
            break
        chosen.add(keys[index])
        n += count[keys[index]]
    out = [sample for sample in samples if (sample.images or (sample.id,)) in chosen]
    if not out:
        raise ConfigError(f"{len(samples)} samples of one picture cannot be split; give held-out samples by --eval_data")
    return [sample for sample in samples if (sample.images or (sample.id,)) not in chosen], out


def sft_samples(config: Config, loaded: LoadedModel, train: Samples, n_processes: int) -> Samples:
    """All samples of the supervised stage in their order: the data shuffled anew each epoch, or synthetic scenes, of
    which the first tenth holds one object each and the next fifth at most two."""
    seed = config.grpo.seed
    n = config.run.sft_steps * config.run.sft_batch_size * n_processes
    if config.run.data is None:

        def easy_first(i: int) -> Sample:
            split = "coldstart-1" if i < 0.1 * n else "coldstart-2" if i < 0.3 * n else "coldstart"
            return draw(config, loaded, seed, split, i)

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


def start_folder(loaded: LoadedModel, folder: Path) -> str:
    """Where the weights that GRPO starts from can be loaded again (the reference model, the base of adapters). A model
    that exists only in memory is saved for that."""
    if loaded.name not in TINY_NAMES:
        return loaded.name
    start = folder / "start"
    if PartialState().is_main_process:
        loaded.model.save_pretrained(start)
        loaded.processor.save_pretrained(start)
    PartialState().wait_for_everyone()
    loaded.model.config._name_or_path = str(start)
    return str(start)


def promote(trained: Path, final: Path) -> None:
    """Copy the supervised stage's result to `final/`, complete or absent."""
    if PartialState().is_main_process:
        partial = final.with_suffix(".partial")
        shutil.copytree(trained, partial, dirs_exist_ok=True)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    PartialState().wait_for_everyone()


def save_final(trainer: Any, loaded: LoadedModel, folder: Path, base: str) -> Path:
    """`final/`: weights and processor that load with `from_pretrained`, adapters merged; complete or absent."""
    final, partial = folder / "final", folder / "final.partial"
    peft = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(peft, "peft_config"):
        trainer.save_model(str(folder / "adapter"))
        if trainer.accelerator.is_main_process:
            from peft import PeftModel

            whole = AutoModelForImageTextToText.from_pretrained(base, dtype=loaded.model.dtype)
            merged = PeftModel.from_pretrained(whole, str(folder / "adapter")).merge_and_unload()
            merged.save_pretrained(partial)
    else:
        trainer.save_model(str(partial))
    if trainer.accelerator.is_main_process:
        loaded.processor.save_pretrained(partial)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    trainer.accelerator.wait_for_everyone()
    return final


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    write_rows(path, [dataclasses.asdict(prediction) for prediction in predictions])


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One JSON object a line; the file is whole or not there."""
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=True) + "\n" for row in rows), encoding="utf-8")
    partial.replace(path)


def read_predictions(path: Path) -> list[Prediction] | None:
    if not path.is_file():
        return None
    return [Prediction(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
