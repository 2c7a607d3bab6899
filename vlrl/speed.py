"""`python -m vlrl.speed`: the shared layout against TRL's, phase by phase, with the numbers that say both computed the same.

Same weights (random, drawn from the seed), prompts, images, completions, loss, optimizer and dtype on both sides; completions
of fixed length. The stock side is TRL's layout through TRL's fused head: every completion in a row with its prompt and its
image. On a GPU stock runs at several settings and its fastest counts; on a CPU each side has processes of its own, in turn.
Not here: data loading, preprocessing and rewards, which a run pays as well.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from vlrl import group_shared, packed_attention
from vlrl.speed_cases import (
    PEAK_FLOPS,
    SHAPES,
    Batch,
    Setting,
    build,
    forward_flops,
    generated,
    make_batch,
    prepare,
    scored,
    settings,
    update,
)

PHASES = ("update", "ref", "rollout_prefill", "rollout", "step")


# -- measuring ------------------------------------------------------------------------------------------------------------


def measure(run: Callable[[], Any], repeats: int, warmup: int = 1) -> dict[str, Any]:
    """Seconds (all runs and the first call) and the peak of allocated GPU memory, or of this process on a CPU, in bytes."""
    cuda = torch.cuda.is_available()
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
    seconds = []
    for index in range(warmup + repeats):
        if cuda:
            torch.cuda.synchronize()
            if index == warmup:
                torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        run()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else peak_resident_bytes()
    return {"first_call": seconds[0], "peak_bytes": peak, **summary(seconds[warmup:])}


def peak_resident_bytes() -> int:
    """Of this process. `getrusage` alone would start a child at its parent's peak."""
    status = Path("/proc/self/status")
    if status.is_file():
        lines = dict(line.split(":", 1) for line in status.read_text(encoding="utf-8").splitlines() if ":" in line)
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def summary(runs: list[float]) -> dict[str, Any]:
    quarters = statistics.quantiles(runs, n=4) if len(runs) > 1 else [runs[0]] * 3
    median, spread = statistics.median(runs), quarters[2] - quarters[0]
    return {"seconds": median, "min": min(runs), "iqr": spread, "noisy": spread > 0.05 * median, "runs": runs}


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """One measurement from two processes."""
    if a["seconds"] is None or b["seconds"] is None:
        return a if b["seconds"] is None else b
    peak, first = max(a["peak_bytes"], b["peak_bytes"]), a["first_call"]
    return {"first_call": first, "peak_bytes": peak, **summary(a["runs"] + b["runs"])}


def measure_side(
    model: Any,
    batch: Batch,
    side: str,
    args: argparse.Namespace,
    results: dict[str, Any],
    note: Callable[[], None],
    deadline: float,
) -> None:
    """All phases of one side at its settings, into `results`; what would be begun after the deadline is noted as not run."""
    tried = settings(side, model.device, model.dtype)[: args.max_settings]
    widest = replace(tried[0], rows=0, checkpointing=False)
    reference = torch.full((batch.ids_BT.shape[0], batch.n_keep), -5.0, device=model.device)
    # A frozen tower's features come of the rollout, which encodes the images itself.
    with_features = replace(batch, pictures=group_shared.encode(model, batch.pictures))
    scoring = with_features if args.freeze_vision and side == "vlrl" else batch
    optimizer: list[torch.optim.Optimizer] = []

    def step(setting: Setting) -> None:
        generated(model, batch, widest, batch.n_keep)
        update(model, scoring, setting, scored(model, scoring, widest))
        if not optimizer:
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            # No learning rate: the same work, and the same weights for what is measured next.
            optimizer.append(torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0, fused=True))
        optimizer[0].step()

    runs: list[tuple[str, Setting, Callable[[], Any]]] = [
        *(("update", setting, partial(update, model, scoring, setting, reference)) for setting in tried),
        ("ref", widest, partial(scored, model, scoring, widest)),
        ("rollout_prefill", widest, partial(generated, model, batch, widest, 1)),
        ("rollout", widest, partial(generated, model, batch, widest, batch.n_keep)),
        ("step", tried[0], partial(step, tried[0])),
    ]
    for phase, setting, run in runs:
        if phase not in args.phases:
            continue
        found = results.setdefault(phase, {})
        if time.monotonic() > deadline:
            found[setting.label] = {"seconds": None, "why": "time limit"}
            continue
        prepare(model, setting)
        try:
            found[setting.label] = measure(run, args.repeats)
        except RuntimeError as error:  # out of memory, or a kernel this machine lacks: this setting's result, not the others'
            found[setting.label] = {"seconds": None, "why": str(error)[:300]}
        model.zero_grad(set_to_none=True)
        made = found[setting.label]
        told = made["why"] if made["seconds"] is None else f"{made['seconds']:.4f} s, {made['peak_bytes'] / 2**30:.2f} GiB"
        print(f"  {phase}: {setting.label}: {told}", flush=True)
        note()


# -- numbers --------------------------------------------------------------------------------------------------------------


def gradient_gap(model: Any, kept: dict[str, Tensor]) -> dict[str, float]:
    """Relative L2 and cosine of the model's gradients against kept ones, of all weights and of the tower's alone."""
    sums = {"all": [0.0] * 4, "tower": [0.0] * 4}
    for name, parameter in model.named_parameters():
        if (parameter.grad is None) != (name not in kept):
            raise AssertionError(f"{name} has a gradient on one side only")
        if parameter.grad is None:
            continue
        a, b = parameter.grad.float(), kept[name].float()
        values = [float(x) for x in ((a - b).square().sum(), a.square().sum(), b.square().sum(), (a * b).sum())]
        for key in ("all", "tower") if ".visual." in name else ("all",):
            sums[key] = [x + y for x, y in zip(sums[key], values, strict=True)]
    gaps: dict[str, float] = {}
    for key, (gap, own, other, product) in sums.items():
        if other:
            gaps |= {f"{key}_rel_l2": (gap / other) ** 0.5, f"{key}_cosine": product / (own * other) ** 0.5}
    return gaps


def compare(model: Any, batch: Batch, stock: Setting, others: dict[str, Setting]) -> dict[str, Any]:
    """Log-probabilities, loss and gradients of other settings against one stock setting, on the same batch and weights."""
    prepare(model, stock)
    reference = scored(model, batch, stock)
    # A reference apart from the policy, so that the KL term has a gradient of its own.
    apart = reference + 0.1 * torch.sin(torch.arange(reference.numel(), device=reference.device).view_as(reference))
    loss = update(model, batch, stock, apart)
    kept = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    report: dict[str, Any] = {"stock": stock.label, "loss": loss}
    for name, setting in others.items():
        prepare(model, setting)
        gap = (scored(model, batch, setting) - reference).abs()
        report[name] = {"max_abs_dlogp": float(gap.max()), "mean_abs_dlogp": float(gap.mean())}
        report[name]["abs_dloss"] = abs(update(model, batch, setting, apart) - loss)
        report[name] |= gradient_gap(model, kept) | {"setting": setting.label}
    model.zero_grad(set_to_none=True)
    return report


def check(model: Any, batch: Batch) -> dict[str, Any]:
    """Numbers of the shared side against stock; in bf16 stock through another attention backend is the measure."""
    rows = 2 if model.device.type == "cuda" else 0
    kernel = packed_attention.choose_kernel(model.device, model.dtype)[0]
    shared = Setting("vlrl", kernel=kernel, window=True)
    others = {"noise": Setting("stock", rows=rows, attention="eager", window=True), "vlrl": shared}
    if kernel != "mask":
        others["vlrl_mask"] = replace(shared, kernel="mask")
    report = compare(model, batch, Setting("stock", rows=rows), others)
    got, noise = report["vlrl"], report["noise"]
    if model.dtype == torch.float32:
        report["within_bound"] = got["max_abs_dlogp"] <= 1e-5 and got["all_rel_l2"] <= 1e-4 and got["abs_dloss"] <= 1e-5
        plain, fast = (generated(model, batch, Setting(side), 16, sample=False) for side in ("stock", "vlrl"))
        report["greedy_tokens_equal"] = bool(torch.equal(plain, fast))
        report["within_bound"] &= report["greedy_tokens_equal"]
    else:
        report["within_bound"] = all(got[key] <= 2 * noise[key] for key in ("max_abs_dlogp", "mean_abs_dlogp", "all_rel_l2"))
    return report


# -- the command ----------------------------------------------------------------------------------------------------------


def fastest(results: dict[str, Any], phase: str, ours: bool = False) -> dict[str, Any] | None:
    """The fastest setting of a phase; stock with our windows counts only where asked for."""
    done = {label: made for label, made in results.get(phase, {}).items() if made["seconds"] is not None}
    done = {label: made for label, made in done.items() if label.startswith("vlrl") or ("windows" in label) == ours}
    return min(done.values(), key=lambda made: made["seconds"], default=None)


def table(case: dict[str, Any]) -> str:
    lines = [
        f"{case['model']}  U={case['prompts']} G={case['group']}  {case['image_px']} px = {case['image_tokens']} image tokens"
        f"  P={case['prompt_tokens']} R={case['completion_tokens']}  {case['dtype']} {case['device']}",
        f"{'phase':<16} {'stock (s)':>10} {'vlrl (s)':>10} {'ratio':>7} {'peak stock':>11} {'peak vlrl':>10}",
    ]
    for phase in PHASES:
        sides = [fastest(case["results"].get(side, {}), phase) for side in ("stock", "vlrl")]
        if any(sides):
            cells = ["-" if made is None else f"{made['seconds']:.3f}" for made in sides]
            ratio = f"{sides[0]['seconds'] / sides[1]['seconds']:.2f}" if sides[0] and sides[1] else "-"
            peaks = ["-" if made is None else f"{made['peak_bytes'] / 2**30:.2f} GiB" for made in sides]
            noisy = "  noisy" if any(made and made["noisy"] for made in sides) else ""
            lines.append(f"{phase:<16} {cells[0]:>10} {cells[1]:>10} {ratio:>7} {peaks[0]:>11} {peaks[1]:>10}{noisy}")
    for name, values in (case.get("numerics") or {}).items():
        if isinstance(values, dict):
            lines.append(f"numerics {name}: " + "  ".join(f"{k} {v:.3g}" for k, v in values.items() if k != "setting"))
        elif isinstance(values, bool):
            lines.append(f"numerics {name}: {'yes' if values else 'NO'}")
    lines += [f"mfu of the update, {side}: {value:.1%}" for side, value in case["mfu"].items()]
    return "\n".join(lines)


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vlrl.speed", description=__doc__)
    parser.add_argument("--model", choices=list(SHAPES), default="tiny")
    parser.add_argument("--image_size", type=int, nargs="+", default=[448], help="side in pixels, a multiple of 28")
    parser.add_argument("--completion_tokens", type=int, nargs="+", default=[64])
    parser.add_argument("--group", type=int, nargs="+", default=[8])
    parser.add_argument("--prompt_tokens", type=int, default=82, help="text tokens besides the image")
    parser.add_argument("--prompts", type=int, default=1, help="distinct prompts in the batch")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"))
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--side", choices=("both", "stock", "vlrl"), default="both")
    parser.add_argument("--phases", nargs="+", default=list(PHASES), choices=PHASES)
    parser.add_argument("--freeze_vision", action="store_true")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--time_limit", type=float, default=1e9, help="seconds after which no measurement is begun")
    parser.add_argument("--max_settings", type=int, help="try only the first so many settings of a side")
    parser.add_argument("--check_only", action="store_true", help="compare numbers, time nothing")
    parser.add_argument("--check", choices=("all", "first", "none"), default="all", help="cases whose numbers are compared")
    parser.add_argument("--out", type=Path, default=Path("speed.json"))
    args = parser.parse_args(argv)
    args.device = torch.device("cuda" if args.device != "cpu" and torch.cuda.is_available() else "cpu")
    args.dtype = getattr(torch, args.dtype or ("bfloat16" if args.device.type == "cuda" else "float32"))
    return args


def in_turn(argv: list[str], repeats: int, results: dict[str, Any]) -> None:
    """One case's sides in fresh processes: stock, vlrl, vlrl, stock. Neither has the quieter half, nor the other's memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "side.json"
        for side, n in (
            ("stock", -(-repeats // 2)),
            ("vlrl", -(-repeats // 2)),
            ("vlrl", repeats // 2),
            ("stock", repeats // 2),
        ):
            if not n:
                continue
            own = ["--side", side, "--repeats", str(n), "--check", "none", "--out", str(out)]
            subprocess.run([sys.executable, "-m", "vlrl.speed", *argv, *own], check=True, stdout=subprocess.DEVNULL)
            case = json.loads(out.read_text(encoding="utf-8"))["cases"][0]
            held = results.setdefault(side, {})
            for phase, found in case["results"][side].items():
                for label, made in found.items():
                    old = held.setdefault(phase, {}).get(label)
                    held[phase][label] = merged(old, made) if old else made


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = arguments(argv)
    deadline = time.monotonic() + args.time_limit
    if args.threads:
        torch.set_num_threads(args.threads)
    model = build(args.model, args.device, args.dtype, args.seed)
    if args.freeze_vision:
        model.model.visual.requires_grad_(False)
    device = (
        torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
    )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    report: dict[str, Any] = {
        "schema": 1, "command": "python -m vlrl.speed " + " ".join(argv), "date": datetime.date.today().isoformat(),
        "device": device, "versions": versions, "cases": [],
    }  # fmt: skip

    def note() -> None:
        args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    ok = True
    for side_px, n_keep, group in [(s, r, g) for s in args.image_size for r in args.completion_tokens for g in args.group]:
        batch = make_batch(model, args.prompts, args.prompt_tokens, side_px, n_keep, group, args.seed)
        flops = {side: 3 * forward_flops(model.config, batch, side == "vlrl") for side in ("stock", "vlrl")}
        case: dict[str, Any] = {
            "model": args.model, "prompts": args.prompts, "group": group,
            "image_px": side_px, "image_tokens": (side_px // 28) ** 2,
            "prompt_tokens": batch.n_prompt, "completion_tokens": n_keep, "dtype": str(args.dtype).removeprefix("torch."),
            "device": args.device.type, "freeze_vision": args.freeze_vision, "update_flops": flops, "results": {}, "mfu": {},
            "weights_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
        }  # fmt: skip
        report["cases"].append(case)
        if args.check == "all" or (args.check == "first" and len(report["cases"]) == 1):
            case["numerics"] = check(model, batch)
            ok &= case["numerics"]["within_bound"]
            note()
        if args.side == "both" and args.device.type == "cpu" and not args.check_only:
            one = ["--image_size", str(side_px), "--completion_tokens", str(n_keep), "--group", str(group)]
            in_turn([*argv, *one], args.repeats, case["results"])
        elif not args.check_only:
            for side in ("stock", "vlrl") if args.side == "both" else (args.side,):
                case["results"][side] = {}
                measure_side(model, batch, side, args, case["results"][side], note, deadline)
        peak = next((flop for name, flop in PEAK_FLOPS.items() if name in device), None)
        for side, results in case["results"].items():
            if peak and (made := fastest(results, "update")):
                case["mfu"][side] = flops[side] / made["seconds"] / peak
        note()
        print(table(case), flush=True)
    print(args.out)
    return 0 if ok else 1


if __name__ == "__main__":
    raise SystemExit(main())
