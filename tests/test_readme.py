"""What the README says is what the program does."""

import re
import shlex
from pathlib import Path

import pytest

from vlrl import bench
from vlrl.rewards import REWARDS
from vlrl.tasks import KNOWN
from vlrl.training.config import parse
from vlrl.training.prm import options as prm_options

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in re.sub(r"\\\n", " ", block).splitlines()
    if "vlrl/train.py" in line and not line.startswith("#")
]
BENCH = re.findall(r"^python -m vlrl\.bench .*$", README, re.MULTILINE)


def test_the_two_commands_are_there():
    assert "pip install -e . && torchrun vlrl/train.py --task detection" in README
    assert "pip install -e '.[test]' && pytest" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_parses(command, tmp_path, monkeypatch):
    words = shlex.split(command.split("vlrl/train.py", 1)[1], comments=True)
    monkeypatch.chdir(tmp_path)
    for i, word in enumerate(words):
        if word.endswith((".jsonl", ".json")):
            Path(word).write_text("")
        if word.endswith(".py") and (ROOT / word).is_file():
            words[i] = str(ROOT / word)
        if word == "--config":
            words[i + 1] = str(ROOT / words[i + 1])
    words += ["--use_cpu", "--bf16", "false"]
    assert (prm_options.parse if prm_options.is_asked(words) else parse)(words)


@pytest.mark.parametrize("command", BENCH)
def test_every_bench_command_parses(command):
    args = bench.parse(shlex.split(command, comments=True)[3:])
    assert callable(args.run)


def test_pictures_and_files_exist():
    for path in re.findall(r"\]\(([^)#]+)\)", README):
        if not path.startswith("http"):
            assert (ROOT / path).exists(), path


def test_every_task_and_reward_is_named():
    for name in [*KNOWN, *REWARDS]:
        assert f"`{name}`" in README, name
