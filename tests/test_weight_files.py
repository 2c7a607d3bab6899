"""The folder through which weights go to a server: whole or absent, whatever becomes of the writer."""

import errno
import json
import multiprocessing
import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from vlrl.models import weight_files
from vlrl.models.vllm_worker import ReadsWeights
from vlrl.models.weight_files import (
    LISTING,
    WeightFilesError,
    read_listing,
    read_weights,
    remove_weights,
    version_name,
    write_weights,
)


def weights(n=3, value=1.0):
    return {f"layer.{i}.weight": torch.full((4, 5), value + i) for i in range(n)}


def read(place):
    return dict(read_weights(place, read_listing(place, 0)))


def test_what_is_written_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "FILE_BYTES", 100)
    given = {**weights(), "ids": torch.arange(3), "view": torch.arange(12.0).reshape(3, 4).T}
    place = write_weights(tmp_path, version_name(7, "ab"), given.items())
    assert place.name == "step-000007-ab"
    assert len(list(place.glob("*.safetensors"))) > 2
    assert sorted(found := read(place)) == sorted(given)
    assert all(torch.equal(found[name], given[name]) for name in given)


def test_numbers_are_narrowed_and_never_widened(tmp_path):
    given = {"a": torch.randn(3), "b": torch.randn(3).bfloat16(), "n": torch.arange(3)}
    found = read(write_weights(tmp_path, "step-1", given.items(), torch.bfloat16))
    assert {name: one.dtype for name, one in found.items()} == {"a": torch.bfloat16, "b": torch.bfloat16, "n": torch.int64}
    assert torch.equal(found["a"], given["a"].bfloat16())
    assert read(write_weights(tmp_path, "step-2", given.items(), torch.float32))["b"].dtype == torch.bfloat16


def test_a_weight_that_changes_again_is_written_as_it_was(tmp_path):
    """Adapters are merged into a weight for as long as it is handed over."""
    weight = torch.ones(4)

    def merged():
        yield "a", weight
        weight.zero_()
        yield "b", torch.ones(1)

    assert read(write_weights(tmp_path, "step-1", merged()))["a"].tolist() == [1.0] * 4


def test_a_full_disk_leaves_nothing_and_all_weights_are_gone_through(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "FILE_BYTES", 100)
    seen = []

    def all_of_them():
        for name, weight in weights(9).items():
            yield name, weight
            seen.append(name)  # what another process waits for, and what takes adapters out again

    def full(*_words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(weight_files, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        write_weights(tmp_path, "step-1", all_of_them())
    assert len(seen) == 9
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda place: (place / LISTING).unlink(), "No such file"),
        (lambda place: (place / LISTING).write_text("{"), "is damaged"),
        (lambda place: (place / LISTING).write_text('{"version": "x", "files": [], "n_weights": 0}'), "holds the version x"),
        (lambda place: os.truncate(place / "00000.safetensors", 50), "has 50 bytes"),
        (lambda place: flip(place / "00000.safetensors"), "was changed after it was written"),
        (lambda place: (place / "00000.safetensors").unlink(), "No such file"),
    ],
)  # fmt: skip
def test_a_version_that_is_not_whole_is_refused(tmp_path, harm, why):
    place = write_weights(tmp_path, "step-1", weights().items())
    harm(place)
    with pytest.raises(WeightFilesError, match=why):
        read_listing(place, 0)


def flip(path):
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


def test_a_weight_that_is_missing_is_noticed(tmp_path):
    place = write_weights(tmp_path, "step-1", weights().items())
    found = json.loads((place / LISTING).read_text())
    (place / LISTING).write_text(json.dumps({**found, "n_weights": 4}))
    with pytest.raises(WeightFilesError, match="holds 3 weights, 4 were written"):
        read(place)


def test_a_writer_that_is_killed_leaves_no_version(tmp_path, monkeypatch):
    monkeypatch.setattr(weight_files, "FILE_BYTES", 10)

    def slow():
        for i in range(100):
            yield str(i), torch.ones(9)
            time.sleep(0.05)

    writer = multiprocessing.get_context("fork").Process(target=write_weights, args=(tmp_path, "step-1", slow()))
    writer.start()
    while not list(tmp_path.glob("*/*.safetensors")):
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    assert [path.name for path in tmp_path.iterdir()] == [".partial-step-1"]
    assert list((tmp_path / ".partial-step-1").glob("*.safetensors"))
    (tmp_path / "mine.txt").write_text("kept")
    write_weights(tmp_path, "step-2", weights().items())
    remove_weights(tmp_path, keep=["step-2"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "step-2"]


# ---- the server's side


class Model(torch.nn.Module):
    """A model as vLLM has it: it takes weights by their names, and refuses those that it does not know."""

    def __init__(self, n=3):
        super().__init__()
        self.layer = torch.nn.ModuleList(torch.nn.Linear(5, 4, bias=False) for _ in range(n))

    def load_weights(self, given):
        loaded, own = set(), dict(self.named_parameters())
        for name, weight in given:
            if name not in own:
                raise ValueError(f"There is no module or parameter named {name!r}")
            own[name].data.copy_(weight)
            loaded.add(name)
        return loaded


class Worker(ReadsWeights):
    def __init__(self, n=3):
        self.model = Model(n)
        self.model_runner = SimpleNamespace(get_model=lambda: self.model, model_config=SimpleNamespace(quantization=None))

    def reload_weights(self, weights_iterator):
        self.model.load_weights(weights_iterator)


def test_a_worker_has_the_version_that_it_has_read(tmp_path):
    worker = Worker()
    assert worker.vlrl_state()["version"] == ""
    assert worker.vlrl_load(str(write_weights(tmp_path, "step-1", weights(value=8.0).items())))["version"] == "step-1"
    assert [float(one.detach().mean()) for one in worker.model.parameters()] == [8.0, 9.0, 10.0]


def test_packed_copies_of_an_output_layer_are_made_again(tmp_path):
    """As vLLM has them on a CPU: of an output layer, and of a linear layer whose own weight is dropped then."""
    worker, packed = Worker(2), []
    for layer in worker.model.layer:
        layer.cpu_linear = None
        layer.quant_method = SimpleNamespace(
            process_weights_after_loading=lambda one: packed.append(float(one.weight.detach().mean()))
        )
    place = write_weights(tmp_path, "step-1", weights(2, 5.0).items())

    def reload_weights(weights_iterator):
        worker.model.load_weights(weights_iterator)
        worker.model.layer[0].weight.data = torch.empty(0)

    worker.reload_weights = reload_weights
    worker.vlrl_load(str(place))
    assert packed == [6.0]


@pytest.mark.parametrize(
    ("n_served", "n_sent", "why"),
    [
        (4, 3, r"lacks 1 weights of the server's model \(layer.3.weight\): another model"),
        (2, 3, "no module or parameter"),
    ],
)
def test_another_model_is_refused_and_has_no_version_then(tmp_path, n_served, n_sent, why):
    worker = Worker(n_served)
    worker.vlrl_load(str(write_weights(tmp_path, "step-1", weights(n_served).items())))
    place = write_weights(tmp_path, "step-2", weights(n_sent).items())
    with pytest.raises(WeightFilesError, match=why):
        worker.vlrl_load(str(place))
    assert worker.vlrl_state()["version"] == ""


def test_a_version_that_is_not_there_leaves_the_worker_as_it_was(tmp_path, monkeypatch):
    worker = Worker()
    worker.vlrl_load(str(write_weights(tmp_path, "step-1", weights().items())))
    monkeypatch.setattr("vlrl.models.vllm_worker.read_listing", lambda place: read_listing(place, 0))
    with pytest.raises(WeightFilesError, match="No such file"):
        worker.vlrl_load(str(tmp_path / "step-2"))
    assert worker.vlrl_state()["version"] == "step-1"


def test_a_folder_that_is_not_shared_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("vlrl.models.vllm_worker.MARK_WITHIN_S", 0.1)
    (tmp_path / "mark").write_text("abc")
    assert Worker().vlrl_read_mark(str(tmp_path / "mark"))["found"] == "abc"
    assert Worker().vlrl_read_mark(str(tmp_path / "other"))["found"] == ""
