"""AutoTrust as a suite: its asks become samples, its verdicts rows; `report.json` and the arrays with answers added."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlrl.autotrust import PARTS, VERSION, fixture, open_ended
from vlrl.autotrust import wording as words
from vlrl.autotrust.parts import SETTINGS, Ask, Options, Part, asks_of, n_malformed
from vlrl.autotrust.questions import MULTI, Question, QuestionFile, picture_path, read_file
from vlrl.autotrust.reference import mode_of
from vlrl.autotrust.scoring import FIXED, REFERENCE, Verdict, entries, group_name, judge
from vlrl.autotrust.summary import metrics_of
from vlrl.bench.disturbed import Disturbed, picture_options
from vlrl.bench.rating import rate
from vlrl.bench.suites import Predictions, Source, Suite
from vlrl.bench.trust_files import files_for, label_of, read_object
from vlrl.evaluation import Row, Scored, write_json
from vlrl.metrics.accuracy import share
from vlrl.metrics.calibration import stated_confidence
from vlrl.schema import Metric, Prediction, Sample, SampleError, Task

CLOSED_TOKENS, OPEN_TOKENS = 64, 512
TINY_TOKENS = 32
OOD_PARTS = ("robustness_acc", "robustness_abs", "robustness_noise", "ood_acc", "ood_abs")
KEYS = {"uncertainty": "vlrl_uncertainty", **dict.fromkeys(OOD_PARTS, "vlrl_ood_answer")}
"""The key that holds our answers in the arrays we write, `vlrl_answer` for the other parts."""
SHOWN_PARTS = frozenset(PARTS) - {"privacy"}


def _metrics(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> tuple[dict[str, Metric], int]:
    """Share of samples whose completion is the right answer, word for word; the benchmark's own numbers are `metrics_of`."""
    right = [float(p.completion.strip() == s.answer) for s, p in zip(samples, predictions, strict=True)]
    return {"exact": share(right, samples)}, 0


TASK = Task(
    name="autotrust",
    prompt=lambda sample: sample.question,
    oracle=lambda sample: str(sample.answer),
    sft_target=lambda sample: str(sample.answer),
    check=lambda sample: None,
    rewards=lambda sample: ("exact_match",),
    metrics=_metrics,
    headline="exact",
    synthetic=lambda seed, split, index: _fixture_sample(seed, index),
)


def _fixture_sample(seed: int, index: int) -> Sample:
    made, _, _ = fixture.files(seed)
    asks = asks_of(PARTS["factuality"], made, Options(), {}, None)
    return to_sample(asks[index % len(asks)], None)


def to_sample(ask: Ask, root: Path | None) -> Sample:
    """The prompt as a sample; the picture is found under `root`."""
    path = ask.question.text("image_path")
    images = (picture_path(path, ask.question.file, root),) if path else ()
    meta = {"part": ask.part, "closed": ask.question.is_closed and ask.part not in ("privacy", "robustness_abs", "ood_abs")}
    return Sample(ask.id, "autotrust", ask.prompt, str(ask.question.row.get("answer", "")), images, meta=meta)


@dataclass
class Trust:
    """The asks of a run and what is needed to score them. `name`: as `--task` has it."""

    name: str
    parts: Sequence[Part]
    files: Mapping[str, Sequence[QuestionFile]]
    options: Options
    not_run: Sequence[str]
    label: str
    scorers: Sequence[str]
    option_mode: str
    folder: Path
    limit: int | None
    root: Path | None
    judge: str | None = None
    disturbed: Disturbed | None = None

    def __post_init__(self) -> None:
        self.n_judge = {"n_judge_failed": 0, "n_judge_unparsed": 0}
        self.asks: dict[str, Ask] = {}
        self.verdicts: list[Verdict] = []

    def stage(self, turn: int) -> Any:
        """A stage of the suite: the parts of this turn."""

        def asked(answered: Predictions) -> list[Sample]:
            before = {}
            for key, ask in self.asks.items():
                if ask.part == "factuality" and key in answered:
                    before[ask.twin] = answered[key].completion
            found = []
            for part in self.parts:
                if part.turn == turn:
                    found += asks_of(part, self.files[part.name], self.options, before, self.limit)
            self.asks |= {ask.id: ask for ask in found}
            samples = [to_sample(ask, self.root) for ask in found]
            if self.disturbed is None:
                return samples
            return [self.disturbed.place(sample, ask) for sample, ask in zip(samples, found, strict=True)]

        return asked

    def mode(self, ask: Ask) -> str:
        """How the reference scorer reads options of this ask's file."""
        if self.option_mode != "auto":
            return self.option_mode
        return mode_of(f"{self.folder.as_posix()}/predictions/{ask.part}/{ask.question.file}")

    def score(self, asked: Sequence[Sample], answered: Predictions) -> list[Scored]:
        verdicts = []
        before = {ask.twin: key for key, ask in self.asks.items() if ask.part == "factuality"}
        for sample in asked:
            ask = self.asks[sample.id]
            earlier = answered.get(before.get(ask.twin, "")) if ask.part == "uncertainty" else None
            told = earlier.completion if earlier else answered[sample.id].meta.get("before")
            verdicts.append(judge(ask, answered[sample.id].completion, self.mode(ask), told))
        self.verdicts = [verdict for verdict in verdicts if verdict is not None]
        if self.judge:
            by_id = {sample.id: sample for sample in asked}
            self.verdicts, self.n_judge = rate(self.verdicts, by_id, self.judge, self.folder)
        metrics = metrics_of(self.verdicts, self.scorers, self.options.group_labels)
        tail = "" if FIXED in self.scorers else f"_{REFERENCE}"
        headline = next((f"{p.name}/{p.headline}{tail}" for p in self.parts if f"{p.name}/{p.headline}{tail}" in metrics), "")
        return [
            Scored(
                name=self.name,
                version=VERSION,
                headline=headline,
                metrics=metrics,
                rows=[_row(verdict, answered) for verdict in self.verdicts if verdict.outcome != "bad gold"],
                n=len(asked),
                n_unparsed=sum(verdict.outcome == "unparsed" for verdict in self.verdicts),
                n_truncated=sum(answered[sample.id].truncated for sample in asked),
                extra={
                    "n_bad_gold": sum(verdict.outcome == "bad gold" for verdict in self.verdicts),
                    "n_malformed": n_malformed(
                        {f.name: f for files in self.files.values() for f in files}.values(), self.limit
                    ),
                    "n_without_value": len(asked) - len(self.verdicts),
                    "judge": self.judge and f"{self.judge}, prompt {open_ended.JUDGE_PROMPT}, temperature 0.2, scale 0..1",
                    **self.n_judge,
                    "prompt_set": self.options.prompt_set,
                    "not_run": list(self.not_run),
                    "attacks": self.disturbed.summary([sample.id for sample in asked]) if self.disturbed else {},
                },
                label=self.label,
                lower_is_better=frozenset(name for name in metrics if _is_bad(name)),
            )
        ]

    def publish(self, answered: Predictions, folder: Path, result: Mapping[str, Any], missing: Sequence[str]) -> list[Path]:
        """`report.json`, and the arrays as released with one key added."""
        modes = {verdict.ask.question.file: self.mode(verdict.ask) for verdict in self.verdicts}
        lost: dict[tuple[str, str], int] = {}
        for key in missing:
            ask = self.asks[key]
            where = (ask.part, group_name(Verdict(ask, "", "", {}, {})))
            lost[where] = lost.get(where, 0) + 1
        records = entries(self.verdicts, modes, self.scorers, self.judge and f"{self.judge}, {open_ended.JUDGE_PROMPT}")
        for record in records:
            record["n_missing_image"] = lost.pop((record["task"], record["group"]), record["n_missing_image"])
        used = {file.name: file for files in self.files.values() for file in files}
        report = {
            "benchmark": "AutoTrust",
            "version": VERSION,
            "label": self.label,
            "model": result.get("model"),
            "prompt_set": self.options.prompt_set,
            "fix_mojibake": self.options.fix_mojibake,
            "decoding": (result.get("config") or {}).get("gen_kwargs"),
            "files": {
                name: {"sha256": file.sha256, "known_release": file.known_release, "rows": len(file.rows)}
                for name, file in used.items()
            },
            "images": {"root": None if self.root is None else str(self.root), "n_missing_image": len(missing)},
            "partial": bool(missing) or self.limit is not None,
            "results": records,
            "substitutes": [
                name
                for part, name in (("misinformation", words.MISINFORMATION_NAME), ("misinstruction", words.MISINSTRUCTION_NAME))
                if self.options.prefixes is None and any(one.name == part for one in self.parts)
            ]
            + (self.disturbed.substitutes(self.parts) if self.disturbed else []),
            "attacks": self.disturbed.summary(list(self.asks)) if self.disturbed else {},
            "not_run": list(self.not_run),
        }
        write_json(folder / "report.json", report)
        return [folder / "report.json", *self._arrays(answered, folder)]

    def _arrays(self, answered: Predictions, folder: Path) -> list[Path]:
        """The question files with an answer each (None where there is none), by part and setting; one alone is
        `predictions.json`."""
        arrays: dict[tuple[str, str, str], dict[int, str]] = {}
        for key, ask in self.asks.items():
            if key in answered:
                where = (ask.part, ask.setting, ask.question.file)
                arrays.setdefault(where, {})[ask.question.index] = answered[key].completion
        rows_of = {file.name: file.rows for files in self.files.values() for file in files}
        written = []
        for (part, setting, name), answers in arrays.items():
            path = folder / "predictions" / part / setting / name if len(arrays) > 1 else folder / "predictions.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            added = KEYS.get(part, "vlrl_answer")
            rows = [{**row, added: answers.get(i)} if isinstance(row, dict) else row for i, row in enumerate(rows_of[name])]
            write_json(path, rows)
            written.append(path)
        return [folder / "predictions"] if len(arrays) > 1 else written


def _is_bad(name: str) -> bool:
    metric = name.partition("/")[2].partition("[")[0].partition(":")[0].removesuffix(f"_{REFERENCE}")
    return metric in ("over_confident", "leak", "drop", "dad", "dad_by_chance")


def _row(verdict: Verdict, answered: Predictions) -> Row:
    ask = verdict.ask
    group = group_name(verdict)
    parts = {f"{ask.part}/{name}": part for name, part in verdict.fixed.items()}
    parts |= {f"{ask.part}/{name}[{group}]": part for name, part in verdict.fixed.items()}
    gold = str(ask.question.row.get("answer", "")) if ask.part != "privacy" else ""
    answer = verdict.answer if ask.part in SHOWN_PARTS else ""
    confidence = stated_confidence(verdict.answer) if ask.question.kind == MULTI else None
    return Row(ask.id, ask.question.picture, parts, verdict.outcome, gold, answer, confidence)


# ---- from the command line


_STRENGTH = ("epsilon", "alpha", "num_iter", "bce")
OPTIONS_OF = {
    "privacy": ("setting",),
    "ego": ("attribute", "subtype"),
    "white_box_attack": _STRENGTH,
    "black_box_attack": _STRENGTH,
    "robustness_noise": ("corruption", "severity"),
}


def chosen(task: str) -> tuple[list[Part], dict[str, tuple[str, ...]]]:
    """The parts that `--task` names, and its options (`autotrust/ego:attribute=driver_race+driver_age`). Raises ValueError."""
    name, _, told = task.removeprefix("autotrust").removeprefix("/").partition(":")
    if name and name not in PARTS:
        raise ValueError(f"unknown part {name!r} of AutoTrust (known: {', '.join(PARTS)})")
    options = {}
    for pair in filter(None, told.split(",")):
        key, _, values = pair.partition("=")
        if key not in OPTIONS_OF.get(name, ()) or not values:
            known = "; ".join(f"{part} has {', '.join(keys)}" for part, keys in OPTIONS_OF.items())
            raise ValueError(f"--task {task}: no option {pair!r}; {known}")
        options[key] = tuple(values.split("+"))
    bad = [one for one in options.get("setting", ()) if one not in SETTINGS]
    if bad:
        raise ValueError(f"--task {task}: unknown setting {bad[0]!r} (known: {', '.join(SETTINGS)})")
    parts = [PARTS[name]] if name else list(PARTS.values())
    return ([PARTS["factuality"], *parts] if name == "uncertainty" else parts), options


def judge_model(told: str | None) -> str | None:
    """The model of `--judge openai:<model>`. Raises ValueError for another form."""
    if told is None:
        return None
    kind, _, model = told.partition(":")
    if kind != "openai" or not model:
        raise ValueError(f"--judge {told}: give openai:<model>; the endpoint is OPENAI_API_BASE, the key OPENAI_API_KEY")
    return model


def trust_suite(args: argparse.Namespace, max_tokens: int | None) -> Suite:
    """The suite of `--task autotrust[/part]`. Raises ValueError for options or files that cannot be used."""
    parts, told = chosen(args.task)
    by_name = args.task == "autotrust"
    parts, pictures = picture_options(args, parts, told, by_name)
    wording, prompt_set = words.read_wording(args.prompt_set)
    options = replace(
        pictures,
        wording=wording,
        prompt_set=prompt_set,
        fix_mojibake=not args.keep_mojibake,
        settings=told.get("setting", SETTINGS),
        attributes=told.get("attribute", ()),
        subtypes=told.get("subtype", ()),
        prefixes=read_object(args.prefixes, "--prefixes"),
        group_labels=read_object(args.group_labels, "--group_labels"),
        seed=args.seed,
    )
    files, options, not_run, lines = files_for(args.data, parts, options, by_name, args.seed)
    if args.judge is None:
        not_run.append("judge of open-ended answers: no --judge")
    if not any(files.values()):
        raise ValueError("\n  ".join([f"--task {args.task}: nothing to ask without --data", *not_run]))
    label = fixture.LABEL if args.data is None else label_of(files, options)
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
        disturbed=Disturbed(options, _answers_folder(args), getattr(args, "batch_size", 1)),
    )
    digest = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    n = sum(len(file.rows) for file in {file.name: file for some in files.values() for file in some}.values())
    described = "the project's own fixture" if args.data is None else str(args.data)
    return _suite(trust, Source(described, digest, n, None if args.data is None else str(args.data)), args, max_tokens)


def _answers_folder(args: argparse.Namespace) -> Path:
    """Where the run that is asked or scored keeps its answers and pictures."""
    told = getattr(args, "predictions", None)
    folder: Path = args.output_path if told is None else told.parent
    return folder


def _suite(trust: Trust, source: Source, args: argparse.Namespace, max_tokens: int | None) -> Suite:
    tiny = str(getattr(args, "model_name_or_path", "")).startswith("tiny")

    def limit(sample: Sample) -> int:
        return max_tokens or (TINY_TOKENS if tiny else CLOSED_TOKENS if sample.meta["closed"] else OPEN_TOKENS)

    return Suite(
        name=trust.name,
        tasks={"autotrust": TASK},
        source=source,
        stages=(trust.stage(0), trust.stage(1), trust.stage(2)),
        limit=limit,
        score=trust.score,
        boxes=False,
        publish=trust.publish,
        prepare=trust.disturbed.prepare if trust.disturbed else None,
        shows_answers=lambda sample: sample.meta["part"] in SHOWN_PARTS,
    )


# ---- arrays of other programs


def score_array(args: argparse.Namespace) -> int:
    """Score an array of questions with answers of any origin, those of the released program included."""
    from vlrl.bench.running import conclude

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
    conclude(suite, [to_sample(ask, args.image_root) for ask in asks], answered, args.output_path, about, {})
    return 0


def _prediction(key: str, question: Question, ans_key: str) -> Prediction:
    """A row's answer; of uncertainty also the answer it is about (`<model>_uncertainty` and `<model>_answer`)."""
    from vlrl.autotrust.reference import text_of

    before = question.row.get(ans_key.removesuffix("_uncertainty") + "_answer") if ans_key.endswith("_uncertainty") else None
    return Prediction(key, text_of(question.row[ans_key]), 0, False, {} if before is None else {"before": text_of(before)})
