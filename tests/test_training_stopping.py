"""Requests to stop: signals and time limits, what they print, and the lock of a folder. Without torch."""

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time

import pytest

from vlrl.data import files
from vlrl.data.files import append_whole, free_mib, write_json_lines, write_whole
from vlrl.training import run_lock, stopping
from vlrl.training.metrics_log import append_row, drop_after, read_metrics, steps_of_ended_training
from vlrl.training.run_lock import LOCK_FILE, FolderInUse, RunLock, lock_folder
from vlrl.training.stopping import Stopped, StopRequests

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """Tests that run in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ask(number):
    os.kill(os.getpid(), number)
    time.sleep(0.01)  # the handler runs between two instructions of the main thread


@pytest.mark.parametrize(("number", "why", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)])
def test_a_signal_ends_what_is_under_way(number, why, code):
    before = signal.getsignal(number)
    with StopRequests() as stop:
        assert stopping.current() is stop
        with pytest.raises(Stopped) as stopped:
            ask(number)
    assert (stopped.value.request.why, stopped.value.request.code) == (why, code)
    assert not isinstance(stopped.value, Exception), "no library takes it for an error of its own"
    assert signal.getsignal(number) is before
    assert stopping.current() is not stop


def test_a_step_is_finished_first(capfd):
    reached = []

    def steps(stop):
        with stop.steps():
            ask(signal.SIGTERM)
            ask(signal.SIGTERM)  # launchers repeat it
            reached.append("the end of the step")
        reached.append("never")

    with StopRequests() as stop, pytest.raises(Stopped):
        steps(stop)
    assert reached == ["the end of the step"]
    assert capfd.readouterr().err.count("a checkpoint is written after the step under way") == 1


def test_a_limit_of_time_is_a_request_too():
    with StopRequests() as stop:
        stop.limit(stopping.process_age_s() + 0.05, "--max_hours 0.1")
        with pytest.raises(Stopped) as stopped:
            time.sleep(5)
    assert (stopped.value.request.why, stopped.value.request.code) == ("--max_hours 0.1", stopping.EXIT_TIME_UP)


def test_a_second_ctrl_c_leaves_at_once():
    """Also while the main thread waits inside a library, which no Python handler interrupts."""
    program = (
        "import ctypes, os, threading, time\nfrom vlrl.training.stopping import StopRequests\n"
        "def twice():\n    for _ in range(2):\n        time.sleep(0.7)\n        os.kill(os.getpid(), 2)\n"
        "with StopRequests() as stop, stop.steps():\n    stop.go_on = 'the command'\n"
        "    threading.Thread(target=twice, daemon=True).start()\n"
        "    while True:\n        ctypes.CDLL(None).poll(None, 0, 60_000)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 130, done.stderr
    assert time.monotonic() - started < 15
    assert "stopped by Ctrl-C, at once. Go on with: the command" in done.stderr


def test_a_forked_child_is_not_the_program():
    with StopRequests():
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.SIGINT)  # a terminal sends it to all; the parent decides
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM


@pytest.mark.parametrize(
    ("typed", "argv", "words", "expected"),
    [
        (["python", "vlrl/train.py", "--task", "qa"], ["--task", "qa"], ["--task", "qa"], "python vlrl/train.py --task qa"),
        (
            ["/v/bin/python", "/v/bin/vlrl", "train", "--a", "b c"],
            ["train", "--a", "b c"],
            ["--a", "b c"],
            "vlrl train --a 'b c'",
        ),
        (["pytest"], [], ["--output-dir=old", "--x", "1"], "python vlrl/train.py --x 1"),
        (["pytest"], [], ["--resume_from_checkpoint", "true", "--y"], "python vlrl/train.py --y"),
    ],
)
def test_the_command_that_goes_on(typed, argv, words, expected, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", typed)
    monkeypatch.setattr(sys, "argv", ["program", *argv])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    command = stopping.resume_command(words, "runs/it's mine")
    assert command.startswith(expected + " --output_dir ")
    assert shlex.split(command)[-4:] == ["--output_dir", "runs/it's mine", "--resume_from_checkpoint", "true"]


def test_the_launchers_own_flags_are_kept(monkeypatch):
    flags = ["--task", "qa"]
    launcher = ["/v/bin/python", "/v/bin/torchrun", "--nproc_per_node", "2", "vlrl/train.py", *flags]
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["vlrl/train.py", *flags])
    monkeypatch.setattr(stopping, "_words_of", lambda _pid: launcher)
    assert stopping.resume_command(flags, "r").startswith("torchrun --nproc_per_node 2 vlrl/train.py --task qa --output_dir r ")
    monkeypatch.setattr(stopping, "_words_of", lambda _pid: ["init"])
    assert stopping.resume_command(flags, "r").startswith("torchrun --nproc_per_node ")


# ---- the lock


def other_process(folder, then="time.sleep(60)"):
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom vlrl.training.run_lock import lock_folder\n"
        "from vlrl.training.stopping import StopRequests\n"
        f"with StopRequests():\n    lock_folder(Path(sys.argv[1]), '--output_dir', print)\n    print('held', flush=True)\n    {then}\n"
    )
    return subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)


def test_a_folder_has_one_run(tmp_path):
    process = other_process(tmp_path)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(FolderInUse, match=f"--output_dir {tmp_path} is in use by process {process.pid} on "):
        RunLock(tmp_path / LOCK_FILE, "--output_dir").take()
    process.kill()
    process.wait()
    assert (tmp_path / LOCK_FILE).exists(), "a kill leaves it behind"
    said = []
    with StopRequests():
        lock_folder(tmp_path, "--output_dir", said.append)
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()
    assert f"process {process.pid}" in said[0]
    assert "left behind" in said[0]
    assert not (tmp_path / LOCK_FILE).exists()


def test_without_the_systems_locks_a_living_process_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(RunLock, "_flock", lambda _self, _fd: False)
    first = RunLock(tmp_path / LOCK_FILE, "--output_dir")
    assert first.take() == ""
    with pytest.raises(FolderInUse):
        RunLock(tmp_path / LOCK_FILE, "--output_dir").take()
    about = json.loads((tmp_path / LOCK_FILE).read_text())
    first.release()
    (tmp_path / LOCK_FILE).write_text(json.dumps({**about, "ticks": about["ticks"] - 1}))  # its id was given to us since
    again = RunLock(tmp_path / LOCK_FILE, "--output_dir")
    assert "left behind" in again.take()
    again.release()


def test_a_lock_of_another_machine_is_watched(tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, "WATCH_S", 0.3)
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": "then", "ticks": 1, "boot": "another"}))
    beats = threading.Timer(0.1, lambda: os.utime(path))
    beats.start()
    with pytest.raises(FolderInUse, match="process 1 on elsewhere"):
        RunLock(path, "--output_dir").take()
    lock = RunLock(path, "--output_dir")
    assert "elsewhere" in lock.take(), "nothing touched it"
    lock.release()


# ---- files on a full disk


class Full(io.FileIO):
    """A file whose disk takes three more bytes."""

    def write(self, data):
        if len(data) > 3:
            return super().write(data[:3])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_leaves_files_as_they_were(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    append_row(path, {"step": 1, "loss": float("nan")})
    before = path.read_bytes()
    with Full(str(path), "a") as file, pytest.raises(OSError, match="No space left") as error:
        append_whole(file, b'{"step": 2}\n')
    assert error.value.filename == str(path)
    assert path.read_bytes() == before == b'{"step": 1, "loss": null}\n'

    def full(_path, _data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files.Path, "write_bytes", full)
        with pytest.raises(OSError, match=str(path)):
            write_whole(path, "new")
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert free_mib(tmp_path / "not" / "there") > 0


def test_no_step_is_logged_twice(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write_json_lines(path, [{"step": 1}, {"step": 2}, {"step": 2, "train_runtime": 3.0}, {"step": 3}])
    with path.open("a") as file:
        file.write('{"step": 4, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 2, 3]
    assert steps_of_ended_training(path) == 2
    drop_after(path, 2)
    assert read_metrics(path) == [{"step": 1}, {"step": 2}]
    append_row(path, {"step": 3, "reward": 0.5})
    append_row(path, {"step": 3, "train_runtime": 3.0, "train_loss": 0.1, "epoch": 1.0})
    assert read_metrics(path)[2:] == [{"step": 3, "reward": 0.5, "train_runtime": 3.0, "train_loss": 0.1, "epoch": 1.0}]
    assert steps_of_ended_training(path) == 3
    drop_after(path, 3)
    assert read_metrics(path)[2:] == [{"step": 3, "reward": 0.5, "epoch": 1.0}]
    append_row(path, {"step": 4, "train_runtime": 3.0})
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4], "a last step that was not logged by itself"
    drop_after(tmp_path / "none.jsonl", 2)
    assert not (tmp_path / "none.jsonl").exists()
