"""`--stage dpo`: weights of tokens in closed form, TRL's own loss without them, and whole runs."""

import json
import math

import pytest
import torch
import warm_process
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import logsigmoid
from trl import DPOConfig, DPOTrainer

from vlrl.data.preference_pairs import divided, read_dpo_pairs
from vlrl.data.special_tokens import token_pattern, without_special_tokens
from vlrl.data.synthetic.steps import solution, step_question
from vlrl.models.load import load_model
from vlrl.schema import SampleError
from vlrl.training.dpo.config import parse_dpo
from vlrl.training.dpo.options import DPO_LOSSES
from vlrl.training.dpo.recipe import pair_metrics
from vlrl.training.dpo.trainer import PairRows, PairTrainer, moved_spans, pair_dataset, weights_of_tokens
from vlrl.training.options import ConfigError
from vlrl.training.weights import start_folder

CPU = ["--use_cpu", "--bf16", "false"]


def pairs_file(path, n=8, **more):
    """Boards with a right and a wrong solution, one pair about text alone."""
    rows = []
    for i in range(n):
        question = step_question(0, "train", i)
        wrong = next(one for j in range(99) if (one := solution(0, "train", i, j)).answer != question.answer)
        row = {"id": str(i), "image": question.image, "question": question.question}
        rows.append(row | {"chosen": solution(0, "train", i, 0, noisy=False).text, "rejected": wrong.text, **more})
    rows.append(
        {"id": "text", "question": "Say <|im_end|> \u00fc", "chosen": "yes <|im_end|> 1", "rejected": "no <|im_end|> 2"}
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- weights


def test_tokens_that_overlap_a_changed_span_weigh_gamma():
    offsets = [(0, 3), (3, 7), (7, 8), (8, 12), (12, 12)]
    assert weights_of_tokens(offsets, 0, [(4, 5)], 5.0) == [1, 5, 1, 1, 1]
    assert weights_of_tokens(offsets, 3, [(0, 5)], 5.0) == [1, 5, 5, 1, 1], "the completion begins at character 3"
    assert weights_of_tokens(offsets, 0, [], 5.0) == [1.0] * 5


@given(st.text(st.sampled_from("a<|end|>b "), max_size=40), st.data())
def test_spans_follow_their_words_where_special_tokens_are_written_as_text(text, data):
    plain = without_special_tokens(text, token_pattern(["<|end|>"]))
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(text)), st.integers(0, len(text)))))
    (moved,) = moved_spans(text, plain, [(start, end)])
    assert plain[slice(*moved)].replace("\u200b", "") == text[start:end]


def changed(model):
    """Another policy than the reference."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dpo")
    loaded = load_model("tiny-random")
    start_folder(loaded, folder)
    changed(loaded.model)
    pairs = read_dpo_pairs(pairs_file(folder / "pairs.jsonl"))
    args = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "max_length": None}

    def trainer(kind=PairTrainer, **options):
        config = DPOConfig(output_dir=str(folder), remove_unused_columns=False, **args)
        data = pair_dataset(pairs, loaded)
        return kind(model=loaded.model, args=config, train_dataset=data, processing_class=loaded.processor, **options)

    return loaded, pairs, trainer


def rows_of(stage, *places):
    loaded, pairs, _ = stage
    rows = PairRows(pairs, loaded)
    return [rows.row(pairs[i]) for i in places]


def test_without_weights_the_loss_is_trls(stage):
    loaded, _, make = stage
    own, stock = make(), make(DPOTrainer)
    rows = rows_of(stage, 0, 1, 2)
    batch = own.data_collator([dict(row) for row in rows])
    bare = [{key: value for key, value in row.items() if key not in ("changed", "values")} for row in rows]
    theirs = stock.data_collator(bare)
    assert "token_weights" not in batch
    assert torch.equal(batch["input_ids"], theirs["input_ids"])
    loss = own.compute_loss(loaded.model, dict(batch))
    assert loss.item() == stock.compute_loss(loaded.model, dict(theirs)).item()
    assert loss.item() != pytest.approx(torch.log(torch.tensor(2.0)).item(), abs=1e-4), "the policy is not the reference"


@pytest.mark.parametrize("average", [False, True])
def test_the_dense_score_in_closed_form(stage, average):
    """-log sigmoid(beta x (score_chosen - score_rejected)), score = sum of w (log pi - log pi_ref), 1/N where asked."""
    loaded, pairs, make = stage
    gamma = 5.0
    plain, dense = make(), make(gamma=gamma, average=average)
    rows = rows_of(stage, 3, 8)
    batch = dense.data_collator([dict(row) for row in rows])
    weights_BT, mask_BT = batch["token_weights"], batch["completion_mask"]
    n_changed = (weights_BT == weights_BT.max(dim=1, keepdim=True).values).sum(dim=1)
    n_all = mask_BT.sum(dim=1)
    assert bool(((n_changed > 0) & (n_changed < n_all)).all()), "some tokens are shared, some are not"
    expected = torch.ones(4) if average else (n_all + (gamma - 1) * n_changed).float()
    assert torch.allclose(weights_BT.sum(dim=1), expected, atol=1e-4)
    asked = {key: value for key, value in batch.items() if key not in ("token_weights", "completion_mask")}
    asked |= {"use_cache": False, "labels": batch["input_ids"].masked_fill(mask_BT == 0, -100), "fused_lm_head": True}
    with torch.no_grad():
        policy, reference = (model(**asked).log_probs for model in (loaded.model, dense.ref_model))
    ratios = ((policy - reference) * weights_BT).sum(dim=1)
    wanted = -logsigmoid(dense.beta * (ratios[:2] - ratios[2:])).mean()
    loss = dense.compute_loss(loaded.model, dict(batch))
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert loss.item() != pytest.approx(plain.compute_loss(loaded.model, dict(plain.data_collator(rows))).item(), rel=1e-3)
    scores = dense.scores_of(rows, reference=False) - dense.scores_of(rows, reference=True)
    assert torch.allclose(scores.flatten(), ratios.float(), atol=1e-4)
    assert pairs[8].id == "text"


def test_a_gamma_of_one_weighs_every_token_alike(stage):
    """The mean over tokens, with gamma 1: the sum divided by the number of tokens."""
    _, _, make = stage
    rows = rows_of(stage, 0)
    total = make().scores_of(rows, reference=False)
    n_tokens = make().data_collator(rows)["completion_mask"].sum(dim=1).view(2, 1)
    assert torch.allclose(make(gamma=1.0, average=True).scores_of(rows, reference=False), total / n_tokens, rtol=1e-5)


def test_held_out_pairs_in_closed_form(stage):
    _, pairs, _ = stage
    reference, policy = [(-5.0, -5.0)] * 3, [(-4.0, -5.0), (-5.0, -5.0), (-6.0, -4.0)]
    found = pair_metrics(pairs[:3], reference, policy, 0.5)
    assert found["accuracy"].value == pytest.approx(0.5), "one right, one equal, one wrong"
    assert found["margin"].value == pytest.approx(0.5 * (1 + 0 - 2) / 3)
    assert found["likelier"].value == pytest.approx(0.5)


# ---- rows and flags


def test_pairs_are_divided_by_image(stage):
    _, pairs, _ = stage
    train, held_out = divided([*pairs, *pairs], 0.3)
    assert len(train) + len(held_out) == 2 * len(pairs)
    assert {one.images for one in train} & {one.images for one in held_out} == set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"chosen": ""}, "'chosen' must be text"),
        ({"rejected": ["a"]}, "'rejected' must be text"),
        ({"rejected": "same", "chosen": "same"}, "the same text"),
        ({"tie": True}, "a tie prefers neither"),
        ({"image": "gone.png"}, "is missing"),
        ({"image": 3}, "must be a path"),
        ({"video": "a.mp4"}, "not supported"),
        ({"chosen_changed": [[0, 1]]}, "give both"),
        ({"chosen_changed": [[0, 1]], "rejected_changed": [[5, 2]]}, "not in order"),
        ({"chosen_changed": [[0, 999]], "rejected_changed": []}, "not in order"),
        ({"chosen": "\ud800"}, "surrogate"),
    ],
)
def test_bad_pairs_are_named_with_their_line(tmp_path, change, said):
    row = {"id": "1", "question": "q", "chosen": "a b", "rejected": "a c"}
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", **change}))
    with pytest.raises(SampleError, match=said) as caught:
        read_dpo_pairs(path)
    assert ":2" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "trains on preference pairs"),
        (["--task", "qa"], "--task has no meaning for --stage dpo: rows state their prompts"),
        (["--sft_steps", "5"], "--sft_steps has no meaning"),
        (["--num_generations", "4"], "--stage dpo has no option --num_generations"),
        (["--loss_type", "grpo"], "must be one of sigmoid"),
        (["--span_weight", "0"], "above 0"),
        (["--span_weight", "5", "--loss_type", "ipo"], "counts tokens itself"),
        (["--average_logps", "--ld_alpha", "0.5"], "weighs tokens its own way"),
        (["--label_smoothing", "0.1"], "is read by the losses"),
        (["--discopop_tau", "0.1"], "no effect without --loss_type discopop"),
        (["--precompute_ref_log_probs"], "cannot be honoured"),
        (["--loss_type", "sigmoid", "sft", "--loss_weights", "1"], "1 --loss_weights for 2 losses"),
        (["--sync_ref_model", "--use_peft"], "which adapters do not have"),
        (["--eval_strategy", "steps"], "eval_strategy"),
    ],
)
def test_flags_that_would_be_dropped_are_refused(tmp_path, words, said):
    data = [] if not words else ["--data", str(pairs_file(tmp_path / "p.jsonl", 2))]
    with pytest.raises(ConfigError, match=said):
        parse_dpo(["--stage", "dpo", *data, *words, *CPU])


def test_losses_are_those_of_trl(stage):
    _, _, make = stage
    trainer = make()
    batch = trainer.data_collator(rows_of(stage, 0, 1))
    trainer.label_smoothing = 0.1
    for name in DPO_LOSSES:
        trainer.loss_types = [name]
        trainer.compute_loss(trainer.model, dict(batch))
    trainer.loss_types = ["no such loss"]
    with pytest.raises(ValueError, match="Unknown loss type") as caught:
        trainer.compute_loss(trainer.model, dict(batch))
    assert all(f"'{name}'" in str(caught.value) for name in DPO_LOSSES)


# ---- runs


SHORT = ["--stage", "dpo", "--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--logging_steps", "1"]
SHORT += ["--report_to", "none", "--span_weight", "5", "--average_logps", "--beta", "1"]


@pytest.mark.long
def test_a_run_prefers_what_it_was_trained_to(tmp_path, run_train):
    data = pairs_file(tmp_path / "p.jsonl", 12)
    words = [*SHORT, "--data", data, "--eval_data", data, "--output_dir", tmp_path / "run", "--max_steps"]
    code, _, err = run_train(*words, "4")
    assert code == 2
    assert "every pair is held out" in err
    held_out = pairs_file(tmp_path / "h.jsonl", 3, prompt="Another prompt.")
    words[words.index("--eval_data") + 1] = held_out
    code, out, err = run_train(*words, "6", "--save_steps", "4")
    assert code == 0, err
    assert out.strip().endswith("summary.json")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["before"]["accuracy"]["value"] == 0.5
    assert summary["after"]["margin"]["value"] != 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5), "the policy is still the reference"
    assert losses[-1] < losses[0]
    assert (tmp_path / "run" / "final" / "model.safetensors").is_file()
    code, _, err = run_train(*words, "8", "--save_steps", "4", "--resume_from_checkpoint", "true")
    assert code == 0, err
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if "loss" in line
    ]
    assert steps[:8] == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.long
def test_adapters_are_merged(tmp_path, run_train):
    data = pairs_file(tmp_path / "p.jsonl", 12)
    own = ["--use_peft", "--lora_r", "4", "--freeze_vision", "true", "--max_steps", "3", "--output_dir", tmp_path / "run"]
    code, _, err = run_train(*SHORT, "--data", data, *own)
    assert code == 0, err
    assert (tmp_path / "run" / "adapter" / "adapter_config.json").is_file()
    assert load_model(str(tmp_path / "run" / "final")).model.num_parameters() > 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["after"]["margin"]["value"] != 0


@pytest.mark.long
def test_two_processes_take_the_steps_of_one(tmp_path):
    data = pairs_file(tmp_path / "p.jsonl", 16)
    losses = []
    for n, size in ((1, "4"), (2, "2")):
        folder = tmp_path / str(n)
        words = [*SHORT, "--data", data, "--max_steps", "2", "--output_dir", folder, "--per_device_train_batch_size", size]
        done = warm_process.run("vlrl/train.py", *map(str, words), n=n)
        assert done.returncode == 0, done.stderr[-3000:]
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows if "loss" in row])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
