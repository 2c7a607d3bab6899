"""`vlrl runs`: what a list of training runs says of each, whatever stands in its folder."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from vlrl.bench.console import main
from vlrl.training import run_lock
from vlrl.training.run_status import clear_ending, read_status, write_ending

pytestmark = pytest.mark.quick


def write_run(folder, after=None, values=(), **config):
    """A run of 3 logged steps; `after`: its headline, where it is over; `values`: those of its held-out answers."""
    folder.mkdir(parents=True)
    config = {"task": "detection", "model_name_or_path": "tiny", "max_steps": 5, "learning_rate": 1e-4} | config
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "epoch": i / 10}) + "\n" for i in (1, 2, 3)))
    if after is not None:
        metric = {"value": after, "ci95": [after - 0.1, after + 0.1], "n": 10}
        summary = {"task": "detection", "model": "tiny", "headline": "f1@0.5", "train_seconds": 75.4, "versions": {"trl": "1"}}
        summary |= {"before": {"f1@0.5": metric | {"value": 0.4}}, "after": {"f1@0.5": metric}}
        (folder / "summary.json").write_text(json.dumps(summary))
        rows = [
            {"task": "detection", "id": f"s{i}", "question": "?", "ground_truth": "[]", "after": {"value": value}}
            for i, value in enumerate(values)
        ]
        (folder / "held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def rows_of(folder):
    return [{"step": 3}]


def cells(line):
    return [cell for cell in line.split("  ") if cell.strip()]


def test_a_list_of_runs_newest_first(tmp_path, capsys):
    write_run(tmp_path / "old", after=0.7)
    write_run(tmp_path / "group" / "stopped")
    write_ending(tmp_path / "group" / "stopped", "stopped by SIGTERM; checkpoint-3 is whole", 143)
    write_run(tmp_path / "broken")
    write_ending(tmp_path / "broken", "ValueError: boom\nsecond line", 1)
    write_run(tmp_path / "gone")
    for i, name in enumerate(("gone", "broken", "group/stopped", "old")):
        os.utime(tmp_path / name / "config.yaml", (1000 - i, 1000 - i))
    assert main(["runs", str(tmp_path)]) == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.strip()]
    table = {line.split()[0]: line for line in lines[2:6]}
    assert list(table) == ["gone", "broken", "group/stopped", "old"]
    assert " killed " in table["gone"]
    assert " failed " in table["broken"]
    assert " stopped " in table["group/stopped"]
    assert "3/5" in table["gone"]
    assert "f1@0.5 0.400 → 0.700" in table["old"]
    assert "1:15" in table["old"]
    assert "broken: ValueError: boom second line" in lines
    assert "group/stopped: stopped by SIGTERM; checkpoint-3 is whole" in lines


def test_a_folder_without_runs_and_one_that_is_not_there(tmp_path, capsys):
    assert main(["runs", str(tmp_path)]) == 1
    assert "holds no runs" in capsys.readouterr().err
    assert main(["runs", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_run_goes_on_for_as_long_as_its_process(tmp_path):
    folder = write_run(tmp_path / "run")
    code = (
        "import sys, time; from pathlib import Path; from vlrl.training.run_lock import RunLock;"
        f" RunLock(Path({str(folder)!r}) / 'run.lock', '--output_dir').take(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        found = read_status(folder, rows_of(folder))
        assert found.state == "running"
        assert f"process {process.pid} on {socket.gethostname()}" in found.why
        process.kill()
    assert read_status(folder, rows_of(folder)).state == "killed", "the lock file is still there"
    assert (folder / "run.lock").is_file()


def test_a_run_whose_end_nobody_has_asked_about_is_over(tmp_path):
    """A killed child stays in the list of processes until its parent waits for it."""
    folder = write_run(tmp_path / "run")
    code = (
        "import sys, time; from pathlib import Path; from vlrl.training.run_lock import RunLock;"
        f" RunLock(Path({str(folder)!r}) / 'run.lock', '--output_dir').take(); print('held', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert state_of(process.pid) == "Z"
    assert read_status(folder, rows_of(folder)).state == "killed"
    process.communicate()


def test_a_stopped_run_that_was_killed_while_it_went_on_was_killed(tmp_path):
    folder = write_run(tmp_path / "run")
    lock = folder / "run.lock"
    lock.write_text(json.dumps({**run_lock._about(), "ticks": 0}))
    write_ending(folder, "stopped by Ctrl-C", 130)
    os.utime(lock, ns=(1, (folder / "ending.json").stat().st_mtime_ns - 1))
    assert read_status(folder, []).state == "stopped", "it ended a moment before its lock was removed"
    os.utime(lock, ns=(1, (folder / "ending.json").stat().st_mtime_ns + 1))
    found = read_status(folder, [])
    assert found.state == "killed"
    assert "Ctrl-C" not in found.why


def state_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_run_is_asked_to_stop_by_its_lock_and_nothing_else_is(tmp_path):
    folder = write_run(tmp_path / "run")
    lock = folder / "run.lock"
    assert "nobody runs" in run_lock.stop_holder(folder)
    code = (
        "import sys, time; from pathlib import Path; from vlrl.training.run_lock import RunLock;"
        " RunLock(Path(sys.argv[1]) / 'run.lock', '--output_dir').take(); print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        other = write_run(tmp_path / "other")
        (other / "run.lock").write_bytes(lock.read_bytes())  # names a process that does not hold it
        assert f"process {process.pid}, which its lock names, is no run" in run_lock.stop_holder(other)
        about = json.loads(lock.read_text())
        (other / "run.lock").write_text(json.dumps({**about, "ticks": about["ticks"] - 1}))
        assert "has ended already" in run_lock.stop_holder(other)
        (other / "run.lock").write_text(json.dumps({**about, "host": "elsewhere"}))
        assert f"process {process.pid} on elsewhere" in run_lock.stop_holder(other)
        assert process.poll() is None
        assert run_lock.stop_holder(folder) == ""
        assert process.wait(20) == -signal.SIGTERM
    assert "has ended already" in run_lock.stop_holder(folder)


def test_looking_at_a_run_does_not_stand_in_its_way(tmp_path):
    folder = write_run(tmp_path / "run")
    lock = run_lock.RunLock(folder / "run.lock", "--output_dir")
    for _ in range(20):
        assert run_lock.holder(folder) == ""
        lock.take()
        assert run_lock.holder(folder)
        lock.release()


def test_a_run_of_another_machine_counts_while_its_lock_is_touched(tmp_path):
    folder = write_run(tmp_path / "run")
    lock = folder / "run.lock"
    lock.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "today", "ticks": 1, "boot": "other"}))
    assert read_status(folder, []).state == "running"
    long_ago = time.time() - run_lock.WATCH_S - 1
    os.utime(lock, (long_ago, long_ago))
    assert read_status(folder, []).state == "killed"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"state": 3}', '{"state": "finished"}', "\x00\xff", "[" * 1_050])
def test_any_content_of_its_files_is_survived(tmp_path, text, capsys):
    folder = write_run(tmp_path / "run")
    for name in ("ending.json", "summary.json", "run.lock", "metrics.jsonl", "config.yaml"):
        (folder / name).write_text(text, encoding="latin-1")
        assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", "compare", str(folder), str(folder)]) == 0
    capsys.readouterr()


def test_hostile_words_stay_on_one_line(tmp_path, capsys):
    folder = write_run(tmp_path / "run", task="a\x1b[31m\nb" + "c" * 1000)
    write_ending(folder, "why\x1b]0;title\x07\n\u202e end", 1)
    assert main(["runs", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert len(out.splitlines()) == 4


def test_nothing_outside_of_a_run_is_read(tmp_path):
    (tmp_path / "secret.json").write_text(json.dumps({"state": "failed", "message": "secret"}))
    folder = write_run(tmp_path / "run")
    (folder / "ending.json").symlink_to(tmp_path / "secret.json")
    assert read_status(folder, []).state == "killed"


def test_an_ending_is_written_of_a_run_that_has_begun_and_forgotten_when_it_goes_on(tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    write_ending(empty, "refused", 2)
    write_ending(None, "refused", 2)
    assert not list(empty.iterdir())
    folder = write_run(tmp_path / "run")
    write_ending(folder, "wrong --judge_url https://name:planted-key@host/v1", 1)
    assert "planted-key" not in (folder / "ending.json").read_text()
    clear_ending(folder)
    clear_ending(folder)
    assert read_status(folder, []).state == "killed"


def test_a_finished_run_stays_one(tmp_path, capsys):
    folder = write_run(tmp_path / "run", after=0.7)
    write_ending(folder, "error: --max_steps x: no number", 2)
    assert (read_status(folder, []).state, read_status(folder, []).why) == ("finished", "")
    write_ending(folder, "stopped by Ctrl-C", 130)
    assert (read_status(folder, []).state, read_status(folder, []).why) == ("finished", "stopped by Ctrl-C")
    assert main(["runs", str(tmp_path)]) == 0
    assert "run: stopped by Ctrl-C" in capsys.readouterr().out


def test_steps_that_epochs_say(tmp_path):
    folder = write_run(tmp_path / "run", max_steps=-1, num_train_epochs=2)
    found = read_status(folder, [{"step": 3, "epoch": 0.3}])
    assert (found.step, found.n_steps) == (3, 20)


def test_two_runs_beside_each_other(tmp_path, capsys):
    values = [0.0, 0.2, 0.4, 0.1, 0.3, 0.2, 0.0, 0.1]
    a = write_run(tmp_path / "a", after=0.5, values=values)
    b = write_run(tmp_path / "b", after=0.7, values=[value + 0.5 for value in values] + [1.0], learning_rate=1e-5, beta=0.04)
    assert main(["runs", "compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "learning_rate" in out
    assert "(default)" in out, "only B sets beta"
    assert "task" not in out.partition("numbers")[0].partition("options")[2]
    assert "versions and data that differ: none" in out
    assert "0.500 [0.400, 0.600]" in out
    assert "B - A, on 8 samples in both (0 only in A, 1 only in B): +0.500 [+0.500, +0.500], p = 0.0" in out


def test_runs_without_held_out_samples_in_common_are_not_compared(tmp_path, capsys):
    a = write_run(tmp_path / "a", after=0.5, values=[0.5])
    b = write_run(tmp_path / "b")
    assert main(["runs", "compare", str(a), str(b)]) == 0
    assert f"{b} has none" in capsys.readouterr().out
    assert main(["runs", "compare", str(a), str(tmp_path)]) == 2
    assert "is no run" in capsys.readouterr().err
