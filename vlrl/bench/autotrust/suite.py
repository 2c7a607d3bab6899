"""AutoTrust as a suite: prompts become samples, verdicts become rows; writes `report.json` and the question files with answers.

Not here: parts and files of a command line (`vlrl.bench.autotrust.command`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.answers.stated_confidence import stated_confidence
from vlrl.bench.autotrust import AUTOTRUST_VERSION, PARTS, card, fixture, open_ended, toxicity
from vlrl.bench.autotrust import wording as words
from vlrl.bench.autotrust.judge import rate
from vlrl.bench.autotrust.parts import Ask, Options, Part, asks_of, n_malformed
from vlrl.bench.autotrust.perturbed_images import PerturbedImages
from vlrl.bench.autotrust.questions import MULTI, QuestionFile, find_image
from vlrl.bench.autotrust.reference import mode_of
from vlrl.bench.autotrust.scoring import BAD_GROUND_TRUTH, FIXED, REFERENCE, Verdict, entries, group_name, judge
from vlrl.bench.autotrust.summary import metrics_of
from vlrl.bench.composite_plot import CARD_PICTURE, draw_composites
from vlrl.bench.suite import Predictions
from vlrl.schema import Prediction, Sample, Task
from vlrl.tasks.evaluate import Row, Scored, write_json

OOD_PARTS = ("robustness_acc", "robustness_abs", "robustness_noise", "ood_acc", "ood_abs")
KEYS = {"uncertainty": "vlrl_uncertainty", **dict.fromkeys(OOD_PARTS, "vlrl_ood_answer")}
"""Part -> key of the answers in the question files that we write; `vlrl_answer` for the other parts."""
SHOWN_PARTS = frozenset(PARTS) - {"privacy"}


def exact(sample: Sample, prediction: Prediction) -> bool:
    """Whether the completion is the right answer, word for word; the benchmark's own numbers are `metrics_of`."""
    return bool(prediction.completion.strip() == sample.answer)


TASK = Task(
    name="autotrust",
    prompt=lambda sample: sample.question,
    oracle=lambda sample: str(sample.answer),
    rewards=("exact_match",),
    metric=exact,
    synthetic=lambda seed, split, index: _fixture_sample(seed, index),
)


def _fixture_sample(seed: int, index: int) -> Sample:
    made, _, _ = fixture.files(seed)
    asks = asks_of(PARTS["factuality"], made, Options(), {}, None)
    return to_sample(asks[index % len(asks)], None)


def to_sample(ask: Ask, root: Path | None) -> Sample:
    """The prompt as a sample; the image is found under `root`."""
    path = ask.question.text("image_path")
    images = (find_image(path, ask.question.file, root),) if path else ()
    meta = {"part": ask.part, "closed": ask.question.is_closed and ask.part not in ("privacy", "robustness_abs", "ood_abs")}
    return Sample(ask.id, "autotrust", ask.prompt, str(ask.question.row.get("answer", "")), images, meta=meta)


@dataclass
class Trust:
    """The prompts of a run, and what is needed to score the answers. `name`: that of `--task`."""

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
    perturbed: PerturbedImages | None = None

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
            if self.perturbed is None:
                return samples
            return [self.perturbed.place(sample, ask) for sample, ask in zip(samples, found, strict=True)]

        return asked

    def mode(self, ask: Ask) -> str:
        """How the reference scorer parses the options of this prompt's file."""
        if self.option_mode != "auto":
            return self.option_mode
        return mode_of(f"{self.folder.as_posix()}/predictions/{ask.part}/{ask.question.file}")

    def score(self, asked: Sequence[Sample], answered: Predictions) -> list[Scored]:
        """The metrics and rows of all parts together."""
        verdicts = []
        before = {ask.twin: key for key, ask in self.asks.items() if ask.part == "factuality"}
        for sample in asked:
            ask = self.asks[sample.id]
            earlier = answered.get(before.get(ask.twin, "")) if ask.part == "uncertainty" else None
            answer_before = earlier.completion if earlier else answered[sample.id].meta.get("before")
            verdicts.append(judge(ask, answered[sample.id].completion, self.mode(ask), answer_before))
        self.verdicts = [verdict for verdict in verdicts if verdict is not None]
        if self.judge:
            by_id = {sample.id: sample for sample in asked}
            self.verdicts, self.n_judge = rate(self.verdicts, by_id, self.judge, self.folder)
        composites = card.composites_of(self.verdicts) if FIXED in self.scorers else {}
        metrics = card.trust_metrics(self.verdicts, self.scorers)
        metrics |= metrics_of(self.verdicts, self.scorers, self.options.group_labels)
        if self.verdicts:
            metrics[toxicity.METRIC] = toxicity.toxicity_metric(self.verdicts)
        tail = "" if FIXED in self.scorers else f"_{REFERENCE}"
        headline = next((f"{p.name}/{p.headline}{tail}" for p in self.parts if f"{p.name}/{p.headline}{tail}" in metrics), "")
        return [
            Scored(
                name=self.name,
                version=AUTOTRUST_VERSION,
                headline=headline,
                metrics=metrics,
                rows=[_row(verdict) for verdict in self.verdicts if verdict.outcome != BAD_GROUND_TRUTH],
                n=len(asked),
                n_unparsed=sum(verdict.outcome == "unparsed" for verdict in self.verdicts),
                n_truncated=sum(answered[sample.id].truncated for sample in asked),
                extra={
                    "n_bad_gold": sum(verdict.outcome == BAD_GROUND_TRUTH for verdict in self.verdicts),
                    "n_malformed": n_malformed(
                        {f.name: f for files in self.files.values() for f in files}.values(), self.limit
                    ),
                    "n_without_value": len(asked) - len(self.verdicts),
                    "judge": self.judge and f"{self.judge}, prompt {open_ended.JUDGE_PROMPT}, temperature 0.2, scale 0..1",
                    **self.n_judge,
                    "prompt_set": self.options.prompt_set,
                    "not_run": list(self.not_run),
                    "attacks": self.perturbed.summary([sample.id for sample in asked]) if self.perturbed else {},
                },
                label=self.label,
                lower_is_better=frozenset(name for name in metrics if _is_bad(name)),
                composites=composites,
                card=card.trust_card(metrics, composites) if len(composites) > 1 else "",
            )
        ]

    def publish(self, answered: Predictions, folder: Path, result: Mapping[str, Any], missing: Sequence[str]) -> list[Path]:
        """Write `report.json`, the picture of the card where there is one, and the question files as released with one key
        added; returns their paths."""
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
            "version": AUTOTRUST_VERSION,
            "label": self.label,
            "model": result.get("model"),
            "prompt_set": self.options.prompt_set,
            "fix_mojibake": self.options.fix_mojibake,
            "decoding": (result.get("config") or {}).get("gen_kwargs"),
            "files": {
                name: {"sha256": file.sha256, "known_release": file.is_released, "rows": len(file.rows)}
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
            + (self.perturbed.substitutes(self.parts) if self.perturbed else []),
            "attacks": self.perturbed.summary(list(self.asks)) if self.perturbed else {},
            "judge": self.judge and open_ended.judge_facts(self.judge),
            "not_run": list(self.not_run),
        }
        write_json(folder / "report.json", report)
        picture = draw_composites(folder / CARD_PICTURE, {str(result.get("model")): result})
        return [folder / "report.json", *([picture] if picture else []), *self._arrays(answered, folder)]

    def _arrays(self, answered: Predictions, folder: Path) -> list[Path]:
        """The question files with an answer in each row (None where there is none), by part and setting; `predictions.json`
        where there is only one."""
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
    return name == toxicity.METRIC or metric in ("over_confident", "leak", "drop", "dad", "dad_by_chance")


def _row(verdict: Verdict) -> Row:
    ask = verdict.ask
    parts = card.row_parts(verdict, verdict.fixed)
    if parts:
        parts[toxicity.METRIC] = toxicity.part_of(verdict)
    truth = str(ask.question.row.get("answer", "")) if ask.part != "privacy" else ""
    answer = verdict.answer if ask.part in SHOWN_PARTS else ""
    confidence = stated_confidence(verdict.answer) if ask.question.kind == MULTI else None
    return Row(ask.id, ask.question.image_key, parts, verdict.outcome, truth, answer, confidence)
