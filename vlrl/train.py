"""`torchrun vlrl/train.py --task detection`: supervised start, GRPO, and the numbers before and after.

Reads from top to bottom like a recipe; every step is a chapter of its own elsewhere.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import warnings
from pathlib import Path

# As a script, Python puts this folder first on the path, where our module names would hide libraries.
if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
    sys.path.pop(0)
if __name__ == "__main__":  # a wrong flag is answered before the libraries below load
    from vlrl.training.console import check_flags

    if (exit_code := check_flags(sys.argv[1:])) is not None:
        sys.exit(exit_code)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# transformers renames gradient checkpointing; TRL still passes the old name, and users can do nothing about it.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn

import torch
from accelerate import PartialState
from transformers.utils import logging as transformers_logging
from trl import get_peft_config  # type: ignore[attr-defined]
from trl.models import unwrap_model_for_generation  # type: ignore[attr-defined]

from vlrl.gtr import Corrector
from vlrl.models.generate import generate
from vlrl.models.inputs import ImageError
from vlrl.models.load import LoadedModel
from vlrl.models.names import TINY_NAMES, ModelError
from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.schema import Prediction, SampleError, TaskError
from vlrl.tasks.evaluate import before_and_after, evaluate, headline, write_json
from vlrl.tasks.rubric import Rubric
from vlrl.training import banner, report, run_data, run_folder, weights
from vlrl.training import benchmark_after as before_after
from vlrl.training.checkpoints import RunStopped, disk_is_full
from vlrl.training.config import Config, parse
from vlrl.training.console import refuse
from vlrl.training.correctors import make_corrector, make_probe
from vlrl.training.events import EventLog, read_stop_on
from vlrl.training.flags import with_underscores
from vlrl.training.grpo import Curriculum, Guide, Trainer
from vlrl.training.options import ConfigError
from vlrl.training.prm.config import parse_prm
from vlrl.training.prm.options import is_requested as is_prm
from vlrl.training.prm.recipe import train_value_model
from vlrl.training.sft import supervise


def main(argv: list[str] | None = None) -> int:
    """Parse, train, report. Returns the process' exit code: 0 done, 1 stopped on the way, 2 could not start."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    words = sys.argv[1:] if argv is None else argv
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        if is_prm(with_underscores(words)):
            train_value_model(parse_prm(words), say_first())
            around = None  # it measures itself
        else:
            around = train(parse(words))
        finish()
        return benchmark(around) if around is not None and first else 0
    except (ConfigError, SampleError, ModelError, NotShared) as error:
        return refuse(f"error: {error}", 2)
    except TaskError as error:  # on any process: another may not have met it
        if not first:
            print(f"stopped: {error}", file=sys.stderr, flush=True)
        return refuse(f"stopped: {error}", 1)
    except (RunStopped, ImageError) as error:
        return refuse(f"stopped: {error}", 1)
    except Exception as error:
        if not disk_is_full(error, Path.cwd()):
            raise
        return refuse(
            f"stopped: no space left: {error}\nWhat was written before is safe; free some space, then go on with"
            " --resume_from_checkpoint true and the same --output_dir",
            1,
        )
    return 0


def finish() -> None:
    """Leave the process group, all together."""
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def benchmark(around: before_after.Around) -> int:
    """Measure before and after beside each other, once the run is written and its memory is free. Returns the exit code."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return 0 if before_after.write_benchmarks(around, partial(print, flush=True)) else 1


def leave(code: int) -> NoReturn:
    """End this process; where several were successful, without taking the interpreter apart first.

    Gloo's threads release the tensors of a gather a moment after it has returned. Where the interpreter is ending by then, they
    cannot have its lock and abort a process that had finished (seen in one run of six). So what is registered to run at exit is
    run, what is printed is flushed, and the process ends.
    """
    if code == 0 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def train(config: Config) -> before_after.Around | None:
    """One run, from a resolved configuration to `summary.json`. Returns the benchmarks that `--bench` names, or None."""
    say = say_first()
    task = f"{', '.join(config.tasks)}, stage {config.run.stage}"
    say(banner.run_line(task, config.grpo.seed, n_processes(), config.sources))
    if config.run.dry_run:
        if "grpo" in config.stages:
            say(banner.steps_line(config, n_processes()))
        say(f"\n{run_folder.config_text(config.values)}")
        return None
    run = prepare(config, say)
    if "sft" in config.stages and run_data.is_shipped_start(config):
        name = config.model.model_name_or_path
        recipe = f"vlrl/models/assets/{name}/recipe.json"
        say(banner.banner_line("sft", f"the shipped cold start of `{name}` (how it was trained: {recipe})"))
    elif "sft" in config.stages:
        supervised_stage(run)
    if "grpo" in config.stages:
        grpo_stage(run)
    else:
        run.predictions["before"] = run.predictions.pop("start")
        weights.promote(run.finished_sft, run.folder / "final")
        run.measure("after")
    if PartialState().is_main_process:
        print(write_report(run), flush=True)
    return run.around


@dataclass
class TrainingRun:
    """A run under way: what was prepared, and what has been measured so far."""

    config: Config
    say: Callable[..., None]
    opened: run_folder.RunFolder
    loaded: LoadedModel
    data: run_data.RunData
    rubric: Rubric
    around: before_after.Around | None = None
    corrector: Corrector | None = None
    events: EventLog | None = None
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"sft": 0.0, "grpo": 0.0})

    @property
    def folder(self) -> Path:
        return self.opened.path

    @property
    def finished_sft(self) -> Path:
        return self.folder / "sft" / "final"

    def measure(self, name: str, model: Any = None) -> None:
        """Greedy completions of the held-out samples, kept in the folder (and taken from there when a run is resumed)."""
        path = self.folder / f"predictions_{name}.jsonl"
        done = run_folder.read_predictions(path) if self.opened.resuming else None
        if done is None or [p.id for p in done] != [s.id for s in self.data.held_out]:
            done = generate(
                self.loaded,
                self.config.tasks,
                self.data.held_out,
                max_new_tokens=self.config.max_tokens,
                batch_size=self.config.grpo.per_device_eval_batch_size,
                model=model,
                label=f"measuring {name}",
            )
            if PartialState().is_main_process:
                run_folder.write_predictions(path, done)
        self.predictions[name] = done

    def begin_events(self) -> None:
        """The GRPO stage begins, or goes on; what is known of its data is said."""
        if self.events is not None:
            self.events.begin("grpo", after=self.opened.step)
            for event in run_data.data_events_of(self.config, self.data, n_processes()):
                self.events.add_once(event)


def prepare(config: Config, say: Callable[..., None]) -> TrainingRun:
    """The run folder, the samples and their rewards, then the model: each checked before the next, costlier one."""
    opened = run_folder.open_run(config.grpo, "-".join(config.tasks))
    rows = run_data.read_data(config)
    rubric = run_data.choose_rubric(config, rows)
    finished_sft = opened.path / "sft" / "final"
    loaded = load(config, str(finished_sft) if opened.resuming and finished_sft.is_dir() else None)
    run_folder.check_disk(weights.disk_bytes(loaded, config.grpo, config.model.use_peft), opened.path)
    data = run_data.prepare_data(config, rows, loaded)
    length = run_data.fit_length(config, loaded, data)
    first = data.held_out[0]
    say(banner.model_line(loaded))
    say(banner.banner_line("attention", loaded.attention))
    say(banner.banner_line("data", data.description))
    say(banner.banner_line("rewards", ", ".join(reward.name for reward in rubric.rewards)))
    say(banner.example_lines(first, config.tasks[first.task]))
    say(banner.steps_line(config, n_processes(), length))
    say(banner.memory_line(loaded, config.model.use_peft))
    around = _around(config, opened.path, loaded)
    corrector = make_corrector(config, opened.path, say)
    if PartialState().is_main_process and not opened.resuming:
        run_folder.write_config(config.values, opened.path)
    say(banner.banner_line("config", str(opened.path / "config.yaml")))
    events = EventLog(opened.path if PartialState().is_main_process else None, read_stop_on(config.run.stop_on))
    return TrainingRun(config, say, opened, loaded, data, rubric, around, corrector, events)


def load(config: Config, name: str | None = None) -> LoadedModel:
    """The run's model, or another folder of it."""
    trusted = config.grpo.trust_remote_code
    return weights.load_start(config.model, config.run, config.grpo, trust_remote_code=trusted, name=name)


def _around(config: Config, folder: Path, loaded: LoadedModel) -> before_after.Around | None:
    """The benchmarks of this run, their flags and data checked. Raises ConfigError."""
    if not config.bench.names:
        return None
    around = before_after.Around(config, folder, loaded.coords, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if PartialState().is_main_process:
        around.check()
    return around


def supervised_stage(run: TrainingRun) -> None:
    """Imitate the targets of the training samples, unless a stopped run had done so already."""
    config, options = run.config, run.config.run
    run.measure("start")
    if run.opened.resuming and run.finished_sft.is_dir():
        return
    samples = run_data.sft_samples(config, run.loaded, run.data.train, n_processes())
    run.say(banner.banner_line("sft", f"{options.sft_steps} steps of {samples.n // options.sft_steps} samples"))
    run.seconds["sft"] = supervise(
        run.loaded,
        config.tasks,
        samples,
        run.folder / "sft",
        config.grpo,
        steps=options.sft_steps,
        batch_size=options.sft_batch_size,
        learning_rate=options.sft_learning_rate,
        muon=config.model.model_name_or_path in TINY_NAMES,
        freeze_vision=options.freeze_vision,
        peft_config=get_peft_config(config.model),
        target=options.sft_target,
        events=run.events,
    )
    run.loaded = load(config, str(run.finished_sft))


def grpo_stage(run: TrainingRun) -> None:
    """GRPO, measured before and after; leaves `final/`."""
    config, opened, say = run.config, run.opened, run.say
    run.measure("before")
    reference = weights.start_folder(run.loaded, run.folder)
    if config.grpo.beta:
        say(banner.banner_line("reference", reference))
    run.begin_events()
    trainer = Trainer(
        run.loaded,
        config.tasks,
        run.rubric.rewards,
        run.data.train,
        config.grpo,
        get_peft_config(config.model),
        base=run.rubric.base,
        applies=run.rubric.applies,
        dynamic_sampling=config.run.dynamic_sampling,
        freeze_vision=config.run.freeze_vision,
        group_shared=config.run.group_shared,
        guide=Guide(config.guide, run.corrector, make_probe(config, run.loaded, run.data.episodes)),
        episodes=run.data.episodes,
        curriculum=None if config.curriculum is None else Curriculum(*config.curriculum),
        events=run.events,
    )
    if opened.resuming and PartialState().is_main_process:
        report.drop_after(run.folder / "metrics.jsonl", opened.step)
        trainer.take_up_history(report.read_metrics(run.folder / "metrics.jsonl"))
        say(banner.banner_line("resuming", f"from {opened.checkpoint or 'the start: no checkpoint was complete'}"))
    started = time.monotonic()
    with trainer.steps:
        trainer.train(resume_from_checkpoint=opened.checkpoint)
    run.seconds["grpo"] = time.monotonic() - started
    weights.save_final(trainer, run.loaded, run.folder, reference)
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
        run.measure("after", model)
    unreadable = run.data.train.unreadable
    if unreadable:
        say(f"{len(unreadable)} samples had unreadable images: {', '.join(unreadable)}")


def write_report(run: TrainingRun) -> str:
    """Write the numbers and the images of a finished run; returns what to print, the written path last."""
    config, data, predictions, folder = run.config, run.data, run.predictions, run.folder
    evaluations = {name: evaluate(config.tasks, data.held_out, made) for name, made in predictions.items()}
    rows = report.read_metrics(folder / "metrics.jsonl")
    seconds = sum(run.seconds.values())
    summary = report.run_summary(
        task=",".join(config.tasks),
        model=config.model.model_name_or_path,
        data=data.description,
        stage=str(config.run.stage),
        seed=config.grpo.seed,
        steps=report.last_step(rows) if "grpo" in config.stages else config.run.sft_steps,
        seconds=seconds,
        headline=headline(config.tasks),
        evaluations=evaluations,
    )
    summary["stage_seconds"] = {name: round(value, 1) for name, value in run.seconds.items()}
    summary["n_unreadable_images"] = len(data.train.unreadable)
    summary["rewards"] = [reward.name for reward in run.rubric.rewards]
    summary["coords"] = run.loaded.coords
    notes = []
    if (thoughts := report.thought_changes(rows)) is not None:
        summary["thoughts"] = thoughts
        notes += [f"thoughts collapsed: {thoughts['collapsed']}"] if thoughts["collapsed"] else []
    if totals := report.corrector_totals(rows):
        summary["corrector"] = totals
    write_json(folder / "summary.json", summary)
    made = (predictions["before"], predictions["after"])
    measured = (evaluations["before"], evaluations["after"])
    run_folder.write_rows(folder / "held_out.jsonl", before_and_after(data.held_out, *measured, made))
    report.draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    report.draw_samples(config.tasks, data.held_out, made, measured, folder / "samples.png")
    title = f"{len(data.held_out)} held-out samples, greedy decoding, 95 % bootstrap intervals; trained for {seconds:.0f} s"
    return report.closing_lines(title, evaluations, notes, folder / "summary.json")


def n_processes() -> int:
    return int(PartialState().num_processes)


def say_first() -> Callable[..., None]:
    """`print` on the first process, nothing on the others."""
    return partial(print, flush=True) if PartialState().is_main_process else _silent


def _silent(*_words: Any, **_options: Any) -> None:
    """In place of `print`."""


if __name__ == "__main__":
    leave(main())
