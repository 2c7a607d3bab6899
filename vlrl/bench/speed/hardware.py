"""What the simulation of `bench speed --simulate` knows of machines: every number with where it comes from.

Three kinds: `published` by the maker, `measured` by this project (docs/speed.md), `assumed` where neither exists. A plan is as
good as the assumed ones; each can be changed by a flag of its name. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

SOURCE_KINDS = ("published", "measured", "assumed")


def _known(value: float, kind: str, source: str) -> Any:
    assert kind in SOURCE_KINDS
    return field(default=value, metadata={"kind": kind, "source": source})


@dataclass(frozen=True)
class Hardware:
    """A cluster of GPUs. Rates in FLOP/s and bytes/s, times in seconds."""

    name: str = "H100 SXM 80 GB"
    memory_bytes: float = _known(80e9, "published", "NVIDIA H100 datasheet: 80 GB")
    gpus_per_node: int = _known(8, "published", "NVIDIA DGX H100 datasheet: 8 GPUs")
    peak_flops: float = _known(989e12, "published", "NVIDIA H100 datasheet: bf16 without sparsity")
    memory_rate: float = _known(3.35e12, "published", "NVIDIA H100 datasheet: 3.35 TB/s")
    nvlink_rate: float = _known(450e9, "published", "NVIDIA H100 datasheet: NVLink 900 GB/s, half of it each way")
    nic_rate: float = _known(50e9, "published", "NVIDIA DGX H100 datasheet: 400 Gbit/s for each GPU (ConnectX-7)")
    update_rate: float = _known(
        611e12, "measured", "docs/speed.md, one H100: 0.033 s for the 20.2 TFLOP between 128 and 256 completion tokens"
    )
    layer_pass_s: float = _known(
        0.00375, "measured", "docs/speed.md, one H100: what is left of 0.347 s, for each of 68 layers, forward and backward"
    )
    network_share: float = _known(0.8, "assumed", "of the published bandwidth that collectives reach")
    memory_share: float = _known(0.7, "assumed", "of the memory bandwidth that decoding reaches")
    prefill_share: float = _known(0.5, "assumed", "of peak_flops that an engine reaches while it reads prompts")
    engine_step_s: float = _known(0.004, "assumed", "vLLM's own time for one token of all sequences")
    own_step_s: float = _known(0.006, "assumed", "the same for transformers' generate with a CUDA graph")
    tensor_parallel_s: float = _known(20e-6, "assumed", "a layer's two all-reduces under tensor parallelism")
    sync_tensor_s: float = _known(0.004, "assumed", "sending one weight tensor to a server, beside its bytes")
    reward_s: float = _known(0.002, "assumed", "one completion's rewards on one CPU core (bench speed --what rewards measures)")

    def network_rate(self, n_gpus: int) -> float:
        """Bytes/s a GPU in a collective of so many: NVLink in a node, all network cards of a node together beyond it."""
        across = self.nic_rate * self.gpus_per_node
        rate = self.nvlink_rate if n_gpus <= self.gpus_per_node else min(self.nvlink_rate, across)
        return rate * self.network_share

    def with_values(self, **values: Any) -> Hardware:
        """The same with other numbers."""
        return replace(self, **{name: value for name, value in values.items() if value is not None})


def constants() -> list[tuple[str, float, str, str]]:
    """Name, value, kind and source of every number, as printed."""
    return [(f.name, f.default, f.metadata["kind"], f.metadata["source"]) for f in fields(Hardware) if f.metadata]  # type: ignore[misc]


def all_reduce_s(n_bytes: float, n_gpus: int, machine: Hardware) -> float:
    """Ring all-reduce: every byte crosses a link 2 (n - 1) / n times."""
    return 0.0 if n_gpus == 1 else 2 * (n_gpus - 1) / n_gpus * n_bytes / machine.network_rate(n_gpus)


def all_gather_s(n_bytes: float, n_gpus: int, machine: Hardware) -> float:
    """All-gather or reduce-scatter of so many bytes in all: half of an all-reduce."""
    return all_reduce_s(n_bytes, n_gpus, machine) / 2
