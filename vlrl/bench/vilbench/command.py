"""`--task vilbench[/candidates]` from the command line: items, candidates and scores from files, or the built-in set."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlrl.bench.log import SETTINGS_FILE
from vlrl.bench.suite import Source, StoredAnswers, Suite
from vlrl.bench.vilbench import SELECTION_BIAS, benchmark_name
from vlrl.bench.vilbench.candidates import CANDIDATES, solutions_suite
from vlrl.bench.vilbench.suite import NAME, NAME_OF_RELEASE, STEPS, TASK, BestOfN
from vlrl.data.best_of_n import read_candidates, read_items, read_scores
from vlrl.data.files import read_json_object, sha256_of
from vlrl.data.synthetic import best_of_n as fixture
from vlrl.data.value_head_files import has_head
from vlrl.schema import SampleError

N_FIXTURE_ASKED = 20
"""Items of the built-in set that a language model rates unless --limit is given: each takes 35 prompts."""
JUDGE_TOKENS, TINY_JUDGE_TOKENS = 256, 32
VOTE_TEMPERATURE = 1.0
"""Of a judge whose votes are averaged, unless --temperature is given: greedy votes are all the same."""


def best_of_n_suite(args: argparse.Namespace, max_tokens: int | None) -> Suite:
    """The suite of `--task vilbench`. Raises ValueError for options or files that cannot be used."""
    if args.task == CANDIDATES:
        return solutions_suite(args, max_tokens, read_fields(args.fields))
    rm, trained = _reward_model(args)
    if trained and (getattr(args, "votes", 1) or 1) > 1:
        raise ValueError(f"--votes {args.votes}: {rm} gives the same values every time; votes are for a judge that is asked")
    if (getattr(args, "votes", 1) or 1) > 1 and getattr(args, "predictions", None) is None and not args.temperature:
        args.temperature = VOTE_TEMPERATURE
    asked = getattr(args, "predictions", None) is None and not trained
    run = load_best_of_n(args, rm, trained, N_FIXTURE_ASKED if asked else fixture.N_ITEMS)
    tiny = rm.startswith("tiny")
    return _suite(run, args, max_tokens or (TINY_JUDGE_TOKENS if tiny else JUDGE_TOKENS))


def _reward_model(args: argparse.Namespace) -> tuple[str, bool]:
    """Name of the reward model, and whether it is a trained one. For a log both come from the log and the settings beside
    it."""
    name = getattr(args, "model_name_or_path", None)
    predictions = getattr(args, "predictions", None)
    if predictions is None:
        trained = name is not None and not args.base_url and has_head(name)
        return f"prm:{name}" if trained else str(name), trained
    path = predictions.parent / SETTINGS_FILE
    settings = read_json_object(path) if path.is_file() else {}
    args.votes = settings.get("votes", getattr(args, "votes", 1))
    with predictions.open(encoding="utf-8") as file:
        trained = f', \\"{STEPS}\\"]' in file.readline()
    name = str(settings.get("model") or predictions)
    return f"prm:{name}" if trained else name, trained


def load_best_of_n(args: argparse.Namespace, rm: str, trained: bool, n_fixture: int) -> BestOfN:
    """Items and candidates: from files, or the built-in set. Raises SampleError, ValueError."""
    candidates_at = args.candidates
    if (args.data is None) != (candidates_at is None):
        raise ValueError("--data (items) and --candidates belong together; give both, or neither for the built-in set")
    if args.data is None or candidates_at is None:
        n = args.limit or n_fixture
        items, candidates = fixture.items(args.seed or 0, n), fixture.candidates(args.seed or 0, n)
        digests = [_digest(items), _digest(candidates)]
        label, benchmark = fixture.DRAWN_SET_LABEL, "ViLBench protocol, own items"
    else:
        items = read_items(args.data, args.image_root, args.limit, read_fields(args.fields))
        candidates = read_candidates(candidates_at, items)
        digests = [sha256_of(args.data), sha256_of(candidates_at)]
        benchmark = benchmark_name(dict(Counter(item.source for item in items)), args.released_items)
        label = f"{benchmark}; candidates of {candidates_at}" + (f". {SELECTION_BIAS}" if benchmark == NAME_OF_RELEASE else "")
    hashes = {"items_sha256": digests[0], "candidates_sha256": digests[1]}
    others = read_scores(args.other_scores) if args.other_scores else []
    votes = 1 if trained else getattr(args, "votes", 1) or 1
    named = f"{rm} x{votes}" if votes > 1 else rm
    return BestOfN(items, candidates, named, trained, args.context, benchmark, label, hashes, others, votes)


def _digest(records: Sequence[object]) -> str:
    """SHA-256 of the built-in records as text. It must not change between versions, as results are compared by it: `Steps` is
    the former name of `SplitSolution`."""
    texts = [str(record).replace("steps=SplitSolution(", "steps=Steps(", 1) for record in records]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


def read_fields(path: Path | None) -> dict[str, str] | None:
    """The field map of `--fields`: our name -> the file's. Raises SampleError."""
    if path is None:
        return None
    fields = read_json_object(path, "--fields")
    if not all(isinstance(value, str) for value in fields.values()):
        raise SampleError(f"--fields {path}: a JSON object that maps our names to the file's is needed")
    return fields


def _suite(run: BestOfN, args: argparse.Namespace, max_tokens: int) -> Suite:
    digest = hashlib.sha256("".join(run.hashes.values()).encode()).hexdigest()
    described = "the built-in set of drawn boards" if args.data is None else f"{args.data}, {args.candidates}"
    source = Source(described, digest, len(run.items), None if args.data is None else str(args.data))
    return Suite(
        name=NAME,
        tasks={NAME: TASK},
        source=source,
        stages=(run.stage,),
        limit=lambda sample: max_tokens,
        score=run.score,
        boxes=False,
        publish=run.publish,
        meta_of=run.meta_of,
        engine=_prm_engine if run.trained else None,
    )


def _prm_engine(args: argparse.Namespace) -> Any:
    from vlrl.bench.vilbench.prm_engine import PrmEngine

    return PrmEngine(args)


def is_score_file(path: Path) -> bool:
    """Whether a file holds scores of reward models rather than a log of replies."""
    with path.open(encoding="utf-8") as file:
        try:
            row = json.loads(file.readline())
        except ValueError:
            return False
    return isinstance(row, dict) and "rm" in row and "mode" in row


def score_file_answers(args: argparse.Namespace) -> StoredAnswers | None:
    """The scores of one or several reward models in `--predictions step_scores.jsonl`; None for another kind of file."""
    if not is_score_file(args.predictions):
        return None
    scores = read_scores(args.predictions)
    run = load_best_of_n(args, "", False, fixture.N_ITEMS)
    known = {one.key for one in run.candidates}
    unknown = [one for one in scores if one.key not in known]
    if unknown:
        raise SampleError(
            f"{args.predictions}: {len(unknown)} scores are of no candidate here, the first of {unknown[0].key};"
            " give the --data and --candidates they were made with"
        )
    run.others = [*scores, *run.others]
    run.rm = scores[0].rm
    about = {"model": run.rm, "seed": args.seed, "predictions": str(args.predictions)}
    return StoredAnswers(_suite(run, args, JUDGE_TOKENS), [], {}, about)
