"""What every scored run leaves in its folder: `result.json`, `scores.jsonl`, `report.html`, logs of other tools, and the table
on the console."""

from __future__ import annotations

import argparse
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlrl.bench.page_images import N_IMAGES
from vlrl.bench.results import RESULT_FILE, counts_line, result_table, write_results
from vlrl.bench.suite import Predictions, Suite
from vlrl.schema import Sample, SampleError


@dataclass(frozen=True)
class ReportOptions:
    """`n_images`: images inside the page, at most. `log_format`: "inspect" writes logs for `inspect view` too."""

    n_images: int = N_IMAGES
    log_format: str | None = None


_USUAL = ReportOptions()


def report_options(args: argparse.Namespace) -> ReportOptions:
    """What the flags say of the files."""
    return ReportOptions(N_IMAGES if args.report_images is None else args.report_images, args.log_format)


def check_folder(folder: Path) -> None:
    """Raises SampleError where results cannot be written into `folder`; creates nothing."""
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise SampleError(f"--output_path {folder}: {place} is not a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise SampleError(f"--output_path {folder}: no permission to write into {place}")


def report_results(
    suite: Suite,
    samples: Sequence[Sample],
    predictions: Predictions,
    folder: Path,
    about: Mapping[str, Any],
    missing: Mapping[str, tuple[str, str]],
    options: ReportOptions = _USUAL,
) -> None:
    """Score the predictions, write the files and print the table. `missing`: sample id -> (task, path of the image that is
    not there)."""
    from vlrl.bench.page import write_page

    scored = suite.score(samples, predictions)
    n_missing = Counter(task for task, _ in missing.values())
    scored = [
        dataclasses.replace(one, n_missing_image=len(missing) if len(scored) == 1 else n_missing[one.name]) for one in scored
    ]
    header: dict[str, Any] = {"date": time.strftime("%Y-%m-%dT%H-%M-%S"), "data": suite.source.to_json(), **about}
    if missing:
        paths = list(dict.fromkeys(path for _, path in missing.values()))
        header |= {"n_missing_image": len(missing), "missing_images": paths[:10]}
    result = write_results(folder, scored, header)
    files = suite.publish(predictions, folder, result, list(missing)) if suite.publish else []
    shown = write_page(folder / "report.html", suite, samples, predictions, scored, result, options.n_images)
    if options.log_format == "inspect":
        from vlrl.bench.inspect_log import write_inspect_logs

        files = [*files, *write_inspect_logs(folder, *shown, scored, result)]
    for one in scored:
        if one.label:
            print(f"{one.name}: {one.label}")
    print(result_table(scored))
    print(counts_line(scored, int(about.get("n_failed", 0))))
    for file in files:
        print(file)
    print(folder / RESULT_FILE)
