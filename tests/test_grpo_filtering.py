"""`--keep_completions`: real steps on the bundled model in which only some completions of each group count."""

import json
import shutil

import pytest
import torch
from bundled_steps import bundled_trainer, rows, same, train

from vlrl.metrics.policy_filtering import Filtering
from vlrl.training.grpo.costs import HeldBack

BOTH_ENDS = Filtering("best_worst", 2)


def trained(folder, keep=None, by_hand=False, resume=None, **changes):
    """Steps on the bundled model. `by_hand`: completions count by their advantages, set to 0, in place of a mask."""
    trainer = bundled_trainer(folder, None, changes, held_back=HeldBack(keep=keep))
    if by_hand:
        masked = trainer.keeping

        def keeping(batch):
            made = masked(batch).made
            kept_B = made.kept_BT[:, 0].float()
            tokens_B = batch.made.completion_mask_BT.sum(1).float()
            share = kept_B.mean() if trainer.args.loss_type == "grpo" else (tokens_B * kept_B).sum() / tokens_B.sum()
            return batch.with_advantages(batch.made.advantages_B * kept_B / share)

        trainer.keeping = keeping
    return train(trainer, resume)


def close(one, other):
    theirs = dict(other.model.named_parameters())
    return max(float((value - theirs[name]).abs().max()) for name, value in one.model.named_parameters())


@pytest.mark.parametrize("loss_type", ["dapo", "grpo"])
def test_what_is_left_out_takes_no_part_in_the_loss(tmp_path, loss_type):
    changes = {"loss_type": loss_type, "max_grad_norm": 0.0, "optim": "sgd", "learning_rate": 0.1}
    plain = trained(tmp_path / "plain", **changes)
    kept = trained(tmp_path / "kept", BOTH_ENDS, **changes)
    by_hand = trained(tmp_path / "hand", BOTH_ENDS, by_hand=True, **changes)
    assert plain.keeping is None
    assert close(kept, by_hand) < 1e-5 < 1e-4 < close(kept, plain)
    logged = [json.loads(line) for line in (tmp_path / "kept" / "completions" / "step_000001.jsonl").read_text().splitlines()]
    for start in range(0, len(logged), 4):
        group = logged[start : start + 4]
        values = [row["rewards"]["paying"]["value"] for row in group]
        ends = {values.index(max(values)), max(i for i, one in enumerate(values) if one == min(values))}
        assert {i for i, row in enumerate(group) if row["kept"]} == ends
    first, unkept = rows(tmp_path / "kept")[0], rows(tmp_path / "plain")[0]
    assert first["kept/share"] == 0.5
    assert "kept/share" not in unkept
    assert first["reward"] == unkept["reward"]
    assert "kept" not in json.loads((tmp_path / "plain" / "completions" / "step_000001.jsonl").read_text().splitlines()[0])


@pytest.mark.long
def test_a_run_that_goes_on_keeps_the_same_completions(tmp_path):
    changes = {"steps_per_generation": 4, "max_steps": 5, "save_strategy": "steps", "save_steps": 3, "beta": 0.1}
    keep = Filtering("best_random", 2)
    whole = trained(tmp_path / "whole", keep, **changes)
    again = shutil.copytree(tmp_path / "whole", tmp_path / "again")
    resumed = trained(again, keep, resume=again / "checkpoint-3", **changes)
    assert same(whole.model, resumed.model)
    assert all(torch.isfinite(value).all() for value in whole.model.parameters())
