"""One run of `--task rm`, from a resolved configuration to `summary.json`: pairs, head, training, numbers before and after.

Folder, steps, checkpoints and `final/` are those of `--task prm`; the rest is here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import PartialState

from vlrl.data.files import write_json_lines, write_whole
from vlrl.data.preferences import PreferenceRecord, read_preferences, synthetic_preference
from vlrl.data.step_values import HELD_OUT_QUESTION_SHARE, StepRecord
from vlrl.data.value_head_files import HEAD_CONFIG, PREFERENCES
from vlrl.models.value_head import Encoder
from vlrl.schema import SampleError
from vlrl.tasks.evaluate import write_json
from vlrl.training import banner, preflight, report, run_folder, stopping, weights
from vlrl.training.checkpoints import write_together
from vlrl.training.events import EVENTS_FILE, read_events
from vlrl.training.metrics_log import read_metrics
from vlrl.training.model_card import write_card
from vlrl.training.options import ConfigError
from vlrl.training.prm.config import PrmRun
from vlrl.training.prm.drawing import draw_loss_and_calibration, draw_step_values
from vlrl.training.prm.recipe import FILES, Say, head_facts, take_steps, trainer_options, with_head
from vlrl.training.prm.row_checks import check_texts
from vlrl.training.reward_models.measuring import MeasuredPairs, measure_pairs
from vlrl.training.reward_models.options import TASK
from vlrl.training.reward_models.trainer import Pairs, PreferenceTrainer, head_of
from vlrl.training.sharding import shards_weights

N_SYNTHETIC_PAIRS, N_HELD_OUT_PAIRS = 8_000, 400


@dataclass(frozen=True)
class PairData:
    """Training and held-out pairs, no question in both."""

    train: list[PreferenceRecord]
    held_out: list[PreferenceRecord]
    description: str


def train_preference_model(config: PrmRun, say: Say, words: Sequence[str] = ()) -> None:
    """Train a reward model on preferences; leaves an ordinary run folder. Raises what `vlrl.train` reports to the user."""
    say(banner.run_line(TASK, config.training.seed, int(PartialState().num_processes), config.sources))
    if config.run.dry_run:
        say(banner.banner_line("data", read_pairs(config).description))
        say(loss_words(config))
        say(f"\n{run_folder.config_text(config.values)}")
        return
    if config.run.max_hours is not None:
        stopping.current().limit(3600 * config.run.max_hours, f"--max_hours {config.run.max_hours:g}")
    opened = run_folder.open_run(config.training, TASK, words)
    config = config.with_arguments(output_dir=str(opened.path))
    preflight.check_start(config.training, config.model, opened.path)
    if shards_weights(config.training):
        raise ConfigError("--task rm where weights are sharded (FSDP, ZeRO-3) is not supported; use DDP or ZeRO-2")
    data = read_pairs(config)
    attributes = config.rm.attributes or []
    try:
        n_outputs = head_of(data.train, attributes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    trusted = config.prm.trust_remote_code
    inputs = weights.start_inputs(config.model, config.run, trust_remote_code=trusted, coords="px")
    if config.run.data:
        pairs = [*data.train, *data.held_out]
        texts = [(one.id, one.images, one.question, (text,)) for one in pairs for text in (one.chosen, one.rejected)]
        check_texts(texts, inputs, config.run.data, config.training.seed)
    loaded = weights.load_start(config.model, config.training, trust_remote_code=trusted, inputs=inputs)
    preflight.check_adapters(loaded.model, config.model)
    run_folder.check_disk(weights.disk_bytes(loaded, config.training, config.model.use_peft), opened.path)
    say(banner.model_line(loaded, boxes=False))
    say(banner.banner_line("data", data.description))
    say(loss_words(config))
    say(banner.memory_line(loaded, config.model.use_peft))
    run_folder.settle_config(config.values, opened, say)
    for line in preflight.resume_notes(opened):
        say(banner.banner_line("note", line))
    say(banner.banner_line("config", str(opened.path / "config.yaml")))
    model = with_head(config, loaded, say, kind=PREFERENCES, n_attributes=n_outputs, gated=config.rm.gate)
    encoder, batch_size = Encoder(loaded), config.training.per_device_eval_batch_size
    dataset = Pairs(data.train, encoder, attributes)
    trainer = PreferenceTrainer(
        train_dataset=dataset,
        data_collator=dataset.collate,
        pair_margin=config.rm.pair_margin,
        attribute_weight=config.rm.attribute_weight,
        head_facts={"attributes": attributes, "gated": config.rm.gate, **head_facts(config, loaded)},
        **trainer_options(config, model, loaded, (bool(one.images) for one in data.train)),
    )
    trained = run_folder.trained_weights(opened, trainer.planned_steps()) if opened.resuming else None
    if trained is not None and all((opened.path / name).exists() for name in ("final", *FILES)):
        say(banner.banner_line("resuming", f"{trained} has all steps and nothing is missing"))
        say(f"\n{opened.path / 'summary.json'}")
        return

    def measured(name: str) -> MeasuredPairs:
        found = measure_pairs(model, encoder, data.held_out, batch_size)
        file = f"scores_{name}.jsonl"
        write_together(opened.path, file, lambda: write_pair_scores(opened.path / file, data.held_out, found))
        return found

    before = measured("before")
    seconds = take_steps(config, trainer, loaded, opened, trained, say)
    after = measured("after")
    write_together(opened.path, "the scale of its values", lambda: write_scale(opened.path / "final", after))
    shown: list[str] = []
    write_together(
        opened.path, "the report", lambda: shown.append(write_rm_report(config, opened.path, data, before, after, seconds))
    )
    say(*shown)


def loss_words(config: PrmRun) -> str:
    """The loss, for the banner."""
    rm = config.rm
    parts = [
        "Bradley-Terry",
        {"none": "", "shift": "less each row's margin", "scale": "weighed by each row's margin"}[rm.pair_margin],
    ]
    parts.append("ties win half" if rm.ties == "half" else "ties are left out")
    if rm.attributes:
        shares = "in shares of the prompt" if rm.gate else "their mean"
        parts.append(
            f"of {', '.join(rm.attributes)} ({shares}), each fitted to its ratings with weight {rm.attribute_weight:g}"
        )
    return banner.banner_line("loss", "; ".join(filter(None, parts)))


def read_pairs(config: PrmRun) -> PairData:
    """Training and held-out pairs; without `--data` drawn ones. Raises SampleError."""
    run, seed = config.run, config.training.seed
    if run.data is None:
        n, n_out = run.limit or N_SYNTHETIC_PAIRS, run.eval_limit or N_HELD_OUT_PAIRS
        rows = [synthetic_preference(seed, "pairs", i) for i in range(n)]
        held_out = [synthetic_preference(0, "pairs-heldout", i) for i in range(n_out)]
        return PairData(rows, held_out, f"{n} drawn pairs (seed {seed}); {n_out} pairs of other boards held out")
    path, root = Path(run.data), Path(run.image_root) if run.image_root else None
    rows = read_preferences(path, root, run.limit)
    if run.eval_data:
        held_out = read_preferences(Path(run.eval_data), root, run.eval_limit)
        known = {record.question_key for record in held_out}
        rows = [record for record in rows if record.question_key not in known]
    else:
        rows, held_out = hold_out_pairs(rows, run.eval_limit, path)
    n_ties = sum(record.is_tie for record in rows)
    if config.rm.ties == "skip":
        rows = [record for record in rows if not record.is_tie]
    if not rows:
        raise SampleError(f"{path}: no pairs are left to train on; {n_ties} are ties, the others' questions are held out")
    if config.rm.pair_margin != "none" and all(record.margin is None for record in rows):
        raise ConfigError(f"--pair_margin {config.rm.pair_margin}: no row of {path} has a margin")
    ties = f", {n_ties} of them ties" if n_ties else ""
    return PairData(rows, held_out, f"{len(rows)} pairs of {path}{ties}; {len(held_out)} pairs held out (no question in both)")


def hold_out_pairs(
    rows: Sequence[PreferenceRecord], limit: int | None, path: Path
) -> tuple[list[PreferenceRecord], list[PreferenceRecord]]:
    """Questions are divided, not rows, by the order of their hashes. Raises SampleError for a single question."""
    keys = sorted({record.question_key for record in rows})
    if len(keys) < 2:
        raise SampleError(f"{path}: all rows are of one question, which cannot be split; give held-out rows by --eval_data")
    out = set(keys[: max(1, round(HELD_OUT_QUESTION_SHARE * len(keys)))])
    held_out = [record for record in rows if record.question_key in out]
    return [record for record in rows if record.question_key not in out], held_out[:limit]


def write_pair_scores(path: Path, records: Sequence[PreferenceRecord], found: MeasuredPairs) -> None:
    """Both logits of every held-out pair."""
    rows = []
    for record, (chosen, rejected) in zip(records, found.logits, strict=True):
        right = None if record.is_tie else chosen > rejected
        logits = {"chosen": round(chosen, 6), "rejected": round(rejected, 6)}
        rows.append({"id": record.id, "question": record.question, **logits, "right": right, "subset": record.subset})
    write_json_lines(path, rows)


def write_scale(final: Path, found: MeasuredPairs) -> None:
    """Mean and standard deviation of the values on held-out answers, beside the head: `normalise=trained` uses them."""
    path = final / HEAD_CONFIG
    facts = {**json.loads(path.read_text(encoding="utf-8")), "mean": found.mean, "std": found.std}
    write_whole(path, json.dumps(facts, indent=2) + "\n")


def write_rm_report(
    config: PrmRun, folder: Path, data: PairData, before: MeasuredPairs, after: MeasuredPairs, seconds: float
) -> str:
    """Write `summary.json` and the images; returns what to print, the written path last."""
    rows = read_metrics(folder / "metrics.jsonl")
    evaluations = {"before": before.evaluation, "after": after.evaluation}
    summary = report.run_summary(
        task=TASK,
        model=config.model.model_name_or_path,
        data=data.description,
        stage=TASK,
        seed=config.training.seed,
        steps=report.last_step(rows),
        seconds=seconds,
        headline="accuracy",
        evaluations=evaluations,
    )
    found = read_events(folder / EVENTS_FILE)
    summary["events"] = [{key: row[key] for key in ("stage", "step", "event")} for row in found]
    summary |= {
        "calibration": after.calibration,
        "attributes": config.rm.attributes or [],
        "n_ties": sum(r.is_tie for r in data.held_out),
    }
    draw_loss_and_calibration(rows, after.calibration, folder / "curves.png")
    shown = [
        StepRecord(r.id, r.question_key, r.images[0] if r.images else None, r.question, (r.chosen, r.rejected), (1.0, 0.0))
        for r in data.held_out
    ]
    draw_step_values(shown, [(1.0, 0.0) if a > b else (0.0, 1.0) for a, b in after.logits], folder / "samples.png")
    write_json(folder / "summary.json", summary)
    write_card(folder)
    title = f"{len(data.held_out)} held-out pairs; 95 % bootstrap intervals over questions; trained for {seconds:.0f} s"
    return report.closing_lines(title, evaluations, report.events_noted(found, folder), folder / "summary.json")
