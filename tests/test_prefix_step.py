"""A step in the shared layout against TRL's own: the same completions, loss and weights, and less work."""

import dataclasses
import zlib
from collections import Counter

import pytest
import torch
from peft import LoraConfig
from trl import GRPOConfig

from vlrl.data import images as image_files
from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model
from vlrl.models.prefix_sharing import step as shared_step
from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.schema import Reward, Sample, Score
from vlrl.tasks import TASKS
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo import Trainer
from vlrl.training.weights import start_folder

DETECTION = TASKS["detection"]
PAYING = Reward("paying", lambda text, sample: Score(zlib.crc32(text.encode()) % 997 / 997, text), 0.0, 1.0)


def arguments(folder, **changes):
    options = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 24, "seed": 3}
    options |= {"learning_rate": 0.1, "optim": "sgd", "max_grad_norm": 0.0, "beta": 0.04, "save_strategy": "no"}
    options |= {"report_to": "none", "logging_steps": 1, "bf16": False, "use_cpu": True, "gradient_checkpointing": False}
    options |= {"disable_tqdm": True, "loss_type": "dapo", "top_k": 0, "lr_scheduler_type": "constant", "warmup_steps": 0}
    return GRPOConfig(output_dir=str(folder), remove_unused_columns=False, **(options | changes))


class Counted(Trainer):
    """Counts, from the second optimizer step on, what is run; keeps completions and what the loss was."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.ran, self.made = Counter(), []
        towers = [self.model, *([self.ref_model] if self.ref_model else [])]
        for model in towers:
            visual = next(m for name, m in model.named_modules() if name.endswith("visual"))
            visual.register_forward_pre_hook(self._seen, with_kwargs=True)
        images = self.processing_class.image_processor
        process = type(images).__call__

        def counted(own, *args, **kwargs):
            made = process(own, *args, **kwargs)
            self._add("processed", len(made["image_grid_thw"]))
            return made

        images.__class__ = type("Counting", (type(images),), {"__call__": counted})

    def _seen(self, module, args, kwargs):
        grid = kwargs.get("grid_thw", args[1] if len(args) > 1 else None)
        self._add("encoded", len(grid))

    def _add(self, name, n):
        if self.state.global_step >= 1:
            self.ran[name] += n

    def _calculate_rewards(self, inputs, prompts, completions, ids):
        self.made += ids
        return super()._calculate_rewards(inputs, prompts, completions, ids)


def two_images(i, loaded):
    """Detection samples whose prompts differ in length and in the number of images."""
    sample = DETECTION.synthetic(0, "train", i)
    if i % 3 == 0:
        sample = dataclasses.replace(sample, images=(*sample.images, DETECTION.synthetic(0, "train", i + 1).images[0]))
    return prepare_sample(sample, loaded)


def run(folder, mode, monkeypatch, *, peft=None, freeze=False, start="tiny-random", **changes):
    monkeypatch.setattr(shared_step, "DROP_EVERY", 0)  # the random numbers of the rows that go on must not move
    loaded = load_model(start)
    if freeze:
        before = [p.detach().clone() for name, p in loaded.model.named_parameters() if "visual" in name]
    start_folder(loaded, folder)
    data = Samples(40, lambda i: two_images(i, loaded))
    args = arguments(folder, **changes)
    trainer = Counted(loaded, TASKS, [PAYING], data, args, peft, freeze_vision=freeze, group_shared=mode)
    trainer.train()
    if freeze:
        after = [p for name, p in trainer.model.named_parameters() if "visual" in name]
        assert all(map(torch.equal, before, after))
    return trainer


def losses(trainer):
    return [row["loss"] for row in trainer.state.log_history if "loss" in row]


CASES = {
    "kl": {},
    "no kl": {"beta": 0.0},
    "micro-batches smaller than a group": {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
    # One group a generation: which rows share an update is drawn, groups here and rows there.
    "several updates a generation": {"num_iterations": 2, "per_device_train_batch_size": 4, "max_steps": 2},
    "gradient checkpointing": {"gradient_checkpointing": True},
    "frozen vision encoder": {"freeze": True},
    "lora": {"peft": LoraConfig(r=4, target_modules=["q_proj", "v_proj", "qkv"], init_lora_weights=False)},
    "lora, frozen vision encoder": {"peft": LoraConfig(r=4, init_lora_weights=False), "freeze": True},
    "masked where cut": {"mask_truncated_completions": True, "max_completion_length": 60, "start": "tiny"},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_step_is_trls_own(name, tmp_path, monkeypatch, capsys):
    case = CASES[name]
    off = run(tmp_path / "off", "off", monkeypatch, **case)
    on = run(tmp_path / "on", "on", monkeypatch, **case)
    assert "sharing   on" in capsys.readouterr().out
    assert on.made == off.made, "sampled tokens"
    assert losses(on) == pytest.approx(losses(off), rel=1e-5, abs=1e-6)
    moved = 0
    start = dict(load_model(case.get("start", "tiny-random")).model.named_parameters())
    for (key, one), (_, other) in zip(on.model.named_parameters(), off.model.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6, msg=lambda text, key=key: f"{key}: {text}")
        moved += key in start and not torch.equal(one, start[key])
    assert moved or "peft" in case
    assert all(row["shared"] == 1 for row in on.state.log_history if "shared" in row)
    assert off.state.log_history[0].get("shared") is None


def test_every_image_is_opened_processed_and_encoded_once(tmp_path, monkeypatch):
    opened = Counter()
    open_image = image_files.open_image
    monkeypatch.setattr(image_files, "open_image", lambda path: opened.update([path]) or open_image(path))
    case = {"max_steps": 2, "gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}
    off = run(tmp_path / "off", "off", monkeypatch, **case).ran
    opened.clear()
    on = run(tmp_path / "on", "on", monkeypatch, **case).ran
    # 16 rows of 4 prompts: rollout, reference and update each need the images of 4 prompts.
    n = on["processed"]
    assert 4 <= n <= 8, "an image or two a prompt"
    assert off == {"processed": 2 * 4 * n, "encoded": 3 * 4 * n}
    assert on == {"processed": n, "encoded": 3 * n}
    frozen = run(tmp_path / "frozen", "on", monkeypatch, freeze=True, **case).ran
    assert frozen == {"processed": n, "encoded": n}
    assert max(opened.values()) <= 3, "by index, not by row and micro-batch; samples may be drawn again"


def test_what_cannot_be_shared_goes_trls_way_and_says_why(tmp_path, monkeypatch, capsys):
    sizes = {"per_device_train_batch_size": 6, "num_generations": 4, "gradient_accumulation_steps": 2}
    run(tmp_path / "auto", "auto", monkeypatch, **sizes)
    assert "sharing   off: per_device_train_batch_size=6" in capsys.readouterr().out
    with pytest.raises(NotShared, match="group_shared on: per_device_train_batch_size=6"):
        run(tmp_path / "on", "on", monkeypatch, **sizes)


@pytest.fixture(scope="module")
def trls_own(tmp_path_factory):
    """A run without sharing."""
    with pytest.MonkeyPatch.context() as patch:
        return run(tmp_path_factory.mktemp("off"), "off", patch, beta=0.0)


@pytest.mark.parametrize("broken", ["logps", "positions", "gradients", "kernel"])
def test_a_wrong_pass_is_found_before_it_trains(broken, tmp_path, monkeypatch, capsys, trls_own):
    whole = shared_step.group_logps
    if broken == "positions":
        plan = shared_step.plan_groups

        def wrong(*args):
            return [dataclasses.replace(g, positions_AP=g.positions_AP.flip(1)) for g in plan(*args)]

        monkeypatch.setattr(shared_step, "plan_groups", wrong)
    else:

        def wrong(*args, **kwargs):
            if broken == "kernel":
                raise RuntimeError("no kernel image is available")
            logps, entropy = whole(*args, **kwargs)
            return (logps + 1e-3 if broken == "logps" else 0.99 * logps + 0.01 * logps.detach()), entropy

        monkeypatch.setattr(shared_step, "group_logps", wrong)
    off = trls_own
    on = run(tmp_path / "auto", "auto", monkeypatch, beta=0.0, max_steps=2)
    said = "no kernel image" if broken == "kernel" else "differs from TRL's by more than rounding"
    assert capsys.readouterr().out.count(said) == 1
    if broken != "positions":  # those serve the rollout too
        assert on.made[:8] == off.made
        assert losses(on)[0] == pytest.approx(losses(off)[0], rel=1e-5, abs=1e-6)
    assert [row["shared"] for row in on.state.log_history if "shared" in row] == [1.0], "off from the second step on"
    with pytest.raises(RunStopped, match="group_shared on"):
        run(tmp_path / "on", "on", monkeypatch, beta=0.0)


def test_a_cache_that_generate_builds_keeps_trls_rollout_and_the_packed_pass(tmp_path, monkeypatch):
    case = {"cache_implementation": "dynamic", "beta": 0.0}
    off, on = (run(tmp_path / mode, mode, monkeypatch, **case) for mode in ("off", "on"))
    assert on.made == off.made
    assert losses(on) == pytest.approx(losses(off), rel=1e-5, abs=1e-6)


def test_finished_rows_leave_the_batch_and_the_rest_goes_on(tmp_path, monkeypatch):
    loaded = load_model("tiny")
    data = Samples(40, lambda i: prepare_sample(DETECTION.synthetic(0, "train", i), loaded))
    args = arguments(tmp_path, max_completion_length=200, beta=0.0, per_device_train_batch_size=32)
    sizes = []
    monkeypatch.setattr(shared_step, "DROP_EVERY", 1)
    generate = loaded.model.generate

    def spied(**kwargs):
        sizes.append(len(kwargs["input_ids"]))
        return generate(**kwargs)

    monkeypatch.setattr(type(loaded.model), "generate", lambda own, **kwargs: spied(**kwargs))
    trainer = Counted(loaded, TASKS, [PAYING], data, args, group_shared="on")
    trainer.train()
    assert sizes[0] == 32
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 32
    ends = trainer.ends
    assert all(ids[-1] in ends or len(ids) == 200 for ids in trainer.made)
    assert all(not ends.intersection(ids[:-1]) for ids in trainer.made)


def test_text_alone_is_shared_too(tmp_path, monkeypatch, capsys):
    loaded = load_model("tiny-random")
    row = Sample(id="t", task="qa", question="How much is 2 + 2?", answer="4", meta={"kind": "number"})
    data = Samples(40, lambda i: prepare_sample(dataclasses.replace(row, id=str(i), question=f"How much is 2 + {i}?"), loaded))
    trainer = Trainer(loaded, TASKS, [PAYING], data, arguments(tmp_path, beta=0.0), group_shared="on")
    trainer.train()
    assert "sharing   on" in capsys.readouterr().out
    assert losses(trainer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("freeze", [False, True])
def test_on_a_gpu_a_step_is_trls_own_within_bf16(tmp_path, monkeypatch, capsys, freeze):
    case = {"bf16": True, "use_cpu": False, "temperature": 1e-6, "freeze": freeze, "start": "tiny"}
    off, on = (run(tmp_path / mode, mode, monkeypatch, **case) for mode in ("off", "on"))
    assert "attention kernel: merge" in capsys.readouterr().out
    same = sum(a == b for a, b in zip(on.made, off.made, strict=True))
    assert same >= 0.75 * len(on.made), "nearly greedy; ties may fall otherwise"
    assert losses(on) == pytest.approx(losses(off), abs=0.05)
