"""One run a folder: a lock file with host, process and time, for as long as the run lasts. No torch.

The system's own file lock (flock) ends with its process, in whatever way that ends, so a lock file that a kill left behind is
recognised at once on the same machine. Some shared file systems do not pass such locks on to other machines. So the holder
touches the file every `BEAT_S`, and a file from another machine is watched for `WATCH_S` before it counts as left behind.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vlrl.training import stopping

LOCK_FILE = "run.lock"
BEAT_S, WATCH_S = 20.0, 70.0
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class FolderInUse(ValueError):
    """Another run writes into the folder; the message says which and what to do."""


def lock_folder(folder: Path, flag: str, say: Callable[[str], object] = lambda _line: None) -> None:
    """Hold `folder` until this program ends; `say` gets a line where a lock was left behind. Raises FolderInUse, OSError.

    Does nothing outside `stopping.StopRequests`: a lock belongs to a program, not to a call.
    """
    stop = stopping.current()
    if stop.is_watching:
        lock = RunLock(folder / LOCK_FILE, flag)
        if note := lock.take():
            say(note)
        stop.at_end(lock.release)


def holder(folder: Path) -> str:
    """Who runs in a folder now, in words; "" where nobody does. Reads alone, so it never stands in a run's way.

    Of this machine the process is looked up; a run of another machine or container counts for as long as its lock was touched
    within `WATCH_S`.
    """
    try:
        with (folder / LOCK_FILE).open("rb") as file:
            found, age_s = _read(file.fileno()), time.time() - os.fstat(file.fileno()).st_mtime
    except OSError:
        return ""
    goes_on = _lives(found) if _is_here(found) else age_s < WATCH_S
    return _who(found) if goes_on else ""


def holder_pid(folder: Path) -> int | None:
    """The process of this machine that runs in a folder now; None where there is none, or it is another machine's."""
    try:
        found = _read_file(folder / LOCK_FILE)
    except OSError:
        return None
    return int(found["pid"]) if _is_here(found) and _lives(found) else None


def stop_holder(folder: Path) -> str:
    """Ask the run in a folder to end, as `kill` does (SIGTERM: it writes a checkpoint after the step under way). Returns why
    that cannot be done, in words, or "" where it was asked. Only a process of this machine whose lock is its own is asked."""
    try:
        found = _read_file(folder / LOCK_FILE)
    except OSError:
        return "nobody runs in this folder any more"
    pid = found.get("pid")
    if not _is_here(found) or not isinstance(pid, int):
        return f"it is run by {_who(found)}, which can be stopped there alone"
    try:
        process = os.pidfd_open(pid)
    except OSError:
        return "its process has ended already"
    try:  # the number may be another process' by now: it is looked up again once it is held
        if not _lives(found):
            return "its process has ended already"
        if not _has_open(pid, folder / LOCK_FILE):
            return f"process {pid}, which its lock names, is no run in this folder"
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except (ProcessLookupError, FileNotFoundError):
        return "its process has ended already"
    except PermissionError:
        return f"{_who(found)} belongs to another user; ask them, or stop it as they would"
    finally:
        os.close(process)
    return ""


def _is_here(found: dict[str, Any]) -> bool:
    """Whether a lock was taken on this machine, in this container, since it was started."""
    mine = _about()
    return (found.get("boot"), found.get("host")) == (mine["boot"], mine["host"])


def _lives(found: dict[str, Any]) -> bool:
    """Whether the process of a lock that was taken here still runs."""
    pid = found.get("pid")
    return isinstance(pid, int) and found.get("ticks") is not None and _start_ticks(pid) == found["ticks"]


class RunLock:
    """The lock file `path`; `flag` names the folder's option in messages."""

    def __init__(self, path: Path, flag: str) -> None:
        self.path, self.flag = path, flag
        self._fd = -1
        self._free = threading.Event()

    def take(self) -> str:
        """Take the lock; returns a line about one that was left behind, or "". Raises FolderInUse, OSError."""
        while True:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                has_flock = self._flock(fd)
                found = self._settled(fd, has_flock)
                if os.fstat(fd).st_nlink and _is_same(fd, self.path):
                    _write(fd, self.path)
                    break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)  # its holder removed it meanwhile
        self._fd = fd
        os.register_at_fork(after_in_child=self._close)  # a child that outlives the run must not hold its lock
        threading.Thread(target=self._beat, daemon=True, name="run lock").start()
        return "" if not found else f"the lock of {_who(found)} was left behind: that run has ended without removing it"

    def release(self) -> None:
        """Remove the lock file, if it is still this program's."""
        self._free.set()
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                if _is_same(self._fd, self.path):
                    self.path.unlink()
            self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _flock(self, fd: int) -> bool:
        """Whether the system's lock is ours now; False where the file system has none. Raises FolderInUse, OSError."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise self._refusal(_read(fd)) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return False
        return True

    def _settled(self, fd: int, has_flock: bool) -> dict[str, Any]:
        """What is left of a lock whose holder has ended; empty for a new file. Raises FolderInUse where it may still run."""
        found = _read(fd)
        mine = _about()
        if not found:
            return {}
        if found.get("boot") == mine["boot"]:  # this machine, or a container on it
            if not has_flock and _start_ticks(int(found.get("pid", 0))) == found.get("ticks"):
                raise self._refusal(found)
        elif found.get("host") != mine["host"]:  # else this machine, before it was started anew
            print(f"{self.path} is of {_who(found)}; watching for {WATCH_S:.0f} s whether it still runs", file=sys.stderr)
            first, deadline = os.fstat(fd).st_mtime_ns, time.monotonic() + WATCH_S
            while time.monotonic() < deadline:
                time.sleep(min(1.0, WATCH_S / 10))
                if os.stat(self.path).st_mtime_ns != first:
                    raise self._refusal(found)
        return found

    def _refusal(self, found: dict[str, Any]) -> FolderInUse:
        return FolderInUse(
            f"{self.flag} {self.path.parent} is in use by {_who(found)}: two runs in one folder would mix their files; wait for"
            f" its end or stop it, or name another folder"
        )

    def _beat(self) -> None:
        """Show other machines that this run goes on."""
        while not self._free.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(self._fd)


def _about() -> dict[str, Any]:
    """Who this process is: a process id is used again, so with the time it was started; and a machine's name too, so with the
    id of its start."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = socket.gethostname()
    pid = os.getpid()
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"host": socket.gethostname(), "pid": pid, "started": started, "ticks": _start_ticks(pid), "boot": boot}


def _start_ticks(pid: int) -> int | None:
    """When a process of this machine was started, in ticks of its clock; None if there is no such process, or if it has ended
    and its parent has not asked how (a "zombie")."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if state in "ZX" else int(rest[18])
    except (OSError, ValueError, IndexError):
        return None


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has this file open, as the holder of a lock has: a lock file that somebody else wrote could name any
    process. Raises PermissionError for one of another user."""
    wanted = path.stat()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(entry.path), wanted):
                return True
    return False


def _write(fd: int, path: Path) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, (json.dumps(_about()) + "\n").encode(), 0)
    except OSError:
        path.unlink()
        raise


def _read_file(path: Path) -> dict[str, Any]:
    """What the lock file at `path` says. Raises OSError."""
    with path.open("rb") as file:
        return _read(file.fileno())


def _read(fd: int) -> dict[str, Any]:
    """What a lock file says; empty for a new one and for one that a full disk left empty."""
    try:
        found = json.loads(os.pread(fd, 4096, 0) or b"{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_same(fd: int, path: Path) -> bool:
    """Whether the open file is the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except OSError:
        return False


def _who(found: dict[str, Any]) -> str:
    if not found:
        return "another process"
    return f"process {found.get('pid')} on {found.get('host')}, started {found.get('started')}"
