"""`--dry_run` on folders of real configurations without weights: what it prints, and memory beside the hand computation in the docs."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from real_shapes import write_real_folder

from vlrl.models.load import load_inputs
from vlrl.models.memory import GIB, Memory, estimate
from vlrl.models.names import ModelError
from vlrl.training import memory_plan
from vlrl.training.banner import drawn_data_note
from vlrl.training.config import parse
from vlrl.training.memory_plan import Device, PromptSize, job_of_run, memory_words, remedies_for, sizes_of_run
from vlrl.training.options import CONFIGS
from vlrl.training.weights import start_inputs

DOCS = Path(__file__).resolve().parent.parent / "docs" / "models.md"
RECIPES = {
    "qwen2.5_vl_3b_lora_1gpu": ("Qwen/Qwen2.5-VL-3B-Instruct", 24),
    "qwen2.5_vl_7b_lora_1gpu": ("Qwen/Qwen2.5-VL-7B-Instruct", 40),
    "qwen3_vl_4b_lora_1gpu": ("Qwen/Qwen3-VL-4B-Instruct", 24),
}
LONGEST = PromptSize(512, 200)
"""The prompt of the hand computation: an image of the largest size of the recipes, and a question."""


def by_hand(name: str) -> float:
    """The peak in GiB that docs/models.md computes for a recipe."""
    row = re.search(rf"^\| `{re.escape(name)}` \|.*\| ([\d.]+) GiB \|$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert row, name
    return float(row[1])


@pytest.mark.parametrize("name", RECIPES)
def test_memory_of_a_recipe_is_that_computed_by_hand(name, tmp_path):
    model, card_gb = RECIPES[name]
    folder = write_real_folder(model, tmp_path)
    config = parse(["--config", str(CONFIGS / f"{name}.yaml"), "--model_name_or_path", str(folder)])
    inputs = start_inputs(config.model, config.run, trust_remote_code=False, weights=False)
    sizes = sizes_of_run(config, inputs)
    device = Device("a card", card_gb * 1e9, True)
    job = job_of_run(config, inputs, LONGEST, device, 1)
    memory = estimate(sizes, job)
    assert abs(memory.peak / GIB - by_hand(name)) <= 1
    assert memory_plan.fits_device(memory, device)
    head = (CONFIGS / f"{name}.yaml").read_text().split("\n\n")[0]
    assert f"{memory.peak / GIB:.0f} GiB" in head
    assert "TOO LITTLE" not in memory_words(memory, device)
    small = Device("a small card", 8e9, True)
    assert "TOO LITTLE" in memory_words(memory, small)
    steps = remedies_for(sizes, job, small)
    assert steps
    assert steps[-1].startswith("--load_in_4bit")
    (note,) = drawn_data_note(config, inputs)
    assert note.startswith("WARNING: no --data")


def test_a_dry_run_prints_the_run_and_its_memory_and_writes_nothing(tmp_path, run_train):
    folder = write_real_folder("Qwen/Qwen2.5-VL-3B-Instruct", tmp_path / "model")
    flags = ["--config", CONFIGS / "qwen2.5_vl_3b_lora_1gpu.yaml", "--model_name_or_path", folder, "--task", "grounding"]
    code, out, err = run_train(*flags, "--limit", "64", "--eval_limit", "4", "--output_dir", tmp_path / "run", "--dry_run")
    assert (code, err) == (0, "")
    assert not (tmp_path / "run").exists()
    text = " ".join(out.split())
    for words in (
        "3754.62 M parameters (language model 3085.94 M, vision encoder 668.68 M), adapters of",
        "WARNING: no --data:",
        "of this prompt; its images: 112x112 px = 16 tokens",
        "16 steps over 64 samples, 2 epochs",
        "estimated peak a device",
        "weights 7.4 GiB",
        "LoRA, 16-bit weights, 8 completions of 1024 tokens",
        "fits a card of 24 GB",
        "other ways: full",
        "FSDP2 over 8",
    ):
        assert words in text, words
    with pytest.raises(ModelError, match="holds no weights"):
        load_inputs(str(folder))


@pytest.mark.parametrize(
    ("flags", "engine", "bytes_of"),
    [
        ([], "ddp", {"weight_bytes": 4, "compute_bytes": 4, "tuning": "full"}),
        (["--dtype", "bfloat16", "--bf16", "true"], "ddp", {"weight_bytes": 2, "compute_bytes": 2}),
        (["--use_peft", "--beta", "0.1"], "ddp", {"tuning": "lora", "reference": False, "dropout": True}),
        (["--optim", "adamw_8bit", "--beta", "0.1"], "ddp", {"moment_bytes": 2.0, "reference": True}),
        (["--group_shared", "off"], "ddp", {"shared": False, "dense_mask": False}),
    ],
)
def test_flags_are_what_is_estimated(flags, engine, bytes_of, tiny, monkeypatch):
    monkeypatch.setattr("vlrl.training.flag_checks.is_installed", lambda _package: True)
    config = parse(["--task", "qa", *flags])
    inputs = start_inputs(config.model, config.run, trust_remote_code=False)
    job = job_of_run(config, inputs, LONGEST, Device("the CPU", 1e9, False), 1)
    assert job.engine == engine
    for name, value in bytes_of.items():
        assert getattr(job, name) == value, name


def test_a_device_is_compared_with_what_it_has():
    memory = Memory(*(GIB * x for x in (1, 1, 2, 0, 0, 3, 1, 4, 7)))
    assert "TOO LITTLE" not in memory_words(memory, Device("the CPU", 7 * GIB, False))
    assert "TOO LITTLE" in memory_words(memory, Device("a GPU", 7 * GIB, True)), "a context comes on top"
    assert memory_plan.cards_words(memory) == "fits a card of 24 GB"
    assert torch.cuda.is_available() or not memory_plan.this_device(parse(["--task", "qa"])).is_gpu


@pytest.mark.parametrize(("stage", "engine"), [(0, "ddp"), (1, "ddp"), (2, "zero2"), (3, "zero3")])
def test_deepspeed_stages_are_engines(stage, engine):
    settings = SimpleNamespace(get_value=lambda _name, _default: stage)
    assert memory_plan.engine_of(SimpleNamespace(fsdp=None, hf_deepspeed_config=settings)) == engine
    assert memory_plan.engine_of(SimpleNamespace(fsdp="full_shard", hf_deepspeed_config=None)) == "fsdp2"
    assert memory_plan.engine_of(SimpleNamespace(fsdp=None, hf_deepspeed_config=None)) == "ddp"
