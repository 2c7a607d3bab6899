"""vLLM on CPUs in the trainer's own processes (`--vllm_mode colocate`): updates reach all of its weights, and runs leave each
other alone. With GPUs nothing is changed.

On a CPU with AVX-512 and bfloat16, vLLM (0.30) multiplies by packed copies of weights. Of linear layers it keeps no weight
beside them, so that TRL's weights of an update have nowhere to go (an AttributeError); an output layer goes on with its first
copy, and nothing is said. With tensor parallelism its processes talk through shared memory there, under a name that is the
same for all runs of a machine and that stays behind when a run ends, so that the next one fails (errno 17).

Not here: the causal convolutions of models with linear attention, which stay packed on such a CPU; and a server that reads
weights from files, which packs them again by itself (`vlrl.models.vllm_worker`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn import functional

from vlrl.models.replaced_method import replaced_method

SHARES_MEMORY = "_all_group_ranks_share_shm_group_name"
"""What vLLM asks itself before its processes share memory; where the answer is no they talk through torch.distributed."""


@contextmanager
def fit_for_training() -> Iterator[None]:
    """Within, an engine made on a CPU multiplies by the weights themselves and shares no memory. vLLM must be installed."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        yield
        return
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator
    from vllm.model_executor.layers import utils

    theirs = utils.dispatch_cpu_unquantized_gemm

    def dispatch(layer: Any, remove_weight: bool) -> None:
        if layer.weight.ndim == 2:
            layer.cpu_linear = functional.linear
        else:  # convolutions, whose kernels read packed weights
            theirs(layer, remove_weight)

    before = getattr(CpuCommunicator, SHARES_MEMORY)
    setattr(CpuCommunicator, SHARES_MEMORY, lambda _self: False)
    try:
        with replaced_method(utils, "dispatch_cpu_unquantized_gemm", dispatch):
            yield
    finally:
        setattr(CpuCommunicator, SHARES_MEMORY, before)
