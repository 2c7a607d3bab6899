"""`bench speed --simulate`: a plan for models of 3B to 72B on 8 to 512 GPUs. Nothing of it was run: every number is simulated.

For each size and number of GPUs the first engine whose memory fits, in the order in which they are simple (DDP, ZeRO-2, ZeRO-3
or FSDP2 with vLLM in the training processes), then a step in every mode of the rollout and who waits for whom. Before the plan
the same simulation is compared with steps that were measured (`vlrl.bench.speed.measured`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

from vlrl.bench.speed.hardware import Hardware, constants
from vlrl.bench.speed.measured import comparisons
from vlrl.bench.speed.simulator import ClusterPlan, Lengths, StepTimes, balanced, simulate
from vlrl.bench.speed.step_costs import micro_batches_of
from vlrl.models.memory import ENGINES, GIB, OVERHEAD_BYTES, Job, Memory, ModelSizes, estimate

PLANNED_SIZES = {size: f"Qwen/Qwen2.5-VL-{size}-Instruct" for size in ("3B", "7B", "32B", "72B")}
PARALLEL = (1, 2, 4, 8)
ENGINE_CACHE = 4 * GIB
"""Keys and values that an engine should have room for, for each GPU."""
N_TRIED = 3
"""Steps that a layout is tried for while the best is looked for."""
ENGINE_NAMES = {"ddp": "DDP", "zero2": "ZeRO-2", "zero3": "ZeRO-3", "fsdp2": "FSDP2"}


@dataclass(frozen=True)
class PlanRow:
    """One line of the plan. `layout`: None where nothing fits."""

    size: str
    n_gpus: int
    mode: str
    layout: ClusterPlan | None
    memory: Memory | None = None
    times: StepTimes | None = None


def add_simulate_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--sizes", nargs="+", choices=list(PLANNED_SIZES), default=list(PLANNED_SIZES), help="of Qwen2.5-VL")
    add("--gpus", nargs="+", type=int, default=[8, 32, 128, 512], help="how many GPUs (multiples of 8)")
    add("--tuning", choices=("full", "lora"), default="full", help="all weights, or adapters of rank 64")
    add("--rows", type=int, default=16, help="completions a GPU and step")
    add("--group", type=int, default=8, help="completions of a prompt")
    add("--image_tokens", type=int, default=1024)
    add("--prompt_tokens", type=int, default=100, help="text tokens besides the image")
    add("--median_tokens", type=int, default=200, help="median length of a completion")
    add("--spread", type=float, default=0.6, help="standard deviation of the logarithm of lengths")
    add("--longest", type=int, default=1024, help="--max_completion_length")
    add("--beta", type=float, default=0.0, help="above 0: a reference model is held")
    add("--lag", type=int, default=1, help="updates that completions of a server may be old")
    add("--steps", type=int, default=10, help="steps to simulate")
    add("--seed", type=int, default=0)
    add("--constants", action="store_true", help="also print every constant with its source")
    for name, value, kind, source in constants():
        add(f"--{name}", type=float, help=f"{kind}: {source} (default {value:g})")


def machine_of(args: argparse.Namespace) -> Hardware:
    """The machine, with the constants that flags replace."""
    changed = {name: getattr(args, name) for name, *_ in constants() if getattr(args, name) is not None}
    if "gpus_per_node" in changed:
        changed["gpus_per_node"] = int(changed["gpus_per_node"])
    return Hardware().with_values(**changed)


@cache
def published_sizes(name: str, tuning: str) -> ModelSizes:
    """A published model, counted; with adapters of rank 64 where these are trained."""
    from peft import LoraConfig

    from vlrl.models.published_shapes import PUBLISHED_MODELS
    from vlrl.models.sizes import model_sizes

    adapters = LoraConfig(r=64, target_modules="all-linear") if tuning == "lora" else None
    return model_sizes(PUBLISHED_MODELS[name].make_config(), name, peft_config=adapters)


def job_of(args: argparse.Namespace) -> Job:
    """What one training process does, before an engine is chosen. Processes without whole groups share no prompts."""
    shared = args.rows % args.group == 0
    rows = args.group if shared else min(args.rows, args.group)
    return Job(
        tuning=args.tuning, weight_bytes=4 if args.tuning == "full" else 2, compute_bytes=2, group=args.group, rows=rows,
        n_micro=micro_batches_of(args.rows, rows), rows_generated=args.rows, shared=shared, prompt_tokens=args.prompt_tokens,
        image_tokens=args.image_tokens, completion_tokens=args.longest, checkpointing=True, reference=args.beta > 0,
    )  # fmt: skip


def fits(memory: Memory, machine: Hardware) -> bool:
    return memory.peak + OVERHEAD_BYTES <= machine.memory_bytes


def first_engine(
    model: ModelSizes, job: Job, n_training: int, mode: str, parallel: int, machine: Hardware
) -> tuple[Job, Memory] | None:
    """The first engine that fits, beside vLLM's weights over `parallel` GPUs in colocate mode. None where none does."""
    for engine in ENGINES:
        share = 2.0 * model.n_weights / parallel + ENGINE_CACHE if mode == "colocate" else 0.0
        tried = replace(job, engine=engine, processes=n_training, vllm_bytes=share, gathers=mode == "own")
        # Asleep during the update, the engine holds nothing; during the rollout there are no gradients yet.
        awake, asleep = estimate(model, tried), estimate(model, replace(tried, vllm_bytes=0.0))
        memory = {"own": awake, "colocate": replace(awake, update=asleep.update), "server": replace(asleep, rollout=0.0)}[mode]
        if fits(memory, machine):
            return tried, memory
    return None


def engine_width(model: ModelSizes, machine: Hardware) -> int:
    """GPUs of a server that hold a model's weights with as much cache."""
    for parallel in PARALLEL:
        if 2.0 * model.n_weights / parallel + ENGINE_CACHE + OVERHEAD_BYTES <= 0.9 * machine.memory_bytes:
            return parallel
    return PARALLEL[-1]


def planned_rows(args: argparse.Namespace, machine: Hardware) -> list[PlanRow]:
    """Every size, number of GPUs and mode."""
    rows = []
    lengths = Lengths(args.median_tokens, args.spread, args.longest)
    for size in args.sizes:
        model = published_sizes(PLANNED_SIZES[size], args.tuning)
        for n_gpus in args.gpus:
            for mode in ("own", "colocate", "server"):
                plan, memory = _layout(model, args, n_gpus, mode, lengths, machine)
                times = None if plan is None else simulate(plan, machine, steps=args.steps, seed=args.seed)
                rows.append(PlanRow(size, n_gpus, mode, plan, memory, times))
    return rows


def _layout(
    model: ModelSizes, args: argparse.Namespace, n_gpus: int, mode: str, lengths: Lengths, machine: Hardware
) -> tuple[ClusterPlan | None, Memory | None]:
    """The plan of a mode with the width of an engine that writes most tokens a second, and its memory."""
    best: tuple[float, ClusterPlan, Memory] | None = None
    for parallel in PARALLEL if mode != "own" else (1,):
        if parallel > n_gpus or (mode == "server" and parallel < engine_width(model, machine)):
            continue
        job = replace(job_of(args), engine="zero3" if n_gpus > 1 else "ddp", processes=n_gpus)
        plan = ClusterPlan(model, job, n_gpus, mode, parallel, lengths=lengths, rows=args.rows)  # type: ignore[arg-type]
        if mode == "server":
            if parallel >= n_gpus:
                continue
            plan = balanced(replace(plan, lag=args.lag), machine, seed=args.seed)
        chosen = first_engine(model, plan.job, plan.n_training, mode, parallel, machine)
        if chosen is None:
            continue
        plan = replace(plan, job=chosen[0])
        tokens = simulate(plan, machine, steps=N_TRIED, seed=args.seed).tokens
        if best is None or tokens > best[0]:
            best = (tokens, plan, chosen[1])
    return (None, None) if best is None else best[1:]


def memory_rows(args: argparse.Namespace, machine: Hardware) -> list[list[str]]:
    """The update's peak on a device with every engine, completions written elsewhere; in brackets what is too much."""
    rows = []
    for size in args.sizes:
        model = published_sizes(PLANNED_SIZES[size], args.tuning)
        for n_gpus in args.gpus:
            cells = [size, str(n_gpus)]
            for engine in ENGINES:
                memory = replace(estimate(model, replace(job_of(args), engine=engine, processes=n_gpus)), rollout=0.0)
                shown = f"{memory.update / GIB:.0f}"
                cells.append(shown if fits(memory, machine) else f"({shown})")
            rows.append(cells)
    return rows


def row_cells(row: PlanRow) -> list[str]:
    """One line as the command and docs/scale.md print it."""
    start = [row.size, str(row.n_gpus)]
    if row.layout is None or row.memory is None or row.times is None:
        what = {"own": "transformers", "colocate": "vLLM inside", "server": "vLLM servers"}[row.mode]
        return [*start, what, "does not fit", *[""] * 7]
    plan, times = row.layout, row.times
    what = {
        "own": "transformers",
        "colocate": f"vLLM inside, TP {plan.parallel}",
        "server": f"vLLM servers, TP {plan.parallel}, {plan.n_rollout} GPUs, lag {plan.lag}",
    }[row.mode]
    reasons = sorted(times.waiting.items(), key=lambda item: -item[1])[:2]
    seconds = [f"{times.seconds.get(name, 0.0):.1f}" for name in ("weight sync", "rollout", "reward", "update")]
    waits = ", ".join(f"{name} {share:.0%}" for name, share in reasons if share >= 0.005)
    memory = (
        f"{row.memory.rollout / GIB:.0f} / {row.memory.update / GIB:.0f}"
        if row.mode != "server"
        else f"- / {row.memory.update / GIB:.0f}"
    )
    return [
        *start,
        what,
        ENGINE_NAMES[plan.job.engine],
        memory,
        *seconds,
        f"{times.step_s:.1f}",
        f"{times.waiting_share:.0%}: {waits}",
    ]


HEADER = [
    "size", "GPUs", "completions by", "engine", "GiB a GPU: rollout / update", "sync s", "rollout s", "reward s", "update s",
    "step s", "GPU time spent waiting, and for what",
]  # fmt: skip


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that docs/scale.md can hold and a terminal can show."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def compared() -> str:
    """The table of measured and simulated numbers."""
    cells = [
        [
            c.case,
            c.what,
            f"{c.measured:g} {c.unit}",
            f"{c.simulated:.3g} {c.unit}",
            "fixes a rate" if c.fixes else f"{c.error:+.0%}",
        ]
        for c in comparisons()
    ]
    return markdown(["case", "what", "measured", "simulated", "error"], cells)


def run_simulation(args: argparse.Namespace) -> int:
    """Print what was measured beside its simulation, then the plan. Returns the exit code."""
    machine = machine_of(args)
    wrong = [n for n in args.gpus if n < 2 or (n % 8 and n > 8)]
    if wrong:
        print(f"error: --gpus {wrong[0]}: give 2 to 8, or a multiple of 8")
        return 2
    print(f"Measured steps beside their simulation:\n\n{compared()}")
    if args.constants:
        cells = [[name, f"{value:g}", kind, source] for name, value, kind, source in constants()]
        print(f"\nConstants:\n\n{markdown(['name', 'value', 'kind', 'source'], cells)}")
    by_engine = markdown(["size", "GPUs", *(ENGINE_NAMES[engine] for engine in ENGINES)], memory_rows(args, machine))
    print(
        "\nEstimated, not run: GiB on a device at the peak of the update, completions written elsewhere; what is in brackets"
        f" does not fit ({machine.name})\n\n{by_engine}"
    )
    rows = planned_rows(args, machine)
    print(
        f"\nSimulated, not run: {machine.name}, {args.rows} completions a GPU and step in groups of {args.group},"
        f" {args.image_tokens} image tokens,\ncompletions of {args.median_tokens} tokens in the middle and {args.longest} at"
        f" most, {args.tuning} tuning, {args.steps} steps\n\n{markdown(HEADER, [row_cells(row) for row in rows])}"
    )
    if args.json:
        args.json.write_text(json.dumps([_as_json(row) for row in rows], indent=1) + "\n", encoding="utf-8")
        print(args.json)
    return 0


def _as_json(row: PlanRow) -> dict[str, Any]:
    plan = row.layout
    made: dict[str, Any] = {"simulated": True, "size": row.size, "gpus": row.n_gpus, "mode": row.mode, "fits": plan is not None}
    if plan is not None and row.times is not None and row.memory is not None:
        made |= {
            "engine": plan.job.engine,
            "tensor_parallel": plan.parallel,
            "rollout_gpus": plan.n_rollout,
            **asdict(row.times),
        }
        made["memory_gib"] = {name: round(value / GIB, 2) for name, value in asdict(row.memory).items()}
    return made
