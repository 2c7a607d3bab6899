"""Fuzzed completions in two processes (`fuzz_rewards.py` does one): exceptions, values out of range, calls of over half a second."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

import fuzz_rewards
from overnight import Row

N_PROCESSES = 2


def run(n: int, seed: int) -> list[Row]:
    """`n` completions against every reward and reader."""
    share = -(-n // N_PROCESSES)
    parts = [(start, min(share, n - start)) for start in range(0, n, share)]
    with ProcessPoolExecutor(N_PROCESSES) as pool:
        made = [pool.submit(fuzz_rewards.fuzz, size, seed, start) for start, size in parts]
        counts = [count for one in made for count in one.result().items()]
    calls = sum(count.calls for _, count in counts)
    where = [f"{name}: {place}" for name, count in counts for place in count.where]
    slowest_s, name, number = max((count.slowest_s, name, count.slowest) for name, count in counts)
    notes = f"{n:,} completions; " + ("; ".join(where[:3]) or f"slowest call {slowest_s:.2f} s ({name}, completion {number})")
    return [
        Row("fuzz: calls that raise", calls, sum(count.raised for _, count in counts), notes),
        Row("fuzz: values out of range", calls, sum(count.out_of_range for _, count in counts)),
        Row("fuzz: calls of over 0.5 s", calls, sum(count.too_slow for _, count in counts)),
    ]
