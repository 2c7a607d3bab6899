"""vlrl's tasks and rewards as a taskset of verifiers, for `vf-eval` and prime-rl (docs/extending.md has the commands)."""

from collections.abc import Iterator
from pathlib import Path

import verifiers.v1 as vf

from vlrl.bench.engines import chat_messages
from vlrl.data.sample_files import read_samples
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.models.inputs import prepare_sample
from vlrl.models.load import load_inputs
from vlrl.rewards.scoring import score_rows
from vlrl.tasks import KNOWN, rubric

__all__ = ["Verifiables"]


class Config(vf.TasksetConfig):
    data: Path = Path("train.jsonl")
    model: str = "tiny"  # it decides how boxes are written, and in which size images are seen


class Row(vf.TaskData):
    row: dict  # the sample


class Verifiable(vf.Task[Row, vf.State, vf.TaskConfig]):
    @vf.reward
    async def rewards(self, trace: vf.Trace) -> dict[str, float]:  # verifiers adds them up: their mean
        sample = sample_from_json(self.data.row, self.data.row["task"], Path())
        used = rubric.choose(None, [sample], KNOWN).rewards
        return {one.name: (score_rows(one, [trace.last_reply], [sample], None, None)[0].value or 0) / len(used) for one in used}


class Verifiables(vf.Taskset[Verifiable, Config]):
    def load(self) -> Iterator[Verifiable]:
        inputs = load_inputs(self.config.model)
        for one in (prepare_sample(sample, inputs) for sample in read_samples(str(self.config.data))):
            yield Verifiable(Row(id=one.id, prompt=chat_messages(one, KNOWN), row=sample_to_json(one)), self.config.task)
