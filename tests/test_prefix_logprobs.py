"""Rows that are no groups (steps of episodes, imitated thoughts) packed, against TRL's own layout."""

import pytest
import torch
from test_grpo_episodes import batch_of, gradient, mixed_play, rows_of, scripted, trainer_of, whole, wrong_thought

from vlrl.envs.cards import write_reply
from vlrl.gtr import OracleCorrector
from vlrl.models.prefix_sharing.row_plans import plan_rows
from vlrl.training.grpo.batch import MicroBatch


def test_steps_in_one_state_are_a_group_and_others_are_not(tmp_path):
    trainer = trainer_of(tmp_path)
    scripted(trainer, mixed_play)
    trajectories = []
    play = trainer.episodes.run
    trainer.episodes.run = lambda found: (play(found), trajectories.extend(found))
    _, ids, mask, n_keep, fields = batch_of(trainer)
    states = [trajectory.episode.steps[t].frame.tobytes() for trajectory in trajectories for t in range(len(trajectory.rows))]
    plan = plan_rows(trainer.model, ids, mask, n_keep, fields)
    assert sorted(row for group in plan.groups for row in group.rows) == list(range(len(ids)))
    assert {group.rows for group in plan.groups} == {
        tuple(i for i, other in enumerate(states) if other == state) for state in states
    }, "the prompts of the number line are alike: only images tell its states apart"
    assert len(plan.groups) < len(ids)
    assert len(plan.image_batch.grid_thw) == len(plan.groups), "a picture is encoded once"


def test_a_picture_with_equal_sum_is_another_picture(tmp_path):
    trainer = trainer_of(tmp_path)
    scripted(trainer, mixed_play)
    _, ids, mask, n_keep, fields = batch_of(trainer)
    ids, mask = ids[:1].expand(2, -1), mask[:1].expand(2, -1)
    one = fields["pixel_values"][: int(fields["image_grid_thw"][0].prod())]
    own = {
        "pixel_values": torch.cat([one, one.flip(0)]),
        "image_grid_thw": fields["image_grid_thw"][[0, 0]],
        "num_images": [1, 1],
    }
    assert len(plan_rows(trainer.model, ids, mask, n_keep, own).groups) == 2
    own["pixel_values"] = torch.cat([one, one])
    assert len(plan_rows(trainer.model, ids, mask, n_keep, own).groups) == 1


@pytest.mark.parametrize("task", ["numberline", "ezpoints"])
def test_log_probabilities_entropies_and_gradients_of_steps_are_trls(tmp_path, task):
    trainer = trainer_of(tmp_path, task)
    scripted(trainer, mixed_play)
    _, ids, mask, n_keep, fields = batch_of(trainer)
    weights = [p for p in trainer.model.parameters() if p.requires_grad]
    seen = mask[:, -n_keep:].bool()
    found = []
    for way in (trainer._get_per_token_logps_and_entropies, trainer.plain_logps):
        logps, entropies, _ = way(trainer.model, ids, mask, n_keep, compute_entropy=True, **fields)
        grads = torch.autograd.grad(logps[seen].sum(), weights)
        found.append((logps[seen].detach(), entropies[seen].detach(), torch.cat([g.flatten() for g in grads])))
    (own, own_entropy, own_grad), (other, other_entropy, other_grad) = found
    torch.testing.assert_close(own, other, atol=5e-5, rtol=1e-4)
    torch.testing.assert_close(own_entropy, other_entropy, atol=5e-5, rtol=1e-3)
    assert (own_grad - other_grad).norm() < 1e-5 * other_grad.norm()


def test_small_parts_come_back_in_the_order_of_the_rows(tmp_path):
    trainer = trainer_of(tmp_path)
    scripted(trainer, mixed_play)
    _, ids, mask, n_keep, fields = batch_of(trainer)
    with torch.no_grad():
        whole, parts = (
            trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, n_keep, size, **fields)[0]
            for size in (None, 3)
        )
    torch.testing.assert_close(whole, parts, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("shared", ["auto", "off"])
def test_thoughts_are_imitated_as_the_model_is_at_any_sampling_temperature(tmp_path, shared):
    found = []
    for temperature in (1.0, 0.2):
        trainer = trainer_of(
            tmp_path / str(temperature), corrector=OracleCorrector(), gate="always", args={"temperature": temperature}
        )
        if shared == "off":
            trainer.sharing.how.off = "--group_shared off"
        scripted(trainer, lambda game, state, call: mixed_play(game, state, 0))  # equal episodes: no policy gradient
        batch = trainer.batch_of(rows_of(trainer))
        found.append(gradient(trainer, whole(batch)))
    (one, loss_one), (other, loss_other) = found
    torch.testing.assert_close(loss_one, loss_other, atol=1e-5, rtol=1e-4)
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=1e-5, rtol=1e-3)


def one_group_is_flat(game, state, call):
    """All play right where the target is above, every second one elsewhere."""
    return wrong_thought(game, state, game.best(state)) if state.target > state.current else mixed_play(game, state, call)


@pytest.mark.long
@pytest.mark.parametrize(("loss_type", "guided"), [("grpo", True), ("dapo", False), ("bnpo", False), ("dr_grpo", True)])
def test_steps_of_equal_episodes_are_not_run_and_change_no_gradient(tmp_path, loss_type, guided):
    found = []
    for skips in (True, False):
        args = {"loss_type": loss_type, "per_device_train_batch_size": 8}
        corrector = OracleCorrector() if guided else None
        trainer = trainer_of(tmp_path / str(skips), corrector=corrector, gate="always", args=args)
        scripted(trainer, one_group_is_flat)
        batch = trainer.batch_of([trainer.train_dataset[i] for i in range(6) for _ in range(4)])
        rows = torch.arange(len(batch.made.completion_ids_BT)).numpy()
        flat = (batch.made.advantages_B.reshape(len(rows), -1) == 0).all(dim=1)
        assert 0 < flat.sum() < len(rows)
        if not skips:
            trainer.step_parts.teaching = lambda made, rows: rows
        parts = trainer.step_parts.parts(batch, rows)
        run = sum(0 if part.tensors is None else len(part.tensors) for part in parts)
        assert run == (len(rows) - int(flat.sum()) if skips else len(rows))
        assert sum(part.n_draws for part in parts) == (len(rows) if guided else 0)
        if guided:
            assert len(parts) == -(-len(rows) // 8)
            assert sum(part.of_imitation for part in parts) == pytest.approx(1)
            one = trainer.corrections.set.records[0]
            trainer.corrections.set.draw = lambda n, one=one: [one] * n  # the same whatever the parts
        found.append(gradient(trainer, MicroBatch(tuple(parts))))
    (few, loss_few), (whole, loss_whole) = found
    torch.testing.assert_close(loss_few, loss_whole, atol=1e-5, rtol=1e-4)
    for name in whole:
        torch.testing.assert_close(few[name], whole[name], atol=2e-5, rtol=1e-3)


def test_imitation_alone_runs_one_step_of_the_policy(tmp_path):
    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), policy=False, gate="always")
    scripted(trainer, mixed_play)
    batch = trainer.batch_of(rows_of(trainer))
    parts = trainer.step_parts.parts(batch, torch.arange(len(batch.made.completion_ids_BT)).numpy())
    assert sum(0 if part.tensors is None else len(part.tensors) for part in parts) == 1
    grads, _ = gradient(trainer, MicroBatch(tuple(parts)))
    assert max(float(g.abs().max()) for g in grads.values()) > 1e-4


@pytest.mark.parametrize("option", ["judge_reward", "length_reward"])
def test_a_baseline_pays_steps_and_imitates_nothing(tmp_path, option):
    corrector = OracleCorrector() if option == "judge_reward" else None
    trainer = trainer_of(tmp_path, corrector=corrector, format_weight=0.0, **{option: 1.0})

    def reply(game, state, call):
        best, move = game.best(state), {"+": "up", "-": "down"}
        thoughts = f"go {move[best]}" + " now" * 9 if call % 2 == 0 else "I stand here"
        return write_reply({**game.shown(state), "thoughts": thoughts}, best)

    scripted(trainer, reply)
    batch = trainer.batch_of(rows_of(trainer))
    worth = batch.made.advantages_B[:, 0].tolist()
    texts = trainer.processing_class.batch_decode(batch.made.completion_ids_BT, skip_special_tokens=True)
    firsts = [(value, "now" in text) for value, text in zip(worth, texts, strict=True)]
    assert min(v for v, good in firsts if good) > 0 > max(v for v, good in firsts if not good)
    trainer.compute_loss(trainer.model, whole(batch))
    assert "gtr/imitated_tokens" not in trainer.metrics
