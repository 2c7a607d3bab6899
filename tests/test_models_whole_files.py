"""Damaged and mismatched model folders: one line that names the file, in loading, training, `bench run` and on the page."""

import pytest
import torch
from damaged_folders import MODEL_DAMAGES, copied

from vlrl.data.value_head_files import HEAD_WEIGHTS
from vlrl.models.load import load_model, save_model
from vlrl.models.names import ModelError
from vlrl.models.value_head import StepValueModel, load_prm, save_head
from vlrl.models.whole_files import file_problem, one_line


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_model(tiny.model, tiny.processor, path)
    return path


@pytest.mark.parametrize("name", MODEL_DAMAGES)
def test_a_damaged_model_is_one_line(name, folder, tmp_path, capfd):
    damage, words = MODEL_DAMAGES[name]
    copy = copied(folder, tmp_path / "model")
    damage(copy)
    with pytest.raises(ModelError) as error:
        load_model(str(copy))
    said = str(error.value)
    assert words in said
    assert str(copy) in said
    assert "\n" not in said
    assert len(said) < 600
    assert capfd.readouterr().err == ""


def test_the_undamaged_folder_loads_as_it_was(folder, tiny):
    again = load_model(str(folder))
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), tiny.model.parameters(), strict=True))


def test_training_and_bench_run_say_it_before_they_do_anything(folder, tmp_path, run_train, small, capfd):
    from vlrl.bench import main

    copy = copied(folder, tmp_path / "model")
    MODEL_DAMAGES["weights without their last byte"][0](copy)
    code, _, err = run_train("--model_name_or_path", copy, "--output_dir", tmp_path / "run", *small, "--limit", "8")
    assert code == 2
    assert err.startswith(f"error: {copy}/model.safetensors is cut off")
    assert err.count("\n") == 1
    words = ["run", "--task", "detection", "--model_name_or_path", copy, "--limit", "2", "--output_path", tmp_path / "bench"]
    assert main([str(word) for word in words]) == 2
    assert capfd.readouterr().err.startswith(f"error: {copy}/model.safetensors is cut off")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "holds no value_head.safetensors"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "value_head.safetensors is cut off"),
        (lambda path: path.write_bytes(b""), "value_head.safetensors is damaged"),
    ],
)
def test_a_value_head_that_is_not_whole_is_one_line(damage, words, folder, tiny, tmp_path):
    copy = copied(folder, tmp_path / "prm")
    save_head(StepValueModel(tiny.model, 128), copy, {})
    damage(copy / HEAD_WEIGHTS)
    with pytest.raises(ModelError, match=words):
        load_prm(str(copy))


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path):
    """The first bytes of a safetensors file are the length of its header, which may be those of any other kind of file."""
    for start in (b"PK", b"\x80\x02"):
        text = b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
        n = int.from_bytes(start, "little")
        path = tmp_path / "a.safetensors"
        path.write_bytes(n.to_bytes(8, "little") + text.ljust(n) + bytes(4))
        assert file_problem(path) is None
        path.write_bytes(n.to_bytes(8, "little") + text.ljust(n) + bytes(3))
        assert "is cut off" in file_problem(path)


def test_files_of_torch_save(tmp_path):
    path = tmp_path / "optimizer.pt"
    torch.save({"state": torch.zeros(1000)}, path)
    assert file_problem(path) is None
    whole = path.read_bytes()
    for data, words in ((whole[:-100], "cut off"), (b"", "is empty"), (b"hello", "no file of torch.save")):
        path.write_bytes(data)
        assert words in file_problem(path)
    torch.save(3, path, _use_new_zipfile_serialization=False)
    assert file_problem(path) is None


def test_only_what_loading_raises_becomes_a_line():
    with pytest.raises(ModelError, match=r"^m: why: KeyError: 'a'$"), one_line("m", "why"):
        raise KeyError("a")
    with pytest.raises(ModelError, match="plain"), one_line("m", "why"):
        raise Exception("plain, as tokenizers raises")
    for error in (torch.OutOfMemoryError(), ZeroDivisionError(), KeyboardInterrupt()):
        with pytest.raises(type(error)), one_line("m", "why"):
            raise error
