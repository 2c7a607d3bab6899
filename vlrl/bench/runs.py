"""The flags of `vlrl runs`. Not here: the list (`vlrl.bench.runs_list`), the comparison (`vlrl.bench.runs_compare`)."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from vlrl.bench.runs_list import list_runs


def parse_runs(words: Sequence[str]) -> argparse.Namespace:
    """The flags of `vlrl runs`. Exits with 2 for a wrong command line."""
    if list(words[:1]) == ["compare"]:
        about = "Two runs beside each other: options, versions, data, numbers, held-out answers."
        parser = argparse.ArgumentParser(prog="vlrl runs compare", description=about, allow_abbrev=False)
        parser.add_argument("a", type=Path, help="the folder of a run")
        parser.add_argument("b", type=Path, help="the folder of another run")
        parser.set_defaults(run=_compare)
        return parser.parse_args(list(words[1:]))
    parser = argparse.ArgumentParser(
        prog="vlrl runs",
        description="The runs below a folder, the newest first.",
        epilog="`vlrl runs compare A B` puts two runs beside each other.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help="where runs lie (default: runs)")
    parser.set_defaults(run=list_runs)
    return parser.parse_args(list(words))


def _compare(args: argparse.Namespace) -> int:
    from vlrl.bench.runs_compare import show_two_runs  # with numpy, which a list does not need

    return show_two_runs(args.a, args.b)
