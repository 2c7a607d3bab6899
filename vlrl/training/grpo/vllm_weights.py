"""Weights of vLLM in the trainer's own processes (`--vllm_mode colocate`) that updates reach, on CPUs too.

On a CPU with AVX-512 and bfloat16, vLLM (0.30) multiplies by packed copies of weights. Of linear layers it keeps no weight
beside them, so that TRL's weights of an update have nowhere to go (an AttributeError); an output layer goes on with its first
copy, and nothing is said. On a GPU nothing is packed.

Not here: the causal convolutions of models with linear attention, which stay packed on such a CPU; and a server that reads
weights from files, which packs them again by itself (`vlrl.models.vllm_worker`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import functional

from vlrl.models.replaced_method import replaced_method


@contextmanager
def loadable_weights() -> Iterator[None]:
    """Within, an engine made on a CPU multiplies by the weights themselves. vLLM must be installed."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        yield
        return
    from vllm.model_executor.layers import utils

    theirs = utils.dispatch_cpu_unquantized_gemm

    def dispatch(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim == 2:
            layer.cpu_linear = functional.linear
        else:  # convolutions, whose kernels read packed weights
            theirs(layer, remove_weight)

    with replaced_method(utils, "dispatch_cpu_unquantized_gemm", dispatch):
        yield
