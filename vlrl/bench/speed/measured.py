"""Steps that were measured (docs/speed.md), and what the simulation says of the same steps.

Of each machine the fewest cases that fix its rates are used to fix them; all others are predictions. No torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vlrl.bench.speed.hardware import Hardware
from vlrl.bench.speed.step_costs import decode_s, forward_parts, group_work, prefill_s, update_flops, update_s
from vlrl.models.memory import GIB, Job, Layers, ModelSizes, estimate

QWEN_3B = ModelSizes(
    "Qwen2.5-VL-3B shape", Layers(36, 2048, 2048, 256, 11008),
    Layers(32, 1280, 1280, 1280, 3420, fused_qkv=True, windows=28, input_values=1176),
    151_936, 2_774_773_760, 668_684_288, 311_164_928, 0, 0,
)  # fmt: skip
SMALL = ModelSizes(
    "small (35 M)", Layers(8, 512, 512, 128, 1408), Layers(8, 320, 320, 320, 864, fused_qkv=True, windows=6, input_values=1176),
    272, 22_559_232, 12_616_256, 139_264, 0, 0,
)  # fmt: skip


@dataclass(frozen=True)
class SimulatedAndMeasured:
    """`fixes`: whether this number was used to fix a rate."""

    case: str
    what: str
    measured: float
    simulated: float
    unit: str = "s"
    fixes: bool = False

    @property
    def error(self) -> float:
        """Simulated over measured, less 1."""
        return self.simulated / self.measured - 1


@dataclass(frozen=True)
class MeasuredStep:
    """A row of docs/speed.md: seconds of a whole step of stock TRL and of vlrl, two CPU cores, `small`."""

    name: str
    job: Job
    stock_s: float
    vlrl_s: float


CPU_JOB = Job(
    weight_bytes=4, compute_bytes=4, group=8, rows=8, rows_generated=8, prompt_tokens=84, image_tokens=256,
    completion_tokens=64, checkpointing=False, reference=True, dense_mask=True,
)  # fmt: skip
CPU_PHASES = {"preprocess": 0.008, "rollout": 1.777, "ref": 0.545, "update": 1.706}
"""Of vlrl at G = 8, which fix the rates of the CPU."""
CPU_STEPS = (
    MeasuredStep("G = 4", replace(CPU_JOB, group=4, rows=4, rows_generated=4), 9.2, 3.9),
    MeasuredStep("G = 8", CPU_JOB, 19.2, 4.0),
    MeasuredStep("G = 16", replace(CPU_JOB, group=16, rows=16, rows_generated=16), 37.2, 5.7),
    MeasuredStep("G = 8, 64 image tokens", replace(CPU_JOB, image_tokens=64), 6.0, 2.8),
    MeasuredStep("G = 8, vision encoder frozen", replace(CPU_JOB, freeze_vision=True), 12.0, 3.3),
)
GPU_JOB = Job(checkpointing=False, image_tokens=1024, completion_tokens=128, moment_bytes=0)
GPU_UPDATES = ((1024, 128, 0.347, 26.0), (1024, 256, 0.380, 32.0), (256, 128, 0.311, None))
"""Image tokens, completion tokens, seconds of an update of one group of 8 and its peak in GiB, on one H100 (bare passes)."""


def cpu_machine() -> Hardware:
    """Two CPU cores, from the phases of one step at G = 8: the rate of the update, and what a decoded token takes beside it."""
    rate = update_flops(SMALL, CPU_JOB, group_work(SMALL, CPU_JOB, [64] * 8)) / CPU_PHASES["update"]
    made = Hardware(
        "two CPU cores",
        peak_flops=rate,
        prefill_share=1.0,
        update_rate=rate,
        layer_pass_s=0.0,
        memory_rate=1e18,
        own_step_s=0.0,
    )
    rest = CPU_PHASES["rollout"] - rollout_s(SMALL, CPU_JOB, made)
    return made.with_values(own_step_s=rest / CPU_JOB.completion_tokens)


def rollout_s(model: ModelSizes, job: Job, machine: Hardware) -> float:
    """Prompts read and completions of one length written by transformers."""
    lengths = [job.completion_tokens] * job.rows
    prompts = 1 if job.shared else job.rows
    written = decode_s(model, job, lengths, 1, machine, drops=False, step_s=machine.own_step_s)
    return prefill_s(model, job, prompts, 1, machine) + written


def step_phases(model: ModelSizes, job: Job, machine: Hardware) -> dict[str, float]:
    """The phases of a step on one device, of one group."""
    lengths = [job.completion_tokens] * job.rows
    text, vision = forward_parts(model, group_work(model, job, lengths))
    seen = 0.0 if job.freeze_vision and job.shared else vision  # encoded once for all passes
    return {
        "rollout": rollout_s(model, job, machine),
        "ref": (text + seen) / machine.update_rate if job.reference else 0.0,
        "update": update_s(model, job, [lengths], 1, machine) - (vision / machine.update_rate if seen == 0.0 else 0.0),
    }


def comparisons() -> list[SimulatedAndMeasured]:
    """Every measured step beside its simulation."""
    found = []
    cpu = cpu_machine()
    for step in CPU_STEPS:
        for side, shared, measured in (("vlrl", True, step.vlrl_s), ("stock TRL", False, step.stock_s)):
            phases = step_phases(SMALL, replace(step.job, shared=shared), cpu)
            fixes = shared and step.job == CPU_JOB
            found.append(
                SimulatedAndMeasured(
                    f"two CPU cores, small, {step.name}", f"step of {side}", measured, sum(phases.values()), "s", fixes
                )
            )
    for images, length, seconds, peak_gib in GPU_UPDATES:
        job = replace(GPU_JOB, image_tokens=images, completion_tokens=length)
        case = f"one H100, 3B shape, {images} image tokens, {length} tokens"
        made = update_s(QWEN_3B, job, [[length] * 8], 1, Hardware())
        found.append(SimulatedAndMeasured(case, "update of a group", seconds, made, "s", images == 1024))
        if peak_gib is not None:
            found.append(SimulatedAndMeasured(case, "peak memory of it", peak_gib, estimate(QWEN_3B, job).update / GIB, "GiB"))
    return found
