"""A run that goes on from a checkpoint inside a generation takes the very steps of one that never stopped."""

import shutil
import zlib

import pytest
import torch
from trl import GRPOConfig

from vlrl.gtr import OracleCorrector
from vlrl.gtr.options import GuideOptions
from vlrl.models.inputs import Samples, prepare_sample
from vlrl.models.load import load_model
from vlrl.rewards import load_reward
from vlrl.schema import Reward, Score
from vlrl.tasks import load_task
from vlrl.training.grpo import Guide, Trainer
from vlrl.training.grpo.resume import GENERATION

PAYING = Reward("paying", lambda text, sample: Score(zlib.crc32(text.encode()) % 997 / 997, text), 0.0, 1.0)
PLAYED = [load_reward(name) for name in ("card_success", "card_recognition")]


def train(folder, task="detection", resume=None, freeze=False, sharing="auto", options=None, **changes):
    """Five steps, saved after the third; returns the trainer."""
    played = task == "numberline"
    loaded, known = load_model("tiny-cards" if played else "tiny"), load_task(task)
    args = {"max_steps": 5, "num_generations": 4, "per_device_train_batch_size": 8, "steps_per_generation": 4, "save_steps": 3}
    args |= {"max_completion_length": 24, "learning_rate": 1e-3, "logging_steps": 1, "seed": 3, "save_total_limit": 3}
    args |= {"use_cpu": True, "bf16": False, "gradient_checkpointing": False, "disable_tqdm": True, "report_to": "none"}
    config = GRPOConfig(output_dir=str(folder), remove_unused_columns=False, top_k=0, **(args | changes))
    trainer = Trainer(
        loaded,
        {task: known},
        PLAYED if played else [PAYING],
        Samples(400, lambda i: prepare_sample(known.synthetic(0, "train", i), loaded)),
        config,
        freeze_vision=freeze,
        group_shared=sharing,
        guide=Guide(GuideOptions(**options), OracleCorrector()) if options else Guide(),
        episodes=played,
    )
    trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    return trainer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that never stopped, each trained once: `whole(changes)` gives the trainer and its folder, to be copied."""
    trained = {}

    def of(**changes):
        if str(changes) not in trained:
            folder = tmp_path_factory.mktemp("whole")
            trained[str(changes)] = (train(folder, **changes), folder)
        return trained[str(changes)]

    return of


def same(one, other):
    theirs = dict(other.model.named_parameters())
    return all(torch.equal(value, theirs[name]) for name, value in one.model.named_parameters())


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_iterations": 2, "steps_per_generation": 2},
        {"beta": 0.04, "freeze": True},
        {"sharing": "off", "gradient_accumulation_steps": 2, "steps_per_generation": 8, "per_device_train_batch_size": 4},
        {"task": "numberline", "options": {"corrector": "oracle", "gate": "always"}},
    ],
    ids=str,
)
def test_steps_left_of_a_generation_are_the_same_after_a_stop(tmp_path, changes, whole):
    trainer, folder = whole(**changes)
    assert (folder / "checkpoint-3" / GENERATION / "rank-0.pt").is_file()
    assert not (folder / "checkpoint-5" / GENERATION).exists(), "a run that is over keeps nothing"
    again, anew = (shutil.copytree(folder, tmp_path / name) for name in ("again", "anew"))
    assert same(trainer, train(again, resume=again / "checkpoint-3", **changes))
    shutil.rmtree(anew / "checkpoint-3" / GENERATION)
    assert not same(trainer, train(anew, resume=anew / "checkpoint-3", **changes)), "what the steps are without it"


@pytest.mark.parametrize("changes", [{"steps_per_generation": 1}, {"save_only_model": True}], ids=str)
def test_between_generations_and_of_weights_alone_nothing_is_kept(tmp_path, changes):
    train(tmp_path, save_steps=1, max_steps=2, **changes)
    assert (tmp_path / "checkpoint-1").is_dir()
    assert not list(tmp_path.glob(f"*/{GENERATION}"))


@pytest.mark.long
def test_what_cannot_be_taken_up_is_told_and_sampled_anew(tmp_path, capsys, whole):
    kept = shutil.copytree(whole()[1], tmp_path / "whole") / "checkpoint-3"
    train(tmp_path / "other", resume=kept, steps_per_generation=2)
    assert "sampled anew: the batch is another one now" in capsys.readouterr().out
    path = kept / GENERATION / "rank-0.pt"
    path.write_bytes(path.read_bytes()[:2000])
    assert train(tmp_path / "torn", resume=kept).state.global_step == 5
    assert "the rest of a generation cannot be taken up" in capsys.readouterr().out


def test_only_what_is_left_is_kept(tmp_path, whole):
    train(tmp_path, save_steps=1, max_steps=2)
    late, early = (folder / f"checkpoint-{n}" / GENERATION / "rank-0.pt" for folder, n in ((whole()[1], 3), (tmp_path, 1)))
    rows = torch.load(late, weights_only=False)["rows"]
    assert [row is None for row in rows] == [True, True, True, False]
    assert [row is None for row in torch.load(early, weights_only=False)["rows"]] == [True, False, False, False]
