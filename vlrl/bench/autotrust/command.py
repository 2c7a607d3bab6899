"""AutoTrust from the command line: parts and options of `--task autotrust[/part]`, and question files with answers of
others."""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from vlrl.bench.autotrust import PARTS, fixture
from vlrl.bench.autotrust import wording as words
from vlrl.bench.autotrust.files import files_for, files_label, read_object
from vlrl.bench.autotrust.parts import PRIVACY_SETTINGS, Ask, Options, Part
from vlrl.bench.autotrust.perturbed_images import PerturbedImages, image_options
from vlrl.bench.autotrust.questions import Question, read_file
from vlrl.bench.autotrust.reference import mode_of
from vlrl.bench.autotrust.scoring import FIXED, REFERENCE
from vlrl.bench.autotrust.suite import KEYS, SHOWN_PARTS, TASK, Trust, to_sample
from vlrl.bench.suite import Source, StoredAnswers, Suite
from vlrl.data.name_values import split_pairs
from vlrl.schema import Prediction, Sample, SampleError

CLOSED_TOKENS, OPEN_TOKENS = 64, 512
TINY_TOKENS = 32
_STRENGTH = ("epsilon", "alpha", "num_iter", "bce")
OPTIONS_OF = {
    "privacy": ("setting",),
    "ego": ("attribute", "subtype"),
    "white_box_attack": _STRENGTH,
    "black_box_attack": _STRENGTH,
    "robustness_noise": ("corruption", "severity"),
}


def chosen(task: str) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    """The parts and options of `--task`, as in `autotrust/ego:attribute=driver_race+driver_age`. Raises ValueError."""
    name, _, written = task.removeprefix("autotrust").removeprefix("/").partition(":")
    if name and name not in PARTS:
        raise ValueError(f"unknown part {name!r} of AutoTrust (known: {', '.join(PARTS)})")
    pairs = split_pairs(filter(None, written.split(",")), f"--task autotrust/{name}", OPTIONS_OF.get(name, ()))
    for key in (key for key, value in pairs.items() if not value):
        raise ValueError(f"--task {task}: {key} has no value")
    options = {key: tuple(value.split("+")) for key, value in pairs.items()}
    bad = [one for one in options.get("setting", ()) if one not in PRIVACY_SETTINGS]
    if bad:
        raise ValueError(f"--task {task}: unknown setting {bad[0]!r} (known: {', '.join(PRIVACY_SETTINGS)})")
    parts = [PARTS[name]] if name else list(PARTS.values())
    return ([PARTS["factuality"], *parts] if name == "uncertainty" else parts), options


def judge_model(judge: str | None) -> str | None:
    """The model of `--judge openai:<model>`. Raises ValueError for another form."""
    if judge is None:
        return None
    kind, _, model = judge.partition(":")
    if kind != "openai" or not model:
        raise ValueError(f"--judge {judge}: give openai:<model>; the endpoint is OPENAI_API_BASE, the key OPENAI_API_KEY")
    return model


def trust_suite(args: argparse.Namespace, max_tokens: int | None) -> Suite:
    """The suite of `--task autotrust[/part]`. Raises ValueError for options or files that cannot be used."""
    parts, values = chosen(args.task)
    by_name = args.task == "autotrust"
    parts, of_images = image_options(args, parts, values, by_name)
    wording, prompt_set = words.read_wording(args.prompt_set)
    options = replace(
        of_images,
        wording=wording,
        prompt_set=prompt_set,
        fix_mojibake=not args.keep_mojibake,
        settings=values.get("setting", PRIVACY_SETTINGS),
        attributes=values.get("attribute", ()),
        subtypes=values.get("subtype", ()),
        prefixes=read_object(args.prefixes, "--prefixes"),
        group_labels=read_object(args.group_labels, "--group_labels"),
        seed=args.seed,
    )
    files, options, not_run, lines = files_for(args.data, parts, options, by_name, args.seed)
    if args.judge is None:
        not_run.append("judge of open-ended answers: no --judge")
    if not any(files.values()):
        raise ValueError("\n  ".join([f"--task {args.task}: nothing to ask without --data", *not_run]))
    label = fixture.FIXTURE_LABEL if args.data is None else files_label(files, options)
    trust = Trust(
        name=args.task.partition(":")[0],
        parts=[part for part in parts if files[part.name]],
        files=files,
        options=options,
        not_run=not_run,
        label=label,
        scorers=[FIXED, REFERENCE] if args.scorer == "both" else [args.scorer],
        option_mode=args.option_mode,
        folder=args.output_path,
        limit=args.limit,
        root=args.image_root,
        judge=judge_model(args.judge),
        perturbed=PerturbedImages(options, _answers_folder(args), getattr(args, "batch_size", 1)),
    )
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    n = sum(len(file.rows) for file in {file.name: file for some in files.values() for file in some}.values())
    described = "the project's own fixture" if args.data is None else str(args.data)
    return _suite(trust, Source(described, digest, n, None if args.data is None else str(args.data)), args, max_tokens)


def _answers_folder(args: argparse.Namespace) -> Path:
    """The folder of the run that is made or scored, which holds its answers and images."""
    predictions = getattr(args, "predictions", None)
    folder: Path = args.output_path if predictions is None else predictions.parent
    return folder


def _suite(trust: Trust, source: Source, args: argparse.Namespace, max_tokens: int | None) -> Suite:
    tiny = str(getattr(args, "model_name_or_path", "")).startswith("tiny")

    def limit(sample: Sample) -> int:
        return max_tokens or (TINY_TOKENS if tiny else CLOSED_TOKENS if sample.facts["closed"] else OPEN_TOKENS)

    return Suite(
        name=trust.name,
        tasks={"autotrust": TASK},
        source=source,
        stages=(trust.stage(0), trust.stage(1), trust.stage(2)),
        limit=limit,
        score=trust.score,
        boxes=False,
        publish=trust.publish,
        prepare=trust.perturbed.prepare if trust.perturbed else None,
        shows_answers=lambda sample: sample.facts["part"] in SHOWN_PARTS,
    )


# ---- arrays of other programs


def array_answers(args: argparse.Namespace) -> StoredAnswers | None:
    """The answers in a question file (`--predictions FILE.json`) of any origin, such as the released program; None for another
    kind of file."""
    if args.predictions.suffix != ".json":
        return None
    parts, _ = chosen(args.task)
    part, file = parts[-1], read_file(args.predictions)
    if args.task == "autotrust":
        raise ValueError("an array of answers belongs to one part: --task autotrust/factuality, ...")
    questions = [question for question in file.questions(args.limit) if question.is_valid]
    key = args.ans_key or KEYS.get(part.name, "vlrl_answer")
    answered_rows = [question for question in questions if key in question.row]
    if not answered_rows:
        keys = sorted({k for question in questions for k in question.row if "answer" in k or "uncertainty" in k} - {"answer"})
        raise SampleError(
            f"{args.predictions}: no row has the key {key!r}; give --ans_key, one of {', '.join(keys) or 'none found'}"
        )
    asks = [Ask(part.name, "", question, question.text("question"), question) for question in answered_rows]
    labels = read_object(args.group_labels, "--group_labels")
    trust = Trust(
        name=args.task.partition(":")[0],
        parts=[part],
        files={part.name: [file]},
        options=Options(group_labels=labels, fix_mojibake=False, prompt_set="not known"),
        not_run=[],
        label=f"answers {key!r} of {args.predictions}",
        scorers=[FIXED, REFERENCE] if args.scorer == "both" else [args.scorer],
        option_mode=mode_of(str(args.predictions)) if args.option_mode == "auto" else args.option_mode,
        folder=args.output_path,
        limit=args.limit,
        root=args.image_root,
        judge=judge_model(args.judge),
    )
    trust.asks = {ask.id: ask for ask in asks}
    answered = {ask.id: _prediction(ask.id, ask.question, key) for ask in asks}
    source = Source(str(args.predictions), file.sha256, len(file.rows), str(args.predictions))
    suite = replace(_suite(trust, source, args, None), publish=lambda a, f, r, m: trust.publish({}, f, r, m))
    about = {"model": None, "seed": args.seed, "ans_key": key, "n_not_predicted": len(questions) - len(asks)}
    return StoredAnswers(suite, [to_sample(ask, args.image_root) for ask in asks], answered, about)


def _prediction(key: str, question: Question, ans_key: str) -> Prediction:
    """A row's answer; of uncertainty also the answer it is about (`<model>_uncertainty` and `<model>_answer`)."""
    from vlrl.bench.autotrust.reference import text_of

    before = question.row.get(ans_key.removesuffix("_uncertainty") + "_answer") if ans_key.endswith("_uncertainty") else None
    return Prediction(key, text_of(question.row[ans_key]), None, False, {} if before is None else {"before": text_of(before)})
