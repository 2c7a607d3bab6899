"""Process reward models: data, losses, the head, saving, scoring in one pass, the training command."""

import dataclasses
import itertools
import json

import pytest
import torch
from PIL import Image
from torch import nn
from transformers import AutoModelForImageTextToText, AutoProcessor

from vlrl.data.step_values import merge_partial_solutions, read_rewards, split, synthetic_record, weights
from vlrl.data.value_head_files import HEAD_CONFIG, has_head
from vlrl.metrics.step_values import calibration_table, pairs_in_order, step_value_metrics
from vlrl.models.load import load_model
from vlrl.models.names import ModelError
from vlrl.models.value_head import Encoder, StepValueModel, hidden_size, load_prm, save_head, score_solutions
from vlrl.schema import SampleError
from vlrl.training.options import CONFIGS, ConfigError
from vlrl.training.prm.config import parse_prm
from vlrl.training.prm.options import is_requested
from vlrl.training.prm.recipe import in_order, read_solutions
from vlrl.training.prm.trainer import Records, pairwise_loss, value_loss

SMALL = ["--task", "prm", "--max_steps", "2", "--per_device_train_batch_size", "4", "--limit", "16", "--eval_limit", "3",
         "--logging_steps", "1", "--save_steps", "1", "--report_to", "none"]  # fmt: skip

# ---- data


def write(path, rows):
    path.write_text(json.dumps(rows))
    return path


def rows_of(folder, n_questions=6):
    """A file in ViLReward-73K's format: partial solutions of some questions, with pictures."""
    rows = []
    for q in range(n_questions):
        Image.new("RGB", (56, 56), (40 * q, 100, 30)).save(folder / f"{q}.png")
        steps = [f"Step 1: question {q} shows a picture.", "Step 2: it is plain.", "Step 3: The answer is red."]
        for n, value in ((1, 0.8), (2, 0.5), (3, 0.2)):
            rows.append(
                {"image_path": f"{q}.png", "question": f"What is {q}?", "process": "\n".join(steps[:n]), "value": value}
            )
        rows.append({"image": f"{q}.png", "question": f"What is {q}?", "process": "Step 1: no idea at all.", "value": 0.2})
    return rows


def test_reading_and_joining(tmp_path):
    rows = rows_of(tmp_path)
    file = read_rewards(write(tmp_path / "r.json", [*rows, {**rows[0], "image_path": "gone.png"}]))
    assert (file.n_rows, file.n_missing_image, len(file.records)) == (25, 1, 24)
    assert file.records[1].steps == ("Step 1: question 0 shows a picture.", "Step 2: it is plain.")
    assert file.records[1].values == (None, 0.5)
    assert "25 rows, 1 left out" in file.describe()[0]
    whole = merge_partial_solutions(file.records)
    assert len(whole) == 12, "three prefixes become one sequence, the other solution stays"
    assert sorted(v for r in whole for v in r.values if v is not None) == sorted(r.values[-1] for r in file.records)
    lines = tmp_path / "r.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert read_rewards(lines, limit=5).n_rows == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": 1.2}, "0..1"), ({"value": "0.5"}, "0..1"), ({"value": True}, "0..1"), ({"value": None}, "0..1"),
        ({"process": " "}, "process"), ({"question": 3}, "question"), ({"image_path": 3}, "image"),
    ],
)  # fmt: skip
def test_bad_rows_are_refused(tmp_path, change, said):
    path = write(tmp_path / "r.json", [{**rows_of(tmp_path)[0], **change}])
    with pytest.raises(SampleError, match=f"row 0.*{said}"):
        read_rewards(path)


def test_the_split_shares_no_question_and_every_question_weighs_the_same(tmp_path):
    records = read_rewards(write(tmp_path / "r.json", rows_of(tmp_path))).records
    train, out = split(records)
    assert out
    assert not {r.question_key for r in train} & {r.question_key for r in out}
    assert (train, out) == split(list(reversed(records)))[:0] or split(records) == (train, out)
    some = [*records[:4], records[4]]
    totals = {}
    for record, weight in zip(some, weights(some), strict=True):
        totals[record.question_key] = totals.get(record.question_key, 0) + weight
    assert len({round(total, 9) for total in totals.values()}) == 1
    assert sum(totals.values()) == pytest.approx(len(some))
    with pytest.raises(SampleError, match="one question"):
        split(records[:4])
    keys = [r.question_key for r in in_order(records, 0)]
    assert sum(a != b for a, b in itertools.pairwise(keys)) == 5, "solutions of a question stand together"


# ---- losses and metrics


def test_losses():
    logits, values = torch.tensor([0.0, 2.0]), torch.tensor([0.5, 1.0])
    assert value_loss(logits, values, "mse").tolist() == pytest.approx([0, (1 - torch.sigmoid(torch.tensor(2.0)).item()) ** 2])
    assert value_loss(logits, values, "bce")[0].item() == pytest.approx(0.6931, abs=1e-4)
    same, other = torch.tensor([0, 0]), torch.tensor([0, 1])
    assert pairwise_loss(logits, values, same).item() == pytest.approx(0.1269, abs=1e-4), "log(1 + exp(-2))"
    assert pairwise_loss(logits, values, other).item() == 0
    assert pairwise_loss(logits, torch.tensor([0.9, 1.0]), same).item() == 0, "a gap below 0.25 is no preference"


def test_step_value_metrics():
    values, questions = [0.2, 0.8, 0.5, 0.5], ["a", "a", "b", "b"]
    found = step_value_metrics([0.1, 0.9, 0.5, 0.5], values, questions, mean=0.5)
    assert found["mse"].value == pytest.approx(0.005)
    assert found["mse_of_mean"].value == pytest.approx(0.045)
    assert found["skill"].value == pytest.approx(1 - 0.005 / 0.045)
    assert (found["pairwise_accuracy"].value, found["pairwise_accuracy"].n) == (1.0, 1)
    assert (found["spearman"].value, found["spearman"].n) == (pytest.approx(1), 1), "one question has two values"
    assert step_value_metrics([0.5] * 4, values, questions, 0.5)["pairwise_accuracy"].value == 0.5
    assert pairs_in_order(torch.tensor([0.9, 0.1]).numpy(), torch.tensor([0.2, 0.8]).numpy()) == (0, 1)
    assert sum(row["n"] for row in calibration_table([0.0, 1.0, 0.55], [0, 1, 1])) == 3


# ---- the model


@pytest.fixture(scope="module")
def prm():
    """A model with a random head, so that values differ."""
    loaded = load_model("tiny")
    model = StepValueModel(loaded.model, hidden_size(loaded.model))
    torch.manual_seed(0)
    nn.init.normal_(model.value_head.weight, std=0.3)
    return model.eval(), loaded


def test_one_pass_equals_a_pass_a_prefix_whatever_stands_beside_it(prm):
    model, loaded = prm
    encoder = Encoder(loaded)
    records = [synthetic_record(0, "test", i, 0) for i in range(4)]
    asked = [(r.image, r.question, r.steps) for r in records] + [(None, "What is 2 + 3?", ("Step 1: 2 + 3 = 5.",))]
    together = score_solutions(model, encoder, asked, batch_size=5)
    assert [len(values) for values in together] == [len(one[2]) for one in asked]
    for (image, question, steps), values in zip(asked, together, strict=True):
        alone = [score_solutions(model, encoder, [(image, question, steps[: n + 1])], 1)[0][-1] for n in range(len(steps))]
        assert values == pytest.approx(alone, abs=1e-5)
    assert len({round(v, 4) for values in together for v in values}) > 5
    other = score_solutions(model, encoder, [(records[1].image, *asked[0][1:])], 1)[0]
    assert other != pytest.approx(together[0], abs=1e-4), "the picture counts"


def test_a_new_head_says_a_half_and_gradients_reach_head_and_backbone():
    loaded = load_model("tiny")
    model = StepValueModel(loaded.model, hidden_size(loaded.model))
    data = Records([synthetic_record(0, "train", i, 0) for i in range(2)], Encoder(loaded))
    batch = data.collate([data[0], data[1]])
    values = batch.pop("values_BS")
    for key in ("weights_B", "questions_B"):
        batch.pop(key)
    logits = model(**batch)
    assert torch.sigmoid(logits)[~values.isnan()].eq(0.5).all()
    scored = ~values.isnan()
    value_loss(logits[scored], values[scored], "mse").mean().backward()
    assert model.value_head.weight.grad.abs().sum() > 0
    nn.init.ones_(model.value_head.weight)
    value_loss(model(**batch)[scored], values[scored], "mse").mean().backward()
    assert sum(p.grad is not None and p.grad.abs().sum() > 0 for p in loaded.model.parameters()) > 20


def test_a_saved_model_scores_the_same_and_a_head_of_another_width_is_refused(prm, tmp_path):
    model, loaded = prm
    model.backbone.save_pretrained(tmp_path / "m")
    loaded.processor.save_pretrained(tmp_path / "m")
    with pytest.raises(ModelError, match="value_head"):
        load_prm(str(tmp_path / "m"))
    save_head(model, tmp_path / "m", {"base": "tiny"})
    again, other = load_prm(str(tmp_path / "m"))
    record = synthetic_record(0, "test", 1, 0)
    asked = [(record.image, record.question, record.steps)]
    assert score_solutions(again, Encoder(other), asked) == score_solutions(model, Encoder(loaded), asked)
    assert json.loads((tmp_path / "m" / HEAD_CONFIG).read_text())["base"] == "tiny"
    narrow = StepValueModel(nn.Identity(), 3)
    save_head(narrow, tmp_path / "m", {})
    with pytest.raises(ModelError, match="takes 3 numbers"):
        load_prm(str(tmp_path / "m"))


@pytest.mark.long
def test_it_overfits_8_records():
    loaded = load_model("tiny")
    torch.manual_seed(0)
    model = StepValueModel(loaded.model, hidden_size(loaded.model))
    data = Records([synthetic_record(0, "overfit", i // 4, i % 4) for i in range(8)], Encoder(loaded))
    batch = data.collate([data[i] for i in range(8)])
    values, _, _ = (batch.pop(key) for key in ("values_BS", "weights_B", "questions_B"))
    scored = ~values.isnan()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(200):
        loss = value_loss(model(**batch)[scored], values[scored], "mse").mean()
        if loss.item() < 1e-3:
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


# ---- the command


def test_options():
    assert is_requested(["--task", "prm"])
    assert is_requested(["--task=prm", "--max_steps", "3"])
    assert is_requested(["--config", str(CONFIGS / "prm.yaml")])
    assert not is_requested(["--task", "qa"])
    tiny = parse_prm(["--task", "prm"])
    assert (tiny.model.model_name_or_path, tiny.prm.loss_type) == ("tiny", "bce")
    other = parse_prm(["--task", "prm", "--model_name_or_path", "Qwen/Qwen2.5-VL-3B-Instruct", "--use_cpu", "--bf16", "false"])
    assert (other.prm.loss_type, other.training.learning_rate, other.model.lora_r) == ("mse", 1e-4, 32)
    assert other.run.freeze_vision
    assert other.training.per_device_train_batch_size * other.training.gradient_accumulation_steps == 64
    full = parse_prm(
        ["--task", "prm", "--model_name_or_path", "some/model", "--use_peft", "false", "--use_cpu", "--bf16", "false"]
    )
    assert full.training.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loss_type", "dapo"], "mse, bce"),
        (["--rewards", "iou_f1"], "--rewards has no meaning"),
        (["--num_generations", "8"], "no option --num_generations"),
        (["--lerning_rate", "1"], "learning_rate"),
        (["--data", "nowhere.json"], "no such file"),
        (["--pairwise_weight", "-1"], "at least 0"),
        (["--exclude_items", __file__], "are for --data"),
        (["--limit", "0"], "at least 1"),
    ],
)
def test_options_that_cannot_work(words, said):
    with pytest.raises(ConfigError, match=said):
        parse_prm(["--task", "prm", *words])


@pytest.mark.long
def test_a_run_leaves_an_ordinary_folder_and_goes_on(tmp_path, run_train):
    folder = tmp_path / "run"
    code, out, err = run_train(*SMALL, "--output_dir", folder)
    assert code == 0, err
    assert out.strip().endswith("summary.json")
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["task"], summary["headline"], summary["steps"]) == ("prm", "best_of_8", 2)
    assert summary["before"]["best_of_8"]["value"] == pytest.approx(summary["before"]["random"]["value"]), "a half for all"
    assert {"mse", "skill", "pairwise_accuracy", "oracle", "majority"} <= summary["after"].keys()
    for name in ("config.yaml", "metrics.jsonl", "curves.png", "samples.png", "scores_after.jsonl", "final/model.safetensors"):
        assert (folder / name).is_file(), name
    AutoModelForImageTextToText.from_pretrained(folder / "final")
    AutoProcessor.from_pretrained(folder / "final")
    assert has_head(folder / "final")
    model, loaded = load_prm(str(folder / "final"))
    first = json.loads((folder / "scores_after.jsonl").read_text().splitlines()[0])
    record = synthetic_record(0, "heldout", 0, 0)
    found = score_solutions(model, Encoder(loaded), [(record.image, record.question, record.steps)])[0]
    assert found == pytest.approx(first["predicted"], abs=1e-4)
    code, _, err = run_train(*SMALL, "--output_dir", folder)
    assert code == 2
    assert "already holds a run" in err
    more = [word if word != "2" else "3" for word in SMALL]
    code, _, err = run_train(*more, "--output_dir", folder, "--resume_from_checkpoint", "true")
    assert code == 0, err
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


@pytest.mark.parametrize(
    "flags", [["--loss_type", "mse", "--pairwise_weight", "0.1"], ["--use_peft", "--lora_r", "4", "--freeze_vision", "true"]]
)
def test_vilreward_rows_train_with_every_option(flags, tmp_path, run_train):
    write(tmp_path / "r.json", rows_of(tmp_path))
    Image.new("RGB", (56, 56), (0, 100, 30)).save(tmp_path / "other.png")
    item = {"id": "1", "source": "MMStar", "image": "other.png", "question": "what is 5", "answer": "red"}
    (tmp_path / "items.jsonl").write_text(json.dumps({**item, "image": None}) + "\n")
    folder = tmp_path / "run"
    words = [*SMALL, *flags, "--data", tmp_path / "r.json", "--exclude_items", tmp_path / "items.jsonl", "--output_dir", folder]
    code, out, err = run_train(*[w for w in words if w not in ("--limit", "16")])
    assert code == 0, err
    assert "overlap" in out
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["headline"] == "pairwise_accuracy"
    assert summary["n_excluded"]["picture"] == 0
    assert summary["name"] == "ViLReward-trained PRM (ours)"
    assert "beats_the_mean" in summary
    assert has_head(folder / "final")
    AutoModelForImageTextToText.from_pretrained(folder / "final")


def test_items_of_an_evaluation_are_left_out(tmp_path):
    write(tmp_path / "r.json", rows_of(tmp_path))
    item = {"id": "1", "source": "MMStar", "image": None, "question": "what is 3", "answer": "red"}
    (tmp_path / "items.jsonl").write_text(json.dumps(item) + "\n")
    config = parse_prm(["--task", "prm", "--data", str(tmp_path / "r.json"), "--exclude_items", str(tmp_path / "items.jsonl")])
    data = read_solutions(config)
    left = {r.question for r in data.train}
    held = {r.question for r in data.held_out}
    assert data.n_excluded == {"picture": 0, "question": 4 * ("What is 3?" not in held)}
    assert "What is 3?" not in left
    assert not left & held
    assert dataclasses.is_dataclass(data)


def test_a_benchmark_after_training_is_pointed_to_its_own_command(run_train):
    code, _, err = run_train("--task", "prm", "--bench", "vilbench")
    assert code == 2
    assert "bench run --task vilbench --model_name_or_path" in err
