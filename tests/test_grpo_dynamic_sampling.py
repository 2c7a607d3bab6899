"""Groups that teach nothing are replaced: what is decided, what is trained on, what is told."""

import dataclasses
import json
import math
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
import warm_process
from PIL import Image
from safetensors.torch import load_file
from trl import GRPOConfig

from vlrl.models.inputs import Samples, open_image, prepare_sample
from vlrl.models.load import load_model
from vlrl.schema import Reward, Score
from vlrl.tasks.detection import TASK
from vlrl.training.grpo import Trainer
from vlrl.training.grpo.dynamic_sampling_rules import fresh_indices, n_fresh, remembering, totals, without_spread

NAN = math.nan
ONES = np.ones(2)


# -- decisions ---------------------------------------------------------------------------------------------------------


def test_groups_without_spread():
    equal, apart = [[0.25, 0.5]] * 2, [[0.25, 0.5], [0.25, 0.75]]
    assert without_spread(np.array([*equal, *apart, *equal]), ONES, 2) == [0, 2]
    evened_out = [[0.1, 0.2], [0.2, 0.1]]
    assert without_spread(np.array(evened_out), ONES, 2) == [0]
    assert without_spread(np.array(evened_out), ONES, 2, each=True) == []
    assert without_spread(np.array(evened_out), np.array([1.0, 0.5]), 2) == []
    assert without_spread(np.array([[0.1, 0.2], [0.1, 0.9]]), np.array([1.0, 0.0]), 2) == [0]
    assert without_spread(np.array([[0.1, 0.2], [0.1, 0.9]]), np.array([1.0, 0.0]), 2, each=True) == [0]


def test_rewards_that_do_not_apply_take_no_part():
    rows = [[0.5, NAN], [NAN, NAN], [0.5, NAN], [0.5, NAN]]
    assert without_spread(np.array(rows), ONES, 4) == [0]
    assert without_spread(np.array([*rows[:3], [0.75, NAN]]), ONES, 4) == []
    assert without_spread(np.full((4, 2), NAN), ONES, 4) == [0]
    assert np.isnan(totals(np.array([NAN, NAN]), ONES))


def test_sums_of_float32_that_differ_by_rounding_are_equal():
    rows = np.array([[0.1, 0.2], [0.3, 0.0]], dtype=np.float32).astype(float)
    assert rows[0].sum() != rows[1].sum()
    assert without_spread(rows, ONES, 2) == [0]


@pytest.mark.parametrize(
    ("n_processes", "n_local", "group"), [(1, 16, 4), (2, 8, 4), (2, 2, 4), (8, 1, 8), (3, 4, 6), (4, 24, 8)]
)
def test_every_process_generates_equally_many_fresh_rows(n_processes, n_local, group):
    n_groups = n_processes * n_local // group
    for n_empty in range(1, n_groups + 1):
        n = n_fresh(n_empty, group, n_local, n_processes)
        assert n_empty <= n <= n_groups
        assert n * group % n_processes == 0
        if n_local % group == 0:
            assert n * group // n_processes % group == 0, "groups stay whole"


def test_fresh_samples_are_unused_ones_and_the_same_for_the_same_key():
    used = set(range(90))
    drawn = fresh_indices(100, used, 8, 1, 2, 3)
    assert len(set(drawn)) == 8
    assert not used & set(drawn)
    assert drawn == fresh_indices(100, used, 8, 1, 2, 3)
    assert drawn[:5] == fresh_indices(100, used, 5, 1, 2, 3)
    assert drawn != fresh_indices(100, used, 8, 1, 2, 4)
    few = fresh_indices(100, used, 14, 1, 2, 3)
    assert set(few[:10]) == set(range(90, 100)), "unused ones first"
    assert set(few[10:]) <= used
    assert Counter(fresh_indices(2, {0, 1}, 5, 0)).keys() == {0, 1}, "a tiny set repeats"
    assert sorted(fresh_indices(3, set(), 3, 0)) == [0, 1, 2]


def test_a_judge_is_asked_once_for_a_completion():
    asked = []

    def judge(text, sample, step=None):
        asked.append((text, sample.id))
        return Score(float(len(asked)), text)

    reward = remembering(Reward("judge", judge, 0, 9, frozenset({"network"})), {})
    one, two = (dataclasses.replace(TASK.synthetic(0, "train", 0), id=name) for name in ("one", "two"))
    first = reward.function("a", one)
    assert reward.function("a", one) == first
    assert reward.function("a", two) != first
    assert reward.function("b", one) != first
    assert reward.function("a", one, step=1) != first
    assert asked == [("a", "one"), ("a", "two"), ("b", "one"), ("a", "one")]


# -- training ----------------------------------------------------------------------------------------------------------


def number(sample):
    return int(sample.id.rsplit("-", 1)[1])


def paying(constant):
    """A reward of 1 for every completion of the samples named by `constant`, of many values for others."""

    def rigged(text, sample):
        spread = zlib.crc32(text.encode()) % 997 / 997
        return Score(1.0 if constant(number(sample)) else spread, text)

    return Reward("rigged", rigged, 0.0, 1.0)


class Recorded(Trainer):
    """Keeps what the loss was computed on."""

    def compute_loss(self, model, inputs, **kwargs):
        (part,) = inputs.parts
        made = {key: v.clone() if torch.is_tensor(v) else v for key, v in part.tensors.as_trl().items()}
        self.seen = [*getattr(self, "seen", []), {**made, "plan": part.plan}]
        return super().compute_loss(model, inputs, **kwargs)


def arguments(folder, **changes):
    options = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 6, "seed": 3}
    options |= {"learning_rate": 1e-3, "save_strategy": "no", "report_to": "none", "logging_steps": 1, "bf16": False}
    options |= {"use_cpu": True, "gradient_checkpointing": False, "disable_tqdm": True, "loss_type": "dapo", "top_k": 0}
    return GRPOConfig(output_dir=str(folder), remove_unused_columns=False, **(options | changes))


def train(folder, reward, rounds, resume=None, n=400, **changes):
    loaded = load_model("tiny-random")
    samples = Samples(n, lambda i: prepare_sample(TASK.synthetic(0, "train", i), loaded))
    trainer = Recorded(loaded, {"detection": TASK}, [reward], samples, arguments(folder, **changes), dynamic_sampling=rounds)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def completions(folder, step=1):
    return [json.loads(line) for line in (folder / "completions" / f"step_{step:06d}.jsonl").read_text().splitlines()]


def metrics(folder):
    return [row for line in (folder / "metrics.jsonl").read_text().splitlines() if "reward" in (row := json.loads(line))]


def test_what_is_trained_on_has_a_spread_and_is_what_the_log_says(tmp_path):
    trainer = train(tmp_path, paying(lambda i: i % 2 == 0), 6, gradient_accumulation_steps=2, per_device_train_batch_size=8)
    log, (told,) = completions(tmp_path), metrics(tmp_path)
    assert len(log) == 16
    groups = [log[i : i + 4] for i in range(0, 16, 4)]
    for group in groups:
        assert len({row["id"] for row in group}) == 1
        assert len({row["rewards"]["rigged"]["value"] for row in group}) > 1
        assert all(row["id"].endswith(("1", "3", "5", "7", "9")) for row in group)
    assert len({group[0]["id"] for group in groups}) == 4, "no sample twice"
    assert told["frac_reward_zero_std"] == told["dynamic_sampling/left"] == 0
    assert told["dynamic_sampling/replaced"] >= 1
    assert 1 <= told["dynamic_sampling/rounds"] <= 6
    assert told["dynamic_sampling/drawn_reward"] > told["reward"], "the constant ones pay 1"
    assert told["reward"] == pytest.approx(np.mean([row["rewards"]["rigged"]["value"] for row in log]), abs=1e-5)
    assert told["completions/mean_length"] == pytest.approx(np.mean([row["n_tokens"] for row in log]))

    tokenizer = trainer.processing_class.tokenizer
    trained = 0
    for batch in trainer.seen:
        fields = batch["plan"].plain_fields(batch["completion_ids"], -1)
        starts = np.cumsum([0, *fields["image_grid_thw"].prod(-1).tolist()])
        assert fields["num_images"] == [1] * len(batch["completion_ids"])
        for i in range(len(batch["completion_ids"])):
            ids = batch["completion_ids"][i][batch["completion_mask"][i].bool()]
            text, asked = tokenizer.decode(ids, skip_special_tokens=True), tokenizer.decode(batch["prompt_ids"][i])
            (row,) = [row for row in log if row["completion"] == text]
            assert batch["advantages"][i].item() == pytest.approx(row["advantage"], abs=1e-6)
            sample = TASK.synthetic(0, "train", int(row["id"].rsplit("-", 1)[1]))
            assert sample.question in asked
            pixels = trainer.processing_class.image_processor(images=[open_image(sample.images[0])], return_tensors="pt")
            assert torch.equal(fields["pixel_values"][starts[i] : starts[i + 1]], pixels["pixel_values"])
            trained += 1
    assert trained == 16
    assert trainer.seen[0]["num_items_in_batch"] == sum(row["n_tokens"] for row in log)


def test_rounds_are_bounded_and_what_is_left_is_what_was_drawn(tmp_path):
    off = train(tmp_path / "off", paying(lambda i: True), 0)
    on = train(tmp_path / "on", paying(lambda i: True), 2)
    (told,) = metrics(tmp_path / "on")
    assert {name: told[f"dynamic_sampling/{name}"] for name in ("rounds", "replaced", "left")} == {
        "rounds": 2,
        "replaced": 0,
        "left": 4,
    }
    assert completions(tmp_path / "on") == completions(tmp_path / "off")
    assert told["num_tokens"] == metrics(tmp_path / "off")[0]["num_tokens"], "what is thrown away is not trained on"
    assert on.state.num_input_tokens_seen == off.state.num_input_tokens_seen


def test_without_empty_groups_it_is_as_if_it_were_off(tmp_path):
    trainers = [train(tmp_path / str(n), paying(lambda i: False), n, max_steps=2, beta=0.0) for n in (0, 3)]
    first, second = (dict(trainer.model.named_parameters()) for trainer in trainers)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for step in (1, 2):
        assert completions(tmp_path / "0", step) == completions(tmp_path / "3", step)
    off, on = metrics(tmp_path / "0"), metrics(tmp_path / "3")
    assert [row["dynamic_sampling/rounds"] for row in on] == [0, 0]
    same = {"step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second"}
    assert [{k: row[k] for k in row if k not in same} for row in off] == [
        {k: row[k] for k in row if k not in same and "dynamic" not in k} for row in on
    ]


@pytest.mark.parametrize("changes", [{}, {"steps_per_generation": 2, "per_device_train_batch_size": 8}])
def test_a_run_that_goes_on_draws_what_it_would_have_drawn(tmp_path, changes):
    reward = paying(lambda i: i % 3 > 0)
    options = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, **changes}
    train(tmp_path / "whole", reward, 3, **options)
    train(tmp_path / "again", reward, 3, resume=str(tmp_path / "whole" / "checkpoint-2"), **options)
    weights = [load_file(tmp_path / name / "checkpoint-4" / "model.safetensors") for name in ("whole", "again")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert completions(tmp_path / "whole", 3) == completions(tmp_path / "again", 3)
    told = metrics(tmp_path / "whole")
    assert sum(row["dynamic_sampling/replaced"] for row in told) > 0


def test_advantages_over_the_whole_batch_are_those_of_what_is_trained_on(tmp_path):
    train(tmp_path, paying(lambda i: i % 2 == 0), 6, scale_rewards="batch")
    log = completions(tmp_path)
    values = np.array([row["rewards"]["rigged"]["value"] for row in log])
    expected = (values - values.reshape(-1, 4).mean(axis=1).repeat(4)) / (values.std(ddof=1) + 1e-4)
    assert [row["advantage"] for row in log] == pytest.approx(expected, abs=1e-4)


def test_a_network_judge_is_asked_once_a_completion(tmp_path):
    asked = Counter()

    def judge(text, sample):
        asked[text, sample.id] += 1
        return Score(1.0 if number(sample) % 2 == 0 else zlib.crc32(text.encode()) % 997 / 997, text)

    train(tmp_path, Reward("judge", judge, 0.0, 1.0, frozenset({"network"})), 4)
    assert max(asked.values()) == 1
    assert {row["id"] for row in completions(tmp_path)} <= {name for _, name in asked}


def test_a_data_set_smaller_than_the_need(tmp_path):
    train(tmp_path, paying(lambda i: i < 5), 3, n=6)
    (told,) = metrics(tmp_path)
    assert told["dynamic_sampling/replaced"] + told["dynamic_sampling/left"] >= 3


def test_unreadable_images_among_the_fresh_samples(tmp_path):
    """A fresh sample that cannot be opened gives way to the next, on every row of its group alike."""
    loaded = load_model("tiny-random")
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (112, 112), (90, 90, 90)).save(tmp_path / "fine.png")

    def get(i):
        sample = prepare_sample(TASK.synthetic(0, "train", i), loaded)
        return dataclasses.replace(sample, images=(str(tmp_path / ("broken.png" if i % 4 == 1 else "fine.png")),))

    samples = Samples(200, get, report=lambda _: None)
    args = arguments(tmp_path / "run")
    Trainer(loaded, {"detection": TASK}, [paying(lambda i: i % 4 != 2)], samples, args, dynamic_sampling=8).train()
    log = completions(tmp_path / "run")
    groups = [{row["id"] for row in log[i : i + 4]} for i in range(0, 16, 4)]
    assert all(len(group) == 1 for group in groups)
    assert metrics(tmp_path / "run")[0]["dynamic_sampling/left"] == 0


# -- several processes -------------------------------------------------------------------------------------------------


def step(n, per_device, tmp_path, *words):
    """One GRPO step on dictated completions (`one_grpo_step.py`) by `n` processes; half of the samples pay all alike."""
    path = tmp_path / "mine.py"
    path.write_text(
        "import zlib\ndef mine(text, sample):\n"
        "    return 1.0 if zlib.crc32(sample.id.encode()) % 2 else zlib.crc32(text.encode()) % 997 / 997\n"
    )
    flags = (
        f"--output_dir {tmp_path}/on{n}"
        f" --max_steps 1 --warmup_steps 0 --learning_rate 1e-4 --num_generations 4 --per_device_train_batch_size {per_device}"
        f" --dynamic_sampling 4 --loss_type dapo --rewards {path}:mine --reward_weights 1 --logging_steps 1"
        " --report_to none --save_strategy no"
    )
    done = warm_process.run("tests/one_grpo_step.py", *flags.split(), *words, n=n)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])


@pytest.mark.long
@pytest.mark.parametrize(
    ("alone", "of_two", "words"),
    [(16, 8, []), (4, 2, []), (16, 8, ["--task", "qa", "--dynamic_sampling", 0])],
    ids=["whole groups on each process", "one group over two processes", "one process sees text alone"],
)
def test_two_processes_do_what_one_does(tmp_path, alone, of_two, words):
    """The samples are such that one process needs no fewer spare groups than two."""
    one, two = step(1, alone, tmp_path, *words), step(2, of_two, tmp_path, *words)
    told = {name: value for name, value in one.items() if name.startswith("dynamic_sampling/")}
    assert told == {name: value for name, value in two.items() if name.startswith("dynamic_sampling/")}
    if not words:
        assert told["dynamic_sampling/rounds"] > 0
        assert told["dynamic_sampling/replaced"] > 0
    assert one["ids"] == two["ids"]
    assert two["n_tokens"] == one["n_tokens"] * 2
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4, abs=1e-6)
    assert one["grad_norm"] == pytest.approx(two["grad_norm"], rel=1e-4)
    assert one["grad_norm"] > 1e-3
    assert one["weights"] == pytest.approx(two["weights"], rel=1e-5)
