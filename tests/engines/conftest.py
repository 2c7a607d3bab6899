"""For tests with vLLM itself, on CPUs: `tests/engines/install.sh FOLDER && FOLDER/bin/python -m pytest -m engines`."""

import gc
import os

import pytest

# Before vLLM is imported. Nothing is compiled: that takes longer than these runs.
SETTINGS = {
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}


@pytest.fixture(scope="session")
def vllm_settings():
    os.environ.update(SETTINGS)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """`tiny` as a folder, which is how vLLM loads models."""
    from vlrl.models.load import load_model, save_model

    folder = tmp_path_factory.mktemp("tiny")
    loaded = load_model("tiny")
    save_model(loaded.model, loaded.processor, folder)
    return folder


@pytest.fixture
def vllm_alone(vllm_settings, monkeypatch):
    """vLLM keeps process groups and TRL sets variables of a launcher; a run of its own process would leave both behind."""
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "VLLM_ENABLE_V1_MULTIPROCESSING"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    yield
    import torch
    from vllm.distributed import parallel_state

    for name, value in list(vars(parallel_state).items()):
        if isinstance(value, parallel_state.GroupCoordinator):
            setattr(parallel_state, name, None)
    parallel_state._NODE_COUNT = None
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    for name in set(os.environ) - set(before):
        del os.environ[name]
    gc.collect()
