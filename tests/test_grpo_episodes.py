"""Episodes in the trainer: what is asked, stored, credited, weighed, corrected, imitated, and restored after a stop."""

import dataclasses
import json

import pytest
import torch
from trl import GRPOConfig

from vlrl.envs.cards import write_reply
from vlrl.envs.cards.deals import deal_of
from vlrl.gtr import Correction, OracleCorrector
from vlrl.gtr.credit import Credit
from vlrl.gtr.options import GuideOptions
from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model
from vlrl.rewards import load_reward
from vlrl.schema import Task
from vlrl.tasks import load_task
from vlrl.training.grpo import Curriculum, Guide, Trainer, micro_batches
from vlrl.training.grpo.batch import BatchPart, Completion, MicroBatch

REWARDS = [load_reward(name) for name in ("card_success", "card_recognition")]


def arguments(folder, **changes):
    options = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 40, "seed": 3}
    options |= {"learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "logging_steps": 1, "bf16": False}
    options |= {"use_cpu": True, "gradient_checkpointing": False, "disable_tqdm": True, "top_k": 0, "loss_type": "grpo"}
    return GRPOConfig(output_dir=str(folder), remove_unused_columns=False, **(options | changes))


def trainer_of(folder, task="numberline", corrector=None, curriculum=None, args=None, **options):
    loaded = load_model("tiny-cards")
    known = load_task(task)
    samples = Samples(40, lambda i: prepare_sample(known.synthetic(0, "train", i), loaded))
    if corrector is not None:
        options.setdefault("corrector", "oracle")
    made = Trainer(
        loaded, {task: known}, REWARDS, samples, arguments(folder, **(args or {})),
        guide=Guide(GuideOptions(**options), corrector), episodes=True, curriculum=curriculum,
    )  # fmt: skip
    made.model.train()
    made.current_gradient_accumulation_steps = 1
    return made


def scripted(trainer, reply):
    """Has `reply(sample, state, n-th call for this state)` written instead of what the policy samples."""
    tokenizer, calls = trainer._tokenizer, {}

    def write(rows):
        written = []
        for row in rows:
            deal = deal_of(row["sample"])
            key = (deal.seed, deal.moves)
            calls[key] = calls.get(key, -1) + 1
            ids = tokenizer(reply(deal.game, deal.state(), calls[key])).input_ids
            text = trainer.processing_class.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
            prompt = trainer.processing_class(text=text, images=row["images"])["input_ids"][0]
            written.append(Completion(list(prompt), [*ids, tokenizer.eos_token_id], None))
        return written

    trainer.episodes.write = write


def wrong_thought(game, state, action):
    return write_reply({**game.shown(state), "thoughts": "I stand here and go sideways"}, action)


def mixed_play(game, state, call):
    """Every second copy of a state is played right, the other wrong; thoughts are wrong in all."""
    best = game.best(state)
    other = next(token for token in game.tokens if token != best)
    return wrong_thought(game, state, best if call % 2 == 0 else other)


def rows_of(trainer):
    """The dataset's rows for one generation: two deals, four episodes each."""
    return [trainer.train_dataset[i] for i in (0, 1) for _ in range(4)]


def test_a_step_is_worth_what_its_episode_earned_and_thoughts_weigh_half(tmp_path):
    trainer = trainer_of(tmp_path)
    scripted(trainer, mixed_play)
    trajectories = []
    play = trainer.episodes.run
    trainer.episodes.run = lambda found: (play(found), trajectories.extend(found))
    batch = trainer.batch_of(rows_of(trainer))
    expected = []
    for group in (trajectories[:4], trajectories[4:]):
        steps = [trajectory.episode.steps for trajectory in group]
        rewards, valid = [[s.reward for s in one] for one in steps], [[s.valid for s in one] for one in steps]
        assert len({tuple(one) for one in rewards}) > 1, "some episodes are won and some cut"
        expected += [value for episode in Credit().advantages(rewards, valid) for value in episode]
    advantages = batch.made.advantages_B
    assert advantages.shape == batch.made.completion_ids_BT.shape
    decode = trainer.corrections.thoughts.decode
    for row, value in enumerate(expected):
        ids = batch.made.completion_ids_BT[row].tolist()
        mask = trainer.corrections.thoughts.mask(trajectories[0].rows[0]["sample"], ids)
        text = "".join(decode([token]) for token, kept in zip(ids, mask, strict=True) if kept)
        assert text.startswith('{"current number"')
        assert '"action"' not in text
        weights = torch.tensor([0.5 if kept else 1.0 for kept in mask])
        torch.testing.assert_close(advantages[row], value * weights)
    assert trainer.metrics["episodes/success"][-1] == sum(s.episode.total > 0 for s in trajectories) / 8
    assert batch.made.n_tokens == batch.made.completion_mask_BT.sum()


def test_what_the_policy_saw_is_what_is_scored(tmp_path):
    """The stored prompts and images are those of the later forward: another image gives another loss."""
    trainer = trainer_of(tmp_path, args={"steps_per_generation": 2, "per_device_train_batch_size": 4})
    scripted(trainer, mixed_play)
    batch = trainer.batch_of(rows_of(trainer))
    text = trainer.processing_class.batch_decode(batch.made.prompt_ids_BP, skip_special_tokens=True)
    assert all("target number" in one for one in text)
    assert batch.made.images["num_images"] == [1] * len(batch.made.completion_ids_BT)

    def loss(changed):
        made = dataclasses.replace(batch.made, images={**batch.made.images, **changed})
        return trainer.compute_loss(trainer.model, MicroBatch((BatchPart(made),)))

    same, other = loss({}), loss({"pixel_values": batch.made.images["pixel_values"].flip(0)})
    torch.testing.assert_close(same, loss({}))
    assert not torch.isclose(same, other, atol=1e-7)


def batch_of(trainer):
    """A generation's batch, and what a pass over it takes: ids, mask, columns of completions, fields about images."""
    batch = trainer.batch_of(rows_of(trainer))
    fields = {name: batch.made.images[name] for name in ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")}
    return batch, *batch.made.all_ids(), batch.made.completion_ids_BT.shape[1], fields


def whole(batch):
    """A generation as one micro-batch."""
    return MicroBatch((BatchPart(batch.made, batch.plan),))


def test_first_ratios_are_one(tmp_path):
    trainer = trainer_of(tmp_path, args={"steps_per_generation": 2, "per_device_train_batch_size": 4})
    scripted(trainer, mixed_play)
    batch, ids, mask, n_keep, fields = batch_of(trainer)
    with torch.no_grad():
        logps, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, n_keep, **fields)
    seen = batch.made.completion_mask_BT.bool()
    torch.testing.assert_close(logps[seen], batch.made.old_logps_BT[seen], atol=2e-5, rtol=0)


def gradient(trainer, inputs):
    trainer.model.zero_grad()
    loss = trainer.compute_loss(trainer.model, inputs)
    trainer.accelerator.backward(loss)
    return {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}, loss.detach()


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo", "dr_grpo"])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(tmp_path, loss_type):
    found = []
    for at_once in (2, 64):
        trainer = trainer_of(tmp_path, args={"loss_type": loss_type, "per_device_train_batch_size": 8})
        scripted(trainer, mixed_play)
        batch = trainer.batch_of(rows_of(trainer))
        trainer.args.per_device_train_batch_size = at_once
        parts = trainer.step_parts.parts(batch, torch.arange(len(batch.made.completion_ids_BT)).numpy())
        assert (len(parts) == 1) == (at_once == 64)
        found.append(gradient(trainer, MicroBatch(tuple(parts))))
    (few, loss_few), (whole, loss_whole) = found
    torch.testing.assert_close(loss_few, loss_whole, atol=1e-5, rtol=1e-4)
    assert few.keys() == whole.keys()
    for name in few:
        torch.testing.assert_close(few[name], whole[name], atol=2e-5, rtol=1e-3)


def test_processes_bring_equally_many_rows_to_each_pass(tmp_path, monkeypatch):
    """Here one step has an advantage; another process has some for all its rows. TRL gathers one number per row."""
    trainer = trainer_of(tmp_path, args={"per_device_train_batch_size": 8})
    scripted(trainer, mixed_play)
    batch = trainer.batch_of(rows_of(trainer))
    n = len(batch.made.completion_ids_BT)
    batch.made.advantages_B[1:] = 0
    alone = trainer.step_parts.parts(batch, torch.arange(n).numpy())
    monkeypatch.setattr(micro_batches, "gather_object", lambda own: [*own, (n, 0)])
    together = trainer.step_parts.parts(batch, torch.arange(n).numpy())
    sizes = [[len(part.tensors) for part in parts] for parts in (alone, together)]
    assert sizes == [[1], [len(rows) for rows in torch.arange(n).tensor_split(-(-n // 8))]]
    found = [gradient(trainer, MicroBatch(tuple(parts)))[0] for parts in (alone, together)]
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=2e-5, rtol=1e-3)


def test_equal_episodes_teach_by_imitation_alone(tmp_path):
    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), gate="always")
    scripted(trainer, lambda game, state, call: wrong_thought(game, state, game.best(state)))
    batch = trainer.batch_of(rows_of(trainer))
    assert batch.made.advantages_B.abs().max() == 0
    assert trainer.corrections.set.corrected_share == 1
    guided, _ = gradient(trainer, whole(batch))
    assert max(float(g.abs().max()) for g in guided.values()) > 1e-4
    trainer.corrections.set = None
    alone, _ = gradient(trainer, whole(batch))
    assert max(float(g.abs().max()) for g in alone.values()) == 0


def test_only_thoughts_are_imitated_and_the_own_action_is_kept(tmp_path):
    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), gate="always")
    scripted(trainer, mixed_play)
    trainer.batch_of(rows_of(trainer))
    records = [record for record in trainer.corrections.set.records if record.target is not None]
    assert {json.loads(record.target)["action"] for record in records} == {"+", "-"}, "also where it is wrong"
    ids, mask, is_target, fields = trainer.extra_losses[0].batch_of(records[:6])
    n_prompt = ids.shape[1] - is_target.shape[1]
    for row, record in enumerate(records[:6]):
        kept = trainer.corrections.thoughts.decode(ids[row, n_prompt:][is_target[row]].tolist())
        thought = record.target[slice(*record.thought_span)]
        assert thought.removesuffix('", ') == kept, "the thought exactly; the token that begins the action is no part of it"
    assert not is_target[mask[:, n_prompt:] == 0].any()
    assert fields["num_images"] == [1] * 6
    assert fields["pixel_values"].shape[0] == int(fields["image_grid_thw"].prod(-1).sum())


def test_full_cloning_imitates_the_action_that_the_thought_names(tmp_path):
    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), gate="always", clone="full")
    scripted(trainer, mixed_play)
    trainer.batch_of(rows_of(trainer))
    records = [record for record in trainer.corrections.set.records if record.target is not None]
    for record in records:
        said = json.loads(record.target)
        assert said["action"] == ("+" if said["target number"] > said["current number"] else "-")
    _, mask, is_target, _ = trainer.extra_losses[0].batch_of(records[:4])
    assert (is_target.sum(1) == mask[:, -is_target.shape[1] :].sum(1)).all(), "every token, the end included"


class Silent:
    """A corrector that cannot be reached."""

    tier, privileged = "silent", False

    def correct_many(self, requests):
        assert all(request.sample is not None and request.image is not None for request in requests)
        return [Correction("failed", why="unreachable") for _ in requests]


def test_a_corrector_that_fails_is_counted_and_nothing_is_imitated(tmp_path):
    trainer = trainer_of(tmp_path, corrector=Silent())
    scripted(trainer, mixed_play)
    batch = trainer.batch_of(rows_of(trainer))
    assert trainer.corrections.thoughts.window.report()["failed"] == 1
    assert len(trainer.corrections.set) == len(batch.made.completion_ids_BT)
    assert trainer.corrections.set.corrected_share == 0
    assert not list(trainer.corrections.set.images.iterdir()), "pictures are kept for targets alone"
    trainer.compute_loss(trainer.model, whole(batch))
    assert trainer.metrics["gtr/active_share"] == [0.0]


@pytest.mark.parametrize("willing", [False, True])
def test_replies_that_are_not_valid_are_imitated_rightly_where_that_is_asked(tmp_path, willing):
    corrector = OracleCorrector(correct_invalid=willing)
    trainer = trainer_of(tmp_path, corrector=corrector, gate="always", invalid="correct" if willing else "skip")
    scripted(trainer, lambda game, state, n: "hm")
    batch = trainer.batch_of(rows_of(trainer))
    assert trainer.corrections.set.corrected_share == willing
    assert trainer.corrections.thoughts.window.report()["valid"] == 0
    trainer.compute_loss(trainer.model, whole(batch))
    losses = trainer.metrics["gtr/imitation_loss"]
    assert (len(losses), all(loss > 0 for loss in losses)) == (int(willing), True)


def test_so_many_corrections_a_group(tmp_path):
    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), per_group=2)
    scripted(trainer, mixed_play)
    trainer.batch_of(rows_of(trainer))
    assert len(trainer.corrections.set) == 4


def test_the_policy_term_can_be_left_out_and_imitation_can_fade(tmp_path):
    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), policy=False, schedule="linear_to_zero")
    scripted(trainer, mixed_play)
    batch = trainer.batch_of(rows_of(trainer))
    trainer.state.max_steps = 4
    grads, _ = gradient(trainer, whole(batch))
    assert max(float(g.abs().max()) for g in grads.values()) > 0
    trainer.state.global_step = 4
    grads, _ = gradient(trainer, whole(batch))
    assert max(float(g.abs().max()) for g in grads.values()) == 0
    assert trainer.metrics["gtr/coef"] == [1.0, 0.0]


def test_led_episodes_are_imitated_and_are_no_part_of_the_policy_term(tmp_path):
    def second_wins(game, state, call):
        best = game.best(state)
        other = next(token for token in game.tokens if token != best)
        return wrong_thought(game, state, best if call == 1 else other)

    trainer = trainer_of(tmp_path, corrector=OracleCorrector(), gate="always", led=0.25)
    scripted(trainer, second_wins)
    trajectories = []
    play = trainer.episodes.run
    trainer.episodes.run = lambda found: (play(found), trajectories.extend(found))
    batch = trainer.batch_of(rows_of(trainer))
    led, own = (
        [trajectory for trajectory in trajectories if trajectory.guided],
        [trajectory for trajectory in trajectories if not trajectory.guided],
    )
    assert [trajectories.index(trajectory) for trajectory in led] == [0, 4], "one of each group"
    assert all(trajectory.episode.total == 1 for trajectory in led), "won by the corrector's moves"
    assert [trajectory.episode.total > 0 for trajectory in own] == [True, False, False] * 2
    assert len(batch.made.completion_ids_BT) == sum(len(trajectory.rows) for trajectory in own)
    assert (
        len(trainer.corrections.set)
        == trainer.metrics["episodes/moves"][-1]
        == sum(len(trajectory.rows) for trajectory in trajectories)
    )
    expected = []
    for group in (own[:3], own[3:]):
        steps = [trajectory.episode.steps for trajectory in group]
        found = Credit().advantages([[s.reward for s in one] for one in steps], [[s.valid for s in one] for one in steps])
        expected += [value for episode in found for value in episode]
    torch.testing.assert_close(batch.made.advantages_B[:, -1].cpu(), torch.tensor(expected))
    assert trainer.metrics["episodes/success"][-1] == pytest.approx(1 / 3), "of what the policy played"
    trainer.compute_loss(trainer.model, whole(batch))
    assert trainer.metrics["gtr/imitation_loss"]


def test_more_records_can_be_imitated_than_the_batch_has_rows(tmp_path):
    tokens = []
    for draws in (1, 3):
        trainer = trainer_of(tmp_path, corrector=OracleCorrector(), gate="always", draws=draws)
        scripted(trainer, lambda game, state, call: wrong_thought(game, state, game.best(state)))
        trainer.compute_loss(trainer.model, whole(trainer.batch_of(rows_of(trainer))))
        tokens += trainer.metrics["gtr/imitated_tokens"]
    one, three = tokens
    assert three == pytest.approx(3 * one, rel=0.2)


def test_a_curriculum_begins_with_the_easier_game(tmp_path):
    easier: Task = load_task("ezpoints")
    trainer = trainer_of(tmp_path, "points24", curriculum=Curriculum(easier, 0.5))
    trainer.state.max_steps = 10
    games = []
    for trainer.state.global_step in (0, 4, 5, 9):
        trajectory = trainer.episodes.new_trajectory(trainer.train_dataset[0], 0)
        games.append(trajectory.episode.env.game.name)
    assert games == ["ezpoints", "ezpoints", "points24", "points24"]


def test_single_questions_are_corrected_too_wrong_answers_first(tmp_path):
    loaded, task = load_model("tiny"), load_task("detection")
    samples = Samples(8, lambda i: prepare_sample(task.synthetic(0, "train", i), loaded))
    options = GuideOptions(corrector="oracle", gate="always")
    trainer = Trainer(
        loaded, {"detection": task}, [load_reward("iou_f1")], samples, arguments(tmp_path),
        guide=Guide(options, OracleCorrector()),
    )  # fmt: skip
    trainer.train()
    records = trainer.corrections.set.records
    assert len(records) == 2, "one a group"
    wrong = [record for record in records if record.target is not None]
    assert wrong
    for record in wrong:
        answer = record.target[record.thought_span[1] :]
        right = task.oracle(next(samples.get(i) for i in range(8) if record.id.startswith(samples.get(i).id + "@")))
        assert record.target[: record.thought_span[1]] == right[: right.find("</think>") + 8]
        assert answer not in right, "the own answer stays, wrong as it is, and is not imitated"
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert logged[0]["gtr/imitated_tokens"] > 0
    assert 0 <= logged[0]["thoughts/self_bleu2"] <= 1


def test_states_can_be_trained_as_single_questions(tmp_path):
    from vlrl.envs.cards.deals import state_sample

    task = load_task("numberline")
    episode = task.synthetic(0, "train", 0)
    sample = dataclasses.replace(state_sample(episode, ()), id="one")
    assert task.check(sample) is None
    assert task.rewards(sample) == ("card_move", "card_recognition")
    right = task.oracle(sample)
    assert [load_reward(name).function(right, sample).value for name in task.rewards(sample)] == [1, 1]
