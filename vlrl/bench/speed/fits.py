"""`bench speed --what fits`: which published model fits which card, tuned in which way. Estimated, not run.

Not here: the estimate (`vlrl.models.memory`).
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

from vlrl.models.memory import GIB, Job, ModelSizes, estimate

CARD_SIZES_GB = (24, 40, 80, 141)
WAYS: dict[str, dict[str, Any]] = {
    "QLoRA": {"tuning": "qlora", "weight_bytes": 2},
    "LoRA": {"tuning": "lora", "weight_bytes": 2},
    "full, 16 bits": {"tuning": "full", "weight_bytes": 2},
    "full, 32 bits": {"tuning": "full", "weight_bytes": 4},
}
"""Columns of the table. In 16 bits small updates are rounded away; 32 bits (with `--bf16`) is the default."""


def add_fits_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--models", nargs="+", help="of those that are known (default: all)")
    add("--image_tokens", type=int, default=512)
    add("--prompt_tokens", type=int, default=100, help="text tokens besides the image")
    add("--completion_tokens", type=int, default=512, help="--max_completion_length")
    add("--group", type=int, default=8, help="completions of a prompt, and of a micro-batch")
    add("--at_once", type=int, default=16, help="completions that are written at once")
    add("--rank", type=int, default=64, help="of adapters")
    add("--no_checkpointing", action="store_true", help="keep all activations: faster, and more memory")


def run_fits(args: argparse.Namespace) -> int:
    """Print the table. Returns the exit code."""
    from vlrl.models.published_shapes import PUBLISHED_MODELS

    unknown = [name for name in args.models or () if name not in PUBLISHED_MODELS]
    if unknown:
        print(f"error: --models {unknown[0]}: known are {', '.join(PUBLISHED_MODELS)}")
        return 2
    rows = [fits_row(name, args) for name in args.models or PUBLISHED_MODELS]
    print("Estimated, not run: peak GiB, and the smallest card that holds it.\n")
    print("\n".join(fits_lines(rows)))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(args.json)
    return 0


def fits_row(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One model: its peak in bytes, by way of tuning."""
    from peft import LoraConfig

    from vlrl.models.prefix_sharing.facts import COMPARED, SLIDING, layer_types
    from vlrl.models.published_shapes import PUBLISHED_MODELS
    from vlrl.models.sizes import model_sizes

    published = PUBLISHED_MODELS[name]
    adapters = LoraConfig(r=args.rank, target_modules="all-linear")
    config = published.make_config()
    sizes = model_sizes(config, name, peft_config=adapters)
    dense = SLIDING in layer_types(config.get_text_config())
    job = replace(job_of_table(args, shared=published.model_type in COMPARED), dense_mask=dense)
    return {"model": name, "n_weights": sizes.n_weights, "peaks": peaks_of(sizes, job)}


def job_of_table(args: argparse.Namespace, *, shared: bool) -> Job:
    """A step on one card: groups one at a time, gradients kept between them."""
    return Job(
        group=args.group, rows=args.group, n_micro=8, rows_generated=args.at_once, prompt_tokens=args.prompt_tokens,
        image_tokens=args.image_tokens, completion_tokens=args.completion_tokens, shared=shared,
        checkpointing=not args.no_checkpointing, dropout=True,
    )  # fmt: skip


def peaks_of(sizes: ModelSizes, job: Job) -> dict[str, float]:
    """Peak bytes with what comes on top, for every way of tuning."""
    return {way: estimate(sizes, replace(job, **changes)).with_overhead for way, changes in WAYS.items()}


def card_for(n_bytes: float) -> str:
    """The smallest card that holds so much."""
    return next((f"{gb} GB" for gb in CARD_SIZES_GB if n_bytes <= gb * 1e9), "none")


def fits_lines(rows: list[dict[str, Any]]) -> list[str]:
    """The table, in markdown."""
    lines = ["| model | weights | " + " | ".join(WAYS) + " |", "|" + "---|" * (len(WAYS) + 2)]
    for row in rows:
        cells = [f"{peak / GIB:.0f} GiB: {card_for(peak)}" for peak in row["peaks"].values()]
        lines.append(f"| {row['model']} | {row['n_weights'] / 1e9:.1f} B | " + " | ".join(cells) + " |")
    return lines
