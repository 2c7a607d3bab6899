"""`bench speed --what memory`: the estimated peak memory of a step beside the one that a real step of the trainer has.

On a GPU the allocator's own count is compared. On a CPU it is what the process holds at its peak less what it held before the
model was made, in a process that gives freed memory back at once (`MALLOC_MMAP_THRESHOLD_`): without that, what glibc keeps for
later would be counted too. Not here: the estimate (`vlrl.models.memory`).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vlrl.bench.speed.command import arguments, case_of
from vlrl.bench.speed.plan import Case, Setting
from vlrl.models.memory import GIB, Job, Layers, Memory, ModelSizes, estimate

GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
"""glibc maps every larger block by itself, so that freeing it gives it back."""
BOUND = 0.15
"""The largest error of an estimate that counts as right."""


def add_memory_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="small", help="small (35 M), qwen2.5-vl-3b-random, or a folder or hub id")
    add("--image_size", default="448", help="side in pixels, or WxH, multiples of 28")
    add("--prompt_tokens", default="64", help="text tokens besides the image")
    add("--group", default="8", help="completions of a prompt")
    add("--completion_tokens", default="64", help="length of every completion")
    add("--prompts", default="1", help="prompts of a step")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"))
    add("--tune", default="full", choices=("full", "lora"))
    add("--beta", default="0.04", help="above 0 with --tune full: a reference model is held")
    add("--freeze_vision", action="store_true")
    add("--checkpointing", action="store_true", help="layers are computed again in the backward pass")
    add("--stock", action="store_true", help="stock TRL instead of the path that shares prompts and images")
    add("--threads", default="1", help="CPU threads")


def run_memory(args: argparse.Namespace) -> int:
    """Measure in a process of its own, print both, part by part. Exit code 1 where the update's peak is off by more than 15
    %."""
    words = [
        word
        for name in (
            "model",
            "image_size",
            "prompt_tokens",
            "group",
            "completion_tokens",
            "prompts",
            "device",
            "tune",
            "beta",
            "threads",
        )
        for word in (f"--{name}", str(getattr(args, name)))
    ]
    words += ["--freeze_vision"] if args.freeze_vision else []
    made = measured_in_child(words, args.checkpointing, args.stock)
    if "failed" in made:
        print(f"error: the measured step failed: {made['failed']}", file=sys.stderr)
        return 1
    sizes = sizes_from(made["sizes"])
    memory = estimate(sizes, Job(**made["job"]))
    print(comparison(memory, made))
    if args.json:
        args.json.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
        print(args.json)
    return 0 if abs(memory.update / made["peaks"]["update"] - 1) <= BOUND else 1


def comparison(memory: Memory, made: dict[str, Any]) -> str:
    """The table of what was estimated and measured."""
    lines = [f"{made['device']}, {made['sizes']['name']}; measured: {made['what']}"]
    lines.append(f"{'phase':10}{'estimated':>12}{'measured':>12}{'error':>8}")
    for phase in ("rollout", "update"):
        found, measured = getattr(memory, phase), made["peaks"][phase]
        lines.append(f"{phase:10}{found / GIB:8.2f} GiB{measured / GIB:8.2f} GiB{found / measured - 1:+8.0%}")
    parts = ("weights", "gradients", "optimizer", "reference", "gathered", "activations", "cache")
    lines.append("estimated: " + ", ".join(f"{name} {getattr(memory, name) / GIB:.2f}" for name in parts))
    return "\n".join(lines)


def measured_in_child(words: Sequence[str], checkpointing: bool, stock: bool) -> dict[str, Any]:
    """What `measure_here` found in a process of its own; {"failed": why} where it died."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.json"
        flags = [*(["checkpointing"] if checkpointing else []), *(["stock"] if stock else [])]
        command = [sys.executable, "-m", "vlrl.bench.speed.memory", str(out), ",".join(flags) or "-", *words]
        env = {**os.environ, **GIVES_BACK}
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False, env=env)
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            return {"failed": lines[-1][:300] if lines else f"exit code {done.returncode}"}
        return dict(json.loads(out.read_text(encoding="utf-8")))


def resident_bytes() -> int:
    """What this process holds now."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure_here(case: Case, setting: Setting) -> dict[str, Any]:
    """Run two steps, of which the second counts (the first compares the two layouts, and Adam's moments are made in it)."""
    import torch

    from vlrl.bench.speed.measure import run_side

    torch.ones(64, 64) @ torch.ones(64, 64)
    cuda = case.device == "cuda"
    gc.collect()
    base = 0 if cuda else resident_bytes()
    made = run_side(replace(case, warmup=1, repeats=1), setting)
    sizes = sizes_of_case(case)
    return {
        "peaks": {phase: made["peaks"][phase] - base for phase in ("rollout", "update")},
        "base": base,
        "sizes": _plain(sizes),
        "job": vars(job_of_case(case, setting, made["prompt_tokens"], sizes)),
        "what": "the allocator's peak" if cuda else f"resident memory at the peak less {base / GIB:.2f} GiB before the model",
        "device": torch.cuda.get_device_name() if cuda else "CPU",
    }


def _plain(sizes: ModelSizes) -> dict[str, Any]:
    made = dict(vars(sizes))
    return made | {name: None if made[name] is None else vars(made[name]) for name in ("text", "vision")}


def sizes_from(made: dict[str, Any]) -> ModelSizes:
    """What `_plain` made of sizes, as they were."""
    stacks = {name: None if made[name] is None else Layers(**made[name]) for name in ("text", "vision")}
    return ModelSizes(**{**made, **stacks})


def sizes_of_case(case: Case) -> ModelSizes:
    """The model of a case, counted."""
    from peft import LoraConfig
    from transformers import Qwen2_5_VLConfig

    from vlrl.bench.speed.models import MODEL_SHAPES
    from vlrl.models.load import load_inputs
    from vlrl.models.sizes import model_sizes

    shape = MODEL_SHAPES.get(case.model)
    config = load_inputs(case.model).config if shape is None else Qwen2_5_VLConfig(**shape)
    adapters = LoraConfig(r=16, target_modules="all-linear") if case.tune == "lora" else None
    return model_sizes(config, case.model, peft_config=adapters, freeze_vision=case.freeze_vision)


def job_of_case(case: Case, setting: Setting, prompt_tokens: int, sizes: ModelSizes) -> Job:
    """What the trainer of a case does in a step."""
    patch = 28 * 28 // 4  # of a patch: 14 x 14 pixels
    images = round(case.images_per_prompt * case.image_px[0] * case.image_px[1] / patch / sizes.patches_per_token)
    n = 4 if case.dtype == "float32" else 2
    rows = case.prompts * case.group
    return Job(
        tuning="lora" if case.tune == "lora" else "full", weight_bytes=n, compute_bytes=n, group=case.group, rows=rows,
        rows_generated=rows, prompt_tokens=prompt_tokens - images, image_tokens=images,
        completion_tokens=case.completion_tokens, shared=setting.side == "vlrl", dense_mask=n == 4,
        checkpointing=setting.checkpointing, freeze_vision=case.freeze_vision,
        reference=case.beta > 0 and case.tune == "full",
    )  # fmt: skip


def main(words: Sequence[str]) -> int:
    """One child process: where to write, the setting, then the flags of a case."""
    out, flags, *rest = words
    args = arguments(rest)
    import torch

    torch.set_num_threads(args.threads or 1)
    setting = Setting("stock" if "stock" in flags else "vlrl", checkpointing="checkpointing" in flags)
    Path(out).write_text(json.dumps(measure_here(case_of(args), setting)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
