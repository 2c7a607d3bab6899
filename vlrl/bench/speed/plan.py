"""What `bench speed` runs: the case, and the settings of each side. No torch."""

from __future__ import annotations

from dataclasses import dataclass

PHASES = (
    "preprocess",
    "rollout",
    "rollout_prefill",
    "rollout_decode",
    "old",
    "ref",
    "update",
    "forward_backward",
    "optimizer",
    "step",
)
SPEED_SIDES = ("stock", "vlrl")
COUNTS = ("decoded_images", "processor_images", "tower_images", "prompt_forwards")
WITHOUT = ("prefill_once", "packed", "window_attention")
"""Features that can be left out, so that each gain has a name."""


@dataclass(frozen=True)
class Case:
    """What is run: the same on both sides."""

    model: str
    image_px: tuple[int, int]
    prompt_tokens: int
    group: int
    completion_tokens: int
    prompts: int
    images_per_prompt: int
    dtype: str
    device: str
    beta: float
    tune: str
    freeze_vision: bool
    warmup: int
    repeats: int
    seed: int


@dataclass(frozen=True)
class Setting:
    """How a side runs it. `rows`: of a micro-batch, 0 for all. `weights`: dtype of the weights, where it is not the case's."""

    side: str
    rows: int = 0
    checkpointing: bool = False
    weights: str | None = None
    without: frozenset[str] = frozenset()
    kernel: str = "auto"
    """Attention of shared groups (`--group_shared_kernel` of training)."""

    @property
    def label(self) -> str:
        parts = [f"micro-batch {self.rows or 'all'}", "checkpointing" if self.checkpointing else "no checkpointing"]
        parts += [f"{self.weights} weights"] if self.weights else []
        parts += [f"kernel {self.kernel}"] if self.kernel != "auto" else []
        return ", ".join([self.side, *parts, *(f"without {name}" for name in sorted(self.without))])
