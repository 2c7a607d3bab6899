"""Makes a supervised run the shipped start of an embedded model: its weights in half precision, and `recipe.json`.

    python -m vlrl.models.shipped_start RUN_FOLDER

Not here: the embedded models themselves (`vlrl.models.tiny`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from vlrl.models.generate import generate
from vlrl.models.inputs import prepare_sample
from vlrl.models.load import load_model
from vlrl.models.names import RANDOM_SUFFIX, TINY_NAMES, embedded_model
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import evaluate

N_SCORED = 400
"""Held-out samples of each task that a shipped start is measured on."""


def ship_run(run: Path) -> None:
    """Make the `final/` of a supervised run the shipped start of the embedded model it trained: weights in half precision, and
    `recipe.json` with how they were made and what they score on the five tasks. A run that started from shipped weights (by
    name, or by their folder) keeps their recipe as `goes_on_from`."""
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    trained = str(summary["model"])
    name = trained if trained in TINY_NAMES else Path(trained).name
    assets = embedded_model(name).assets
    logged = [json.loads(line) for line in (run / "sft" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(run / "final", dtype=torch.float16)
    model.save_pretrained(assets)
    Qwen2_5_VLProcessor.from_pretrained(run / "final").save_pretrained(assets)
    keep = ("command", "seed", "steps", "train_seconds", "versions")
    recipe = {
        "what": "supervised on synthetic samples with noisy answers (vlrl/data/synthetic says how they err)",
        **{key: summary[key] for key in keep},
        "after": {**summary["after"], **task_scores(name)},
        "losses": [{"step": row["step"], "loss": round(row["loss"], 4)} for row in logged if "loss" in row],
    }
    if not name.endswith(RANDOM_SUFFIX):
        recipe["goes_on_from"] = json.loads((assets / "recipe.json").read_text(encoding="utf-8"))
    (assets / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")


def task_scores(name: str) -> dict[str, Any]:
    """What the shipped weights of `tiny` score on the built-in tasks, as `task/metric`; nothing of other embedded models."""
    if embedded_model(name).name != "tiny":
        return {}
    loaded = load_model("tiny")
    drawn = [task.draw(0, "heldout", index) for task in TASKS.values() for index in range(N_SCORED)]
    samples = [prepare_sample(sample, loaded) for sample in drawn]
    made = generate(loaded, TASKS, samples, max_new_tokens=64, batch_size=100)
    return evaluate(TASKS, samples, made).to_json()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m vlrl.models.shipped_start RUN_FOLDER   (a run of --stage sft)")
    ship_run(Path(sys.argv[1]))
