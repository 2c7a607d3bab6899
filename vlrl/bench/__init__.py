"""`python -m vlrl.bench`: evaluate a model or a file of answers, compare two runs, score text, check data, measure speed.

Sub-commands: `list`, `run`, `score`, `diff`, `grade`, `check`, `speed`. Only `run` and `speed --what trainer` need a model, and
`run` needs torch only if the model runs in this process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlrl.bench.vilbench.judging import CONTEXTS
from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, COORDS
from vlrl.training.flags import with_underscores

SPEEDS = {"rewards": "speed.rewards", "games": "speed.games"}
"""Modules that measure speeds other than the trainer's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 bad rows were found or requests failed, 2 the input cannot be used (`speed` has codes
    of its own)."""
    args = parse(sys.argv[1:] if argv is None else argv)
    try:
        return int(args.run(args))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def parse(words: Sequence[str]) -> argparse.Namespace:
    """A command line; `run` of what is returned takes it and does the work. Exits with 2 for a wrong one."""
    words = with_underscores(words)
    if words[:1] == ["speed"]:
        return _parse_speed(words[1:])
    parser = argparse.ArgumentParser(prog="vlrl.bench", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, module: str, function: str, told: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=told, description=told, allow_abbrev=False)
        found.set_defaults(run=lambda args: _call(module, function)(args))
        return found

    command("list", "list_tasks", "show", "tasks, benchmarks with the files they need, rewards with ranges and options")
    _run_flags(command("run", "run", "run", "generate answers and score them"))
    scored = command("score", "run", "score", "score answers made before, without a model")
    scored.add_argument("--predictions", required=True, type=Path, help="predictions.jsonl, or AutoTrust's JSON array")
    scored.add_argument("--ans_key", help="key of the answers in an AutoTrust array, e.g. llava_answer")
    _data_flags(scored, seed=None)
    compared = command("diff", "diff", "diff", "compare two result folders, or several runs a side, by a paired bootstrap")
    compared.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="A and B; with --to all runs of A")
    compared.add_argument("--to", type=Path, nargs="+", default=[], metavar="FOLDER", help="several runs (seeds) of B")
    compared.add_argument("--n", type=int, default=5, help="changed answers to show of each kind")
    compared.add_argument("--output_path", type=Path, help="write diff.json into this folder too")
    graded = command("grade", "grade", "grade_file", "score completions from a file")
    graded.add_argument("--reward", required=True, help="NAME[:option=value,...] or path/to/file.py:function")
    graded.add_argument("--cases", required=True, type=Path, help='JSONL of {"sample": ..., "completion": ...}')
    graded.add_argument("--out", required=True, type=Path, help="JSONL of scores, one line a case; replaced if it exists")
    checked = command("check", "check", "check_file", "check every row of a data file: its right answer earns full marks")
    checked.add_argument("--data", required=True, type=Path)
    checked.add_argument("--task", help="path/to/my_task.py of rows whose task is your own")
    checked.add_argument("--image_root", type=Path)
    checked.add_argument("--coords", choices=["norm1", "norm1000", "px"], default="px")
    commands.add_parser("speed", help="steps of the trainer against stock TRL; --what rewards | games: how many a second")
    return parser.parse_args(words)


def _parse_speed(words: list[str]) -> argparse.Namespace:
    """Speeds of the trainer have flags of their own; those of the others are known without importing it."""
    what = argparse.ArgumentParser(prog="vlrl.bench speed", add_help=False, allow_abbrev=False)
    what.add_argument("--what", choices=["trainer", *SPEEDS], default="trainer")
    chosen, rest = what.parse_known_args(words)
    if chosen.what == "trainer":
        from vlrl.bench.speed import command as speed

        try:
            args = speed.arguments(rest)
        except ValueError as error:
            what.error(str(error))
        args.run = lambda _: speed.main(rest)
        return args
    others = argparse.ArgumentParser(prog=f"vlrl.bench speed --what {chosen.what}", allow_abbrev=False)
    others.add_argument("--json", type=Path, help="write the numbers here too")
    others.set_defaults(run=_call(SPEEDS[chosen.what], "speed"))
    return others.parse_args(rest)


def _call(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    """A sub-command, imported when it is called: `grade` must not wait for what `run` needs."""
    from importlib import import_module

    found: Callable[[argparse.Namespace], int] = getattr(import_module(f"vlrl.bench.{module}"), function)
    return found


def _data_flags(parser: argparse.ArgumentParser, seed: int | None) -> None:
    parser.add_argument(
        "--task",
        required=True,
        help="detection, qa, ... (several: a,b), path/to/my_task.py, autotrust[/part], vilbench[/candidates]",
    )
    parser.add_argument(
        "--data", type=Path, help="samples.jsonl; of AutoTrust a file or the folder qa-pairs; default: synthetic"
    )
    parser.add_argument("--image_root", type=Path, help="folder that image paths are relative to")
    parser.add_argument("--limit", type=_positive, help="at most so many samples (of AutoTrust: of each file)")
    parser.add_argument("--seed", type=int, default=seed, help="of synthetic samples and of tiny-random")
    parser.add_argument(
        "--coords", choices=COORDS, help="how boxes are written (default: as the model's type or the log tells)"
    )
    parser.add_argument("--answer_format", choices=ANSWER_FORMATS, help="of samples that do not say")
    parser.add_argument("--output_path", required=True, type=Path, metavar="DIR")
    best = parser.add_argument_group("ViLBench (best of N)")
    best.add_argument(
        "--candidates", type=Path, help="JSONL of solutions of the items in --data (vilbench/candidates makes some)"
    )
    best.add_argument("--fields", type=Path, help="JSON of our names of an item's fields to those of the file")
    best.add_argument("--released_items", action="store_true", help="the items are the 600 released ones, unchanged")
    best.add_argument(
        "--context", choices=CONTEXTS, default="prefix", help="what a judge of a step sees: all so far, or it alone"
    )
    best.add_argument("--other_scores", type=Path, help="JSONL of other reward models' scores, to compare with")
    trust = parser.add_argument_group("AutoTrust")
    trust.add_argument("--scorer", choices=["fixed", "reference", "both"], default="both")
    trust.add_argument("--judge", metavar="openai:MODEL", help="rate open-ended answers by a model at OPENAI_API_BASE")
    trust.add_argument("--option_mode", choices=["auto", "plain", "check"], default="auto", help="of the reference scorer")
    trust.add_argument("--prompt_set", type=Path, help="JSON of the exact sentences to ask with, instead of our own")
    trust.add_argument("--prefixes", type=Path, help="JSON question id -> prefix, for misinformation and misinstruction")
    trust.add_argument("--group_labels", type=Path, help="JSON image path -> {attribute: group}, for scene fairness")
    trust.add_argument("--attack", metavar="pgd+bim+cw", help="attack pictures through the model itself (slow)")
    trust.add_argument("--attack_model", metavar="NAME", help="attack them through another model and transfer")
    trust.add_argument("--keep_mojibake", action="store_true", help="ask the Spanish questions as released, wrongly decoded")


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _data_flags(parser, seed=0)
    parser.add_argument(
        "--model_name_or_path",
        help="tiny or, of card games, tiny-cards (the defaults); a run's final/ folder, a hub id, a server's model name",
    )
    parser.add_argument("--revision")
    parser.add_argument("--dtype", help="of the weights (default: the checkpoint's)")
    parser.add_argument("--attn_implementation")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU where there is one")
    parser.add_argument("--trust_remote_code", action="store_true")
    parser.add_argument("--min_pixels", type=int)
    parser.add_argument("--max_pixels", type=int)
    parser.add_argument("--box_format", choices=BOX_FORMATS)
    parser.add_argument("--batch_size", type=_positive, default=16, help="prompts at once in each process")
    parser.add_argument("--max_new_tokens", type=_positive, help="most tokens of an answer")
    parser.add_argument("--n_candidates", type=_positive, default=16, help="of vilbench/candidates: solutions an item")
    parser.add_argument("--temperature", type=float, help="of sampling (default: 0, greedy; of vilbench/candidates 1)")
    parser.add_argument("--allow_missing", type=int, default=0, metavar="N", help="go on without the files of up to N samples")
    parser.add_argument("--dry_run", action="store_true", help="check flags and data, ask nothing")
    parser.add_argument("--use_vllm", action="store_true", help="generate with vLLM in this process")
    parser.add_argument("--base_url", help="generate with an OpenAI-compatible server, e.g. http://localhost:8000/v1")
    parser.add_argument("--api_nproc", type=_positive, default=8, help="requests at a time")
    parser.add_argument("--retry", type=_positive, default=3, help="tries of a request")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds a request may take")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value
