"""A transformers `Trainer` for long runs: the one class that our trainers put before TRL's and transformers'.

It overrides what has to be, each once: checkpoints survive a kill at any moment and a full disk, unsound numbers end
a run (`finite.py`), and logged steps become events (`flight_recorder.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from vlrl.data.files import disk_is_full
from vlrl.models.names import ModelError
from vlrl.models.whole_files import load_weights, one_line
from vlrl.training.checkpoints import (
    PARTIAL,
    CheckpointPart,
    RunStopped,
    how_to_go_on,
    last_checkpoint,
    stop_together,
    sync,
    write_together,
)
from vlrl.training.events import EventLog
from vlrl.training.finite import FiniteSteps, what_is_safe
from vlrl.training.flight_recorder import FlightRecorder, LastBatch
from vlrl.training.model_card import write_draft
from vlrl.training.progress import StepLog
from vlrl.training.run_history import RunFacts
from vlrl.training.sharding import without_tied
from vlrl.training.whole_checkpoints import STATE


class GuardedTrainer(Trainer):
    """To be put before another `Trainer`. Without `record_to` no logged step is looked at."""

    steps: StepLog
    events: EventLog | None = None
    """Where the run's events go."""
    base_name = "a model"
    """The model that the run started from, as the user named it."""
    rate_flag = "learning_rate"
    """The option that sets the learning rate."""
    name_of_row: Callable[[int], str] | None = None
    """The sample of a row, for trainers that take rows in their order."""
    checkpoint_parts: Sequence[CheckpointPart] = ()
    _recorder: FlightRecorder | None = None
    _ended_by = ""
    """The event that ends the run, once all processes know of it."""
    _is_saving = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.finite = FiniteSteps(self)
        super().__init__(*args, **kwargs)
        self.add_callback(_AfterStep(self.finite))

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own; a resumed run goes on with all parts of its checkpoint. Raises RunStopped after an event that ends
        the run; its checkpoint is written by then."""
        if isinstance(resume_from_checkpoint, str):
            for part in self.checkpoint_parts:
                part.restore(Path(resume_from_checkpoint))
        found = super().train(resume_from_checkpoint, *args, **kwargs)
        if self._ended_by:
            folder = Path(str(self.args.output_dir))
            safe = last_checkpoint(folder)
            how = f"Go on from {Path(safe).name} with: {how_to_go_on(folder)}" if safe else "No checkpoint"
            raise RunStopped(f"event {self._ended_by} ended the run in step {self.state.global_step} (--stop_on). {how}")
        return found

    # -- numbers -------------------------------------------------------------------------------------------------------

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own; the loss of each micro-batch is looked at when the step is complete."""
        samples = self.sample_ids(inputs)
        found = super().compute_loss(model, inputs, *args, **kwargs)
        if model.training:
            self.finite.saw(found[0] if isinstance(found, tuple) else found, samples)
        return found

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The trainer's own, the last thing it does before the weights are changed."""
        norm = super()._get_grad_norm(model, grad_norm)  # type: ignore[no-untyped-call]
        self.finite.check_gradient(norm)
        return norm

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """The trainer's own, unless a weight is not finite. Raises RunStopped."""
        self.finite.check_weights()
        super().save_model(*args, **kwargs)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The trainer's own, with each weight once where they were gathered from several devices."""
        if state_dict is not None:
            state_dict = without_tied(self.accelerator.unwrap_model(self.model), state_dict)
        super()._save(output_dir, state_dict)

    def create_model_card(self, *_args: Any, **_kwargs: Any) -> None:
        """A card that says what the checkpoint is, in place of the trainer's own, which names no data and no numbers."""
        if self.is_world_process_zero():
            write_draft(Path(str(self.args.output_dir)), self.base_name, self.state.global_step)

    def sample_ids(self, inputs: Any) -> list[str]:
        """The samples of a micro-batch, as far as they are known."""
        return list(inputs.get("sample_ids") or ()) if isinstance(inputs, Mapping) else []

    def safe(self) -> str:
        """A sentence about what was saved so far, and how to go on from there."""
        return what_is_safe(Path(str(self.args.output_dir)), self.accelerator.is_main_process)

    # -- events --------------------------------------------------------------------------------------------------------

    def samples_of_step(self) -> list[str]:
        """Those of the first pass; later ones begin where the batches of the first have ended."""
        args = self.args
        n = args.per_device_train_batch_size * self.accelerator.num_processes * args.gradient_accumulation_steps
        start = self.state.global_step * n
        if self.name_of_row is None or start + n > len(self.train_dataset):  # type: ignore[arg-type]
            return []
        return [self.name_of_row(i) for i in range(start, start + n)]

    def record_to(self, events: EventLog | None, facts: RunFacts) -> None:
        """Where events go, and what a recorder must know of the run."""
        self.events = events
        if events is not None:
            events.say = self.steps.say
            self._recorder = FlightRecorder(facts, events.said)

    def take_up_history(self, rows: list[dict[str, Any]]) -> None:
        """The steps that an earlier process has logged: known, and not said again."""
        for row in rows:
            if self._recorder is not None:
                self._recorder.see(row)

    def record(self, row: Mapping[str, Any], batch: LastBatch = LastBatch()) -> None:  # noqa: B008 (frozen)
        """Look at a logged step; called on the first process."""
        if self._recorder is not None and self.events is not None:
            for event in self._recorder.see(row, batch):
                self.events.add(event)

    def end_if_asked(self) -> None:
        """Save a checkpoint and end the run once an event has asked for that; called on every process alike."""
        if self.events is None or not self.events.stop_on or self._ended_by:
            return
        named = ["" if self.events.stopping is None else self.events.stopping.event]
        if self.accelerator.num_processes > 1:
            broadcast_object_list(named)
        if named[0]:
            self._ended_by = named[0]
            self.control.should_save = True
            self.control.should_training_stop = True

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, PARTIAL) if self._is_saving else str(folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write the checkpoint aside, then move it into place: a kill at any moment leaves only whole checkpoints."""
        folder = Path(super()._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        failure = ""
        self._is_saving = True
        try:
            super()._save_checkpoint(model, trial)
            for part in self.checkpoint_parts:
                part.save(folder / PARTIAL / name)
            self._name_best(folder, folder / PARTIAL / name)
        except Exception as error:
            if not disk_is_full(error, folder):
                raise
            failure = f"{type(error).__name__}: {error}"
        finally:
            self._is_saving = False

        def place() -> None:
            sync(folder / PARTIAL / name)
            if (folder / name).exists():
                shutil.rmtree(folder / name)
            os.replace(folder / PARTIAL / name, folder / name)
            shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(folder), self.args.save_total_limit, best_model_checkpoint=best)

        try:
            stop_together(failure, folder, name)
            write_together(folder, name, place)
        except RunStopped:
            if self.is_world_process_zero():
                shutil.rmtree(folder / PARTIAL, ignore_errors=True)
            raise

    def _name_best(self, folder: Path, written: Path) -> None:
        """The best checkpoint by its final name: transformers looks for it where this one is being written."""
        step = self.state.best_global_step
        if not step:
            return
        best = folder / f"checkpoint-{step}"
        if step == self.state.global_step or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            self.state.save_to_json(str(written / STATE))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether an evaluation is the best so far. With `--save_strategy best` it decides on a checkpoint; one that a request
        to stop or `--save_minutes` has asked for is written all the same."""
        is_asked = bool(self.control.should_save)
        is_best = bool(super()._determine_best_metric(metrics, trial))
        if is_best and self.args.load_best_model_at_end:  # also between the steps of `--save_steps`
            self.control.should_save = True
        return is_best or is_asked

    def _load_best_model(self) -> None:
        """The best checkpoint's weights, every one of them: transformers looks for names that our checkpoints may not have."""
        best = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.best_global_step}"
        self.state.best_model_checkpoint = str(best)  # a run that goes on may lie elsewhere now
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(str(best))

    def load_weights(self, checkpoint: str) -> None:
        """The weights of a checkpoint, without training on from it. Raises RunStopped where they lie in parts."""
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise RunStopped(
                f"all steps are taken, but {self.args.output_dir}/final is missing and {checkpoint} holds the weights in parts:"
                " join them with the tool that DeepSpeed or FSDP has for it, or train one step more (--max_steps)"
            )
        self._load_from_checkpoint(checkpoint)

    def planned_steps(self) -> int:
        """How many steps training takes in all, as transformers counts them."""
        if self.args.max_steps > 0:
            return int(self.args.max_steps)
        return int(self.set_initial_training_values(self.args, self.get_train_dataloader())[-1])

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """A checkpoint's weights, every one of them; those that are not finite are refused. Raises RunStopped, ModelError."""
        self.load_weights_of(resume_from_checkpoint, model)
        self.finite.check_loaded(resume_from_checkpoint, model)

    def load_weights_of(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Load a checkpoint's weights, every one of them.

        transformers saves Qwen's vision-language models under the names of the hub's files but looks for the modules' own
        names on resume, finds none, warns, and goes on with the weights the run began with (seen in 5.23). So whole
        models come back the way they are loaded elsewhere, by `from_pretrained`.
        """
        target = self.accelerator.unwrap_model(self.model if model is None else model)
        has_adapters = (Path(resume_from_checkpoint) / "adapter_config.json").is_file()
        if has_adapters != hasattr(target, "peft_config") and not self.is_fsdp_enabled:
            held, wanted = ("adapters", "all weights") if has_adapters else ("all weights", "adapters")
            raise ModelError(
                f"{resume_from_checkpoint} holds {held}, this run trains {wanted} (--use_peft); go on with the flags that the"
                " run was started with"
            )
        with one_line(resume_from_checkpoint, "its weights do not fit this run's model"):
            if self.is_fsdp_enabled or has_adapters:
                super()._load_from_checkpoint(resume_from_checkpoint, model)
                return
            saved = load_weights(type(target), resume_from_checkpoint, dtype=next(target.parameters()).dtype)
            target.load_state_dict(saved.state_dict(), strict=True)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with one_line(str(checkpoint), "its optimizer's state does not fit; is --optim another one now?"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with one_line(str(checkpoint), "the states of its random generators cannot be read"):
            super()._load_rng_state(checkpoint)

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Weights that were not found are no matter for a warning."""
        ignored = set(getattr(self.model, "_keys_to_ignore_on_save", None) or ())
        missing = [key for key in load_result.missing_keys if key not in ignored]
        if missing and not hasattr(self.accelerator.unwrap_model(self.model), "peft_config"):
            raise RunStopped(f"the checkpoint lacks {len(missing)} of the model's weights, the first: {missing[0]}")


class _AfterStep(TrainerCallback):
    """Looks at the weights once an optimizer step has changed them."""

    def __init__(self, finite: FiniteSteps) -> None:
        self.finite = finite

    def on_step_end(self, *_args: Any, **_kwargs: Any) -> None:
        self.finite.check_weights()
