"""`python -m vlrl.bench speed`: steps of the trainer that shares prompts and images against stock TRL, and equal numbers.

Both sides run the real trainer on the same random weights, prompts, images, optimizer and loss, every completion of one fixed
length; the stock side is TRL's own path in transformers' own attention. Each side has processes of its own, in turn: stock,
vlrl, vlrl, stock. On a GPU stock runs at several settings and its fastest counts. A speed without equal numbers is not a
result: log-probabilities and gradients of one group are compared in a process apart.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from vlrl.bench.speed.plan import SPEED_SIDES, WITHOUT, Case, Setting
from vlrl.bench.speed.report import merged_runs, needed_counts, outside_bounds, report_of, report_text


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
    add("--kernel", default="auto", choices=("auto", "mask", "merge", "gather", "flex"), help="attention of shared groups")
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
    ours = [Setting("vlrl", without=frozenset(args.disable), kernel=args.kernel)]
    if args.device == "cpu":
        return {"stock": [Setting("stock")], "vlrl": ours}
    best = [Setting("stock", rows=rows) for rows in (args.group // 2, args.group, 2 * args.group)]
    default = [Setting("stock", rows=args.group, checkpointing=True, weights="float32")]
    stock = {"best": best, "default": default, "both": [*best, *default]}[args.stock]
    return {"stock": stock, "vlrl": ours}


# -- one child process ----------------------------------------------------------------------------------------------------


def child(args: argparse.Namespace) -> int:
    """Run what `--child` names (a side's setting as JSON, or `check`) and write its result to `--out`."""
    case, setting = case_of(args), None if args.child == "check" else setting_from_json(args.child)
    import torch

    from vlrl.bench.speed import check as speed_check
    from vlrl.bench.speed import measure as speed_run
    from vlrl.models.prefix_sharing.groups import NotShared

    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        made: dict[str, Any] = (
            speed_check.compare_layouts(case, args.kernel) if setting is None else speed_run.run_side(case, setting)
        )
    except NotShared as error:
        print(error, file=sys.stderr)
        return 1
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


def setting_to_json(setting: Setting) -> str:
    """A setting as the word of `--child`."""
    return json.dumps({**asdict(setting), "without": sorted(setting.without)})


def setting_from_json(text: str) -> Setting:
    """What `setting_to_json` wrote."""
    fields = json.loads(text)
    return Setting(**{**fields, "without": frozenset(fields["without"])})


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code: 0 fine, 1 numbers outside their bounds or work done twice, 2 usage, 3 the shared path fell back."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = arguments(argv)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return child(args) if args.child else run_speed(args, argv)


def run_speed(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Compare the numbers, run both sides in turn, write and print the report; returns the exit code of `main`."""
    argv = [word for word in argv if word not in ("--check_only",)]
    tried = settings(args)
    wanted = [side for side in SPEED_SIDES if args.side in ("both", side)]
    numerics = in_child(argv, "check")
    if "failed" in numerics:
        print(f"error: the comparison of numbers failed: {numerics['failed']}", file=sys.stderr)
        return 1
    results = _run_in_turn(args, argv, {side: tried[side] for side in wanted})
    sides: dict[str, Any] = {"tried": {}}
    for side in wanted:
        done = []
        for setting in tried[side]:
            parts = results[setting.label]
            failed = [part["failed"] for part in parts if "failed" in part]
            sides["tried"][setting.label] = failed[0] if failed else merged_runs(parts)["runs"]
            if not failed:
                done.append(merged_runs(parts))
        best = [one for one in done if one["mode"] == "best"] or done
        if not best:
            print(f"error: no setting of {side} ran: {sides['tried']}", file=sys.stderr)
            return 3 if side == "vlrl" else 1
        sides[side] = min(best, key=lambda one: statistics.median(one["runs"]["update"]))
        if side == "stock":
            sides["stock_default"] = next((one for one in done if one["mode"] == "default"), None)
    return _write_report(args, argv, sides, numerics)


def _run_in_turn(
    args: argparse.Namespace, argv: Sequence[str], tried: dict[str, list[Setting]]
) -> dict[str, list[dict[str, Any]]]:
    """The results of every setting's processes by its label: half of the repeats in one order of the sides, half in the other.
    A setting that failed is not run again."""
    halves = [1] if args.check_only else [-(-args.repeats // 2), args.repeats // 2]
    order = [(side, n) for half, n in enumerate(halves) if n for side in (tried if half % 2 == 0 else reversed(tried))]
    results: dict[str, list[dict[str, Any]]] = {}
    for side, n in order:
        for setting in tried[side]:
            if any("failed" in part for part in results.get(setting.label, ())):
                continue
            print(f"  {setting.label}: {n} step(s)", file=sys.stderr, flush=True)
            made = in_child(argv, setting_to_json(setting), repeats=n)
            made |= {"setting": setting.label, "mode": "default" if setting.weights else "best"}
            made["micro_batch"] = setting.rows or args.prompts * args.group
            results.setdefault(setting.label, []).append(made)
    return results


def _write_report(args: argparse.Namespace, argv: Sequence[str], sides: dict[str, Any], numerics: dict[str, Any]) -> int:
    if args.check_only:
        for side in SPEED_SIDES:
            if side in sides:
                sides[side] = {**sides[side], "runs": {}}
        sides["tried"] = {}
    report = report_of(case_of(args), args.disable, argv, sides, numerics)
    wrong = outside_bounds(report)
    if "vlrl" in sides and not args.disable:
        needed = needed_counts(case_of(args))
        got = sides["vlrl"]["counts"]
        wrong += [f"{name} {got[name]}, {n} needed" for name, n in needed.items() if got[name] != n]
    report["problems"] = wrong
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(report_text(report))
    for line in wrong:
        print(f"wrong: {line}")
    print(args.out)
    fell_back = "vlrl" in sides and not sides["vlrl"]["shared"]
    return 3 if fell_back else 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
