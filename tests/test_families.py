"""Thirteen families of models, small and random, with their own processors: each trains, whatever its rows hold.

Rows have one image, two or none, in micro-batches smaller than a generation; with and without sharing, adapters, a frozen
vision encoder. The first case runs the command itself, on a folder like any of the hub.
"""

import json
import zlib

import pytest
import torch
from family_models import FAMILIES, build, saved
from peft import LoraConfig
from PIL import Image
from safetensors.torch import load_file
from trl import GRPOConfig

from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import COORDS_OF, LoadedModel, choose_coords
from vlrl.models.prefix_sharing.facts import COMPARED
from vlrl.models.vision_encoder import is_vision_weight
from vlrl.schema import ModelView, Reward, Sample, SampleError, Score
from vlrl.tasks import TASKS
from vlrl.training.grpo import Trainer

PAYING = "import zlib\nfrom vlrl.schema import Score\n\n\ndef paying(text, sample):\n    return Score((zlib.crc32(text.encode()) % 7 + 1) / 8, text)\n"  # fmt: skip
PAID = Reward("paying", lambda text, sample: Score((zlib.crc32(text.encode()) % 7 + 1) / 8, text), 0.0, 1.0)
SIZES = {"one": [(64, 48)], "two": [(60, 60), (48, 80)], "none": []}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three images, by size."""
    folder = tmp_path_factory.mktemp("pictures")
    made = {}
    for i, size in enumerate({size for sizes in SIZES.values() for size in sizes}):
        made[size] = str(folder / f"{i}.png")
        noise = torch.randint(0, 256, (size[1], size[0], 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(noise.numpy()).save(made[size])
    return made


def rows(pictures, n=12):
    """In turn one image, two and none."""
    kinds = [list(SIZES)[i % 3] for i in range(n)]
    return [
        {"id": f"{kind} {i}", "task": "qa", "question": f"Where is it? {i}", "answer": "left", "images": [pictures[size] for size in SIZES[kind]]}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip


@pytest.fixture(params=list(FAMILIES))
def family(request):
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="SmolVLM's processor needs num2words: pip install 'vlrl[smolvlm]'")
    return request.param


def test_the_command_trains_on_rows_with_one_image_two_and_none(family, pictures, tmp_path, run_train):
    folder = saved(family, tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows(pictures))))
    (tmp_path / "rewards.py").write_text(PAYING)
    code, out, err = run_train(
        "--task", "qa", "--data", tmp_path / "rows.jsonl", "--model_name_or_path", folder, "--output_dir", tmp_path / "run",
        "--rewards", f"{tmp_path}/rewards.py:paying", "--max_steps", "2", "--num_generations", "2", "--val_split", "2",
        "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "3", "--max_completion_length", "4",
        "--learning_rate", "1e-2", "--logging_steps", "1", "--report_to", "none", "--use_cpu", "--bf16", "false", "--beta", "0",
        "--save_strategy", "no",
    )  # fmt: skip
    assert code == 0, err
    out = " ".join(out.split())
    if family in COMPARED:
        assert "sharing on: each prompt runs once per group" in out
        assert "differs from TRL's" not in out
    else:
        assert "sharing off: the language model has layers of type linear_attention" in out
    assert (f"boxes as {COORDS_OF.get(family)} (from config.model_type={family})" in out) == (family in COORDS_OF)
    assert "boxes as unknown" not in out
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [row for row in logged if "grad_norm" in row]
    assert len(steps) == 2
    assert all(row["reward"] > 0 and row["grad_norm"] > 0 for row in steps)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "run" / "final" / "model.safetensors")
    assert any(is_vision_weight(name) and not torch.equal(after[name], before[name]) for name in before)
    assert any(not is_vision_weight(name) and not torch.equal(after[name], before[name]) for name in before)


CASES = {
    "sharing off": {"group_shared": "off"},
    "lora": {"peft": LoraConfig(r=2, init_lora_weights=False)},
    "frozen": {"freeze_vision": True},
}


@pytest.mark.parametrize("case", CASES)
def test_two_steps(family, case, pictures, tmp_path, capsys):
    options = dict(CASES[case])
    peft = options.pop("peft", None)
    model, processor = build(family)
    loaded = LoadedModel(model, processor, family, *choose_coords(family))
    found = [prepare_sample(Sample(**{**row, "images": tuple(row["images"])}), loaded) for row in rows(pictures)]
    args = GRPOConfig(
        str(tmp_path), remove_unused_columns=False, max_steps=2, num_generations=2, per_device_train_batch_size=2,
        gradient_accumulation_steps=3, max_completion_length=4, seed=3, learning_rate=0.1, optim="sgd", beta=0.0,
        save_strategy="no", report_to="none", logging_steps=1, bf16=False, use_cpu=True, gradient_checkpointing=False,
        disable_tqdm=True,
    )  # fmt: skip
    trainer = Trainer(loaded, TASKS, [PAID], Samples(len(found), lambda i: found[i]), args, peft, **options)
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.train()
    assert f"sharing   {'on' if family in COMPARED and case != 'sharing off' else 'off'}" in capsys.readouterr().out
    steps = [row for row in trainer.state.log_history if "grad_norm" in row]
    assert len(steps) == 2
    assert all(row["reward"] > 0 and row["grad_norm"] > 0 for row in steps)
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert any(map(is_vision_weight, moved)) == (case != "frozen")
    assert not all(map(is_vision_weight, moved))
    assert all("lora" in name for name in moved) == (case == "lora")


@pytest.mark.parametrize("name", ["llava", "qwen3_5"])
def test_a_box_is_refused_where_nobody_said_how_the_model_counts(name):
    loaded = LoadedModel(None, None, name, *choose_coords(name))
    sample = Sample("1", "grounding", "the dog", {"bbox_2d": [1, 2, 3, 4]}, view=ModelView(loaded.coords))
    with pytest.raises(SampleError, match="give --coords norm1000"):
        TASKS["grounding"].prompt(sample)
    assert choose_coords(name, "norm1") == ("norm1", "--coords")


def test_the_command_asks_for_the_box_format_before_it_trains(tmp_path, run_train):
    folder = saved("llava", tmp_path / "model")
    words = [
        "--task",
        "grounding",
        "--model_name_or_path",
        folder,
        "--output_dir",
        tmp_path / "run",
        "--use_cpu",
        "--bf16",
        "false",
    ]
    code, _, err = run_train(*words)
    assert (code, "Traceback" in err) == (2, False), err
    assert "give --coords norm1000 | norm1 | px" in err.splitlines()[-1]
    code, _, err = run_train(*words, "--coords", "resized_px")
    assert (code, "Traceback" in err) == (2, False), err
    assert "--coords resized_px counts pixels of the resized image" in err.splitlines()[-1]
