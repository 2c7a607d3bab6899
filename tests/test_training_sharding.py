"""Weights in parts: what is refused before a run, and what is saved. Real runs: `tests/engines/test_sharding.py`."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from vlrl.models.sharded import n_numbers, save_as_loaded, whole_weights
from vlrl.schema import Sample
from vlrl.training import sharding
from vlrl.training.options import ConfigError


def arguments(fsdp=True, config=None, engine=None):
    return SimpleNamespace(fsdp=fsdp, fsdp_config=config, hf_deepspeed_config=engine, deepspeed=None)


def on(monkeypatch, kind):
    monkeypatch.setattr(sharding, "PartialState", lambda: SimpleNamespace(distributed_type=kind))


def test_fsdp_is_taken_where_accelerate_shards(monkeypatch):
    for kind in (DistributedType.MULTI_GPU, DistributedType.FSDP):
        on(monkeypatch, kind)
        sharding.check_fsdp(arguments())
        sharding.check_fsdp(arguments(config={"version": 2, "state_dict_type": "FULL_STATE_DICT"}))
    on(monkeypatch, DistributedType.MULTI_CPU)
    sharding.check_fsdp(arguments(fsdp=False))


@pytest.mark.parametrize(
    ("kind", "config", "environment", "words"),
    [
        ("MULTI_CPU", None, {}, "would train as without the flag"),
        ("NO", None, {}, "would train as without the flag"),
        ("MULTI_GPU", {"version": 1}, {}, "FSDP1 is not supported"),
        ("MULTI_GPU", {"state_dict_type": "SHARDED_STATE_DICT"}, {}, "no whole weights"),
        ("MULTI_GPU", "off", {"ACCELERATE_USE_FSDP": "true"}, "FSDP1 is not supported"),
        ("MULTI_GPU", "off", {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "no whole weights"),
    ],
)
def test_fsdp_that_would_not_do_what_it_says_is_refused(monkeypatch, kind, config, environment, words):
    on(monkeypatch, DistributedType(kind))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        sharding.check_fsdp(arguments(fsdp=config != "off", config=config))


def test_launched_by_accelerate_with_whole_state_dicts(monkeypatch):
    on(monkeypatch, DistributedType.MULTI_GPU)
    for name, value in {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT"}.items():
        monkeypatch.setenv(name, value)
    sharding.check_fsdp(arguments(fsdp=False))


def rows(*seeing):
    return [Sample(id=str(i), task="qa", images=["x.png"] * has, question="?", answer="1") for i, has in enumerate(seeing)]


def test_unequal_passes_are_refused_where_weights_are_sharded():
    zero = {stage: arguments(fsdp=False, engine=SimpleNamespace(is_zero3=lambda stage=stage: stage == 3)) for stage in (2, 3)}
    for given in (arguments(), zero[3]):
        sharding.check_equal_passes(given, corrects=False, samples=rows(True, True))
        sharding.check_equal_passes(given, corrects=False, samples=rows(False, False))
        with pytest.raises(ConfigError, match="1 of 2 samples have images"):
            sharding.check_equal_passes(given, corrects=False, samples=rows(True, False))
        with pytest.raises(ConfigError, match="unequal numbers of thoughts"):
            sharding.check_equal_passes(given, corrects=True, samples=rows(True))
    for given in (arguments(fsdp=False), zero[2]):
        sharding.check_equal_passes(given, corrects=True, samples=rows(True, False))


def test_a_shared_weight_is_saved_once():
    model = torch.nn.ModuleDict(
        {"embed": torch.nn.Embedding(4, 2), "norm": torch.nn.LayerNorm(2), "head": torch.nn.Linear(2, 4)}
    )
    model["head"].weight = model["embed"].weight
    gathered = {name: weight.detach().clone() for name, weight in model.state_dict().items()}
    assert set(gathered) - set(sharding.without_tied(model, gathered)) == {"head.weight"}
    model["head"].weight = torch.nn.Parameter(torch.zeros(4, 2))
    assert sharding.without_tied(model, gathered).keys() == gathered.keys()


def test_renamings_that_a_checkpoint_did_not_need_are_not_undone():
    used, not_used = SimpleNamespace(was_used=lambda: True), SimpleNamespace(was_used=lambda: False)
    model = torch.nn.Linear(2, 2)
    model._weight_conversions = [used, not_used]
    save_as_loaded(model)
    assert model._weight_conversions == [used, not_used], "transformers chooses well for whole models"
    model.weight.ds_id, model.weight.ds_numel = 0, 4
    save_as_loaded(model)
    assert model._weight_conversions == [used]
    assert n_numbers(model.weight) == 4
    assert n_numbers(model.bias) == 2


def test_a_whole_model_stays_as_it_is():
    with whole_weights(torch.nn.Linear(2, 2)):
        pass
