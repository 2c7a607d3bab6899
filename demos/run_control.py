"""Starting, stopping and resuming runs: each is a program of its own, which goes on when the page ends. No shell reads any of
it. Not here: who may do it (`demos.local_only`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import vlrl
from demos.runs import Runs
from vlrl.data.markup import readable
from vlrl.training.run_lock import LOCK_FILE, holder, holder_pid, stop_holder

CONSOLE_FILE = "console.txt"
"""In the folder of a run that was started here: what it has printed."""
SETTLES_S = 8.0
"""How long a start waits for a program that ends at once, as it does for a wrong flag."""
ENDS_S = 60.0
"""How long a resumption waits for the program before it: a run has ended a moment before its process has."""
MAX_FLAGS = 4000
"""Characters of flags."""
MAX_LINE = 600
OWN_FIELDS = {
    "output_dir": "name the folder in its own field",
    "resume_from_checkpoint": "choose the run below and press Resume",
    "task": "choose the task in its own field",
    "config": "choose the file in its own field",
    "max_steps": "give the steps in their own field",
    "model_name_or_path": "name the model in its own field",
}
"""Flags that have a field of their own -> what to do instead."""
_FOLDER = re.compile(r"[\w][\w.+-]{0,100}(/[\w][\w.+-]{0,100})?")
_NOT_HANDED_ON = ("VLRL_DEMO_AUTH", "GRADIO_")
"""Of the page's environment: its password and what is gradio's alone."""


class Refused(ValueError):
    """A run cannot be started, stopped or resumed; one line says why and what to do."""


@dataclass
class Begun:
    """A run that was started or resumed here."""

    process: subprocess.Popen[bytes]
    folder: Path
    is_new: bool
    """Whether its folder was made for it."""
    from_byte: int
    """Where what it prints begins in its console file."""
    line: str = "loading the model and the data"
    has_held: bool = False
    """Whether its program has held the folder: from then on, a folder that is free says that the run has ended."""
    is_over: threading.Event = field(default_factory=threading.Event)


class Control:
    """Runs that are started from the page, in folders below that of `shelf`."""

    def __init__(self, shelf: Runs) -> None:
        self.shelf = shelf
        self._begun: dict[str, Begun] = {}
        self._refused: dict[str, str] = {}
        self._asked: dict[str, str] = {}
        self._lock = threading.Lock()

    # -- what the page says of them

    def beginning(self) -> dict[str, tuple[str, str]]:
        """Run -> "starting" or "refused", and a line: those without a run folder yet, and the last one that could not start."""
        with self._lock:
            begun = {name: ("starting", one.line) for name, one in self._begun.items() if not one.is_over.is_set()}
            return {**{name: ("refused", line) for name, line in self._refused.items()}, **begun}

    def is_stopping(self, name: str, folder: Path) -> bool:
        """Whether the run that is in a folder now was asked to stop."""
        return bool(self._asked.get(name)) and self._asked.get(name) == holder(folder)

    # -- what the page does with them

    def start(self, words: Sequence[str], name: str) -> str:
        """Start a run in a new folder of that name; `words`: its flags. Returns the name. Raises Refused."""
        folder = self._new_folder(name)
        if (folder / "config.yaml").exists() and not holder(folder):
            raise Refused(f"output folder {name} holds a run already: choose it below and press Resume, or name another")
        is_new = not folder.exists()
        self._run([*words, "--output_dir", str(folder)], name, folder, is_new=is_new)
        return name

    def resume(self, name: str) -> None:
        """Go on with a run of the list, with its own options. Raises Refused."""
        folder = self._folder(name)
        if who := holder(folder):
            raise Refused(f"{name} is running already ({who})")
        config = folder / "config.yaml"
        if not config.is_file():
            raise Refused(f"{name} has no config.yaml: it ended before it had begun, so start a new run")
        words = ["--config", str(config), "--output_dir", str(folder), "--resume_from_checkpoint", "true"]
        self._run(words, name, folder, is_new=False)

    def stop(self, name: str) -> str:
        """Ask a run to stop, whoever started it on this machine. Returns what will happen. Raises Refused."""
        with self._lock:
            begun = self._begun.get(name)
        will = "it writes a checkpoint after the step under way, then ends; Resume goes on from there"
        loads = begun is not None and not begun.has_held and not (begun.folder / LOCK_FILE).exists()
        if begun is not None and loads and begun.process.poll() is None:
            begun.process.send_signal(signal.SIGTERM)
            return f"{name} is asked to stop while it loads; nothing was trained yet"
        folder = self._folder(name)
        who = holder(folder)
        if problem := stop_holder(folder):
            raise Refused(f"{name} cannot be stopped: {problem}")
        self._asked[name] = who
        return f"{name} is asked to stop: {will}"

    # -- programs

    def _folder(self, name: str) -> Path:
        try:
            return self.shelf.folder(name)
        except ValueError as error:
            raise Refused(str(error)) from error

    def _new_folder(self, name: str) -> Path:
        if not _FOLDER.fullmatch(name) or ".." in name:
            raise Refused(
                f"output folder {name[:60]!r}: give a name of letters, digits, '-', '_' and '.', or two with a '/' between"
                f" them; it is made below {self.shelf.root}"
            )
        root = self.shelf.root.resolve()
        folder = root / name
        if not folder.resolve().is_relative_to(root):
            raise Refused(f"output folder {name}: it is a link that leads out of {self.shelf.root}; name another")
        return folder

    def _run(self, words: Sequence[str], name: str, folder: Path, *, is_new: bool) -> None:
        """Start the program and wait until it holds its folder, or has ended. Raises Refused with the last line it printed."""
        before = self._begun.get(name)
        if before is not None and before.has_held and holder_pid(folder) != before.process.pid:
            before.is_over.wait(ENDS_S)
        with self._lock:
            before = self._begun.get(name)
            if before is not None and not before.is_over.is_set():
                raise Refused(f"{name} was started already and goes on")
            self._refused.clear()
            try:
                folder.mkdir(parents=True, exist_ok=True)
                console = (folder / CONSOLE_FILE).open("ab")
            except OSError as error:
                raise Refused(f"output folder {name}: {error.strerror or error}") from error
            with console:
                begun = Begun(_program(words, console.fileno()), folder, is_new, console.tell())
            self._begun[name] = begun
        threading.Thread(target=self._follow, args=(name, begun), daemon=True, name=f"run {name}").start()
        until = time.monotonic() + SETTLES_S
        while time.monotonic() < until and not begun.is_over.wait(0.05):
            if holder_pid(folder) == begun.process.pid:
                begun.has_held = True
                break
        self.shelf.renew()
        if begun.is_over.is_set() and begun.process.returncode != 0:
            raise Refused(begun.line or f"the program ended with exit code {begun.process.returncode} without a word")

    def _follow(self, name: str, begun: Begun) -> None:
        """Until a run ends: its last line while it loads; then its exit code is taken, so that no dead process stays in the
        list of the system's."""
        while begun.process.poll() is None:
            if not (begun.folder / "config.yaml").is_file():
                begun.line = last_line(begun.folder / CONSOLE_FILE, begun.from_byte) or begun.line
            begun.has_held = begun.has_held or holder_pid(begun.folder) == begun.process.pid
            with contextlib.suppress(subprocess.TimeoutExpired):
                begun.process.wait(0.5)
        begun.line = last_line(begun.folder / CONSOLE_FILE, begun.from_byte)
        has_begun = (begun.folder / "config.yaml").is_file()
        if begun.is_new and not has_begun:
            _remove_empty(begun.folder)
        with self._lock:
            if not has_begun and begun.process.returncode != 0:
                self._refused[name] = begun.line
            begun.is_over.set()
        self.shelf.renew()


def words_of(task: str, config: str, model: str, steps: int | None, flags: str) -> list[str]:
    """The flags of a run as the page's fields say them. An empty field leaves its flag out. Raises Refused for flags that are
    not quoted well or have a field of their own."""
    if len(flags) > MAX_FLAGS:
        raise Refused(
            f"flags: {len(flags):,} characters; {MAX_FLAGS:,} are the most, put them into a file and name it as config"
        )
    try:
        more = shlex.split(flags.replace("\\\n", " "))
    except ValueError as error:
        raise Refused(f"flags: {error}; close every quotation mark") from error
    for word in more:
        name = word.removeprefix("--").partition("=")[0].replace("-", "_") if word.startswith("--") else ""
        if name in OWN_FIELDS:
            raise Refused(f"flags: --{name}: {OWN_FIELDS[name]}")
    named = {"task": "" if config else task, "config": config, "model_name_or_path": model.strip()}
    words = [word for name, value in named.items() if value for word in (f"--{name}", value)]
    return [*words, *(["--max_steps", str(steps)] if steps else []), *more]


def new_name(task: str, config: str, at: float | None = None) -> str:
    """The folder of a run that names none, as training itself would call it."""
    kind = re.sub(r"[^\w-]+", "-", Path(config or task).stem).strip("-") or "run"
    return f"{kind}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(at))}"


def command_words(words: Sequence[str], name: str, root: Path) -> str:
    """The same run as a person would type it."""
    return shlex.join(["vlrl", "train", *words, "--output_dir", str(root / name)])


def last_line(path: Path, from_byte: int = 0) -> str:
    """The last line with words that a program has printed; "" where there is none."""
    lines = tail(path, from_byte)
    return lines[-1][:MAX_LINE] if lines else ""


def tail(path: Path, from_byte: int = 0, most: int = 40) -> list[str]:
    """The last lines of a file that are not empty, in readable characters."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(from_byte, end - 20_000))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return [readable(line.rstrip()) for line in re.split(r"[\r\n]+", text) if line.strip()][-most:]


def _program(words: Sequence[str], output: int) -> subprocess.Popen[bytes]:
    """The training of these flags, in a session of its own: no terminal and no end of the page reaches it."""
    return subprocess.Popen(
        [sys.executable, "-m", "vlrl.train", *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment_of(os.environ),
        start_new_session=True,
    )


def environment_of(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a run: the page's, without its password, and with the place of this package."""
    kept = {name: value for name, value in own.items() if not name.startswith(_NOT_HANDED_ON)}
    place = str(Path(vlrl.__file__).resolve().parent.parent)
    paths = [place, *(path for path in kept.get("PYTHONPATH", "").split(os.pathsep) if path and path != place)]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _remove_empty(folder: Path) -> None:
    """Remove the folder of a run that did not begin, if there is nothing in it but what it printed."""
    with contextlib.suppress(OSError):
        if [path.name for path in folder.iterdir()] == [CONSOLE_FILE]:
            (folder / CONSOLE_FILE).unlink()
            folder.rmdir()
