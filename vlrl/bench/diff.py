"""`diff A B`: two scored runs on the same samples, by a paired bootstrap, and the samples whose score rose or fell."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.bench.composite_plot import draw_composites
from vlrl.bench.diff_runs import diff_several
from vlrl.bench.paired_rows import Rows, compare_rows, difference_table, read_result_folder
from vlrl.bench.report import check_folder
from vlrl.bench.results import SCORES_FILE
from vlrl.schema import SampleError
from vlrl.tasks.evaluate import write_json
from vlrl.training.benchmark_flags import DIFF_PICTURE


def diff(args: argparse.Namespace) -> int:
    """Print the differences B - A with interval and p-value, then the samples that changed; with `--to`, several runs a side.

    Raises SampleError for folders that cannot be compared.
    """
    check_folders(args.folders, args.to)
    if args.output_path:
        check_folder(args.output_path)
    if args.to:
        return diff_several(args)
    at_a, at_b = args.folders
    (result_a, rows_a), (result_b, rows_b) = read_result_folder(at_a), read_result_folder(at_b)
    for folder, rows in ((at_a, rows_a), (at_b, rows_b)):
        if not rows:
            raise SampleError(f"{folder / SCORES_FILE}: holds no rows, so there is nothing to compare")
    compared = compare_rows(rows_a, rows_b, result_a.get("composites"))
    n_common = len(rows_a.keys() & rows_b.keys())
    changes = changed(rows_a, rows_b)
    sha = [(result.get("data") or {}).get("sha256") for result in (result_a, result_b)]
    print(f"A  {at_a}  model {result_a.get('model')}\nB  {at_b}  model {result_b.get('model')}")
    print(f"{n_common} samples in both, {len(rows_a) - n_common} only in A, {len(rows_b) - n_common} only in B")
    if sha[0] != sha[1]:
        print("the data files differ (SHA-256): samples are matched by their ids alone")
    print(difference_table(compared))
    for kind in ("better", "worse"):
        some = changes[kind]
        print(f"\n{len(some)} samples are {kind} in B")
        for row in some[: args.n]:
            _print_change(row)
        if len(some) > args.n:
            print(f"  ... and {len(some) - args.n} more")
    if args.output_path:
        args.output_path.mkdir(parents=True, exist_ok=True)
        record = {"a": str(at_a), "b": str(at_b), "n_common": n_common, "differences": compared, "changed": changes}
        write_json(args.output_path / "diff.json", record)
        shown = {"A": (at_a, result_a), "B": (at_b, result_b)}
        sides = {f"{name} {Path(*at.parts[-2:])}": result for name, (at, result) in shown.items()}
        if picture := draw_composites(args.output_path / DIFF_PICTURE, sides):
            print(picture)
        print(args.output_path / "diff.json")
    return 0


def _print_change(row: Mapping[str, Any]) -> None:
    print(f"  {_one_line(row['id'])}  ground truth {row['ground_truth'][:60]!r}")
    for side, how in (("a", "was"), ("b", "is")):
        print(f"    {side.upper()} {row[how]}: {(row[f'completion_{side}'] or row[side])!r:.300}")


def _one_line(text: str) -> str:
    """An id as it is, or escaped where it would break the line."""
    return text if text.isprintable() else repr(text)


def check_folders(folders: Sequence[Path], to: Sequence[Path]) -> None:
    """Raises SampleError where it is not clear what is compared with what."""
    if not to and len(folders) != 2:
        raise SampleError(f"{len(folders)} folders: give two, or several a side: diff A1 A2 ... --to B1 B2 ...")
    for side in (folders, to) if to else ():
        if len(set(side)) < len(side):
            raise SampleError("a folder is named twice on one side; every run counts once")


def changed(rows_a: Rows, rows_b: Rows) -> dict[str, list[dict[str, Any]]]:
    """The common samples whose headline value rose ("better") or fell ("worse") from A to B, the largest change first."""
    found: dict[str, list[dict[str, Any]]] = {"better": [], "worse": []}
    for key in rows_a:
        if key not in rows_b:
            continue
        a, b = rows_a[key], rows_b[key]
        gap = _headline_value(b) - _headline_value(a)
        if gap:
            record = {"task": key[0], "id": key[1], "ground_truth": a["ground_truth"], "a": a["answer"], "b": b["answer"]}
            record |= {f"completion_{side}": row.get("completion", "") for side, row in (("a", a), ("b", b))}
            found["better" if gap > 0 else "worse"].append({**record, "was": a["outcome"], "is": b["outcome"], "gap": gap})
    for rows in found.values():
        rows.sort(key=lambda row: -abs(row["gap"]))
    return found


def _headline_value(row: Mapping[str, Any]) -> float:
    """A sample's value of its first metric, the headline."""
    if not row["parts"]:
        return float(row["outcome"] == "right")
    top, bottom = next(iter(row["parts"].values()))
    return float(top / bottom) if bottom else 1.0
