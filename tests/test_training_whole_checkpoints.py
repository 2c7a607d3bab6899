"""Damaged checkpoints: named with the file and the reason, passed over aloud, never gone on from."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from vlrl.training.whole_checkpoints import checkpoint_problem, checkpoints_of, newest_whole, saved_by


def checkpoint(folder, step=4, processes=1, adapters=False):
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": []}))
    (folder / "config.json").write_text("{}")
    if adapters:
        (folder / "adapter_config.json").write_text("{}")
    save_file({"a": torch.ones(3)}, folder / ("adapter_model.safetensors" if adapters else "model.safetensors"))
    names = ["rng_state"] if processes == 1 else [f"rng_state_{i}" for i in range(processes)]
    for name in ("optimizer.pt", "scheduler.pt", *(f"{name}.pth" for name in names)):
        torch.save({"state": torch.zeros(50)}, folder / name)
    return folder


def cut(name, n):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:n])


def lost(name):
    return lambda folder: (folder / name).unlink()


DAMAGES = {
    "weights cut": (cut("model.safetensors", -4), "model.safetensors is cut off"),
    "weights lost": (lost("model.safetensors"), "holds no weights"),
    "weights pickled": (lambda f: torch.save(1, f / "model.safetensors"), "is a pickle of PyTorch under the name"),
    "optimizer cut": (cut("optimizer.pt", -30), "optimizer.pt is cut off"),
    "optimizer lost": (lost("optimizer.pt"), "optimizer.pt is missing, so the optimizer's state is lost"),
    "optimizer empty": (cut("optimizer.pt", 0), "optimizer.pt is damaged: it is empty"),
    "schedule lost": (lost("scheduler.pt"), "scheduler.pt is missing"),
    "generators lost": (lost("rng_state.pth"), "rng_state.pth is missing"),
    "generators cut": (cut("rng_state.pth", 9), "rng_state.pth is cut off"),
    "config lost": (lost("config.json"), "config.json is missing"),
    "config cut": (cut("config.json", 1), "config.json is damaged"),
    "state cut": (cut("trainer_state.json", 20), "trainer_state.json is damaged"),
    "state empty": (cut("trainer_state.json", 0), "trainer_state.json is damaged: it is empty"),
    "state of nothing": (lambda f: (f / "trainer_state.json").write_text("{}"), "it states no global_step"),
    "state lost": (lost("trainer_state.json"), "is not a checkpoint: there is no trainer_state.json in it"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_named_with_its_file(name, tmp_path):
    folder = checkpoint(tmp_path / "checkpoint-4")
    assert checkpoint_problem(folder) is None
    damage, words = DAMAGES[name]
    damage(folder)
    problem = checkpoint_problem(folder)
    assert words in problem
    assert str(folder) in problem
    assert "\n" not in problem


def test_adapters_and_several_processes(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint-4", processes=3, adapters=True)
    assert checkpoint_problem(folder) is None
    assert saved_by(folder) == 3
    (folder / "rng_state_1.pth").unlink()
    assert "rng_state_1.pth is missing: each process wrote one" in checkpoint_problem(folder)
    cut("adapter_model.safetensors", -1)(folder)
    assert "adapter_model.safetensors is cut off" in checkpoint_problem(folder)


def test_sharded_checkpoints_are_left_to_their_loaders(tmp_path):
    folder = checkpoint(tmp_path / "checkpoint-4")
    (folder / "model.safetensors").unlink()
    (folder / "global_step4").mkdir()
    assert checkpoint_problem(folder) is None


def test_the_newest_whole_one_is_taken_and_the_others_are_named(tmp_path):
    assert newest_whole(tmp_path).path is None
    for step in (2, 10, 9, 100):
        checkpoint(tmp_path / f"checkpoint-{step}", step)
    (tmp_path / "checkpoint-partial").mkdir()
    assert [path.name for path in checkpoints_of(tmp_path)] == [
        "checkpoint-100",
        "checkpoint-10",
        "checkpoint-9",
        "checkpoint-2",
    ]
    assert newest_whole(tmp_path).note == ""
    cut("optimizer.pt", 30)(tmp_path / "checkpoint-100")
    lost("scheduler.pt")(tmp_path / "checkpoint-10")
    found = newest_whole(tmp_path)
    assert found.path == str(tmp_path / "checkpoint-9")
    assert "checkpoint-100/optimizer.pt is cut off" in found.note
    assert "checkpoint-10/scheduler.pt is missing" in found.note
    assert f"Going on from {tmp_path}/checkpoint-9, the newest checkpoint that is whole" in found.note
    shutil.rmtree(tmp_path / "checkpoint-9")
    cut("model.safetensors", 5)(tmp_path / "checkpoint-2")
    assert newest_whole(tmp_path).path is None
    assert len(newest_whole(tmp_path).damaged) == 3


def opened(run, resume):
    from transformers import TrainingArguments

    from vlrl.training.run_folder import open_run

    return open_run(TrainingArguments(output_dir=str(run), resume_from_checkpoint=resume, use_cpu=True), "x")


def test_a_resumed_run_goes_on_from_the_newest_whole_one_or_not_at_all(tmp_path):
    from vlrl.training.options import ConfigError

    run = tmp_path / "run"
    for step in (2, 4):
        checkpoint(run / f"checkpoint-{step}", step)
    cut("optimizer.pt", -20)(run / "checkpoint-4")
    found = opened(run, "true")
    assert found.checkpoint == str(run / "checkpoint-2")
    assert "checkpoint-4/optimizer.pt is cut off" in found.note
    with pytest.raises(
        ConfigError, match=r"optimizer\.pt is cut off.*the newest whole checkpoint of its run is \S+checkpoint-2"
    ):
        opened(run, str(run / "checkpoint-4"))
    lost("scheduler.pt")(run / "checkpoint-2")
    with pytest.raises(ConfigError, match=r"no checkpoint of \S+ is whole: .*checkpoint-4.*checkpoint-2.*start anew"):
        opened(run, "true")
