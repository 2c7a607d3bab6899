"""One run of `--task prm`, from a resolved configuration to `summary.json`: data, head, training, numbers before and after."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from peft import get_peft_model
from trl import get_peft_config, get_quantization_config  # type: ignore[attr-defined]

from vlrl.data.best_of_n import read_items
from vlrl.data.decontaminate import KnownItems
from vlrl.data.images import open_image
from vlrl.data.step_values import StepRecord, merge_partial_solutions, read_rewards, split, synthetic_record
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.data.synthetic import item_rng
from vlrl.metrics.best_of_n import Pool, pools_of
from vlrl.models.load import LoadedModel, load_model
from vlrl.models.names import TINY_NAMES
from vlrl.models.value_head import Encoder, StepValueModel, hidden_size, save_head
from vlrl.models.vision_encoder import freeze_vision, with_targets
from vlrl.training import report
from vlrl.training.prm.config import PrmRun
from vlrl.training.prm.drawing import draw_curves, draw_samples
from vlrl.training.prm.measuring import Measured, measure
from vlrl.training.prm.options import TASK
from vlrl.training.prm.trainer import PrmTrainer, Records
from vlrl.training.run_folder import RunFolder, open_run, write_values
from vlrl.training.sft import MuonWithAdamW

N_SYNTHETIC_TRAIN = 16_000
SOLUTIONS_EACH = 2
N_HELD_OUT = 400
Say = Callable[..., None]


@dataclass(frozen=True)
class Data:
    """`held_out` begins with the candidates of `pools`, in order. `mean`: of the training values. `n_excluded`: rows left out
    because an evaluation has their picture or question; None where none was named."""

    train: list[StepRecord]
    held_out: list[StepRecord]
    pools: list[Pool]
    mean: float
    lines: list[str]
    description: str
    n_missing_image: int = 0
    n_excluded: dict[str, int] | None = None


def train(config: PrmRun, say: Say) -> None:
    """Train a process reward model; leaves an ordinary run folder. Raises what `vlrl.train` tells the user."""
    say(describe(config))
    if config.run.dry_run:
        return
    opened = open_run(config.training, TASK)
    loaded = _load(config)
    data = load_data(config)
    for line in (f"model     {loaded.name}, {loaded.model.num_parameters() / 1e6:.2f} M parameters", *data.lines):
        say(line)
    if PartialState().is_main_process and not opened.resuming:
        write_values(config.values, opened.path)
    if not config.training.use_cpu and torch.cuda.is_available():
        loaded.model.to(PartialState().device)
    model = with_head(config, loaded, say)
    encoder = Encoder(loaded)
    batch_size = config.training.per_device_eval_batch_size

    def measured(name: str) -> Measured:
        found = measure(model, encoder, data.held_out, data.pools, data.mean, batch_size)
        if PartialState().is_main_process:
            write_scores(opened.path / f"scores_{name}.jsonl", data, found)
        return found

    trainer = make_trainer(config, model, loaded, encoder, data.train)
    before = measured("before")
    if opened.resuming and PartialState().is_main_process:
        step = int(opened.checkpoint.rsplit("-", 1)[1]) if opened.checkpoint else 0
        report.drop_after(opened.path / "metrics.jsonl", step)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=opened.checkpoint)
    seconds = time.monotonic() - started
    save_final(trainer, loaded, opened.path)
    after = measured("after")
    if PartialState().is_main_process:
        say(conclude(config, opened, data, before, after, seconds))


def describe(config: PrmRun) -> str:
    training = config.training
    lines = [
        f"task      {TASK}, seed {training.seed}, {PartialState().num_processes} process(es)",
        f"defaults  {', '.join(config.sources)}",
        f"loss      {config.prm.loss_type}"
        + (f" + {config.prm.pairwise_weight:g} x pairwise" if config.prm.pairwise_weight else "")
        + ", every question with the same weight",
        "set       " + " ".join(f"{key}={value}" for key, value in sorted(config.values.items())),
    ]
    return "\n".join(lines)


def _load(config: PrmRun) -> LoadedModel:
    model = config.model
    quantization = get_quantization_config(model)
    return load_model(
        str(model.model_name_or_path),
        dtype=model.dtype,
        attn_implementation=model.attn_implementation,
        revision=model.model_revision,
        trust_remote_code=config.prm.trust_remote_code,
        coords="px",
        min_pixels=config.run.min_pixels,
        max_pixels=config.run.max_pixels,
        seed=config.training.seed,
        **({} if quantization is None else {"quantization_config": quantization}),
    )


def load_data(config: PrmRun) -> Data:
    """Training and held-out solutions. Without `--data` drawn ones, to choose among too. Raises SampleError, ImageError."""
    run, seed = config.run, config.training.seed
    if run.data is None:
        n, n_out = run.limit or N_SYNTHETIC_TRAIN, run.eval_limit or N_HELD_OUT
        rows = [synthetic_record(seed, "train", i // SOLUTIONS_EACH, i % SOLUTIONS_EACH) for i in range(n)]
        each = fixture.N_CANDIDATES
        held_out = [synthetic_record(0, fixture.DRAWN_SET_SPLIT, i, number) for i in range(n_out) for number in range(each)]
        pools = pools_of(fixture.items(0, n_out), fixture.candidates(0, n_out))
        told = f"{n} drawn solutions (seed {seed}); {n_out} other boards with {each} solutions each held out"
        return Data(rows, held_out, pools, _mean(rows), [f"data      {told}"], told)
    path, root = Path(run.data), Path(run.image_root) if run.image_root else None
    file = read_rewards(path, root, run.limit)
    if run.eval_data:
        rows, held_out = file.records, read_rewards(Path(run.eval_data), root, run.eval_limit).records
        both = {record.question_key for record in rows} & {record.question_key for record in held_out}
        rows = [record for record in rows if record.question_key not in both]
    else:
        rows, held_out = split(file.records)
        held_out = held_out[: run.eval_limit]
    excluded = None
    if config.prm.exclude_items:
        rows, excluded = without_items(rows, Path(config.prm.exclude_items), root)
    rows = in_order(merge_partial_solutions(rows), seed)
    told = f"{len(rows)} solutions of {path}, {len(held_out)} rows held out (no question in both)"
    lines = [f"data      {told}", *(f"          {line}" for line in file.describe())]
    if excluded is not None:
        lines.append(
            f"overlap   {excluded['picture']} rows left out for their picture, {excluded['question']} for their question"
        )
    return Data(rows, held_out, [], _mean(rows), lines, told, file.n_missing_image, excluded)


def without_items(rows: Sequence[StepRecord], path: Path, root: Path | None) -> tuple[list[StepRecord], dict[str, int]]:
    """The rows that share neither picture nor question with the items of an evaluation, and how many do. Raises SampleError."""
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


def with_head(config: PrmRun, loaded: LoadedModel, say: Say) -> StepValueModel:
    """The model with adapters or a frozen tower, as asked, and a head that says 0.5 of everything."""
    if config.run.freeze_vision:
        said = freeze_vision(loaded.model)
        say(f"frozen    {said}")
    backbone: Any = loaded.model
    output, embedded = backbone.get_output_embeddings(), backbone.get_input_embeddings()
    if output is not None and output.weight is not embedded.weight:
        output.requires_grad_(False)  # values do not come through it, and DDP waits for every gradient
    size = hidden_size(backbone)
    peft_config = with_targets(get_peft_config(config.model), config.run.freeze_vision)
    if peft_config is not None:
        backbone = get_peft_model(backbone, peft_config)
    return StepValueModel(backbone, size)


def make_trainer(
    config: PrmRun, model: StepValueModel, loaded: LoadedModel, encoder: Encoder, rows: Sequence[StepRecord]
) -> PrmTrainer:
    training = config.training
    training.remove_unused_columns = False
    training.disable_tqdm = True
    training.train_sampling_strategy = "sequential"
    dataset = Records(rows, encoder)
    is_tiny = config.model.model_name_or_path in TINY_NAMES and not config.model.use_peft
    optimizer = None
    if is_tiny:
        optimizer = MuonWithAdamW(model, training.learning_rate, (training.adam_beta1, training.adam_beta2))
    return PrmTrainer(
        model=model,
        args=training,
        train_dataset=dataset,
        data_collator=dataset.collate,
        processing_class=loaded.processor,
        optimizers=(optimizer, None),
        loss_kind=config.prm.loss_type,
        pairwise_weight=config.prm.pairwise_weight,
        told={"base": loaded.name, "loss": config.prm.loss_type, "data": config.run.data or "synthetic", "seed": training.seed},
    )


def save_final(trainer: PrmTrainer, loaded: LoadedModel, folder: Path) -> None:
    """`final/`: backbone (adapters merged) and processor that load with `from_pretrained`, the head beside them; complete or
    absent."""
    model: StepValueModel = trainer.accelerator.unwrap_model(trainer.model)
    backbone: Any = model.backbone
    if hasattr(backbone, "merge_and_unload"):
        if PartialState().is_main_process:
            backbone.save_pretrained(folder / "adapter")
        model.backbone = backbone.merge_and_unload()
        loaded.model = model.backbone
    if PartialState().is_main_process:
        final, partial = folder / "final", folder / "final.partial"
        model.backbone.save_pretrained(partial)
        loaded.processor.save_pretrained(partial)
        save_head(model, partial, trainer.told)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    PartialState().wait_for_everyone()


def write_scores(path: Path, data: Data, found: Measured) -> None:
    """The value of every held-out step, with the true one."""
    rows = []
    for record, values in zip(data.held_out, found.values, strict=True):
        row = {"id": record.id, "question": record.question, "steps": list(record.steps)}
        rows.append({**row, "values": list(record.values), "predicted": [round(value, 9) for value in values]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def conclude(config: PrmRun, opened: RunFolder, data: Data, before: Measured, after: Measured, seconds: float) -> str:
    """Write `summary.json` and the pictures; returns what to print, the written path last."""
    folder = opened.path
    rows = report.read_metrics(folder / "metrics.jsonl")
    headline = next(iter(after.evaluation.metrics)) if data.pools else "pairwise_accuracy"
    summary = {
        "task": TASK,
        "name": "ViLReward-trained PRM (ours)" if config.run.data else "PRM trained on drawn boards (ours)",
        "model": config.model.model_name_or_path,
        "data": data.description,
        "stage": "prm",
        "seed": config.training.seed,
        "steps": max((row["step"] for row in rows), default=0),
        "train_seconds": round(seconds, 1),
        "versions": report.versions(),
        "git": report.git_revision(),
        "command": " ".join(["vlrl/train.py", *sys.argv[1:]]),
        "headline": headline,
        "before": before.evaluation.to_json(),
        "after": after.evaluation.to_json(),
        "p_values": after.p_values,
        "calibration": after.calibration,
        "mean_training_value": data.mean,
        "n_unparsed": 0,
        "n_truncated": 0,
        "n_missing_image": data.n_missing_image,
        "n_excluded": data.n_excluded,
    }
    skill = after.evaluation.metrics["skill"]
    beats = skill.ci95 is not None and skill.ci95[0] > 0
    summary["beats_the_mean"] = beats
    report.write_json(folder / "summary.json", summary)
    draw_curves(rows, after.calibration, folder / "curves.png")
    draw_samples(data.held_out, after.values, folder / "samples.png")
    n_questions = len({record.question_key for record in data.held_out})
    lines = [
        "",
        f"{len(data.held_out)} held-out solutions of {n_questions} questions; 95 % bootstrap intervals over questions;"
        f" trained for {seconds:.0f} s",
        report.table({"before": before.evaluation, "after": after.evaluation}),
        *([] if beats else ["this model does not predict step values better than their mean does"]),
        f"\n{folder / 'summary.json'}",
    ]
    return "\n".join(lines)
