"""Our own options of a training run, the files they come from, and every check that needs no library. No torch.

Order: class defaults < `configs/<task>.yaml` (embedded model only) < `--config` < command line. Not here: TRL's options
(`vlrl.training.config`), and what a sample file may hold.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from vlrl import tasks as task_files
from vlrl.answers.kind import answer_kinds
from vlrl.data.name_values import nearest
from vlrl.models.names import TINY_NAMES
from vlrl.rewards import load_reward
from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, Reward, Task
from vlrl.tasks import default_model, is_built_in
from vlrl.training.events import read_stop_on

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GROUP_SHARED = ("auto", "on", "off")


class ConfigError(ValueError):
    """A run that cannot start as configured; the message says what to change."""


@dataclass(frozen=True)
class RunConfig:
    """The options of `vlrl/train.py` that TRL does not have."""

    task: str = field(
        default="detection",
        metadata={
            "help": "A name or path/to/my_task.py holding a TASK. Several with commas: mixed data; synthetic samples take"
            " turns, and a task named twice has two."
        },
    )
    data: str | None = field(
        default=None,
        metadata={
            "help": "Training samples: our JSONL, or files of other projects as they are (docs/data.md); several with commas."
            " Default: drawn samples."
        },
    )
    eval_data: str | None = field(default=None, metadata={"help": "Held-out samples, in the same forms."})
    image_root: str | None = field(default=None, metadata={"help": "Folder of relative image paths (default: the file's)."})
    rewards: list[str] | None = field(
        default=None,
        metadata={"help": "Reward names or path/to/file.py:function, options behind a colon. Default: each row's own task's."},
    )
    answer_format: str | None = field(
        default=None,
        metadata={
            "help": "Layout of completions (think_answer | answer | none | answer_think), form of boxes (json | fenced_json |"
            " position_confidence | corners), or both: none,fenced_json. Default: think_answer,json."
        },
    )
    stage: Literal["grpo", "sft", "sft+grpo", "dpo"] | None = field(
        default=None,
        metadata={"help": "Default: sft+grpo for the embedded model, grpo for any other. dpo: on preference pairs (--data)."},
    )
    sft_steps: int = field(default=400, metadata={"help": "Steps of the supervised stage."})
    sft_learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of the supervised stage."})
    sft_batch_size: int = field(default=16, metadata={"help": "Samples a step and process in the supervised stage."})
    limit: int | None = field(
        default=None, metadata={"help": "Use only N training samples, drawn by seed, answers in their shares."}
    )
    eval_limit: int | None = field(default=None, metadata={"help": "Use only N held-out samples, drawn."})
    val_split: float | None = field(
        default=None,
        metadata={
            "help": "How many training samples are held out where eval_data names none: a share (below 1) or a number; no image"
            " is on both sides. Default: a tenth, 400 at most."
        },
    )
    coords: Literal["px", "resized_px", "norm1000", "norm1"] | None = field(
        default=None, metadata={"help": "How completions write boxes. Default: by the model's config.model_type."}
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Smallest image the model sees, in pixels."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest image the model sees, in pixels."})
    freeze_vision: bool = field(default=False, metadata={"help": "Train the language model only."})
    dynamic_sampling: int = field(
        default=0,
        metadata={"help": "At most so many more rounds a step of fresh prompts for groups of equal rewards (DAPO). 0: off."},
    )
    sft_target: Literal["thinking+answer", "answer"] = field(
        default="thinking+answer",
        metadata={"help": "What the supervised stage imitates: thinking+answer, or answer (AlphaDrive's released script)."},
    )
    group_shared: str = field(
        default="auto",
        metadata={"help": "Run a group's prompt and image once: auto (where possible), on (or refuse to run), off."},
    )
    on_endpoint_failure: Literal["skip", "stop"] = field(
        default="skip",
        metadata={
            "help": "A judge or corrector behind an endpoint that does not answer: skip (such rows have no score or correction;"
            " after 10 batches in a row without any score the run ends), or stop (the run ends at the first such batch)."
        },
    )
    stop_on: str | None = field(
        default=None,
        metadata={"help": "End the run, with a checkpoint, at one of these events (names with commas, or any; events.jsonl)."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "End training after so many measurements in a row (--eval_strategy) without a better one."},
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "What counts as better: more than so much, by --metric_for_best_model."}
    )
    save_minutes: float | None = field(
        default=None, metadata={"help": "Write a checkpoint at least every so many minutes, whatever save_steps says."}
    )
    max_hours: float | None = field(
        default=None,
        metadata={"help": "End with a checkpoint before the process is so old, exit code 75; the printed command goes on."},
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Print the run, one prompt and the memory that it takes, without loading weights, and stop."},
    )

    def __post_init__(self) -> None:
        if isinstance(self.group_shared, bool):  # YAML reads a bare on or off as a truth value
            object.__setattr__(self, "group_shared", "on" if self.group_shared else "off")


def read_answer_format(words: str | None) -> tuple[str | None, str | None]:
    """`--answer_format` as layout and box form. Raises ConfigError."""
    found: dict[tuple[str, ...], str] = {}
    for word in filter(None, (words or "").split(",")):
        kind = next((known for known in (ANSWER_FORMATS, BOX_FORMATS) if word in known), None)
        if kind is None:
            known = [*ANSWER_FORMATS, *BOX_FORMATS]
            raise ConfigError(f"--answer_format {words}: unknown {word!r}{nearest(word, known)} (known: {', '.join(known)})")
        if kind in found:
            raise ConfigError(f"--answer_format {words}: {found[kind]} and {word} exclude each other")
        found[kind] = word
    return found.get(ANSWER_FORMATS), found.get(BOX_FORMATS)


def named_tasks(names: str) -> tuple[Task, ...]:
    """The tasks of `--task a,b`, in their order. Raises ConfigError."""
    try:
        return task_files.load_tasks(names)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read --config {path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold a YAML mapping of option names to values")
    return values


def flag_value(argv: Sequence[str], name: str) -> str | None:
    """The last value of `--name value` or `--name=value` ('-' and '_' are the same inside a flag)."""
    found = None
    for i, word in enumerate(argv):
        flag, _, inline = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            found = inline if inline else (argv[i + 1] if i + 1 < len(argv) else None)
    return found


def without(argv: Sequence[str], name: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in argv:
        if skip:
            skip = False
        elif word == f"--{name}":
            skip = True
        elif not word.startswith(f"--{name}="):
            kept.append(word)
    return kept


@dataclass(frozen=True)
class FileValues:
    """What is set before the command line: `defaults` of the kind of run, then `explicit` ones of `--config`, then what is
    `named` by words and files alike (model, task). `sources`: where they stood, weakest first."""

    defaults: Mapping[str, Any]
    explicit: Mapping[str, Any]
    named: Mapping[str, Any]
    sources: tuple[str, ...]
    is_embedded: bool
    """Whether the defaults are those of a file of `configs/` for the embedded model."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What the `env` block of `--config` sets in the environment of the run."""

    @property
    def values(self) -> dict[str, Any]:
        return {**self.defaults, **self.explicit, **self.named}

    @property
    def changed(self) -> frozenset[str]:
        """What `--config` sets to other values than the defaults'."""
        return frozenset(key for key, value in self.explicit.items() if self.defaults.get(key) != value)

    def without_accelerator(self) -> FileValues:
        """The same on a machine without one: float32 on the CPU, unless `--config` says otherwise."""
        if self.is_embedded:
            return self
        sources = ("float32 on the CPU (no accelerator found)", *self.sources)
        return replace(self, defaults={**self.defaults, "use_cpu": True, "bf16": False}, sources=sources)


def read_files(words: Sequence[str]) -> FileValues:
    """`configs/<task>.yaml` for the embedded model, then `--config`, whose `tiny` block counts for that model only."""
    path = flag_value(words, "config")
    explicit = read_yaml(Path(path)) if path else {}
    task_names = str(flag_value(words, "task") or explicit.get("task") or RunConfig.task)
    tasks = named_tasks(task_names)
    names = [task.name for task in tasks]
    embedded_model = default_model(tasks)
    model_name = str(flag_value(words, "model_name_or_path") or explicit.get("model_name_or_path") or embedded_model)
    kind = "own_task" if not all(map(is_built_in, tasks)) else names[0] if len(set(names)) == 1 else "mixed"
    embedded = CONFIGS / f"{kind}.yaml"
    own = explicit.pop("tiny", None) or {}
    defaults: dict[str, Any] = {}
    sources: list[str] = []
    if model_name in TINY_NAMES and embedded.is_file():
        defaults = read_yaml(embedded) | {"task": task_names}
        explicit |= own
        sources.append(f"configs/{embedded.name}")
    if "rewards" in explicit or flag_value(words, "rewards") is not None:
        defaults.pop("reward_weights", None)  # they were those of the task's own rewards
    environment = environment_of(explicit)
    named = {"model_name_or_path": model_name}
    all_sources = (*sources, *([path] if path else []))
    return FileValues(defaults, explicit, named, all_sources, bool(sources), environment)


def environment_of(explicit: dict[str, Any]) -> dict[str, str]:
    """The `env` block of a file's values, taken out of them."""
    return {str(key): str(value) for key, value in (explicit.pop("env", None) or {}).items()}


def check_groups(values: Mapping[str, Any]) -> None:
    """Batch arithmetic: groups must be whole. Raises ConfigError."""

    def number(name: str, default: int) -> int:
        value = values.get(name)
        return default if value in (None, "", "None") else int(float(value))

    world = int(os.environ.get("WORLD_SIZE", "1"))
    group = number("num_generations", 8)
    per_device = number("per_device_train_batch_size", 8)
    steps = number("steps_per_generation", number("gradient_accumulation_steps", 1))
    batch = number("generation_batch_size", per_device * world * steps)
    if group < 2:
        raise ConfigError(f"num_generations={group}: an advantage needs at least 2 completions a prompt; use 8")
    if batch % group:
        low, high = batch // group * group, (batch // group + 1) * group
        fits = " or ".join(str(b) for b in (low, high) if b)
        divisors = [str(d) for d in range(2, batch + 1) if batch % d == 0][-3:]
        raise ConfigError(
            f"generation batch {batch} ({per_device} completions a device x {world} processes x {steps} steps) is not"
            f" divisible by num_generations={group} (groups must be whole); make the batch {fits}, or num_generations"
            f" one of {', '.join(divisors) or 'its divisors'}"
        )


def check_run(run: RunConfig) -> None:
    """Our own options by themselves. Raises ConfigError."""
    for name in ("data", "eval_data"):
        check_file(name, getattr(run, name))
    if run.image_root is not None and not Path(run.image_root).is_dir():
        raise ConfigError(f"--image_root {run.image_root}: no such folder")
    if run.eval_data and not run.data:
        raise ConfigError("--eval_data without --data: give the training samples too")
    for name in ("limit", "eval_limit", "sft_steps", "sft_batch_size", "min_pixels", "max_pixels"):
        value = getattr(run, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: must be at least 1")
    if run.val_split is not None:
        if run.eval_data or not run.data:
            why = "--eval_data names the held-out samples" if run.eval_data else "drawn samples have held-out ones of their own"
            raise ConfigError(f"--val_split {run.val_split:g}: {why}; leave one out")
        if not (0 < run.val_split < 1 or (run.val_split >= 1 and run.val_split == int(run.val_split))):
            raise ConfigError(f"--val_split {run.val_split:g}: give a share between 0 and 1, or a whole number of samples")
    for name in ("save_minutes", "max_hours"):
        value = getattr(run, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"--{name} {value}: must be more than 0")
    if run.min_pixels and run.max_pixels and run.min_pixels > run.max_pixels:
        raise ConfigError(f"--min_pixels {run.min_pixels} exceeds --max_pixels {run.max_pixels}")
    if run.group_shared not in GROUP_SHARED:
        raise ConfigError(f"--group_shared {run.group_shared}: must be one of {', '.join(GROUP_SHARED)}")
    if run.dynamic_sampling < 0:
        raise ConfigError(f"--dynamic_sampling {run.dynamic_sampling}: rounds cannot be negative; 0 turns it off")
    read_answer_format(run.answer_format)
    try:
        read_stop_on(run.stop_on)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_tasks(run: RunConfig, tasks: Iterable[Task]) -> None:
    """A run without a file needs tasks that draw samples, a supervised stage needs something to imitate. Raises ConfigError."""
    for task in tasks:
        if task.synthetic is None and run.data is None:
            raise ConfigError(f"task {task.name} draws no samples of its own; give a file of samples: --data samples.jsonl")
        if task.sft_target is None and "sft" in (run.stage or "") and run.data is None:
            raise ConfigError(f"--stage {run.stage}: task {task.name} has no oracle and no sft_target to imitate; use grpo")


def check_file(name: str, path: str | None) -> None:
    """Raises ConfigError where `--name path`, or several with commas, was given and one does not exist."""
    if path is None or Path(path).exists():
        return
    missing = [word for word in path.split(",") if not Path(word.strip()).exists()]
    if missing:
        raise ConfigError(f"--{name} {path}: no such file" + (f" as {missing[0].strip()!r}" if "," in path else ""))


def check_rewards(run: RunConfig, tasks: Mapping[str, Task], weights: Sequence[float] | None) -> None:
    """The rewards that `--rewards` names: each exists, once, and can score what this run asks for. Raises ConfigError."""
    layout, _ = read_answer_format(run.answer_format)
    names = list(run.rewards or ())
    loaded: list[Reward] = []
    drawn = [task.draw(0, "heldout", i) for task in tasks.values() for i in range(4) if names and task.synthetic is not None]
    is_known = all(task.synthetic is not None for task in tasks.values())
    kinds = {kind for sample in drawn for kind in answer_kinds(sample)} if is_known else set()
    for name in names:
        try:
            loaded.append(load_reward(name))
        except (ValueError, OSError) as error:
            raise ConfigError(str(error)) from error
    for reward in loaded:
        if [other.name for other in loaded].count(reward.name) > 1:
            raise ConfigError(f"--rewards names {reward.name} twice")
        if "tags" in reward.needs and layout == "none":
            raise ConfigError(
                f"reward {reward.name} reads answer tags, which --answer_format none asks completions not to have;"
                " use another layout or another reward"
            )
        if reward.answers and kinds and not reward.answers & kinds:
            raise ConfigError(
                f"reward {reward.name} cannot score {', '.join(tasks)}: it scores answers of the kind"
                f" {' or '.join(sorted(reward.answers))}, these are {', '.join(sorted(kinds))}"
            )
    if weights is not None and names and len(weights) != len(names):
        raise ConfigError(f"{len(weights)} reward_weights for {len(names)} rewards ({', '.join(names)})")
