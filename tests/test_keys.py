"""Keys and passwords are refused where they would be written, and are in no file and no line of a run."""

import itertools
import json
import threading
import time

import pytest
from chat_server import Server
from small_run import SMALL

from vlrl import bench
from vlrl.data.masking import (
    address_problem,
    is_secret_name,
    masked,
    masked_command,
    masked_traceback,
    masked_value,
    secret_in_address,
)
from vlrl.rewards import load_reward
from vlrl.training.command_line import check_command_line
from vlrl.training.options import ConfigError
from vlrl.training.run_folder import config_text

KEY = "planted-key-0123"


@pytest.mark.quick
@pytest.mark.parametrize(
    ("name", "is_secret"),
    [
        ("api_key", True),
        ("hub_token", True),
        ("openaiApiKey", True),
        ("HF_TOKEN", True),
        ("my-password", True),
        ("client_secret", True),
        ("max_tokens", False),
        ("eos_token", False),
        ("ans_key", False),
        ("keyword", False),
        ("tokenizer", False),
        ("judge_model", False),
    ],
)
def test_names_of_secrets(name, is_secret):
    assert is_secret_name(name) == is_secret


HOLDS = [
    "http://me:password@host/v1",
    "https://TOKEN@host",
    "HTTP://me:pa@ss@host:80/v1",
    "llm_judge:judge_model=m,judge_url=http://me:password@host/v1,timeout_s=3",
    "http://host/v1?api_key=abc",
    "http://host/v1?version=1&api%5Fkey=abc",
    "http://host/v1?subscription-key=abc",
    "http://host/v1?sig=abc",
    "http://host/v1;token=abc?x=1&access_token=abc",
    "http://host/v1#access_token=abc",
    "http://[::1]:80/v1?token=abc",
]


@pytest.mark.quick
@pytest.mark.parametrize("text", HOLDS)
def test_addresses_that_hold_a_secret(text):
    assert secret_in_address(text)
    problem = address_problem("judge_url", text)
    assert "VLRL_JUDGE_API_KEY" in problem
    assert "abc" not in problem
    assert "password@" not in problem
    assert "\n" not in problem


@pytest.mark.quick
@pytest.mark.parametrize(
    "text",
    [
        "http://host:8000/v1",
        "https://host/v1?api-version=2024-10-21",
        "http://host/v1?x=a@b",
        "me@host.org",
        "data/a?token=b",
        "",
        "http://host/v1?key=",
    ],
)
def test_addresses_that_hold_none(text):
    assert secret_in_address(text) is None
    assert masked(text) == text


@pytest.mark.quick
@pytest.mark.parametrize(
    "words",
    [
        ["--corrector", "model:m", "--corrector_url", "http://me:password@host/v1"],
        ["--corrector", "model:m", "--corrector-url=http://host/v1?api_key=password@"],
        ["--rewards", "llm_judge:judge_model=m,judge_url=http://me:password@host/v1"],
        ["--vllm_server_base_url", "http://me:password@host"],
        ["--run_name", "see http://me:password@host"],
    ],
)
def test_no_flag_and_no_file_takes_such_an_address(words, tmp_path):
    with pytest.raises(ConfigError, match="the address holds") as error:
        check_command_line(["--task", "qa", *words])
    assert "password@" not in str(error.value)
    if len(words) % 2 == 0:
        names, values = words[-2].lstrip("-"), words[-1]
        value = [values] if names == "rewards" else values
        (tmp_path / "c.yaml").write_text(json.dumps({"task": "qa", names: value}))
        with pytest.raises(ConfigError, match=f"--{names} in .*c.yaml: .*the address holds"):
            check_command_line(["--config", str(tmp_path / "c.yaml")])


@pytest.mark.quick
def test_nor_does_a_reward_by_itself_or_the_bench(capsys, tmp_path):
    with pytest.raises(ValueError, match=r"reward llm_judge: judge_url=.*the address holds a user and password"):
        load_reward("llm_judge:judge_model=m,judge_url=http://me:password@host/v1")
    words = ["run", "--task", "qa", "--base_url", "http://host/v1?api_key=planted", "--output_path", str(tmp_path)]
    assert bench.main(words) == 2
    shown = capsys.readouterr().err
    assert "--base_url: http://host/v1?api_key=***: the address holds the query value 'api_key'" in shown
    assert "set OPENAI_API_KEY" in shown
    assert "planted" not in shown


@pytest.mark.quick
def test_what_was_masked_is_not_taken_for_a_key(tmp_path):
    (tmp_path / "c.yaml").write_text("rewards: ['my.py:mine:api_key=***']\n")
    with pytest.raises(ConfigError, match="stands for a key or password, which no run writes down; give it again"):
        check_command_line(["--config", str(tmp_path / "c.yaml")])


@pytest.mark.quick
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"wrong key {KEY}.", "wrong key ***."),
        ("Authorization: Bearer abcdefgh", "Authorization: Bearer ***"),
        ("{'api_key': 'abc', 'n': 3}", "{'api_key': '***', 'n': 3}"),
        ("my.py:mine:power=2,api_key=abc", "my.py:mine:power=2,api_key=***"),
        ("max_tokens=400 eos_token=<x> token: the", "max_tokens=400 eos_token=<x> token: the"),
        ("see http://me:pw@host/a?b=1&token=x#c", "see http://***@host/a?b=1&token=***#c"),
        ("sk-" + "a" * 24 + " and hf_" + "b" * 24, "*** and ***"),
        ("known: key=value", "known: key=value"),
        ("half a pair \ud800 http://me:p\ud800@h", "half a pair \ud800 http://***@h"),
    ],
)
def test_texts_are_masked(monkeypatch, text, shown):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.quick
def test_the_working_folder_is_no_password(monkeypatch):
    monkeypatch.setenv("PWD", "/home/me/project")
    assert masked("/home/me/project/config.json is damaged") == "/home/me/project/config.json is damaged"


def test_masking_is_quick_on_long_texts(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    started = time.process_time()
    for text in ("key" * 30_000, "a" * 100_000, "key=" * 20_000, "http://" * 20_000, "://a@" * 20_000, "Bearer " * 20_000):
        masked(text)
    assert time.process_time() - started < 20, "seconds; quadratic patterns take minutes"


@pytest.mark.quick
def test_commands_and_configurations_are_masked():
    words = ["--hub_token", "abc", "--rewards", "my.py:mine:api_key=abc", "x", "--hub-token=abc", "--max_steps", "3"]
    assert masked_command(words) == ["--hub_token", "***", "--rewards", "my.py:mine:api_key=***", "x", "--hub-token=***", "--max_steps", "3"]  # fmt: skip
    values = {"hub_token": "abc", "rewards": ["my.py:mine:api_key=abc"], "model_init_kwargs": {"token": "abc"}, "seed": 3}
    assert masked_value(values)["model_init_kwargs"] == {"token": "***"}
    text = config_text(values)
    assert "abc" not in text
    assert "hub_token" not in text
    assert "seed: 3" in text


@pytest.mark.quick
def test_tracebacks_are_masked(monkeypatch, capsys):
    monkeypatch.setenv("SOME_SECRET", KEY)
    try:
        raise KeyError(KEY)
    except KeyError as error:
        masked_traceback(KeyError, error, error.__traceback__)
    shown = capsys.readouterr().err
    assert "KeyError: '***'" in shown
    assert KEY not in shown


OWN = "def mine(text, sample, *, api_key: str = ''):\n    from vlrl.schema import Score\n    return Score(0.0, text, f'asked with {api_key}')\n"


@pytest.fixture(scope="module")
def judging():
    """Refuses every other question, and says the key that it was sent."""
    n = itertools.count()
    refusal = (400, f"no credit left for {KEY}-judge, Bearer {KEY}-judge")
    return lambda _body: refusal if next(n) % 2 else "0.5"


@pytest.fixture(scope="module")
def run(tmp_path_factory, judging):
    """A run with keys planted wherever one can be given, and a judge that fails now and then: its folder, output and files."""
    from vlrl.train import main

    folder = tmp_path_factory.mktemp("keys")
    (folder / "own.py").write_text(OWN)
    server = Server([judging])
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    rewards = [
        f"llm_judge:judge_model=m,judge_url={url},see_image=false,backoff_s=0.001",
        f"{folder}/own.py:mine:api_key={KEY}-option",
    ]
    words = ["--task", "qa", *SMALL, "--rewards", *rewards, "--hub_token", f"{KEY}-hub", "--output_dir", str(folder / "run")]
    words += ["--report_to", "tensorboard", "--save_steps", "1", "--logging_steps", "1"]
    names = {"OPENAI_API_KEY": "openai", "VLRL_JUDGE_API_KEY": "judge", "WANDB_API_KEY": "wandb", "HF_TOKEN": "hf"}
    with pytest.MonkeyPatch.context() as patch:
        for name, suffix in names.items():
            patch.setenv(name, f"{KEY}-{suffix}")
        patch.setattr("sys.argv", ["vlrl/train.py", *words])
        code = main(words)
    server.shutdown()
    server.server_close()
    assert code == 0
    return folder / "run", server


def test_no_file_of_a_run_holds_a_key(run):
    folder, server = run
    assert server.seen[0][0]["Authorization"] == f"Bearer {KEY}-judge", "the judge's own key"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {"config.yaml", "summary.json", "training_args.bin"} <= {path.name for path in files}
    assert not [str(path) for path in files if b"planted" in path.read_bytes() or b"planted" in str(path).encode()]
    assert "--hub_token ***" in json.loads((folder / "summary.json").read_text())["command"]


def test_rows_without_a_judgement_are_counted_and_pull_nowhere(run):
    folder, _ = run
    rows = [json.loads(line) for path in sorted((folder / "completions").iterdir()) for line in path.read_text().splitlines()]
    judged = [row["rewards"]["llm_judge"] for row in rows]
    failed = [one for one in judged if "no judgement" in one["why"]]
    assert failed
    assert any(one["value"] is not None for one in judged)
    assert all(one["value"] is None and "no credit left for ***" in one["why"] for one in failed)
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert metrics[1]["judge/failed"] == len(failed)
    assert metrics[1]["judge/calls"] > 0
    assert metrics[1]["judge/seconds"] > 0
    assert json.loads((folder / "summary.json").read_text())["judge"]["failed"] == len(failed)
    for start in range(0, len(rows), 4):  # a group
        group = rows[start : start + 4]
        values = [row["rewards"]["llm_judge"]["value"] for row in group]
        if set(values) == {None, 0.5}:
            assert all(abs(row["advantage"]) < 1e-6 for row in group), "the judged rows are equal, the others count as they"
