"""Starts a program where accelerate shards weights on CPUs too, so that FSDP2 can be tried without a GPU.

    torchrun --nproc_per_node 2 tests/engines/fsdp_on_cpu.py vlrl/train.py --fsdp ...

With KEEP_ROWS=1 no finished row is dropped while others are decoded, as where weights are sharded: then runs with and without
sharding draw the same random numbers.

accelerate leaves FSDP out, without a word, for processes on CPUs: `MULTI_CPU` is not in its list of the kinds that may shard
(`AcceleratorState.__init__`). Torch itself shards there, over gloo. For tests only: a run on CPUs gains nothing by it.
"""

import os
import runpy
import sys
from typing import Any

from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType

from vlrl.models.prefix_sharing import step
from vlrl.training import sharding

_made = AcceleratorState.__init__


def _sharding(self: AcceleratorState, *args: Any, **kwargs: Any) -> None:
    was_made = bool(AcceleratorState._shared_state)
    _made(self, *args, **kwargs)
    plugin = kwargs.get("fsdp_plugin")
    if plugin is not None and not was_made and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = plugin
        PartialState._shared_state["distributed_type"] = DistributedType.FSDP


AcceleratorState.__init__ = _sharding
sharding.SHARDING.add(DistributedType.MULTI_CPU)

if os.environ.get("KEEP_ROWS"):
    step.DROP_EVERY = 0

if __name__ == "__main__":
    sys.argv[:] = sys.argv[1:]
    sys.path.insert(0, os.getcwd())
    runpy.run_path(sys.argv[0], run_name="__main__")
