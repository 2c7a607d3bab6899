"""Starting, stopping and resuming runs from the page, without a browser: who may, with which words, and what outlives what."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_demo import write_run

from demos import run_control
from demos.local_only import is_local_request
from demos.run_control import CONSOLE_FILE, Control, Refused, environment_of, new_name, tail, words_of
from demos.runs import Runs
from vlrl.training import run_lock
from vlrl.training.run_lock import LOCK_FILE, RunLock, holder

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (
    "import sys, time\nfrom pathlib import Path\nfrom vlrl.training.run_lock import FolderInUse, lock_folder\n"
    "from vlrl.training.stopping import Stopped, StopRequests\nfolder = Path(sys.argv[sys.argv.index('--output_dir') + 1])\n"
    "print('loading', sys.argv[1:], flush=True)\n"
    "if '--wrong' in sys.argv:\n    print('error: unknown option --wrong', file=sys.stderr)\n    sys.exit(2)\n"
    "try:\n    with StopRequests():\n        lock_folder(folder, '--output_dir')\n"
    "        (folder / 'config.yaml').write_text('task: detection')\n        time.sleep(60)\n"
    "except FolderInUse as error:\n    print(f'error: {error}', file=sys.stderr)\n    sys.exit(2)\n"
    "except Stopped:\n    print('a checkpoint is written', flush=True)\n"
    "    time.sleep(2 * ('--late' in sys.argv))\n    sys.exit(143)\n"
)
"""What stands in for training: it takes the lock of its folder and ends on request."""


@pytest.fixture
def control(tmp_path, monkeypatch):
    monkeypatch.setattr(run_control, "_program", stand_in)
    shelf = Runs(tmp_path / "runs")
    made = Control(shelf)
    yield made
    for one in made._begun.values():
        one.process.kill()
        one.is_over.wait(10)


def stand_in(words, output):
    command = [sys.executable, "-c", PROGRAM, *words]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment_of(os.environ), start_new_session=True
    )


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


# ---- who may

HERE = {"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860", "sec-fetch-site": "same-origin"}


@pytest.mark.parametrize(
    ("client", "changed", "expected"),
    [
        ("127.0.0.1", {}, True),
        ("127.0.0.1", {"origin": None, "sec-fetch-site": None}, True),
        ("127.0.0.1", {"host": "localhost:7860", "origin": "http://localhost:7860"}, True),
        ("::1", {"host": "[::1]:7860", "origin": "http://[::1]:7860"}, True),
        ("::ffff:127.0.0.1", {}, True),
        ("127.0.0.1", {"sec-fetch-site": "none"}, True),
        ("192.168.0.7", {}, False),
        ("::ffff:192.168.0.7", {}, False),
        ("", {}, False),
        ("testclient", {}, False),
        # another site in the same browser
        ("127.0.0.1", {"origin": "https://evil.example"}, False),
        ("127.0.0.1", {"origin": "null"}, False),
        ("127.0.0.1", {"origin": "http://127.0.0.1:3000"}, False),
        ("127.0.0.1", {"origin": "http://127.0.0.1:7860.evil.example"}, False),
        ("127.0.0.1", {"origin": "http://[", "host": "["}, False),
        ("127.0.0.1", {"origin": None, "sec-fetch-site": "cross-site"}, False),
        ("127.0.0.1", {"origin": None, "sec-fetch-site": "same-site"}, False),
        # a name that was pointed at this machine
        ("127.0.0.1", {"host": "evil.example:7860", "origin": "http://evil.example:7860"}, False),
        ("127.0.0.1", {"host": "127.0.0.1.evil.example", "origin": "http://127.0.0.1.evil.example"}, False),
        ("127.0.0.1", {"host": "localhost@evil.example"}, False),
        ("127.0.0.1", {"host": "0.0.0.0:7860", "origin": "http://0.0.0.0:7860"}, False),
        ("127.0.0.1", {"host": ""}, False),
        ("127.0.0.1", {"host": None}, False),
        # handed on by a proxy or a tunnel
        ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, False),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}, False),
        ("127.0.0.1", {"via": "1.1 proxy"}, False),
        ("127.0.0.1", {"host": "abc.gradio.live", "origin": "https://abc.gradio.live"}, False),
    ],
)  # fmt: skip
def test_runs_are_started_by_a_browser_on_this_machine_alone(client, changed, expected):
    headers = {name: value for name, value in (HERE | changed).items() if value is not None}
    assert is_local_request(client, headers) is expected


# ---- with which words


def test_fields_become_flags_and_no_shell_reads_them():
    assert words_of("detection", "", "", None, "") == ["--task", "detection"]
    words = words_of("qa", "", " tiny ", 20, '--data "my file.jsonl" --learning_rate 1e-4 ; rm -rf $HOME')
    assert words[:6] == ["--task", "qa", "--model_name_or_path", "tiny", "--max_steps", "20"]
    assert words[6:] == ["--data", "my file.jsonl", "--learning_rate", "1e-4", ";", "rm", "-rf", "$HOME"]
    assert words_of("qa", "configs/x.yaml", "", None, "") == ["--config", "configs/x.yaml"], "the file names its task"
    for flags, why in (
        ("--data 'x", "close every quotation mark"),
        ("--output_dir /tmp/x", "--output_dir: name the folder in its own field"),
        ("--output-dir=/tmp/x", "--output_dir: name the folder in its own field"),
        ("--task qa", "--task: choose the task"),
        ("--max_steps 3", "--max_steps"),
        ("x" * 5000, "4,000 are the most"),
    ):
        with pytest.raises(Refused, match=why):
            words_of("detection", "", "", None, flags)
    assert new_name("detection", "", 0).startswith("detection-19")
    assert new_name("a/my task.py", "", 0).startswith("my-task-19")
    assert new_name("detection", "configs/vlm_r1_rec.yaml", 0).startswith("vlm_r1_rec-19")


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "a/../../b", ".hidden", "a/b/c", "a b", "", "a\0", "--flag", "link/x"])
def test_a_run_lies_below_the_folder_of_runs(name, control, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "runs" / "link").symlink_to(tmp_path / "outside")
    with pytest.raises(Refused, match="output folder"):
        control.start([], name)
    assert not list((tmp_path / "outside").iterdir())
    assert control.beginning() == {}


def test_a_run_gets_the_page_s_environment_without_its_password(monkeypatch):
    own = {"VLRL_DEMO_AUTH": "me:secret", "GRADIO_TEMP_DIR": "/tmp/x", "HF_HOME": "/hf", "PYTHONPATH": "/mine"}
    made = environment_of(own)
    assert made["HF_HOME"] == "/hf"
    assert made["PYTHONPATH"].split(os.pathsep) == [str(ROOT), "/mine"]
    assert not {"VLRL_DEMO_AUTH", "GRADIO_TEMP_DIR"} & made.keys()


# ---- what they do


def test_a_run_is_started_seen_stopped_and_resumed(control, tmp_path):
    folder = tmp_path / "runs" / "one"
    assert control.start(["--task", "detection", "--late"], "one") == "one"
    until(lambda: "one" in control.shelf.names())
    assert f"--output_dir', '{folder}'" in (folder / CONSOLE_FILE).read_text()
    process = control._begun["one"].process
    assert os.getsid(process.pid) == process.pid, "no terminal reaches it"
    assert holder(folder)
    with pytest.raises(Refused, match="was started already and goes on"):
        control.start([], "one")
    with pytest.raises(Refused, match="is running already"):
        control.resume("one")
    assert "is asked to stop" in control.stop("one")
    until(lambda: not holder(folder))
    assert process.poll() is None, "its run has ended, its process not yet"
    assert not control.is_stopping("one", folder)
    with pytest.raises(Refused, match="nobody runs in this folder any more"):
        control.stop("one")
    with pytest.raises(Refused, match="holds a run already: choose it below and press Resume"):
        control.start([], "one")
    control.resume("one")
    assert process.returncode == 143
    until(lambda: holder(folder))
    words = tail(folder / CONSOLE_FILE)[-1]
    assert "'--resume_from_checkpoint', 'true'" in words
    assert f"'--config', '{folder}/config.yaml'" in words
    with pytest.raises(Refused, match="there is no such run"):
        control.resume("two")


def test_a_wrong_flag_is_one_line_and_leaves_nothing(control, tmp_path):
    with pytest.raises(Refused, match=r"^error: unknown option --wrong$"):
        control.start(["--wrong"], "one")
    assert control.beginning() == {"one": ("refused", "error: unknown option --wrong")}
    assert not (tmp_path / "runs" / "one").exists()
    control.start([], "two")
    assert "one" not in control.beginning(), "it is forgotten with the next start"


def test_a_second_run_in_a_folder_is_refused_by_its_lock(control, tmp_path):
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    lock = RunLock(folder / LOCK_FILE, "--output_dir")
    lock.take()
    try:
        with pytest.raises(Refused, match=rf"error: --output_dir {folder} is in use by process {os.getpid()} on "):
            control.start([], "one")
    finally:
        lock.release()


def test_a_run_goes_on_when_the_page_is_killed(tmp_path):
    code = (
        "import sys, time\nsys.path.insert(0, sys.argv[2])\nfrom pathlib import Path\nfrom demos import run_control\n"
        "import test_demo_runs_control\nfrom demos.runs import Runs\nrun_control._program = test_demo_runs_control.stand_in\n"
        "run_control.Control(Runs(Path(sys.argv[1]))).start([], 'one')\nprint('started', flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(ROOT / "tests")]
    page = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment_of(os.environ), start_new_session=True)
    try:
        assert page.stdout.readline() == "started\n"
        pid = json.loads((tmp_path / "one" / LOCK_FILE).read_text())["pid"]
        os.killpg(page.pid, signal.SIGINT)
        os.killpg(page.pid, signal.SIGKILL)
        page.wait(10)
        time.sleep(0.3)
        assert holder(tmp_path / "one"), "it goes on"
        other = Control(Runs(tmp_path))  # another page
        assert "is asked to stop" in other.stop("one")
        assert other.is_stopping("one", tmp_path / "one") or not holder(tmp_path / "one")
        until(lambda: not holder(tmp_path / "one"))
        until(lambda: run_lock._start_ticks(pid) is None)
        assert tail(tmp_path / "one" / CONSOLE_FILE)[-1] == "a checkpoint is written"
    finally:
        page.kill()
        page.stdout.close()


def test_only_a_run_with_options_is_resumed(control, tmp_path):
    write_run(tmp_path / "runs" / "one")
    control.resume("one")
    folder = tmp_path / "runs" / "two"
    folder.mkdir()
    (folder / LOCK_FILE).write_text(json.dumps({**run_lock._about(), "ticks": 0}))
    control.shelf.renew()
    with pytest.raises(Refused, match=r"two has no config.yaml: it ended before it had begun, so start a new run"):
        control.resume("two")


def test_what_a_program_prints_is_read_from_its_end(tmp_path):
    path = tmp_path / "console.txt"
    path.write_bytes(b"a\r10%\r100%\n\n\x1b[31mred \xff\n" + b"x" * 50_000 + b"\nlast\n\n")
    lines = tail(path)
    assert lines[-1] == "last"
    assert tail(path, from_byte=path.stat().st_size) == []
    assert tail(tmp_path / "none") == []
    path.write_bytes(b"a\r10%\r100%\n\n\x1b[31mred \xff\n")
    assert tail(path) == ["a", "10%", "100%", "\\u001b[31mred \ufffd"]


def test_the_command_in_a_terminal_is_the_same():
    words = words_of("detection", "", "", 5, "--data 'a b.jsonl'")
    typed = run_control.command_words(words, "one", Path("runs"))
    assert shlex.split(typed) == ["vlrl", "train", *words, "--output_dir", "runs/one"]
