"""Runs of card games from the command line: what they log and save, resume, skip and refuse."""

import json
import shutil
import threading

import pytest
from chat_server import Server


@pytest.mark.long
def test_a_run_from_the_command_line_and_its_resumed_half(tmp_path, run_train):
    flags = ["--task", "numberline", "--max_steps", "3", "--num_generations", "4", "--per_device_train_batch_size", "4"]
    flags += ["--eval_limit", "3", "--logging_steps", "1", "--report_to", "none", "--save_steps", "1"]
    flags += ["--save_total_limit", "9", "--steps_per_generation", "2"]  # saved inside a generation
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    code, out, err = run_train("--output_dir", whole, *flags)
    assert code == 0, err
    assert "corrector oracle, knows the right answers (privileged)" in out
    shutil.copytree(whole, cut)
    for later in ("checkpoint-2", "checkpoint-3", "final"):
        shutil.rmtree(cut / later)
    code, out, err = run_train("--output_dir", cut, *flags, "--resume_from_checkpoint", "true")
    assert code == 0, err
    records = [(f / "checkpoint-3" / "corrections" / "rank-0" / "records.jsonl").read_text() for f in (whole, cut)]
    assert records[0] == records[1]
    assert len(records[0].splitlines()) > len(
        (whole / "checkpoint-1/corrections/rank-0/records.jsonl").read_text().splitlines()
    )
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines() if '"reward"' in line]
    for name in ("episodes/success", "thoughts/valid", "thoughts/self_bleu2", "gtr/records", "gtr/corrected_share"):
        assert name in rows[-1], name
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["headline"] == "success"
    assert summary["after"]["success"]["n"] == 3
    shown = [json.loads(line) for line in (whole / "completions" / "step_000001.jsonl").read_text().splitlines()]
    assert len(shown) >= 4
    assert {tuple(row["rewards"]) for row in shown} == {("card_success", "card_recognition")}


@pytest.mark.long
def test_a_checkpoint_without_corrections_is_told_apart(tmp_path, run_train):
    flags = ["--task", "numberline", "--max_steps", "2", "--num_generations", "4", "--per_device_train_batch_size", "4"]
    flags += ["--eval_limit", "2", "--report_to", "none", "--save_steps", "1", "--output_dir", tmp_path / "run"]
    assert run_train(*flags, "--corrector", "none")[0] == 0
    code, _, err = run_train(*flags, "--max_steps", "3", "--corrector", "oracle", "--resume_from_checkpoint", "true")
    assert code == 1
    assert "saved without --corrector" in err


@pytest.mark.long
@pytest.mark.parametrize("reply", ["babble", 500])
def test_an_endpoint_that_babbles_or_fails_is_skipped_and_told(tmp_path, run_train, reply):
    server = Server([reply])
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--task", "numberline", "--max_steps", "1", "--num_generations", "4", "--per_device_train_batch_size", "2"]
    flags += ["--eval_limit", "2", "--report_to", "none", "--logging_steps", "1", "--output_dir", tmp_path / "run"]
    url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        code, out, err = run_train(*flags, "--corrector", "model:some", "--corrector_url", url)
    finally:
        server.shutdown()
    assert code == 0, err
    assert "corrector model:some" in out
    assert server.seen, "it was asked"
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["thoughts/failed"] > 0.5
    assert logged["gtr/corrected_share"] == 0
    assert logged["corrector/calls"] == len(server.seen)
    assert logged["corrector/failed"] > 0
    asked = json.loads((tmp_path / "run" / "summary.json").read_text())["corrector"]
    assert asked == {name: logged[f"corrector/{name}"] for name in ("calls", "cached", "failed", "cost", "seconds")}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--rewards", "card_success"], "rewarded by their game"),
        (["--dynamic_sampling", "2"], "episodes are played once"),
        (["--corrector", "orakel"], "give none, oracle"),
        (["--gtr", "agregate=all"], "did you mean 'aggregate'"),
        (["--gtr", "credit=none"], "give one of episode"),
        (["--gtr", "draws=0"], "at least 1"),
        (["--gtr", "led=0.9"], "leave two to compare"),
        (["--gtr", "length_reward=-1"], "none may be negative"),
        (["--curriculum", "detection:0.5"], "give a card game"),
        (["--thought_weight", "2"], "at least 0 and at most 1"),
        (["--corrector_url", "http://x"], "is for model:NAME"),
        (["--corrector", "checkpoint:/no/such"], "checkpoint:/no/such"),
    ],
)
def test_options_that_cannot_work_are_refused(tmp_path, run_train, flags, words):
    code, _, err = run_train("--task", "numberline", "--eval_limit", "2", "--output_dir", tmp_path / "run", *flags)
    assert code == 2
    assert words in err, err
    assert not list((tmp_path / "run").glob("predictions_*")), "before anything is measured"
