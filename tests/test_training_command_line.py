"""A wrong flag is answered in one line and two seconds of CPU time; what is read without the libraries agrees with them."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vlrl.bench.console import main as vlrl_main
from vlrl.training import console, flag_checks
from vlrl.training.command_line import read_grpo_words
from vlrl.training.options import ConfigError

ROOT = Path(__file__).resolve().parent.parent
WRONG = [
    (["--task", "detectoin"], "'detection'"),
    (["--num_generation", "4"], "'num_generations'"),
    (["--model_name_or_path", "tinny"], "'tiny'"),
    (["--data", "missing.jsonl"], "missing.jsonl: no such file"),
    (["--rewards", "iou_f2"], "'iou_f1'"),
    (["--task", "prm", "--loss_typ", "mse"], "'loss_type'"),
    (["--bench", "autotrst"], "'autotrust'"),
]


def cpu_seconds(words, **options):
    """Run a command; returns its result and the CPU time of its process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, **options)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


@pytest.mark.parametrize(("words", "right"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_a_wrong_flag_is_answered_in_one_line_within_two_seconds(words, right):
    done, seconds = cpu_seconds(["vlrl/train.py", *words])
    assert done.returncode == 2
    assert re.fullmatch(r"error: [^\n]+\n", done.stderr), done.stderr
    assert right in done.stderr
    assert not done.stdout
    assert seconds < 2


@pytest.mark.parametrize("words", [["vlrl/train.py", "--help"], ["-m", "vlrl.bench.console", "train", "--task", "prm", "-h"]])
def test_help_takes_no_library(words):
    done, seconds = cpu_seconds(words)
    assert done.returncode == 0, done.stderr
    assert "--eval_limit" in done.stdout
    assert "lora_r" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 120
    assert seconds < 2


@pytest.mark.parametrize("words", [["--help"], ["bench", "list"], ["train", "--task", "detectoin"], ["run"]])
def test_the_console_script_imports_no_torch_before_it_must(words):
    code = "import sys; from vlrl.bench.console import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_console_script_names_its_commands(capsys):
    assert vlrl_main(["--help"]) == 0
    assert "vlrl bench" in capsys.readouterr().out
    assert vlrl_main(["trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err
    assert vlrl_main([]) == 2


def test_a_cause_is_left_where_torchrun_looks_for_it(tmp_path, monkeypatch, capsys):
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    assert console.refuse("error: why", 2) == 2
    assert capsys.readouterr().err == "error: why\n"
    assert ProcessFailure(0, 1, 2, str(tmp_path / "error.json")).message["message"] == "error: why"


@pytest.mark.parametrize(
    "name", ["tiny", "tiny-cards-random", "org/name", "Qwen/Qwen2.5-VL-3B-Instruct", "vlrl/models/assets/tiny"]
)
def test_models_that_could_exist_pass(name):
    read_grpo_words(["--model_name_or_path", name])


@pytest.mark.parametrize("name", ["tinny", "Tiny", "tiny_cards", "no/such/folder", "./gone", "/gone"])
def test_models_that_cannot_exist_do_not(name):
    with pytest.raises(ConfigError, match="did you mean 'tiny" if name[0] in "tT" else "no such folder"):
        read_grpo_words(["--model_name_or_path", name])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max_steps"], "--max_steps: give a value"),
        (["--max_steps", "3", "4"], "unexpected words on the command line: 4"),
        (["--learning_rate", "high"], "--learning_rate high: not a number"),
        (["--bf16", "maybe"], "--bf16 maybe: give true or false"),
        (["--stage", "rl"], "--stage rl: must be one of grpo, sft, sft\\+grpo"),
        (["--image_root", "gone"], "--image_root gone: no such folder"),
    ],
)
def test_values_are_checked_too(words, said):
    with pytest.raises(ConfigError, match=said):
        read_grpo_words(words)


def test_words_are_read_as_the_libraries_read_them():
    """Every option of TRL's own parser is known here, takes as many words, and no other is."""
    from transformers import TrainingArguments
    from trl import GRPOConfig, ModelConfig, TrlParser

    from vlrl.gtr.options import GuideConfig
    from vlrl.training.benchmark_flags import BenchConfig
    from vlrl.training.command_line import our_options
    from vlrl.training.engine_options import EngineConfig
    from vlrl.training.library_options import library_options
    from vlrl.training.monitor_options import MonitorConfig
    from vlrl.training.options import RunConfig
    from vlrl.training.prm import options as prm_options
    from vlrl.training.prompt_options import PromptConfig
    from vlrl.training.regulariser_options import RegulariserConfig

    ours = (RunConfig, PromptConfig, EngineConfig, MonitorConfig, RegulariserConfig, GuideConfig, BenchConfig)
    kinds = {
        (*ours, GRPOConfig, ModelConfig): library_options("grpo", "model") | our_options(),
        (RunConfig, prm_options.PrmOptions, prm_options.RmOptions, TrainingArguments, ModelConfig): library_options(
            "training", "model"
        )
        | prm_options.prm_flags(),
    }
    for classes, known in kinds.items():
        actions = {
            action.dest: action for action in TrlParser(classes)._actions if action.option_strings[0] == f"--{action.dest}"
        }
        assert known.keys() - {"config"} == actions.keys() - {"help"}
        for name, action in actions.items():
            if name != "help":
                option = known[name]
                takes = "+" if option.is_list else "?" if option.is_switch or (option.is_bool and action.nargs) else None
                assert takes == action.nargs, (name, option.kind)


def resolved_trackers(*words):
    from vlrl.training.config import parse

    return list(parse(list(words)).grpo.report_to)


def test_every_run_writes_tensorboard_events_unless_it_is_told_not_to(tmp_path):
    data = ["--data", str(ROOT / "examples" / "own_task.jsonl"), "--task", str(ROOT / "examples" / "own_task.py")]
    assert resolved_trackers() == ["tensorboard"]
    assert resolved_trackers(*data, "--model_name_or_path", "Qwen/Qwen2.5-VL-3B-Instruct") == ["tensorboard"], "no file"
    assert resolved_trackers("--report_to", "none") == []
    own = tmp_path / "own.yaml"
    own.write_text("task: detection\nreport_to: none\n")
    assert resolved_trackers("--config", str(own)) == []
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        assert yaml.safe_load(path.read_text()).get("report_to", "tensorboard") == "tensorboard", path.name


@pytest.mark.parametrize("tracker", ["wandb", "swanlab", "mlflow", "trackio"])
@pytest.mark.parametrize("task", ["detection", "prm"])
def test_a_tracker_that_is_not_installed_is_one_line_at_parse_time(tracker, task, monkeypatch, capsys):
    monkeypatch.setattr(flag_checks, "is_installed", lambda package: package != tracker)
    assert console.check_flags(["--task", task, "--report_to", f"tensorboard,{tracker}"]) == 2
    err = capsys.readouterr().err
    assert err == f"error: --report_to {tracker} needs {tracker}, which is not installed: pip install it, or --report_to none\n"
