"""What a batch passes through on its way to a loss, station by station, without a trainer."""

from collections import defaultdict
from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlrl.schema import Reward, Score
from vlrl.tasks.detection import TASK
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.advantages import with_credits
from vlrl.training.grpo.batch import Batch, BatchPart, Completion, MicroBatch, Tensors
from vlrl.training.grpo.losses import loss_of_part, loss_of_parts
from vlrl.training.grpo.micro_batches import cut
from vlrl.training.grpo.mixed_modality import logps_of_mixed_rows
from vlrl.training.grpo.resample import Resample
from vlrl.training.grpo.resume import Generation, KeptGeneration
from vlrl.training.grpo.scores import RewardFunctions, too_large


class TrainerCalls:
    """As much of a trainer as stations ask for."""

    num_generations = 2

    def __init__(self, score=None):
        self.args = SimpleNamespace(seed=0, save_only_model=False)
        self.state = SimpleNamespace(global_step=1, max_steps=9)
        self.accelerator = SimpleNamespace(process_index=0, num_processes=1, device=torch.device("cpu"), is_main_process=True)
        self.metrics, self.lines, self.score = defaultdict(list), [], score
        self.generation, self.n_micro_steps, self.taken_up = None, 4, None

    def note(self, name, value):
        self.metrics[name].append(value)

    def say(self, line):
        self.lines.append(line)

    def go_on_with(self, generation):
        self.taken_up = generation


def rows(indices):
    return tuple({"prompt": [], "images": [], "sample": TASK.synthetic(0, "train", i), "index": i} for i in indices)


def tensors(n, n_images=None):
    """Row i holds i everywhere; with `n_images` a row, its images too."""
    ids = torch.arange(n)[:, None].expand(n, 3).clone()
    images = {}
    if n_images is not None:
        grid = torch.tensor([[1, 2, 2]] * sum(n_images))
        patches = torch.tensor([float(row) for row, k in enumerate(n_images) for _ in range(4 * k)])[:, None]
        images = {"pixel_values": patches, "image_grid_thw": grid, "num_images": list(n_images)}
    return Tensors(ids, torch.ones_like(ids), ids, torch.ones_like(ids), ids[:, 0].float(), torch.tensor(3 * n), images=images)


def test_trls_batch_is_the_same_there_and_back():
    made = {
        "prompt_ids": 1, "prompt_mask": 2, "completion_ids": 3, "completion_mask": 4, "advantages": 5, "num_items_in_batch": 6,
        "ref_per_token_logps": 7, "importance_sampling_ratio": 8, "pixel_values": 9, "tool_mask": 10,
    }  # fmt: skip
    assert Tensors.of(made).as_trl() == made
    assert Tensors.of(made).ref_logps_BT == 7
    assert Tensors.of(made).kept_BT == 10
    assert Tensors.of(made).images == {"pixel_values": 9}


@pytest.mark.parametrize("n_images", [None, (1, 0, 2, 1)])
def test_rows_are_shuffled_with_all_that_belongs_to_them(n_images):
    batch = Batch(rows(range(4)), tensors=tensors(4, n_images))
    torch.manual_seed(0)
    parts = [part for micro in cut(batch, 2) for part in micro.parts]
    order = [int(row) for part in parts for row in part.tensors.advantages_B]
    assert sorted(order) == [0, 1, 2, 3] != order
    assert [name for part in parts for name in part.sample_ids] == [batch.sample_ids[row] for row in order]
    for part in parts:
        own = part.tensors.advantages_B.tolist()
        assert part.tensors.completion_ids_BT[:, 0].tolist() == own
        assert part.tensors.n_tokens == 12, "of the whole generation"
        if n_images is not None:
            seen = part.tensors.images["pixel_values"].flatten().tolist()
            assert seen == [row for row in own for _ in range(4 * n_images[int(row)])]


def test_a_loss_is_the_sum_of_its_parts_and_terms():
    model = SimpleNamespace(training=True)
    weight = torch.ones((), requires_grad=True)

    class Term:
        is_on, replaces_policy = True, False

        def __call__(self, model, part):
            return None if part.n_draws == 0 else 10 * weight

    def of_part(part, extras):
        return loss_of_part(model, part, lambda part: weight * part.tensors.advantages_B.sum(), extras, torch.device("cpu"))

    batch = MicroBatch((BatchPart(n_draws=1), BatchPart(tensors(3), n_draws=0), BatchPart(tensors(2), of_policy=0.5)))
    differentiated = []
    loss = loss_of_parts(
        batch, lambda part: of_part(part, [Term()]), lambda loss: differentiated.append(loss.item()), nullcontext
    )
    assert differentiated == [10, 3]
    assert loss.item() == 10 + 3 + (0.5 + 10)
    term = Term()
    term.replaces_policy = True
    assert of_part(batch.parts[1], [term]).item() == 0
    term.is_on = False
    assert of_part(batch.parts[1], [term]).item() == 3
    model.training = False
    assert of_part(batch.parts[2], [Term()]).item() == 0.5, "measured, the policy term is all"


def resampled(values, rounds=2):
    """`values`: the reward of a sample's first and second completion, by index."""
    written, planned = [], []

    def write(batch):
        written.append([row["index"] for row in batch.rows])
        return replace(batch, completions=tuple(Completion([i], [i]) for i in written[-1]))

    def score(batch):
        return torch.tensor([[values(row["index"])[i % 2]] for i, row in enumerate(batch.rows)])

    engine = TrainerCalls(score)
    station = Resample(
        engine, rounds, write=write, plan=lambda batch: planned.append(1) or batch, open_row=lambda i: rows([i])[0],
        n_samples=40, weights_R=np.ones(1), each=False, verdicts=None,
    )  # fmt: skip
    return station(Batch(rows([0, 0, 1, 1]))), engine.metrics, written, planned


def test_groups_of_equal_rewards_are_replaced_with_their_completions():
    batch, metrics, written, planned = resampled(lambda i: (1.0, 1.0) if i == 0 else (0.0, 1.0))
    first, second = batch.rows[0]["index"], batch.rows[2]["index"]
    assert first not in (0, 1)
    assert second == 1
    assert [made.ids for made in batch.completions] == [[first], [first], [1], [1]]
    assert (written, planned) == ([[0, 0, 1, 1], [first, first]], [1])
    assert metrics["dynamic_sampling/replaced"] == metrics["dynamic_sampling/rounds"] == [1]
    assert metrics["dynamic_sampling/drawn_reward"] == [0.75]


def test_what_cannot_be_replaced_stays():
    batch, metrics, written, planned = resampled(lambda _: (1.0, 1.0))
    assert [row["index"] for row in batch.rows] == [0, 0, 1, 1]
    assert metrics["dynamic_sampling/left"] == [2]
    assert (len(written), planned) == (3, [])


def test_scores_are_kept_as_trl_asks_for_them(tiny):
    rewards = [Reward("long", lambda text, sample: Score(float(len(text)), text), 0.0, 9.0)]
    rewards.append(Reward("never", lambda text, sample: Score(None, None), 0.0, 1.0))
    station = RewardFunctions(rewards, tiny, [7], ends=lambda: {2})
    log = {}
    columns = {
        "prompts": [[]] * 2, "completions": [[{"role": "assistant", "content": text}] for text in ("ab", "abc")],
        "completion_ids": [[1, 2], [1, 3, 4]], "sample": [row["sample"] for row in rows([0, 1])], "log_extra": log.__setitem__,
    }  # fmt: skip
    assert [function(**columns) for function in station.functions] == [[2.0, 3.0], [None, None]]
    texts, scores_BR = station.take()
    assert texts == ("ab", "abc")
    assert torch.equal(scores_BR[:, 0], torch.tensor([2.0, 3.0]))
    assert scores_BR[:, 1].isnan().all()
    assert (log["truncated"], log["n_tokens"]) == ([False, True], [2, 3])
    given = [function(**columns, scores=[[0.5, 1.0], [0.25, 0.0]]) for function in station.functions]
    assert given == [[0.5, 0.25], [1.0, 0.0]], "rows that bring their scores along"
    with pytest.raises(RunStopped, match="holds vision tokens"):
        station.functions[0](**{**columns, "completion_ids": [[1, 7], [1]]})
    assert too_large(torch.tensor([[1.0, 2e18], [float("nan"), 3.0]]), torch.tensor([1.0, 1.0])) == [(0, 1)]
    assert too_large(torch.tensor([[1.0, 2e18]]), torch.tensor([1.0, 0.0])) == []


def test_credits_take_the_place_of_advantages():
    batch = Batch(rows([0, 1]), tensors=tensors(2))
    assert with_credits(batch) is batch
    assert with_credits(replace(batch, credits_B=(0.5, -1.0))).made.advantages_B.tolist() == [0.5, -1.0]


def test_rows_with_and_without_images_are_asked_apart_only_where_a_part_has_none():
    asked = []

    def plain(model, ids, mask, n_keep, batch_size, **fields):
        asked.append(ids[:, 0].tolist())
        return ids.float()[:, -n_keep:], None, None

    made = tensors(4, (1, 0, 0, 1))
    for size, parts in ((4, [[0, 1, 2, 3]]), (2, [[0, 1, 2, 3]]), (1, [[0, 3], [1, 2]])):
        asked.clear()
        found, *_ = logps_of_mixed_rows(plain, None, *made.all_ids(), 2, size, **made.images)
        assert asked == parts
        assert found[:, 0].tolist() == [0, 1, 2, 3]


def test_the_rest_of_a_generation_is_kept_and_taken_up(tmp_path):
    engine, sharing = TrainerCalls(), None
    station = KeptGeneration(engine, sharing)
    micro_batches = [MicroBatch((BatchPart(tensors(2, (1, 1)), sample_ids=("a", "b")),)) for _ in range(2)]
    station.save(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    engine.generation = Generation(micro_batches, 3, 4)  # two iterations: the last micro-step is on the second part
    station.save(tmp_path / "kept")
    station.restore(tmp_path / "kept")
    left, kept = engine.taken_up.micro_batches
    assert (left, engine.taken_up.done) == (None, 3)
    assert kept.sample_ids == ["a", "b"]
    assert torch.equal(kept.parts[0].tensors.images["pixel_values"], micro_batches[1].parts[0].tensors.images["pixel_values"])
    path = tmp_path / "kept" / "generation" / "rank-0.pt"
    torch.save({"rows": [{"prompt_ids": torch.ones(1)}], "done": 3, "of": 4, "processes": 1}, path)
    engine.taken_up = None
    station.restore(tmp_path / "kept")
    assert engine.taken_up is None
    assert engine.lines == [
        "note      the rest of a generation cannot be taken up and is sampled anew: an earlier version has saved it"
    ]
