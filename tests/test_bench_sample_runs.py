"""`vlrl bench sample` with a model: the same bytes however often it was stopped, over processes and servers, and what training
makes of its rows."""

import contextlib
import json
import shutil
import signal
import threading
import time

import pytest
import warm_process
from chat_server import Server

from vlrl.bench import main
from vlrl.bench.log import read_log
from vlrl.data.step_values import read_rewards
from vlrl.data.synthetic.steps import step_question

FILES = (
    "predictions.jsonl",
    "completions.jsonl",
    "sft.jsonl",
    "preferences.jsonl",
    "step_values.jsonl",
    "tree.json",
    "tree.html",
)


def boards(path, n=6):
    """Drawn boards as questions; every completion begins with two steps, as the model of the tests writes none."""
    rows = []
    for i in range(n):
        question = step_question(0, "train", i)
        row = {"id": question.id, "task": "qa", "images": [question.image], "question": question.question}
        rows.append(row | {"answer": question.answer, "meta": {"begun": f"Step 1: {i}\nStep 2: see.\n"}})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(data, folder, *more):
    own = ["sample", "--task", "qa", "--data", str(data), "--n", "3", "--batch_size", "4", "--max_new_tokens", "16"]
    own += ["--temperature", "2", "--write", "sft", "preferences", "step_values", "--k", "2", "--right_at", "0"]
    return [*own, "--output_path", str(folder), *more]


@pytest.fixture(scope="module")
def sampled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sampled")
    data = boards(folder / "boards.jsonl")
    assert main(words(data, folder / "out")) == 0
    return data, folder / "out"


def contents(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


def test_all_completions_are_kept_with_their_scores(sampled):
    _, folder = sampled
    rows = [json.loads(line) for line in (folder / "completions.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    for row in rows:
        assert len(row["completions"]) == 3
        for one in row["completions"]:
            values = [score["value"] for score in one["rewards"].values() if score["value"] is not None]
            assert one["score"] == pytest.approx(sum(values))
            assert one["right"] is True, "--right_at 0"
    about = json.loads((folder / "sample.json").read_text())
    assert about["n_completions"] == 18
    assert about["search"]["n_states"] > 0, "some completions have steps"
    assert (folder / "tree.html").read_text().count("<section>") == 6


def test_a_stopped_run_goes_on_bit_for_bit(sampled, tmp_path, capsys):
    """Completions lost in the middle of batches, and a torn line: the same bytes as without a stop."""
    data, folder = sampled
    for keep in (1, 7, 19):
        cut = tmp_path / str(keep)
        shutil.copytree(folder, cut)
        for name in FILES[1:]:
            (cut / name).unlink()
        lines = (folder / "predictions.jsonl").read_bytes().splitlines(keepends=True)
        (cut / "predictions.jsonl").write_bytes(b"".join(lines[:keep]) + lines[keep][:20])
        assert main(words(data, cut)) == 0
        assert contents(cut) == contents(folder)
    capsys.readouterr()
    assert main(words(data, cut)) == 0
    assert "18 of 18 answers found, 0 to make" in capsys.readouterr().out
    assert contents(cut) == contents(folder)


def test_completions_of_other_settings_are_not_mixed(sampled, capsys):
    data, folder = sampled
    for more in (["--seed", "1"], ["--batch_size", "3"], ["--n", "2"], ["--k", "3"], ["--limit", "5"]):
        assert main(words(data, folder, *more)) == 2
        assert "cannot be mixed" in capsys.readouterr().err


@pytest.mark.long
def test_a_killed_run_and_two_processes_give_the_same_bytes(sampled, tmp_path):
    data, folder = sampled
    slow = (
        "import sys, time, vlrl.models.generate as g\nold = g.complete\n"
        "def complete(*a, **k):\n    time.sleep(0.3)\n    return old(*a, **k)\n"
        "g.complete = complete\nfrom vlrl.bench import main\nsys.exit(main(sys.argv[1:]))"
    )
    killed = tmp_path / "killed"
    process = warm_process.Program("-c", slow, *words(data, killed))
    log, deadline = killed / "predictions.jsonl", time.monotonic() + 120
    while not (log.is_file() and log.read_bytes().count(b"\n") >= 8):
        assert process.is_running, process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    assert process.wait().returncode == -signal.SIGKILL
    assert 8 <= len(read_log(log)) < json.loads((folder / "sample.json").read_text())["search"]["n_completions"]
    assert main(words(data, killed)) == 0
    assert contents(killed) == contents(folder)
    two = tmp_path / "two"
    done = warm_process.run("-m", "vlrl.bench", *words(data, two), n=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert contents(two) == contents(folder)


@pytest.mark.long
def test_training_reads_the_rows(sampled, run_train, tmp_path):
    _, folder = sampled
    written = json.loads((folder / "sample.json").read_text())["step_values"]["n"]
    assert len(read_rewards(folder / "step_values.jsonl").records) == written >= 4, "two questions, to hold one out"
    small = ["--max_steps", "2", "--per_device_train_batch_size", "4", "--logging_steps", "1", "--report_to", "none"]
    code, _, err = run_train("--task", "prm", "--data", folder / "step_values.jsonl", "--output_dir", tmp_path / "prm", *small)
    assert code == 0, err
    own = ["--stage", "sft", "--sft_steps", "2", "--sft_batch_size", "4", "--val_split", "2", "--report_to", "none"]
    code, _, err = run_train("--task", "qa", "--data", folder / "sft.jsonl", "--output_dir", tmp_path / "sft", *own)
    assert code == 0, err
    code, _, err = run_train(*["--task", "qa", "--data", folder / "sft.jsonl", *own], "--sft_target", "answer")
    assert code == 2
    assert "--sft_target answer cannot honour" in err


@contextlib.contextmanager
def served(*replies):
    server = Server(replies)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


def plain_boards(path):
    """The same without a beginning."""
    rows = [json.loads(line) for line in boards(path, 2).read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "meta": {}}) + "\n" for row in rows))
    return path


def answer_of(goes_on):
    """A server that solves in two steps, and goes on with what is begun, or does not."""

    def reply(body):
        begun = body["messages"][-1]["content"] if body["messages"][-1]["role"] == "assistant" else ""
        text = "Step 2: so 2.<answer>2</answer>" if begun else "Step 1: one.\nStep 2: so 3.<answer>3</answer>"
        n = 100 - 4 * (goes_on and body.get("continue_final_message", False))
        usage = {"prompt_tokens": n, "completion_tokens": 5}
        return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}).encode()

    return reply


def test_a_server_goes_on_with_begun_completions(tmp_path):
    data = plain_boards(tmp_path / "boards.jsonl")
    with served(answer_of(True)) as (server, url):
        own = ["--base_url", url, "--model_name_or_path", "m", "--answer_format", "answer", "--seed", "3"]
        assert main(words(data, tmp_path / "out", *own)) == 0
    begun = [body for _, body in server.seen if body["messages"][-1]["role"] == "assistant" and body["max_tokens"] > 1]
    assert len(begun) == 2 * 2, "two completions of the one step of each question"
    assert all(body["continue_final_message"] is True and body["add_generation_prompt"] is False for body in begun)
    assert {body["messages"][-1]["content"] for body in begun} == {"Step 1: one.\n"}
    assert len({body["seed"] for body in begun}) == 4
    tree = json.loads((tmp_path / "out" / "tree.json").read_text())["trees"][0]
    texts = {one["text"] for state in tree["states"] if state["n_steps"] for one in state["completions"]}
    assert texts == {"Step 2: so 2.<answer>2</answer>"}


def test_a_server_that_begins_anew_is_refused(tmp_path, capsys):
    data = plain_boards(tmp_path / "boards.jsonl")
    with served(answer_of(False)) as (_, url):
        own = ["--base_url", url, "--model_name_or_path", "m"]
        assert main(words(data, tmp_path / "out", *own)) == 2
    assert "does not go on with a begun completion" in capsys.readouterr().err


def test_failed_requests_are_repeated_by_the_same_command(tmp_path, capsys):
    data = plain_boards(tmp_path / "boards.jsonl")
    own = ["sample", "--task", "qa", "--data", str(data), "--n", "2", "--output_path", str(tmp_path / "out"), "--retry", "1"]
    own += ["--model_name_or_path", "m", "--api_nproc", "1"]
    good = answer_of(True)
    with served(good, (400, "no"), good) as (_, url):
        assert main([*own, "--base_url", url]) == 1
        assert "nothing is written yet; repeat the command" in capsys.readouterr().err
        assert not (tmp_path / "out" / "completions.jsonl").exists()
        assert main([*own, "--base_url", url]) == 0
    assert len((tmp_path / "out" / "completions.jsonl").read_text().splitlines()) == 2
