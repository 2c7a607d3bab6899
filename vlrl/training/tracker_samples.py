"""Held-out samples in experiment trackers: at each evaluation an image with boxes and a table of answers.

The calls are each tracker's own; a tracker that is not named here gets numbers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from vlrl.data.markup import readable
from vlrl.schema import Prediction, Sample, Task
from vlrl.tasks.evaluate import Evaluation, as_text
from vlrl.training.sample_images import samples_sheet

SAMPLES_TAG = "held_out"
"""Of the image; the table is `held_out/answers`."""
SHOWN_ROWS = 64
_MAX_CELL = 2000
"""Characters of a cell."""
COLUMNS = ("id", "question", "ground truth", "value", "change", "completion")


@dataclass(frozen=True)
class ShownSamples:
    """What a tracker shows of an evaluation. `rows`: a list of cells for each of `COLUMNS`."""

    image: Image.Image | None
    rows: Sequence[Sequence[str]]


def shown_samples(
    tasks: Mapping[str, Task],
    samples: Sequence[Sample],
    predictions: tuple[Sequence[Prediction], Sequence[Prediction]],
    evaluations: tuple[Evaluation, Evaluation],
) -> ShownSamples:
    """The samples of an evaluation beside those before training. `predictions`, `evaluations`: before training and now. Raises
    ImageError."""
    before, now = (evaluation.by_id for evaluation in evaluations)
    rows = []
    for sample, prediction in list(zip(samples, predictions[1], strict=True))[:SHOWN_ROWS]:
        first, last = before.get(sample.id), now.get(sample.id)
        value = "–" if last is None else f"{last.value:.3f}"
        change = "–" if first is None or last is None else f"{last.value - first.value:+.3f}"
        cells = (sample.id, sample.question, as_text(sample.answer), value, change, prediction.completion)
        rows.append([_cut(cell) for cell in cells])
    return ShownSamples(samples_sheet(tasks, samples, predictions, evaluations), rows)


def _cut(text: str) -> str:
    text = readable(text)
    return text if len(text) <= _MAX_CELL else f"{text[:_MAX_CELL]} … ({len(text) - _MAX_CELL} more characters)"


def show_samples(tracker: Any, shown: ShownSamples, step: int) -> None:
    """Hand the samples of a step to one of transformers' tracker callbacks; raises whatever the tracker does."""
    show = SHOWS.get(type(tracker).__name__.removesuffix("Callback"))
    if show is not None:
        show(tracker, shown, step)


def _tensorboard(tracker: Any, shown: ShownSamples, step: int) -> None:
    writer = tracker.tb_writer
    if writer is None:
        return
    if shown.image is not None:
        import numpy as np

        writer.add_image(SAMPLES_TAG, np.asarray(shown.image.convert("RGB")), step, dataformats="HWC")
    lines = [_markdown(COLUMNS), _markdown(["---"] * len(COLUMNS)), *map(_markdown, shown.rows)]
    writer.add_text(f"{SAMPLES_TAG}/answers", "\n".join(lines), step)
    writer.flush()


def _markdown(cells: Sequence[str]) -> str:
    """A row of a table. What would be markup in TensorBoard's page is text."""
    safe = [
        cell.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "&#124;").replace("\n", "<br>")
        for cell in cells
    ]
    return f"| {' | '.join(safe)} |"


def _wandb(tracker: Any, shown: ShownSamples, step: int) -> None:
    library = tracker._wandb
    table = library.Table(columns=list(COLUMNS), data=[list(row) for row in shown.rows])
    logged: dict[str, Any] = {f"{SAMPLES_TAG}/answers": table, "train/global_step": step}
    if shown.image is not None:
        logged[SAMPLES_TAG] = library.Image(shown.image)
    library.log(logged)


def _trackio(tracker: Any, shown: ShownSamples, step: int) -> None:
    import pandas as pd

    library = tracker._trackio
    table = library.Table(dataframe=pd.DataFrame(shown.rows, columns=list(COLUMNS)))
    logged: dict[str, Any] = {f"{SAMPLES_TAG}/answers": table, "train/global_step": step}
    if shown.image is not None:
        logged[SAMPLES_TAG] = library.Image(shown.image, caption=f"step {step}")
    library.log(logged)


def _swanlab(tracker: Any, shown: ShownSamples, step: int) -> None:
    library = tracker._swanlab
    texts = ["\n".join(f"{name}: {cell}" for name, cell in zip(COLUMNS, row, strict=True)) for row in shown.rows]
    logged: dict[str, Any] = {f"{SAMPLES_TAG}/answers": [library.Text(text) for text in texts]}
    if shown.image is not None:
        logged[SAMPLES_TAG] = library.Image(shown.image, caption=f"step {step}")
    library.log(logged, step=step)


def _mlflow(tracker: Any, shown: ShownSamples, step: int) -> None:
    library = tracker._ml_flow
    if shown.image is not None:
        library.log_image(shown.image, artifact_file=f"{SAMPLES_TAG}/step_{step:06d}.png")
    columns = {name: [row[i] for row in shown.rows] for i, name in enumerate(COLUMNS)}
    library.log_table(columns, artifact_file=f"{SAMPLES_TAG}/answers_{step:06d}.json")


def _comet(tracker: Any, shown: ShownSamples, step: int) -> None:
    experiment = tracker._experiment
    if experiment is None:
        return
    if shown.image is not None:
        experiment.log_image(shown.image, name=SAMPLES_TAG, step=step)
    experiment.log_table(f"{SAMPLES_TAG}_{step:06d}.csv", tabular_data=[list(row) for row in shown.rows], headers=list(COLUMNS))


SHOWS: dict[str, Callable[[Any, ShownSamples, int], None]] = {
    "TensorBoard": _tensorboard,
    "Wandb": _wandb,
    "Trackio": _trackio,
    "SwanLab": _swanlab,
    "MLflow": _mlflow,
    "Comet": _comet,
}
"""By the class of transformers' callback, without "Callback"."""
