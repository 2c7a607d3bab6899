"""The options of `--task rm` that no library has and `--task prm` does not share, checked. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from vlrl.training.options import ConfigError

TASK = "rm"
MARGINS = ("none", "shift", "scale")
TIES = ("half", "skip")


@dataclass(frozen=True)
class RmOptions:
    """The options that only training on preferences has."""

    pair_margin: str = field(
        default="none",
        metadata={"help": "What a row's margin does: none; shift, it is taken off the difference; scale, it weighs the pair."},
    )
    ties: str = field(default="half", metadata={"help": "Pairs marked as ties: half, each answer wins half; skip, not used."})
    attributes: list[str] | None = field(
        default=None, metadata={"help": "Qualities that rows rate; each has an output of the head, fitted to the ratings."}
    )
    attribute_weight: float = field(default=1.0, metadata={"help": "Weight of the squared error of ratings."})
    gate: bool = field(
        default=False, metadata={"help": "Add up the attributes in shares that depend on the prompt, in place of their mean."}
    )


def check_rm(rm: RmOptions) -> None:
    """Raises ConfigError."""
    if rm.pair_margin not in MARGINS:
        raise ConfigError(f"--pair_margin {rm.pair_margin}: must be one of {', '.join(MARGINS)}")
    if rm.ties not in TIES:
        raise ConfigError(f"--ties {rm.ties}: must be one of {', '.join(TIES)}")
    if rm.attribute_weight < 0:
        raise ConfigError(f"--attribute_weight {rm.attribute_weight}: must be 0 or more")
    names = rm.attributes or []
    if len(set(names)) < len(names):
        raise ConfigError(f"--attributes {' '.join(names)}: one is named twice")
    if rm.gate and len(names) < 2:
        raise ConfigError("--gate shares a score among attributes; name two or more (--attributes helpfulness correctness)")
    if rm.attribute_weight != RmOptions.attribute_weight and not names:
        raise ConfigError("--attribute_weight weighs the ratings of --attributes; name them, or leave it out")
