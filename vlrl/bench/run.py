"""`run`: a model answers the samples of a benchmark, every answer is logged as it is made, and the answers are scored."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import os
import shlex
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrl.bench.before_run import check_before_run
from vlrl.bench.engines import Answers, Engine, Failure, Local, check_world, load_engine
from vlrl.bench.inspect_log import check_log_format
from vlrl.bench.log import Log
from vlrl.bench.present import present_key
from vlrl.bench.progress import Progress
from vlrl.bench.report import check_folder, report_options, report_results
from vlrl.bench.results import about_settings
from vlrl.bench.suite import PROMPT_META, Stage, Suite
from vlrl.bench.suites import entry_of, load_suite
from vlrl.data.images import ImageError
from vlrl.data.sample_files import is_there
from vlrl.data.sample_json import view_to_json
from vlrl.schema import Prediction, Sample, SampleError
from vlrl.tasks import default_model, load_tasks
from vlrl.tasks.rubric import answer_problem_of
from vlrl.training import stopping
from vlrl.training.run_lock import lock_folder


def run(args: argparse.Namespace) -> int:
    """Generate, log and score. Returns 0, or 1 where requests failed (the same command repeats them). Raises ValueError."""
    started = time.time()
    args.model_name_or_path = args.model_name_or_path or answering_model(args.task)
    check_folder(args.output_path)
    check_log_format(args.log_format)
    suite = load_suite(args)
    first_stage = suite.stages[0]({})
    bench_run = begin(args, suite, first_stage, settings_of(args, suite), of_tasks=entry_of(args.task) is None)
    if bench_run is None:
        return 0
    for stage in (lambda predictions: first_stage, *suite.stages[1:]):
        bench_run.answer(stage)
    if bench_run.engine.rank == 0:
        _score_run(bench_run, started)
    bench_run.engine.finish()
    return 1 if bench_run.failed else 0


def begin(
    args: argparse.Namespace, suite: Suite, first_stage: Sequence[Sample], settings: Mapping[str, Any], *, of_tasks: bool
) -> BenchRun | None:
    """Check data, folder and settings, then load what answers. None where the flags ask for a dry run. Raises ValueError."""
    lost = {sample.id: (sample.task, gone) for sample in first_stage if (gone := missing_file(sample)) is not None}
    refuse_missing(lost, len(first_stage), args.allow_missing)
    notes = check_before_run(suite, first_stage, lost, of_tasks=of_tasks)
    for line in notes if os.environ.get("RANK", "0") == "0" else ():
        print(f"note: {line}", file=sys.stderr)
    if args.dry_run:
        print(f"{suite.name}: {len(first_stage)} samples of {suite.source.description} to ask first; flags and data are fine")
        return None
    args.output_path.mkdir(parents=True, exist_ok=True)  # fails before a model is loaded
    if os.environ.get("RANK", "0") == "0":
        lock_folder(args.output_path, "--output_path", lambda line: print(f"note: {line}", file=sys.stderr))
    stop = stopping.current()
    stop.folder, stop.go_on = args.output_path, shlex.join(stopping.command_words(sys.argv[1:]))
    engine: Engine = suite.engine(args) if suite.engine else load_engine(args, suite.boxes)
    check_world(engine)
    log = Log(args.output_path, engine.rank, engine.world)
    first = engine.rank == 0
    if first:
        log.settle(settings)
        log.gather()
    engine.wait_for_everyone()
    return BenchRun(args, suite, engine, log)


def answering_model(names: str) -> str:
    """The model that answers where none is named, as in training."""
    return "tiny" if entry_of(names) is not None else default_model(load_tasks(names))


def _score_run(bench_run: BenchRun, started: float) -> None:
    """Sort the log, score what it holds, and print which requests failed."""
    args, suite, log = bench_run.args, bench_run.suite, bench_run.log
    log.sort([sample.id for sample in bench_run.samples])
    predictions = log.read()
    seconds = time.time() - started
    about = {
        **about_settings(settings_of(args, suite)),
        "engine": bench_run.engine.name,
        "n_failed": len(bench_run.failed),
        "n_found": bench_run.n_found,
        "total_evaluation_time_seconds": round(seconds, 1),
        "throughput": {"samples_per_second": round(bench_run.n_made / seconds, 3)},
        "start_time": started,
    }
    for key, why in list(bench_run.failed.items())[:10]:
        print(f"failed: {key!r}: {why}", file=sys.stderr)
    samples = [sample for sample in bench_run.samples if sample.id in predictions]
    report_results(suite, samples, predictions, args.output_path, about, bench_run.missing, report_options(args))


@dataclass
class BenchRun:
    """A run in progress. `samples`: those whose images can be opened, with the model's box format and image sizes in `meta`;
    `missing`: id of the others -> (task, path); `failed`: id -> why its request failed."""

    args: argparse.Namespace
    suite: Suite
    engine: Engine
    log: Log
    samples: list[Sample] = field(default_factory=list)
    missing: dict[str, tuple[str, str]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    n_found: int = 0
    n_made: int = 0

    def answer(self, stage: Stage) -> None:
        """Answer the samples of a stage that the log does not hold yet, each by exactly one process. Raises SampleError."""
        suite, engine, log = self.suite, self.engine, self.log
        staged = list(stage(log.read()))
        if suite.prepare is not None:
            staged = suite.prepare(engine, staged)
        samples = self._present(staged)
        self.samples += samples
        found = log.read()
        for sample in samples:
            if sample.id in found and found[sample.id].meta.get("prompt_sha") not in (None, self._sha(sample)):
                raise SampleError(f"{log.path}: {sample.id!r} was answered with another prompt; name another --output_path")
        left = [sample for sample in samples if sample.id not in found]
        self.n_found += len(samples) - len(left)
        left = self._without_given(left)
        mine, answers = self._asked(samples, left)
        if engine.rank == 0 and samples:
            counts = f"{len(samples) - len(left)} of {len(samples)} answers found, {len(left)} to make"
            print(f"{suite.name}: {counts}, {engine.name}", flush=True)
        by_id = {sample.id: sample for sample in mine}
        waiting = {sample.id for sample in left}
        unit = "games" if all(suite.tasks[one.task].is_episode(one) for one in mine) else engine.unit
        unit += f" of this process, one of {engine.world}" if engine.world > 1 else ""
        with contextlib.ExitStack() as stack:
            stack.enter_context(log)
            progress = stack.enter_context(Progress(suite.name, len(mine), unit, shown=engine.rank == 0))
            if isinstance(answers, Generator):
                stack.callback(answers.close)  # however it ends, nobody goes on asking a server
            for batch in answers:
                made = [one for one in batch if isinstance(one, Prediction) and one.id in waiting]
                log.add(self._with_meta(by_id[one.id], one) for one in made)
                self.failed |= {one.id: one.why for one in batch if isinstance(one, Failure)}
                self.n_made += len(made)
                progress.add(len(batch))
        engine.wait_for_everyone()
        if engine.rank == 0:
            log.gather()
        engine.wait_for_everyone()

    def _asked(self, samples: Sequence[Sample], left: Sequence[Sample]) -> tuple[list[Sample], Answers]:
        """What this process asks, and the answers. A model in this process that samples draws a batch together, so every batch
        that lacks an answer is answered whole, as in a run that was never stopped."""
        engine, suite = self.engine, self.suite
        if not isinstance(engine, Local) or not engine.sampling["temperature"] or suite.given is not None:
            mine = list(left[engine.rank :: engine.world])
            return mine, engine.answers(suite.tasks, mine, suite.limit)
        waiting = {sample.id for sample in left}
        batches = engine.batches(suite.tasks, samples, suite.limit)
        own = [batch for batch in batches if any(one.id in waiting for one in batch)][engine.rank :: engine.world]
        return [one for batch in own for one in batch], engine.answers_to(suite.tasks, own, suite.limit)

    def _without_given(self, samples: list[Sample]) -> list[Sample]:
        """Log the answers that the benchmark itself gives; returns the samples that a model is to answer."""
        if self.suite.given is None:
            return samples
        given = [(sample, one) for sample in samples if (one := self.suite.given(sample)) is not None]
        if self.engine.rank == 0 and given:
            with self.log:
                made = [(one, self._with_meta(sample, one)) for sample, one in given]
                self.log.add(dataclasses.replace(logged, meta={**one.meta, **logged.meta}) for one, logged in made)
        without = {sample.id for sample, _ in given}
        return [sample for sample in samples if sample.id not in without]

    def _present(self, samples: list[Sample]) -> list[Sample]:
        """The samples whose images can be opened, checked once more now that the image sizes are known.

        A sample whose image cannot be read is counted and left out. Raises SampleError for more missing files than allowed, and
        where no sample is left.
        """
        present: list[Sample] = []
        lost = {sample.id: (sample.task, gone) for sample in samples if (gone := missing_file(sample)) is not None}
        refuse_missing(lost, len(samples), self.args.allow_missing)
        for sample in samples:
            if sample.id in lost:
                continue
            try:
                present.append(self.engine.prepare_sample(sample))
            except ImageError as error:
                lost[sample.id] = (sample.task, sample.video or sample.images[0])
                if self.engine.rank == 0:
                    print(f"missing: {sample.id!r}: {error}", file=sys.stderr)
                continue
            problem = answer_problem_of(self.suite.tasks[sample.task], present[-1])
            if problem:
                raise SampleError(f"{self.suite.source.description} (id {sample.id!r}): {problem}")
        self.missing |= lost
        if samples and not present:
            _, path = next(iter(lost.values()))
            raise SampleError(f"none of the {len(samples)} samples has an image that can be read; the first: {path}")
        return present

    def _sha(self, sample: Sample) -> str:
        task = self.suite.tasks[sample.task]
        system = f"{task.system}\0" if task.system else ""
        return hashlib.sha256(f"{system}{task.prompt(sample)}".encode()).hexdigest()[:16]

    def _with_meta(self, sample: Sample, made: Prediction) -> Prediction:
        meta = {key: sample.meta[key] for key in PROMPT_META if key in sample.meta} | view_to_json(sample.view)
        meta |= {"prompt": self.suite.tasks[sample.task].prompt(sample), "prompt_sha": self._sha(sample)}
        return Prediction(made.id, made.completion, made.n_tokens, made.truncated, meta)


def missing_file(sample: Sample) -> str | None:
    """The first image or video of a sample that does not exist, or None."""
    paths = [*sample.images, *([sample.video] if sample.video else [])]
    return next((path for path in paths if not is_there(path)), None)


def refuse_missing(missing: Mapping[str, tuple[str, str]], n: int, allowed: int) -> None:
    """Raises SampleError where more samples lack an image than are allowed to."""
    if len(missing) > allowed:
        paths = list(dict.fromkeys(path for _, path in missing.values()))
        shown = "\n  ".join(paths[:10])
        raise SampleError(
            f"{len(missing)} of {n} samples have no image ({len(paths)} files); --image_root says where they are,"
            f" --allow_missing {len(missing)} leaves these out and counts them. The first:\n  {shown}"
        )


def settings_of(args: argparse.Namespace, suite: Suite) -> dict[str, Any]:
    """What the answers depend on. `--limit` is not among them: more samples of the same data may follow."""
    data = suite.source.sha256 if suite.source.path else suite.source.description
    stated = ("system_prompt", "prompt_template", "video_fps", "video_max_frames")
    own: dict[str, Any] = {name: value for name in stated if (value := getattr(args, name, None))}
    own |= {"video_as": "frames"} if getattr(args, "video_as", "video") == "frames" else {}
    own |= present_key(getattr(args, "present", None))
    own |= {"votes": args.votes} if getattr(args, "votes", 1) > 1 else {}
    return own | {
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
