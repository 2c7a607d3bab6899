"""The run folder: opening one, finding where a stopped run goes on, and the small files in it.

Not here: its samples (`vlrl.training.run_data`), its weights (`vlrl.training.weights`), its numbers (`vlrl.training.report`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainingArguments

from vlrl.data.files import disk_is_full, free_mib, write_json_lines, write_whole
from vlrl.data.masking import MASK, masked_command, masked_value
from vlrl.schema import Prediction
from vlrl.tasks.evaluate import versions
from vlrl.training import stopping
from vlrl.training.checkpoints import clear_partial, write_together
from vlrl.training.metrics_log import drop_after, early_stopped_of, has_ended, steps_of_ended_training
from vlrl.training.options import ConfigError
from vlrl.training.run_lock import FolderInUse, lock_folder
from vlrl.training.run_status import clear_ending
from vlrl.training.whole_checkpoints import STATE, checkpoint_problem, newest_whole

RESUME_LAST = ("true", "last", "1", "yes")
CONFIG_FILE = "config.yaml"
OF_ONE_START = ("output_dir", "resume_from_checkpoint", "dry_run", "save_minutes", "max_hours")
"""Options that say where and how long a run runs, not what it is."""
REPORT = ("summary.json", "held_out.jsonl", "samples.png")
SEEN_WITHIN_S = 30.0
"""How long a file of the first process may take to be seen by another node: shared disks remember what was not there."""
AFTER_TRAINING = (
    "final",
    "adapter",
    "prime",
    "predictions_after.jsonl",
    "scores_after.jsonl",
    "held_out_images",
    *REPORT,
    "bench/after",
    "bench/diff",
)
"""What is made of the trained weights, and no longer true once they are trained on."""


@dataclass(frozen=True)
class RunFolder:
    path: Path
    checkpoint: str | None
    """Where to go on from, or None for a fresh start."""
    resuming: bool
    is_named: bool = False
    """Whether the checkpoint was named on the command line: then the run goes on from it, whatever was trained after it."""
    note: str = ""
    """What a person must know of newer checkpoints that were passed over."""

    @property
    def step(self) -> int:
        """The step to go on from."""
        return int(self.checkpoint.rsplit("-", 1)[1]) if self.checkpoint else 0

    @property
    def last_step(self) -> int:
        """The last step whose weights are there: in the checkpoint or in `final/`."""
        has_final = self.resuming and not self.is_named and (self.path / "final").is_dir()
        return max(self.step, steps_of_ended_training(self.path / "metrics.jsonl") if has_final else 0)


def open_run(arguments: TrainingArguments, name: str, words: Sequence[str] = ()) -> RunFolder:
    """Create the run's folder and hold it for this program, or find the checkpoint to go on from. `words`: the command line's
    flags. Raises ConfigError where data could be lost."""
    wanted = arguments.resume_from_checkpoint
    wanted = None if wanted in (None, "", "false", "False") else str(wanted)
    named = arguments.output_dir
    checkpoint: str | None = None
    is_named = wanted is not None and wanted.lower() not in RESUME_LAST
    if wanted is not None and is_named:
        if problem := checkpoint_problem(Path(wanted)):
            whole = newest_whole(Path(wanted).resolve().parent).path
            hint = f"; the newest whole checkpoint of its run is {whole}" if whole else ""
            raise ConfigError(f"--resume_from_checkpoint {wanted}: {problem}{hint}")
        checkpoint = wanted
        named = named or str(Path(wanted).resolve().parent)
    elif wanted is not None and not named:
        raise ConfigError("--resume_from_checkpoint true: name the run to go on with, --output_dir runs/<its folder>")
    if not named:
        shared = [f"runs/{name}-{time.strftime('%Y%m%d-%H%M%S')}"]
        if PartialState().num_processes > 1:
            broadcast_object_list(shared)
        named = shared[0]
    path = Path(named)
    if wanted is None and (path / CONFIG_FILE).exists():
        raise _already_holds(path)
    PartialState().wait_for_everyone()
    _hold(path)
    if PartialState().num_processes > int(os.environ.get("LOCAL_WORLD_SIZE", PartialState().num_processes)):
        check_shared(path)
    if wanted is None and (path / CONFIG_FILE).exists():
        raise _already_holds(path)
    note = ""
    if wanted is not None and checkpoint is None:
        found = newest_whole(path)
        checkpoint, note = found.path, found.note
        if checkpoint is None and found.damaged:
            raise ConfigError(
                f"--resume_from_checkpoint {wanted}: no checkpoint of {path} is whole: {'; '.join(found.damaged)}. Copy"
                " them again, or start anew in another --output_dir"
            )
    stopping.current().folder = path
    stopping.current().go_on = stopping.resume_command(words, path)
    if wanted is not None and PartialState().is_main_process:
        clear_partial(path)
    PartialState().wait_for_everyone()
    return RunFolder(path, checkpoint, resuming=wanted is not None, is_named=is_named, note=note)


def _already_holds(path: Path) -> ConfigError:
    return ConfigError(
        f"--output_dir {path} already holds a run; go on with it by --resume_from_checkpoint true, or name another"
    )


def _hold(path: Path) -> None:
    """Create the folder and its lock, on the first process; every process learns where that fails. Raises ConfigError."""
    problem = ""
    if PartialState().is_main_process:
        try:
            path.mkdir(parents=True, exist_ok=True)
            lock_folder(path, "--output_dir", lambda line: print(f"note      {line}", flush=True))
        except FolderInUse as error:
            problem = str(error)
        except OSError as error:
            room = f" ({free_mib(path)} MiB free)" if disk_is_full(error, path) else ""
            problem = f"--output_dir {path}: {error.strerror or error}{room}"
    shared = [problem]
    if PartialState().num_processes > 1:
        broadcast_object_list(shared)
    if shared[0]:
        raise ConfigError(shared[0])


def check_shared(path: Path) -> None:
    """Every node sees the run's folder: checkpoints hold files of all processes. Raises ConfigError, on all of them."""
    state = PartialState()
    named = [f".shared-{uuid.uuid4().hex[:8]}"]
    broadcast_object_list(named)
    probe = path / named[0]
    if state.is_main_process:
        with contextlib.suppress(OSError):  # a full disk is said by `check_writable`
            probe.touch()
    state.wait_for_everyone()
    made = gather_object([state.is_main_process and probe.exists()])

    def check() -> None:
        until = time.monotonic() + SEEN_WITHIN_S
        while any(made) and not os.path.exists(probe):
            if time.monotonic() > until:
                raise ConfigError(
                    f"--output_dir {path}: process {state.process_index} on {socket.gethostname()} does not see what the first"
                    " process wrote there; name a folder on a disk that all nodes share"
                )
            time.sleep(0.2)

    check_together(check)
    if state.is_main_process:
        probe.unlink(missing_ok=True)


def settle_config(values: Mapping[str, Any], opened: RunFolder, say: Callable[..., object]) -> None:
    """Write `config.yaml`; of a run that goes on, say which options are others than it was started with (a run that was killed
    before it had a `config.yaml` gets one). Raises RunStopped where the disk is full."""
    path = opened.path / CONFIG_FILE

    def settle() -> None:
        if not path.is_file():
            write_config(values, opened.path)
        clear_ending(opened.path)
        for line in changed_options(path, values):
            say(f"note      {line}")

    write_together(opened.path, CONFIG_FILE, settle)


def changed_options(path: Path, values: Mapping[str, Any]) -> list[str]:
    """In which options `values` differ from those in a run's `config.yaml`, one line each."""
    try:
        before = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        before = None
    if not isinstance(before, dict):
        return [f"{path} cannot be read: whether the options are those of the run is not known"]
    now = yaml.safe_load(config_text(values)) or {}
    names = sorted(key for key in {*before, *now} - set(OF_ONE_START) if before.get(key) != now.get(key))
    absent = "its default"
    return [
        f"--{key} is {now.get(key, absent)} now; {path} says {before.get(key, absent)}: what is still to do is done with"
        f" {now.get(key, absent)}"
        for key in names
    ]


def write_config(values: Mapping[str, Any], folder: Path) -> None:
    """`config.yaml`: everything that was set, the command and the versions; `--config` on it repeats the run."""
    head = [f"# {shlex.join(['vlrl/train.py', *masked_command(sys.argv[1:])])}"]
    head += [f"# {name} {version}" for name, version in versions().items()]
    write_whole(folder / CONFIG_FILE, "\n".join(head) + "\n" + config_text(values))


def config_text(values: Mapping[str, Any]) -> str:
    """What was set as YAML, without the options that name one run's folder, and without keys and passwords: options that are
    one are left out, others hold `vlrl.data.masking.MASK` in its place."""
    left_out = set(OF_ONE_START)
    left_out |= {key for key, value in values.items() if masked_value(value, key) == MASK}
    values = masked_value({key: v for key, v in values.items() if key not in left_out})
    return str(yaml.safe_dump(values, sort_keys=True, allow_unicode=True))


def trained_weights(opened: RunFolder, n_steps: int, *, best_at_end: bool = False) -> Path | None:
    """Where the weights are of a run that has taken its `n_steps` already, or was ended by early stopping: its last checkpoint
    (`best_at_end`: its best one) or `final/`. None where there is something to train.

    Raises ConfigError where it is to train on and cannot: `final/` is there, but no checkpoint with the optimizer's state.
    """
    if not opened.resuming:
        return None
    final, ended, metrics = opened.path / "final", 0, opened.path / "metrics.jsonl"
    if final.is_dir() and not opened.is_named:
        ended = steps_of_ended_training(metrics)
    if early_stopped_of(metrics) == n_steps and not opened.is_named:
        n_steps = steps_of_ended_training(metrics)
    if best_at_end and opened.checkpoint is not None and not opened.is_named and has_ended(metrics, n_steps):
        return best_checkpoint_of(Path(opened.checkpoint))  # later checkpoints may have been removed
    if opened.checkpoint is not None and opened.step >= max(n_steps, ended):
        return best_checkpoint_of(Path(opened.checkpoint)) if best_at_end else Path(opened.checkpoint)
    if ended >= n_steps:
        return final
    if ended and opened.checkpoint is None:
        raise ConfigError(
            f"{opened.path} has ended after {ended} steps and holds no checkpoint, so it cannot go on to step {n_steps}: the"
            f" optimizer's state is missing. Start a new run from {final} (--model_name_or_path), or repeat the run in another"
            " folder"
        )
    return None


def best_checkpoint_of(checkpoint: Path) -> Path:
    """The best checkpoint of a run by what its last one says; itself where that one is gone or none was the best."""
    step = json.loads((checkpoint / STATE).read_text(encoding="utf-8")).get("best_global_step")
    best = checkpoint.parent / f"checkpoint-{step}"
    return best if step and best.is_dir() else checkpoint


def forget_later(opened: RunFolder, say: Callable[..., object] = print) -> None:
    """Before a run trains on: drop what it logged beyond its checkpoint, and what was measured of weights that will change.

    Later checkpoints (where the run goes on from an earlier one) get another name, so that no start takes them for its own.
    """
    folder = opened.path
    for path in folder.glob("checkpoint-*"):
        number = path.name.removeprefix("checkpoint-")
        if number.isdigit() and int(number) > opened.step:
            aside = path.with_name(f"replaced-{path.name}")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            say(f"note      {path} is later than where the run goes on, and is kept as {aside.name}")
    drop_after(folder / "metrics.jsonl", opened.step)
    for path in (folder / "completions").glob("step_*.jsonl"):
        number = path.stem.removeprefix("step_")
        if number.isdigit() and int(number) > opened.step:
            path.unlink()
    for name in AFTER_TRAINING:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def check_together(check: Callable[[], None]) -> None:
    """Call `check` on every process; where it raises ConfigError on one, all raise it.

    A disk may be full for one of them alone, or a moment later, and the others would wait for it.
    """
    problem = ""
    try:
        check()
    except ConfigError as error:
        problem = str(error)
    problems = gather_object([problem]) if PartialState().num_processes > 1 else [problem]
    if problem := next(filter(None, problems), ""):
        raise ConfigError(problem)


def check_disk(needed: int, folder: Path) -> None:
    """Refuse to start where the disk has not `needed` bytes. Raises ConfigError."""

    def check() -> None:
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise ConfigError(
                f"{folder} has {free // 2**20} MiB free, but one checkpoint and the final weights take about"
                f" {needed // 2**20} MiB; free some space or name another --output_dir"
            )

    check_together(check)


def write_predictions(path: Path, predictions: Sequence[Prediction]) -> None:
    write_json_lines(path, [dataclasses.asdict(prediction) for prediction in predictions])


def read_predictions(path: Path) -> list[Prediction] | None:
    if not path.is_file():
        return None
    return [Prediction(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
