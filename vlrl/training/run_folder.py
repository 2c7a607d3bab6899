"""The run folder: opening one, finding where a stopped run goes on, and the small files in it.

Not here: its samples (`vlrl.training.run_data`), its weights (`vlrl.training.weights`), its numbers (`vlrl.training.report`).
"""

from __future__ import annotations

import dataclasses
import json
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
from transformers import TrainingArguments

from vlrl.schema import Prediction
from vlrl.tasks.evaluate import versions
from vlrl.training.checkpoints import last_checkpoint
from vlrl.training.options import ConfigError

RESUME_LAST = ("true", "last", "1", "yes")


@dataclass(frozen=True)
class RunFolder:
    path: Path
    checkpoint: str | None
    """Where to go on from, or None for a fresh start."""
    resuming: bool

    @property
    def step(self) -> int:
        """The step to go on from."""
        return int(self.checkpoint.rsplit("-", 1)[1]) if self.checkpoint else 0


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


def write_config(values: Mapping[str, Any], folder: Path) -> None:
    """`config.yaml`: everything that was set, the command and the versions; `--config` on it repeats the run."""
    head = [f"# {' '.join(shlex.quote(word) for word in ['vlrl/train.py', *sys.argv[1:]])}"]
    head += [f"# {name} {version}" for name, version in versions().items()]
    text = "\n".join(head) + "\n" + config_text(values)
    (folder / "config.yaml").write_text(text, encoding="utf-8")


def config_text(values: Mapping[str, Any]) -> str:
    """What was set as YAML, without the options that name one run's folder."""
    values = {key: v for key, v in values.items() if key not in ("output_dir", "resume_from_checkpoint", "dry_run")}
    return str(yaml.safe_dump(values, sort_keys=True, allow_unicode=True))


def check_disk(needed: int, folder: Path) -> None:
    """Refuse to start where the disk has not `needed` bytes. Raises ConfigError."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ConfigError(
            f"{folder} has {free // 2**20} MiB free, but one checkpoint and the final weights take about"
            f" {needed // 2**20} MiB; free some space or name another --output_dir"
        )


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
