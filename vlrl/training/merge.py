"""`vlrl merge`: a folder with the whole model from a folder of adapters, which loads anywhere (transformers, vLLM, a hub).

Not here: how a run merges its own at its end (`vlrl.training.weights`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vlrl.models.names import ModelError, adapter_base, is_adapter_folder


def merge_flags(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="vlrl merge", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("folder", help="adapters: a checkpoint of a run with --use_peft, or its adapter/")
    parser.add_argument("--out", required=True, type=Path, help="the folder to write; it must not exist")
    parser.add_argument("--dtype", default="auto", choices=["auto", "bfloat16", "float16", "float32"], help="of the weights")
    return parser.parse_args(argv)


def merge_folder(argv: Sequence[str] | None = None) -> int:
    """Merge and write. Returns the exit code: 0 done, 2 could not start; one line says why."""
    args = merge_flags(argv)
    if not is_adapter_folder(args.folder):
        what = (
            "holds a whole model already" if (Path(args.folder) / "config.json").is_file() else "holds no adapter_config.json"
        )
        print(
            f"error: {args.folder} {what}; give a folder of adapters, as a checkpoint of a run with --use_peft", file=sys.stderr
        )
        return 2
    if args.out.exists():
        print(f"error: --out {args.out} exists already; name another folder", file=sys.stderr)
        return 2
    from vlrl.models.load import load_model, save_model

    partial = args.out.with_name(f"{args.out.name}.partial")
    try:
        base = adapter_base(args.folder)
        loaded = load_model(args.folder, dtype=args.dtype, coords="px")
        shutil.rmtree(partial, ignore_errors=True)
        save_model(loaded.model, loaded.processor, partial)
        partial.rename(args.out)
    except (ModelError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{args.folder} merged into {base}: {loaded.model.num_parameters() / 1e6:.2f} M parameters")
    print(args.out)
    return 0
