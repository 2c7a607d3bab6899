"""The page as a process of its own, and visitors who speak its protocol without a browser."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parent.parent
READY_S = 120


@contextlib.contextmanager
def page(folder, *words, environment=()):
    """Serves the page with `folder/runs` as its runs; yields its address. Its output is `folder/log.txt`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(ROOT / "demos" / "app.py"), "--run_root", str(folder / "runs"), "--port", str(port), *words]
    variables = {**os.environ, "GRADIO_TEMP_DIR": str(folder / "cache"), "PYTHONPATH": str(ROOT), **dict(environment)}
    with (folder / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=variables, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + READY_S
        while not answers(address):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError((folder / "log.txt").read_text())
            time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait(60)


def answers(address):
    try:
        return httpx.get(address, timeout=10).status_code == 200
    except httpx.HTTPError:
        return False


@dataclass
class Reply:
    """What came of one call. `waited_s`: from the call to its start; `ranks`: the places in the queue that were shown."""

    data: list | None = None
    error: str | None = None
    seconds: float = 0.0
    waited_s: float = 0.0
    ranks: list = field(default_factory=list)
    raw: str = ""


class Visitor:
    """One open page. `functions`: name -> number, from the page's own description."""

    def __init__(self, client, address, functions):
        self.client, self.address, self.functions = client, address, functions
        self.session = secrets.token_hex(8)

    async def call(self, name, *data, timeout=120):
        """Calls a function of the page as the browser does: joins the queue, follows it to the end."""
        reply, start = Reply(), time.monotonic()
        body = {"data": list(data), "fn_index": self.functions[name], "session_hash": self.session, "event_data": None}
        try:
            joined = await self.client.post(f"{self.address}/gradio_api/queue/join", json=body, timeout=timeout)
            reply.raw += joined.text
            if joined.status_code != 200:
                reply.error = f"{joined.status_code} {joined.text[:300]}"
                return reply
            await asyncio.wait_for(self._follow(joined.json()["event_id"], reply, start), timeout)
        except (httpx.HTTPError, TimeoutError, ValueError, KeyError) as error:
            reply.error = f"{type(error).__name__}: {error}"
        reply.seconds = time.monotonic() - start
        return reply

    async def _follow(self, event, reply, start):
        url = f"{self.address}/gradio_api/queue/data?session_hash={self.session}"
        async with self.client.stream("GET", url) as lines:
            async for line in lines.aiter_lines():
                if not line.startswith("data:"):
                    continue
                reply.raw += line
                message = json.loads(line[5:])
                if message.get("event_id") not in (event, None):
                    continue
                if message["msg"] == "estimation":
                    reply.ranks.append(message["rank"])
                if message["msg"] == "process_starts":
                    reply.waited_s = time.monotonic() - start
                if message["msg"] in ("process_completed", "unexpected_error"):
                    output = message.get("output") or {}
                    if message.get("success"):
                        reply.data = output.get("data")
                    else:
                        reply.error = output.get("error") or message.get("message") or "Error"
                    return


async def functions_of(client, address):
    config = (await client.get(f"{address}/config")).json()
    return {one["api_name"]: one["id"] for one in config["dependencies"] if one["api_name"]}
