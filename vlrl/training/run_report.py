"""The end of a run: its numbers and images written into its folder, and what is printed of them."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from accelerate import PartialState

from vlrl.answers.kind import BOX, BOXES, answer_kinds
from vlrl.data.files import write_json_lines
from vlrl.data.sample_sets import digest_of
from vlrl.models.inputs import messages, n_shown
from vlrl.rewards.implicit_reward import PRIME
from vlrl.schema import SampleError
from vlrl.tasks.evaluate import before_and_after, evaluate, headline, write_json
from vlrl.training import curves, report, run_folder, sample_images
from vlrl.training.events import EVENTS_FILE, read_events
from vlrl.training.held_out_images import write_held_out_images
from vlrl.training.metrics_log import read_metrics
from vlrl.training.model_card import write_card
from vlrl.training.monitor import gold_summary
from vlrl.training.training_run import TrainingRun


def write_report(run: TrainingRun) -> str:
    """Write the numbers and the images of a finished run; returns what to print, the written path last."""
    config, data, predictions, folder = run.config, run.data, run.predictions, run.folder
    evaluations = {name: evaluate(config.tasks, data.held_out, made) for name, made in predictions.items()}
    rows = read_metrics(folder / "metrics.jsonl")
    seconds = sum(run.seconds.values())
    earlier = report.read_summary(folder) or {}
    if run.was_trained and earlier:  # this process trained nothing
        seconds = earlier["train_seconds"]
        run.seconds = earlier["stage_seconds"]
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
    summary["rewards"] = [*(reward.name for reward in run.rubric.rewards), *([PRIME] if config.prime else [])]
    summary["coords"] = run.loaded.stated_coords
    notes = []
    if (thoughts := report.thought_changes(rows)) is not None:
        summary["thoughts"] = thoughts
        notes += [f"thoughts collapsed: {thoughts['collapsed']}"] if thoughts["collapsed"] else []
    summary |= report.endpoint_totals(rows)
    summary |= {
        "hardware": hardware(run),
        "digests": digests(config.run.data, config.run.eval_data),
        "example": example_of(run),
    }
    if gold := config.monitor.gold:
        start = None
        if run.monitor is not None:
            run.monitor.begin(predictions["before"], evaluations["before"])
            start = None if run.monitor.watched is None else run.monitor.watched.start
        summary["gold"] = gold_summary(rows, gold, keeps_best=config.monitor.stop_on_hacking, start=start)
    found = read_events(folder / EVENTS_FILE)
    summary["events"] = [{key: row[key] for key in ("stage", "step", "event")} for row in found]
    notes += report.events_noted(found, folder)
    made = (predictions["before"], predictions["after"])
    measured = (evaluations["before"], evaluations["after"])
    if not (run.was_trained and all((folder / name).is_file() for name in run_folder.REPORT)):
        write_json_lines(folder / "held_out.jsonl", before_and_after(data.held_out, *measured, made))
        name = headline(config.tasks)
        ends = (evaluation.metrics.get(name) for evaluation in measured)
        curves.draw_curves(folder / "metrics.jsonl", folder / "curves.png", curves.Headline(name, *ends))
        sample_images.draw_samples(config.tasks, data.held_out, made, measured, folder / "samples.png")
        write_held_out_images(run.rubric, data.held_out, made, measured, folder, summary["steps"])
        write_json(folder / "summary.json", summary)
    write_card(folder)
    title = f"{len(data.held_out)} held-out samples, greedy decoding, 95 % bootstrap intervals; trained for {seconds:.0f} s"
    return report.closing_lines(title, evaluations, notes, folder / "summary.json")


def hardware(run: TrainingRun) -> str:
    """The devices of a run in words, such as "8 x NVIDIA H100" or "2 processes on CPUs"."""
    n, device = int(PartialState().num_processes), run.loaded.device
    if device.type == "cuda":
        return f"{n} x {torch.cuda.get_device_name(device)}"
    return "a CPU" if n == 1 else f"{n} processes on CPUs"


def digests(*paths: str | None) -> dict[str, str]:
    """SHA-256 of the rows behind `--data` and `--eval_data`, by path; of their images there is none."""
    found = {}
    for path in filter(None, paths):
        with suppress(OSError, SampleError):  # moved away while the run trained
            found[path] = digest_of(path)
    return found


def example_of(run: TrainingRun) -> dict[str, Any]:
    """A held-out prompt as the model was asked, for the code of the model card."""
    config, held_out = run.config, run.data.held_out
    sample = next((one for one in held_out if not one.view.takes_video), held_out[0])
    as_video, sample = sample.view.takes_video, replace(sample, view=replace(sample.view, takes_video=False))
    *system, user = messages(sample, config.tasks, n_shown(sample))
    return {
        "system": system[0]["content"][0]["text"] if system else None,
        "prompt": user["content"][-1]["text"],
        "n_images": len(user["content"]) - 1,
        **({"as_video": True} if as_video else {}),
        "has_boxes": bool(answer_kinds(sample) & {BOX, BOXES}),
        "max_new_tokens": config.max_tokens,
        "trust_remote_code": bool(config.grpo.trust_remote_code),
        "template": dict(run.loaded.template),
    }
