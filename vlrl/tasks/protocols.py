"""The protocols of published benchmarks on rows of the package's tasks: which numbers are made, and what rows must state.

`--protocol NAME` asks the same questions and reads the same answers; only the numbers over the set are the benchmark's. Not
here: the numbers (`vlrl.metrics`), the converters of its files (`data_prep`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from vlrl.answers.read import requested_categories
from vlrl.data.name_values import nearest
from vlrl.metrics.accuracy import CV_BENCH, CV_BENCH_SOURCES, cv_bench_metrics
from vlrl.metrics.detection_protocols import DETECTION_PROTOCOLS, FREQUENCIES, protocol_metrics
from vlrl.schema import Metric, Row, Sample, Task

Aggregate = Callable[[Sequence[Row]], dict[str, Metric]]
Check = Callable[[Sample], str | None]


@dataclass(frozen=True)
class Protocol:
    """`task`: whose rows it measures. `problem`: what a row lacks for it, or None."""

    task: str
    about: str
    headline: str
    problem: Check = lambda sample: None


def _lvis_problem(sample: Sample) -> str | None:
    frequency = sample.facts.get("frequency", {})
    unknown = [name for name in requested_categories(sample) if frequency.get(name) not in FREQUENCIES.values()]
    if unknown:
        return f"--protocol lvis needs meta.frequency of {unknown[0]!r} (r, c or f); data_prep/lvis.py --for_ap writes it"
    return None


def _cv_bench_problem(sample: Sample) -> str | None:
    source = sample.meta.get("source")
    if source not in CV_BENCH_SOURCES:
        known = ", ".join(CV_BENCH_SOURCES)
        return f"--protocol cvbench needs meta.source, one of {known}, got {source!r}; data_prep/questions.py writes it"
    return None


PROTOCOLS: dict[str, Protocol] = {
    **{name: Protocol("detection", one.about, one.headline) for name, one in DETECTION_PROTOCOLS.items()},
    "lvis": Protocol("detection", DETECTION_PROTOCOLS["lvis"].about, DETECTION_PROTOCOLS["lvis"].headline, _lvis_problem),
    "cvbench": Protocol("qa", "CV-Bench's mean of 2D and 3D", CV_BENCH, _cv_bench_problem),
}


def with_protocol(tasks: Mapping[str, Task], name: str | None, max_dets: int | None = None) -> dict[str, Task]:
    """The tasks, the one that the protocol is for with its numbers and its check. `max_dets`: the boxes that count in AP.

    Raises ValueError for an unknown protocol, or where no task of the run has such rows.
    """
    if name is not None and name not in PROTOCOLS:
        raise ValueError(f"--protocol: unknown {name!r}{nearest(name, PROTOCOLS)} (known: {', '.join(PROTOCOLS)})")
    wanted = "detection" if name is None else PROTOCOLS[name].task
    if (name is not None or max_dets is not None) and wanted not in tasks:
        flag = f"--protocol {name}" if name is not None else f"--max_dets {max_dets}"
        raise ValueError(f"{flag} is for --task {wanted}; this run's is {', '.join(tasks)}")
    if max_dets is not None and wanted != "detection":
        raise ValueError(f"--max_dets is for detection; --protocol {name} measures {wanted}")
    if name is None and max_dets is None:
        return dict(tasks)
    task = tasks[wanted]
    changed = replace(task, aggregate=_cv_bench if wanted == "qa" else _detection_aggregate(name, max_dets))
    if name is not None:
        changed = replace(changed, headline=PROTOCOLS[name].headline, check=_both(task.check, PROTOCOLS[name].problem))
    return {**tasks, wanted: changed}


def _detection_aggregate(name: str | None, max_dets: int | None) -> Aggregate:
    protocol = None if name is None else DETECTION_PROTOCOLS[name]
    return lambda rows: protocol_metrics([row.data for row in rows], protocol, max_dets)


def _cv_bench(rows: Sequence[Row]) -> dict[str, Metric]:
    return cv_bench_metrics(rows)


def _both(first: Check, second: Check) -> Check:
    return lambda sample: first(sample) or second(sample)
