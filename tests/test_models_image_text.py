"""The CLIP model behind `clip`: a small one at random, its cosines against its own forward pass, and runs that are paid by it."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_clip import clip_folder, new_clip

from vlrl.bench import main as bench_main
from vlrl.data.image_views import ImageView
from vlrl.data.synthetic.shapes import grounding_sample
from vlrl.models.image_text_models import ImageTextModel
from vlrl.models.names import ModelError
from vlrl.rewards import load_reward, score_rows
from vlrl.schema import Sample
from vlrl.training.options import ConfigError
from vlrl.training.reward_models import door


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip_folder(tmp_path_factory.mktemp("clip") / "model")


@pytest.fixture(scope="module")
def model(folder):
    return ImageTextModel(folder, "cpu", batch_size=3)


def noise(path, size, seed=0):
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return str(path)


def test_the_cosine_is_that_of_the_models_own_forward_pass(tmp_path, folder):
    path = noise(tmp_path / "a.png", (90, 80))
    clip, processor = new_clip()
    part = Image.open(path).crop((10, 20, 50, 60))
    inputs = processor(images=[part], text=["the red cup"], return_tensors="pt")
    with torch.inference_mode():
        own = (clip.eval()(**inputs).logits_per_image / clip.logit_scale.exp()).item()
    sample = Sample("1", "grounding", "the red cup", {"bbox_2d": [0, 0, 5, 5]}, (path,))
    (reward,) = door.holding([load_reward(f"clip:{folder}")], "cpu")
    (score,) = score_rows(reward, ['{"bbox_2d": [10, 20, 50, 60]}'], [sample], 0, None)
    assert score.value == pytest.approx(own, abs=2e-5)


def test_embeddings_do_not_depend_on_what_else_is_asked_and_are_made_once(tmp_path, folder):
    model = ImageTextModel(folder, "cpu", batch_size=3)
    paths = [noise(tmp_path / f"{i}.png", (40 + i, 60), i) for i in range(3)]
    views = [ImageView(path, (0.0, 0.0, 30.0, 20.0 + k)) for k in range(3) for path in paths]
    alone = [ImageTextModel(folder, "cpu")([view], ["a"])[0][0] for view in views]
    texts = ["a", "a much longer text", "b"]
    images_NE, texts_ME = model(views, texts)
    assert np.abs(images_NE - np.array(alone)).max() < 1e-5
    assert np.abs(texts_ME[0] - model([views[0]], ["a"])[1][0]).max() == 0
    assert np.linalg.norm(np.vstack([images_NE, texts_ME]), axis=1) == pytest.approx(1)
    assert (model.n_scored, model.n_known) == (9, 1)
    assert model.seconds > 0
    assert not any(weight.requires_grad for weight in model.model.parameters())


@pytest.mark.parametrize("mode", ["P", "L", "LA", "RGBA", "CMYK", "1", "I;16"])
def test_images_of_any_mode_and_shape_are_seen(mode, tmp_path, model):
    path = str(tmp_path / ("a.tif" if mode in ("CMYK", "I;16") else "a.png"))
    Image.new(mode, (3, 500)).save(path)
    images_NE, _ = model([ImageView(path), ImageView(path, (0.0, 0.0, 1.0, 1.0))], ["a"])
    assert np.isfinite(images_NE).all()


def test_what_cannot_be_loaded_is_one_line(tmp_path, folder, monkeypatch):
    for damage, said in (
        (lambda place: (place / "model.safetensors").write_bytes(b"x" * 99), "weights cannot be loaded"),
        (
            lambda place: clip_folder(tmp_path / "wide", width=32) and shutil.copy(tmp_path / "wide/config.json", place),
            "shapes",
        ),
        (lambda place: (place / "processor_config.json").write_text("{"), "processor cannot be loaded"),
    ):
        place = tmp_path / "damaged"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder, place)
        damage(place)
        with pytest.raises(ModelError, match=said) as caught:
            door.holding([load_reward(f"clip:{place}")], "cpu")
        assert "\n" not in str(caught.value)
    reward = load_reward(f"clip:{folder}")
    assert door.weight_bytes(reward) > 100_000
    monkeypatch.setattr(door, "free_bytes", lambda device: 10.0)
    with pytest.raises(ConfigError, match="reward clip: its models take at least"):
        door.holding([reward], "cpu")


def test_a_text_that_is_too_long_is_never_cut_in_silence(model):
    with pytest.raises(ValueError, match=r"a text has 102 tokens and .* reads 77"):
        model([ImageView("synthetic:grounding/test/0/0")], ["x" * 100])


def test_grade_and_hack_load_the_model(tmp_path, folder, capsys):
    sample = {"id": "1", "task": "grounding", "question": "the red cup", "answer": {"bbox_2d": [1, 1, 20, 20]},
              "images": [noise(tmp_path / "a.png", (64, 64))]}  # fmt: skip
    cases, out = tmp_path / "cases.jsonl", tmp_path / "out.jsonl"
    cases.write_text(json.dumps({"sample": sample, "completions": ["[5, 5]", "[5, 5]", "none"]}) + "\n")
    spec = f"clip:{folder},baseline=an object"
    assert bench_main(["grade", "--reward", spec, "--cases", str(cases), "--out", str(out)]) == 0
    values = json.loads(out.read_text())["values"]
    assert values[0] == values[1] > values[2] == -1
    words = ["hack", "--task", "pointing", "--rewards", spec, "--limit", "2", "--output_path", str(tmp_path / "hack")]
    assert bench_main(words) in (0, 1)
    assert "whole image" in capsys.readouterr().out


PAID = ["--task", "grounding", "--stage", "grpo", "--max_steps", "2", "--num_generations", "4", "--per_device_train_batch_size", "8",
        "--logging_steps", "1", "--eval_limit", "4", "--report_to", "none", "--save_steps", "1", "--reward_weights", "1", "0.25"]  # fmt: skip


def test_a_dry_run_says_what_is_paid_and_a_folder_without_a_model_stops_it(folder, tmp_path, run_train):
    spec = f"clip:{folder},baseline=an object,mark=point"
    code, out, err = run_train(*PAID, "--rewards", spec, "think_answer_format", "--dry_run")
    assert code == 0, err
    said = " ".join(out.split())
    assert "on the line from 'an object' by alpha 0.5" in said
    assert "MiB of weights, frozen" in said
    code, _, err = run_train(*PAID, "--rewards", f"clip:{tmp_path}", "think_answer_format", "--dry_run")
    assert code == 2
    assert "holds no config.json, so it is no CLIP model" in err
    code, _, err = run_train("--task", "numberline", "--rewards", f"clip:{folder},goal=a win", "--dry_run")
    assert code == 2
    assert "episodes are rewarded by their game" in err


@pytest.mark.long
def test_a_paid_run_goes_on_with_the_same_weights(folder, tmp_path, run_train):
    paid = [*PAID, "--rewards", f"clip:{folder},baseline=an object", "think_answer_format", "--gold", "vlm_r1_iou"]
    paid += ["--eval_strategy", "steps", "--eval_steps", "1"]
    code, _, err = run_train(*paid, "--output_dir", tmp_path / "whole")
    assert code == 0, err
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    shares = [row["rewards/clip/time_share"] for row in rows if "reward" in row]
    assert shares
    assert all(0 < share < 1 for share in shares)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("final", "checkpoint-2"):
        shutil.rmtree(tmp_path / "cut" / name)
    code, _, err = run_train(*paid, "--output_dir", tmp_path / "cut", "--resume_from_checkpoint", "true")
    assert code == 0, err
    weights = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_the_reward_is_pure(folder):
    """The same completions have the same values in another order and beside others."""
    (reward,) = door.holding([load_reward(f"clip:{folder},baseline=an object")], "cpu")
    samples = [grounding_sample(0, "train", i) for i in range(4)]
    texts = [json.dumps(sample.answer) for sample in samples]
    first = score_rows(reward, texts, samples, 0, None)
    (fresh,) = door.holding([load_reward(f"clip:{folder},baseline=an object")], "cpu")
    again = score_rows(fresh, texts[::-1][:3], samples[::-1][:3], 5, None)
    assert [one.value for one in again] == pytest.approx([one.value for one in first[::-1][:3]], abs=2e-5)
