"""A request to an OpenAI-compatible chat endpoint, through the standard library alone: a message, or an error that says why.

Bounded in time and size whatever the other side does, and in tries. Not here: what is asked and what a reply means
(`vlrl.rewards.judge`, `vlrl.gtr.remote`, `vlrl.bench.engines`). Keys are sent and never shown.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

DEFAULT_BASE = "https://api.openai.com/v1"
MAX_REPLY_BYTES = 4_000_000
MAX_REFUSAL = 300
"""Characters shown of what an endpoint says of a refusal."""
_FINAL_STATUS = frozenset({400, 401, 403, 404, 405, 413, 422})
"""Refusals that asking again does not change."""
T = TypeVar("T")


class EndpointError(Exception):
    """No usable reply; the message says why. `again`: another try may help."""

    def __init__(self, message: str, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The message of the first choice, what the endpoint says it used, and why the message ended ("length": it was cut off)."""

    message: dict[str, Any]
    usage: Mapping[str, Any] = field(default_factory=dict)
    finish_reason: str | None = None

    @property
    def text(self) -> str:
        """The message's text. Raises EndpointError where it has none."""
        content = self.message.get("content")
        if not isinstance(content, str):
            raise EndpointError(f"a reply whose content is {type(content).__name__}, not text")
        return content


def base_url(given: str = "") -> str:
    """`given`, else the environment's OPENAI_API_BASE, else OpenAI's."""
    return given or os.environ.get("OPENAI_API_BASE") or DEFAULT_BASE


def chat(base: str, body: Mapping[str, Any], *, timeout_s: float, api_key: str | None = None) -> ChatReply:
    """Posts `body` to `base`/chat/completions. `api_key=None`: the environment's OPENAI_API_KEY, if any.

    Takes at most `timeout_s` to a reply's head and as long again for its body. Raises EndpointError.
    """
    headers = {"Content-Type": "application/json"}
    api_key = os.environ.get("OPENAI_API_KEY") if api_key is None else api_key
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    shown = without_secrets(base)
    try:
        url = f"{base.rstrip('/')}/chat/completions"
        request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers, method="POST")
        raw = _post(request, timeout_s)
    except urllib.error.HTTPError as error:
        said = _refusal(error, timeout_s, api_key)
        raise EndpointError(f"status {error.code} from {shown}{said}", again=error.code not in _FINAL_STATUS) from error
    except (OSError, http.client.HTTPException) as error:
        raise EndpointError(f"{shown} cannot be reached: {error}") from error
    except ValueError as error:
        raise EndpointError(f"{shown} is no address: {error}", again=False) from error
    try:
        decoded: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise EndpointError(f"{shown} replied with no JSON: {error}") from error
    try:
        choice = decoded["choices"][0]
        message = choice["message"]
        message["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError("a reply without choices[0].message.content") from error
    usage, finish_reason = decoded.get("usage"), choice.get("finish_reason")
    return ChatReply(
        message, usage if isinstance(usage, dict) else {}, finish_reason if isinstance(finish_reason, str) else None
    )


def with_tries(ask: Callable[[], T], n_tries: int, backoff_s: float) -> T:
    """What `ask` returns, tried up to `n_tries` times, `backoff_s` and then each time twice as long apart. Raises the last
    EndpointError, at once where asking again cannot help."""
    for attempt in range(1, n_tries + 1):
        try:
            return ask()
        except EndpointError as error:
            if attempt == n_tries or not error.again:
                raise EndpointError(f"try {attempt}: {error}", again=error.again) from error
        time.sleep(backoff_s * 2 ** (attempt - 1))
    raise ValueError(f"n_tries={n_tries} asks nothing; give 1 or more")


def without_secrets(base: str) -> str:
    """The address without user, password and query."""
    parts = urllib.parse.urlsplit(base)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _post(request: urllib.request.Request, timeout_s: float) -> bytes:
    """The reply's body. A socket's own time-out starts anew with every byte, so a clock beside it ends a slow head."""
    opened: list[http.client.HTTPConnection] = []
    clock = threading.Timer(timeout_s, _hang_up, [opened])
    clock.daemon = True
    clock.start()
    try:
        response = urllib.request.build_opener(_Plain(opened), _Secure(opened)).open(request, timeout=timeout_s)
    finally:
        clock.cancel()
    with response:
        return _read(response, timeout_s)


def _read(response: Any, timeout_s: float) -> bytes:
    """A body. Raises OSError for one that is too long or takes too long."""
    deadline, parts, n_bytes = time.monotonic() + timeout_s, [], 0
    while part := response.read1(65536):
        parts.append(part)
        n_bytes += len(part)
        if n_bytes > MAX_REPLY_BYTES:
            raise OSError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError(f"no end of the reply after {timeout_s:g} s")
    return b"".join(parts)


def _refusal(error: urllib.error.HTTPError, timeout_s: float, api_key: str | None) -> str:
    """What the endpoint says of a refusal, behind a colon, shortened to a line and without the key; nothing where it says
    nothing."""
    try:
        with error:
            text = _read(error, timeout_s).decode(errors="replace")
    except (OSError, http.client.HTTPException):
        return ""
    try:
        told = json.loads(text)
        told = told.get("error", told)
        text = str(told.get("message", text)) if isinstance(told, dict) else str(told)
    except (ValueError, RecursionError, AttributeError):
        pass  # no JSON object: the text as it is
    if api_key:
        text = text.replace(api_key, "***")
    line = " ".join(text.split())[:MAX_REFUSAL]
    return f": {line}" if line else ""


def _hang_up(opened: list[http.client.HTTPConnection]) -> None:
    for connection in opened:
        if connection.sock is not None:
            try:
                socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)
            except OSError:
                continue  # it is closed already


class _Plain(urllib.request.HTTPHandler):
    def __init__(self, opened: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self.opened = opened

    def http_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPConnection:
        self.opened.append(http.client.HTTPConnection(host, **options))
        return self.opened[-1]


class _Secure(urllib.request.HTTPSHandler):
    def __init__(self, opened: list[http.client.HTTPConnection]) -> None:
        super().__init__()
        self.opened = opened

    def https_open(self, request: urllib.request.Request) -> Any:
        return self.do_open(self._connection, request)

    def _connection(self, host: str, **options: Any) -> http.client.HTTPConnection:
        self.opened.append(http.client.HTTPSConnection(host, context=ssl.create_default_context(), **options))
        return self.opened[-1]
