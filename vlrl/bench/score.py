"""`score`: the numbers of answers made before, without a model and without torch."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.bench.foreign_answers import foreign_answers
from vlrl.bench.foreign_logs import read_foreign_log
from vlrl.bench.groups import with_groups
from vlrl.bench.inspect_log import check_log_format
from vlrl.bench.log import SETTINGS_FILE, read_log
from vlrl.bench.report import check_folder, report_options, report_results
from vlrl.bench.results import about_settings
from vlrl.bench.suite import StoredAnswers, Suite
from vlrl.bench.suites import entry_of, load_suite, refuse_other_flags
from vlrl.data.files import read_json_object
from vlrl.schema import Prediction, Sample, SampleError


def score_file(args: argparse.Namespace) -> int:
    """Score `--predictions`. Raises ValueError for a file or flags that cannot be used."""
    entry = entry_of(args.task)
    check_folder(args.output_path)
    check_log_format(args.log_format)
    refuse_other_flags(args, entry)
    stored = entry.stored_answers(args) if entry is not None else None
    if stored is None and entry is None and (log := read_foreign_log(args.predictions)) is not None:
        stored = foreign_answers(args, log)
    elif stored is not None:
        stored = dataclasses.replace(stored, suite=with_groups(stored.suite, getattr(args, "group_by", None)))
    stored = stored or _logged_answers(args)
    report_results(stored.suite, stored.samples, stored.predictions, args.output_path, stored.about, {}, report_options(args))
    return 0


def _logged_answers(args: argparse.Namespace) -> StoredAnswers:
    """The answers in a `predictions.jsonl`, matched to the samples of the suite."""
    logged = {prediction.id: prediction for prediction in read_log(args.predictions)}
    path = args.predictions.parent / SETTINGS_FILE
    settings = read_json_object(path) if path.is_file() else {}
    if args.seed is None:
        args.seed = _seed_of(settings, path)
    suite = load_suite(args)
    samples: list[Sample] = []
    for stage in suite.stages:
        samples += stage(logged)
    known = {sample.id for sample in samples}
    unknown = [key for key in logged if key not in known]
    if unknown:
        raise SampleError(
            f"{args.predictions}: {len(unknown)} ids are not among the {len(samples)} of {suite.source.description}, the first"
            f" {unknown[0]!r}; give the --data (or --seed and --limit) they were made with"
        )
    present = [sample for sample in samples if sample.id in logged]
    if not present:
        raise SampleError(f"{args.predictions}: holds no predictions")
    if len(present) < len(samples):
        print(f"{len(samples) - len(present)} of {len(samples)} samples have no prediction and are left out")
    about = {**about_settings(settings), "seed": args.seed, "predictions": str(args.predictions)}
    about |= {"n_not_predicted": len(samples) - len(present)}
    return StoredAnswers(suite, present, _with_flags(suite, present, logged, args), about)


def _seed_of(settings: Mapping[str, Any], path: Path) -> int:
    seed = settings.get("seed") or 0
    if not isinstance(seed, int):
        raise SampleError(f"{path}: 'seed' must be a whole number, got {seed!r:.60}")
    return seed


def _with_flags(
    suite: Suite, samples: Sequence[Sample], logged: Mapping[str, Prediction], args: argparse.Namespace
) -> dict[str, Prediction]:
    """The predictions, read as the flags say where they differ from the log. Prints where they do, and where neither states
    how boxes are written."""
    flags = {name: value for name in ("coords", "answer_format") if (value := getattr(args, name)) is not None}
    found = {sample.id: logged[sample.id] for sample in samples}
    for name, value in flags.items():
        others = Counter(one.meta[name] for one in found.values() if one.meta.get(name, value) != value)
        for other, n in others.items():
            print(f"{n} answers were logged with {name} {other}; they are read as {value}", file=sys.stderr)
    found = {key: dataclasses.replace(one, meta={**one.meta, **flags}) for key, one in found.items()}
    boxes = [sample for sample in samples if suite.tasks[sample.task].boxes is not None]
    n_unstated = sum(sample.view.coords is None and "coords" not in found[sample.id].meta for sample in boxes)
    if n_unstated:
        print(
            f"boxes of {n_unstated} answers are read as pixels of the original image; --coords chooses another convention",
            file=sys.stderr,
        )
    return found
