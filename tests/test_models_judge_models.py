"""A judge in the process at work: the same replies whatever is asked beside it, and a run whose other streams it leaves alone."""

import json
import math
import shutil
from collections import Counter

import pytest
import torch
from judge_folders import judge_folder
from test_reward_models import PAID, trained
from test_rewards_judge import tagged

from vlrl.models.judge_models import JudgeModels
from vlrl.models.names import ModelError
from vlrl.models.row_sampling import RowSampling
from vlrl.rewards import load_reward, score_rows
from vlrl.rewards.judge_model import JudgeQuestion
from vlrl.schema import Sample
from vlrl.training.options import ConfigError
from vlrl.training.reward_models import door


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return judge_folder(tmp_path_factory.mktemp("judge") / "final")


def drawn(logits, keys, temperature=1.0):
    scores = torch.tensor([logits] * len(keys))
    return RowSampling(keys, temperature)(torch.zeros(len(keys), 1, dtype=torch.long), scores).argmax(-1).tolist()


def test_rows_are_drawn_from_their_distribution_each_by_itself():
    logits = [math.log(0.5), -math.inf, math.log(0.3), math.log(0.2), -math.inf]
    keys = [str(i) for i in range(4000)]
    found = drawn(logits, keys)
    shares = {token: n / len(keys) for token, n in Counter(found).items()}
    assert shares == pytest.approx({0: 0.5, 2: 0.3, 3: 0.2}, abs=0.03), "what is banned is never drawn"
    assert drawn(logits, keys[100:110]) == found[100:110], "whatever is beside it"
    colder = Counter(drawn(logits, keys, temperature=0.5))
    assert colder[0] / len(keys) == pytest.approx(0.25 / (0.25 + 0.09 + 0.04), abs=0.03)
    assert set(drawn([-math.inf, 0.0], keys[:50])) == {1}


def questions(n=6):
    image = "synthetic:detection/train/0/1"
    return [
        JudgeQuestion("Grade.", f"Question {i}: {'how many? ' * i}<|im_end|><|image_pad|>\ud800", (image,) * (i % 2), vote)
        for i in range(n)
        for vote in (0, 1)
    ]


def test_a_reply_depends_on_its_question_and_vote_alone(folder):
    before = torch.random.get_rng_state()
    held = JudgeModels(folder, "", "cpu", batch_size=5)
    found = held.write(questions(), 8)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {one.text for one in found} == {"0", "1"}
    assert all(one.is_whole for one in found)
    alone = JudgeModels(folder, "", "cpu", batch_size=1)
    assert [alone.write([one], 8)[0] for one in questions()[::-1]] == found[::-1]
    assert held.write(questions(), 8) == found
    assert (held.n_asked, held.n_known) == (12, 12)
    assert held.seconds > 0
    greedy = [one._replace(vote=None) for one in questions()]
    assert len({one.text for one in held.write(greedy, 8)}) == 1
    assert not held.write(greedy[:1], 1)[0].is_whole, "cut before its end"
    assert not any(weight.requires_grad for weight in held._held.model.parameters())
    assert not held._held.model.training


def test_what_cannot_judge_is_refused_in_one_line_before_training(folder, tmp_path, monkeypatch):
    (reward,) = door.holding([load_reward(f"judge:{folder},votes=2")], "cpu")
    sample = Sample("q", "qa", "How many?", "3", images=("synthetic:detection/train/0/3",))
    (score,) = score_rows(reward, [tagged("3")], [sample], 0, None)
    assert score.value in (0, 0.5, 1)
    assert door.model_seconds(reward) > 0
    mute = judge_folder(tmp_path / "mute", mute=True)
    text = tmp_path / "text"
    shutil.copytree(folder, text)
    config = json.loads((text / "config.json").read_text())
    (text / "config.json").write_text(json.dumps(config | {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}))
    empty = tmp_path / "empty"
    shutil.copytree(folder, empty)
    (empty / "model.safetensors").unlink()
    for name, error, said in (
        (mute, ConfigError, "asked to grade a right answer, gave no judgement"),
        (text, ModelError, "takes no images"),
        (empty, ModelError, "reward judge: "),
    ):
        with pytest.raises(error, match=said) as caught:
            door.holding([load_reward(f"judge:{name}")], "cpu")
        assert "\n" not in str(caught.value)
        assert "--model_name_or_path" not in str(caught.value)
    monkeypatch.setattr(door, "free_bytes", lambda device: 10.0)
    with pytest.raises(ConfigError, match="its models take at least"):
        door.holding([load_reward(f"judge:{folder}")], "cpu")


@pytest.mark.long
def test_a_judge_that_is_not_paid_changes_no_weight_and_one_that_is_goes_on_alike(folder, tmp_path, run_train):
    steps = [*PAID, "--max_steps", "3"]
    trained(run_train, *steps, "--rewards", "think_answer_format", "--reward_weights", "1", "--output_dir", tmp_path / "plain")
    spec = f"judge:{folder},votes=2"
    both = [*steps, "--rewards", "think_answer_format", spec, "--reward_weights"]
    trained(run_train, *both, "1", "0", "--output_dir", tmp_path / "watched")
    trained(run_train, *both, "1", "1", "--output_dir", tmp_path / "whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for name in ("final", "checkpoint-3", "checkpoint-2"):
        shutil.rmtree(tmp_path / "cut" / name)
    trained(run_train, *both, "1", "1", "--output_dir", tmp_path / "cut", "--resume_from_checkpoint", "true")
    names = ("plain", "watched", "whole", "cut")
    plain, watched, whole, cut = [(tmp_path / name / "final" / "model.safetensors").read_bytes() for name in names]
    assert plain == watched
    assert whole == cut != plain
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 < row["rewards/judge/time_share"] < 1 for row in rows if "reward" in row)
