"""Run by `test_distributed.py` and `test_grpo_dynamic_sampling.py` under torchrun: GRPO steps on completions that depend on the
prompt and the place in the group alone, so that one process and several can be compared. Prints loss, gradient norm,
metrics of dynamic sampling, the samples trained on and a digest of the weights after the last step."""

import json
import sys
import zlib
from pathlib import Path

import torch
from accelerate.utils import gather_object

from vlrl.train import finish, inputs_of, load
from vlrl.training import run_data, weights
from vlrl.training.config import parse
from vlrl.training.endings import leave
from vlrl.training.grpo import Trainer
from vlrl.training.grpo.costs import held_back_of


class Scripted(Trainer):
    """The policy's words are dictated; everything else is the real trainer."""

    def sample(self, prompt_ids, images, fields, n):
        first = self.accelerator.process_index * len(prompt_ids)
        completions = []
        for row, ids in enumerate(prompt_ids, start=first):
            place = row % self.num_generations
            generator = torch.Generator().manual_seed(zlib.crc32(repr((ids, place)).encode()))
            words = torch.randint(300, 900, (5 + place % 4,), generator=generator).tolist()
            completions.append([*words, self._tokenizer.eos_token_id])
        return completions, None


config = parse(sys.argv[1:])
rows = run_data.read_data(config)
rubric = run_data.choose_rubric(config, rows)
inputs = inputs_of(config, "tiny-random")
config, data, _ = run_data.prepare_data(config, rows, inputs)
loaded = load(config, inputs)
Path(config.grpo.output_dir).mkdir(parents=True, exist_ok=True)
weights.start_folder(loaded, Path(config.grpo.output_dir))  # what a reference model is loaded from
trainer = Scripted(
    loaded,
    config.tasks,
    rubric.rewards,
    data.train,
    config.grpo,
    base=rubric.base,
    applies=rubric.applies,
    dynamic_sampling=config.run.dynamic_sampling,
    held_back=held_back_of(config.regularisers, rubric.rewards, data.held_out),
)
trainer.train()
states = gather_object([trainer.state.num_input_tokens_seen])
if trainer.accelerator.is_main_process:
    row = next(row for row in reversed(trainer.state.log_history) if "grad_norm" in row)
    told = {
        name: row[name]
        for name in row
        if name in ("loss", "grad_norm", "reward", "chi2") or name.startswith(("dynamic_sampling/", "cost/"))
    }
    weights = {name: p.double().abs().sum().item() for name, p in loaded.model.named_parameters()}
    ids = list(trainer.completions_log["extra"]["id"])
    print("RESULT " + json.dumps({**told, "weights": weights, "ids": ids, "n_tokens": states}))
finish()
leave(0)
