"""Programs in processes of their own that have everything imported: forked from one helper that imports and does nothing else.

A fresh interpreter imports torch, transformers and TRL for ten seconds before it does anything, and torchrun imports torch once
more; what is tested here comes after that. The command itself (`torchrun vlrl/train.py`, `python -m vlrl.bench`) is started
as users start it in `test_end_to_end.py`, `test_distributed.py` and where a test says so.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# The helper imports torch with it; a thread count that is set in its children comes too late, and other counts add up otherwise.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
PRELOADED = [
    "torch", "transformers", "trl", "peft", "matplotlib.pyplot", "scipy.stats",
    "transformers.models.qwen2_5_vl.modeling_qwen2_5_vl", "transformers.models.qwen2_5_vl.processing_qwen2_5_vl",
    "trl.trainer.grpo_trainer", "vlrl.models.load", "vlrl.training.grpo", "vlrl.training.report", "vlrl.train", "vlrl.bench.run",
]  # fmt: skip
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(PRELOADED)


@dataclass(frozen=True)
class Done:
    """How a program ended: exit code (minus the signal's number where one ended it) and what the first process printed."""

    returncode: int
    stdout: str
    stderr: str


class Program:
    """`words` as after `python` (`script.py ...`, `-m module ...` or `-c code ...`) on `n` processes, as torchrun starts them."""

    def __init__(self, *words: object, n: int = 1) -> None:
        self._folder = tempfile.TemporaryDirectory()
        launcher = {
            "WORLD_SIZE": str(n),
            "LOCAL_WORLD_SIZE": str(n),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
        }
        self._processes = []
        for rank in range(n):
            environment = dict(os.environ) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
            if n > 1:
                environment |= launcher | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            out = [f"{self._folder.name}/{rank}.{name}" for name in ("out", "err")]
            process = _context.Process(target=_be, args=([str(word) for word in words], environment, *out))
            process.start()
            self._processes.append(process)

    @property
    def is_running(self) -> bool:
        return any(process.is_alive() for process in self._processes)

    def send(self, number: int) -> None:
        """A signal to every process, as a launcher passes it on."""
        for process in self._processes:
            if process.is_alive() and process.pid is not None:
                os.kill(process.pid, number)

    def kill(self) -> None:
        """SIGKILL to every process."""
        for process in self._processes:
            process.kill()

    def wait(self, timeout_s: float = 300) -> Done:
        """Wait until all have ended; where one fails, the others (which would wait for it for ever) have five seconds left."""
        deadline, has_failed = time.monotonic() + timeout_s, False
        while self.is_running and time.monotonic() < deadline:
            if not has_failed and any(process.exitcode for process in self._processes):
                has_failed, deadline = True, min(deadline, time.monotonic() + 5)
            time.sleep(0.02)
        late = self.is_running and not has_failed
        failed = [process.exitcode for process in self._processes if process.exitcode]
        self.kill()
        for process in self._processes:
            process.join()
        first = [Path(self._folder.name, f"0.{name}") for name in ("out", "err")]
        out, err = (path.read_text() if path.is_file() else "" for path in first)
        others = [path.read_text() for path in sorted(Path(self._folder.name).glob("[1-9]*.err"))]
        self._folder.cleanup()
        assert not late, f"not done after {timeout_s} s: {out[-2000:]} {err[-2000:]}"
        return Done(failed[0] if failed else 0, out, "".join([err, *others]))


def run(*words: object, n: int = 1, timeout_s: float = 300) -> Done:
    """A program from start to end."""
    return Program(*words, n=n).wait(timeout_s)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _be(words: list[str], environment: dict[str, str], out: str, err: str) -> None:
    """In the forked process: become `python *words`."""
    os.chdir(ROOT)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests themselves run in the background
    os.environ.clear()
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    cold = [name for name in PRELOADED if name not in sys.modules]
    code: object = f"not imported by the helper: {cold}" if cold else 0
    try:
        if not cold:
            _execute(words)
    except SystemExit as end:
        code = end.code or 0
    if isinstance(code, str):
        print(code, file=sys.stderr)
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code))


def _execute(words: list[str]) -> None:
    kind, rest = words[0], words[1:]
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<tests>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = words
        runpy.run_path(kind, run_name="__main__")
