"""T-REG: rewards of tokens by the values of steps, beside the preference of whole completions."""

import json
import math

import pytest
import torch
from trl import DPOConfig

from vlrl.bench.sample_steps import StepOptions, with_step_values
from vlrl.bench.sample_tree import Attempt, SearchOptions, Tree
from vlrl.data.preference_pairs import read_dpo_pairs
from vlrl.models.load import load_model
from vlrl.schema import SampleError
from vlrl.training.dpo.config import parse_dpo
from vlrl.training.dpo.token_rewards import rewards_of_tokens, treg_terms
from vlrl.training.dpo.trainer import PairRows, PairTrainer, moved_ends, pair_dataset
from vlrl.training.options import ConfigError
from vlrl.training.weights import start_folder

CPU = ["--use_cpu", "--bf16", "false"]
ROW = {"question": "q", "chosen": "Step 1: a b\nStep 2: c", "rejected": "Step 1: a b\nStep 2: d"}
VALUES = {"chosen_values": [0.75, 1.0], "rejected_values": [0.75, None]}


def written(path, *rows):
    path.write_text("".join(json.dumps({"id": str(i), **row}) + "\n" for i, row in enumerate(rows)))
    return path


# ---- equations


def test_tokens_have_the_reward_of_their_step():
    offsets = [(0, 3), (3, 5), (5, 8), (8, 9), (9, 9)]
    assert rewards_of_tokens(offsets, 3, ((2, 1.0), (5, 0.25))) == [0.0, 0.5, -0.25, 0.0, 0.0]
    assert rewards_of_tokens(offsets, 0, ((5, None), (9, 0.5))) == [0.0] * 5
    assert rewards_of_tokens(offsets, 0, ()) == [0.0] * 5


def test_the_term_in_closed_form_with_its_gradient():
    """beta 0.5; ratios ln 4 and 0, so that w = sigmoid(0 - 0.5 ln 4) = 1/3."""
    logps = torch.tensor([[-1.0, -2.0], [-1.0, -3.0]], dtype=torch.float64, requires_grad=True)
    reference = logps.detach() - torch.tensor([[math.log(4), 0.0], [0.0, 0.0]])
    rewards = torch.tensor([[0.5, 0.0], [0.25, -0.5]], dtype=torch.float64)
    terms = treg_terms(logps, reference, rewards, 0.5)
    chosen, rejected = 0.5 * 0.5 * 1.0, 0.5 * (0.25 * 1.0 - 0.5 * 3.0)
    assert terms.tolist() == pytest.approx([(chosen + rejected) / 3])
    terms.sum().backward()
    assert logps.grad.tolist() == [pytest.approx((-0.5 * rewards[i] / 3).tolist()) for i in range(2)], "w is a weight alone"


def test_ends_of_steps_follow_their_words():
    assert moved_ends("ab cd", "a\u200bb cd", ((2, 0.5), (5, None))) == ((3, 0.5), (6, None))


# ---- rows


def test_rows_state_a_value_of_each_step(tmp_path):
    (pair, plain) = read_dpo_pairs(written(tmp_path / "p.jsonl", {**ROW, **VALUES}, ROW))
    assert pair.values == (((12, 0.75), (21, 1.0)), ((12, 0.75), (21, None)))
    assert plain.values == ((), ())
    for change, said in (([0.5], "has 1 values, but 'chosen' has 2 steps"), ([0.5, 2], "numbers in 0..1"), ("x", "got 'x'")):
        with pytest.raises(SampleError, match=said) as caught:
            read_dpo_pairs(written(tmp_path / "p.jsonl", ROW, {**ROW, "chosen_values": change}))
        assert ":2" in str(caught.value)


def test_sampling_writes_what_the_tree_knows():
    tree = Tree(SearchOptions(n=2, k=2))
    texts = (ROW["chosen"], ROW["rejected"])
    tree.root.rollouts = [Attempt(i, text, text == ROW["chosen"]) for i, text in enumerate(texts)]
    state = tree.state_at("Step 1: a b\n", ("Step 1: a b",))
    state.rollouts = [Attempt(i, "Step 1: a b\nStep 2: x", i > 0) for i in range(4)]
    (row,) = with_step_values([ROW], tree, StepOptions())
    assert (row["chosen_values"], row["rejected_values"]) == ([0.75, 1.0], [0.75, 0.0])
    (row,) = with_step_values([ROW], tree, StepOptions(estimate="hard"))
    assert row["chosen_values"] == [1.0, 1.0]
    (row,) = with_step_values([ROW], tree, StepOptions("rest_mcts"))
    assert (row["chosen_values"], row["rejected_values"]) == ([0.5, 1.0], [0.5, 0.25])
    (row,) = with_step_values([{"chosen": "Step 1: new\nStep 2: c", "rejected": "no"}], tree, StepOptions())
    assert (row["chosen_values"], row["rejected_values"]) == ([None, None], [None])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--treg_alpha", "-1"], "0 or more"),
        (["--treg_alpha", "0.1", "--loss_type", "ipo"], "is a part of the sigmoid loss"),
        (["--treg_alpha", "0.1", "--span_weight", "5"], "was not tried"),
        (["--treg_alpha", "0.1", "--ld_alpha", "0.5"], "--ld_alpha was not tried"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, words, said):
    with pytest.raises(ConfigError, match=said):
        parse_dpo(["--stage", "dpo", "--data", str(written(tmp_path / "p.jsonl", ROW)), *words, *CPU])


# ---- the trainer's loss


def test_the_loss_is_dpos_and_the_term(tmp_path):
    loaded = load_model("tiny-random")
    start_folder(loaded, tmp_path)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    pairs = read_dpo_pairs(written(tmp_path / "p.jsonl", {**ROW, **VALUES}, {**ROW, "question": "other"}))
    args = {"use_cpu": True, "bf16": False, "report_to": "none", "gradient_checkpointing": False, "max_length": None}

    def make(**options):
        config = DPOConfig(output_dir=str(tmp_path), remove_unused_columns=False, **args)
        data = pair_dataset(pairs, loaded)
        return PairTrainer(model=loaded.model, args=config, train_dataset=data, processing_class=loaded.processor, **options)

    rows = [PairRows(pairs, loaded).row(pair) for pair in pairs]
    plain, regular = make(), make(treg_alpha=0.4)
    assert plain.seen is None
    assert "token_rewards" not in plain.data_collator(rows)
    batch = regular.data_collator(rows)
    rewards = batch["token_rewards"]
    assert set(rewards[0].unique().tolist()) == {0.0, 0.25, 0.5}
    assert set(rewards[2].unique().tolist()) == {0.0, 0.25}
    assert not rewards[1].any(), "a row without values has no term"
    loaded.model.train()
    dpo = plain.compute_loss(loaded.model, dict(plain.data_collator(rows)))
    loss = regular.compute_loss(loaded.model, dict(batch))
    mask = batch["completion_mask"]
    asked = {key: value for key, value in batch.items() if key not in ("token_rewards", "completion_mask")}
    asked |= {"use_cache": False, "labels": batch["input_ids"].masked_fill(mask == 0, -100), "fused_lm_head": True}
    with torch.no_grad():
        policy, reference = (model(**asked).log_probs[:, -rewards.shape[1] :] for model in (loaded.model, regular.ref_model))
    wanted = treg_terms(policy, reference, rewards, 0.1).mean()
    assert float(wanted) != 0
    assert loss.item() == pytest.approx(dpo.item() + 0.4 * float(wanted), rel=1e-5)
    assert regular.treg_terms == [pytest.approx(float(wanted), rel=1e-5)]
    with torch.no_grad():
        loaded.model.eval()
        assert regular.compute_loss(loaded.model, dict(batch)).item() == pytest.approx(dpo.item(), rel=1e-5), (
            "not when measured"
        )


@pytest.mark.long
def test_a_run_with_values_logs_the_term(tmp_path, run_train):
    rows = [{**ROW, **VALUES, "question": f"q {i}"} for i in range(8)]
    data = written(tmp_path / "p.jsonl", *rows)
    held_out = written(tmp_path / "h.jsonl", {**ROW, "question": "held out"})
    words = ["--stage", "dpo", "--data", data, "--eval_data", held_out, "--max_steps", "3", "--logging_steps", "1"]
    words += ["--per_device_train_batch_size", "4", "--learning_rate", "1e-3", "--report_to", "none", "--treg_alpha", "0.5"]
    code, out, err = run_train(*words, "--output_dir", tmp_path / "run", "--use_peft")
    assert code == 0, err
    assert "T-REG" in out
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("treg" in row for row in logged if "loss" in row)
    words[words.index("--data") + 1] = written(tmp_path / "n.jsonl", *({**ROW, "question": f"q {i}"} for i in range(8)))
    code, _, err = run_train(*words, "--output_dir", tmp_path / "none")
    assert code == 2
    assert "no row of" in err
