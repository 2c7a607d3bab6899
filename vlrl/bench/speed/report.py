"""The report of `bench speed`: medians, ratios, bounds of equal numbers, and the printed table. No torch.

Not here: the runs that it is made of (`vlrl.bench.speed.command`).
"""

from __future__ import annotations

import datetime
import shlex
import statistics
from collections.abc import Sequence
from typing import Any

from vlrl.bench.speed.plan import COUNTS, PHASES, SPEED_SIDES, Case
from vlrl.metrics.tables import text_table

FP32_BOUNDS = {"max_abs_dlogp": 1e-5, "grad_rel_l2": 1e-4, "abs_dloss": 1e-5}
"""The largest difference between both layouts in float32."""
NOISY = 0.05
"""A phase whose interquartile range exceeds this share of its median is called noisy."""
INNER_PHASES = ("rollout_prefill", "rollout_decode", "forward_backward", "optimizer")


def spread(runs: Sequence[float]) -> dict[str, Any]:
    """Minimum, interquartile range and all values of a phase's seconds."""
    quarters = statistics.quantiles(runs, n=4) if len(runs) > 1 else [runs[0]] * 3
    return {"min": min(runs), "iqr": quarters[2] - quarters[0], "runs": list(runs)}


def merged_runs(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The results of several processes of one setting as one result."""
    runs = {name: [value for part in parts for value in part["runs"][name]] for name in parts[0]["runs"]}
    peaks = {name: max(part["peaks"].get(name, 0) for part in parts) for name in parts[0]["peaks"]}
    return {**parts[0], "runs": runs, "peaks": peaks}


def seconds_of(side: dict[str, Any] | None) -> dict[str, float | None]:
    """Median seconds by phase; None for a phase that did not run."""
    runs = {} if side is None else side["runs"]
    return {name: statistics.median(runs[name]) if name in runs else None for name in PHASES}


def needed_counts(case: Case) -> dict[str, int]:
    """What one step needs: every image once processed and once encoded in each pass (once in all when frozen), every prompt
    once in each pass."""
    images, n_passes = case.prompts * case.images_per_prompt, 3 if case.beta else 2
    return {
        "processor_images": images,
        "tower_images": images if case.freeze_vision else images * n_passes,
        "prompt_forwards": case.prompts * n_passes,
    }


def report_of(
    case: Case, disabled: Sequence[str], argv: Sequence[str], sides: dict[str, Any], numerics: dict[str, Any]
) -> dict[str, Any]:
    """What `speed.json` holds. `sides`: results by side, and under "tried" the runs of every setting; `numerics`: what
    `vlrl.bench.speed.check` found."""
    from vlrl.tasks.evaluate import versions

    chosen: dict[str, dict[str, Any] | None] = {name: sides.get(name) for name in SPEED_SIDES}
    seconds = {name: seconds_of(side) for name, side in chosen.items()}
    ratio = {}
    for name in PHASES:
        a, b = seconds["stock"][name], seconds["vlrl"][name]
        ratio[name] = a / b if a and b else None
    tokens = case.images_per_prompt * (case.image_px[0] // 28) * (case.image_px[1] // 28)
    any_side = chosen["vlrl"] or chosen["stock"] or numerics
    described = {name: None if side is None else _described(side) for name, side in chosen.items()}
    default = sides.get("stock_default")
    described["stock_default"] = None if default is None else _described(default)
    ours = chosen["vlrl"]
    if ours is not None:
        shared = {"shared_path": ours["shared"], "fallback_reason": ours["fallback_reason"]}
        described["vlrl"] = {**_described(ours), **shared}
    phases = [(spread(runs), statistics.median(runs)) for side in chosen.values() if side for runs in side["runs"].values()]
    config = {
        "model": case.model, "group": case.group, "prompts": case.prompts, "image_size": list(case.image_px),
        "image_tokens": tokens, "prompt_tokens": any_side.get("prompt_tokens"), "completion_tokens": case.completion_tokens,
        "dtype": case.dtype, "tune": case.tune, "freeze_vision": case.freeze_vision, "beta": case.beta,
        "images_per_prompt": case.images_per_prompt, "disabled": sorted(disabled),
    }  # fmt: skip
    return {
        "schema": 1, "command": shlex.join(["python", "-m", "vlrl.bench", "speed", *argv]),
        "date": datetime.date.today().isoformat(), "versions": versions(), "device": any_side["device"], "config": config,
        "seconds": seconds, "ratio": ratio,
        "peak_memory_bytes": {name: side["peaks"] if side else None for name, side in chosen.items()},
        **{key: value for key, value in numerics.items() if key not in ("device", "prompt_tokens")},
        "counts": {name: side["counts"] if side else None for name, side in chosen.items()},
        "mfu": {name: mfu(case, seconds[name]["update"], any_side, shared=name == "vlrl") for name in chosen},
        "sides": described, "tried": sides.get("tried", {}),
        "noisy": any(one["iqr"] > NOISY * median for one, median in phases),
    }  # fmt: skip


def _described(side: dict[str, Any]) -> dict[str, Any]:
    """One side as the report describes it."""
    names = ("mode", "attention", "micro_batch", "setting", "first_call_s", "sharing")
    return {**{name: side[name] for name in names}, "spread": {phase: spread(runs) for phase, runs in side["runs"].items()}}


def mfu(case: Case, update_s: float | None, about: dict[str, Any], *, shared: bool) -> float | None:
    """Model FLOP utilisation of the update, counted as three forward passes. None where the device's peak or the model's shape
    is not known. `about`: its `device` and `prompt_tokens`."""
    from transformers import Qwen2_5_VLConfig

    from vlrl.bench.speed.models import MODEL_SHAPES, PEAK_FLOPS, forward_flops

    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in about["device"]), None)
    if peak is None or update_s is None or case.model not in MODEL_SHAPES:
        return None
    config, patches = Qwen2_5_VLConfig(**MODEL_SHAPES[case.model]), (case.image_px[0] // 14) * (case.image_px[1] // 14)
    flops = forward_flops(
        config, shared, prompts=case.prompts, group=case.group, n_prompt=about["prompt_tokens"],
        n_keep=case.completion_tokens, n_patches=patches * case.images_per_prompt,
    )  # fmt: skip
    return 3 * flops / update_s / peak


def report_text(report: dict[str, Any]) -> str:
    """What the command prints: the phases as a table, then numbers, counts and settings."""
    config, made = report["config"], report["sides"]
    width, height = config["image_size"]
    lines = [
        f"vlrl bench speed  model={config['model']}  U={config['prompts']} G={config['group']}  image={width}x{height}"
        f" ({config['image_tokens']} tokens)  P={config['prompt_tokens']} R={config['completion_tokens']}"
        f"  {config['dtype']} {report['device']}",
    ]
    if any(seconds["step"] for seconds in report["seconds"].values()):
        lines.append(phase_table(report))
    lines.append(
        f"numerics: max|dlogp| {report['max_abs_dlogp']:.2g} (noise {report['noise_floor']:.2g})"
        f"   grad cosine 1 - {1 - report['grad_cosine']:.1g}   grad rel L2 {report['grad_rel_l2']:.2g}"
        f"   sampled tokens equal: {'yes' if report['sampled_tokens_equal'] else 'no'}"
    )
    lines += [
        f"counts {side}: " + "  ".join(f"{name} {counts[name]}" for name in COUNTS)
        for side, counts in report["counts"].items()
        if counts
    ]
    for side in SPEED_SIDES:
        if made.get(side):
            lines += [made[side]["setting"], f"  {made[side]['sharing']}", f"  attention {made[side]['attention']}"]
    lines += [f"mfu of the update, {side}: {mfu:.1%}" for side, mfu in report["mfu"].items() if mfu]
    if report["noisy"]:
        lines.append("noisy: a phase's runs differ by more than 5 % (interquartile); the JSON file holds all of them")
    return "\n".join(lines)


def phase_table(report: dict[str, Any]) -> str:
    """Median seconds and peak memory of every phase, parts of a phase indented below it."""
    rows = []
    for phase in PHASES:
        name = f"  {phase.removeprefix('rollout_')}" if phase in INNER_PHASES else phase
        seconds = [report["seconds"][side][phase] for side in SPEED_SIDES]
        peaks = [(report["peak_memory_bytes"][side] or {}).get(phase) for side in SPEED_SIDES]
        rows.append(
            [
                f"{name} (not run: aligned)" if phase == "old" else name,
                *("-" if value is None else f"{value:.3f}" for value in seconds),
                "-" if report["ratio"][phase] is None else f"{report['ratio'][phase]:.2f}",
                *("" if peak is None else f"{peak / 2**30:.2f} GiB" for peak in peaks),
            ]
        )
    return text_table(["phase", "stock (s)", "vlrl (s)", "ratio", "peak stock", "peak vlrl"], rows)


def outside_bounds(report: dict[str, Any]) -> list[str]:
    """What is outside the bounds of equal numbers, in words; empty when nothing is."""
    wrong = []
    if report["config"]["dtype"] == "float32":
        wrong += [f"{name} {report[name]:.2g} > {bound}" for name, bound in FP32_BOUNDS.items() if not report[name] <= bound]
        wrong += [] if report["sampled_tokens_equal"] else ["sampled tokens differ"]
    else:
        pairs = (("max_abs_dlogp", "noise_floor"), ("grad_rel_l2", "grad_noise"))
        wrong += [
            f"{name} {report[name]:.2g} > 2 x {report[of]:.2g}" for name, of in pairs if not report[name] <= 2 * report[of]
        ]
    wrong += [] if report["params_with_grad_equal"] else ["other parameters get gradients"]
    return wrong
