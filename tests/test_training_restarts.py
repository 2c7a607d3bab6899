"""A restart by torchrun is told from a first start; really run in `tests/engines/test_sharding.py`."""

import pytest

from vlrl.training.restarts import join_again

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WORLD_SIZE": "1", "TORCHELASTIC_RESTART_COUNT": "2"},
        {"WORLD_SIZE": "2", "TORCHELASTIC_RESTART_COUNT": "0", "TORCHELASTIC_USE_AGENT_STORE": "True"},
        {"WORLD_SIZE": "2"},
    ],
)
def test_a_first_start_joins_as_ever(environ):
    assert join_again(environ) is False


def test_a_restart_joins_under_keys_of_its_own(monkeypatch):
    made = {}
    monkeypatch.setattr(
        "vlrl.training.restarts.TCPStore", lambda *args, **options: made.update(args=args, **options) or "store"
    )
    monkeypatch.setattr("vlrl.training.restarts.PrefixStore", lambda prefix, store: (prefix, store))
    monkeypatch.setattr("vlrl.training.restarts.dist.init_process_group", lambda **options: made.update(group=options))
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234", "WORLD_SIZE": "2", "RANK": "0"}
    for agent, serves in (("True", False), ("False", True)):
        assert join_again(place | {"TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_USE_AGENT_STORE": agent}) is True
        assert made["group"]["store"] == ("attempt_3", "store")
        assert made["args"] == ("127.0.0.1", 1234, 2)
        assert made["is_master"] is serves, "without a launcher's store the first process serves one"
