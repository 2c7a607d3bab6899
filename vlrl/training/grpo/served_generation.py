"""A vLLM server that reads the weights of the run from files (`--vllm_mode server --vllm_weight_transport files`), in the
place of TRL's `VLLMGeneration`: no NCCL, so that the server may run on a CPU, on another node, or in another process.

Before it writes, the server must have the very version of the weights that the run has written for it; after it, still. A
server that was started again reads them again. What it read as a prompt must be the trainer's, token by token. The first
process of the run talks to the server; what stops it stops all.

Not here: the folder (`vlrl.models.weight_files`), the server's answers (`rollout_server.py`), when weights are sent
(`rollout_lag.py`).
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from safetensors import SafetensorError
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import grpo_trainer

from vlrl.models.replaced_method import replaced_method
from vlrl.models.weight_files import remove_weights, version_name, write_weights
from vlrl.training.checkpoints import RunStopped, stop_together
from vlrl.training.grpo.rollout_server import RolloutServer, ServedPrompt, ServerError, ServerGone, Written
from vlrl.training.grpo.vllm_prompts import ImageBlock, group_size, what_differs
from vlrl.training.options import ConfigError

WrittenRows = tuple[list[list[int]], list[list[list[float]]]]
"""Tokens and log-probabilities of completions, row by row, the latter as TRL takes them."""


class ServedGeneration(VLLMGeneration):
    """TRL's generation by a server that reads `folder`. Set `step_now` and `safe` once the trainer is made."""

    step_now: Callable[[], int] = staticmethod(lambda: 0)
    """How many updates the weights have had."""
    safe: Callable[[], str] = staticmethod(lambda: "")
    """A sentence about what is saved, for a run that ends here."""

    def __init__(self, *args: Any, folder: Path, processor: Any, **kwargs: Any) -> None:
        """Raises ConfigError where the server cannot do what is needed, ValueError as `ImageBlock.of` does."""
        self.folder, self.block = folder.absolute(), ImageBlock.of(processor)  # a link may be all that both see
        self.run, self._n_written = uuid.uuid4().hex[:8], 0
        self.version = ""
        """The version that is written for the server, on every process."""
        self._loaded: str | None = None
        """The version that the server was last made to read."""
        self._under_way: _UnderWay | None = None
        super().__init__(*args, **kwargs)

    def _init_vllm(self) -> None:
        """In the place of TRL's, which opens NCCL."""
        url = str(self.server_base_url or f"http://{self.server_host}:{self.server_port}")
        self.server = RolloutServer(url, self.server_timeout)
        self.vllm_client: Any = self.server  # TRL asks it for its settings

        def start() -> str:
            self.server.wait()
            remove_weights(self.folder)
            self.server.check(self.folder)
            return self.server.dtype

        try:
            self.dtype: str = self._by_first(start)
        except RunStopped as error:
            raise ConfigError(str(error)) from error

    # -- weights -------------------------------------------------------------------------------------------------------

    def sync_weights(self) -> None:
        """Write the weights as they are now; the server reads them before it writes again. On every process."""
        self._finish_under_way()
        self._n_written += 1
        version = version_name(self.step_now(), f"{self.run}-{self._n_written}")
        failure = ""
        if self.accelerator.is_main_process:
            remove_weights(self.folder, keep={self._loaded or ""})
            try:
                narrow = getattr(torch, self.dtype, None) if self.dtype else None
                write_weights(self.folder, version, self._weights(), narrow)
            except (OSError, SafetensorError) as error:
                failure = f"{type(error).__name__}: {error}"
        else:
            for _ in self._weights():  # gathered from all processes
                pass
        stop_together(failure, self.folder, f"the weights for the vLLM server ({version})")
        self.version = version

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole ones, adapters merged into them."""
        found: Iterator[tuple[str, torch.Tensor]] = self._iter_named_params()  # type: ignore[no-untyped-call]
        return found

    def _ready(self) -> None:
        """The server has the weights of this version. Raises ServerError where another run sends it others."""
        server = self.server
        found = server.version()
        if found == self.version:
            return
        if found and self._loaded and found != self._loaded:
            raise ServerError(
                f"{server} has the weights {found}, which another run has sent it; this run sent {self._loaded}: each run needs"
                " a server of its own"
            )
        server.load(self.folder / self.version)
        self._loaded = self.version
        remove_weights(self.folder, keep={self.version})

    # -- completions ---------------------------------------------------------------------------------------------------

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """TRL's four results for these rows. Raises RunStopped on all processes."""
        self._finish_under_way()
        self.begin(prompts, images)
        ids, logprobs = self.finish()
        return list(prompts), ids, logprobs, None

    def begin(self, prompts: list[list[int]], images: Any) -> None:
        """Let the server write these rows; what is trained may change meanwhile. On every process."""
        assert self._under_way is None
        own = list(zip(prompts, [None] * len(prompts) if images is None else images, strict=True))
        rows = gather_object(own)
        ends = [0]
        for n in gather_object([len(own)]):
            ends.append(ends[-1] + n)
        self._under_way = _UnderWay(ends)
        if self.accelerator.is_main_process:
            version = self.version
            self._under_way.start(lambda: self._written(rows, version))

    def finish(self) -> WrittenRows:
        """What the server has written since `begin`, of this process' rows. Raises RunStopped on all processes."""
        assert self._under_way is not None
        under_way, self._under_way = self._under_way, None
        ids, logprobs = self._by_first(under_way.result)
        rank = self.accelerator.process_index
        own = slice(under_way.ends[rank], under_way.ends[rank + 1])
        return ids[own], logprobs[own]

    @property
    def is_under_way(self) -> bool:
        return self._under_way is not None

    def _finish_under_way(self) -> None:
        """Wait for what nobody will ask for; a server that writes must not read weights."""
        if self._under_way is not None:
            self.finish()

    def close(self) -> None:
        """The run is over: what is under way ends, and the files go."""
        if self.accelerator.is_main_process:
            self.server.close()
            remove_weights(self.folder)

    def _written(self, rows: Sequence[tuple[list[int], Any]], version: str) -> WrittenRows:
        """The completions of all rows by this version; a server that goes away is waited for once."""
        prompts, images = [ids for ids, _ in rows], [shown for _, shown in rows]
        n = group_size(prompts, images)
        asked = [
            ServedPrompt(self.block.collapsed(ids, len(shown or ())), tuple(shown or ()))
            for ids, shown in zip(prompts[::n], images[::n], strict=True)
        ]
        try:
            found = self._complete(asked, n, version)
        except ServerGone:
            self.server.wait()
            found = self._complete(asked, n, version)
        self._check_read([one.prompt_ids for one in found], prompts[::n])
        return (
            [ids for one in found for ids in one.completion_ids],
            [[[logprob] for logprob in own] for one in found for own in one.logprobs],
        )

    def _complete(self, asked: Sequence[ServedPrompt], n: int, version: str) -> list[Written]:
        self._ready()
        found = self.server.complete(asked, self._sampling(n))
        if (now := self.server.version()) != version:
            raise ServerError(
                f"the weights of {self.server} were changed from {version} to {now or 'others'} while it wrote: each run"
                " needs a server of its own"
            )
        return found

    def _sampling(self, n: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "n": n,
            "repetition_penalty": self.repetition_penalty,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p or 0.0,
            "max_tokens": self.max_completion_length,
            "logprobs": self.logprobs,
        }
        if self.structured_outputs_regex is not None:
            found["structured_outputs"] = {"regex": self.structured_outputs_regex}
        return {**found, **self.generation_kwargs, "n": n}

    def _check_read(self, read: Sequence[list[int]], ours: Sequence[list[int]]) -> None:
        pairs = zip(read, ours, strict=True)
        differs = next((what_differs(theirs, ids, self.block.token) for theirs, ids in pairs if theirs != ids), None)
        if differs is not None:
            raise RunStopped(
                f"{self.server} samples from other prompts than the trainer learns from, so that nothing would be learnt:"
                f" {differs}. Its image processor or tokenizer differs from the trainer's: serve the same model folder; with"
                " --min_pixels or --max_pixels give the server the limits too (--mm-processor-kwargs, docs/scale.md)"
            )

    def _by_first(self, find: Callable[[], Any]) -> Any:
        """What the first process finds, on all. Raises RunStopped on all where the server cannot, or will not."""
        shared: list[Any] = [None, ""]
        failure: Exception | None = None
        if self.accelerator.is_main_process:
            try:
                shared[0] = find()
            except Exception as error:  # noqa: BLE001 (raised below, once the others know)
                shared[1], failure = str(error) or type(error).__name__, error
        if self.accelerator.num_processes > 1:
            broadcast_object_list(shared)
        if failure is not None and not isinstance(failure, ServerError | RunStopped | OSError):
            raise failure
        if shared[1]:
            raise RunStopped(f"{shared[1]}. {self.safe()}".rstrip(". "))
        return shared[0]


class _UnderWay:
    """WrittenRows that are being written. `ends`: where the rows of each process begin and end among all."""

    def __init__(self, ends: list[int]) -> None:
        self.ends = ends
        self._found: Any = None
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def start(self, write: Callable[[], Any]) -> None:
        def run() -> None:
            try:
                self._found = write()
            except Exception as error:  # noqa: BLE001 (raised where the rows are asked for)
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True, name="rollouts")
        self._thread.start()

    def result(self) -> Any:
        assert self._thread is not None
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._found


@contextmanager
def generation_by_files(folder: Path | None, processor: Any) -> Iterator[None]:
    """Within, a trainer of TRL that is made samples by a server that reads `folder`; None: as TRL does."""
    if folder is None:
        yield
        return

    def make(*args: Any, **kwargs: Any) -> ServedGeneration:
        return ServedGeneration(*args, folder=folder, processor=processor, **kwargs)

    with replaced_method(grpo_trainer, "VLLMGeneration", make):
        yield
