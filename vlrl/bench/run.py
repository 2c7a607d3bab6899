"""`run`: ask, log, score. `score`: score what was answered before, without a model and without torch."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from vlrl.bench.autotrust import is_autotrust
from vlrl.bench.autotrust.command import score_array, trust_suite
from vlrl.bench.engines import Engine, Failure, check_world, load_engine
from vlrl.bench.log import SETTINGS, Log, read_log
from vlrl.bench.page import write_page
from vlrl.bench.results import counts_line, table, write_results
from vlrl.bench.suite import SITUATED, Suite, own_suite
from vlrl.bench.vilbench.command import best_of_n_suite, is_score_file, score_file
from vlrl.data.images import ImageError
from vlrl.schema import Prediction, Sample, SampleError, is_there
from vlrl.tasks import default_model, load_tasks
from vlrl.tasks.evaluate import Scored
from vlrl.training.benchmark_flags import is_vilbench

MAX_TOKENS = 512
TINY_MAX_TOKENS = 96
"""The longest right answer of the embedded model's tasks takes fewer."""


def load_suite(args: argparse.Namespace, need_images: bool = False) -> Suite:
    """The suite of `--task`, its data read and checked."""
    asked = getattr(args, "max_new_tokens", None)
    if is_autotrust(args.task):
        return trust_suite(args, asked)
    if is_vilbench(args.task):
        return best_of_n_suite(args, asked)
    tiny = getattr(args, "model_name_or_path", "") in ("tiny", "tiny-random")
    return own_suite(
        args.task,
        args.data,
        image_root=args.image_root,
        limit=args.limit,
        seed=args.seed,
        max_tokens=asked or (TINY_MAX_TOKENS if tiny else MAX_TOKENS),
        need_images=need_images,
    )


def run(args: argparse.Namespace) -> int:
    """Generate, log and score. Returns 0, or 1 where requests failed (the same command asks them again)."""
    started = time.time()
    args.model_name_or_path = args.model_name_or_path or _embedded_model(args.task)
    suite = load_suite(args)
    first_stage = suite.stages[0]({})
    lost = {sample.id: (sample.task, gone) for sample in first_stage if (gone := lost_picture(sample)) is not None}
    refuse_missing(lost, len(first_stage), args.allow_missing)
    if args.dry_run:
        print(f"{suite.name}: {len(first_stage)} samples of {suite.source.description} to ask first; flags and data are fine")
        return 0
    engine: Engine = suite.engine(args) if suite.engine else load_engine(args, suite.boxes)
    check_world(engine)
    log = Log(args.output_path, engine.rank, engine.world)
    first = engine.rank == 0
    if first:
        log.settle(settings_of(args, suite))
        log.gather()
    engine.wait_for_everyone()
    job = Job(args, suite, engine, log)
    for stage in (lambda answered: first_stage, *suite.stages[1:]):
        job.answer(stage)
    if first:
        finish(job, started)
    engine.finish()
    return 1 if job.failed else 0


def _embedded_model(names: str) -> str:
    """Who answers where no model is named, as in training."""
    return "tiny" if is_autotrust(names) or is_vilbench(names) else default_model(load_tasks(names))


def finish(job: Job, started: float) -> None:
    """Bring the log into order, score what it holds, and tell what failed."""
    args, suite, engine, log, asked = job.args, job.suite, job.engine, job.log, job.asked
    log.finish([sample.id for sample in asked])
    answered = log.read()
    seconds = time.time() - started
    about = {
        **about_settings(settings_of(args, suite)),
        "engine": engine.name,
        "n_failed": len(job.failed),
        "n_found": job.n_found,
        "total_evaluation_time_seconds": round(seconds, 1),
        "throughput": {"samples_per_second": round(job.n_made / seconds, 3)},
        "start_time": started,
    }
    for key, why in list(job.failed.items())[:10]:
        print(f"failed: {key}: {why}", file=sys.stderr)
    conclude(suite, [s for s in asked if s.id in answered], answered, args.output_path, about, job.missing)


@dataclass
class Job:
    """A run under way. `asked`: all samples with their pictures there, prepared; `missing`: those without, with task and
    path."""

    args: argparse.Namespace
    suite: Suite
    engine: Engine
    log: Log

    def __post_init__(self) -> None:
        self.asked: list[Sample] = []
        self.missing: dict[str, tuple[str, str]] = {}
        self.failed: dict[str, str] = {}
        self.n_found = self.n_made = 0

    def answer(self, stage: Any) -> None:
        """Ask what this stage asks and the log does not hold yet, each sample by exactly one process."""
        suite, engine, log = self.suite, self.engine, self.log
        asked = list(stage(log.read()))
        if suite.prepare is not None:
            asked = suite.prepare(engine, asked)
        samples = self._present(asked)
        self.asked += samples
        found = log.read()
        for sample in samples:
            if sample.id in found and found[sample.id].meta.get("prompt_sha") not in (None, self._sha(sample)):
                raise SampleError(f"{log.path}: {sample.id!r} was asked with another prompt; name another --output_path")
        left = [sample for sample in samples if sample.id not in found]
        self.n_found += len(samples) - len(left)
        mine = left[engine.rank :: engine.world]
        if engine.rank == 0 and samples:
            told = f"{len(samples) - len(left)} of {len(samples)} answers found, {len(left)} to make"
            print(f"{suite.name}: {told}, {engine.name}", flush=True)
        by_id = {sample.id: sample for sample in mine}
        with log, tqdm(total=len(mine), desc=suite.name, unit="sample", disable=engine.rank > 0 or not mine) as bar:
            for batch in engine.answers(suite.tasks, mine, suite.limit):
                made = [one for one in batch if isinstance(one, Prediction)]
                log.add(self._with_meta(by_id[one.id], one) for one in made)
                self.failed |= {one.id: one.why for one in batch if isinstance(one, Failure)}
                self.n_made += len(made)
                bar.update(len(batch))
        engine.wait_for_everyone()
        if engine.rank == 0:
            log.gather()
        engine.wait_for_everyone()

    def _present(self, samples: list[Sample]) -> list[Sample]:
        """The samples whose pictures can be opened, prepared and checked once more, now that the size of the picture is known.
        One that cannot be read is counted and left out; for more missing files than are allowed SampleError is raised."""
        present: list[Sample] = []
        lost = {sample.id: (sample.task, gone) for sample in samples if (gone := lost_picture(sample)) is not None}
        refuse_missing(lost, len(samples), self.args.allow_missing)
        for sample in samples:
            if sample.id in lost:
                continue
            try:
                present.append(self.engine.prepare_sample(sample))
            except ImageError as error:
                lost[sample.id] = (sample.task, sample.video or sample.images[0])
                if self.engine.rank == 0:
                    print(f"missing: {sample.id}: {error}", file=sys.stderr)
                continue
            problem = self.suite.tasks[sample.task].check(present[-1])
            if problem:
                raise SampleError(f"{self.suite.source.description} (id {sample.id!r}): {problem}")
        self.missing |= lost
        return present

    def _sha(self, sample: Sample) -> str:
        return hashlib.sha256(self.suite.tasks[sample.task].prompt(sample).encode()).hexdigest()[:16]

    def _with_meta(self, sample: Sample, made: Prediction) -> Prediction:
        told = {key: sample.meta[key] for key in SITUATED if key in sample.meta}
        prompt = self.suite.tasks[sample.task].prompt(sample)
        return Prediction(
            made.id, made.completion, made.n_tokens, made.truncated, {**told, "prompt": prompt, "prompt_sha": self._sha(sample)}
        )


def lost_picture(sample: Sample) -> str | None:
    """The first picture of a sample that is not there, or None."""
    pictures = [*sample.images, *([sample.video] if sample.video else [])]
    return next((path for path in pictures if not is_there(path)), None)


def refuse_missing(missing: Mapping[str, tuple[str, str]], n: int, allowed: int) -> None:
    """Raises SampleError where more samples lack a picture than are allowed to."""
    if len(missing) > allowed:
        paths = list(dict.fromkeys(path for _, path in missing.values()))
        shown = "\n  ".join(paths[:10])
        raise SampleError(
            f"{len(missing)} of {n} samples have no picture ({len(paths)} files); --image_root says where they are,"
            f" --allow_missing {len(missing)} leaves these out and counts them. The first:\n  {shown}"
        )


def settings_of(args: argparse.Namespace, suite: Suite) -> dict[str, Any]:
    """What the answers depend on. `--limit` is not among them: more samples of the same data may follow."""
    data = suite.source.sha256 if suite.source.path else suite.source.description
    return {
        "task": suite.name,
        "model": args.model_name_or_path,
        "revision": args.revision,
        "engine": "server" if args.base_url else "vllm" if args.use_vllm else "transformers",
        "data": data,
        "seed": args.seed,
        "max_new_tokens": args.max_new_tokens,
        "dtype": args.dtype,
        "coords": args.coords,
        "answer_format": args.answer_format,
        "box_format": args.box_format,
        "min_pixels": args.min_pixels,
        "max_pixels": args.max_pixels,
        "decoding": f"temperature {args.temperature:g}" if args.temperature else "greedy",
    }


def about_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    decoding = str(settings.get("decoding", "greedy"))
    temperature = 0.0 if decoding == "greedy" else float(decoding.rpartition(" ")[2])
    return {
        "model": settings.get("model"),
        "seed": settings.get("seed"),
        "config": {
            **settings,
            "gen_kwargs": {"temperature": temperature, "max_tokens": settings.get("max_new_tokens")},
        },
    }


def score(args: argparse.Namespace) -> int:
    """Score a file of predictions."""
    if is_autotrust(args.task) and args.predictions.suffix == ".json":
        return score_array(args)
    if is_vilbench(args.task) and is_score_file(args.predictions):
        return score_file(args)
    predictions = read_log(args.predictions)
    path = args.predictions.parent / SETTINGS
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if args.seed is None:
        args.seed = int(settings.get("seed") or 0)
    suite = load_suite(args)
    answered = {prediction.id: prediction for prediction in predictions}
    asked: list[Sample] = []
    for stage in suite.stages:
        asked += stage(answered)
    unknown = [key for key in answered if key not in {sample.id for sample in asked}]
    if unknown:
        raise SampleError(
            f"{args.predictions}: {len(unknown)} ids are not among the {len(asked)} of {suite.source.description}, the first"
            f" {unknown[0]!r}; give the --data (or --seed and --limit) they were made with"
        )
    present = [sample for sample in asked if sample.id in answered]
    if not present:
        raise SampleError(f"{args.predictions}: holds no predictions")
    answered = _as_told(suite, present, answered, args)
    if len(present) < len(asked):
        print(f"{len(asked) - len(present)} of {len(asked)} samples have no prediction and are left out")
    about = {**about_settings(settings), "seed": args.seed, "predictions": str(args.predictions)}
    conclude(suite, present, answered, args.output_path, {**about, "n_not_predicted": len(asked) - len(present)}, {})
    return 0


def _as_told(
    suite: Suite, asked: Sequence[Sample], answered: Mapping[str, Prediction], args: argparse.Namespace
) -> dict[str, Prediction]:
    """The predictions, read as the flags say rather than as the log does; says so, and where nothing tells how boxes are
    written."""
    told = {name: value for name in ("coords", "answer_format") if (value := getattr(args, name)) is not None}
    read = {sample.id: answered[sample.id] for sample in asked}
    for name, value in told.items():
        logged = Counter(one.meta[name] for one in read.values() if one.meta.get(name, value) != value)
        for other, n in logged.items():
            print(f"{n} answers were logged with {name} {other}; they are read as {value}", file=sys.stderr)
    read = {key: dataclasses.replace(one, meta={**one.meta, **told}) for key, one in read.items()}
    boxes = [sample for sample in asked if suite.tasks[sample.task].boxes is not None]
    n_untold = sum("coords" not in sample.meta and "coords" not in read[sample.id].meta for sample in boxes)
    if n_untold:
        told_so = f"boxes of {n_untold} answers are read as pixels of the original image; say otherwise with --coords"
        print(told_so, file=sys.stderr)
    return read


def conclude(
    suite: Suite,
    asked: Sequence[Sample],
    answered: Mapping[str, Prediction],
    folder: Path,
    about: Mapping[str, Any],
    missing: Mapping[str, tuple[str, str]],
) -> None:
    """Score, write `result.json`, `scores.jsonl` and `report.html`, and print the table."""
    scored: list[Scored] = suite.score(asked, answered)
    lost = Counter(task for task, _ in missing.values())
    scored = [dataclasses.replace(one, n_missing_image=len(missing) if len(scored) == 1 else lost[one.name]) for one in scored]
    told = {"date": time.strftime("%Y-%m-%dT%H-%M-%S"), "data": suite.source.to_json(), **about}
    if missing:
        told |= {"n_missing_image": len(missing), "missing_images": list(dict.fromkeys(p for _, p in missing.values()))[:10]}
    result = write_results(folder, scored, told)
    files = suite.publish(answered, folder, result, list(missing)) if suite.publish else []
    write_page(folder / "report.html", suite, asked, answered, scored, result)
    for one in scored:
        if one.label:
            print(f"{one.name}: {one.label}")
    print(table(scored))
    print(counts_line(scored, int(about.get("n_failed", 0))))
    for file in files:
        print(file)
    print(folder / "result.json")
