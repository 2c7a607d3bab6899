"""Benchmarks with vLLM in the process and behind its server: the same greedy answers as transformers', token by token."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

import httpx
import pytest

from vlrl.bench import main

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed; tests/engines/install.sh makes an environment with it"
    ),
    pytest.mark.usefixtures("vllm_alone"),
]
N = 8


def run(folder, *words):
    code = main(
        ["run", "--task", "qa,detection", "--coords", "px", "--limit", str(N), "--output_path", str(folder), *map(str, words)]
    )
    assert code == 0
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    return {row["id"]: (row["completion"], row["n_tokens"]) for row in rows}


@pytest.fixture(scope="module")
def plain(tiny_folder, tmp_path_factory, vllm_settings):
    """Greedy answers by transformers, in float32."""
    found = run(tmp_path_factory.mktemp("plain"), "--model_name_or_path", tiny_folder, "--dtype", "float32")
    assert len({text for text, _ in found.values()}) > 2
    return found


def test_greedy_tokens_in_the_process(plain, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    found = run(tmp_path, "--model_name_or_path", tiny_folder, "--dtype", "float32", "--use_vllm")
    assert found == plain


@pytest.fixture
def server(tiny_folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        "serve",
        tiny_folder,
        "--served-model-name",
        "tiny",
        "--dtype",
        "float32",
        "--max-model-len",
        "1024",
        "--enforce-eager",
    ]
    command = [sys.executable, "-m", "vllm.entrypoints.cli.main", *map(str, words), "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, start_new_session=True)
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
        yield f"{address}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def test_greedy_tokens_from_a_server(plain, server, tmp_path):
    assert run(tmp_path, "--model_name_or_path", "tiny", "--base_url", server) == plain
