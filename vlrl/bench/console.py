"""`vlrl train | bench | data | runs | merge | demo`: one word, then that program's flags. Imports nothing heavy early."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlrl.data.name_values import nearest
from vlrl.training.console import check_flags

USAGE = """usage: vlrl train | bench | data | runs | merge | demo [flags]

  vlrl train --task detection        GRPO fine-tuning on one process; `torchrun vlrl/train.py` for several
  vlrl bench list | run | diff ...   evaluate models and files of answers
  vlrl data look --data x.jsonl      a page about training data: counts, copies, samples with their boxes and prompts
  vlrl runs [FOLDER]                 training runs with their status and numbers; `vlrl runs compare A B`
  vlrl merge ADAPTERS --out FOLDER   the whole model, from a checkpoint of a run with --use_peft
  vlrl demo                          a page to try a model, grade a text and look at runs

`vlrl train --help`, `vlrl bench --help`, `vlrl data look --help`, `vlrl runs --help` and `vlrl demo --help` list the flags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a sub-command. Returns its exit code: 0 done, 1 stopped on the way, 2 could not start."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, file=sys.stdout if words else sys.stderr)
        return 0 if words else 2
    programs: dict[str, Callable[[list[str]], int]] = {
        "train": train,
        "bench": bench,
        "data": data,
        "runs": runs,
        "merge": merge_adapters,
        "demo": demo,
    }
    if words[0] not in programs:
        print(f"error: vlrl has no command {words[0]!r}{nearest(words[0], programs)}\n\n{USAGE}", file=sys.stderr)
        return 2
    return programs[words[0]](words[1:])


def train(words: list[str]) -> int:
    """`vlrl train`: flags first, then the libraries, then the run."""
    if (code := check_flags(words)) is not None:
        return code
    from vlrl.train import main as run

    return run(words)


def bench(words: list[str]) -> int:
    """`vlrl bench`: the same as `python -m vlrl.bench`."""
    from vlrl.bench import main as run

    return run(words)


def data(words: list[str]) -> int:
    """`vlrl data look`: a page about training data."""
    from vlrl.bench import carry_out
    from vlrl.bench.look import parse_look

    return carry_out(parse_look(words))


def runs(words: list[str]) -> int:
    """`vlrl runs`: training runs below a folder, or two beside each other."""
    from vlrl.bench import carry_out
    from vlrl.bench.runs import parse_runs

    return carry_out(parse_runs(words))


def merge_adapters(words: list[str]) -> int:
    """`vlrl merge`: whole weights from adapters."""
    from vlrl.training.merge import merge_folder as run

    return run(words)


def demo(words: list[str]) -> int:
    """`vlrl demo`: the same as `python demos/app.py`, which lies beside the package in the repository."""
    app = Path(__file__).resolve().parents[2] / "demos" / "app.py"
    if not app.is_file():
        print(f"error: {app} does not exist; the demo is part of the repository, not of the package", file=sys.stderr)
        return 2
    sys.argv = [str(app), *words]
    runpy.run_path(str(app), run_name="__main__")
    return 0


if __name__ == "__main__":
    sys.exit(main())
