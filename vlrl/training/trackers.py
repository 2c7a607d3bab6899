"""Trackers (TensorBoard, Weights & Biases, ...) that cannot end a run: one that fails is reported once, then left out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations import get_reporting_integration_callbacks  # type: ignore[attr-defined]

from vlrl.training.tracker_samples import SHOWS, ShownSamples, show_samples


class Guarded(TrainerCallback):
    """A tracker's callback behind one that takes its errors. `show`: the held-out samples of the last evaluation, which are
    handed to a tracker that can show them."""

    def __init__(self, tracker: TrainerCallback, show: Callable[[], ShownSamples | None] | None = None) -> None:
        self.tracker: TrainerCallback | None = tracker
        self._show = show
        self._name = type(tracker).__name__.removesuffix("Callback")

    def _call(self, event: str, args: Any, state: Any, control: Any, **context: Any) -> Any:
        if self.tracker is None:
            return control
        try:
            returned = getattr(self.tracker, event)(args, state, control, **context)
            if event == "on_evaluate" and state.is_world_process_zero and self._name in SHOWS and self._show is not None:
                shown = self._show()
                if shown is not None:
                    show_samples(self.tracker, shown, int(state.global_step))
            return returned
        except Exception as error:  # noqa: BLE001 (whatever a tracker raises is no fault of the training)
            self.tracker = None
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(f"note      {self._name} has failed and is left out from now on; training goes on: {why}", flush=True)
            return control


def _forwarded(event: str) -> Any:
    def call(self: Guarded, args: Any, state: Any, control: Any, **context: Any) -> Any:
        return self._call(event, args, state, control, **context)

    return call


for _event in [name for name in dir(TrainerCallback) if name.startswith("on_")]:
    setattr(Guarded, _event, _forwarded(_event))


@contextlib.contextmanager
def guarded_trackers(trainer: Trainer, show: Callable[[], ShownSamples | None] | None = None) -> Iterator[None]:
    """While this lasts, no tracker of `trainer` can end training; a thread in which one writes fails without a traceback.
    `show`: the held-out samples of the last evaluation, for trackers that can show them."""
    for kind in get_reporting_integration_callbacks(trainer.args.report_to):  # type: ignore[no-untyped-call]
        tracker = trainer.pop_callback(kind)
        if tracker is not None:
            trainer.add_callback(Guarded(tracker, show))
    hook = threading.excepthook

    def quiet(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            hook(failed)

    threading.excepthook = quiet
    try:
        yield
    finally:
        threading.excepthook = hook
