"""`score --predictions LOG_OF_ANOTHER_PROJECT`: which sample each logged row answers, or samples made of the log itself.

With `--data` rows are joined to its samples by an id that both sides state, never by their order. Without it a log of questions
with text answers is its own data. Rows without a reference answer, and requests that failed, are counted and left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlrl.answers.span import ANSWER, END_ANSWER, END_THINK, canon
from vlrl.bench.foreign_logs import LMMS_EVAL, OWN_KEY, ForeignLog, LoggedRow
from vlrl.bench.groups import with_groups
from vlrl.bench.suite import Source, StoredAnswers, Suite, suite_of_samples
from vlrl.bench.suites import load_suite
from vlrl.data.files import read_json_object, sha256_of
from vlrl.schema import Prediction, Sample, SampleError
from vlrl.tasks import load_tasks
from vlrl.tasks.evaluate import as_text

ROW_NUMBERS = ("doc_id", "index")
"""Ids that may be no more than a row's number in some file; a join by them is checked against the text of every row."""


def foreign_answers(args: argparse.Namespace, log: ForeignLog) -> StoredAnswers:
    """The answers of a log, ready to be scored. Raises SampleError."""
    for note in log.notes:
        print(f"note: {note}", file=sys.stderr)
    answered = [row for row in log.rows if row.completion is not None]
    n_failed = len(log.rows) - len(answered)
    if n_failed:
        print(f"{n_failed:,} of {len(log.rows):,} requests failed; they are left out", file=sys.stderr)
    if not answered:
        raise SampleError(f"{args.predictions}: {log.project} logged no answers in it")
    suite, samples, rows = _with_data(args, log, answered) if args.data is not None else _of_the_log(args, log, answered)
    predictions = {
        sample.id: Prediction(sample.id, _answer_text(row), row.n_tokens, row.truncated, _stated(args))
        for sample, row in zip(samples, rows, strict=True)
    }
    about: dict[str, Any] = {
        "model": _model_of(args.predictions, log),
        "engine": f"answers logged by {log.project}",
        "n_failed": n_failed,
    }
    about |= {"seed": args.seed or 0, "predictions": str(args.predictions), "config": {"task": suite.name}}
    return StoredAnswers(suite, samples, predictions, about)


def _stated(args: argparse.Namespace) -> dict[str, Any]:
    """How the flags say that the answers are written."""
    return {name: value for name in ("coords", "answer_format") if (value := getattr(args, name)) is not None}


def _answer_text(row: LoggedRow) -> str:
    """The completion. A prompt of another project asks for no answer tags, so what follows a thought is put into some."""
    text = row.completion or ""
    thought, end, answer = text.rpartition(END_THINK)
    if OWN_KEY in row.ids or not end or ANSWER in answer or not answer.strip():
        return text
    return f"{thought}{end}{ANSWER}{answer.strip()}{END_ANSWER}"


def _model_of(path: Path, log: ForeignLog) -> str | None:
    """The model, as the results beside a log of lmms-eval name it."""
    results = path.with_name(f"{path.name.partition('_samples_')[0]}_results.json")
    if log.project != LMMS_EVAL or "_samples_" not in path.name or not results.is_file():
        return None
    found = read_json_object(results)
    config = found.get("config")
    kind = config.get("model") if isinstance(config, dict) else None
    return str(found.get("model_name") or kind) if found.get("model_name") or kind else None


# ---- with --data


def _with_data(
    args: argparse.Namespace, log: ForeignLog, rows: Sequence[LoggedRow]
) -> tuple[Suite, list[Sample], Sequence[LoggedRow]]:
    args.seed = args.seed or 0
    suite = load_suite(args)
    samples = [sample for stage in suite.stages for sample in stage({})]
    key, by_key = _shared_id(args, log, rows, samples)
    joined = [by_key[row.ids[key]] for row in rows]
    _check_join(args.predictions, key, rows, joined)
    print(f"{len(rows):,} rows of {log.project} joined to {len(samples):,} samples by {key}", file=sys.stderr)
    return suite, joined, rows


def _shared_id(
    args: argparse.Namespace, log: ForeignLog, rows: Sequence[LoggedRow], samples: Sequence[Sample]
) -> tuple[str, Mapping[str, Sample]]:
    """The first id that every logged row has, each its own, and that names a sample: by its id, or by `meta.source_id`."""
    sides = [{sample.id: sample for sample in samples}]
    sources = {str(one): sample for sample in samples if (one := sample.meta.get("source_id")) is not None}
    sides += [sources] if len(sources) == len(samples) else []
    for key in dict.fromkeys(key for row in rows for key in row.ids):
        values = [row.ids.get(key) for row in rows]
        if None in values or len(set(values)) < len(values):
            continue
        for side in sides:
            if all(value in side for value in values):
                return key, side
    shown = ", ".join(f"{key} {value!r}" for key, value in rows[0].ids.items())
    raise SampleError(
        f"{args.predictions}: no id of its rows names samples of {args.data}: the first row has {shown}, the first sample"
        f" {samples[0].id!r}; write the ids of {log.project}'s rows into the samples as meta.source_id, or leave --data out"
    )


def _check_join(path: Path, key: str, rows: Sequence[LoggedRow], samples: Sequence[Sample]) -> None:
    """Raises SampleError where a row's text is not that of its sample: by a row's number two files in another order would be
    joined wrongly. Other ids are believed unless the text says otherwise."""
    for row, sample in zip(rows, samples, strict=True):
        asked = canon(row.question)
        same_question = bool(asked) and (canon(sample.question) in asked or asked in canon(sample.question))
        targets = [row.target] if isinstance(row.target, str) else row.target or []
        same_target = canon(as_text(sample.answer)) in [canon(one) for one in targets]
        nothing_to_compare = not asked and not targets
        if same_question or same_target or (nothing_to_compare and key not in ROW_NUMBERS):
            continue
        raise SampleError(
            f"{row.where}: {key} {row.ids[key]!r} names sample {sample.id!r}, but its question is {row.question[:80]!r}, not"
            f" {sample.question[:80]!r}; give the --data that the log was made from"
        )


# ---- without --data


def _of_the_log(
    args: argparse.Namespace, log: ForeignLog, rows: Sequence[LoggedRow]
) -> tuple[Suite, list[Sample], Sequence[LoggedRow]]:
    """Samples made of the log: question, reference answer and choices."""
    tasks = load_tasks(args.task)
    if len(tasks) > 1:
        raise SampleError(f"--task {args.task}: a log of {log.project} without --data is read as one task; name it")
    known = [row for row in rows if row.target is not None]
    if len(known) < len(rows):
        print(f"{len(rows) - len(known):,} of {len(rows):,} rows have no reference answer; they are left out", file=sys.stderr)
    if not known:
        raise SampleError(f"{args.predictions}: none of its {len(rows)} rows has a reference answer; give --data that has")
    name_of_row = ROW_NUMBERS[0] if log.project == LMMS_EVAL else ROW_NUMBERS[1]
    samples = [_sample(tasks[0].name, row.ids[name_of_row], row) for row in known]
    n_choices = sum(sample.choices is not None for sample in samples)
    listed = f", {n_choices:,} of them with choices" if n_choices else ""
    print(
        f"{len(samples):,} questions and answers of the log itself{listed}; its images are not known, so intervals take all"
        " rows as independent",
        file=sys.stderr,
    )
    source = Source(f"{args.predictions} ({log.project})", sha256_of(args.predictions), len(samples), str(args.predictions))
    return with_groups(suite_of_samples(args, samples, source), getattr(args, "group_by", None)), samples, known


def _sample(task: str, key: str, row: LoggedRow) -> Sample:
    """`choices` only where they differ and the reference answer is one of their letters or texts."""
    answer: Any = row.target
    choices = row.choices
    if choices is not None:
        letters = [chr(ord("A") + i) for i in range(len(choices))]
        is_choice = isinstance(answer, str) and (answer in letters or canon(answer) in map(canon, choices))
        choices = choices if is_choice and len(set(map(canon, choices))) == len(choices) else None
    meta = {name.replace("-", "_"): value for name, value in row.groups.items()}
    return Sample(key, task, row.question or "(not logged)", answer, choices=choices, meta=meta)
