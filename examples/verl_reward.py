"""vlrl's tasks and rewards in verl: rows (python examples/verl_reward.py train.jsonl MODEL train.parquet), and a reward
function (custom_reward_function.path=examples/verl_reward.py custom_reward_function.name=compute_score)."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from vlrl.data.sample_files import read_samples
from vlrl.data.sample_json import sample_from_json, sample_to_json
from vlrl.models.inputs import messages, open_images, prepare_sample
from vlrl.models.load import load_inputs
from vlrl.rewards.scoring import score_rows
from vlrl.tasks import KNOWN, rubric


def rows(data: str, model: str) -> Iterator[dict[str, Any]]:
    """verl's rows: the prompt of the sample's task with `<image>` for each image, and the sample itself in `extra_info`."""
    inputs = load_inputs(model)
    for sample in (prepare_sample(one, inputs) for one in read_samples(data)):
        parts = [(turn["role"], [part.get("text", "<image>") for part in turn["content"]]) for turn in messages(sample, KNOWN)]
        row = {"prompt": [{"role": role, "content": "".join(texts)} for role, texts in parts], "images": open_images(sample)}
        row |= {"reward_model": {"style": "rule", "ground_truth": json.dumps(sample.answer)}, "data_source": sample.task}
        yield row | {"extra_info": {"index": sample.id, "vlrl": json.dumps(sample_to_json(sample))}}


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None, **_: Any) -> dict[str, float]:
    """The mean of the rewards of the sample's task, and each by its name, which verl logs. `solution_str`: the completion."""
    sample = sample_from_json(json.loads(extra_info["vlrl"]), data_source, Path())
    chosen = rubric.choose(None, [sample], KNOWN).rewards
    scores = {one.name: score_rows(one, [solution_str], [sample], None, None)[0].value or 0.0 for one in chosen}
    return {"score": sum(scores.values()) / len(scores), **scores}


if __name__ == "__main__":
    Dataset.from_list(list(rows(*sys.argv[1:3]))).to_parquet(sys.argv[3])
