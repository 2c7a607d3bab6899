"""What `bench run` tries before a model is loaded: the sizes of all images, and each task of the user's once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vlrl.bench.suite import Suite
from vlrl.data.image_checks import shown_sizes, size_problem
from vlrl.data.images import ImageError
from vlrl.schema import Sample, SampleError
from vlrl.tasks import is_built_in
from vlrl.tasks.rubric import Rubric, try_once


def check_before_run(suite: Suite, samples: Sequence[Sample], lost: Collection[str], *, of_tasks: bool) -> None:
    """Raises SampleError for an image that no model can be shown, TaskError for a task that fails. `lost`: ids without their
    image; images that cannot be read are counted later. `of_tasks`: the suite asks tasks, not a benchmark's own questions."""
    for sample in samples:
        if sample.id in lost:
            continue
        try:
            problem = size_problem(sample, shown_sizes(sample))
        except ImageError:
            continue
        if problem:
            raise SampleError(f"{suite.source.description} (id {sample.id!r}): {problem}")
    if of_tasks:
        own = [sample for sample in samples if sample.id not in lost and not is_built_in(suite.tasks[sample.task])]
        try_once(Rubric((), None, frozenset(), suite.tasks), own)
