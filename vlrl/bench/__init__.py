"""`vlrl bench`: evaluate a model or a file of answers, compare two runs, score text, check data, sample, measure speed.

Sub-commands: `list`, `run`, `score`, `diff`, `grade`, `check`, `hack`, `export`, `sample`, `filter`, `speed`. Only `run`,
`sample` and `speed --what trainer` need a model, and the first two need torch only if the model runs in this process. Each
sub-command is imported when it is called. Also `python -m vlrl.bench` and `vlrl-bench`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vlrl.bench.flag_types import whole_from
from vlrl.bench.sample_flags import add_sample_flags
from vlrl.bench.video_flags import video_flags
from vlrl.bench.vilbench.judging import CONTEXTS
from vlrl.data.files import disk_is_full, free_mib
from vlrl.data.masking import address_problem, guard_console, masked
from vlrl.schema import ANSWER_FORMATS, BOX_FORMATS, COORDS
from vlrl.training.flags import with_underscores
from vlrl.training.stopping import Stopped, StopRequests


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 bad rows or hackable rewards were found, requests failed or the disk is full, 2 the
    input cannot be used, 130 stopped by Ctrl-C, 143 by SIGTERM (`speed` has codes of its own)."""
    return carry_out(parse_command(sys.argv[1:] if argv is None else argv))


def carry_out(args: argparse.Namespace) -> int:
    """Run what flags name by their `run`; requests to stop and what a user can mend are one line. Returns the exit code."""
    guard_console()
    with StopRequests() as stop:
        try:
            refuse_keys_in_addresses(args)
            return int(args.run(args))
        except Stopped as stopped:
            return _stopped(f" by {stopped.request.why}", stop.go_on, stopped.request.code)
        except (ValueError, OSError, RuntimeError) as error:
            if stop.request is not None and isinstance(error, RuntimeError):  # a wait for a process that ended first
                return _stopped(f" by {stop.request.why}", stop.go_on, stop.request.code)
            folder = stop.folder or getattr(args, "output_path", None) or Path.cwd()
            if disk_is_full(error, folder):
                why = f": no space left in {folder} ({free_mib(folder)} MiB free): {error}. Free some, then repeat the command"
                return _stopped(why, stop.go_on, 1)
            if isinstance(error, RuntimeError):
                raise
            print(f"error: {masked(str(error))}", file=sys.stderr)
            return 2


def _stopped(why: str, go_on: str, code: int) -> int:
    """Say why a command ended early, and how it goes on where it keeps what it has done. Returns `code`."""
    if os.environ.get("RANK", "0") == "0":
        kept = f". The answers so far are kept; the same command goes on: {go_on}" if go_on else ""
        print(masked(f"stopped{why}{kept}"), file=sys.stderr, flush=True)
    return code


def refuse_keys_in_addresses(args: argparse.Namespace) -> None:
    """Raises ValueError for a flag whose address holds a key or password."""
    for name, value in vars(args).items():
        problem = address_problem(name, value)
        if problem is not None:
            raise ValueError(f"--{name}: {problem}")


def parse_command(words: Sequence[str]) -> argparse.Namespace:
    """The flags of a sub-command; calling their `run` with them does the work. Exits with 2 for a wrong command line."""
    words = with_underscores(words)
    if words[:1] == ["speed"]:
        return _parse_speed(words[1:])
    parser = argparse.ArgumentParser(prog="vlrl bench", description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], int], what: str) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
        found.set_defaults(run=run)
        return found

    command("list", _list, "tasks, benchmarks with the data they need, rewards with ranges and options")
    _run_flags(command("run", _run, "generate answers and score them"))
    score = command("score", _score, "score answers made before, without a model")
    where = "predictions.jsonl, a log of lmms-eval or VLMEvalKit, or AutoTrust's JSON array"
    score.add_argument("--predictions", required=True, type=Path, help=where)
    score.add_argument("--ans_key", help="key of the answers in an AutoTrust array, e.g. llava_answer")
    _data_flags(score, seed=None)
    diff = command("diff", _diff, "compare two result folders, or several runs a side, by a paired bootstrap")
    diff.add_argument("folders", type=Path, nargs="+", metavar="FOLDER", help="A and B; with --to all runs of A")
    diff.add_argument("--to", type=Path, nargs="+", default=[], metavar="FOLDER", help="several runs (seeds) of B")
    diff.add_argument("--n", type=int, default=5, help="changed answers to show of each kind")
    diff.add_argument("--output_path", type=Path, help="also write diff.json into this folder")
    grade = command("grade", _grade, "score completions from a file with one reward")
    grade.add_argument("--reward", required=True, help="NAME[:option=value,...] or path/to/file.py:function")
    grade.add_argument("--cases", required=True, type=Path, help='JSONL of {"sample": ..., "completion": ...}')
    grade.add_argument("--out", required=True, type=Path, help="JSONL of scores, one line a case; replaced if it exists")
    check = command("check", _check, "check every row of a data file: its reference answer gets the highest rewards")
    check.add_argument("--data", required=True, type=Path, help="samples, ours or of other projects; several with commas")
    check.add_argument("--pictures", type=Path, metavar="PAGE.html", help="also write the page of `vlrl data look`")
    check.add_argument("--task", help="path/to/my_task.py that defines tasks of your own in --data")
    check.add_argument("--image_root", type=Path, help="folder that image paths are relative to")
    check.add_argument("--coords", choices=["norm1", "norm1000", "px"], default="px", help="how reference answers write boxes")
    check.add_argument("--model_name_or_path", help="also check that this model takes prompts and images; no weights are read")
    check.add_argument(
        "--max_prompt_length", type=whole_from(1), help="most tokens of a prompt (default: its context less 256)"
    )
    check.add_argument("--min_pixels", type=whole_from(1), help="smallest image the model sees, in pixels")
    check.add_argument("--max_pixels", type=whole_from(1), help="largest image the model sees, in pixels")
    video_flags(check)
    _hack_flags(command("hack", _hack, "what degenerate answers earn from a task's rewards; exit code 1 if that is much"))
    _export_flags(command("export", _export, "write a task's data and scoring as a task of lmms-eval"))
    sample = command("sample", _sample, "N completions of each row, scored; rows for SFT, preference pairs, step values")
    add_sample_flags(sample)
    _model_flags(sample, "sampling temperature (default: 1)")
    kept = command("filter", _filter, "which --keep_completions fits a reward: R² with a gold on what each strategy keeps")
    kept.add_argument("folder", type=Path, help="the folder of a run of GRPO, whose completions/ are read")
    kept.add_argument("--gold", metavar="REWARD", help="a reward of weight 0 (default: the gold of the run's own --gold)")
    kept.add_argument("--keep", nargs="+", metavar="STRATEGY:N", help="strategies to compare (default: half and a quarter)")
    kept.add_argument("--seed", type=int, default=0, help="seed of what best_random draws")
    commands.add_parser(
        "speed",
        help="training steps against stock TRL; --what rewards | games: calls a second; --what memory | fits; --simulate",
    )
    return parser.parse_args(words)


# ---- the sub-commands


def _list(args: argparse.Namespace) -> int:
    from vlrl.bench.list_tasks import show

    return show(args)


def _run(args: argparse.Namespace) -> int:
    from vlrl.bench.run import run

    return run(args)


def _score(args: argparse.Namespace) -> int:
    from vlrl.bench.score import score_file

    return score_file(args)


def _diff(args: argparse.Namespace) -> int:
    from vlrl.bench.diff import diff

    return diff(args)


def _grade(args: argparse.Namespace) -> int:
    from vlrl.bench.grade import grade_file

    return grade_file(args)


def _check(args: argparse.Namespace) -> int:
    from vlrl.bench.check import check_data

    return check_data(args)


def _hack(args: argparse.Namespace) -> int:
    from vlrl.bench.hack import hack

    return hack(args)


def _export(args: argparse.Namespace) -> int:
    from vlrl.bench.export import export

    return export(args)


def _sample(args: argparse.Namespace) -> int:
    from vlrl.bench.sample import sample

    return sample(args)


def _filter(args: argparse.Namespace) -> int:
    from vlrl.bench.filter_report import show_filters

    return show_filters(args)


def _speed_of_rewards(args: argparse.Namespace) -> int:
    from vlrl.bench.speed.rewards import measure_rewards

    return measure_rewards(args)


def _speed_of_games(args: argparse.Namespace) -> int:
    from vlrl.bench.speed.games import measure_games

    return measure_games(args)


def _simulated_speed(args: argparse.Namespace) -> int:
    from vlrl.bench.speed.simulate import run_simulation

    return run_simulation(args)


def _measured_memory(args: argparse.Namespace) -> int:
    from vlrl.bench.speed.memory import run_memory

    return run_memory(args)


def _what_fits(args: argparse.Namespace) -> int:
    from vlrl.bench.speed.fits import run_fits

    return run_fits(args)


SPEED_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "rewards": _speed_of_rewards,
    "games": _speed_of_games,
    "memory": _measured_memory,
    "fits": _what_fits,
    "simulate": _simulated_speed,
}
"""`speed --what NAME` of everything but the trainer."""


def _parse_speed(words: list[str]) -> argparse.Namespace:
    """The flags of `speed`: those of the trainer's are in its own module, the others need no import."""
    what = argparse.ArgumentParser(prog="vlrl bench speed", add_help=False, allow_abbrev=False)
    what.add_argument("--what", choices=["trainer", *SPEED_COMMANDS], default="trainer")
    what.add_argument("--simulate", dest="what", action="store_const", const="simulate")
    chosen, rest = what.parse_known_args(words)
    if chosen.what == "trainer":
        from vlrl.bench.speed import command as speed

        try:
            args = speed.arguments(rest)
        except ValueError as error:
            what.error(str(error))
        args.run = lambda _: speed.main(rest)
        return args
    others = argparse.ArgumentParser(prog=f"vlrl bench speed --what {chosen.what}", allow_abbrev=False)
    others.add_argument("--json", type=Path, help="also write the numbers into this file")
    if chosen.what == "simulate":
        from vlrl.bench.speed.simulate import add_simulate_flags

        add_simulate_flags(others)
    if chosen.what == "fits":
        from vlrl.bench.speed.fits import add_fits_flags

        add_fits_flags(others)
    if chosen.what == "memory":
        from vlrl.bench.speed.memory import add_memory_flags

        add_memory_flags(others)
    others.set_defaults(run=SPEED_COMMANDS[chosen.what])
    return others.parse_args(rest)


# ---- flags


def _data_flags(parser: argparse.ArgumentParser, seed: int | None) -> None:
    add = parser.add_argument
    add(
        "--task",
        required=True,
        help="detection, qa, ... (several: a,b), path/to/my_task.py, autotrust[/part], vilbench[/candidates]",
    )
    add(
        "--data",
        type=Path,
        help="samples, ours or other projects' (a,b: several); for AutoTrust qa-pairs (default: drawn ones)",
    )
    add("--image_root", type=Path, help="folder that image paths are relative to")
    add("--limit", type=whole_from(1), help="at most this many samples, drawn by --seed (AutoTrust: of each file)")
    add("--seed", type=int, default=seed, help="seed of synthetic samples and of tiny-random")
    add("--coords", choices=COORDS, help="coordinate convention of boxes (default: the model's, or the one in the log)")
    add("--answer_format", choices=ANSWER_FORMATS, help="answer format of samples that do not state one")
    add("--output_path", required=True, type=Path, metavar="DIR", help="folder of the results")
    add("--report_images", type=whole_from(0), metavar="N", help="images inside report.html, of the worst answers (1000)")
    add("--log_format", choices=["inspect"], help="also write logs for `inspect view` (needs the extra [inspect])")
    add("--group_by", metavar="META.KEY", help="numbers by what samples state: meta.source,meta.platform+meta.kind")
    add = parser.add_argument_group("published protocols").add_argument
    add("--protocol", metavar="NAME", help="a benchmark's own numbers: coco, ovdeval, lvis (detection), cvbench (qa)")
    add(
        "--max_dets",
        type=whole_from(1),
        help="boxes that count in AP (default: 100 of a label in an image; lvis: 300 of an image)",
    )
    add(
        "--present",
        metavar="FILE",
        help="JSON image -> categories to ask for in it, or `ask`: those that the model names first",
    )
    add(
        "--masks", metavar="sam:FOLDER", help="masks of grounding boxes by a promptable segmenter, or masks.jsonl of such a run"
    )
    add = parser.add_argument_group("ViLBench (best of N)").add_argument
    add("--candidates", type=Path, help="JSONL of solutions of the items in --data (vilbench/candidates makes some)")
    add("--fields", type=Path, help="JSON object: our names of an item's fields -> the names in the file")
    add("--released_items", action="store_true", help="the items are the 600 released ones, unchanged")
    add("--context", choices=CONTEXTS, default="prefix", help="a judge of a step sees all steps so far, or it alone")
    add("--other_scores", type=Path, help="JSONL of other reward models' scores, to compare with")
    add("--votes", type=whole_from(1), default=1, help="ask a judge so often for each score and take the mean (temperature 1)")
    add = parser.add_argument_group("AutoTrust").add_argument
    add("--scorer", choices=["fixed", "reference", "both"], default="both", help="our scorer, the released one, or both")
    add("--judge", metavar="openai:MODEL", help="rate open-ended answers with a model at OPENAI_API_BASE")
    add("--option_mode", choices=["auto", "plain", "check"], default="auto", help="how the reference scorer reads options")
    add("--prompt_set", type=Path, help="JSON of the exact sentences of the prompts, instead of our own")
    add("--prefixes", type=Path, help="JSON question id -> prefix, for misinformation and misinstruction")
    add("--group_labels", type=Path, help="JSON image path -> {attribute: group}, for scene fairness")
    add("--attack", metavar="pgd+bim+cw", help="attack images through the model itself (slow)")
    add("--attack_model", metavar="NAME", help="attack images through another model (transfer)")
    add("--keep_mojibake", action="store_true", help="use the Spanish questions as released, wrongly decoded")


def _hack_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--task", required=True, help="detection, qa, ... (several: a,b), or path/to/my_task.py")
    add("--rewards", nargs="+", metavar="REWARD", help="NAME[:option=value,...] or my.py:function (default: the task's)")
    add("--reward_weights", nargs="+", type=float, metavar="W", help="weights in the order of the rewards (default: 1)")
    add("--data", type=Path, help="samples.jsonl (default: synthetic samples)")
    add("--image_root", type=Path, help="folder that image paths are relative to")
    add("--limit", type=whole_from(1), help="at most this many samples, drawn from --data (default: 40)")
    add("--seed", type=int, default=0, help="seed of synthetic samples and of the draw from --data")
    add("--coords", choices=["norm1", "norm1000", "px"], default="px", help="how answers write boxes")
    add("--output_path", type=Path, metavar="DIR", help="also write hack.json into this folder (or into a file, *.json)")


def _export_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", choices=["lmms_eval"], required=True, help="the program that will run it")
    add("--task", required=True, help="detection, qa, ... (several: a,b), or path/to/my_task.py")
    add("--data", type=Path, help="samples.jsonl (default: synthetic samples)")
    add("--image_root", type=Path, help="folder that image paths are relative to")
    add("--limit", type=whole_from(1), help="at most this many samples, drawn by --seed")
    add("--seed", type=int, default=0, help="seed of synthetic samples and of the draw from --data")
    add("--coords", choices=COORDS, help="how the model that will answer writes boxes")
    add("--answer_format", choices=ANSWER_FORMATS, help="answer format of samples that do not state one")
    add("--box_format", choices=BOX_FORMATS, help="box format of samples that do not state one")
    add("--prompt_template", help="the prompt, a text or a file: {question} and its choices, or {prompt} of the task")
    add("--max_new_tokens", type=whole_from(1), help="most tokens of an answer (512)")
    add("--output_path", required=True, type=Path, metavar="DIR", help="folder for --include_path of lmms-eval")


def _run_flags(parser: argparse.ArgumentParser) -> None:
    _data_flags(parser, seed=0)
    _model_flags(parser, "sampling temperature (default: 0, greedy; vilbench/candidates: 1)")
    parser.add_argument("--n_candidates", type=whole_from(1), default=16, help="vilbench/candidates: solutions of each item")


def _model_flags(parser: argparse.ArgumentParser, temperature: str) -> None:
    """Flags of what answers. `temperature`: what is said of --temperature."""
    add = parser.add_argument
    add(
        "--model_name_or_path",
        help="a run's final/ folder, a hub id, a server's model name (default: tiny, for card games tiny-cards)",
    )
    add("--revision", help="branch, tag or commit on the hub")
    add("--dtype", help="type of the weights (default: the checkpoint's)")
    add("--attn_implementation", help="attention of transformers (default: the fastest that runs)")
    add("--device", choices=("auto", "cpu"), default="auto", help="auto: a GPU if there is one")
    add("--trust_remote_code", action="store_true", help="run model code from the hub")
    add("--min_pixels", type=int, help="smallest image, in pixels, after resizing")
    add("--max_pixels", type=int, help="largest image, in pixels, after resizing")
    video_flags(parser)
    add("--box_format", choices=BOX_FORMATS, help="box format of samples that do not state one")
    add("--system_prompt", help="a system message before every question: a text, or a file that holds one")
    add("--prompt_template", help="the prompt, a text or a file: {question} and its choices, or {prompt} of the task")
    add("--batch_size", type=whole_from(1), default=16, help="prompts per batch in each process")
    add("--max_new_tokens", type=whole_from(1), help="most tokens of an answer")
    add("--temperature", type=float, help=temperature)
    add("--allow_missing", type=int, default=0, metavar="N", help="leave out up to N samples whose files are missing")
    add("--dry_run", action="store_true", help="check flags and data, generate nothing")
    add("--use_vllm", action="store_true", help="generate with vLLM in this process")
    add("--base_url", help="generate with an OpenAI-compatible server, e.g. http://localhost:8000/v1")
    add("--api_nproc", type=whole_from(1), default=8, help="concurrent requests")
    add("--retry", type=whole_from(1), default=3, help="tries of a request")
    add("--timeout", type=float, default=120.0, help="seconds a request may take")
