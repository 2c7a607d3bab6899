"""What stands between the network and gradio: which addresses are answered, how much may be sent, and headers that tell the
browser to run the page's own scripts only.

Gradio serves more than the page needs: it fetches addresses for visitors, takes recordings, calls functions past the queue. Not
here: who may come in (gradio's `auth`).
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_UPLOAD_BYTES = 20 * 2**20
"""Of one uploaded file."""
MAX_UPLOADS, MAX_STORED_BYTES = 1000, 2 * 2**30
"""Uploads a minute, and bytes of all files that are kept for visitors, uploaded ones and shown images alike."""
KEPT_S = 1800
"""Seconds that such a file is kept."""
MAX_BODY_BYTES = 2**20
"""Of any other request."""
MAX_FAILED_LOGINS = 10
"""A minute, from one address."""

OPEN = re.compile(
    r"/|/config/?|/theme\.css|/robots\.txt|/favicon\.ico|/manifest\.json|/log(in|out)/?|/pwa_icon(/[0-9]+)?"
    r"|/(assets|static|svelte)/[^:]*"
    r"|/gradio_api/(info|app_id|user|token|login_check|startup-events|theme\.css|upload|upload_progress|cancel|reset"
    r"|component_server|queue/(join|data|status))/?"
    r"|/gradio_api/heartbeat/[\w-]+|/gradio_api/call/(v2/)?[\w-]+(/[\w-]+)?/?"
    # Files by their paths: gradio checks these. No addresses, which it would fetch.
    r"|/gradio_api/file=(?!\s*[\w+.-]{2,}:)(?!\s*//)[^\0]*"
)
"""The paths that are answered. Every other is not there."""
_SCRIPT = re.compile(rb"<script(?=[ >])")
_API = re.compile(rb"window\.gradio_api_info = .*?;</script>", re.DOTALL)
_LOGIN = b'"auth_required":true'
"""In gradio's page for those who have not logged in, which lists what the functions of the page take all the same, runs too."""

POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'nonce-{nonce}' 'unsafe-eval'",  # gradio compiles its templates; handlers in text stay forbidden
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "media-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "worker-src": "'self' blob:",
    "connect-src": "'self' data: blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
FILE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"


class Storage:
    """The folder of what visitors upload and are shown. Old files are removed, and no more is taken than fits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._uploads: list[float] = []
        self._stored = 0

    def sweep(self, kept_s: float = KEPT_S) -> int:
        """Remove files older than `kept_s` seconds and folders that are empty; returns the bytes that remain."""
        remaining, oldest = 0, time.time() - kept_s
        for path in sorted(self.folder.rglob("*"), reverse=True):
            try:
                found = path.lstat()
                if path.is_dir() and not path.is_symlink():
                    if found.st_mtime < oldest:
                        path.rmdir()
                elif found.st_mtime < oldest:
                    path.unlink()
                else:
                    remaining += found.st_size
            except OSError:  # in use, or gone meanwhile
                continue
        self._stored = remaining
        return remaining

    def sweep_for_ever(self, every_s: float = 60) -> None:
        """Sweep in the background for as long as the process lives."""

        def work() -> None:
            while True:
                time.sleep(every_s)
                if self.sweep() > MAX_STORED_BYTES:
                    self.sweep(KEPT_S / 10)

        threading.Thread(target=work, daemon=True).start()

    def problem(self) -> str | None:
        """Why one more upload is not taken; counts it otherwise."""
        now = time.monotonic()
        self._uploads = [at for at in self._uploads if now - at < 60]
        if len(self._uploads) >= MAX_UPLOADS or self._stored > MAX_STORED_BYTES:
            return "too many uploads; try again in a minute"
        self._uploads.append(now)
        return None

    def count(self, n_bytes: int) -> None:
        """Bytes that have come in since the last sweep."""
        self._stored += n_bytes


class TooLarge(Exception):
    """More was sent than is taken."""


class Doors:
    """ASGI middleware around gradio."""

    def __init__(self, app: ASGIApp, storage: Storage) -> None:
        self.app, self.storage = app, storage
        self._failed_logins: dict[str, list[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path, answer = scope["path"], _Answer(send, secrets.token_urlsafe(16), scope["path"])
        visitor = str((scope.get("client") or ("",))[0])
        try:
            refused = self._refusal(path, visitor)
            if refused is None and scope["method"] == "POST":
                receive, refused = await self._checked(path, receive)
            if refused is None:
                await self.app(scope, receive, answer.send)
        except TooLarge:
            refused = 413, "too large: a file may have 20 MB"
        if refused is not None and not answer.status:
            await PlainTextResponse(refused[1], refused[0])(scope, receive, answer.send)
        elif path.startswith("/login") and answer.status == 400:
            self._failed_logins[visitor] = [*self._recent_failures(visitor), time.monotonic()]

    def _refusal(self, path: str, visitor: str) -> tuple[int, str] | None:
        if not OPEN.fullmatch(path):
            return 404, "not found"
        if _takes_files(path) and (problem := self.storage.problem()):
            return 503, problem
        if path.startswith("/login") and len(self._recent_failures(visitor)) >= MAX_FAILED_LOGINS:
            return 429, "too many failed logins; try again in a minute"
        return None

    def _recent_failures(self, visitor: str) -> list[float]:
        now = time.monotonic()
        self._failed_logins = {
            who: recent for who, at in self._failed_logins.items() if (recent := [one for one in at if now - one < 60])
        }
        return self._failed_logins.get(visitor, [])

    async def _checked(self, path: str, receive: Receive) -> tuple[Receive, tuple[int, str] | None]:
        """What is sent, bounded; of calls of the page's functions, read and checked first. Raises TooLarge."""
        if _takes_files(path):
            return _counted(receive, MAX_UPLOAD_BYTES + 2**16, self.storage), None
        if not path.startswith(("/gradio_api/queue/join", "/gradio_api/call/")):
            return _counted(receive, MAX_BODY_BYTES), None
        body = await _whole(_counted(receive, MAX_BODY_BYTES))
        refused = (400, "files are uploaded, not fetched") if _names_address(body) else None
        return _replayed(body, receive), refused


def _takes_files(path: str) -> bool:
    return path.rstrip("/") in ("/gradio_api/upload", "/gradio_api/component_server")


def _counted(receive: Receive, most: int, storage: Storage | None = None) -> Receive:
    """`receive` that raises TooLarge once more than `most` bytes of a body have come."""
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        n = len(message.get("body", b""))
        size += n
        if storage is not None:
            storage.count(n)
        if size > most:
            raise TooLarge
        return message

    return counted


async def _whole(receive: Receive) -> bytes:
    """The body of a request; what came of it where the visitor has left."""
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out the body that was read, then what follows."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _names_address(body: bytes) -> bool:
    """Whether a request holds a file that is an address (gradio would fetch it), or is no JSON."""
    try:
        waiting: list[Any] = [json.loads(body)]
    except (ValueError, RecursionError):
        return True
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting += one
        elif isinstance(one, dict):
            if "path" in one and re.match(r"\s*[\w+.-]{2,}:", str(one["path"])):
                return True
            waiting += one.values()
    return False


class _Answer:
    """Sends what gradio answers, with the headers. The scripts of its own page get the nonce."""

    def __init__(self, send: Send, nonce: str, path: str) -> None:
        self._send, self._nonce, self._is_file = send, nonce, path.startswith("/gradio_api/file=")
        self.status = 0
        self._start: Message | None = None
        self._html: list[bytes] = []

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            kept = [(name, value) for name, value in message["headers"] if name.lower().decode("latin-1") not in HEADERS]
            policy = "; ".join(f"{name} {value}" for name, value in POLICY.items()).format(nonce=self._nonce)
            added = {**HEADERS, "content-security-policy": FILE_POLICY if self._is_file else policy}
            message = {**message, "headers": [*kept, *((n.encode(), v.encode()) for n, v in added.items())]}
            kind = next((value for name, value in kept if name.lower() == b"content-type"), b"")
            if kind.startswith(b"text/html") and not self._is_file:
                self._start = message
                return
        elif self._start is not None:
            self._html.append(message.get("body", b""))
            if message.get("more_body"):
                return
            # The values in gradio's page stand in JSON whose `<` is escaped: every tag here is its own.
            page = b"".join(self._html)
            page = _API.sub(b"window.gradio_api_info = null;</script>", page) if _LOGIN in page else page
            page = _SCRIPT.sub(b'<script nonce="' + self._nonce.encode() + b'"', page)
            headers = [(name, value) for name, value in self._start["headers"] if name.lower() != b"content-length"]
            await self._send({**self._start, "headers": [*headers, (b"content-length", str(len(page)).encode())]})
            self._start = None
            message = {**message, "body": page}
        await self._send(message)
