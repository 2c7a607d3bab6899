"""What a run is: our few options beside TRL's `GRPOConfig` and `ModelConfig`, resolved by `TrlParser`.

Everything that can be known to be wrong is refused here, before data or weights are touched; most of it without a library
(`vlrl.training.command_line`). Not here: what a sample file may hold.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn, TypeVar

import torch
from transformers import TrainingArguments
from trl import GRPOConfig, ModelConfig, TrlParser  # type: ignore[attr-defined]

from vlrl.data.name_values import nearest
from vlrl.gtr.options import NOT_GUIDED, GuideConfig, GuideOptions
from vlrl.models.names import TINY_NAMES
from vlrl.rewards.implicit_reward import Prime, split_prime
from vlrl.schema import Task
from vlrl.tasks import is_built_in
from vlrl.training.benchmark_flags import NO_BENCH, BenchConfig, Benches
from vlrl.training.command_line import read_grpo_words
from vlrl.training.engine_options import EngineConfig
from vlrl.training.flags import with_underscores
from vlrl.training.monitor_options import MonitorConfig
from vlrl.training.options import ConfigError, FileValues, RunConfig, read_answer_format, without
from vlrl.training.prompt_options import PromptConfig, prompted, read_prompts
from vlrl.training.regulariser_options import RegulariserConfig

REFUSALS = (ValueError, TypeError, KeyError, ImportError, OSError, RuntimeError)
"""What the libraries' option classes raise for values, packages and files that they cannot use."""


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
    """What `--rewards` names beside `prime`, or None for each row's own; so are `grpo.reward_weights`."""
    sources: tuple[str, ...]
    """Files whose values were read, weakest first."""
    chosen: frozenset[str]
    """Options set by `--config` to other values than the defaults', or on the command line."""
    values: dict[str, Any]
    """Everything that was set, by a file or on the command line; as YAML it gives the same run again."""
    guide: GuideOptions = NOT_GUIDED
    curriculum: tuple[Task, float] | None = None
    bench: Benches = NO_BENCH
    prompts: PromptConfig = field(default_factory=PromptConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    regularisers: RegulariserConfig = field(default_factory=RegulariserConfig)
    prime: Prime | None = None
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What the run sets in the environment of its process; it may hold a token."""

    def with_arguments(self, **values: Any) -> Config:
        """The same run with other values of TRL's options; this one stays as it is."""
        return replace(self, grpo=with_values(self.grpo, **values))

    @property
    def task(self) -> Task:
        return next(iter(self.tasks.values()))

    @property
    def group_size(self) -> int:
        """Completions of a prompt."""
        return int(self.grpo.num_generations or 8)

    @property
    def max_tokens(self) -> int:
        """The longest completion. Raises ConfigError where TRL was told to set no limit."""
        if self.grpo.max_completion_length is None:
            raise ConfigError("--max_completion_length: give a number of tokens")
        return int(self.grpo.max_completion_length)

    @property
    def layout(self) -> tuple[str | None, str | None]:
        """Layout of completions and form of boxes, None where the default holds."""
        return read_answer_format(self.run.answer_format)

    @property
    def evaluates(self) -> bool:
        """Whether held-out samples are measured on the way too."""
        return bool(self.grpo.eval_strategy != "no")

    @property
    def stages(self) -> tuple[str, ...]:
        return tuple((self.run.stage or "grpo").split("+"))


def parse(argv: Sequence[str]) -> Config:
    """Resolve a command line. Raises ConfigError (one readable message) for anything that cannot work."""
    words = with_underscores(argv)
    named = read_grpo_words(words)
    files = replace(named.files, defaults={**named.defaults, **named.files.defaults})
    ours = (RunConfig, PromptConfig, EngineConfig, MonitorConfig, RegulariserConfig, GuideConfig, BenchConfig)
    parsed = parse_words(words, files, (*ours, GRPOConfig, ModelConfig))
    run, prompts, engine, monitor, regularisers, _, _, grpo, model = parsed.parts
    prompts = read_prompts(prompts)
    texts: dict[str, Any] = {
        name: getattr(prompts, name) for name in ("system_prompt", "prompt_template") if name in parsed.values
    }
    if run.stage is None:
        is_ours = all(map(is_built_in, named.turns))
        run = replace(run, stage="sft+grpo" if is_ours and model.model_name_or_path in TINY_NAMES else "grpo")
    if grpo.save_only_model and grpo.resume_from_checkpoint:
        raise ConfigError("--save_only_model leaves no optimizer state: such a run cannot --resume_from_checkpoint")
    refuse_unsupported(grpo)
    grpo, token = without_token(grpo)
    split = split_prime(run.rewards, grpo.reward_weights)
    return Config(
        run=run,
        grpo=with_values(grpo, reward_weights=split.weights) if split.prime else grpo,
        model=model,
        tasks=prompted(named.turns, prompts),
        turns=tuple(task.name for task in named.turns),
        rewards=tuple(split.rewards) if split.rewards else None,
        sources=parsed.files.sources,
        chosen=parsed.files.changed | parsed.flags,
        values={**parsed.values, **texts},
        guide=named.guide,
        curriculum=named.curriculum,
        bench=named.benches,
        prompts=prompts,
        engine=engine,
        monitor=monitor,
        regularisers=regularisers,
        prime=split.prime,
        environment={**files.environment, **token},
    )


@dataclass(frozen=True)
class Parsed:
    """A parsed command line: an instance of each class of options, in their order."""

    parts: tuple[Any, ...]
    files: FileValues
    flags: frozenset[str]
    """Options set on the command line."""
    values: dict[str, Any]
    """Everything that was set, by a file or on the command line; as YAML it gives the same run again."""


def parse_words(words: Sequence[str], files: FileValues, kinds: tuple[Any, ...]) -> Parsed:
    """Fill classes of options from files and the command line by TRL's parser. Raises ConfigError."""
    if not torch.accelerator.is_available():
        files = files.without_accelerator()
    parser: Any = _Parser(kinds, allow_abbrev=False)
    known = sorted({action.dest for action in parser._actions if action.dest != "help"})
    parser.set_defaults_with_config(**{"output_dir": "", **files.values})
    try:
        *parts, rest = parser.parse_args_into_dataclasses(args=without(words, "config"), return_remaining_strings=True)
    except REFUSALS as error:
        raise ConfigError(" ".join(str(error).split())) from error
    if rest:
        raise ConfigError(f"unknown option {rest[0]}{nearest(rest[0].lstrip('-'), known)}")
    flags = frozenset(word[2:].partition("=")[0] for word in words if word.startswith("--")) & set(known)
    values = dict(files.values)
    for name in flags:
        values[name] = _plain(getattr(next(part for part in parts if hasattr(part, name)), name))
    return Parsed(tuple(parts), files, flags, values)


def _plain(value: Any) -> Any:
    """What a library made of an option's value, as YAML can hold it."""
    if isinstance(value, enum.Enum):
        return value.value
    return value.to_dict() if hasattr(value, "to_dict") else value


def refuse_unsupported(arguments: TrainingArguments) -> None:
    """Raises ConfigError for the options of transformers that no kind of run honours."""
    if arguments.enable_jit_checkpoint:
        raise ConfigError("--enable_jit_checkpoint: leave it out; every run saves a checkpoint at SIGTERM anyway")


Arguments = TypeVar("Arguments", bound=TrainingArguments)


def with_values(arguments: Arguments, **values: Any) -> Arguments:
    """A copy of a library's options with other values. Its own checks are not run again: they would read what they have
    written as if a person had."""
    made = copy.copy(arguments)
    for name, value in values.items():
        setattr(made, name, value)
    return made


def without_token(arguments: Arguments) -> tuple[Arguments, dict[str, str]]:
    """The options without `--hub_token`, and the environment variable that huggingface_hub looks for it in: the options are
    written into every checkpoint and given to trackers."""
    if not arguments.hub_token:
        return arguments, {}
    return with_values(arguments, hub_token=None), {"HF_TOKEN": arguments.hub_token}


class _Parser(TrlParser):
    def error(self, message: str) -> NoReturn:
        """In place of argparse's exit with two screens of usage."""
        raise ConfigError(message)
