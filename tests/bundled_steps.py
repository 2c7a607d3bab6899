"""GRPO steps of the bundled model in this process, for tests that compare trainers with each other."""

import json
import zlib

import torch
from trl import GRPOConfig

from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model
from vlrl.schema import Reward, Score
from vlrl.tasks import load_task
from vlrl.training.grpo import Trainer

PAYING = Reward("paying", lambda text, sample: Score(zlib.crc32(text.encode()) % 997 / 997, text), 0.0, 1.0)


def bundled_trainer(folder, peft=None, arguments=None, reward=PAYING, **more):
    """A trainer of two steps. `arguments`: of TRL, changed; `more`: of the trainer."""
    loaded, task = load_model("tiny"), load_task("detection")
    args = {"max_steps": 2, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 16, "seed": 3}
    args |= {"learning_rate": 1e-3, "logging_steps": 1, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    args |= {"disable_tqdm": True, "report_to": "none", "remove_unused_columns": False, "top_k": 0, "save_strategy": "no"}
    samples = Samples(40, lambda i: prepare_sample(task.synthetic(0, "train", i), loaded))
    config = GRPOConfig(output_dir=str(folder), **(args | (arguments or {})))
    return Trainer(loaded, {"detection": task}, [reward], samples, config, peft, **more)


def train(trainer, resume=None):
    """The trainer, after its steps."""
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def same(one, other):
    """Whether two models have the same weights, bit for bit."""
    theirs = dict(other.named_parameters())
    return all(torch.equal(value, theirs[name]) for name, value in one.named_parameters())
