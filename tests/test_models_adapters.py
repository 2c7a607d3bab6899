"""A folder of adapters is a model: the one that its adapter_config.json names, with the adapters merged."""

import json
import shutil

import pytest
import torch

from vlrl.bench import console
from vlrl.models.load import load_inputs, load_model
from vlrl.models.names import ModelError, adapter_base, is_adapter_folder, model_name_problem
from vlrl.training.weights import start_folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder: `start/` with the whole model, `adapter/` with adapters of it that change something."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("run")
    loaded = load_model("tiny")
    loaded.model.save_pretrained(folder / "start")
    loaded.processor.save_pretrained(folder / "start")
    loaded.model.config._name_or_path = str(folder / "start")
    torch.manual_seed(0)
    adapted = get_peft_model(loaded.model, LoraConfig(r=4, target_modules="all-linear"))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    adapted.save_pretrained(folder / "adapter")
    merged = adapted.merge_and_unload()
    return folder, {name: value.clone() for name, value in merged.state_dict().items()}


def same(model, weights):
    found = model.state_dict()
    return found.keys() == weights.keys() and all(
        torch.allclose(found[name].float(), weights[name], atol=2e-3) for name in weights
    )


def test_adapters_are_merged_into_the_model_that_they_name(run, tmp_path):
    folder, weights = run
    name = str(folder / "adapter")
    assert is_adapter_folder(name)
    assert model_name_problem(name) is None
    loaded = load_model(name)
    assert loaded.name == name
    assert same(loaded.model, weights)
    assert loaded.coords == "resized_px"
    base = start_folder(loaded, tmp_path)
    assert base == str(tmp_path / "start"), "a reference model of merged weights is kept"
    assert same(load_model(base).model, weights)


def test_a_checkpoint_keeps_its_processor_and_finds_a_run_that_was_moved(run, tmp_path):
    folder, weights = run
    moved = tmp_path / "moved"
    shutil.copytree(folder / "start", moved / "start")
    checkpoint = moved / "checkpoint-3"
    shutil.copytree(folder / "adapter", checkpoint)
    held = json.loads((checkpoint / "adapter_config.json").read_text())
    (checkpoint / "adapter_config.json").write_text(json.dumps(held | {"base_model_name_or_path": "/gone/start"}))
    assert adapter_base(str(checkpoint)) == str(moved / "start")
    inputs = load_inputs(str(folder / "start"), max_pixels=56 * 56)
    inputs.processor.save_pretrained(checkpoint)
    found = load_model(str(checkpoint))
    assert found.processor.image_processor.size["longest_edge"] == 56 * 56
    assert same(found.model, weights)


def test_merge_writes_the_whole_model(run, tmp_path, capsys):
    folder, weights = run
    out = tmp_path / "merged"
    assert console.main(["merge", str(folder / "adapter"), "--out", str(out)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out)
    assert same(load_model(str(out)).model, weights)
    assert not is_adapter_folder(str(out))
    assert console.main(["merge", str(folder / "adapter"), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    assert console.main(["merge", str(out), "--out", str(tmp_path / "x")]) == 2
    assert "holds a whole model already" in capsys.readouterr().err


def test_adapters_that_cannot_be_used(run, tmp_path):
    folder, _ = run
    for name, change, message in (
        ("nameless", {"base_model_name_or_path": None}, "holds adapters alone"),
        ("lost", {"base_model_name_or_path": "/gone/model"}, "of a model that cannot be used"),
        ("chain", {"base_model_name_or_path": str(folder / "adapter")}, "holds adapters too"),
    ):
        broken = tmp_path / name
        shutil.copytree(folder / "adapter", broken)
        held = json.loads((broken / "adapter_config.json").read_text())
        (broken / "adapter_config.json").write_text(json.dumps(held | change))
        with pytest.raises(ModelError, match=message):
            load_model(str(broken))
    cut = tmp_path / "cut"
    shutil.copytree(folder / "adapter", cut)
    weights = cut / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="is cut off"):
        load_model(str(cut))
    (cut / "adapter_config.json").write_text("{")
    with pytest.raises(ModelError, match="is damaged"):
        load_model(str(cut))
