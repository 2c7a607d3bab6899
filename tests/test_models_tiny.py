import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor

from vlrl.bench import main as bench
from vlrl.models import names
from vlrl.models import tiny as tiny_module
from vlrl.models.generate import generate
from vlrl.models.inputs import open_image, prepare_sample
from vlrl.models.load import save_model
from vlrl.models.names import EMBEDDED
from vlrl.models.shipped_start import ship_run
from vlrl.tasks import TASKS
from vlrl.tasks.detection import TASK
from vlrl.tasks.evaluate import evaluate


def test_it_is_the_real_architecture_at_a_million_parameters(tiny):
    assert type(tiny.model) is Qwen2_5_VLForConditionalGeneration
    assert type(tiny.processor) is Qwen2_5_VLProcessor
    assert 0.8e6 < tiny.model.num_parameters() < 1.3e6


def test_it_saves_and_loads_like_a_hub_model(tiny, tmp_path):
    save_model(tiny.model, tiny.processor, tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(tiny.model.parameters(), model.parameters(), strict=True))
    sample = prepare_sample(TASK.synthetic(0, "heldout", 0), tiny)
    text = [f"<|vision_start|><|image_pad|><|vision_end|>{TASK.prompt(sample)}{TASK.oracle(sample)}"]
    ours, theirs = (
        p(text=text, images=[open_image(sample.images[0])], return_tensors="pt") for p in (tiny.processor, processor)
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_numbers_are_single_tokens_and_text_survives(tiny):
    tokenizer = tiny.tokenizer
    assert all(len(tokenizer(str(n)).input_ids) == 1 for n in range(1001))
    for index in range(50):
        sample = prepare_sample(TASK.synthetic(0, "heldout", index), tiny)
        for text in (TASK.prompt(sample), TASK.oracle(sample), "Ünïcode 日本 \n {x: 12345}"):
            assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_prompts_are_short(tiny):
    sample = prepare_sample(TASK.synthetic(0, "heldout", 0), tiny)
    assert len(tiny.tokenizer(TASK.prompt(sample)).input_ids) < 30
    for task in TASKS.values():
        for index in range(100):
            sample = prepare_sample(task.synthetic(0, "coldstart", index), tiny)
            assert len(tiny.tokenizer(task.prompt(sample)).input_ids) < 45
            assert len(tiny.tokenizer(task.oracle(sample)).input_ids) < 60


@pytest.mark.slow
def test_the_tokenizer_is_the_one_the_project_text_gives(tiny):
    made = tiny_module.train_tokenizer(tiny_module.project_texts())
    assert made.get_vocab() == tiny.tokenizer.get_vocab()


def test_the_template_takes_text_images_and_both(tiny):
    apply = tiny.processor.apply_chat_template
    image, text = {"type": "image"}, {"type": "text", "text": "hello"}
    user = [{"role": "user", "content": [image, image, text]}]
    shown = apply(user, add_generation_prompt=True)
    assert shown.count("<|vision_start|><|image_pad|><|vision_end|>") == 2
    assert shown.startswith("<|im_start|>user\nhello")
    assert shown.endswith("<|im_start|>assistant\n")
    plain = apply([{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}])
    assert plain == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"


def test_random_weights_follow_the_seed():
    a, b, c = (tiny_module.random_model(seed, tiny_module.embedded_processor())[0] for seed in (1, 1, 2))
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(a.lm_head.weight, c.lm_head.weight)


RECIPE = json.loads((EMBEDDED["tiny"].assets / "recipe.json").read_text())
SHIPPED = "vlrl/models/assets/tiny"


def stages(recipe):
    """The supervised stages of a start, the first one first."""
    return [*(stages(recipe["goes_on_from"]) if "goes_on_from" in recipe else []), recipe]


def test_the_shipped_start_is_small_and_says_how_it_was_made():
    assert sum(path.stat().st_size for path in EMBEDDED["tiny"].assets.iterdir()) < 5 * 2**20
    for stage in stages(RECIPE):
        for key in ("command", "seed", "steps", "versions", "after", "what"):
            assert stage[key] is not None
        assert "--stage sft" in stage["command"]
    models = [re.search("--model_name_or_path ([^ ]+)", stage["command"])[1] for stage in stages(RECIPE)]
    assert models == ["tiny-random", SHIPPED], "the second stage goes on from the first"


@pytest.mark.long
@pytest.mark.parametrize("name", TASKS)
def test_the_shipped_start_scores_what_its_recipe_says(tiny, name):
    headline = TASKS[name].headline
    recorded = RECIPE["after"][f"{name}/{headline}"]
    samples = [prepare_sample(TASKS[name].synthetic(0, "heldout", i), tiny) for i in range(400)]
    made = generate(tiny, TASKS, samples, max_new_tokens=64, batch_size=100)
    found = evaluate({name: TASKS[name]}, samples, made)
    low, high = recorded["ci95"]
    assert low <= found.metrics[headline].value <= high, "half precision costs little"
    assert found.n_unparsed <= 0.01 * found.n


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_recipe_still_reaches_the_shipped_start(tmp_path, run_train, monkeypatch):
    """All stages again, from random weights, each on what the one before it shipped (about an hour on two cores)."""
    copy = tmp_path / "assets" / "tiny"
    shutil.copytree(EMBEDDED["tiny"].assets, copy)
    (copy / "model.safetensors").unlink()
    monkeypatch.setattr(names, "ASSETS", copy.parent)
    monkeypatch.chdir(Path(tiny_module.__file__).parents[2])
    for i, stage in enumerate(stages(RECIPE)):
        run = tmp_path / f"stage-{i}"
        flags = [str(copy) if word == SHIPPED else word for word in flags_of(stage)]
        assert run_train(*flags, "--output_dir", run)[0] == 0
        ship_run(run)
    made = json.loads((copy / "recipe.json").read_text())
    assert [one["steps"] for one in stages(made)] == [one["steps"] for one in stages(RECIPE)]
    for headline in [f"{name}/{task.headline}" for name, task in TASKS.items()]:
        low, high = RECIPE["after"][headline]["ci95"]
        assert low - 0.03 <= made["after"][headline]["value"] <= high + 0.03
    exam = tmp_path / "exam"
    flags = ["--task", "autotrust/factuality", "--model_name_or_path", str(copy), "--output_path", str(exam)]
    assert bench(["run", *flags]) == 0
    found = json.loads((exam / "result.json").read_text())["results"]["autotrust/factuality"]
    assert found["factuality/accuracy,none"] >= 0.75 > found["factuality/best_constant,none"] + 0.1


class Enough(Exception):
    pass


@pytest.mark.long
def test_the_recipe_starts_as_it_did(tmp_path, run_train, monkeypatch):
    """The first steps of the cold start have the losses on record: same scenes, weights, schedule and optimiser."""
    from vlrl.training import sft

    first = stages(RECIPE)[0]
    recorded, seen = first["first_losses"], []
    one_step = sft._Trainer.training_step

    def step(self, *args, **kwargs):
        loss = one_step(self, *args, **kwargs)
        seen.append(loss.item())
        if len(seen) == len(recorded):
            raise Enough
        return loss

    monkeypatch.setattr(sft._Trainer, "training_step", step)
    with pytest.raises(Enough):
        run_train(*flags_of(first), "--eval_limit", "2", "--output_dir", tmp_path / "cold")
    assert seen == pytest.approx(recorded, rel=0.005)


def flags_of(stage):
    words = stage["command"].split()[1:]
    return [word for i, word in enumerate(words) if "--output_dir" not in words[max(i - 1, 0) : i + 1]]
