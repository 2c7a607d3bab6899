"""A program that torchrun has started again (`--max_restarts`): its processes find each other, not those that have died."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore


@dataclass(frozen=True)
class GroupOptions:
    """How the processes of a run form a group."""

    timeout_s: int = 1800
    """`--ddp_timeout`, seconds that a process waits for the others."""
    backend: str | None = None
    """`--ddp_backend`; None: torch chooses by the devices."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> GroupOptions:
        """Those among the values of all options."""
        return cls(int(values.get("ddp_timeout") or cls.timeout_s), values.get("ddp_backend") or None)


def is_restart(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether torchrun has started this program again, with others that must be found."""
    return int(environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0 and int(environ.get("WORLD_SIZE") or 1) > 1


def join_again(options: GroupOptions, environ: Mapping[str, str] = os.environ) -> bool:
    """Join the processes of this restart, before anything else does. Returns whether there was a restart.

    torchrun keeps one store for all attempts on a machine (seen with torch 2.14): a process that looks first finds the address
    that another one had before it died, and waits for it without end. So the keys of each attempt get a prefix of their own.
    """
    if not is_restart(environ) or dist.is_initialized():
        return False
    attempt, size = int(environ["TORCHELASTIC_RESTART_COUNT"]), int(environ["WORLD_SIZE"])
    timeout = timedelta(seconds=options.timeout_s)
    agent = environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    rank = int(environ["RANK"])
    address, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    store = TCPStore(address, port, size, is_master=not agent and rank == 0, timeout=timeout, multi_tenant=not agent)
    keys = PrefixStore(f"attempt_{attempt}", store)
    dist.init_process_group(options.backend, store=keys, rank=rank, world_size=size, timeout=timeout)
    return True
