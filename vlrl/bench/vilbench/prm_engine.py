"""A trained process reward model as the engine of a run: its "completion" is the list of a candidate's step values."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from vlrl.bench.engines import Answers, InProcesses, Limit
from vlrl.schema import Prediction, Sample, Task


class PrmEngine(InProcesses):
    """A model that scores solutions."""

    unit = "solutions"

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        from vlrl.models.value_head import Encoder, load_prm

        self.model, loaded = load_prm(
            args.model_name_or_path,
            dtype=args.dtype,
            attn_implementation=args.attn_implementation,
            trust_remote_code=args.trust_remote_code,
            min_pixels=args.min_pixels,
            max_pixels=args.max_pixels,
        )
        self.model.to(self.state.device)
        self.encoder = Encoder(loaded)
        self.name = f"process reward model, transformers, {loaded.model.dtype}".replace("torch.", "")
        if self.rank == 0:
            print(f"model     {loaded.name} with a value head; attention {loaded.attention}")

    def prepare_sample(self, sample: Sample) -> Sample:
        """The sample unchanged, as no boxes are asked for."""
        return sample

    def answers(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> Answers:
        """Batches of step values, in the order of `samples`: candidates of an item follow each other and share image and
        prompt."""
        from vlrl.models.value_head import score_solutions

        for start in range(0, len(samples), self.batch_size):
            batch = samples[start : start + self.batch_size]
            solutions = [(next(iter(one.images), None), one.question, one.meta["steps"]) for one in batch]
            values = score_solutions(self.model, self.encoder, solutions, self.batch_size)
            yield [
                Prediction(one.id, json.dumps([round(value, 9) for value in found]), None, False)
                for one, found in zip(batch, values, strict=True)
            ]
