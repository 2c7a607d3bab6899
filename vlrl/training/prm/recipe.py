"""One run of `--task prm`, from a resolved configuration to `summary.json`: data, head, training, numbers before and after.

Folder, model, banner, summary and plots are those of every run; the rest is here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from peft import get_peft_model
from trl import get_peft_config  # type: ignore[attr-defined]

from vlrl.data.best_of_n import read_items
from vlrl.data.decontaminate import KnownItems
from vlrl.data.files import write_json_lines
from vlrl.data.images import open_image
from vlrl.data.step_values import StepRecord, merge_partial_solutions, read_rewards, split, synthetic_record
from vlrl.data.subsets import drawn_items
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.data.synthetic import item_rng
from vlrl.metrics.best_of_n import Pool, pools_of
from vlrl.models.load import LoadedModel
from vlrl.models.names import TINY_NAMES
from vlrl.models.value_head import Encoder, StepValueModel, hidden_size, save_head
from vlrl.models.vision_encoder import freeze_vision, with_targets
from vlrl.tasks.evaluate import write_json
from vlrl.training import banner, preflight, report, run_folder, stopping, weights
from vlrl.training.checkpoints import write_together
from vlrl.training.events import EVENTS_FILE, EventLog, read_events, read_stop_on
from vlrl.training.finite import check_weights, remedies
from vlrl.training.metrics_log import read_metrics
from vlrl.training.model_card import write_card
from vlrl.training.options import ConfigError
from vlrl.training.prm.config import PrmRun
from vlrl.training.prm.drawing import draw_loss_and_calibration, draw_step_values
from vlrl.training.prm.measuring import Measured, measure_values
from vlrl.training.prm.options import TASK
from vlrl.training.prm.row_checks import check_solutions
from vlrl.training.prm.trainer import PrmTrainer, Records
from vlrl.training.run_history import RunFacts
from vlrl.training.sft import MuonWithAdamW
from vlrl.training.sharding import shards_weights
from vlrl.training.stop_callback import StopAtStepEnd
from vlrl.training.trackers import guarded_trackers
from vlrl.training.unused_weights import finds_unused, may_leave_unused

N_SYNTHETIC_SOLUTIONS = 16_000
SOLUTIONS_EACH = 2
N_HELD_OUT = 400
FILES = ("scores_before.jsonl", "scores_after.jsonl", "curves.png", "samples.png", "summary.json")
Say = Callable[..., None]


@dataclass(frozen=True)
class SolutionData:
    """`held_out` begins with the candidates of `pools`, in order. `mean`: of the training values. `n_excluded`: rows left out
    because an evaluation has their image or question; None where none was named."""

    train: list[StepRecord]
    held_out: list[StepRecord]
    pools: list[Pool]
    mean: float
    lines: list[str]
    description: str
    n_missing_image: int = 0
    n_excluded: dict[str, int] | None = None


def train_value_model(config: PrmRun, say: Say, words: Sequence[str] = ()) -> None:
    """Train a process reward model; leaves an ordinary run folder. Raises what `vlrl.train` reports to the user."""
    say(banner.run_line(TASK, config.training.seed, int(PartialState().num_processes), config.sources))
    if config.run.dry_run:
        say(loss_line(config))
        say(f"\n{run_folder.config_text(config.values)}")
        return
    if config.run.max_hours is not None:
        stopping.current().limit(3600 * config.run.max_hours, f"--max_hours {config.run.max_hours:g}")
    opened = run_folder.open_run(config.training, TASK, words)
    config = config.with_arguments(output_dir=str(opened.path))
    preflight.check_start(config.training, config.model, opened.path)
    if shards_weights(config.training):
        raise ConfigError("--task prm where weights are sharded (FSDP, ZeRO-3) is not supported; use DDP or ZeRO-2")
    data = read_solutions(config)
    trusted = config.prm.trust_remote_code
    inputs = weights.start_inputs(config.model, config.run, trust_remote_code=trusted, coords="px")
    if config.run.data:
        check_solutions([*data.train, *data.held_out], inputs, config.run.data, config.training.seed)
    loaded = weights.load_start(config.model, config.training, trust_remote_code=trusted, inputs=inputs)
    preflight.check_adapters(loaded.model, config.model)
    run_folder.check_disk(weights.disk_bytes(loaded, config.training, config.model.use_peft), opened.path)
    say(banner.model_line(loaded, boxes=False))
    for line in data.lines:
        say(line)
    say(loss_line(config))
    say(banner.memory_line(loaded, config.model.use_peft))
    run_folder.settle_config(config.values, opened, say)
    for line in preflight.resume_notes(opened):
        say(banner.banner_line("note", line))
    say(banner.banner_line("config", str(opened.path / "config.yaml")))
    model = with_head(config, loaded, say)
    encoder = Encoder(loaded)
    batch_size = config.training.per_device_eval_batch_size

    def measured(name: str) -> Measured:
        found = measure_values(model, encoder, data.held_out, data.pools, data.mean, batch_size)
        file = f"scores_{name}.jsonl"
        write_together(opened.path, file, lambda: write_step_scores(opened.path / file, data, found))
        return found

    trainer = make_trainer(config, model, loaded, encoder, data.train)
    trained = run_folder.trained_weights(opened, trainer.planned_steps()) if opened.resuming else None
    if trained is not None and all((opened.path / name).exists() for name in ("final", *FILES)):
        say(banner.banner_line("resuming", f"{trained} has all steps and nothing is missing"))
        say(f"\n{opened.path / 'summary.json'}")
        return
    before = measured("before")
    seconds = take_steps(config, trainer, loaded, opened, trained, say)
    after = measured("after")
    shown: list[str] = []
    write_together(
        opened.path,
        "the report",
        lambda: shown.append(write_prm_report(config, opened.path, data, before, after, seconds)),
    )
    say(*shown)


def take_steps(
    config: PrmRun, trainer: PrmTrainer, loaded: LoadedModel, opened: run_folder.RunFolder, trained: Path | None, say: Say
) -> float:
    """What is left of the steps, then `final/`; returns the seconds. `trained`: the weights where all are taken.
    A request to stop ends training with a checkpoint. Raises Stopped, RunStopped."""
    stop, started = stopping.current(), time.monotonic()
    if trained is not None:
        say(banner.banner_line("resuming", f"{trained} has all steps: nothing is trained, only what is missing is made"))
        trainer.load_weights(str(trained))
        if trained != opened.path / "final":
            save_value_model(trainer, loaded, opened.path)
        return 0.0
    if opened.resuming:
        write_together(opened.path, "metrics.jsonl", lambda: run_folder.forget_later(opened, say))
        say(banner.banner_line("resuming", f"from {opened.checkpoint or 'the start: no checkpoint was complete'}"))
    events = EventLog(opened.path if PartialState().is_main_process else None, read_stop_on(config.run.stop_on))
    write_together(opened.path, "events.jsonl", lambda: events.begin(trainer.stage, after=opened.step), everyone=True)
    trainer.record_to(events, RunFacts(trainer.stage))
    if PartialState().is_main_process:
        trainer.take_up_history(read_metrics(opened.path / "metrics.jsonl"))
    trainer.add_callback(StopAtStepEnd(stop, config.run.save_minutes))
    with stop.steps():
        with trainer.steps, guarded_trackers(trainer):
            trainer.train(resume_from_checkpoint=opened.checkpoint)
        if trainer.state.global_step < trainer.state.max_steps:
            stop.check()
        seconds = time.monotonic() - started
        save_value_model(trainer, loaded, opened.path)
    return seconds


def loss_line(config: PrmRun) -> str:
    weight = config.prm.pairwise_weight
    pairwise = f" + {weight:g} x pairwise" if weight else ""
    return banner.banner_line("loss", f"{config.prm.loss_type}{pairwise}, every question with the same weight")


def read_solutions(config: PrmRun) -> SolutionData:
    """Training and held-out solutions. Without `--data` drawn ones, to choose among too. Raises SampleError, ImageError."""
    run, seed = config.run, config.training.seed
    if run.data is None:
        n, n_out = run.limit or N_SYNTHETIC_SOLUTIONS, run.eval_limit or N_HELD_OUT
        rows = [synthetic_record(seed, "train", i // SOLUTIONS_EACH, i % SOLUTIONS_EACH) for i in range(n)]
        each = fixture.N_CANDIDATES
        held_out = [synthetic_record(0, fixture.DRAWN_SET_SPLIT, i, number) for i in range(n_out) for number in range(each)]
        pools = pools_of(fixture.items(0, n_out), fixture.candidates(0, n_out))
        description = f"{n} drawn solutions (seed {seed}); {n_out} other boards with {each} solutions each held out"
        return SolutionData(rows, held_out, pools, _mean(rows), [banner.banner_line("data", description)], description)
    path, root = Path(run.data), Path(run.image_root) if run.image_root else None
    file = read_rewards(path, root, run.limit)
    if run.eval_data:
        rows, held_out = file.records, read_rewards(Path(run.eval_data), root, run.eval_limit).records
        both = {record.question_key for record in rows} & {record.question_key for record in held_out}
        rows = [record for record in rows if record.question_key not in both]
    else:
        rows, held_out = split(file.records)
        held_out = drawn_items(held_out, [record.question_key for record in held_out], run.eval_limit, 0)
    excluded = None
    if config.prm.exclude_items:
        rows, excluded = without_items(rows, Path(config.prm.exclude_items), root)
    rows = in_order(merge_partial_solutions(rows), seed)
    description = f"{len(rows)} solutions of {path}, {len(held_out)} rows held out (no question in both)"
    lines = [banner.banner_line("data", description), *(banner.banner_line("", line) for line in file.describe())]
    if excluded is not None:
        left_out = f"{excluded['picture']} rows left out for their image, {excluded['question']} for their question"
        lines.append(banner.banner_line("overlap", left_out))
    return SolutionData(rows, held_out, [], _mean(rows), lines, description, file.n_missing_image, excluded)


def without_items(rows: Sequence[StepRecord], path: Path, root: Path | None) -> tuple[list[StepRecord], dict[str, int]]:
    """The rows that share neither image nor question with the items of an evaluation, and how many do. Raises SampleError."""
    items = read_items(path, root)
    known = KnownItems((open_image(item.image) for item in items if item.image), (item.question for item in items))
    shared: dict[str | None, bool] = {}
    kept, counts = [], {"picture": 0, "question": 0}
    for row in rows:
        if row.image not in shared:
            shared[row.image] = row.image is not None and known.has_image(open_image(row.image))
        if shared[row.image]:
            counts["picture"] += 1
        elif known.has_question(row.question):
            counts["question"] += 1
        else:
            kept.append(row)
    return kept, counts


def in_order(rows: Sequence[StepRecord], seed: int) -> list[StepRecord]:
    """The solutions of a question beside each other, so that a batch holds pairs of them; questions in a random order."""
    groups: dict[str, list[StepRecord]] = {}
    for row in rows:
        groups.setdefault(row.question_key, []).append(row)
    order = list(groups)
    return [row for i in item_rng("prm order", seed).permutation(len(order)) for row in groups[order[int(i)]]]


def _mean(rows: Sequence[StepRecord]) -> float:
    values = [value for row in rows for value in row.values if value is not None]
    return sum(values) / len(values)


def with_head(config: PrmRun, loaded: LoadedModel, say: Say, **head: Any) -> StepValueModel:
    """The model, with adapters or a frozen vision encoder where flags say so, and a head that says the same of everything (0.5
    for every step). `head`: options of `StepValueModel`."""
    if config.run.freeze_vision:
        say(banner.banner_line("frozen", freeze_vision(loaded.model)))
    backbone: Any = loaded.model
    output, embedded = backbone.get_output_embeddings(), backbone.get_input_embeddings()
    if output is not None and output.weight is not embedded.weight:
        output.requires_grad_(False)  # values do not come through it, and DDP waits for every gradient
    size = hidden_size(backbone)
    peft_config = with_targets(get_peft_config(config.model), config.run.freeze_vision)
    if peft_config is not None:
        backbone = get_peft_model(backbone, peft_config)
    return StepValueModel(backbone, size, **head)


def make_trainer(
    config: PrmRun, model: StepValueModel, loaded: LoadedModel, encoder: Encoder, rows: Sequence[StepRecord]
) -> PrmTrainer:
    facts = {"loss": config.prm.loss_type, **head_facts(config, loaded)}
    dataset = Records(rows, encoder)
    shared = trainer_options(config, model, loaded, (row.image is not None for row in rows))
    return PrmTrainer(
        train_dataset=dataset,
        data_collator=dataset.collate,
        loss_kind=config.prm.loss_type,
        pairwise_weight=config.prm.pairwise_weight,
        head_facts=facts,
        **shared,
    )


def head_facts(config: PrmRun, loaded: LoadedModel) -> dict[str, Any]:
    """What a saved head says of its training."""
    return {"base": loaded.name, "data": config.run.data or "synthetic", "seed": config.training.seed}


def trainer_options(config: PrmRun, model: StepValueModel, loaded: LoadedModel, images: Iterable[bool]) -> dict[str, Any]:
    """What every trainer of a value head is made with. `images`: whether each row has one."""
    is_tiny = config.model.model_name_or_path in TINY_NAMES and not config.model.use_peft
    searches = finds_unused(config.training, lambda: may_leave_unused(model, images))
    training = config.with_arguments(
        remove_unused_columns=False,
        disable_tqdm=True,
        train_sampling_strategy="sequential",
        ddp_find_unused_parameters=searches,
    ).training
    optimizer = None
    if is_tiny:
        optimizer = MuonWithAdamW(model, training.learning_rate, (training.adam_beta1, training.adam_beta2))
    return {"model": model, "args": training, "processing_class": loaded.processor, "optimizers": (optimizer, None)}


def save_value_model(trainer: PrmTrainer, loaded: LoadedModel, folder: Path) -> None:
    """`final/`: backbone (adapters merged) and processor that load with `from_pretrained`, the head beside them; complete or
    absent. Raises RunStopped where the disk is full."""
    trainer.finite.check_weights()
    model: StepValueModel = trainer.accelerator.unwrap_model(trainer.model)
    backbone: Any = model.backbone
    has_adapters = hasattr(backbone, "merge_and_unload")
    final, partial = folder / "final", folder / "final.partial"
    adapter, partial_adapter = folder / "adapter", folder / "adapter.partial"

    def save_adapter() -> None:
        backbone.save_pretrained(partial_adapter)
        weights.put_in_place(partial_adapter, adapter)

    if has_adapters:
        write_together(folder, "adapter/", save_adapter)
        model.backbone = backbone.merge_and_unload()
        loaded.model = model.backbone
        check_weights(loaded.model, "the model with its merged adapters", remedies(trainer.args))

    def save() -> None:
        model.backbone.save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        save_head(model, partial, trainer.head_facts)
        weights.put_in_place(partial, final)

    write_together(folder, "final/", save)


def write_step_scores(path: Path, data: SolutionData, found: Measured) -> None:
    """The value of every held-out step, with the true one."""
    rows = []
    for record, values in zip(data.held_out, found.values, strict=True):
        row = {"id": record.id, "question": record.question, "steps": list(record.steps)}
        rows.append({**row, "values": list(record.values), "predicted": [round(value, 9) for value in values]})
    write_json_lines(path, rows)


def write_prm_report(
    config: PrmRun, folder: Path, data: SolutionData, before: Measured, after: Measured, seconds: float
) -> str:
    """Write `summary.json` and the images; returns what to print, the written path last."""
    rows = read_metrics(folder / "metrics.jsonl")
    skill = after.evaluation.metrics["skill"]
    beats = skill.ci95 is not None and skill.ci95[0] > 0
    evaluations = {"before": before.evaluation, "after": after.evaluation}
    summary = report.run_summary(
        task=TASK,
        model=config.model.model_name_or_path,
        data=data.description,
        stage="prm",
        seed=config.training.seed,
        steps=report.last_step(rows),
        seconds=seconds,
        headline=next(iter(after.evaluation.metrics)) if data.pools else "pairwise_accuracy",
        evaluations=evaluations,
    )
    summary |= {
        "name": "ViLReward-trained PRM (ours)" if config.run.data else "PRM trained on drawn boards (ours)",
        "p_values": after.p_values,
        "calibration": after.calibration,
        "mean_training_value": data.mean,
        "n_missing_image": data.n_missing_image,
        "n_excluded": data.n_excluded,
        "beats_the_mean": beats,
    }
    found = read_events(folder / EVENTS_FILE)
    summary["events"] = [{key: row[key] for key in ("stage", "step", "event")} for row in found]
    draw_loss_and_calibration(rows, after.calibration, folder / "curves.png")
    draw_step_values(data.held_out, after.values, folder / "samples.png")
    write_json(folder / "summary.json", summary)
    write_card(folder)
    n_questions = len({record.question_key for record in data.held_out})
    title = (
        f"{len(data.held_out)} held-out solutions of {n_questions} questions; 95 % bootstrap intervals over questions;"
        f" trained for {seconds:.0f} s"
    )
    notes = report.events_noted(found, folder)
    notes += [] if beats else ["this model does not predict step values better than their mean does"]
    return report.closing_lines(title, evaluations, notes, folder / "summary.json")
