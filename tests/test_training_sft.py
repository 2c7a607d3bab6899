"""The supervised stage: what moves, what stays, and batches that mix text, images and video."""

import json
import math

import pytest
import torch
from peft import LoraConfig
from PIL import Image
from transformers import AutoModelForImageTextToText
from trl import GRPOConfig

from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model
from vlrl.schema import ModelView, Sample, SampleError, Task
from vlrl.tasks import TASKS
from vlrl.training.imitated import check_targets
from vlrl.training.sft import supervise


def like(folder):
    return GRPOConfig(output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False, seed=3)


def train(folder, loaded, samples, **options):
    options = {"steps": 2, "batch_size": 4, "learning_rate": 1e-3, **options}
    supervise(loaded, TASKS, samples, folder / "sft", like(folder), **options)
    return [json.loads(line) for line in (folder / "sft" / "metrics.jsonl").read_text().splitlines()]


def detection(loaded):
    return Samples(8, lambda i: prepare_sample(TASKS["detection"].synthetic(0, "train", i), loaded))


@pytest.mark.parametrize("options", [{}, {"muon": True}, {"peft_config": LoraConfig(r=4)}], ids=["AdamW", "Muon", "LoRA"])
@pytest.mark.parametrize("frozen", [False, True])
def test_what_moves(tmp_path, options, frozen, capsys):
    loaded = load_model("tiny-random")
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    train(tmp_path, loaded, detection(loaded), freeze_vision=frozen, **options)
    assert ("vision weights are frozen" in capsys.readouterr().out) == frozen
    after = dict(AutoModelForImageTextToText.from_pretrained(tmp_path / "sft" / "final").named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name for name in before if "language_model" in name and name.endswith("q_proj.weight")} <= moved
    assert any("visual" in name for name in moved) == (not frozen)
    kept = dict(loaded.model.named_parameters())
    assert all(torch.equal(kept[name], after[name]) for name in before), "in place, and on disk"


def test_batches_of_text_images_and_video_have_the_loss_of_their_rows(tmp_path):
    for i in range(3):
        Image.new("RGB", (60, 90), (40 * i, 90, 30)).save(tmp_path / f"{i}.png")
    question = {"question": "What is 1 + 1?", "answer": 2}
    rows = [
        Sample("text", "qa", **question),
        Sample("one", "qa", images=(str(tmp_path / "0.png"),), **question),
        Sample("two", "qa", images=(str(tmp_path / "0.png"), str(tmp_path / "1.png")), **question),
        Sample("video", "qa", video=str(tmp_path), **question),
    ]

    def loss(name, order):
        loaded = load_model("tiny-random")
        ready = [prepare_sample(rows[i], loaded) for i in order]
        options = {"steps": 1, "batch_size": len(order), "learning_rate": 1e-9}
        (row,) = (
            row for row in train(tmp_path / name, loaded, Samples(len(order), ready.__getitem__), **options) if "loss" in row
        )
        return row["loss"]

    alone = [loss(str(i), [i]) for i in range(4)]
    assert len({round(value, 4) for value in alone}) == 4
    # Every target is equally long, so that the batch's token mean is the mean of its rows.
    assert loss("all", [0, 1, 2, 3]) == pytest.approx(sum(alone) / 4, rel=1e-4)
    assert loss("again", [3, 0, 2, 1]) == pytest.approx(sum(alone) / 4, rel=1e-4)
    assert math.isfinite(loss("texts", [0, 0]))


def imitating(name, completion, **facts):
    question = {"question": "What is 1 + 1?", "answer": 2}
    return Sample(name, "qa", meta={"imitate": {"completion": completion, **facts}}, **question)


def test_rows_are_imitated_as_they_stand_with_their_weights(tmp_path):
    """The loss is sum(w x -log p) / tokens, for weights below 0 too; without weights it is TRL's own."""
    a, b = "<answer>two, I say \u00fc</answer>", "<answer>2</answer>"

    def loss(name, *rows):
        loaded = load_model("tiny-random")
        ready = [prepare_sample(row, loaded) for row in rows]
        n_tokens = [len(loaded.tokenizer(row.meta["imitate"]["completion"]).input_ids) for row in rows]
        options = {"steps": 1, "batch_size": len(rows), "learning_rate": 1e-9}
        logged = train(tmp_path / name, loaded, Samples(len(rows), ready.__getitem__), **options)
        return next(row["loss"] for row in logged if "loss" in row), n_tokens

    alone_a, (n_a,) = loss("a", imitating("a", a))
    alone_b, (n_b,) = loss("b", imitating("b", b))
    n_end = 2  # the end of the turn, and the line break after it
    sums = {"a": alone_a * (n_a + n_end), "b": alone_b * (n_b + n_end)}
    n = n_a + n_b + 2 * n_end
    both, _ = loss("both", imitating("a", a), imitating("b", b, weight=1))
    assert both == pytest.approx((sums["a"] + sums["b"]) / n, rel=1e-4)
    for i, (w_a, w_b) in enumerate([(1, 0), (0.25, 2), (1, -0.5)]):
        weighted, _ = loss(f"w{i}", imitating("a", a, weight=w_a), imitating("b", b, weight=w_b))
        assert weighted == pytest.approx((w_a * sums["a"] + w_b * sums["b"]) / n, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("stated", "target", "said"),
    [
        ("text", "thinking+answer", "must be an object"),
        ({"completion": " "}, "thinking+answer", "must have a completion"),
        ({"completion": "x", "weight": math.nan}, "thinking+answer", "must be a finite number"),
        ({"completion": "x", "weigth": 1}, "thinking+answer", "unknown key 'weigth'"),
        ({"completion": "x", "coords": "norm1000"}, "thinking+answer", "it would learn wrong boxes"),
        ({"completion": "x"}, "answer", "--sft_target answer cannot honour"),
    ],
)
def test_what_cannot_be_imitated_is_named(stated, target, said):
    sample = Sample("q", "qa", "?", "a", meta={"imitate": stated}, view=ModelView("px"))
    with pytest.raises(SampleError, match=said):
        check_targets([sample], TASKS, target, "x.jsonl")


def test_a_task_without_an_oracle_needs_completions():
    own = {"own": Task("own", lambda sample: "p", (), lambda sample, prediction: 1.0)}
    check_targets([Sample("q", "own", "?", None, meta={"imitate": {"completion": "x"}})], own, "thinking+answer", "x.jsonl")
    with pytest.raises(SampleError, match=r"no oracle and no sft_target, and the row no meta\.imitate"):
        check_targets([Sample("q", "own", "?", None)], own, "thinking+answer", "x.jsonl")
