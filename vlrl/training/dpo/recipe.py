"""One run of `--stage dpo`, from a resolved configuration to `summary.json`: pairs, training, numbers before and after."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from trl import get_peft_config  # type: ignore[attr-defined]

from vlrl.data.files import write_json_lines
from vlrl.data.preference_pairs import PreferencePair, divided, read_dpo_pairs
from vlrl.data.step_values import HELD_OUT_QUESTION_SHARE
from vlrl.data.synthetic import item_rng
from vlrl.metrics.bootstrap import bootstrap_ratio
from vlrl.models.load import LoadedModel
from vlrl.models.vision_encoder import freeze_vision, with_targets
from vlrl.schema import Metric, SampleError
from vlrl.tasks.evaluate import Evaluation, write_json
from vlrl.training import banner, preflight, report, run_folder, stopping, weights
from vlrl.training.checkpoints import write_together
from vlrl.training.dpo.config import DpoRun, parse_dpo
from vlrl.training.dpo.options import DPO_STAGE
from vlrl.training.dpo.trainer import PairRows, PairTrainer, pair_dataset
from vlrl.training.events import EVENTS_FILE, EventLog, read_events, read_stop_on
from vlrl.training.metrics_log import read_metrics
from vlrl.training.model_card import write_card
from vlrl.training.options import ConfigError
from vlrl.training.run_history import RunFacts
from vlrl.training.sharding import shards_weights
from vlrl.training.stop_callback import StopAtStepEnd
from vlrl.training.trackers import guarded_trackers
from vlrl.training.unused_weights import finds_unused, may_leave_unused

DPO_FILES = ("held_out.jsonl", "summary.json")


@dataclass(frozen=True)
class DpoData:
    train: list[PreferencePair]
    held_out: list[PreferencePair]
    description: str


def run_pairs(words: Sequence[str], say: Callable[..., None]) -> None:
    """A run of `--stage dpo` as a command line says. Raises what `vlrl.train` reports to the user."""
    config = parse_dpo(words)
    os.environ.update(config.environment)
    train_on_pairs(config, say, words)


def train_on_pairs(config: DpoRun, say: Callable[..., None], words: Sequence[str] = ()) -> None:
    """Train a policy on preference pairs; leaves an ordinary run folder. Raises what `vlrl.train` reports to the user."""
    say(banner.run_line(f"stage {DPO_STAGE}", config.training.seed, int(PartialState().num_processes), config.sources))
    data = read_pair_data(config)
    say(banner.banner_line("data", data.description))
    say(score_line(config))
    if config.run.dry_run:
        say(f"\n{run_folder.config_text(config.values)}")
        return
    if config.run.max_hours is not None:
        stopping.current().limit(3600 * config.run.max_hours, f"--max_hours {config.run.max_hours:g}")
    opened = run_folder.open_run(config.training, DPO_STAGE, words)
    config = config.with_arguments(output_dir=str(opened.path))
    preflight.check_start(config.training, config.model, opened.path)
    if shards_weights(config.training):
        raise ConfigError("--stage dpo where weights are sharded (FSDP, ZeRO-3) is not supported; use DDP or ZeRO-2")
    trusted = config.training.trust_remote_code
    inputs = weights.start_inputs(config.model, config.run, trust_remote_code=trusted, coords="px")
    loaded = weights.load_start(config.model, config.training, trust_remote_code=trusted, inputs=inputs)
    preflight.check_adapters(loaded.model, config.model)
    run_folder.check_disk(weights.disk_bytes(loaded, config.training, config.model.use_peft), opened.path)
    say(banner.model_line(loaded, boxes=False))
    if config.run.freeze_vision:
        say(banner.banner_line("frozen", freeze_vision(loaded.model)))
    say(banner.memory_line(loaded, config.model.use_peft))
    reference = weights.start_folder(loaded, opened.path)
    say(banner.banner_line("reference", reference))
    run_folder.settle_config(config.values, opened, say)
    for line in preflight.resume_notes(opened):
        say(banner.banner_line("note", line))
    trainer = make_pair_trainer(config, loaded, data.train)
    trained = run_folder.trained_weights(opened, trainer.planned_steps()) if opened.resuming else None
    if trained is not None and (opened.path / "final").is_dir() and all((opened.path / one).is_file() for one in DPO_FILES):
        say(banner.banner_line("resuming", f"{trained} has all steps and nothing is missing"))
        say(f"\n{opened.path / 'summary.json'}")
        return
    reference_scores = pair_scores(trainer, loaded, data.held_out, reference=True)
    seconds = take_pair_steps(config, trainer, opened, trained, say)
    scores = pair_scores(trainer, loaded, data.held_out, reference=False)
    if not (opened.path / "final").is_dir():
        weights.save_final(trainer, loaded, opened.path, reference)
    shown: list[str] = []
    write_together(
        opened.path,
        "the report",
        lambda: shown.append(write_pair_report(config, opened.path, data, (reference_scores, scores), seconds)),
    )
    say(*shown)


def score_line(config: DpoRun) -> str:
    """What a pair's loss is made of, in words."""
    gamma, average = config.dpo.span_weight, config.dpo.average_logps
    dense = (
        "plain"
        if gamma == 1 and not average
        else f"tokens that differ weigh {gamma:g}, {'mean' if average else 'sum'} over tokens"
    )
    losses = config.training.loss_type
    named = losses if isinstance(losses, str) else ", ".join(losses)
    alpha = config.dpo.treg_alpha
    more = f"; rewards of tokens by values of steps (T-REG), weight {alpha:g}" if alpha else ""
    return banner.banner_line("loss", f"DPO ({named}), beta {config.training.beta:g}, {dense}{more}")


def read_pair_data(config: DpoRun) -> DpoData:
    """Training pairs in a random order, and held-out ones without an image of theirs. Raises SampleError."""
    run = config.run
    path, root = Path(str(run.data)), Path(run.image_root) if run.image_root else None
    pairs = read_dpo_pairs(path, root, run.limit)
    if run.eval_data:
        held_out = read_dpo_pairs(Path(run.eval_data), root, run.eval_limit)
        keys = {pair.question_key for pair in held_out}
        kept = [pair for pair in pairs if pair.question_key not in keys]
        lost = f", {len(pairs) - len(kept)} left out that are held out too" if len(kept) < len(pairs) else ""
        pairs = kept
    else:
        pairs, held_out = divided(pairs, HELD_OUT_QUESTION_SHARE)
        held_out, lost = held_out[: run.eval_limit], ""
    if not pairs:
        raise SampleError(f"{path}: every pair is held out; give other --eval_data")
    n_valued = sum(any(pair.values) for pair in pairs)
    if config.dpo.treg_alpha and not n_valued:
        raise ConfigError(
            f"--treg_alpha {config.dpo.treg_alpha:g}: no row of {path} states values of steps (chosen_values, rejected_values);"
            " vlrl bench sample --write preferences step_values writes them"
        )
    lost += f", {n_valued} with values of steps" if config.dpo.treg_alpha else ""
    order = item_rng("pair order", config.training.seed).permutation(len(pairs))
    description = f"{len(pairs)} pairs of {run.data}, {len(held_out)} held out (no image in both){lost}"
    return DpoData([pairs[int(i)] for i in order], held_out, description)


def make_pair_trainer(config: DpoRun, loaded: LoadedModel, pairs: Sequence[PreferencePair]) -> PairTrainer:
    """TRL's trainer on these pairs."""
    searches = finds_unused(config.training, lambda: may_leave_unused(loaded.model, (bool(one.images) for one in pairs)))
    training = config.with_arguments(
        remove_unused_columns=False, disable_tqdm=True, ddp_find_unused_parameters=searches
    ).training
    trainer = PairTrainer(
        model=loaded.model,
        args=training,
        train_dataset=pair_dataset(pairs, loaded),
        processing_class=loaded.processor,
        peft_config=with_targets(get_peft_config(config.model), config.run.freeze_vision),
        gamma=config.dpo.span_weight,
        average=config.dpo.average_logps,
        treg_alpha=config.dpo.treg_alpha,
    )
    trainer.base_name = str(config.model.model_name_or_path)
    trainer.name_of_row = lambda row: pairs[row].id
    return trainer


def take_pair_steps(
    config: DpoRun, trainer: PairTrainer, opened: run_folder.RunFolder, trained: Path | None, say: Callable[..., None]
) -> float:
    """What is left of the steps; returns the seconds. A request to stop ends them with a checkpoint. Raises Stopped."""
    stop, started = stopping.current(), time.monotonic()
    if trained is not None:
        say(banner.banner_line("resuming", f"{trained} has all steps: nothing is trained, only what is missing is made"))
        if trained != opened.path / "final":
            trainer.load_weights(str(trained))
        return 0.0
    if opened.resuming:
        write_together(opened.path, "metrics.jsonl", lambda: run_folder.forget_later(opened, say))
        say(banner.banner_line("resuming", f"from {opened.checkpoint or 'the start: no checkpoint was complete'}"))
    events = EventLog(opened.path if PartialState().is_main_process else None, read_stop_on(config.run.stop_on))
    write_together(opened.path, "events.jsonl", lambda: events.begin(DPO_STAGE, after=opened.step), everyone=True)
    trainer.record_to(events, RunFacts(DPO_STAGE))
    if PartialState().is_main_process:
        trainer.take_up_history(read_metrics(opened.path / "metrics.jsonl"))
    trainer.add_callback(StopAtStepEnd(stop, config.run.save_minutes))
    with stop.steps():
        with trainer.steps, guarded_trackers(trainer):
            trainer.train(resume_from_checkpoint=opened.checkpoint)
        if trainer.state.global_step < trainer.state.max_steps:
            stop.check()
    return time.monotonic() - started


def pair_scores(
    trainer: PairTrainer, loaded: LoadedModel, pairs: Sequence[PreferencePair], *, reference: bool
) -> list[tuple[float, float]]:
    """log pi of the chosen and the rejected completion of each pair, in order, on every process."""
    state, rows = PartialState(), PairRows(pairs, loaded)
    size = trainer.args.per_device_eval_batch_size
    mine = list(range(state.process_index, len(pairs), state.num_processes))
    found: list[tuple[int, tuple[float, float]]] = []
    for start in range(0, len(mine), size):
        some = mine[start : start + size]
        scores = trainer.scores_of([rows.row(pairs[i]) for i in some], reference=reference)
        found += [(i, (float(scores[0, n]), float(scores[1, n]))) for n, i in enumerate(some)]
    if state.num_processes > 1:
        found = gather_object(found)
    return [scores for _, scores in sorted(found)]


def pair_metrics(
    pairs: Sequence[PreferencePair],
    reference: Sequence[tuple[float, float]],
    policy: Sequence[tuple[float, float]],
    beta: float,
) -> dict[str, Metric]:
    """Of held-out pairs, intervals over prompts: "accuracy", the share whose implicit reward beta (log pi - log pi_ref) is
    larger for the chosen completion (equal: half); "margin", the mean difference of these rewards; "likelier", the share whose
    chosen completion the model finds likelier."""
    keys = [pair.question_key for pair in pairs]
    margins = [beta * ((p[0] - r[0]) - (p[1] - r[1])) for p, r in zip(policy, reference, strict=True)]
    ones = [1.0] * len(pairs)

    def share(gaps: Sequence[float]) -> Metric:
        return bootstrap_ratio([1.0 if gap > 0 else 0.5 if gap == 0 else 0.0 for gap in gaps], ones, clusters=keys)

    likelier = share([chosen - rejected for chosen, rejected in policy])
    return {"accuracy": share(margins), "margin": bootstrap_ratio(margins, ones, clusters=keys), "likelier": likelier}


def write_pair_report(
    config: DpoRun,
    folder: Path,
    data: DpoData,
    scores: tuple[Sequence[tuple[float, float]], Sequence[tuple[float, float]]],
    seconds: float,
) -> str:
    """Write `held_out.jsonl` and `summary.json`; returns what to print, the written path last."""
    reference, policy = scores
    made = {"before": reference, "after": policy}
    beta = float(config.training.beta)
    evaluations = {
        name: Evaluation(pair_metrics(data.held_out, reference, of_one, beta), len(data.held_out), 0, 0)
        for name, of_one in made.items()
    }
    rows: list[dict[str, Any]] = []
    for pair, before, after in zip(data.held_out, reference, policy, strict=True):
        row = {"id": pair.id, "prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}
        margin = beta * ((after[0] - before[0]) - (after[1] - before[1]))
        rows.append({**row, "logps_before": list(before), "logps_after": list(after), "margin": margin})
    logged = read_metrics(folder / "metrics.jsonl")
    earlier = report.read_summary(folder) or {}
    summary = report.run_summary(
        task="preferences",
        model=config.model.model_name_or_path,
        data=data.description,
        stage=DPO_STAGE,
        seed=config.training.seed,
        steps=report.last_step(logged),
        seconds=seconds or float(earlier.get("train_seconds", 0.0)),
        headline="accuracy",
        evaluations=evaluations,
    )
    found = read_events(folder / EVENTS_FILE)
    summary["events"] = [{key: row[key] for key in ("stage", "step", "event")} for row in found]
    summary |= {"span_weight": config.dpo.span_weight, "average_logps": config.dpo.average_logps, "beta": beta}
    summary |= {"treg_alpha": config.dpo.treg_alpha} if config.dpo.treg_alpha else {}
    write_json_lines(folder / "held_out.jsonl", rows)
    write_json(folder / "summary.json", summary)
    write_card(folder)
    title = f"{len(data.held_out)} held-out pairs; 95 % bootstrap intervals over prompts; trained for {seconds:.0f} s"
    return report.closing_lines(title, evaluations, report.events_noted(found, folder), folder / "summary.json")
