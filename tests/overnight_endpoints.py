"""Endpoints that fail in every way we know, for the judge, the corrector and `bench run`; and training with a judge that dies.

Each fault must end in time with an answer or with a reason in one line, never with an exception, a hang, a key in a text, or a
request to another host.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from overnight import Row

KEY = "planted-key-0123456789"
TIMEOUT_S = 0.5
N_ROWS = 8
Talk = Callable[[socket.socket, bytes, threading.Event], None]


def head(status: str, *lines: str, length: int | None = None) -> bytes:
    more = [*lines, *([] if length is None else [f"Content-Length: {length}"])]
    return "\r\n".join([f"HTTP/1.1 {status}", *more, "Connection: close", "", ""]).encode()


def whole(body: bytes, status: str = "200 OK", *lines: str) -> bytes:
    return head(status, *lines, length=len(body)) + body


def completion(content: str) -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}}], "usage": {"prompt_tokens": 1}}).encode()


def saying(raw: Callable[[bytes], bytes]) -> Talk:
    """Reads a request and says `raw(the right reply's body)`."""

    def talk(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
        read_request(connection)
        connection.sendall(raw(body))

    return talk


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            return data
        data += part
    first, _, rest = data.partition(b"\r\n\r\n")
    length = next((int(line.split(b":")[1]) for line in first.split(b"\r\n") if line.lower().startswith(b"content-length")), 0)
    while len(rest) < length:
        rest += connection.recv(65536)
    return first


def silent(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
    stop.wait(30)


def dripping(of_head: bool) -> Talk:
    def talk(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
        read_request(connection)
        if not of_head:
            connection.sendall(head("200 OK", length=100_000))
        while not stop.wait(0.02):
            connection.sendall(b"H" if of_head else b" ")

    return talk


def endless(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
    read_request(connection)
    connection.sendall(head("200 OK"))
    while not stop.is_set():
        connection.sendall(b" " * 65536)


def slammed(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
    read_request(connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # a reset, not an end


def first_busy() -> Talk:
    """429 with Retry-After to as many requests as there are rows."""
    n = [0]
    lock = threading.Lock()

    def talk(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
        read_request(connection)
        with lock:
            n[0] += 1
            busy = n[0] <= N_ROWS
        connection.sendall(whole(b"", "429 Slow", "Retry-After: 0.05") if busy else whole(body))

    return talk


def echoing(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
    """Says back what it was sent, the key among it."""
    first = read_request(connection)
    connection.sendall(whole(json.dumps({"error": {"message": first.decode()}}).encode(), "400 Bad"))


def odd(body: bytes) -> bytes:
    """The right reply with half a surrogate pair in it."""
    message = json.loads(body)
    message["choices"][0]["message"]["odd"] = "\ud800"
    return json.dumps(message).encode()


BOMB = gzip.compress(b" " * 200_000_000)
FAULTS: dict[str, tuple[Talk | None, bool]] = {
    "connection refused": (None, False),
    "no answer": (silent, False),
    "slow drip of the head": (dripping(True), False),
    "slow drip of the body": (dripping(False), False),
    "endless body": (endless, False),
    "connection reset": (slammed, False),
    "401": (saying(lambda _: whole(b"", "401 No")), False),
    "403": (saying(lambda _: whole(b"no", "403 No")), False),
    "404": (saying(lambda _: whole(b'{"error": {"message": "no model m"}}', "404 No")), False),
    "429": (saying(lambda _: whole(b"", "429 Slow")), False),
    "429 with Retry-After": (first_busy, True),
    "500": (saying(lambda _: whole(b"<html>", "500 Oh")), False),
    "502": (saying(lambda _: whole(b"", "502 Oh")), False),
    "503": (saying(lambda _: whole(b"", "503 Oh")), False),
    "empty body": (saying(lambda _: whole(b"")), False),
    "not JSON": (saying(lambda _: whole(b"<html>hello</html>")), False),
    "JSON of another shape": (saying(lambda _: whole(b'{"data": [1]}')), False),
    "deeply nested JSON": (saying(lambda _: whole(b"[" * 200_000)), False),
    "NaN": (saying(lambda _: whole(b'{"choices": [{"message": {"content": NaN}}]}')), False),
    "half a surrogate pair": (saying(lambda body: whole(odd(body))), True),
    "redirect to another host": (saying(lambda _: whole(b"", "307 Go", "Location: OTHER")), False),
    "redirect to itself": (saying(lambda _: whole(b"", "302 Go", "Location: /v1/chat/completions")), False),
    "truncated body": (saying(lambda body: head("200 OK", length=len(body)) + body[:-5]), False),
    "wrong content type": (saying(lambda body: whole(body, "200 OK", "Content-Type: text/html")), True),
    "TLS to a plain port": (saying(whole), False),
    "gzip bomb": (saying(lambda _: whole(BOMB, "200 OK", "Content-Encoding: gzip")), False),
    "the key said back": (echoing, False),
    "garbage": (saying(lambda _: b"\x16\x03\x01nonsense\r\n\r\n"), False),
}
"""Fault -> how the server behaves (None: there is none), and whether an answer comes in the end."""


class FaultServer:
    """Answers each connection in a thread of its own. `heads`: requests that reached the other host of a redirect."""

    def __init__(self, talk: Talk | None, body: bytes, other: str = "") -> None:
        self.stop = threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.talk, self.body, self.other = talk, body, other
        self.n_seen = 0
        if talk is None:
            self.listener.close()
        else:
            threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while not self.stop.is_set():
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.n_seen += 1
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            assert self.talk is not None
            self.talk(_Replacing(connection, self.other), self.body, self.stop)  # type: ignore[arg-type]

    def close(self) -> None:
        self.stop.set()
        self.listener.close()


class _Replacing:
    """A connection that writes the other host's address for OTHER."""

    def __init__(self, connection: socket.socket, other: str) -> None:
        self._connection, self._other = connection, other

    def sendall(self, data: bytes) -> None:
        self._connection.sendall(data.replace(b"OTHER", self._other.encode()) if len(data) < 10_000 else data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


# ---- the three that ask


def ask_judge(url: str) -> tuple[list[bool], list[str]]:
    from vlrl.rewards import load_reward, score_rows
    from vlrl.rewards.judge import Place, place_judges
    from vlrl.schema import Sample

    lines: list[str] = []
    place_judges(Place(lines.append))
    reward = load_reward(f"llm_judge:judge_model=m,judge_url={url},see_image=false,timeout_s={TIMEOUT_S},backoff_s=0.01")
    samples = [Sample(f"q{i}", "qa", f"What is {time.time_ns()}?", "a bus") for i in range(N_ROWS)]
    scores = score_rows(reward, ["<answer>a red bus</answer>"] * N_ROWS, samples, 0, None)
    return [score.value == 0.5 for score in scores], lines + [score.why for score in scores]


def ask_corrector(url: str) -> tuple[list[bool], list[str]]:
    import numpy as np

    from vlrl.envs.cards import GAMES, write_reply
    from vlrl.gtr import RemoteCorrector, RemoteOptions, StepRequest

    lines: list[str] = []
    game = GAMES["points24"]
    state = game.deal(np.random.default_rng(0), {"numbers": [4, 6, 1, 1]})
    reply = write_reply({"cards": [4, 6, 1, 1], "formula": "", "thoughts": "4 next"}, "4")
    options = RemoteOptions("m", url, timeout_s=TIMEOUT_S, backoff_s=(0.01, 0.1), pause_s=0.1)
    found = RemoteCorrector(options, report=lines.append).correct_many([StepRequest(game, state, reply)] * N_ROWS)
    return [one.status == "ok" for one in found], lines + [one.why for one in found]


def ask_bench(url: str) -> tuple[list[bool], list[str]]:
    from vlrl import bench
    from vlrl.bench import engines

    engines.BACKOFF_S = 0.01
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", "--task", "qa", "--limit", str(N_ROWS), "--model_name_or_path", "m", "--base_url", url]
        words += ["--timeout", str(TIMEOUT_S), "--retry", "2", "--output_path", folder, "--coords", "px"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = bench.main(words)
        path = Path(folder) / "predictions.jsonl"
        n = len(path.read_text().splitlines()) if path.is_file() else 0
        texts = [err.getvalue(), *(one.read_text(errors="replace") for one in Path(folder).rglob("*") if one.is_file())]
        good = [True] * n + [False] * (N_ROWS - n)
        if code not in (0, 1, 2) or (code == 0) != all(good):
            raise AssertionError(f"exit code {code} with {n} answers")
        return good, texts


RIGHT = {
    "judge": "0.5",
    "corrector": json.dumps({"evaluation": "YES", "possible_solution": "YES", "target_formula": "4*6*1*1", "correction": None}),
    "bench": "<think>t</think><answer>a bus</answer>",
}
ASKING = {"judge": ask_judge, "corrector": ask_corrector, "bench": ask_bench}


def problem_of(fault: str, who: str) -> str:
    """What went wrong where `who` met the fault, or ""."""
    talk, answers = FAULTS[fault]
    talk = first_busy() if talk is first_busy else talk
    other = FaultServer(saying(whole), completion(RIGHT[who]))
    server = FaultServer(talk, completion(RIGHT[who]), f"http://127.0.0.1:{other.port}/v1/chat/completions")
    scheme = "https" if fault.startswith("TLS") else "http"
    started = time.monotonic()
    try:
        good, texts = ASKING[who](f"{scheme}://127.0.0.1:{server.port}/v1")
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is a finding)
        return f"{type(error).__name__}: {error}"
    finally:
        server.close()
        other.close()
    seconds = time.monotonic() - started
    if answers != all(good) or answers != any(good):
        return f"{sum(good)} of {len(good)} answers: {texts[:2]}"
    if seconds > 15:
        return f"took {seconds:.0f} s"
    if other.n_seen:
        return "a request went to the other host"
    if any(KEY in text for text in texts):
        return "the key is in a text"
    if who != "bench" and any("\n" in text for text in texts):
        return f"a reason of several lines: {texts[0]!r}"
    return ""


# ---- training


@contextlib.contextmanager
def dying_judge(n_alive: int, n_dead: float = float("inf")) -> Iterator[str]:
    """A judge that answers `n_alive` requests, then is silent for `n_dead`, then answers again. Gives its address."""
    n, lock = [0], threading.Lock()

    def talk(connection: socket.socket, body: bytes, stop: threading.Event) -> None:
        read_request(connection)
        with lock:
            n[0] += 1
            dead = n_alive < n[0] <= n_alive + n_dead
        connection.sendall(whole(b"", "503 Gone") if dead else whole(completion("0.5" if n[0] % 2 else "1")))

    server = FaultServer(talk, b"")
    yield f"http://127.0.0.1:{server.port}/v1"
    server.close()


def train(url: str, steps: int, *more: str) -> tuple[int, str, str]:
    """A run with a judge: exit code, what it printed, and the last message on standard error."""
    from vlrl.train import main

    with tempfile.TemporaryDirectory() as folder:
        judge = f"llm_judge:judge_model=m,judge_url={url},see_image=false,timeout_s=1,backoff_s=0.002"
        words = ["--task", "qa", "--rewards", judge, "think_answer_format", "--max_steps", str(steps), "--eval_limit", "4"]
        words += ["--per_device_train_batch_size", "8", "--num_generations", "4", "--report_to", "none", "--logging_steps", "1"]
        words += ["--output_dir", f"{folder}/run", "--save_steps", "1", *more]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(words)
        return code, out.getvalue(), err.getvalue()


def training_rows() -> list[Row]:
    rows = []
    with dying_judge(30) as url:
        code, out, err = train(url, 20, "--on_endpoint_failure", "stop")
        ok = code == 1 and err.count("\n") == 1 and "the run ends (--on_endpoint_failure stop)" in err and "checkpoint-" in err
        rows.append(Row("training, the judge dies, --on_endpoint_failure stop", 1, int(not ok), err.strip()[:160]))
    with dying_judge(30) as url:
        code, out, err = train(url, 40)
        ok = code == 1 and "the limit is 10 batches" in err and "checkpoint-" in err and "event     endpoint_failures" in out
        rows.append(Row("training, the judge dies, skip", 1, int(not ok), err.strip()[:160]))
    with dying_judge(30, 40) as url:
        code, out, err = train(url, 20)
        ok = code == 0 and "endpoint_failures" in out and "judge failed" in out
        rows.append(
            Row("training, the judge is away for a while, skip", 1, int(not ok), err.strip()[:160] or "the run ends well")
        )
    return rows


def run(n: int, seed: int) -> list[Row]:
    """All faults for each of the three, `n` times (default 1)."""
    for name in ("OPENAI_API_KEY", "VLRL_JUDGE_API_KEY", "VLRL_CORRECTOR_API_KEY"):
        os.environ[name] = KEY
    rows = []
    for who in ASKING:
        started, found = time.monotonic(), []
        for fault in FAULTS:
            found += [f"{fault}: {problem}" for _ in range(max(n, 1)) if (problem := problem_of(fault, who))]
        for line in found:
            print(f"  {who}: {line}")
        tries = len(FAULTS) * max(n, 1)
        notes = f"{len(FAULTS)} faults, {time.monotonic() - started:.0f} s" + (f"; {found[0][:120]}" if found else "")
        rows.append(Row(f"endpoint faults, {who}", tries, len(found), notes))
    return rows + training_rows()
