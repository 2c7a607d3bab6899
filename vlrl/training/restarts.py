"""A program that torchrun has started again (`--max_restarts`): its processes find each other, not those that have died."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

TIMEOUT_S = 1800
"""As `--ddp_timeout` has it by default; flags are not read yet when a restart joins."""


def join_again(environ: Mapping[str, str] = os.environ) -> bool:
    """Join the processes of this restart, before anything else does. Returns whether there was a restart.

    torchrun keeps one store for all attempts on a machine (seen with torch 2.14): a process that looks first finds the address
    that another one had before it died, and waits for it without end. So the keys of each attempt get a prefix of their own.
    """
    attempt, size = int(environ.get("TORCHELASTIC_RESTART_COUNT") or 0), int(environ.get("WORLD_SIZE") or 1)
    if attempt == 0 or size == 1 or dist.is_initialized():
        return False
    timeout = timedelta(seconds=TIMEOUT_S)
    agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    rank = int(environ["RANK"])
    address, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    store = TCPStore(address, port, size, is_master=not agent and rank == 0, timeout=timeout, multi_tenant=not agent)
    keys = PrefixStore(f"attempt_{attempt}", store)
    dist.init_process_group(store=keys, rank=rank, world_size=size, timeout=timeout)
    return True
