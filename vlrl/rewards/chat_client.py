"""A request to an OpenAI-compatible chat endpoint: the reply's message, or an `EndpointError` that says why there is none.

Bounded whatever the server does: the whole request in seconds, the reply in bytes, the requests in number. Not here: the
messages and what a reply means (`vlrl.rewards.judge`, `vlrl.gtr.remote`, `vlrl.bench.engines`), tries and pauses
(`vlrl.rewards.endpoint`).

Connections are reused. Proxies come from the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), as they stand at the
first request of the process; certificates are the system's. The API key goes to the given address only: redirects are not
followed, no error message shows it, and in what the endpoint sends back it is masked. Text that comes back is whole: half a
surrogate pair, which no file or page can hold, is replaced.
"""

from __future__ import annotations

import asyncio
import email.utils
import functools
import json
import logging
import math
import os
import ssl
import threading
import time
import urllib.parse
from collections.abc import Mapping
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vlrl.answers.whole_text import whole_json
from vlrl.data.masking import MASK, MIN_KEY_CHARS, masked, without_secrets

if TYPE_CHECKING:
    import httpx

DEFAULT_BASE = "https://api.openai.com/v1"
MAX_REPLY_BYTES = 4_000_000
MAX_REFUSAL_CHARS = 300
"""Characters shown of an endpoint's own error message."""
MAX_RETRY_AFTER_S = 60.0
"""The longest wait that an endpoint can ask for (`Retry-After`)."""
_KEEP_ALIVE_S = 4.0
"""Idle connections are dropped before servers do so (uvicorn, and with it vLLM: 5 s), or a request could meet a closed one."""
_FINAL_STATUS = frozenset({400, 401, 403, 404, 405, 413, 422})
"""Statuses that another try does not change; redirects are others."""


class EndpointError(Exception):
    """No usable reply; the message says why, in one line without keys and passwords. `again`: another try may help. `wait_s`:
    the seconds the endpoint asks to wait. `is_silence`: nothing came back at all. `status`: of the reply, where one refused."""

    def __init__(
        self, message: str, again: bool = True, wait_s: float = 0.0, is_silence: bool = False, status: int | None = None
    ) -> None:
        super().__init__(" ".join(masked(message).split()))
        self.again, self.wait_s, self.is_silence, self.status = again, wait_s, is_silence, status


@dataclass(frozen=True, slots=True)
class ChatReply:
    """The message of the first choice, the token counts that the endpoint reports, and why the message ended ("length": at the
    token limit)."""

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
    """Posts `body` to `base`/chat/completions; a query in `base` is kept. Safe to call from several threads.

    `api_key=None`: the environment's OPENAI_API_KEY, if any. `user:password@` in `base`, as OPENAI_API_BASE may hold it, is
    sent instead of a key. `timeout_s`: seconds for the whole request, from the look-up of the host to the last byte. Raises
    EndpointError.
    """
    api_key = (os.environ.get("OPENAI_API_KEY", "") if api_key is None else api_key).strip()
    content, shown = _answered(base, "chat/completions", "POST", json.dumps(body).encode(), api_key, timeout_s)
    return _reply(content, shown)


def listed_models(base: str, *, timeout_s: float, api_key: str) -> list[str] | None:
    """The names that `base`/models lists; None where the endpoint has no such list (status 404, 405 or 501, or another form).
    `api_key`: "" for none; the environment's is not sent. Raises EndpointError."""
    try:
        content, _ = _answered(base, "models", "GET", b"", api_key.strip(), timeout_s)
        return [name for one in json.loads(content)["data"] if isinstance(name := one["id"], str)]
    except EndpointError as error:
        if error.status in (404, 405, 501):
            return None
        raise
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _answered(base: str, path: str, method: str, body: bytes, api_key: str, timeout_s: float) -> tuple[bytes, str]:
    """The body of a successful reply, the key masked in it, and the address as messages show it. Raises EndpointError."""
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
    if api_key:
        if not (api_key.isascii() and api_key.isprintable()):
            raise EndpointError("the API key holds a line break or a character beyond ASCII", again=False)
        headers["Authorization"] = f"Bearer {api_key}"
    url, shown = _address(base, path)
    response, content = _send(method, url, body, headers, timeout_s, shown)
    if len(api_key) >= MIN_KEY_CHARS:
        content = content.replace(api_key.encode(), MASK.encode())  # some servers and proxies repeat what they were sent
    if not response.is_success:
        raise _refusal(response, content, shown, api_key)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity":
        raise EndpointError(f"{shown} replied in the encoding {encoding:.40}, which was not requested", again=False)
    return content, shown


def _address(base: str, path: str) -> tuple[str, str]:
    """The URL of a path below `base`, and the address as error messages show it. Raises EndpointError."""
    try:
        parts = urllib.parse.urlsplit(base.strip())
        shown = without_secrets(base.strip())
        is_port = parts.port is None or parts.port > 0
    except ValueError as error:
        raise EndpointError(f"the address of the endpoint cannot be read: {error}", again=False) from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not is_port:
        raise EndpointError(f"{shown} is not an address; write http://host:port/v1 or https://host/v1", again=False)
    return parts._replace(path=f"{parts.path.rstrip('/')}/{path}", fragment="").geturl(), shown


def _send(
    method: str, url: str, content: bytes, headers: Mapping[str, str], timeout_s: float, shown: str
) -> tuple[httpx.Response, bytes]:
    """The head and the body of the reply. Raises EndpointError."""
    import httpx

    try:
        return _client(os.getpid()).send(method, url, content, headers, timeout_s)
    except TimeoutError as error:
        raise EndpointError(f"{shown} cannot be reached: no complete reply within {timeout_s:g} s", is_silence=True) from error
    except (httpx.HTTPError, OSError) as error:
        raise EndpointError(f"{shown} cannot be reached: {str(error) or type(error).__name__}", is_silence=True) from error
    except (httpx.InvalidURL, ValueError) as error:
        raise EndpointError(f"{shown} is not an address: {error}", again=False) from error


def _refusal(response: httpx.Response, content: bytes, shown: str, api_key: str) -> EndpointError:
    """The error for a status other than success, with the endpoint's own message where it gives one."""
    status, target = response.status_code, response.headers.get("Location")
    if response.is_redirect and target:
        goal = without_secrets(urllib.parse.urljoin(str(response.url), target))[:MAX_REFUSAL_CHARS]
        return EndpointError(
            f"status {status} from {shown}: it redirects to {goal}, which is not followed", again=False, status=status
        )
    message = _line_of(content) if "Content-Encoding" not in response.headers else ""
    if api_key:
        message = message.replace(api_key, MASK)
    asked_again = response.headers.get("x-should-retry", "").lower()  # as OpenAI's endpoint says whether to try again
    again = asked_again == "true" or (status not in _FINAL_STATUS and not response.is_redirect and asked_again != "false")
    wait_s = _retry_after_s(response.headers)
    line = " ".join(masked(message[: 10 * MAX_REFUSAL_CHARS]).split())[:MAX_REFUSAL_CHARS]  # masked whole, then cut
    return EndpointError(f"status {status} from {shown}{f': {line}' if line else ''}", again, wait_s, status=status)


def _line_of(content: bytes) -> str:
    """The message of an error reply: `error.message`, `message` or `error` of a JSON object, else the text as it is."""
    text = content.decode(errors="replace")
    try:
        found = json.loads(text)
        found = found.get("error", found)
        return str(found.get("message", text)) if isinstance(found, dict) else str(found)
    except (ValueError, RecursionError, AttributeError):
        return text


def _retry_after_s(headers: Mapping[str, str]) -> float:
    """The seconds that `retry-after-ms` or `Retry-After` (a number or a date) ask for, in 0..MAX_RETRY_AFTER_S; 0 for anything
    else."""
    value, unit_s = headers.get("Retry-After", ""), 1.0
    if "retry-after-ms" in headers:
        value, unit_s = headers["retry-after-ms"], 0.001
    try:
        seconds = float(value) * unit_s
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError, OSError):
            return 0.0
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else 0.0


def _reply(content: bytes, shown: str) -> ChatReply:
    """The decoded body of a successful request. Raises EndpointError."""
    try:
        decoded: Any = whole_json(json.loads(content))
    except (ValueError, RecursionError) as error:
        raise EndpointError(f"{shown} replied with no JSON: {masked(str(error)):.200}") from error
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


class _Client:
    """One HTTP client for all threads of the process.

    httpx bounds each read, so a server that sends a byte now and then would hold a request for ever. On an event loop a request
    can be ended at any point, also while a host is looked up; the loop runs in a thread of its own.
    """

    def __init__(self) -> None:
        import httpx

        logging.getLogger("httpx").setLevel(logging.WARNING)  # its INFO lines show addresses with their secrets
        try:
            self._http = httpx.AsyncClient(
                verify=ssl.create_default_context(),
                timeout=None,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=_KEEP_ALIVE_S),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:  # a SOCKS proxy without its package, a malformed one
            raise EndpointError(f"a proxy named in the environment cannot be used: {error}", again=False) from error
        self._running: set[Future[Any]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="chat client", daemon=True).start()

    def send(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[httpx.Response, bytes]:
        """Head and body of a reply, the body as it was sent, undecoded. A refusal whose body is too long or late has none.

        Raises TimeoutError, OSError for a reply over MAX_REPLY_BYTES, and httpx's errors.
        """
        request = asyncio.run_coroutine_threadsafe(self._send(method, url, content, headers, timeout_s), self._loop)
        self._running.add(request)
        try:
            return request.result()
        except CancelledError as error:
            raise EndpointError("broken off", again=False) from error
        finally:
            request.cancel()  # after a Ctrl-C; a finished request ignores it
            self._running.discard(request)

    def cancel_all(self) -> None:
        """Break off the requests under way; each ends with an EndpointError."""
        for request in tuple(self._running):
            request.cancel()

    async def _send(
        self, method: str, url: str, content: bytes, headers: Mapping[str, str], timeout_s: float
    ) -> tuple[httpx.Response, bytes]:
        import httpx

        response: httpx.Response | None = None
        body = bytearray()
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._http.stream(method, url, content=content, headers=dict(headers)) as response,
            ):
                async for part in response.aiter_raw():
                    body += part
                    if len(body) > MAX_REPLY_BYTES:
                        raise OSError(f"a reply of more than {MAX_REPLY_BYTES} bytes")
        except (httpx.HTTPError, OSError):
            if response is None or response.is_success:
                raise
            body.clear()
        assert response is not None
        return response, bytes(body)


_client_lock = threading.Lock()


def _client(pid: int) -> _Client:
    """The client of this process: the event loop of a parent does not run in a forked child."""
    with _client_lock:
        return _client_of(pid)


@functools.cache
def _client_of(pid: int) -> _Client:
    return _Client()


def cancel_requests() -> None:
    """Break off the requests of this process that are under way."""
    if _client_of.cache_info().currsize:
        _client(os.getpid()).cancel_all()
