"""Weights that lie in parts on several devices: FSDP2 (`--fsdp`) and ZeRO-3 (`--deepspeed`).

FSDP1 is refused: its flat parameters hide what is trained from the checks of this project, and transformers has deprecated it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config

from vlrl.schema import Sample
from vlrl.training.options import ConfigError

SHARDING = {
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_MLU,
    DistributedType.MULTI_SDAA,
    DistributedType.MULTI_MUSA,
    DistributedType.MULTI_NPU,
    DistributedType.MULTI_XPU,
    DistributedType.MULTI_HPU,
    DistributedType.MULTI_NEURON,
}
"""The kinds of processes whose weights accelerate shards (`AcceleratorState.__init__`); for any other it forgets `--fsdp`."""


def check_fsdp(arguments: TrainingArguments) -> None:
    """`--fsdp` does what it says on these processes. Raises ConfigError."""
    launched = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"  # by `accelerate launch`
    if not arguments.fsdp and not launched:
        return
    settings: dict[str, Any] = arguments.fsdp_config if isinstance(arguments.fsdp_config, dict) else {}
    version = settings.get("version", 2) if arguments.fsdp else os.environ.get("FSDP_VERSION", 1)
    if int(version) != 2:
        raise ConfigError(f"FSDP{version} is not supported (--fsdp_config 'version', or accelerate's fsdp_version): use FSDP2")
    kind = PartialState().distributed_type
    if kind not in SHARDING and kind != DistributedType.FSDP:
        raise ConfigError(
            f"--fsdp: accelerate shards no weights over processes of this kind ({kind.value}) and would train as without the"
            " flag; FSDP needs one GPU or other accelerator a process. Leave it out"
        )
    kept = "FULL_STATE_DICT" if arguments.fsdp else os.environ.get("FSDP_STATE_DICT_TYPE", "SHARDED_STATE_DICT")
    sharded = str(settings.get("state_dict_type", kept))
    if "FULL" not in sharded:
        raise ConfigError(
            f"state_dict_type {sharded} (--fsdp_config, or accelerate's fsdp_state_dict_type) would leave no whole weights in"
            " checkpoints and final/; use FULL_STATE_DICT"
        )


def without_tied(model: torch.nn.Module, state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The weights gathered of a sharded model, each once: of names that share a weight (embeddings and `lm_head`) the first.

    Saving drops the others where it sees that they are one tensor, which gathered copies no longer are.
    """
    first: dict[int, str] = {}
    tied = set()
    for name, weight in model.named_parameters(remove_duplicate=False):
        if first.setdefault(id(weight), name) != name:
            tied.add(name)
    return {name: weight for name, weight in state_dict.items() if name not in tied}


def shards_weights(arguments: TrainingArguments) -> bool:
    """Whether flags take the weights apart, so that every process must run equally many passes."""
    engine = getattr(arguments, "hf_deepspeed_config", None)
    by_accelerate = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    return bool(arguments.fsdp) or by_accelerate or (engine is not None and bool(engine.is_zero3()))


def check_equal_passes(arguments: TrainingArguments, *, corrects: bool, samples: Iterable[Sample]) -> None:
    """Nothing is asked for that would let one process run more passes than another, and wait for it for ever. `samples`: those
    that are known before training; later batches are looked at as they come. Raises ConfigError."""
    if not shards_weights(arguments):
        return
    if corrects:
        raise ConfigError(
            "--corrector where weights are sharded (FSDP, ZeRO-3): processes imitate unequal numbers of thoughts, which would"
            " hang; use DDP or ZeRO-2, or --corrector none"
        )
    seeing = [bool(sample.images or sample.video) for sample in samples]
    if any(seeing) and not all(seeing):
        raise ConfigError(
            f"{sum(seeing):,} of {len(seeing):,} samples have images or a video and the others have none, which hangs where"
            " weights are sharded (FSDP, ZeRO-3); use DDP or ZeRO-2, or train on them apart"
        )


def join_engine(arguments: TrainingArguments) -> None:
    """Let DeepSpeed know of the processes, before a model is loaded: ZeRO-3 takes each weight apart as it is read."""
    if not arguments.deepspeed:
        return
    import deepspeed

    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


@contextmanager
def loading_alone(arguments: TrainingArguments) -> Iterator[None]:
    """Within, a model that this process loads is its own and whole: with ZeRO-3, transformers would take it apart over all
    processes, and wait for them."""
    engine = getattr(arguments, "hf_deepspeed_config", None)
    if engine is None:
        yield
        return
    unset_hf_deepspeed_config()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        set_hf_deepspeed_config(engine)  # type: ignore[no-untyped-call]
