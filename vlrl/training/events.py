"""What went wrong in a run, said once: `events.jsonl` in the run folder, a line on the console, and the end of the run where
`--stop_on` asks for it. No torch.

Not here: what is looked for in the logged numbers (`vlrl.training.flight_recorder`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlrl.data.files import append_whole, write_json_lines
from vlrl.data.name_values import nearest

EVENTS_FILE = "events.jsonl"
DOCS = "docs/troubleshooting.md"
N_SAMPLES_NAMED = 8
ANY = "any"


@dataclass(frozen=True)
class EventKind:
    """What to try, and the section of `DOCS` that explains it."""

    what_to_try: str
    section: str


EVENT_KINDS: dict[str, EventKind] = {
    "non_finite": EventKind("lower --learning_rate, set --max_grad_norm 1, use bf16 in place of fp16", "nan-or-inf"),
    "skipped_steps": EventKind("use --bf16 true in place of --fp16 true", "nan-or-inf"),
    "no_rewards": EventKind(
        "name rewards that can score these samples (--rewards), or have your own return a number", "no-reward-at-all"
    ),
    "constant_reward": EventKind(
        "mix easier or harder samples in, raise --temperature, or --dynamic_sampling 2", "all-rewards-are-the-same"
    ),
    "truncated": EventKind("raise --max_completion_length, or ask for shorter answers", "most-completions-are-cut-off"),
    "kl_runaway": EventKind("lower --learning_rate, raise --beta", "kl-or-entropy-runs-away"),
    "entropy_collapse": EventKind(
        "raise --epsilon_high (0.28) or --temperature, lower --learning_rate, or set --entropy_coef", "kl-or-entropy-runs-away"
    ),
    "entropy_explosion": EventKind("lower --learning_rate, set --beta 0.04, or top_p 0.95", "kl-or-entropy-runs-away"),
    "reward_below_start": EventKind(
        "lower --learning_rate, and go on from an earlier checkpoint", "the-reward-falls-below-its-start"
    ),
    "data_repeats": EventKind("add samples, remove copies, or train for fewer steps", "the-data-repeat"),
    "small_data": EventKind("add samples, or make the batch smaller (--per_device_train_batch_size)", "the-data-repeat"),
    "held_out_overlap": EventKind("leave these samples out of one of the two files", "held-out-pictures-are-trained-on"),
    "format_only": EventKind(
        "look at the reasons in completions/, make the questions easier, or start with --stage sft+grpo", "the-reward-stays-0"
    ),
    "learning_rate_zero": EventKind("check --learning_rate, --lr_scheduler_type and --warmup_steps", "nothing-is-learnt"),
    "gradient_zero": EventKind(
        "check what is trained (--freeze_vision, --lora_target_modules) and --reward_weights", "nothing-is-learnt"
    ),
    "loss_constant": EventKind("check --learning_rate and what is trained (--freeze_vision)", "nothing-is-learnt"),
    "length_explosion": EventKind(
        "read completions/; lower --max_completion_length, or --loss_type dr_grpo", "completions-grow-or-shrink"
    ),
    "length_collapse": EventKind(
        "read completions/: what do short ones earn? Lower --learning_rate", "completions-grow-or-shrink"
    ),
    "reward_always_max": EventKind(
        "take harder questions, or check the reward (vlrl bench hack)", "the-reward-rises-the-answers-do-not-get-better"
    ),
    "reward_hacking": EventKind(
        "go on from the checkpoint with the best gold (--stop_on_hacking keeps it), set --beta, or mend the reward",
        "the-reward-rises-the-answers-do-not-get-better",
    ),
    "engine_drift": EventKind(
        "update vLLM, use a server that reads weights from files, or leave --use_vllm out", "several-processes-and-engines"
    ),
    "endpoint_failures": EventKind("check the endpoint, its key and its limits", "an-endpoint-fails"),
}
"""Every event by name."""


@dataclass(frozen=True)
class Event:
    """Something that a person should know about a run. `step`: the last one that it was seen in (0: before the first).
    `values`: the numbers behind it, each finite, None or text."""

    step: int
    event: str
    message: str
    samples: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> EventKind:
        return EVENT_KINDS[self.event]

    def to_json(self, stage: str) -> dict[str, Any]:
        """A line of `events.jsonl`."""
        values = {key: str(v) if isinstance(v, float) and not math.isfinite(v) else v for key, v in self.values.items()}
        return {
            "stage": stage,
            "step": self.step,
            "event": self.event,
            "message": self.message,
            "samples": list(self.samples[:N_SAMPLES_NAMED]),
            "what_to_try": self.kind.what_to_try,
            "docs": f"{DOCS}#{self.kind.section}",
            "values": values,
        }

    def line(self, stage: str) -> str:
        """The same for the console, in one line."""
        when = f"{stage} step {self.step}" if self.step else stage
        samples = f" Samples: {', '.join(self.samples[:N_SAMPLES_NAMED])}." if self.samples else ""
        try_this = self.kind.what_to_try
        text = f"event     {self.event} ({when}): {self.message}.{samples} Try: {try_this}; see {DOCS}#{self.kind.section}"
        return "".join(letter if letter.isprintable() else " " for letter in text)


def read_stop_on(text: str | None) -> frozenset[str]:
    """The events that `--stop_on` names. Raises ValueError with the nearest right name."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name != ANY and name not in EVENT_KINDS:
            known = [ANY, *EVENT_KINDS]
            raise ValueError(f"--stop_on {text}: unknown event {name!r}{nearest(name, known)} (known: {', '.join(known)})")
    return frozenset(EVENT_KINDS) if ANY in names else frozenset(names)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run; what is not a whole line of JSON is left out."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"stage", "step", "event", "message"} <= row.keys():
            found.append(row)
    return found


class EventLog:
    """`events.jsonl` of a run folder. `say`: how a line reaches the console. `stop_on`: events that end the run.

    Only the first process of a run writes and says; on the others `folder` is None, and the events go nowhere.
    """

    def __init__(self, folder: Path | None, stop_on: Iterable[str] = (), say: Callable[[str], None] = print) -> None:
        self.path = None if folder is None else folder / EVENTS_FILE
        self.stop_on = frozenset(stop_on)
        self.say = say
        self.stage = ""
        self.stopping: Event | None = None
        """The event that ends the run, once one has."""
        self._rows: list[dict[str, Any]] = []

    def begin(self, stage: str, after: int = 0) -> None:
        """A stage begins, or goes on after a step: what is known of its later steps is forgotten, as they come again."""
        self.stage = stage
        if self.path is None:
            return
        rows = [row for row in read_events(self.path) if row["stage"] != stage or row["step"] <= after]
        self._rows = [row for row in rows if row["stage"] != stage or after or row["step"]]
        write_json_lines(self.path, self._rows)

    @property
    def said(self) -> frozenset[str]:
        """The events of this stage so far."""
        return frozenset(row["event"] for row in self._rows if row["stage"] == self.stage)

    def add(self, event: Event, on_console: bool = True) -> None:
        """Write an event down, say it, and ask for the end of the run where it is one of `stop_on`."""
        if self.path is None:
            return
        row = event.to_json(self.stage)
        self._rows.append(row)
        with self.path.open("ab", buffering=0) as file:
            append_whole(file, (json.dumps(row) + "\n").encode())
        if on_console:
            self.say(event.line(self.stage))
        if event.event in self.stop_on and self.stopping is None:
            self.stopping = event

    def add_once(self, event: Event) -> None:
        """The same, unless the stage has had this event."""
        if event.event not in self.said:
            self.add(event)
