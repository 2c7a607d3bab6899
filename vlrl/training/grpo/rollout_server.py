"""A vLLM server that writes completions of the weights it reads from files: what it is asked over HTTP.

Prompts go as tokens, with a placeholder for each image and the image itself beside them; the server answers with the prompt as
it read it, the tokens and their log-probabilities. The server is vLLM's own, with `vlrl.models.vllm_worker` in its workers and
its development endpoints on. One process of a run talks to it.

Not here: which weights it should have, and when (`served_generation.py`).
"""

from __future__ import annotations

import asyncio
import base64
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx

EXTENSION = "vlrl.models.vllm_worker.ReadsWeights"
HOW_TO_SERVE = (
    "VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --enable-scale-out --logprobs-mode processed_logprobs"
    f" --worker-extension-cls {EXTENSION}"
)
"""How such a server is started; the environment needs vlrl too."""
GENERATE = "/inference/v1/generate"
N_AT_ONCE = 64
CONNECT_S, READ_S = 10.0, 3600.0
"""How long the server may take to take a connection, and to answer: a prompt waits for all that are written before it."""
TIMEOUT = httpx.Timeout(READ_S, connect=CONNECT_S, pool=None)
NOT_REPORTED = -9999.0
POLL_S, RESET_S = 0.5, 10.0


class ServerError(RuntimeError):
    """The server cannot do what it is asked; one line."""


class ServerGone(ServerError):
    """No server answers."""


@dataclass(frozen=True)
class ServedPrompt:
    """`ids` with one placeholder for each of the `images`."""

    ids: list[int]
    images: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Written:
    """The completions of a prompt: the prompt as the server read it, tokens and their log-probabilities."""

    prompt_ids: list[int]
    completion_ids: list[list[int]]
    logprobs: list[list[float]]


class RolloutServer:
    """The server at `url`, which may take `timeout_s` to start, or to start again."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self.url, self.timeout_s = url.rstrip("/").removesuffix("/v1"), timeout_s
        self._http = httpx.Client(timeout=TIMEOUT)
        self.model = ""

    def __str__(self) -> str:
        return f"the vLLM server at {self.url}"

    def close(self) -> None:
        self._http.close()

    def wait(self) -> None:
        """Until it is up. Raises ServerGone after `timeout_s`."""
        until = time.monotonic() + self.timeout_s
        while True:
            try:
                found = self._http.get(f"{self.url}/health", timeout=CONNECT_S).status_code
                if found == 200:
                    return
                why = f"/health: {found}"
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ServerError(f"--vllm_server_base_url {self.url}: {error}") from error
            except httpx.HTTPError as error:
                why = str(error) or type(error).__name__
            if time.monotonic() >= until:
                raise ServerGone(
                    f"no vLLM server answered at {self.url} for {self.timeout_s:g} s ({why}; --vllm_server_timeout). Start it:"
                    f" {HOW_TO_SERVE}"
                )
            time.sleep(POLL_S)

    def check(self, folder: Path) -> None:
        """It can do what is asked here, and sees `folder`. Raises ServerError, OSError."""
        self.model = str(self._get("/v1/models")["data"][0]["id"])
        self._needs("/server_info", "VLLM_SERVER_DEV_MODE=1 in its environment")
        self._needs(GENERATE, "--enable-scale-out")
        config = self.get_server_info()
        if (config.get("parallel_config") or {}).get("worker_extension_cls") != EXTENSION:
            raise ServerError(f"{self} cannot read weights: start it with --worker-extension-cls {EXTENSION}")
        mode = config["model_config"]["logprobs_mode"]
        if mode != "processed_logprobs":
            raise ServerError(
                f"{self} runs with --logprobs-mode {mode}, whose log-probabilities are not those that it"
                " samples with: start it with --logprobs-mode processed_logprobs"
            )
        self._check_shared(folder)

    def _needs(self, path: str, how: str) -> None:
        """Raises ServerError where the server has no such endpoint; GET is enough to know."""
        with self._says(path):
            found = self._http.get(f"{self.url}{path}").status_code
        if found == 404:
            raise ServerError(f"{self} does not have {path}: start it with {how}")

    def _check_shared(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        mark = folder / f"seen-{uuid.uuid4().hex}"
        mark.write_text(mark.name, encoding="utf-8")
        try:
            for found in self._call("vlrl_read_mark", str(mark)):
                if found["found"] != mark.name:
                    raise ServerError(
                        f"{self} (on {found['host']}) does not see {folder}, where this run writes its"
                        " weights: name a folder that both see by the same path (--rollout_weights)"
                    )
        finally:
            mark.unlink(missing_ok=True)

    def get_server_info(self) -> dict[str, Any]:
        """Its configuration; TRL asks by this name."""
        found: dict[str, Any] = self._get("/server_info?config_format=json")["vllm_config"]
        return found

    @property
    def dtype(self) -> str:
        """The number format that it computes in, as torch names it; "" with quantised weights."""
        config = self.get_server_info()["model_config"]
        return "" if config.get("quantization") else str(config["dtype"]).removeprefix("torch.")

    def version(self) -> str:
        """The version of its weights, "" where it has none of a run. Raises ServerError where its workers differ."""
        found = {one["version"] for one in self._call("vlrl_state")}
        if len(found) != 1:
            raise ServerError(f"the workers of {self} have different weights: {', '.join(sorted(found))}")
        return str(found.pop())

    def load(self, place: Path) -> None:
        """Read a version; what it remembers of prompts and images by the weights before is forgotten. Raises ServerError."""
        found = self._call("vlrl_load", str(place))
        if any(one["version"] != place.name for one in found):
            raise ServerError(f"{self} has not read {place}: {found}")
        until = time.monotonic() + RESET_S
        while not self._post("/reset_prefix_cache", {}).get("success", True):
            if time.monotonic() >= until:
                raise ServerError(f"{self} answers others while it reads weights: a run needs a server of its own")
            time.sleep(0.1)
        self._post("/reset_encoder_cache", {})

    def complete(self, prompts: Sequence[ServedPrompt], sampling: Mapping[str, Any]) -> list[Written]:
        """Completions of each prompt, `sampling["n"]` of them. Raises ServerError with the first that failed."""

        async def all_of_them() -> list[Written]:
            limits = httpx.Limits(max_connections=N_AT_ONCE, max_keepalive_connections=N_AT_ONCE)
            async with httpx.AsyncClient(timeout=TIMEOUT, limits=limits) as http, asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._complete(http, prompt, sampling)) for prompt in prompts]
            return [task.result() for task in tasks]

        try:
            return asyncio.run(all_of_them())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _complete(self, http: httpx.AsyncClient, prompt: ServedPrompt, sampling: Mapping[str, Any]) -> Written:
        words: dict[str, Any] = {
            "request_id": f"vlrl-{uuid.uuid4().hex}",
            "model": self.model,
            "token_ids": prompt.ids,
            "sampling_params": dict(sampling),
            "return_token_ids": True,
        }
        if prompt.images:
            words["content_parts"] = [{"type": "image_url", "url": _as_url(image)} for image in prompt.images]
        with self._says(GENERATE):
            found = self._read(GENERATE, await http.post(f"{self.url}{GENERATE}", json=words))
        choices = sorted(found["choices"], key=lambda one: int(one["index"]))
        if len(choices) != sampling.get("n", 1):
            raise ServerError(f"{self} wrote {len(choices)} completions of {sampling.get('n', 1)}")
        logprobs = [[entry["logprob"] for entry in one["logprobs"]["content"]] for one in choices]
        if any(logprob <= NOT_REPORTED for own in logprobs for logprob in own):
            raise ServerError(f"{self} did not report the log-probability of a token that it wrote")
        return Written(list(found["prompt_token_ids"]), [list(one["token_ids"]) for one in choices], logprobs)

    def _call(self, method: str, *args: str) -> list[dict[str, str]]:
        """What each worker answers."""
        found: list[dict[str, str]] = self._post("/collective_rpc", {"method": method, "args": list(args)})["results"]
        return found

    def _get(self, path: str) -> Any:
        with self._says(path):
            return self._read(path, self._http.get(f"{self.url}{path}"))

    def _post(self, path: str, words: Mapping[str, Any]) -> Any:
        with self._says(path):
            return self._read(path, self._http.post(f"{self.url}{path}", json=words))

    @contextmanager
    def _says(self, path: str) -> Iterator[None]:
        """What goes wrong on the way becomes a ServerError."""
        try:
            yield
        except httpx.ReadTimeout as error:
            raise ServerError(f"{self} did not answer {path} within {READ_S:g} s") from error
        except httpx.HTTPError as error:
            raise ServerGone(f"{self} is gone ({path}: {str(error) or type(error).__name__})") from error

    def _read(self, path: str, answer: httpx.Response) -> Any:
        if answer.status_code != 200:
            raise ServerError(f"{self} refused {path} ({answer.status_code}): {_said(answer)}")
        return answer.json() if answer.content else {}


def _said(answer: httpx.Response) -> str:
    """The message of an answer, in one line."""
    try:
        found = answer.json()
        found = found.get("error", found)
        text = str(found.get("message", found)) if isinstance(found, dict) else str(found)
    except (ValueError, AttributeError):
        text = answer.text
    return " ".join(text.split())[:400]


def _as_url(image: Any) -> str:
    """The image, without loss, as text."""
    held = BytesIO()
    image.save(held, format="PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(held.getvalue()).decode('ascii')}"
