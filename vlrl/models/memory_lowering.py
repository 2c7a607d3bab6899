"""What to lower where a job does not fit a device, in the order of what costs least.

Not here: how much memory a job takes (`vlrl.models.memory`). No torch.
"""

from __future__ import annotations

from dataclasses import replace

from vlrl.models.memory import Job, ModelSizes, estimate


def _checkpointing(job: Job) -> tuple[str, Job] | None:
    if job.checkpointing:
        return None
    return "--gradient_checkpointing true (slower by about a fourth)", replace(job, checkpointing=True)


def _fewer_at_once(job: Job) -> tuple[str, Job] | None:
    if job.rows_generated <= job.rows or job.vllm_bytes:
        return None
    words = "--steps_per_generation 1 (completions are written in more, smaller batches)"
    return words, replace(job, rows_generated=job.rows)


def _less_vllm(job: Job) -> tuple[str, Job] | None:
    if not job.vllm_bytes:
        return None
    return "--vllm_gpu_memory_utilization of half", replace(job, vllm_bytes=job.vllm_bytes / 2)


def _fewer_rows(job: Job) -> tuple[str, Job] | None:
    least = job.group if job.shared else 1
    if job.rows <= least:
        return None
    half = max(least, job.rows // 2)
    n_micro = job.n_micro * job.rows // half
    words = f"--per_device_train_batch_size {half} --gradient_accumulation_steps {n_micro} (the same step in more parts)"
    return words, replace(job, rows=half, n_micro=n_micro)


def _sharded(job: Job) -> tuple[str, Job] | None:
    if job.processes == 1 or job.engine in ("zero3", "fsdp2") or job.tuning == "qlora":
        return None
    return "--deepspeed configs/engines/zero3.json (weights in parts)", replace(job, engine="zero3")


def _no_reference(job: Job) -> tuple[str, Job] | None:
    return ("--beta 0 (no reference model)", replace(job, reference=False)) if job.reference else None


def _smaller_images(job: Job) -> tuple[str, Job] | None:
    if job.image_tokens <= 256:
        return None
    return "--max_pixels of half the area (finer details are lost)", replace(job, image_tokens=job.image_tokens // 2)


def _shorter(job: Job) -> tuple[str, Job] | None:
    if job.completion_tokens <= 256:
        return None
    half = job.completion_tokens // 2
    return f"--max_completion_length {half} (long answers are cut)", replace(job, completion_tokens=half)


def _frozen_vision(job: Job) -> tuple[str, Job] | None:
    return None if job.freeze_vision else ("--freeze_vision", replace(job, freeze_vision=True))


def _adapters(job: Job) -> tuple[str, Job] | None:
    if job.tuning == "full":
        changed = replace(job, tuning="lora", weight_bytes=2, compute_bytes=2, reference=False)
        return "--use_peft --dtype bfloat16 (adapters instead of all weights)", changed
    if job.tuning == "lora" and job.weight_bytes == 4:
        return "--dtype bfloat16 (frozen weights in 16 bits)", replace(job, weight_bytes=2, compute_bytes=2)
    return None


def _four_bits(job: Job) -> tuple[str, Job] | None:
    if job.tuning != "lora":
        return None
    return "--load_in_4bit (frozen weights in 4 bits)", replace(job, tuning="qlora")


LOWERING = (
    _checkpointing, _fewer_at_once, _less_vllm, _fewer_rows,
    _sharded, _no_reference, _adapters, _smaller_images, _shorter, _frozen_vision, _four_bits,
)  # fmt: skip
"""Each gives the flag with its price and the job with it, or None where there is nothing to lower: first what changes no number
of the run, then what changes what is learnt."""


def lowered(model: ModelSizes, job: Job) -> list[tuple[str, Job]]:
    """Every step of `LOWERING` that applies and lowers the peak, each on top of those before it."""
    steps, peak = [], estimate(model, job).peak
    for step in LOWERING:
        found = step(job)
        if found is None:
            continue
        left = estimate(model, found[1]).peak
        if left < 0.99 * peak:
            steps.append(found)
            job, peak = found[1], left
    return steps
