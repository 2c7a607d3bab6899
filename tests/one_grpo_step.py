"""Run by `test_distributed.py` under torchrun: one GRPO step on completions that depend on the global row alone, so that
one process and several can be compared. Prints loss, gradient norm and a digest of the weights after the step."""

import json
import sys

import torch

from vlrl.config import parse
from vlrl.model import load_model
from vlrl.run import load_data
from vlrl.tasks.detection import TASK
from vlrl.trainer import Trainer


class Scripted(Trainer):
    """The policy's words are dictated; everything else is the real trainer."""

    def _generate_single_turn(self, prompt_ids, images, multimodal_fields, num_generations, has_tool_images=False):
        first = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for row in range(first, first + len(prompt_ids)):
            n = 5 + row % 4
            words = torch.randint(300, 900, (n,), generator=torch.Generator().manual_seed(row)).tolist()
            completions.append([*words, self._tokenizer.eos_token_id])
        return completions, None


config = parse(sys.argv[1:])
loaded = load_model("tiny")
trainer = Scripted(loaded, TASK, config.rewards, load_data(config, loaded).train, config.grpo)
trainer.train()
if trainer.accelerator.is_main_process:
    row = next(row for row in trainer.state.log_history if "grad_norm" in row)
    weights = {name: p.double().abs().sum().item() for name, p in loaded.model.named_parameters()}
    print(
        "RESULT "
        + json.dumps({"loss": row["loss"], "grad_norm": row["grad_norm"], "reward": row["reward"], "weights": weights})
    )
