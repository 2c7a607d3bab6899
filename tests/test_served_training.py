"""Training with a server that reads weights from files: which rows are learnt from, by which weights, also after a stop. The
server is a stand-in that always writes the same; vLLM itself: `tests/engines/test_vllm_weight_files.py`."""

import base64
import json
import zlib
from io import BytesIO

import pytest
import torch
from PIL import Image
from test_served_generation import StandIn
from trl import GRPOConfig

from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model
from vlrl.schema import Reward, Score
from vlrl.tasks import load_task
from vlrl.training.grpo import Trainer

PAYING = Reward("paying", lambda text, sample: Score(zlib.crc32((text + sample.id).encode()) % 997 / 997, text), 0.0, 1.0)


class Taker(torch.nn.Module):
    """A model that takes all weights, and remembers a number of each version."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Parameter(torch.zeros(1))

    def load_weights(self, given):
        self.first.data.fill_(sum(float(weight.double().sum()) for _, weight in given))


class Writer(StandIn):
    """Writes three tokens for each completion, whatever it is asked; `by`: the weights of each prompt, in their order."""

    def __init__(self, processor):
        super().__init__()
        self.worker.model = Taker()
        self.processor, self.by = processor, []

    def written(self, words):
        image, processor = self.processor.image_token_id, self.processor
        held = [Image.open(BytesIO(base64.b64decode(one["url"].partition(",")[2]))) for one in words.get("content_parts", [])]
        grids = iter(
            processor.image_processor(images=held, return_tensors="pt")["image_grid_thw"].prod(-1).tolist() if held else []
        )
        ids = []
        for token in words["token_ids"]:
            ids += [token] * (next(grids) // processor.image_processor.merge_size**2 if token == image else 1)
        self.by.append(float(self.worker.model.first.detach()))
        ends = processor.tokenizer.eos_token_id
        return ids, [[20 + i, 30, ends] for i in range(words["sampling_params"]["n"])]


@pytest.fixture(scope="module")
def loaded():
    return load_model("tiny")


@pytest.fixture
def writer(loaded):
    made = Writer(loaded.processor)
    yield made
    made.stop()


def train(writer, folder, lag=0, resume=None, n_samples=40, rounds=0, **changes):
    """Five steps, saved after the third; the samples of each step, and how old its weights were."""
    model, known = load_model("tiny"), load_task("detection")
    args = {"max_steps": 5, "num_generations": 4, "per_device_train_batch_size": 8, "save_steps": 3, "max_completion_length": 8}
    args |= {"learning_rate": 1e-3, "logging_steps": 1, "seed": 3, "use_cpu": True, "bf16": False, "report_to": "none"}
    args |= {"gradient_checkpointing": False, "disable_tqdm": True, "use_vllm": True, "vllm_mode": "server"}
    args |= {"vllm_importance_sampling_correction": False}  # what is written has nothing to do with the weights
    config = GRPOConfig(
        output_dir=str(folder), remove_unused_columns=False, top_k=0, vllm_server_base_url=writer.url, **(args | changes)
    )
    trainer = Trainer(
        model,
        {"detection": known},
        [PAYING],
        Samples(n_samples, lambda i: prepare_sample(known.synthetic(0, "train", i), model)),
        config,
        engine_logp_bound=1e9,
        weights_folder=folder / "weights",
        rollout_lag=lag,
        dynamic_sampling=rounds,
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "reward" in row]
    ids = {}
    for path in sorted((folder / "completions").glob("step_*.jsonl")):
        found = [json.loads(line) for line in path.read_text().splitlines()]
        ids[found[0]["step"]] = [row["id"] for row in found]
    return ids, [row["sampling/lag"] for row in rows]


@pytest.mark.long
def test_rows_weights_and_a_stop(writer, tmp_path):
    ids, lags = train(writer, tmp_path / "now")
    assert lags == [0.0] * 5
    assert len(set(writer.by)) == 5, "each step has weights of its own"
    assert not list((tmp_path / "now" / "weights").iterdir())
    by, writer.by = writer.by, []
    ahead, lags = train(writer, tmp_path / "ahead", lag=1)
    assert lags == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert ahead == ids, "the same rows in the same order"
    assert writer.by[:2] == by[:2]
    assert [len(set(writer.by[2 * i : 2 * i + 2])) for i in range(5)] == [1] * 5
    assert writer.by[2] == writer.by[0], "the second batch is written by the weights of the first"
    assert len(writer.by) == 10, "nothing is written twice, and nothing past the end"
    for path in (tmp_path / "ahead" / "completions").glob("step_00000[45].jsonl"):
        path.unlink()
    (tmp_path / "ahead" / "metrics.jsonl").unlink()
    again, lags = train(writer, tmp_path / "ahead", lag=1, resume=tmp_path / "ahead" / "checkpoint-3")
    assert again == ids
    assert lags == [0.0, 1.0]


@pytest.mark.long
def test_several_updates_a_generation_and_two_epochs(writer, tmp_path):
    """8 samples are 2 generations of 4 prompts in 2 updates each; the first of the second epoch is not written ahead."""
    many = {"steps_per_generation": 2, "gradient_accumulation_steps": 1, "max_steps": 8, "save_strategy": "no", "n_samples": 8}
    ids, _ = train(writer, tmp_path / "now", **many)
    ahead, lags = train(writer, tmp_path / "ahead", lag=2, **many)
    assert ahead == ids
    assert lags == [0.0, 2.0, 0.0, 2.0]


@pytest.mark.long
def test_where_nothing_is_written_ahead_weights_are_sent_less_often(writer, tmp_path):
    """So it is with vLLM in the training processes, and here with rounds of fresh prompts."""
    _, lags = train(writer, tmp_path, lag=1, rounds=1, max_steps=4, save_strategy="no")
    assert lags == [0.0, 1.0, 0.0, 1.0]
    assert len(set(writer.by)) == 2
