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
from trl import get_peft_config, get_quantization_config
from trl.models import unwrap_model_for_generation

from vlrl.gtr import Corrector
from vlrl.models.generate import generate
from vlrl.models.inputs import ImageError
from vlrl.models.load import LoadedModel, load_model
from vlrl.models.names import TINY_NAMES, ModelError
from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.schema import Prediction, Sample, SampleError, TaskError
from vlrl.tasks.evaluate import before_and_after
from vlrl.tasks.rubric import Rubric
from vlrl.training import benchmark_after as before_after
from vlrl.training import report
from vlrl.training import run_folder as run
from vlrl.training.checkpoints import RunStopped, disk_is_full
from vlrl.training.config import Config, parse
from vlrl.training.console import refuse
from vlrl.training.correctors import make_corrector, make_probe
from vlrl.training.flags import with_underscores
from vlrl.training.grpo import Curriculum, Guide, Trainer
from vlrl.training.options import ConfigError
from vlrl.training.prm import recipe as prm_recipe
from vlrl.training.prm.config import parse_prm
from vlrl.training.prm.options import is_requested as is_prm
from vlrl.training.sft import supervise


def main(argv: list[str] | None = None) -> int:
    """Parse, train, report. Returns the process' exit code: 0 done, 1 stopped on the way, 2 could not start."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    words = sys.argv[1:] if argv is None else argv
    try:
        if is_prm(with_underscores(words)):
            prm_recipe.train(parse_prm(words), print if first else _silent)
        else:
            around = train(parse(words))
            finish()
            return benchmark(around) if around is not None and first else 0
        finish()
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
    return 0 if before_after.conclude(around, partial(print, flush=True)) else 1


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
    """One run, from a resolved configuration to `summary.json`. Returns what `--bench` asks for, or None."""
    state = PartialState()
    say = print if state.is_main_process else _silent
    transformers_logging.disable_progress_bar()
    say(describe(config, state.num_processes))
    if config.run.dry_run:
        return None
    job = prepare(config, say)
    if "sft" in config.stages and run.is_shipped_start(config):
        name = config.model.model_name_or_path
        say(f"sft       the shipped cold start of `{name}` (how it was made: vlrl/models/assets/{name}/recipe.json)")
    elif "sft" in config.stages:
        supervised_stage(job)
    if "grpo" in config.stages:
        grpo_stage(job)
    else:
        job.predictions["before"] = job.predictions.pop("start")
        run.promote(job.finished_sft, job.folder / "final")
        job.measure("after")
    if state.is_main_process:
        print(conclude(job), flush=True)
    return job.around


@dataclass
class Job:
    """A run under way: what was prepared, and what has been measured so far."""

    config: Config
    say: Callable[..., None]
    opened: run.RunFolder
    loaded: LoadedModel
    data: run.Data
    rubric: Rubric
    around: before_after.Around | None = None
    corrector: Corrector | None = None
    predictions: dict[str, list[Prediction]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"sft": 0.0, "grpo": 0.0})

    @property
    def folder(self) -> Path:
        return self.opened.path

    @property
    def finished_sft(self) -> Path:
        return self.folder / "sft" / "final"

    def measure(self, name: str, model: Any = None) -> None:
        """Greedy answers to the held-out samples, kept in the folder (and taken from there when a run goes on)."""
        path = self.folder / f"predictions_{name}.jsonl"
        done = run.read_predictions(path) if self.opened.resuming else None
        if done is None or [p.id for p in done] != [s.id for s in self.data.held_out]:
            done = generate(
                self.loaded,
                self.config.tasks,
                self.data.held_out,
                max_new_tokens=self.config.grpo.max_completion_length,
                batch_size=self.config.grpo.per_device_eval_batch_size,
                model=model,
                label=f"measuring {name}",
            )
            if PartialState().is_main_process:
                run.write_predictions(path, done)
        self.predictions[name] = done


def prepare(config: Config, say: Callable[..., None]) -> Job:
    """The run folder, the model, the data and the rewards, each checked before anything is trained."""
    run.try_before_loading(config)
    opened = run.open_folder(config)
    finished_sft = opened.path / "sft" / "final"
    go_on = opened.resuming and finished_sft.is_dir()
    loaded = _load(config, str(finished_sft) if go_on else config.model.model_name_or_path)
    run.check_disk(config, loaded, opened.path)
    data = run.load_data(config, loaded)
    say(f"model     {loaded.name}, {loaded.model.num_parameters() / 1e6:.2f} M parameters, {loaded.model.dtype}")
    say(f"attention {loaded.attention}")
    say(f"boxes     {loaded.coords} (from {loaded.coords_reason})")
    say(f"data      {data.description}")
    say(f"length    {run.fit_length(config, loaded, data)}")
    rubric = run.choose_rubric(config, data)
    say("rewards   " + ", ".join(reward.name for reward in rubric.rewards))
    say(_example(config, data.held_out[0]))
    around = _around(config, opened.path, loaded)
    corrector = make_corrector(config, opened.path, say)
    if PartialState().is_main_process and not opened.resuming:
        run.write_config(config, opened.path)
    return Job(config, say, opened, loaded, data, rubric, around, corrector)


def _around(config: Config, folder: Path, loaded: LoadedModel) -> before_after.Around | None:
    """The benchmarks of this run, their flags and data checked. Raises ConfigError."""
    if not config.bench.names:
        return None
    around = before_after.Around(config, folder, loaded.coords, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if PartialState().is_main_process:
        around.check()
    return around


def supervised_stage(job: Job) -> None:
    """Imitate the targets of the training samples, unless a stopped run had done so already."""
    config, options = job.config, job.config.run
    job.measure("start")
    if job.opened.resuming and job.finished_sft.is_dir():
        return
    samples = run.sft_samples(config, job.loaded, job.data.train, PartialState().num_processes)
    job.say(f"sft       {options.sft_steps} steps of {samples.n // options.sft_steps} samples")
    job.seconds["sft"] = supervise(
        job.loaded,
        config.tasks,
        samples,
        job.folder / "sft",
        config.grpo,
        steps=options.sft_steps,
        batch_size=options.sft_batch_size,
        learning_rate=options.sft_learning_rate,
        muon=config.model.model_name_or_path in TINY_NAMES,
        freeze_vision=options.freeze_vision,
        peft_config=get_peft_config(config.model),
        target=options.sft_target,
    )
    job.loaded = _load(config, str(job.finished_sft))


def grpo_stage(job: Job) -> None:
    """GRPO, measured before and after; leaves `final/`."""
    config, opened, say = job.config, job.opened, job.say
    job.measure("before")
    reference = run.start_folder(job.loaded, job.folder)
    say(f"reference {reference if config.grpo.beta else 'none (beta 0)'}")
    trainer = Trainer(
        job.loaded,
        config.tasks,
        job.rubric.rewards,
        job.data.train,
        config.grpo,
        get_peft_config(config.model),
        base=job.rubric.base,
        applies=job.rubric.applies,
        dynamic_sampling=config.run.dynamic_sampling,
        freeze_vision=config.run.freeze_vision,
        group_shared=config.run.group_shared,
        guide=Guide(config.guide, job.corrector, make_probe(config, job.loaded, job.data.plays)),
        episodes=job.data.plays,
        curriculum=None if config.curriculum is None else Curriculum(*config.curriculum),
    )
    if opened.resuming and PartialState().is_main_process:
        step = int(opened.checkpoint.rsplit("-", 1)[1]) if opened.checkpoint else 0
        report.drop_after(job.folder / "metrics.jsonl", step)
        say(f"resuming  from {opened.checkpoint or 'the start: no checkpoint was complete'}")
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=opened.checkpoint)
    job.seconds["grpo"] = time.monotonic() - started
    run.save_final(trainer, job.loaded, job.folder, reference)
    with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
        job.measure("after", model)
    unreadable = job.data.train.unreadable
    if unreadable:
        say(f"{len(unreadable)} samples had unreadable images: {', '.join(unreadable)}")


def conclude(job: Job) -> str:
    """Write the numbers and the pictures; returns what to print, the written path last."""
    config, data, predictions, seconds, folder = job.config, job.data, job.predictions, job.seconds, job.folder
    scores = {name: report.evaluate(config.tasks, data.held_out, made) for name, made in predictions.items()}
    rows = report.read_metrics(folder / "metrics.jsonl")
    after = scores["after"]
    summary = {
        "task": ",".join(config.tasks),
        "model": config.model.model_name_or_path,
        "data": data.description,
        "stage": config.run.stage,
        "seed": config.grpo.seed,
        "steps": max((row["step"] for row in rows), default=0) if "grpo" in config.stages else config.run.sft_steps,
        "train_seconds": round(sum(seconds.values()), 1),
        "stage_seconds": {name: round(value, 1) for name, value in seconds.items()},
        "versions": report.versions(),
        "git": report.git_revision(),
        "command": " ".join(["vlrl/train.py", *sys.argv[1:]]),
        "headline": report.headline(config.tasks),
        **{name: evaluation.to_json() for name, evaluation in scores.items()},
        "n_unparsed": after.n_unparsed,
        "n_truncated": after.n_truncated,
        "n_unreadable_images": len(data.train.unreadable),
        "rewards": [reward.name for reward in job.rubric.rewards],
        "coords": job.loaded.coords,
    }
    if (thoughts := report.thoughts_of(rows)) is not None:
        summary["thoughts"] = thoughts
    if asked := report.asked_of(rows):
        summary["corrector"] = asked
    report.write_json(folder / "summary.json", summary)
    made, evaluations = (predictions["before"], predictions["after"]), (scores["before"], scores["after"])
    answers = before_and_after(data.held_out, *evaluations, made)
    run.write_rows(folder / "held_out.jsonl", answers)
    report.draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    report.draw_samples(config.tasks, data.held_out, made, evaluations, folder / "samples.png")
    lines = [
        "",
        f"{after.n} held-out samples, greedy decoding, 95 % bootstrap intervals; trained for {sum(seconds.values()):.0f} s",
        report.table(scores),
        f"\n{folder / 'summary.json'}",
    ]
    if thoughts is not None and thoughts["collapsed"]:
        lines.insert(-1, f"\nthoughts collapsed: {thoughts['collapsed']}")
    return "\n".join(lines)


def describe(config: Config, n_processes: int) -> str:
    """What this run is, before anything is loaded."""
    grpo = config.grpo
    completions = grpo.per_device_train_batch_size * n_processes * grpo.gradient_accumulation_steps
    lines = [
        f"task      {', '.join(config.tasks)}, stage {config.run.stage}, seed {grpo.seed}, {n_processes} process(es)",
        f"defaults  {', '.join(config.sources) or 'class defaults'}",
    ]
    if "grpo" in config.stages:
        lines.append(
            f"batch     {completions} completions a step = {completions / grpo.num_generations:g} prompts x"
            f" {grpo.num_generations}; temperature {grpo.temperature},"
            f" beta {grpo.beta}, loss {grpo.loss_type}"
        )
    return "\n".join([*lines, "set       " + " ".join(f"{key}={value}" for key, value in sorted(config.values.items()))])


def _example(config: Config, sample: Sample) -> str:
    task = config.tasks[sample.task]
    answer = f"the task has no oracle; ground truth {sample.answer!r}" if task.oracle is None else repr(task.oracle(sample))
    return f"example   {sample.id}\n  asked   {task.prompt(sample)!r}\n  answer  {answer}"


def _load(config: Config, name: str) -> LoadedModel:
    model, options = config.model, config.run
    quantization = get_quantization_config(model)
    extra = {} if quantization is None else {"quantization_config": quantization}
    loaded = load_model(
        name,
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        revision=model.model_revision if name == model.model_name_or_path else None,
        trust_remote_code=config.grpo.trust_remote_code,
        coords=options.coords,
        min_pixels=options.min_pixels,
        max_pixels=options.max_pixels,
        seed=config.grpo.seed,
        **extra,
    )
    if not extra and not config.grpo.use_cpu and torch.cuda.is_available():
        loaded.model.to(PartialState().device)
    return loaded


def _silent(*_words: Any, **_options: Any) -> None:
    """Stands in for `print` on every rank but the first."""


if __name__ == "__main__":
    leave(main())
