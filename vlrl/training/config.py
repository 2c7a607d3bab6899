"""What a run is: our few options beside TRL's `GRPOConfig` and `ModelConfig`, read by `TrlParser`.

Order: class defaults < `configs/<task>.yaml` (embedded model only) < `--config` < command line. Everything that can be
known to be wrong is refused here, before data or weights are touched. Not here: what a sample file may hold.
"""

from __future__ import annotations

import difflib
import enum
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import torch
import yaml
from trl import GRPOConfig, ModelConfig, TrlParser

from vlrl.gtr.options import NOT_GUIDED, GuideConfig, GuideOptions, read_curriculum, read_guide
from vlrl.models.inputs import SFT_TARGETS
from vlrl.models.names import TINY_NAMES
from vlrl.rewards import load_reward
from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, CARD_TASKS, Reward, Task
from vlrl.tasks import load_task
from vlrl.training.benchmark_flags import NO_BENCH, BenchConfig, Benches, read_benches
from vlrl.training.flags import with_underscores

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
STAGES = ("grpo", "sft", "sft+grpo")
GROUP_SHARED = ("auto", "on", "off")


class ConfigError(ValueError):
    """A run that cannot start as configured; the message says what to change."""


@dataclass
class RunConfig:
    """The options of `vlrl/train.py` that TRL does not have."""

    task: str = field(
        default="detection",
        metadata={
            "help": "A name or path/to/my_task.py holding a TASK. Several with commas: mixed data; synthetic samples take"
            " turns, and a task named twice has two."
        },
    )
    data: str | None = field(default=None, metadata={"help": "Training samples (JSONL). Default: synthetic scenes."})
    eval_data: str | None = field(default=None, metadata={"help": "Held-out samples (JSONL)."})
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
    stage: Literal["grpo", "sft", "sft+grpo"] | None = field(
        default=None, metadata={"help": "Default: sft+grpo for the embedded model, grpo for any other."}
    )
    sft_steps: int = field(default=400, metadata={"help": "Steps of the supervised stage."})
    sft_learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate of the supervised stage."})
    sft_batch_size: int = field(default=16, metadata={"help": "Samples a step and process in the supervised stage."})
    limit: int | None = field(default=None, metadata={"help": "Use only the first N training samples."})
    eval_limit: int | None = field(default=None, metadata={"help": "Use only the first N held-out samples."})
    coords: Literal["px", "resized_px", "norm1000", "norm1"] | None = field(
        default=None, metadata={"help": "Coordinate dialect of completions. Default: by the model's config.model_type."}
    )
    min_pixels: int | None = field(default=None, metadata={"help": "Smallest image the model sees, in pixels."})
    max_pixels: int | None = field(default=None, metadata={"help": "Largest image the model sees, in pixels."})
    freeze_vision: bool = field(default=False, metadata={"help": "Train the language model only."})
    dynamic_sampling: int = field(
        default=0,
        metadata={"help": "At most so many more rounds a step of fresh prompts for groups of equal rewards (DAPO). 0: off."},
    )
    sft_target: str = field(
        default=SFT_TARGETS[0],
        metadata={"help": "What the supervised stage imitates: thinking+answer, or answer (AlphaDrive's released script)."},
    )
    group_shared: str = field(
        default="auto",
        metadata={"help": "Run a group's prompt and image once: auto (where possible), on (or refuse to run), off."},
    )
    dry_run: bool = field(default=False, metadata={"help": "Print the resolved run and stop."})

    def __post_init__(self) -> None:
        if isinstance(self.group_shared, bool):  # YAML reads a bare on or off as a truth value
            self.group_shared = "on" if self.group_shared else "off"


@dataclass(frozen=True)
class Config:
    """One resolved run."""

    run: RunConfig
    grpo: GRPOConfig
    model: ModelConfig
    tasks: dict[str, Task]
    """By the name that rows carry; the first is the main one."""
    turns: tuple[str, ...]
    """The tasks as named by `--task`, in the order in which synthetic samples take turns."""
    rewards: tuple[str, ...] | None
    """What `--rewards` names, or None for each row's own."""
    sources: tuple[str, ...]
    """Files whose values were read, weakest first."""
    asked: frozenset[str]
    """Options set by `--config` to other values than the defaults', or on the command line."""
    values: dict[str, Any]
    """Everything that was set, by a file or on the command line; as YAML it gives the same run again."""
    guide: GuideOptions = NOT_GUIDED
    curriculum: tuple[Task, float] | None = None
    bench: Benches = NO_BENCH

    @property
    def task(self) -> Task:
        return next(iter(self.tasks.values()))

    @property
    def layout(self) -> tuple[str | None, str | None]:
        """Layout of completions and form of boxes, None where the default holds."""
        return read_answer_format(self.run.answer_format)

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple((self.run.stage or "grpo").split("+"))


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


def _load_tasks(names: str) -> tuple[Task, ...]:
    try:
        return tuple(load_task(name) for name in names.split(","))
    except ValueError as error:
        raise ConfigError(str(error)) from error


def nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


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


def flag_value(argv: list[str], name: str) -> str | None:
    """The last value of `--name value` or `--name=value` ('-' and '_' are the same inside a flag)."""
    found = None
    for i, word in enumerate(argv):
        flag, _, inline = word.partition("=")
        if flag.startswith("--") and flag[2:].replace("-", "_") == name:
            found = inline if inline else (argv[i + 1] if i + 1 < len(argv) else None)
    return found


def parse(argv: list[str]) -> Config:
    """Resolve a command line. Raises ConfigError (one readable message) for anything that cannot work."""
    parser = TrlParser((RunConfig, GuideConfig, BenchConfig, GRPOConfig, ModelConfig), allow_abbrev=False)
    parser.error = refuse  # type: ignore[method-assign]
    known = sorted({action.dest for action in parser._actions if action.dest != "help"})
    argv = with_underscores(argv)
    files = _read_files(argv)
    for key in files.values:
        if key not in known:
            raise ConfigError(f"unknown option {key!r} in {files.sources[-1]}{nearest(key, known)}")
    turns = _load_tasks(str(flag_value(argv, "task") or files.values.get("task") or RunConfig.task))
    parser.set_defaults_with_config(**{"output_dir": "", **files.values})
    run, guide, bench, grpo, model = _parse_words(parser, without(argv, "config"), known)
    flags = {word[2:].partition("=")[0] for word in argv if word.startswith("--")} & set(known)
    values = dict(files.values)
    for name in flags:
        part = next(part for part in (run, guide, bench, grpo, model) if hasattr(part, name))
        value = getattr(part, name)
        values[name] = value.value if isinstance(value, enum.Enum) else value
    if run.stage is None:
        run.stage = "sft+grpo" if model.model_name_or_path in TINY_NAMES else "grpo"
    try:
        options, curriculum = read_guide(guide), read_curriculum(guide.curriculum, turns)
        options.n_led(grpo.num_generations)
        benches = read_benches(bench)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    config = Config(
        run=run,
        grpo=grpo,
        model=model,
        tasks={task.name: task for task in turns},
        turns=tuple(task.name for task in turns),
        rewards=tuple(run.rewards) if run.rewards else None,
        sources=files.sources,
        asked=files.changed | flags,
        values=values,
        guide=options,
        curriculum=curriculum,
        bench=benches,
    )
    _check(config)
    return config


@dataclass(frozen=True)
class _Files:
    """What files set, before the command line: `values`, where they stood, and which `--config` set to other values than
    the embedded model's defaults."""

    values: dict[str, Any]
    sources: tuple[str, ...]
    changed: frozenset[str]


def _read_files(argv: list[str]) -> _Files:
    """`configs/<task>.yaml` for the embedded model, then `--config`, whose `tiny` block counts for that model only."""
    path = flag_value(argv, "config")
    explicit = read_yaml(Path(path)) if path else {}
    task_names = str(flag_value(argv, "task") or explicit.get("task") or RunConfig.task)
    names = [task.name for task in _load_tasks(task_names)]
    embedded_model = "tiny-cards" if set(names) <= set(CARD_TASKS) else "tiny"
    model_name = str(flag_value(argv, "model_name_or_path") or explicit.get("model_name_or_path") or embedded_model)
    embedded = CONFIGS / f"{names[0] if len(set(names)) == 1 else 'mixed'}.yaml"
    own = explicit.pop("tiny", None) or {}
    defaults: dict[str, Any] = {}
    sources: list[str] = []
    if model_name in TINY_NAMES and embedded.is_file():
        defaults = read_yaml(embedded) | {"task": task_names}
        explicit |= own
        sources.append(f"configs/{embedded.name}")
    elif not torch.accelerator.is_available():
        defaults = {"use_cpu": True, "bf16": False}
        sources.append("float32 on the CPU (no accelerator found)")
    changed = frozenset(key for key, value in explicit.items() if defaults.get(key) != value)
    if "rewards" in explicit or flag_value(argv, "rewards") is not None:
        defaults.pop("reward_weights", None)  # they were those of the task's own rewards
    values = {**defaults, **explicit, "model_name_or_path": model_name}
    for key, value in (values.pop("env", None) or {}).items():
        os.environ[key] = str(value)
    return _Files(values, (*sources, *([path] if path else [])), changed)


def refuse(message: str) -> NoReturn:
    """In place of argparse's exit with two screens of usage."""
    raise ConfigError(message)


def without(argv: list[str], name: str) -> list[str]:
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


def _parse_words(
    parser: TrlParser, argv: list[str], known: list[str]
) -> tuple[RunConfig, GuideConfig, BenchConfig, GRPOConfig, ModelConfig]:
    world = int(os.environ.get("WORLD_SIZE", "1"))
    _check_groups_early(parser, argv, world)
    try:
        run, guide, bench, grpo, model, rest = parser.parse_args_into_dataclasses(args=argv, return_remaining_strings=True)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for word in rest:
        if word.startswith("--"):
            name = word[2:].partition("=")[0]
            raise ConfigError(f"unknown option --{name}{nearest(name, known)}")
    if rest:
        raise ConfigError(f"unexpected words on the command line: {' '.join(rest)}")
    return run, guide, bench, grpo, model


def _check_groups_early(parser: TrlParser, argv: list[str], world: int) -> None:
    """Batch arithmetic, before `GRPOConfig` meets it: groups must be whole."""
    values = {action.dest: action.default for action in parser._actions}

    def number(name: str, default: int) -> int:
        text = flag_value(argv, name)
        value = text if text is not None else values.get(name)
        return default if value in (None, "", "None") else int(float(value))

    group = number("num_generations", 8)
    per_device = number("per_device_train_batch_size", 8)
    accumulation = number("gradient_accumulation_steps", 1)
    steps = number("steps_per_generation", accumulation)
    batch = per_device * world * steps
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


def _check(config: Config) -> None:
    run, grpo = config.run, config.grpo
    _check_rewards(config)
    for name in ("data", "eval_data"):
        path = getattr(run, name)
        if path is not None and not Path(path).is_file():
            raise ConfigError(f"--{name} {path}: no such file")
    if run.eval_data and not run.data:
        raise ConfigError("--eval_data without --data: give the training samples too")
    for name in ("limit", "eval_limit", "sft_steps", "sft_batch_size", "min_pixels", "max_pixels"):
        value = getattr(run, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} {value}: must be at least 1")
    if run.min_pixels and run.max_pixels and run.min_pixels > run.max_pixels:
        raise ConfigError(f"--min_pixels {run.min_pixels} exceeds --max_pixels {run.max_pixels}")
    if grpo.save_only_model and grpo.resume_from_checkpoint:
        raise ConfigError("--save_only_model leaves no optimizer state: such a run cannot --resume_from_checkpoint")
    if grpo.load_best_model_at_end:
        raise ConfigError("--load_best_model_at_end is not supported: the last weights are measured and kept")
    if run.sft_target not in SFT_TARGETS:
        raise ConfigError(f"--sft_target {run.sft_target}: must be one of {', '.join(SFT_TARGETS)}")
    if run.group_shared not in GROUP_SHARED:
        raise ConfigError(f"--group_shared {run.group_shared}: must be one of {', '.join(GROUP_SHARED)}")
    if run.dynamic_sampling < 0:
        raise ConfigError(f"--dynamic_sampling {run.dynamic_sampling}: rounds cannot be negative; 0 turns it off")


def _check_rewards(config: Config) -> None:
    layout, _ = config.layout
    names = [] if config.rewards is None else list(config.rewards)
    loaded: list[Reward] = []
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
        if reward.tasks and not reward.tasks & config.tasks.keys():
            raise ConfigError(
                f"reward {reward.name} cannot score {', '.join(config.tasks)} (it scores {', '.join(sorted(reward.tasks))})"
            )
    weights = config.grpo.reward_weights
    if weights is not None and names and len(weights) != len(names):
        raise ConfigError(f"{len(weights)} reward_weights for {len(names)} rewards ({', '.join(names)})")
