"""The part of a vLLM server that reads the weights of a training run: `vllm serve --worker-extension-cls
vlrl.models.vllm_worker.ReadsWeights`.

vLLM adds this class to its workers; their methods are called through the server's `/collective_rpc`. Each worker reads the
files by itself and takes its own part of a weight. Runs in the server's process: neither vLLM nor TRL is imported here, only
what vLLM's workers have by these names.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from vlrl.models.replaced_method import replaced_method
from vlrl.models.weight_files import WeightFilesError, read_listing, read_weights

MARK_WITHIN_S = 5.0
MOST_NAMED = 3
"""How many names of weights a message has."""


class ReadsWeights:
    """Methods of a worker of vLLM. Their names begin with `vlrl_`: vLLM refuses those that its workers have."""

    model_runner: Any
    reload_weights: Any

    vlrl_version = ""
    """The version whose weights the model has; none before the first one, and after one that was not read to its end."""

    def vlrl_state(self) -> dict[str, str]:
        """The version, and the machine that this worker runs on."""
        return {"version": self.vlrl_version, "host": socket.gethostname()}

    def vlrl_read_mark(self, path: str) -> dict[str, str]:
        """What stands in a small file, "" where this machine does not see it in time: whether the folder is shared."""
        found, until = "", time.monotonic() + MARK_WITHIN_S
        while not found and time.monotonic() < until:
            try:
                found = Path(path).read_text(encoding="utf-8")
            except OSError:
                time.sleep(0.1)
        return {"found": found, "host": socket.gethostname()}

    def vlrl_load(self, path: str) -> dict[str, str]:
        """Read a version. Raises WeightFilesError where it is not whole, or is not all of the weights of this model."""
        place = Path(path)
        listing = read_listing(place)
        self.vlrl_version = ""
        model = self.model_runner.get_model()
        theirs, wanted = model.load_weights, {name for name, _ in model.named_parameters()}
        loaded: set[str] = set()

        def load_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> Any:
            found = theirs(weights)
            loaded.update(found or ())
            return found

        try:
            with replaced_method(model, "load_weights", load_weights):
                self.reload_weights(weights_iterator=read_weights(place, listing))
            _pack_again(model)
        except WeightFilesError:
            raise
        except Exception as error:
            said = " ".join(str(error).split())[:300]
            raise WeightFilesError(f"the model of this server does not take them: {type(error).__name__}: {said}") from error
        missing = sorted(wanted - loaded) if loaded else []
        if missing and self.model_runner.model_config.quantization is None:
            raise WeightFilesError(
                f"{place} lacks {len(missing)} weights of the server's model ({', '.join(missing[:MOST_NAMED])}): another"
                " model is served"
            )
        self.vlrl_version = listing.version
        return self.vlrl_state()


def _pack_again(model: Any) -> None:
    """On a CPU vLLM multiplies by packed copies of weights. Its reloading (0.30) packs those of linear layers again, but not an
    output layer that shares its weight with the embeddings, which would go on with the first weights it had."""
    for module in model.modules():
        if hasattr(module, "cpu_linear") and module.weight.numel():
            module.quant_method.process_weights_after_loading(module)
