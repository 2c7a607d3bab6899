"""Training with a vLLM server in another process that reads the weights from files: two processes, no NCCL, no GPU."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from PIL import Image

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed; tests/engines/install.sh makes an environment with it"
    ),
    pytest.mark.usefixtures("vllm_alone"),
]
ROOT = Path(__file__).resolve().parents[2]
RUN = [
    *("--per_device_train_batch_size", "8", "--num_generations", "4", "--eval_limit", "2", "--logging_steps", "1"),
    *(
        "--report_to",
        "none",
        "--learning_rate",
        "1e-4",
        "--use_vllm",
        "--vllm_mode",
        "server",
        "--vllm_weight_transport",
        "files",
    ),
]


@pytest.fixture(scope="module")
def server(tiny_folder):
    """Its address, and the process: the first command of docs/scale.md, on a CPU, with the weights that `tiny` has at first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        *(sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", str(tiny_folder), "--dtype", "float32"),
        *("--max-model-len", "1024", "--enforce-eager", "--block-size", "32", "--host", "127.0.0.1", "--port", str(port)),
        *("--enable-scale-out", "--logprobs-mode", "processed_logprobs"),
        *("--worker-extension-cls", "vlrl.models.vllm_worker.ReadsWeights"),
    ]
    environ = {**os.environ, "VLLM_SERVER_DEV_MODE": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(words, start_new_session=True, env=environ)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 240
        while time.monotonic() < until:
            assert process.poll() is None, "the server ended"
            try:
                if httpx.get(f"{address}/health", timeout=5).status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.5)
        yield address, process
    finally:
        stop(process)


def stop(process):
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
            process.wait(20)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def counted(address):
    """What the server has counted, by name and labels."""
    found = {}
    for line in httpx.get(f"{address}/metrics").text.splitlines():
        if line.startswith("vllm:"):
            name, _, value = line.rpartition(" ")
            source = re.search(r'source="(\w+)"', name)
            found[name.partition("{")[0] + (f" {source[1]}" if source else "")] = float(value)
    return found


def logged(folder):
    return [row for line in (folder / "metrics.jsonl").read_text().splitlines() if "reward" in (row := json.loads(line))]


def test_weights_go_over_and_a_prompt_is_prefilled_once(run_train, server, tmp_path):
    """Two images a prompt. The server's own weights are others than the run's."""
    rows = []
    for i in range(8):
        for part in (0, 1):
            Image.effect_noise((112 + 28 * part, 112), 40 + 20 * i).convert("RGB").save(tmp_path / f"{i}-{part}.png")
        rows.append(
            {"id": str(i), "task": "qa", "images": [f"{i}-0.png", f"{i}-1.png"], "question": "How many?", "answer": "3"}
        )
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = tmp_path / "own.py"
    reward.write_text("def of_text(text, sample):\n    return sum(map(ord, text)) % 7 / 7\n")
    before = counted(server[0])
    code, _, err = run_train(
        "--task", "qa", "--stage", "grpo", "--data", tmp_path / "rows.jsonl", "--val_split", "2", "--vllm_server_base_url", server[0],
        *RUN, "--max_steps", "4", "--num_train_epochs", "4", "--learning_rate", "1e-3", "--warmup_steps", "0", "--temperature", "1.5",
        "--rewards", f"{reward}:of_text", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    found = logged(tmp_path / "run")
    assert len(found) == 4
    assert any(row["grad_norm"] > 0 for row in found[:-1]), "a later batch is written by other weights than the first"
    # All of them are there: 0.02 with an output layer of older weights.
    assert max(row["sampling/sampling_logp_difference/mean"] for row in found) < 4e-3
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 0.05 for row in found)
    assert [row["sampling/lag"] for row in found] == [0.0] * 4
    assert not list((tmp_path / "run" / "rollout_weights").iterdir())
    now = counted(server[0])
    n_prompts, n_rows = 4 * 2, 4 * 8
    hits = now["vllm:prompt_tokens_by_source_total local_cache_hit"] - before.get(
        "vllm:prompt_tokens_by_source_total local_cache_hit", 0
    )
    assert hits >= 32 * (n_rows - n_prompts), "what fills a block is computed once a group"


def test_the_next_batch_is_written_while_this_one_is_learnt_from(run_train, server, tmp_path):
    """With adapters: what is sent has them merged in, and training goes on without."""
    code, out, err = run_train(
        "--task", "detection", "--vllm_server_base_url", server[0], *RUN, "--rollout_lag", "2", "--max_steps", "6",
        "--use_peft", "--lora_r", "4", "--rollout_weights", tmp_path / "weights", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    assert "the next batch is written while this one is learnt from" in out
    found = logged(tmp_path / "run")
    assert [row["sampling/lag"] for row in found] == [0.0, 1.0, 2.0, 1.0, 2.0, 1.0]
    assert found[0]["sampling/sampling_logp_difference/mean"] < 1e-2
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 0.2 for row in found)
    assert max(row["reward"] for row in found) > 0


def test_a_server_that_is_killed_ends_the_run_in_one_line(run_train, server, tmp_path, monkeypatch):
    """The last test: the server is gone then."""
    from vlrl.training.grpo.rollout_server import RolloutServer

    theirs, asked = RolloutServer.complete, []

    def complete(self, prompts, sampling):
        asked.append(len(prompts))
        if len(asked) == 2:
            stop(server[1])
        return theirs(self, prompts, sampling)

    monkeypatch.setattr(RolloutServer, "complete", complete)
    code, _, err = run_train(
        "--task", "detection", "--vllm_server_base_url", server[0], "--vllm_server_timeout", "1", *RUN, "--max_steps", "4",
        "--save_steps", "1", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 1
    assert err.strip().splitlines()[-1].startswith(f"stopped: no vLLM server answered at {server[0]} for 1 s")
    assert (tmp_path / "run" / "checkpoint-1").is_dir()
