"""What `bench run` tries before a model is loaded: the sizes of all images, and each task of the user's once."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from vlrl.bench.suite import Suite
from vlrl.data.image_checks import drawn_to_decode, shown_sizes, size_problem
from vlrl.data.image_notes import form_notes, refuse_unreadable_formats
from vlrl.data.images import ImageError
from vlrl.schema import Sample, SampleError
from vlrl.tasks import is_built_in
from vlrl.tasks.rubric import Rubric, try_once


def check_before_run(suite: Suite, samples: Sequence[Sample], lost: Collection[str], *, of_tasks: bool) -> list[str]:
    """Raises SampleError for an image that no model can be shown, TaskError for a task that fails. `lost`: ids without their
    image; images that cannot be read are counted later. `of_tasks`: the suite asks tasks, not a benchmark's own questions.
    Returns what a person should know of the images."""
    there = [sample for sample in samples if sample.id not in lost]
    refuse_unreadable_formats(there, suite.source.description)
    for sample in there:
        try:
            problem = size_problem(sample, shown_sizes(sample))
        except ImageError:
            continue
        if problem:
            raise SampleError(f"{suite.source.description} (id {sample.id!r}): {problem}")
    if of_tasks:
        own = [sample for sample in there if not is_built_in(suite.tasks[sample.task])]
        try_once(Rubric((), None, frozenset(), suite.tasks), own)
    return form_notes(drawn_to_decode(there, 0), "drawn images")
