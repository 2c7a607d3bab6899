"""FSDP2, ZeRO and several nodes, really run: two processes on the CPU, compared with plain data parallel training."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import warm_process
from safetensors.torch import load_file

pytestmark = [pytest.mark.engines, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = "tests/engines/fsdp_on_cpu.py"
SMALL = (
    "--stage grpo --per_device_train_batch_size 8 --num_generations 4 --max_completion_length 24 --eval_limit 3 --max_steps 2"
)
SMALL += " --save_steps 1 --logging_steps 1 --report_to none --lr_scheduler_type constant --warmup_steps 0"
needs_deepspeed = pytest.mark.skipif(
    find_spec("deepspeed") is None or shutil.which("g++") is None, reason="needs deepspeed, and g++ to build a part of it"
)


def torchrun(*words: object, launch: str) -> subprocess.Popen[str]:
    """A launched program, its output together."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", *launch.split(), *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def train(folder: Path, *flags: object, sharding: bool = False, code: int = 0) -> Path:
    """A run of two steps on two processes. `sharding`: accelerate shards on CPUs too."""
    start = [LAUNCHER] if sharding or "KEEP_ROWS" in os.environ else []
    done = warm_process.run(*start, "vlrl/train.py", *SMALL.split(), *flags, "--output_dir", folder, n=2, timeout_s=600)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "said.txt").write_text(done.stdout + done.stderr)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def same(one: Path, other: Path, within: float = 0.0) -> None:
    """The final weights of two runs have the same names and, up to `within`, the same values; training has changed them."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= within
    start = load_file(one / "start" / "model.safetensors")
    assert any(not torch.equal(a[name], start[name]) for name in a)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "plain", "--group_shared", "off")


@pytest.fixture(scope="module")
def fsdp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "fsdp", "--fsdp", "--group_shared", "off", sharding=True)


def test_fsdp_is_data_parallel_training(plain: Path, fsdp: Path) -> None:
    same(plain, fsdp)


def test_fsdp_with_shared_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEP_ROWS", "1")
    settings = ("--fsdp_config", "configs/engines/fsdp2.json")
    same(
        train(tmp_path / "plain"),
        train(tmp_path / "fsdp", "--fsdp", *settings, sharding=True),
    )


def test_fsdp_goes_on_from_a_checkpoint(fsdp: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(fsdp, again)
    for path in (again / "checkpoint-2", again / "final"):
        shutil.rmtree(path)
    for name in ("predictions_after.jsonl", "summary.json"):
        (again / name).unlink()
    train(again, "--fsdp", "--group_shared", "off", "--resume_from_checkpoint", "true", sharding=True)
    same(fsdp, again)
    assert [json.loads(line)["step"] for line in (again / "metrics.jsonl").open()] == [1, 2]


ADAPTERS = ("--use_peft", "--lora_r", 4, "--lora_dropout", 0, "--beta", 0.01, "--group_shared", "off")
MEASURED = ("--eval_strategy", "steps", "--eval_steps", 1)


@pytest.fixture(scope="module")
def plain_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "adapters", *ADAPTERS)


def test_fsdp_with_adapters_a_reference_and_evaluation_on_the_way(plain_adapters: Path, tmp_path: Path) -> None:
    found = train(tmp_path / "fsdp", "--fsdp", *ADAPTERS, *MEASURED, sharding=True)
    same(plain_adapters, found)
    assert (found / "adapter" / "adapter_model.safetensors").is_file()


def test_fsdp_with_a_frozen_encoder(tmp_path: Path) -> None:
    found = train(tmp_path / "fsdp", "--fsdp", "--freeze_vision", sharding=True)
    before, after = load_file(found / "start" / "model.safetensors"), weights(found)
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed
    assert not [name for name in changed if "visual" in name]


@needs_deepspeed
def test_zero_2_is_data_parallel_training(plain: Path, tmp_path: Path) -> None:
    same(plain, train(tmp_path / "zero2", "--deepspeed", "configs/engines/zero2.json", "--group_shared", "off"), within=1e-6)


@needs_deepspeed
def test_zero_3_is_data_parallel_training_and_saves_names_that_load(plain: Path, tmp_path: Path) -> None:
    found = train(tmp_path / "zero3", "--deepspeed", "configs/engines/zero3.json", "--group_shared", "off")
    same(plain, found, within=2e-5)


@needs_deepspeed
def test_zero_3_with_adapters_a_reference_and_evaluation_on_the_way(plain_adapters: Path, tmp_path: Path) -> None:
    found = train(tmp_path / "zero3", "--deepspeed", "configs/engines/zero3.json", *ADAPTERS, *MEASURED)
    same(plain_adapters, found, within=2e-4)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_two_nodes_are_one_run(plain: Path, tmp_path: Path) -> None:
    launch = f"--nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_id vlrl --rdzv_endpoint 127.0.0.1:{free_port()}"
    words = ["vlrl/train.py", *SMALL.split(), "--group_shared", "off", "--output_dir", tmp_path / "nodes"]
    nodes = [torchrun(*words, launch=launch) for _ in range(2)]
    said = [node.communicate(timeout=600)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert sum("summary.json" in one for one in said) == 1, "one node reports"
    same(plain, tmp_path / "nodes")


def test_a_killed_worker_is_started_again_and_goes_on(plain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    words = [
        "vlrl/train.py",
        *SMALL.split(),
        "--group_shared",
        "off",
        "--output_dir",
        folder,
        "--resume_from_checkpoint",
        "true",
    ]
    program = torchrun(*words, launch="--nproc_per_node 2 --max_restarts 1")
    until = time.monotonic() + 300
    while not (folder / "checkpoint-1").is_dir() and time.monotonic() < until:
        time.sleep(0.02)
    os.kill(workers(program.pid)[0], signal.SIGKILL)
    said, _ = program.communicate(timeout=300)
    assert program.returncode == 0, said[-4000:]
    assert "resuming  from" in said
    same(plain, folder)


def workers(agent: int) -> list[int]:
    """The processes that a launcher has started to train."""
    found = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    return [pid for pid in map(int, found) if b"vlrl/train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--fsdp",), "accelerate shards no weights over processes of this kind (MULTI_CPU)"),
        (("--fsdp", "--fsdp_config", '{"version": 1}'), "FSDP1 is not supported"),
    ],
)
def test_sharding_that_would_not_happen_is_refused(flags: tuple[str, ...], words: str, tmp_path: Path) -> None:
    train(tmp_path / "run", *flags, code=2)
    said = (tmp_path / "run" / "said.txt").read_text()
    assert words in said, said[-2000:]
    assert "Traceback" not in said
    assert not (tmp_path / "run" / "final").exists()


def test_what_needs_unequal_passes_is_refused_before_a_model_is_loaded(tmp_path: Path) -> None:
    train(tmp_path / "run", "--fsdp", "--task", "points24", "--corrector", "oracle", sharding=True, code=2)
    assert "processes imitate unequal numbers of thoughts" in (tmp_path / "run" / "said.txt").read_text()
