"""Corrected thoughts: which completions a corrector is asked about, what is kept of its verdicts, and how they survive a stop.

Source: GTR (arXiv 2503.08525); differences are listed in `vlrl.gtr`. How they are imitated is in `imitation.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vlrl.gtr.correction_set import CorrectionSet, Record
from vlrl.gtr.corrector import Correction, Corrector, Request, SampleRequest
from vlrl.gtr.masks import thought_span
from vlrl.gtr.named_moves import with_named_action
from vlrl.gtr.options import NOT_GUIDED, GuideOptions
from vlrl.schema import Reward
from vlrl.training.checkpoints import RunStopped
from vlrl.training.grpo.batch import Batch, TrainerCalls, TrainingRow
from vlrl.training.grpo.mixed_modality import row_kind
from vlrl.training.grpo.thoughts import Thoughts

CORRECTIONS = "corrections"
"""The folder of the correction set: its images in the run folder, its records in each checkpoint."""
RIGHT_SHARE = 0.999
"""The share of a reward's highest value from which an answer counts as right."""


@dataclass(frozen=True)
class Guide:
    """What guides a run's thoughts. `corrector=None`: nothing is corrected; thoughts are watched all the same. `probe`: the
    unwrapped model -> how much its thoughts follow the image (`vlrl.gtr.diagnostics.state_sensitivity`)."""

    options: GuideOptions = NOT_GUIDED
    corrector: Corrector | None = None
    probe: Callable[[Any], float] | None = None


class Corrections:
    """`set`: the corrections of this process, None in a run without a corrector. A part of each checkpoint, with the notes of
    `thoughts`."""

    def __init__(self, engine: TrainerCalls, guide: Guide, thoughts: Thoughts, rewards: Sequence[Reward]) -> None:
        self.engine, self.guide, self.thoughts, self.rewards = engine, guide, thoughts, list(rewards)
        self.set: CorrectionSet | None = None
        options = guide.options
        if guide.corrector is None or not options.corrects:
            return
        if engine.is_sharded:
            raise RunStopped(
                "--corrector where weights are sharded (FSDP, ZeRO-3): processes imitate unequal numbers of thoughts, which"
                " would hang; use DDP or ZeRO-2"
            )
        self.set = CorrectionSet(
            Path(engine.args.output_dir) / CORRECTIONS / "images",
            seed=engine.args.seed + 7919 * engine.accelerator.process_index,
            cap=options.cap,
            gate=options.gate,
            aggregate=options.aggregate,
        )
        knows = ", knows the right answers (privileged)" if guide.corrector.privileged else ""
        does = f"imitates the {options.clone}, weight {options.coef:g}" if options.imitates else "imitates nothing"
        engine.say(f"corrector {guide.corrector.tier}{knows}; {does}")

    def ask(self, requests: Sequence[Request]) -> list[Correction]:
        if not requests:
            return []
        assert self.guide.corrector is not None
        return self.guide.corrector.correct_many(requests)

    def of_samples(self, batch: Batch) -> dict[int, Correction]:
        """Verdicts by row on `per_group` completions of each group, wrong answers first; all are stored."""
        assert batch.scores_BR is not None
        if any(row_kind(row) == "videos" for row in batch.rows):
            raise RunStopped(
                "a row shows a video, but --corrector keeps images alone; show videos as images: --video_as frames"
            )
        engine, per_group = self.engine, self.guide.options.per_group
        wanted, group, n = 1 if per_group is None else per_group, engine.num_generations, len(batch.rows)
        right = [value >= RIGHT_SHARE * self.rewards[0].high for value in batch.scores_BR[:, 0].tolist()]
        step, seed = engine.state.global_step, engine.args.seed
        chosen: list[int] = []
        for start in range(0, n, group):
            rng = np.random.default_rng([seed, step, engine.accelerator.process_index, start])
            order = [int(i) for i in rng.permutation(list(range(start, min(start + group, n))))]
            chosen += sorted(order, key=lambda i: right[i])[:wanted]
        requests = [
            SampleRequest(
                self.thoughts.tasks[batch.rows[i]["sample"].task],
                batch.rows[i]["sample"],
                batch.texts[i],
                right[i],
                self.thoughts.has_ended(batch.completions[i].ids),
                tuple(batch.rows[i]["images"]),
                seed=seed * 100_003 + step * 1009 + i,
            )
            for i in chosen
        ]
        verdicts = dict(zip(chosen, self.ask(requests), strict=True))
        for i, verdict in verdicts.items():
            self.store(f"{batch.rows[i]['sample'].id}@{step}/{i}", batch.rows[i], verdict)
        return verdicts

    def store(self, identity: str, row: TrainingRow, verdict: Correction, **fields: Any) -> None:
        """Add the verdict on one row to the set, without a target where nothing may be imitated."""
        assert self.set is not None
        sample, target = row["sample"], verdict.text
        thought_format = self.thoughts.task(sample.task).thought_format
        if target is not None and self.guide.options.clone == "full" and thought_format == "json":
            target = with_named_action(target, sample)
        span = None if target is None else thought_span(target, thought_format)
        corrector = self.guide.corrector
        record = Record(
            identity,
            sample.task,
            row["prompt"],
            verdict.status,
            target,
            span,
            update=self.engine.state.global_step,
            corrector=verdict.tier,
            privileged=corrector is not None and corrector.privileged,
            **fields,
        )
        self.set.add(record, row["images"] if target is not None else ())

    def note(self, batch: Batch, masks: Sequence[Sequence[bool]], verdicts: Mapping[int, Correction]) -> None:
        """Note the thoughts of single answers."""
        for i, (text, made, mask) in enumerate(zip(batch.texts, batch.completions, masks, strict=True)):
            self.thoughts.note(text, made.ids, mask, verdicts.get(i))

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def _own(self, checkpoint: Path) -> Path:
        return checkpoint / CORRECTIONS / f"rank-{self.engine.accelerator.process_index}"

    def save(self, checkpoint: Path) -> None:
        if self.set is not None:
            self.set.save(self._own(checkpoint))
        if self.engine.accelerator.is_main_process:
            (checkpoint / CORRECTIONS).mkdir(parents=True, exist_ok=True)
            state = json.dumps(self.thoughts.window.state())
            (checkpoint / CORRECTIONS / "thoughts.json").write_text(state, encoding="utf-8")

    def restore(self, checkpoint: Path) -> None:
        """What a checkpoint holds. Raises RunStopped where this process' corrections are missing or damaged."""
        if self.set is not None:
            own = self._own(checkpoint)
            try:
                self.set.restore(own)
            except FileNotFoundError as error:
                raise RunStopped(
                    f"{own} is not there: the checkpoint was saved without --corrector, or by another number of processes;"
                    " go on with the same, or leave out --corrector"
                ) from error
            except ValueError as error:
                raise RunStopped(str(error)) from error
        notes = checkpoint / CORRECTIONS / "thoughts.json"
        if notes.is_file():
            self.thoughts.window.restore(json.loads(notes.read_text(encoding="utf-8")))
