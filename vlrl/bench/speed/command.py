"""`python -m vlrl.bench speed`: steps of the trainer that shares prompts and images against stock TRL, and equal numbers.

Both sides run the real trainer on the same random weights, prompts, images, optimizer and loss, every completion of one fixed
length; the stock side is TRL's own path in transformers' own attention. Each side has processes of its own, in turn: stock,
vlrl, vlrl, stock. On a GPU stock runs at several settings and its fastest counts. A speed without equal numbers is not a
result: log-probabilities and gradients of one group are compared in a process apart.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrl.bench.speed.plan import COUNTS, PHASES, WITHOUT, Case, Setting

FP32_BOUNDS = {"max_abs_dlogp": 1e-5, "grad_rel_l2": 1e-4, "abs_dloss": 1e-5}
NOISY = 0.05
"""A phase whose interquartile range exceeds this share of its median is called noisy."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vlrl.bench speed", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    add_arguments(parser)
    return completed(parser.parse_args(argv))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="tiny", help="tiny, small (35 M), qwen2.5-vl-3b-random, or a folder or hub id")
    add("--image_size", help="side in pixels, or WxH, multiples of 28 (default 448; tiny: 112)")
    add("--prompt_tokens", type=int, default=64, help="text tokens besides the image")
    add("--group", type=int, default=8, help="completions of a prompt")
    add("--completion_tokens", type=int, help="exact length of every completion (default 128; tiny: 16)")
    add("--prompts", type=int, help="distinct prompts of a generation (default 4; 2 on a CPU)")
    add("--images_per_prompt", type=int, default=1)
    add("--dtype", choices=("float32", "bfloat16"), help="default: float32 on a CPU, bfloat16 on a GPU")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--beta", type=float, default=0.04)
    add("--tune", choices=("full", "lora"), default="full")
    add("--freeze_vision", action="store_true")
    add("--side", choices=("both", "stock", "vlrl"), default="both")
    add(
        "--stock", choices=("best", "default", "both"), default="best", help="stock TRL at its best settings, its default, both"
    )
    add("--disable", nargs="+", default=[], choices=WITHOUT, help="features of vlrl to leave out")
    add("--warmup", type=int, default=1)
    add("--repeats", type=int, help="timed steps a side (default 5; 3 on a CPU)")
    add("--seed", type=int, default=0)
    add("--threads", type=int, help="CPU threads (default: all cores)")
    add("--check_only", action="store_true", help="compare numbers and counts, time nothing")
    add("--out", type=Path, default=Path("speed.json"))
    add("--child", help=argparse.SUPPRESS)


def completed(args: argparse.Namespace) -> argparse.Namespace:
    """Defaults that depend on other values. Raises ValueError for sizes that cannot be."""
    import torch

    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    cpu, tiny = args.device == "cpu", args.model == "tiny"
    args.dtype = args.dtype or ("float32" if cpu else "bfloat16")
    args.completion_tokens = args.completion_tokens or (16 if tiny else 128)
    args.prompts = args.prompts or (2 if cpu else 4)
    args.repeats = args.repeats or (3 if cpu else 5)
    size = str(args.image_size or (112 if tiny else 448))
    if not re.fullmatch(r"\d+(x\d+)?", size):
        raise ValueError(f"--image_size {size}: write a side in pixels, or WxH")
    width, _, height = size.partition("x")
    args.image_size = (int(width), int(height or width))
    if any(side % 28 or not side for side in args.image_size):
        raise ValueError(f"--image_size {size}: sides must be multiples of 28 pixels (one image token)")
    if min(args.group - 1, args.completion_tokens, args.prompts, args.repeats, args.images_per_prompt, args.prompt_tokens) < 1:
        raise ValueError("--group must be at least 2, every other size at least 1")
    return args


def case_of(args: argparse.Namespace) -> Case:
    return Case(
        model=args.model, image_px=args.image_size, prompt_tokens=args.prompt_tokens, group=args.group,
        completion_tokens=args.completion_tokens, prompts=args.prompts, images_per_prompt=args.images_per_prompt,
        dtype=args.dtype, device=args.device, beta=args.beta, tune=args.tune, freeze_vision=args.freeze_vision,
        warmup=max(1, args.warmup), repeats=args.repeats, seed=args.seed,
    )  # fmt: skip


def settings(args: argparse.Namespace) -> dict[str, list[Setting]]:
    """What each side is tried with. On a GPU stock's best is looked for among micro-batches without checkpointing; its default
    is TRL's: float32 weights, checkpointing, 8 rows."""
    ours = [Setting("vlrl", without=frozenset(args.disable))]
    if args.device == "cpu":
        return {"stock": [Setting("stock")], "vlrl": ours}
    best = [Setting("stock", rows=rows) for rows in (args.group // 2, args.group, 2 * args.group)]
    default = [Setting("stock", rows=args.group, checkpointing=True, weights="float32")]
    stock = {"best": best, "default": default, "both": [*best, *default]}[args.stock]
    return {"stock": stock, "vlrl": ours}


# -- one child process ----------------------------------------------------------------------------------------------------


def child(args: argparse.Namespace) -> int:
    """Run what `--child` says (a side's setting as JSON, or `check`) and write its result to `--out`."""
    import torch

    from vlrl.bench.speed import check as speed_check
    from vlrl.bench.speed import measure as speed_run

    if args.threads:
        torch.set_num_threads(args.threads)
    case = case_of(args)
    if args.child == "check":
        made: dict[str, Any] = speed_check.compare(case)
    else:
        told = json.loads(args.child)
        setting = Setting(**{**told, "without": frozenset(told["without"])})
        made = speed_run.run_side(case, setting)
    device = torch.cuda.get_device_name() if args.device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    args.out.write_text(json.dumps({**made, "device": device}), encoding="utf-8")
    return 0


def in_child(argv: Sequence[str], what: str, **changes: int) -> dict[str, Any]:
    """The result of `child` in a process of its own; {"failed": why} where it died."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.json"
        more = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "vlrl.bench.speed.command", *argv, "--child", what, *more, "--out", str(out)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            return {"failed": lines[-1][:300] if lines else f"exit code {done.returncode}"}
        return dict(json.loads(out.read_text(encoding="utf-8")))


def told(setting: Setting) -> str:
    return json.dumps({**asdict(setting), "without": sorted(setting.without)})


# -- the report -----------------------------------------------------------------------------------------------------------


def spread(runs: Sequence[float]) -> dict[str, Any]:
    quarters = statistics.quantiles(runs, n=4) if len(runs) > 1 else [runs[0]] * 3
    return {"min": min(runs), "iqr": quarters[2] - quarters[0], "runs": list(runs)}


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Several processes of one setting as one measurement."""
    runs = {name: [value for part in parts for value in part["runs"][name]] for name in parts[0]["runs"]}
    peaks = {name: max(part["peaks"].get(name, 0) for part in parts) for name in parts[0]["peaks"]}
    return {**parts[0], "runs": runs, "peaks": peaks}


def seconds_of(side: dict[str, Any] | None) -> dict[str, float | None]:
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


def report_of(args: argparse.Namespace, argv: Sequence[str], sides: dict[str, Any], numerics: dict[str, Any]) -> dict[str, Any]:
    """The JSON of the contract."""
    from vlrl.tasks.evaluate import versions

    case, chosen = case_of(args), {name: sides.get(name) for name in ("stock", "vlrl")}
    seconds = {name: seconds_of(side) for name, side in chosen.items()}
    ratio = {}
    for name in PHASES:
        a, b = seconds["stock"][name], seconds["vlrl"][name]
        ratio[name] = a / b if a and b else None
    tokens = case.images_per_prompt * (case.image_px[0] // 28) * (case.image_px[1] // 28)
    any_side = chosen["vlrl"] or chosen["stock"] or numerics
    described = {
        name: None
        if side is None
        else {
            "mode": side["mode"], "attention": side["attention"], "micro_batch": side["micro_batch"],
            "setting": side["setting"], "first_call_s": side["first_call_s"], "sharing": side["sharing"],
            "spread": {phase: spread(runs) for phase, runs in side["runs"].items()},
        }
        for name, side in (*chosen.items(), ("stock_default", sides.get("stock_default")))
    }  # fmt: skip
    if chosen["vlrl"]:
        described["vlrl"] |= {key: chosen["vlrl"][key] for key in ("shared", "fallback_reason")}
        described["vlrl"]["shared_path"] = described["vlrl"].pop("shared")
    phases = [(spread(runs), statistics.median(runs)) for side in chosen.values() if side for runs in side["runs"].values()]
    config = {
        "model": case.model, "group": case.group, "prompts": case.prompts, "image_size": list(case.image_px),
        "image_tokens": tokens, "prompt_tokens": any_side.get("prompt_tokens"), "completion_tokens": case.completion_tokens,
        "dtype": case.dtype, "tune": case.tune, "freeze_vision": case.freeze_vision, "beta": case.beta,
        "images_per_prompt": case.images_per_prompt, "disabled": sorted(args.disable),
    }  # fmt: skip
    return {
        "schema": 1, "command": shlex.join(["python", "-m", "vlrl.bench", "speed", *argv]),
        "date": datetime.date.today().isoformat(), "versions": versions(), "device": any_side["device"], "config": config,
        "seconds": seconds, "ratio": ratio,
        "peak_memory_bytes": {name: side["peaks"] if side else None for name, side in chosen.items()},
        **{key: value for key, value in numerics.items() if key not in ("device", "prompt_tokens")},
        "counts": {name: side["counts"] if side else None for name, side in chosen.items()},
        "mfu": {name: _mfu(case, seconds[name]["update"], any_side, name == "vlrl") for name in chosen},
        "sides": described, "tried": sides.get("tried", {}),
        "noisy": any(one["iqr"] > NOISY * median for one, median in phases),
    }  # fmt: skip


def _mfu(case: Case, update_s: float | None, told: dict[str, Any], shared: bool) -> float | None:
    """Model FLOP utilisation of the update (three forwards' worth), where the device's peak and the model's shape are known."""
    from transformers import Qwen2_5_VLConfig

    from vlrl.bench.speed.models import PEAK_FLOPS, SHAPES, forward_flops

    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in told["device"]), None)
    if peak is None or update_s is None or case.model not in SHAPES:
        return None
    config, patches = Qwen2_5_VLConfig(**SHAPES[case.model]), (case.image_px[0] // 14) * (case.image_px[1] // 14)
    flops = forward_flops(
        config, shared, prompts=case.prompts, group=case.group, n_prompt=told["prompt_tokens"],
        n_keep=case.completion_tokens, n_patches=patches * case.images_per_prompt,
    )  # fmt: skip
    return 3 * flops / update_s / peak


def table(report: dict[str, Any]) -> str:
    config, seconds, peaks = report["config"], report["seconds"], report["peak_memory_bytes"]
    width, height = config["image_size"]
    lines = [
        f"vlrl-bench speed  model={config['model']}  U={config['prompts']} G={config['group']}  image={width}x{height}"
        f" ({config['image_tokens']} tokens)  P={config['prompt_tokens']} R={config['completion_tokens']}"
        f"  {config['dtype']} {report['device']}",
    ]
    if any(seconds[side]["step"] for side in seconds):
        lines.append(f"{'phase':<18}{'stock (s)':>10}{'vlrl (s)':>10}{'ratio':>8}{'peak stock':>13}{'peak vlrl':>12}")
    for phase in PHASES if len(lines) > 1 else ():
        cells = [seconds[side][phase] for side in ("stock", "vlrl")]
        shown = ["-" if cell is None else f"{cell:.3f}" for cell in cells]
        ratio = "-" if report["ratio"][phase] is None else f"{report['ratio'][phase]:.2f}"
        memory = [f"{peaks[side][phase] / 2**30:.2f} GiB" if peaks[side] and phase in peaks[side] else "" for side in peaks]
        inner = phase in ("rollout_prefill", "rollout_decode", "forward_backward", "optimizer")
        name = f"  {phase.removeprefix('rollout_')}" if inner else phase
        why = "  (not run: aligned)" if phase == "old" else ""
        lines.append(f"{name:<18}{shown[0]:>10}{shown[1]:>10}{ratio:>8}{memory[0]:>13}{memory[1]:>12}{why}")
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
    for side in ("stock", "vlrl"):
        made = report["sides"].get(side)
        if made:
            lines.append(f"{made['setting']}   {made['sharing']}   attention: {made['attention']}")
    lines += [f"mfu of the update, {side}: {mfu:.1%}" for side, mfu in report["mfu"].items() if mfu]
    if report["noisy"]:
        lines.append("noisy: a phase's runs differ by more than 5 % (interquartile); the JSON holds all of them")
    return "\n".join(lines)


def within_bounds(report: dict[str, Any]) -> list[str]:
    """What is outside the bounds of equal numbers or does work twice; empty when all is well."""
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


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 fine, 1 numbers outside their bounds or work done twice, 2 usage, 3 the shared path fell back."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = arguments(argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return child(args) if args.child else run(args, argv)


def run(args: argparse.Namespace, argv: Sequence[str]) -> int:
    argv = [word for word in argv if word not in ("--check_only",)]
    tried = settings(args)
    wanted = [side for side in ("stock", "vlrl") if args.side in ("both", side)]
    numerics = in_child(argv, "check")
    if "failed" in numerics:
        print(f"error: the comparison of numbers failed: {numerics['failed']}", file=sys.stderr)
        return 1
    sides: dict[str, Any] = {"tried": {}}
    halves = [1] if args.check_only else [-(-args.repeats // 2), args.repeats // 2]
    order = [(side, n) for half, n in enumerate(halves) if n for side in (wanted if half % 2 == 0 else wanted[::-1])]
    parts: dict[str, list[dict[str, Any]]] = {}
    for side, n in order:
        for setting in tried[side]:
            if any("failed" in part for part in parts.get(setting.label, ())):
                continue
            print(f"  {setting.label}: {n} step(s)", file=sys.stderr, flush=True)
            made = in_child(argv, told(setting), repeats=n)
            made |= {"setting": setting.label, "mode": "default" if setting.weights else "best"}
            made["micro_batch"] = setting.rows or args.prompts * args.group
            parts.setdefault(setting.label, []).append(made)
    for side in wanted:
        done = []
        for setting in tried[side]:
            made = parts[setting.label]
            failed = [part["failed"] for part in made if "failed" in part]
            sides["tried"][setting.label] = failed[0] if failed else joined(made)["runs"]
            if not failed:
                done.append(joined(made))
        best = [one for one in done if one["mode"] == "best"] or done
        if not best:
            print(f"error: no setting of {side} ran: {sides['tried']}", file=sys.stderr)
            return 3 if side == "vlrl" else 1
        sides[side] = min(best, key=lambda one: statistics.median(one["runs"]["update"]))
        if side == "stock":
            sides["stock_default"] = next((one for one in done if one["mode"] == "default"), None)
    return _conclude(args, argv, sides, numerics)


def _conclude(args: argparse.Namespace, argv: Sequence[str], sides: dict[str, Any], numerics: dict[str, Any]) -> int:
    if args.check_only:
        for side in ("stock", "vlrl"):
            if side in sides:
                sides[side] = {**sides[side], "runs": {}}
        sides["tried"] = {}
    report = report_of(args, argv, sides, numerics)
    wrong = within_bounds(report)
    if "vlrl" in sides and not args.disable:
        needed = needed_counts(case_of(args))
        got = sides["vlrl"]["counts"]
        wrong += [f"{name} {got[name]}, {n} needed" for name, n in needed.items() if got[name] != n]
    report["problems"] = wrong
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(table(report))
    for line in wrong:
        print(f"wrong: {line}")
    print(args.out)
    fell_back = "vlrl" in sides and not sides["vlrl"]["shared"]
    return 3 if fell_back else 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
