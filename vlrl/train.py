"""`torchrun vlrl/train.py --task detection`: supervised start, GRPO, and the numbers before and after.

Reads from top to bottom like a recipe; every step is a chapter of its own elsewhere.
"""

from __future__ import annotations

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
    from vlrl.training.stopping import leave_on_signals

    leave_on_signals()
    if (exit_code := check_flags(sys.argv[1:])) is not None:
        sys.exit(exit_code)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))))
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
# transformers renames gradient checkpointing; TRL still passes the old name, and users can do nothing about it.
warnings.filterwarnings("ignore", message=".*gradient_checkpointing.* is deprecated", category=FutureWarning)

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from accelerate import PartialState
from transformers.utils import logging as transformers_logging
from trl import get_peft_config  # type: ignore[attr-defined]
from trl.models import unwrap_model_for_generation  # type: ignore[attr-defined]

from vlrl.data.masking import guard_console, masked, masked_command
from vlrl.models.inputs import ImageError
from vlrl.models.load import LoadedModel, ModelInputs
from vlrl.models.names import TINY_NAMES, ModelError
from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.schema import SampleError, TaskError
from vlrl.training import banner, preflight, run_data, run_folder, stopping, weights
from vlrl.training import benchmark_after as before_after
from vlrl.training.checkpoints import RunStopped, write_together
from vlrl.training.command_line import group_options
from vlrl.training.config import Config, parse
from vlrl.training.console import refuse
from vlrl.training.correctors import make_corrector, make_probe, start_judges
from vlrl.training.dpo.options import is_dpo
from vlrl.training.dpo.recipe import run_pairs
from vlrl.training.dry_run import show_dry_run
from vlrl.training.endings import leave, refuse_failed, refuse_stopped
from vlrl.training.engine_options import weights_folder
from vlrl.training.evaluation import EarlyStopping, check_best_metric
from vlrl.training.events import EventLog, read_stop_on
from vlrl.training.first_process import n_processes, of_first_process, say_first
from vlrl.training.flags import with_underscores
from vlrl.training.grpo import Curriculum, Guide, Trainer
from vlrl.training.grpo.costs import held_back_of
from vlrl.training.imitated import check_targets
from vlrl.training.metrics_log import read_metrics
from vlrl.training.monitor import make_monitor, start_is_best
from vlrl.training.monitor_options import check_gold_of_run
from vlrl.training.options import ConfigError
from vlrl.training.out_of_memory import asked_by
from vlrl.training.prm.config import parse_prm
from vlrl.training.prm.options import is_requested as is_prm
from vlrl.training.prm.recipe import train_value_model
from vlrl.training.restarts import GroupOptions, is_restart, join_again
from vlrl.training.reward_models.door import say_reward_models, with_models
from vlrl.training.reward_models.options import TASK as RM_TASK
from vlrl.training.reward_models.prime_start import check_prime_folder
from vlrl.training.reward_models.recipe import train_preference_model
from vlrl.training.run_report import write_report
from vlrl.training.run_status import write_ending
from vlrl.training.sft import supervise
from vlrl.training.sharding import check_equal_passes, join_engine, shards_weights
from vlrl.training.stop_callback import StopAtStepEnd
from vlrl.training.trackers import guarded_trackers
from vlrl.training.training_run import TrainingRun
from vlrl.training.video_options import video_reading


def main(argv: list[str] | None = None) -> int:
    """Parse, train, report. Returns the process' exit code: 0 done, 1 stopped on the way, 2 could not start, 75 stopped by
    `--max_hours`, 130 by Ctrl-C, 143 by SIGTERM."""
    words = sys.argv[1:] if argv is None else argv
    guard_console()
    sys.argv[1:] = masked_command(sys.argv[1:])  # trackers keep it
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with stopping.StopRequests() as stop:
        try:
            return run_words(words)
        except stopping.Stopped as stopped:
            return refuse_stopped(stop, stopped.request)
        except Exception as error:
            code = refuse_failed(error)
            if code is None:
                if os.environ.get("RANK", "0") == "0":
                    write_ending(stop.folder, f"{type(error).__name__}: {error}", 1)
                raise
            return code


def run_words(words: list[str]) -> int:
    """Train as a command line says. Returns the exit code for every end that can be explained in a line."""
    first = os.environ.get("RANK", "0") == "0"
    if is_restart():
        join_again(GroupOptions.of(group_options(words)))
    try:
        around = None
        if is_dpo(with_underscores(words)):
            run_pairs(words, say_first())
        elif is_prm(with_underscores(words)):
            prm = parse_prm(words)
            os.environ.update(prm.environment)
            (train_preference_model if prm.run.task == RM_TASK else train_value_model)(prm, say_first(), words)
        else:
            config = parse(words)
            os.environ.update(config.environment)
            stopping.current().asked = asked_by(config)
            around = train(config, words)
        finish()
        return benchmark(around) if around is not None and first else 0
    except (ConfigError, SampleError, ModelError, NotShared) as error:
        return refuse(f"error: {error}", 2)
    except TaskError as error:  # on any process: another may not have met it
        if not first:
            print(f"stopped: {masked(str(error))}", file=sys.stderr, flush=True)
        return refuse(f"stopped: {error}", 1)
    except (RunStopped, ImageError) as error:
        return refuse(f"stopped: {error}", 1)


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


def train(config: Config, words: Sequence[str] = ()) -> before_after.Around | None:
    """One run, from a resolved configuration to `summary.json`. Returns the benchmarks that `--bench` names, or None."""
    say = say_first()
    task = f"{', '.join(config.tasks)}, stage {config.run.stage}"
    say(banner.run_line(task, config.grpo.seed, n_processes(), config.sources))
    if config.run.dry_run:
        show_dry_run(config, say, n_processes())
        return None
    run = prepare(config, say, words)
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
    shown: list[str] = []
    write_together(run.folder, "the report", lambda: shown.append(write_report(run)))
    say(*shown)
    return None if run.has_benchmarks else run.around


def prepare(config: Config, say: Callable[..., None], words: Sequence[str]) -> TrainingRun:
    """The run folder, the samples and their rewards, then the model: each checked before the next, costlier one."""
    if config.run.max_hours is not None:
        stopping.current().limit(3600 * config.run.max_hours, f"--max_hours {config.run.max_hours:g}")
    opened = run_folder.open_run(config.grpo, "-".join(config.tasks), words)
    config = config.with_arguments(output_dir=str(opened.path))
    preflight.check_start(config.grpo, config.model, opened.path)
    preflight.check_kernel(config.engine.group_shared_kernel, config.grpo)
    rows = run_data.read_data(config)
    if "grpo" in config.stages and shards_weights(config.grpo):
        check_equal_passes(config.grpo, corrects=config.guide.corrects, samples=rows.known(config))
    rubric = run_data.choose_rubric(config, rows)
    check_gold_of_run(config.monitor.gold, rubric.rewards, config.tasks, rows.held_out, str(config.run.data or "drawn samples"))
    held_back = held_back_of(config.regularisers, rubric.rewards, rows.known(config))
    if PartialState().is_main_process:
        preflight.check_endpoints(rubric.rewards, config.guide)
    finished_sft = opened.path / "sft" / "final"
    inputs = inputs_of(config, str(finished_sft) if opened.resuming and finished_sft.is_dir() else None)
    config, data, notes = run_data.prepare_data(config, rows, inputs, rubric)
    if "sft" in config.stages:
        check_targets(data.known(config) if config.run.data else [], config.tasks, config.run.sft_target, config.run.data)
    if config.evaluates:
        check_best_metric(config.grpo.metric_for_best_model, config.tasks, data.held_out, config.monitor.measured)
    if "grpo" in config.stages:
        preflight.check_enough(data.train.n, config.grpo, str(config.run.data or "the synthetic set"))
    around = _around(config, opened.path, inputs)
    join_engine(config.grpo)
    loaded = load(config, inputs)
    preflight.check_adapters(loaded.model, config.model)
    preflight.check_model_options(loaded.model, config.grpo)
    check_prime_folder(config.prime, inputs)
    preflight.check_engine(loaded, config.grpo, weights_folder(config.engine, opened.path), opened.path)
    n_models = 1 + bool(config.prime)
    run_folder.check_disk(n_models * weights.disk_bytes(loaded, config.grpo, config.model.use_peft), opened.path)
    first = data.held_out[0]
    say(banner.model_line(loaded))
    say(banner.banner_line("attention", loaded.attention))
    say(banner.banner_line("data", data.description))
    for note in [*banner.drawn_data_note(config, inputs), *notes]:
        say(banner.banner_line("note", note))
    for name, text in (("system", config.prompts.system_prompt), ("template", config.prompts.prompt_template)):
        if text:
            say(banner.banner_line(name, text))
    say(banner.banner_line("rewards", ", ".join(reward.name for reward in rubric.rewards)))
    if "grpo" in config.stages:
        rubric = with_models(rubric, loaded.model.device, config.grpo)
        say_reward_models(rubric.rewards, say, config.prime)
    for name, text in (("held back", held_back.words()), ("gold", config.monitor.words)):
        if text:
            say(banner.banner_line(name, text))
    say(banner.example_lines(first, config.tasks[first.task]))
    say(banner.steps_line(config, n_processes(), data.length))
    say(banner.memory_line(loaded, config.model.use_peft))
    corrector = make_corrector(config, opened.path, say)
    start_judges(rubric, opened.path, say)
    run_folder.settle_config(config.values, opened, say)
    for line in preflight.resume_notes(opened):
        say(banner.banner_line("note", line))
    say(banner.banner_line("config", str(opened.path / "config.yaml")))
    events = EventLog(opened.path if PartialState().is_main_process else None, read_stop_on(config.run.stop_on))
    monitor = make_monitor(config, rubric, data.held_out, loaded.model.device)
    return TrainingRun(config, say, opened, loaded, data, rubric, around, corrector, events, monitor)


def inputs_of(config: Config, name: str | None = None) -> ModelInputs:
    """Config and processor of the run's model, or of another folder of it."""
    template: Any = config.grpo.chat_template_kwargs  # a dictionary once it is parsed
    trusted = config.grpo.trust_remote_code
    asked: dict[str, Any] = {"name": name, "template": template, "videos": video_reading(config)}
    return weights.start_inputs(config.model, config.run, trust_remote_code=trusted, **asked)


def load(config: Config, inputs: ModelInputs) -> LoadedModel:
    """The weights for these inputs."""
    return weights.load_start(config.model, config.grpo, trust_remote_code=config.grpo.trust_remote_code, inputs=inputs)


def _around(config: Config, folder: Path, inputs: ModelInputs) -> before_after.Around | None:
    """The benchmarks of this run, their flags and data checked. Raises ConfigError."""
    if not config.bench.names:
        return None
    around = before_after.Around(config, folder, inputs.stated_coords, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
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
        save_minutes=options.save_minutes,
    )
    run.loaded = load(config, inputs_of(config, str(run.finished_sft)))


def grpo_stage(run: TrainingRun) -> None:
    """GRPO, measured before and after; leaves `final/`."""
    config, opened, say = run.config, run.opened, run.say
    run.measure("before")
    reference = weights.start_folder(run.loaded, run.folder)
    if config.grpo.beta or config.regularisers.chi2_coef or config.prime:
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
        group_shared_kernel=config.engine.group_shared_kernel,
        guide=Guide(config.guide, run.corrector, make_probe(config, run.loaded, run.data.episodes)),
        episodes=run.data.episodes,
        curriculum=None if config.curriculum is None else Curriculum(*config.curriculum),
        events=run.events,
        on_endpoint_failure=config.run.on_endpoint_failure,
        held_out=run.held_out if config.evaluates else None,
        engine_logp_bound=config.engine.engine_logp_bound,
        weights_folder=weights_folder(config.engine, run.folder),
        rollout_lag=config.engine.rollout_lag,
        monitor=run.monitor,
        held_back=held_back_of(config.regularisers, run.rubric.rewards, run.data.held_out, run.loaded.model.device),
        stop_on_hacking=config.monitor.stop_on_hacking,
        prime=config.prime,
    )
    trainer.base_name = str(config.model.model_name_or_path)
    best_at_end = bool(config.grpo.load_best_model_at_end)
    n_steps = trainer.planned_steps() if opened.resuming else 0
    trained = run_folder.trained_weights(opened, n_steps, best_at_end=best_at_end) if opened.resuming else None
    PartialState().wait_for_everyone()
    run.was_trained = trained is not None
    if trained is not None:
        finish_trained(run, trainer, reference, trained)
    else:
        train_steps(run, trainer, reference)
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            run.measure("after", model, step=0 if trainer.hacking.keeps_start else trainer.step_of_weights)
    unreadable = run.data.train.unreadable
    if unreadable:
        say(f"{len(unreadable)} samples had unreadable images: {', '.join(unreadable)}")


def train_steps(run: TrainingRun, trainer: Trainer, reference: str) -> None:
    """All steps of GRPO that are left, then `final/`; a request to stop ends them with a checkpoint. Raises Stopped."""
    opened, stop = run.opened, stopping.current()
    if opened.resuming:
        write_together(run.folder, "metrics.jsonl", lambda: run_folder.forget_later(opened, run.say))
        run.say(banner.banner_line("resuming", f"from {opened.checkpoint or 'the start: no checkpoint was complete'}"))
        trainer.take_up_history(read_metrics(run.folder / "metrics.jsonl"))
    trainer.add_callback(StopAtStepEnd(stop, run.config.run.save_minutes))
    options = run.config.run
    if options.early_stopping_patience is not None:
        trainer.add_callback(EarlyStopping(options.early_stopping_patience, options.early_stopping_threshold))
    started = time.monotonic()
    with stop.steps():
        with trainer.steps, guarded_trackers(trainer, run.shown_samples):
            trainer.train(resume_from_checkpoint=opened.checkpoint)
        if trainer.state.global_step < trainer.state.max_steps:
            stop.check()
            trainer.note_early_end()
        run.seconds["grpo"] = time.monotonic() - started
        if trainer.hacking.keeps_start:
            run.keep_start(trainer, reference)
            return
        trainer.say_weights()
        weights.save_final(trainer, run.loaded, run.folder, reference)


def finish_trained(run: TrainingRun, trainer: Trainer, reference: str, trained: Path) -> None:
    """What a run whose steps are all taken still lacks: `final/`, and its measurement."""
    run.say(banner.banner_line("resuming", f"{trained} has all steps: nothing is trained, only what is missing is made"))
    final = run.folder / "final"
    has_final = of_first_process(final.is_dir)
    has_answers = run.answers("after") is not None
    metrics = run.folder / "metrics.jsonl"
    if run.config.monitor.stop_on_hacking and of_first_process(lambda: start_is_best(read_metrics(metrics))):
        run.keep_start(trainer, reference)
        run.measure("after", step=0)
    elif has_final and has_answers:
        run.measure("after")
    elif trained == final:
        run.loaded = load(run.config, inputs_of(run.config, str(final)))
        run.measure("after")
    else:
        trainer.load_weights(str(trained))
        if trainer.implicit is not None:
            trainer.implicit.restore(trained)
        if not has_final:
            weights.save_final(trainer, run.loaded, run.folder, reference)
        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model:
            run.measure("after", model)


if __name__ == "__main__":
    leave(main())
