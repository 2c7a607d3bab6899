"""Talking to an OpenAI-compatible endpoint through the standard library alone: one request, and a few tries of one.

The key is read from the environment (OPENAI_API_KEY) and shown nowhere. Not here: what is asked (`vlrl.rewards.judge`,
`vlrl.bench.engines`).
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

DEFAULT_BASE = "https://api.openai.com/v1"
FINAL_STATUS = frozenset({400, 401, 403, 404, 405, 413, 422})
"""Refusals that asking again does not change."""
T = TypeVar("T")


class EndpointError(Exception):
    """No usable reply; the message says why. `again`: another try may help."""

    def __init__(self, message: str, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


def chat(body: Mapping[str, Any], base: str, timeout_s: float) -> tuple[str, Mapping[str, Any]]:
    """The text of the first choice of a chat completion, and the whole decoded reply. Raises EndpointError."""
    headers = {"Content-Type": "application/json"}
    api_key = os.environ.get("OPENAI_API_KEY")
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    url = f"{base.rstrip('/')}/chat/completions"
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            decoded: Any = json.loads(response.read())
    except urllib.error.HTTPError as error:
        raise EndpointError(f"status {error.code} from {base}", again=error.code not in FINAL_STATUS) from error
    except (OSError, http.client.HTTPException) as error:
        raise EndpointError(f"{base} cannot be reached: {error}") from error
    except ValueError as error:
        raise EndpointError(f"{base} replied with no JSON: {error}") from error
    try:
        content = decoded["choices"][0]["message"]["content"]
    except (KeyError, IndexError, TypeError) as error:
        raise EndpointError("a reply without choices[0].message.content") from error
    if not isinstance(content, str):
        raise EndpointError(f"a reply whose content is {type(content).__name__}, not text")
    return content, decoded


def with_tries(ask: Callable[[], T], n_tries: int, backoff_s: float) -> T:
    """What `ask` returns, tried up to `n_tries` times, `backoff_s` and then each time twice as long apart. Raises the last
    EndpointError, at once where asking again cannot help."""
    for attempt in range(1, n_tries + 1):
        try:
            return ask()
        except EndpointError as error:
            if attempt == n_tries or not error.again:
                raise EndpointError(f"try {attempt}: {error}") from error
        time.sleep(backoff_s * 2 ** (attempt - 1))
    raise ValueError(f"n_tries={n_tries} asks nothing; give 1 or more")
