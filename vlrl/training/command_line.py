"""A training run's command line, read and checked before any library is loaded: one line for what is wrong, in a second.

`vlrl.training.config` then parses the same words with TRL's parser, which knows the values of its options better.
"""

from __future__ import annotations

import dataclasses
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from vlrl.data.masking import MASK, address_problem
from vlrl.data.name_values import nearest
from vlrl.gtr import options as gtr_options
from vlrl.gtr.options import GuideConfig, GuideOptions, read_curriculum, read_guide
from vlrl.models.names import model_name_problem
from vlrl.schema import Task
from vlrl.training import benchmark_flags, engine_options, monitor_options, options, prompt_options, regulariser_options
from vlrl.training.benchmark_flags import BenchConfig, Benches, read_benches
from vlrl.training.dpo import options as dpo_options
from vlrl.training.dpo.options import DpoOptions
from vlrl.training.engine_options import check_engines
from vlrl.training.evaluation_flags import evaluation_defaults
from vlrl.training.flag_checks import check_values
from vlrl.training.flag_needs import check_effect
from vlrl.training.flags import with_underscores
from vlrl.training.library_options import Option, library_options, read_options
from vlrl.training.monitor_options import check_monitor
from vlrl.training.number_ranges import check_option_numbers
from vlrl.training.options import ConfigError, FileValues, RunConfig
from vlrl.training.prm import options as prm_options
from vlrl.training.prm.options import PrmOptions
from vlrl.training.prompt_options import PromptConfig, check_prompts
from vlrl.training.regulariser_options import check_regularisers
from vlrl.training.reward_models.options import RmOptions
from vlrl.training.reward_models.run_checks import check_model_rewards, check_prime

Filled = TypeVar("Filled", RunConfig, GuideConfig, BenchConfig, PromptConfig, PrmOptions, RmOptions, DpoOptions)
CONFIG = Option("config", "str | None", help="YAML file of options; the command line is stronger.")
OFTEN = {
    "model_name_or_path": "tiny, tiny-cards (embedded), a folder, or a hub id such as Qwen/Qwen2.5-VL-3B-Instruct.",
    "output_dir": "Folder of the run. Default: runs/<task>-<time>.",
    "max_steps": "Optimizer steps (num_train_epochs counts where it is -1).",
    "num_generations": "Completions of each prompt: the size of a group.",
    "per_device_train_batch_size": "Completions a device and step; groups must be whole.",
    "gradient_accumulation_steps": "Batches a step.",
    "learning_rate": "Peak learning rate.",
    "beta": "Weight of the KL term; 0 loads no reference model.",
    "temperature": "Of sampling.",
    "max_completion_length": "Most tokens of a completion.",
    "use_peft": "Train adapters (LoRA) instead of all weights; see lora_r, lora_alpha.",
    "use_vllm": "Generate with vLLM.",
    "save_steps": "Steps between checkpoints.",
    "resume_from_checkpoint": "true (with --output_dir), or the folder of a checkpoint.",
    "report_to": "tensorboard, wandb, none, ... Default: tensorboard.",
    "seed": "Of data order, sampling and new weights.",
}
"""The libraries' options that `--help` explains, in our words."""

TRACKER = "tensorboard"
"""What logs a run where `report_to` is not set."""


@dataclass(frozen=True)
class GrpoWords:
    """What a checked command line of a GRPO run names."""

    files: FileValues
    defaults: dict[str, Any]
    """Of TRL's options, where nothing else is set."""
    turns: tuple[Task, ...]
    guide: GuideOptions
    curriculum: tuple[Task, float] | None
    benches: Benches


def check_command_line(argv: Sequence[str]) -> Mapping[str, str]:
    """Refuse a command line of `vlrl/train.py` that cannot work. Returns what its files set in the environment. Raises
    ConfigError; SystemExit(0) after `--help`."""
    words = with_underscores(argv)
    if dpo_options.is_dpo(words):
        return read_dpo_words(words).environment
    if prm_options.is_requested(words):
        return read_prm_words(words).environment
    return read_grpo_words(words).files.environment


def group_options(argv: Sequence[str]) -> dict[str, Any]:
    """What files and words of a command line say of the group of its processes. Nothing where they are wrong, which is said
    when they are checked."""
    words = with_underscores(argv)
    try:
        if dpo_options.is_dpo(words):
            known, files = Known(dpo_options.dpo_flags(), _of_libraries("dpo", "model")), dpo_options.read_dpo_files(words)
        elif prm_options.is_requested(words):
            known, files = Known(prm_options.prm_flags(), _of_libraries("training", "model")), prm_options.read_prm_files(words)
        else:
            known, files = Known(our_options(), _of_libraries("grpo", "model")), options.read_files(words)
        values = {**files.values, **read_words(words, known)}
    except ConfigError:
        return {}
    return {name: values[name] for name in ("ddp_timeout", "ddp_backend") if name in values}


def read_grpo_words(words: Sequence[str]) -> GrpoWords:
    """A run of GRPO or the supervised stage: its words, files and our own options, checked. Raises ConfigError."""
    known = Known(our_options(), _of_libraries("grpo", "model"))
    given = read_words(words, known)
    files = options.read_files(words)
    check_keys(files, known)
    values = {"report_to": TRACKER, **files.values, **given}
    check_model(values)
    check_option_numbers(values, known)
    check_values(values, environ={**os.environ, **files.environment})
    check_effect(given, values, known)
    check_effect(files.explicit, files.values, known)
    turns = options.named_tasks(str(values.get("task", RunConfig.task)))
    run, guide, bench = _filled(RunConfig, values), _filled(GuideConfig, values), _filled(BenchConfig, values)
    options.check_run(run)
    check_prompts(_filled(PromptConfig, values))
    options.check_tasks(run, turns)
    run, values = check_prime(run, values, turns)
    options.check_rewards(run, {task.name: task for task in turns}, values.get("reward_weights"))
    check_model_rewards(run.rewards, values)
    check_monitor(values, turns, run.rewards or ())
    check_regularisers(values, turns, run.rewards or ())
    options.check_groups(values)
    check_engines(values)
    try:
        guided, curriculum = read_guide(guide), read_curriculum(guide.curriculum, turns)
        guided.n_guided(int(values.get("num_generations") or 8))
        benches = read_benches(bench)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    defaults = {"report_to": TRACKER, **evaluation_defaults(values, turns)}
    if int(values.get("dataloader_num_workers") or 0):
        defaults["dataloader_multiprocessing_context"] = "fork"  # newer Pythons start workers otherwise
    return GrpoWords(files, defaults, turns, guided, curriculum, benches)


def read_prm_words(words: Sequence[str]) -> FileValues:
    """A run of `--task prm` or `--task rm`: the same. Returns what files set."""
    known = Known(prm_options.prm_flags(), _of_libraries("training", "model"))
    given = read_words(words, known, f"--task {prm_options.task_of(words)} has no option", prm_options.hint)
    files = prm_options.read_prm_files(words)
    check_keys(files, known)
    values = {**files.values, **given}
    check_model(values)
    check_option_numbers(values, known)
    own = {name: value for name, value in values.items() if name != "loss_type"}  # which is a name of ours here
    check_values(own, measures=False, environ={**os.environ, **files.environment})
    prm_options.check(_filled(RunConfig, values), _filled(PrmOptions, values), _filled(RmOptions, values))
    return files


def read_dpo_words(words: Sequence[str]) -> FileValues:
    """A run of `--stage dpo`: the same. Returns what files set."""
    known = Known(dpo_options.dpo_flags(), _of_libraries("dpo", "model"))
    given = read_words(words, known, "--stage dpo has no option", dpo_options.dpo_hint)
    files = dpo_options.read_dpo_files(words)
    check_keys(files, known)
    values = {**files.values, **given}
    check_model(values)
    check_option_numbers(values, known)
    own = {name: value for name, value in values.items() if name != "loss_type"}  # which has other words here
    check_values(own, measures=False, environ={**os.environ, **files.environment})
    dpo_options.check_dpo(_filled(RunConfig, values), _filled(DpoOptions, values), {**files.explicit, **given})
    return files


def our_options() -> dict[str, Option]:
    """The options that TRL does not have."""
    sources = [(options, "RunConfig"), (prompt_options, "PromptConfig"), (engine_options, "EngineConfig")]
    sources += [(monitor_options, "MonitorConfig"), (regulariser_options, "RegulariserConfig")]
    sources += [(gtr_options, "GuideConfig"), (benchmark_flags, "BenchConfig")]
    found: dict[str, Option] = {}
    for module, name in sources:
        found |= read_options(Path(str(module.__file__)), name)
    return {**found, "config": CONFIG}


def _of_libraries(*groups: str) -> dict[str, Option]:
    try:
        return library_options(*groups)
    except (OSError, KeyError) as error:
        raise ConfigError(f"the options of TRL and transformers cannot be read ({error}); is vlrl installed whole?") from error


class Known(dict[str, Option]):
    """The options of one kind of run by name: `ours`, then those of the libraries that we do not have too."""

    def __init__(self, ours: Mapping[str, Option], libraries: Mapping[str, Option]) -> None:
        super().__init__({**libraries, **ours})
        self.ours = dict(ours)
        self.libraries = {name: option for name, option in libraries.items() if name not in ours}


def read_words(
    words: Sequence[str],
    known: Known,
    unknown: str = "unknown option",
    hint: Callable[[str], str] = lambda _name: "",
) -> dict[str, Any]:
    """The values of `--name value`, `--name=value`, `--flag`, `--no_flag` and `--names a b`. Raises ConfigError for an unknown
    option (`unknown` begins the message, `hint` adds to it), a missing or wrong value and a superfluous word."""
    if {"-h", "--help"} & set(words):
        print(help_text(known))
        raise SystemExit(0)
    extra: list[str] = []
    groups: list[tuple[str, list[str]]] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            groups.append((name, [value] if equals else []))
        else:
            (groups[-1][1] if groups else extra).append(word)
    found: dict[str, Any] = {}
    for name, taken in groups:
        bare = name.removeprefix("no_")
        if name not in known and bare in known and known[bare].is_bool:
            found[bare], n_wanted = False, 0
        elif name not in known:
            raise ConfigError(f"{unknown} --{name}{hint(name)}{nearest(name, known)}")
        elif not taken and not (known[name].is_bool or known[name].is_switch):
            raise ConfigError(f"--{name}: give a value")
        else:
            n_wanted = len(taken) if known[name].is_list else 1
            refuse_keys(name, taken[:n_wanted])
            found[name] = _value(known[name], taken[:n_wanted])
        extra += taken[n_wanted:]
    if extra:
        raise ConfigError(f"unexpected words on the command line: {' '.join(extra)}")
    return found


def refuse_keys(name: str, words: Any, source: str = "") -> None:
    """Raises ConfigError where an option's value holds an address with a key or password, or one that was masked."""
    problem = address_problem(name, words)
    if problem is None and any(MASK in word for word in words if isinstance(word, str)):
        problem = f"{MASK} stands for a key or password, which no run writes down; give it again"
    if problem is not None:
        raise ConfigError(f"--{name}{source}: {problem}")


def _value(option: Option, words: Sequence[str]) -> Any:
    try:
        return option.value(words)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def check_keys(files: FileValues, known: Mapping[str, Option]) -> None:
    """Every key of a file is an option, and its value one of those it allows. Raises ConfigError."""
    for key, value in files.values.items():
        if key not in known:
            raise ConfigError(f"unknown option {key!r} in {files.sources[-1]}{nearest(key, known)}")
        source = f" in {files.sources[-1]}" if files.sources else ""
        refuse_keys(key, value if isinstance(value, list) else [value], source)
        choices = known[key].choices
        if choices and value is not None and str(value) not in choices:
            raise ConfigError(f"{key}: {value} in {files.sources[-1]}: must be one of {', '.join(choices)}")


def check_model(values: Mapping[str, Any]) -> None:
    """`--model_name_or_path` could be a model. Raises ConfigError before a hub is asked."""
    problem = model_name_problem(str(values["model_name_or_path"]))
    if problem:
        raise ConfigError(f"--model_name_or_path {problem}")


def _filled(kind: type[Filled], values: Mapping[str, Any]) -> Filled:
    names = {field.name for field in dataclasses.fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def help_text(known: Known) -> str:
    """Our own options and the most used of the libraries' with what they do, all others by name."""
    lines = [
        "torchrun vlrl/train.py [--task detection] [--config my.yaml] [--option value ...]",
        "Supervised start and GRPO; the numbers before and after land in the run's folder.",
        "\nOptions of vlrl:",
        *(_explained(option) for option in known.ours.values()),
        "\nOptions of TRL and transformers that are set most often:",
        *(_explained(replace(known.libraries[name], help=text)) for name, text in OFTEN.items() if name in known.libraries),
        "\nFurther options of theirs (https://huggingface.co/docs/trl/grpo_trainer#trl.GRPOConfig explains them):",
        textwrap.fill(" ".join(sorted(set(known.libraries) - set(OFTEN))), 116, initial_indent="  ", subsequent_indent="  "),
    ]
    return "\n".join(lines)


def _explained(option: Option) -> str:
    default = f" [{option.shown_default}]" if option.shown_default else ""
    text = textwrap.fill(option.help + default, 116, initial_indent=" " * 32, subsequent_indent=" " * 32)
    head = f"  --{option.name}"
    return f"{head:<31} {text.lstrip()}" if len(head) < 31 else f"{head}\n{text}"
