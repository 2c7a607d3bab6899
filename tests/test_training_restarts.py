"""A restart by torchrun is told from a first start; really run in `tests/engines/test_sharding.py`."""

import pytest

from vlrl.training.command_line import group_options
from vlrl.training.restarts import GroupOptions, join_again

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
    assert join_again(GroupOptions(), environ) is False


def test_a_restart_joins_under_keys_of_its_own(monkeypatch):
    made = {}
    monkeypatch.setattr(
        "vlrl.training.restarts.TCPStore", lambda *args, **options: made.update(args=args, **options) or "store"
    )
    monkeypatch.setattr("vlrl.training.restarts.PrefixStore", lambda prefix, store: (prefix, store))
    monkeypatch.setattr(
        "vlrl.training.restarts.dist.init_process_group", lambda *args, **options: made.update(group=options, backend=args)
    )
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1234", "WORLD_SIZE": "2", "RANK": "0"}
    for agent, serves in (("True", False), ("False", True)):
        restart = place | {"TORCHELASTIC_RESTART_COUNT": "3", "TORCHELASTIC_USE_AGENT_STORE": agent}
        assert join_again(GroupOptions(timeout_s=60, backend="gloo"), restart) is True
        assert (made["group"]["timeout"].seconds, made["timeout"].seconds, made["backend"]) == (60, 60, ("gloo",))
        assert made["group"]["store"] == ("attempt_3", "store")
        assert made["args"] == ("127.0.0.1", 1234, 2)
        assert made["is_master"] is serves, "without a launcher's store the first process serves one"


@pytest.mark.parametrize("task", ["detection", "prm"])
def test_a_restart_has_the_timeout_and_backend_of_its_flags_and_files(tmp_path, task):
    config = tmp_path / "own.yaml"
    config.write_text("ddp_timeout: 77\n")
    read = group_options(["--task", task, "--config", str(config), "--ddp-backend", "gloo"])
    assert GroupOptions.of(read) == GroupOptions(timeout_s=77, backend="gloo")
    assert GroupOptions.of(group_options(["--task", task, "--no_such_flag"])) == GroupOptions()
    assert GroupOptions.of(group_options(["--task", task])) == GroupOptions()
