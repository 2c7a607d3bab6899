"""Keys planted wherever one can be given to training and the bench, and searched for in every file and all output.

Each run is a process of its own, so that what libraries and the interpreter print is searched too.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

from chat_server import Server
from overnight import Row

ROOT = Path(__file__).resolve().parent.parent
KEY = "planted-key-0123456789"
"""The beginning of every planted key."""
OWN = '''"""A reward with a key of its own."""

from vlrl.schema import Score


def mine(text, sample, *, api_key: str = '', fails: bool = False):
    if fails:
        raise RuntimeError(f"the service refused {api_key}")
    return Score(float(len(text) % 2), text, f"asked with {api_key}")
'''
ENVIRONMENT = (
    "OPENAI_API_KEY", "VLRL_JUDGE_API_KEY", "VLRL_CORRECTOR_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN",
    "COMET_API_KEY", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "MY_SECRET",
)  # fmt: skip
ASKED = itertools.count()
FORMS = (KEY, base64.b64encode(KEY.encode()).decode()[:24], urllib.parse.quote(KEY[::-1]), KEY.upper())
"""The key as it is, in a Basic header, backwards, in capitals."""


def judging(body: dict[str, object]) -> object:
    """Every other request is refused, with the keys that a careless server would say back; the first is not, since a run asks it
    before training whether the judge is there."""
    if next(ASKED) % 2 == 0:
        return "0.5"
    return 400, f"wrong key {KEY}-VLRL_JUDGE_API_KEY; Authorization: Bearer {KEY}-OPENAI_API_KEY"


def run(n: int, seed: int) -> list[Row]:
    """Each way to give a key once."""
    server = Server([judging])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "own.py").write_text(OWN)
        rows = [row_of(what, folder / f"case{i}", words, codes) for i, (what, words, codes) in enumerate(cases(folder, url))]
    server.shutdown()
    server.server_close()
    return rows


def cases(folder: Path, url: str) -> list[tuple[str, list[str], set[int]]]:
    """What is tried, its command (after `vlrl`), and the exit codes it may have. OUT stands for a folder of its own."""
    with_secret = url.replace("//", f"//me:{KEY}@")
    own = f"{folder}/own.py:mine:api_key={KEY}-option"
    judge = f"llm_judge:judge_model=m,judge_url={url},see_image=false,backoff_s=0.01"
    small = ["--max_steps", "2", "--per_device_train_batch_size", "8", "--num_generations", "4", "--eval_limit", "4"]
    small += ["--logging_steps", "1", "--save_steps", "1", "--output_dir", "OUT"]
    train = ["train", "--task", "qa", *small]
    bench = ["bench", "run", "--task", "qa", "--limit", "6", "--output_path", "OUT"]
    config = folder / "secret.yaml"
    config.write_text(json.dumps({"task": "qa", "rewards": [own], "hub_token": f"{KEY}-yaml"}))
    address = folder / "address.yaml"
    address.write_text(json.dumps({"task": "points24", "corrector": "model:m", "corrector_url": with_secret}))
    return [
        ("train: judge that says keys back, key of a reward", [*train, "--rewards", judge, own, "--hub_token", f"{KEY}-hub"], {0}),
        ("train: keys in a config file", ["train", "--config", str(config), *small], {0}),
        ("train: corrector that says keys back", ["train", "--task", "points24", "--corrector", "model:m", "--corrector_url", url, *small], {0}),
        ("train: a reward that raises with its key", [*train, "--rewards", f"{own},fails=true"], {1, 2}),
        ("train: dry run", [*train, "--rewards", own, "--hub_token", f"{KEY}-hub", "--dry_run"], {0}),
        ("train: password in --corrector_url", ["train", "--task", "points24", "--corrector", "model:m", "--corrector_url", with_secret, *small], {2}),
        ("train: password in judge_url", [*train, "--rewards", f"llm_judge:judge_model=m,judge_url={with_secret}"], {2}),
        ("train: key in the query of judge_url", [*train, "--rewards", f"llm_judge:judge_model=m,judge_url={url}?api_key={KEY}"], {2}),
        ("train: password in a config file's address", ["train", "--config", str(address), *small], {2}),
        ("train: password in --vllm_server_base_url", [*train, "--vllm_server_base_url", with_secret], {2}),
        ("train: unknown flag beside keys", [*train, "--rewards", own, "--hub_tokn", f"x{KEY}"[:1]], {2}),
        ("bench run: server that says keys back", [*bench, "--model_name_or_path", "m", "--base_url", url, "--coords", "px", "--retry", "1"], {0, 1}),
        ("bench run: password in --base_url", [*bench, "--model_name_or_path", "m", "--base_url", with_secret], {2}),
        ("bench run: key in the query of --base_url", [*bench, "--model_name_or_path", "m", "--base_url", f"{url}?token={KEY}"], {2}),
        ("bench hack: judge and a reward's key", ["bench", "hack", "--task", "qa", "--limit", "2", "--rewards", judge, own, "--output_path", "OUT"], {0, 1}),
        ("bench hack: a reward that raises with its key", ["bench", "hack", "--task", "qa", "--limit", "2", "--rewards", f"{own},fails=true", "--output_path", "OUT"], {1, 2}),
    ]  # fmt: skip


def row_of(what: str, out: Path, words: list[str], codes: set[int]) -> Row:
    """Run a command and search its folder, what it printed, and the folders that libraries write to."""
    home = out.with_suffix(".home")
    home.mkdir(parents=True)
    env = {**os.environ, **{name: f"{KEY}-{name}" for name in ENVIRONMENT}}
    env |= {"HOME": str(home), "WANDB_MODE": "offline", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "vlrl.bench.console", *(str(out) if word == "OUT" else word for word in words)]
    done = subprocess.run(command, env=env, cwd=home, capture_output=True, timeout=600, check=False)
    places = {"standard output": done.stdout, "standard error": done.stderr}
    for folder in (out, home):
        places |= {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    found = [place for place, content in places.items() if any(form.encode() in content for form in FORMS)]
    notes = f"{len(places)} files and streams searched"
    if done.returncode not in codes:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        found.append(f"exit code {done.returncode}: {last}")
    if found:
        notes = f"{notes}; {found[0][:100]}"
    return Row(f"keys, {what}", len(places), len(found), notes)
