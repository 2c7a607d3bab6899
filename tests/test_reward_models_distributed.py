"""Rewards that hold a model, in two processes and with adapters: what is logged is what one process gives the same texts."""

import json

import pytest
import warm_process
from judge_folders import judge_folder
from tiny_clip import clip_folder

from data_prep import synthetic
from vlrl.bench import main
from vlrl.data.files import write_json_lines

QUIET = ["--logging_steps", "1", "--eval_limit", "4", "--report_to", "none"]
RUN = ["--stage", "grpo", "--max_steps", "2", "--num_generations", "4", "--per_device_train_batch_size", "8", *QUIET]
LORA = ["--use_peft", "--lora_r", "4"]


def trained(folder, *words, n=2):
    done = warm_process.run("vlrl/train.py", *words, "--output_dir", folder, n=n)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return folder


def rows_of(task, folder):
    path = folder / f"{task}.jsonl"
    assert synthetic.main(["--task", task, "--n", "40", "--out", str(path)]) == 0
    return path


def check_scores(run, data, specs):
    """The completions of a run, graded again in one process."""
    samples = {row["id"]: row for row in map(json.loads, data.read_text().splitlines())}
    rows = logged(run)
    assert len(rows) == 2 * 2 * 8
    cases, out = run / "cases.jsonl", run / "graded.jsonl"
    write_json_lines(cases, [{"sample": samples[row["id"]], "completion": row["completion"]} for row in rows])
    for name, spec in specs.items():
        assert main(["grade", "--reward", spec, "--cases", str(cases), "--out", str(out)]) == 0
        graded = [json.loads(line)["value"] for line in out.read_text().splitlines()]
        assert graded == pytest.approx([row["rewards"][name]["value"] for row in rows], abs=1e-5)
        assert len({round(value, 6) for value in graded}) > 1


def logged(folder):
    files = sorted((folder / "completions").glob("step_*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.mark.long
@pytest.mark.parametrize("adapters", [[], LORA], ids=["all weights", "adapters"])
def test_a_reward_model_and_a_judge_pay_two_processes(adapters, tmp_path):
    """The reward model is trained on two processes as well, by adapters where the policy is."""
    model = trained(
        tmp_path / "rm",
        "--task",
        "rm",
        "--limit",
        "24",
        "--max_steps",
        "2",
        "--per_device_train_batch_size",
        "4",
        *QUIET,
        *adapters,
    )
    data, judge = rows_of("qa", tmp_path), judge_folder(tmp_path / "judge")
    specs = {"rm": f"rm:{model}/final,normalise=trained", "judge": f"judge:{judge},votes=3"}
    words = ["--task", "qa", "--data", data, "--rewards", "exact_match", *specs.values(), "--reward_weights", "1", "1", "1"]
    run = trained(tmp_path / "run", *words, *RUN, *adapters)
    check_scores(run, data, specs)


@pytest.mark.long
def test_an_image_text_model_pays_two_processes(tmp_path):
    data, spec = rows_of("grounding", tmp_path), f"clip:{clip_folder(tmp_path / 'clip')},baseline=an object"
    words = ["--task", "grounding", "--data", data, "--rewards", spec, "think_answer_format", "--reward_weights", "1", "0.25"]
    check_scores(trained(tmp_path / "run", *words, *RUN), data, {"clip": spec})
