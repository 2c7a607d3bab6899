"""A completion that a row of the supervised stage imitates as it stands (`meta.imitate`), as `vlrl bench sample --write sft`
writes it: its text, its weight in the loss, and how its boxes are written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from vlrl.schema import Sample, SampleError

IMITATED_KEYS = ("completion", "weight", "score", "coords", "input_size")


def imitated_text(sample: Sample, target: str = "thinking+answer") -> str | None:
    """The completion that a prepared row states; None where it states none. `target`: what `--sft_target` asks for. Raises
    SampleError for one that cannot be used."""
    stated = sample.meta.get("imitate")
    if stated is None:
        return None
    problem = _problem(stated, sample, target)
    if problem is not None:
        raise SampleError(f"id {sample.id!r}: meta.imitate {problem}")
    return str(stated["completion"])


def imitated_weight(sample: Sample) -> float:
    """The weight of a row in the loss of the supervised stage; 1 where it states none."""
    stated = sample.meta.get("imitate")
    return float(stated.get("weight", 1.0)) if isinstance(stated, Mapping) else 1.0


def _problem(stated: Any, sample: Sample, target: str) -> str | None:
    if not isinstance(stated, Mapping):
        return f"must be an object, got {stated!r:.60}"
    unknown = next((key for key in stated if key not in IMITATED_KEYS), None)
    if unknown is not None:
        return f"has an unknown key {unknown!r} (known: {', '.join(IMITATED_KEYS)})"
    completion, weight = stated.get("completion"), stated.get("weight", 1.0)
    if not isinstance(completion, str) or not completion.strip():
        return f"must have a completion, got {completion!r:.60}"
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        return f"has the weight {weight!r}, which must be a finite number"
    if target != "thinking+answer":
        return f"is a whole completion, which --sft_target {target} cannot honour; leave that flag out"
    coords, size = stated.get("coords"), stated.get("input_size")
    if coords is not None and sample.view.coords is not None and coords != sample.view.coords:
        return (
            f"writes boxes as {coords}, this model as {sample.view.coords}: it would learn wrong boxes; sample with this model,"
            f" or train with --coords {coords}"
        )
    if size is not None and sample.view.input_size is not None and tuple(size) != tuple(sample.view.input_size):
        return f"writes boxes in an image of {size} px, this run shows {list(sample.view.input_size)}; set --max_pixels alike"
    return None
