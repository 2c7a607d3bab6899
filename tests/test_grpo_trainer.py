"""The published forms of the loss, and batches of text, images and video."""

import dataclasses
import json
import math
import zlib

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from trl import GRPOConfig, GRPOTrainer

from vlrl.data.images import Video
from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model, save_model, vision_token_ids
from vlrl.models.vision_encoder import freeze_vision, is_vision_weight
from vlrl.schema import Reward, Sample, Score
from vlrl.tasks import TASKS
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo import Trainer
from vlrl.training.grpo.batch import BatchPart, MicroBatch
from vlrl.training.grpo.mixed_modality import all_see_images
from vlrl.training.unused_weights import leaves_weights_unused

DETECTION = TASKS["detection"]
PAYING = Reward("paying", lambda text, sample: Score(zlib.crc32(text.encode()) % 997 / 997, text), 0.0, 1.0)
"""Pays completions differently, so that there is something to learn."""


def arguments(folder, **changes):
    options = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 6, "seed": 3}
    options |= {"learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "logging_steps": 1, "bf16": False}
    options |= {"use_cpu": True, "gradient_checkpointing": False, "disable_tqdm": True, "top_k": 0}
    return GRPOConfig(output_dir=str(folder), remove_unused_columns=False, **(options | changes))


def samples(loaded, n, task):
    return Samples(n, lambda i: prepare_sample(task.synthetic(0, "train", i), loaded))


def test_a_sampled_vision_token_stops_the_run(tmp_path, run_train, small, monkeypatch):
    generate = GRPOTrainer._generate_single_turn

    def sample_an_image(self, *args, **kwargs):
        ids, logps = generate(self, *args, **kwargs)
        ids[1][0] = min(self.scores.banned)
        return ids, logps

    monkeypatch.setattr(GRPOTrainer, "_generate_single_turn", sample_an_image)
    code, _, err = run_train("--output_dir", tmp_path / "run", *small)
    assert code == 1
    assert "vision tokens" in err
    assert "synthetic-detection-train" in err


def test_vision_tokens_cannot_be_sampled(tmp_path, small, tiny):
    """Even a model that wants nothing else never says them."""
    trainer = Trainer(tiny, TASKS, [PAYING], samples(tiny, 20, DETECTION), arguments(tmp_path))
    banned = vision_token_ids(tiny)
    names = tiny.tokenizer.convert_ids_to_tokens(banned)
    assert {"<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"} <= set(names)
    head = trainer.model.lm_head
    bias = torch.zeros(head.out_features)
    bias[banned] = 1e4
    handle = head.register_forward_hook(lambda _m, _i, out: out + bias)
    row = trainer.train_dataset[0]
    prompt_ids, images, fields = trainer._tokenize_prompts(
        [[{"role": "user", "content": [{"type": "image", "image": row["images"][0]}, row["prompt"][0]["content"][1]]}]] * 2
    )
    ids, _ = trainer._generate_single_turn(prompt_ids, images, fields, 2)
    handle.remove()
    assert not set(banned) & {token for row in ids for token in row}


# -- modes -------------------------------------------------------------------------------------------------------------

MODES = {
    "clip-higher": {"epsilon": 0.2, "epsilon_high": 0.28, "num_iterations": 2},
    "Dr.GRPO": {"loss_type": "dr_grpo", "scale_rewards": "none"},
    "DAPO": {"loss_type": "dapo", "epsilon_high": 0.28},
    "GSPO": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 3e-4, "epsilon_high": 4e-4, "steps_per_generation": 2},
    "GRPO with KL": {"loss_type": "grpo", "beta": 0.04},
    "LoRA": {"loss_type": "grpo"},
    "LoRA with KL": {"loss_type": "grpo", "beta": 0.04},
}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The untrained model in a folder, where a reference can be loaded from."""
    folder = tmp_path_factory.mktemp("start")
    loaded = load_model("tiny-random")
    save_model(loaded.model, loaded.processor, folder)
    return str(folder)


@pytest.mark.parametrize("mode", MODES)
def test_the_published_forms_of_the_loss(tmp_path, start, mode):
    loaded = load_model(start)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    lora = LoraConfig(r=4, lora_alpha=8) if "LoRA" in mode else None
    args = arguments(tmp_path, max_steps=2, **MODES[mode])
    trainer = Trainer(loaded, TASKS, [PAYING], samples(loaded, 40, DETECTION), args, lora)
    trainer.train()
    logged = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert len(logged) == 2
    for row in logged:
        assert math.isfinite(row["loss"])
        assert 0 < row["grad_norm"] < math.inf
        assert ("kl" in row) == ("KL" in mode)
    if "KL" in mode:
        assert logged[0]["kl"] == pytest.approx(0, abs=1e-6)
        assert logged[1]["kl"] > 0, "the policy has moved from the reference"
    after = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    if lora is None:
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert {name for name in before if "layers.0.self_attn.q_proj.weight" in name} <= moved
        assert any("visual" in name for name in moved)
    else:
        assert trainer.ref_model is None
        adapters = {name for name in after if "lora_B" in name}
        assert any("visual" in name for name in adapters), "no targets named: every linear layer"
        assert all(after[name].abs().sum() > 0 for name in adapters if "language_model" in name)
        names = {name.removeprefix("base_model.model.").replace(".base_layer", ""): p for name, p in after.items()}
        assert all(torch.equal(before[name], names[name]) for name in before), "what is adapted stays as it was"


def test_std_free_advantages(tmp_path, start):
    loaded = load_model(start)
    args = arguments(tmp_path, loss_type="dr_grpo", scale_rewards="none")
    Trainer(loaded, TASKS, [PAYING], samples(loaded, 40, DETECTION), args).train()
    rows = [json.loads(line) for line in (tmp_path / "completions" / "step_000001.jsonl").open()]
    values = [row["rewards"]["paying"]["value"] for row in rows]
    means = [sum(values[i : i + 4]) / 4 for i in range(0, len(values), 4) for _ in range(4)]
    assert [row["advantage"] for row in rows] == pytest.approx([v - m for v, m in zip(values, means, strict=True)], abs=1e-5)


@pytest.mark.parametrize("lora", [False, True])
def test_a_frozen_tower_stays_as_it_was(tmp_path, start, lora, capsys):
    loaded = load_model(start)
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    n_vision = sum(p.numel() for name, p in before.items() if "visual" in name)
    peft = LoraConfig(r=4, lora_alpha=8) if lora else None
    data = samples(loaded, 40, DETECTION)
    trainer = Trainer(loaded, TASKS, [PAYING], data, arguments(tmp_path), peft, freeze_vision=True)
    assert f"frozen: {n_vision:,} of" in capsys.readouterr().out
    trainer.train()
    after = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    if lora:
        adapters = {name for name in after if "lora_" in name}
        assert adapters
        assert not [name for name in adapters if "visual" in name]
        return
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if "visual" in name]
    assert {name for name in before if "language_model" in name and name.endswith("proj.weight")} <= moved


# -- rows of several kinds ---------------------------------------------------------------------------------------------


def kinds(tmp_path):
    """Text alone, one image, two of different size, a video."""
    for i, size in enumerate([(112, 84), (56, 90)]):
        Image.new("RGB", size, (200, 60 * i, 30)).save(tmp_path / f"{i}.png")
    (tmp_path / "video").mkdir()
    for i in range(3):
        Image.new("RGB", (60, 60), (40 * i, 90, 30)).save(tmp_path / "video" / f"{i:02d}.jpg")
    images = [str(tmp_path / f"{i}.png") for i in range(2)]
    question = {"question": "What is 1 + 1?", "answer": 2}
    return [
        Sample("text", "qa", **question),
        Sample("one", "qa", images=(images[0],), **question),
        Sample("two", "qa", images=tuple(images), **question),
        Sample("video", "qa", video=str(tmp_path / "video"), **question),
    ]


def scored(trainer, rows, batch_size):
    """Log-probabilities of dictated completions, as TRL's own path computes them for `rows`."""
    inputs = [row for row in rows for _ in range(4)]
    trainer.args.per_device_train_batch_size = batch_size
    trainer.model.train()
    batch = trainer.batch_of(inputs)
    n = [int(mask.sum()) for mask in batch.made.completion_mask_BT]
    return [logps[:k] for logps, k in zip(batch.made.old_logps_BT, n, strict=True)], batch


class Dictated(Trainer):
    def sample(self, prompt_ids, images, fields, n):
        return [
            [400 + len(ids) % 7, 500 + i % 4, *range(600, 600 + i % 4), self._tokenizer.eos_token_id]
            for i, ids in enumerate(prompt_ids)
        ], None


@pytest.mark.parametrize(("rounds", "shared"), [(0, "auto"), (2, "auto"), (0, "off")])
def test_text_images_and_video_in_one_batch_score_as_they_do_alone(tmp_path, start, rounds, shared):
    loaded = load_model(start)
    rows = [prepare_sample(sample, loaded) for sample in kinds(tmp_path)]
    data = Samples(len(rows), rows.__getitem__)
    args = arguments(tmp_path / "run", steps_per_generation=2, per_device_train_batch_size=8, gradient_accumulation_steps=1)
    trainer = Dictated(loaded, TASKS, [PAYING], data, args, dynamic_sampling=rounds, group_shared=shared)
    opened = [trainer.train_dataset[i] for i in range(len(rows))]
    assert [len(row["images"]) for row in opened] == [0, 1, 2, 1]
    assert isinstance(opened[3]["images"][0], Video)
    alone = [logps for row in opened for logps in scored(trainer, [row], 4)[0]]
    for order in ([0, 1, 2, 3], [3, 0, 2, 1]):
        for batch_size in (16, 3, 1):
            together, batch = scored(trainer, [opened[i] for i in order], batch_size)
            assert batch.plan.shares == (shared == "auto")
            each = 1 if batch.plan.shares else 4
            assert [len(group.images) for group in batch.plan.groups] == [int(i > 0) for i in order for _ in range(each)]
            expected = [alone[4 * i + k] for i in order for k in range(4)]
            for one, other in zip(together, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2, "gradient_accumulation_steps": 1}, {"beta": 0.04}])
def test_training_on_text_images_and_video(tmp_path, start, changes):
    """Also where a whole part of the batch has no image: then the tower is left out."""
    loaded = load_model(start)
    rows = [prepare_sample(sample, loaded) for sample in kinds(tmp_path)]
    data = Samples(len(rows), rows.__getitem__)
    options = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, **changes}
    if "steps_per_generation" in changes:
        options["per_device_train_batch_size"] = 8
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    trainer = Trainer(loaded, TASKS, [PAYING], data, arguments(tmp_path / "run", max_steps=2, **options), dynamic_sampling=1)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert len(losses) == 2
    assert all(map(math.isfinite, losses))
    after = dict(trainer.model.named_parameters())
    assert not torch.equal(
        before["model.language_model.layers.0.self_attn.q_proj.weight"],
        after["model.language_model.layers.0.self_attn.q_proj.weight"],
    )
    ids = [json.loads(line)["id"] for line in (tmp_path / "run" / "completions" / "step_000001.jsonl").open()]
    assert set(ids) == {"text", "one", "two", "video"}


def test_a_text_only_batch(tmp_path, start):
    loaded = load_model(start)
    row = prepare_sample(kinds(tmp_path)[0], loaded)
    data = Samples(8, lambda i: dataclasses.replace(row, id=str(i)))
    trainer = Trainer(loaded, TASKS, [PAYING], data, arguments(tmp_path / "run"), dynamic_sampling=1)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["loss"])


def test_mixed_batches_are_refused_where_weights_are_sharded(tmp_path, start):
    loaded = load_model(start)
    rows = [prepare_sample(sample, loaded) for sample in kinds(tmp_path)]
    trainer = Trainer(loaded, TASKS, [PAYING], Samples(4, rows.__getitem__), arguments(tmp_path / "run"))
    opened = [trainer.train_dataset[i] for i in range(4)]
    assert all_see_images(opened[1:3], is_sharded=True)
    assert all_see_images(opened[3:], is_sharded=True)
    with pytest.raises(RunStopped, match="show images and others videos"):
        all_see_images(opened[1:], is_sharded=True)
    assert not all_see_images(opened[:1], is_sharded=True)
    assert all_see_images(opened, is_sharded=False)
    trainer.is_fsdp_enabled = True
    with pytest.raises(RunStopped, match="1 of 2 completions of a batch have images"):
        trainer.batch_of(opened[:2])


def test_each_row_is_asked_and_paid_by_its_own_task(tmp_path, start):
    loaded = load_model(start)
    rows = [
        prepare_sample(TASKS[name].synthetic(0, "train", 0), loaded)
        for name in ("detection", "qa", "classification", "planning")
    ]
    rewards = [dataclasses.replace(PAYING, name=name) for name in ("a", "b")]
    trainer = Trainer(
        loaded, TASKS, rewards, Samples(4, rows.__getitem__), arguments(tmp_path / "run"),
        applies=lambda reward, sample: (sample.task == "qa") == (reward.name == "b"),
    )  # fmt: skip
    trainer.train()
    log = [json.loads(line) for line in (tmp_path / "run" / "completions" / "step_000001.jsonl").open()]
    assert {row["id"] for row in log} == {row.id for row in rows}
    for row in log:
        sample = next(sample for sample in rows if sample.id == row["id"])
        assert TASKS[sample.task].prompt(sample) in row["prompt"]
        paid = {name for name, score in row["rewards"].items() if score["value"] is not None}
        assert paid == ({"b"} if sample.task == "qa" else {"a"})


def test_a_reward_that_builds_on_another_gets_its_value(tmp_path, start):
    loaded = load_model(start)
    seen = []

    def half(text, sample, *, base=None):
        seen.append((text, base))
        return Score(base / 2, text)

    rewards = [PAYING, Reward("half", half, 0.0, 1.0, frozenset({"base"}))]
    trainer = Trainer(loaded, TASKS, rewards, samples(loaded, 40, DETECTION), arguments(tmp_path), base=PAYING)
    trainer.train()
    assert seen
    assert all(base == PAYING.function(text, None).value for text, base in seen)


def test_ddp_searches_for_unused_weights_only_where_there_may_be_some(tmp_path):
    loaded = load_model("tiny-random")
    rows = [prepare_sample(sample, loaded) for sample in kinds(tmp_path)]
    assert leaves_weights_unused(loaded.model, Samples(4, rows.__getitem__))
    assert not leaves_weights_unused(loaded.model, Samples(3, rows[1:].__getitem__)), "all have images"
    args = arguments(tmp_path / "run", per_device_train_batch_size=4, ddp_find_unused_parameters=False)
    trainer = Dictated(loaded, TASKS, [PAYING], Samples(1, rows.__getitem__), args)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    batch = trainer.batch_of([trainer.train_dataset[0]] * 4)
    trainer.compute_loss(trainer.model, MicroBatch((BatchPart(batch.made, batch.plan),))).backward()
    vision = [p for name, p in trainer.model.named_parameters() if is_vision_weight(name)]
    assert all(p.grad is not None and not p.grad.any() for p in vision), "a row of text gives them zeros"
    freeze_vision(loaded.model)
    assert not leaves_weights_unused(loaded.model, Samples(4, rows.__getitem__)), "the vision encoder is not trained"
    loaded.model.config.model_type = "other"
    assert leaves_weights_unused(loaded.model, Samples(3, rows[1:].__getitem__))
