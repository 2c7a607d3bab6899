"""From a `Sample` to what the trainer and the generator take: images opened, coordinate convention set, messages built.

Training, the supervised stage and evaluation all come through here, so all three see the same prompt and pixels. A video goes
to the model as a video where it takes them (`vlrl.models.videos`), else as some of its frames, in order, as so many images.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from vlrl.data.image_checks import MAX_ASPECT, image_index, shown_sizes, size_problem
from vlrl.data.images import (
    VIDEO_FPS,
    VIDEO_FRAMES,
    FrameChoice,
    FramesTaken,
    ImageError,
    frames_taken,
    image_size,
    open_image,
    open_images,
    video_frames,
)
from vlrl.data.imitated import imitated_text, imitated_weight
from vlrl.data.special_tokens import as_plain_text, with_written_tokens
from vlrl.models.load import LoadedModel, ModelInputs, placeholders, special_token_pattern
from vlrl.models.pixel_limits import input_size_px
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.models.videos import ImageOrVideo, open_shown, video_input_size_px
from vlrl.schema import ModelView, Sample, SampleError, Task

__all__ = [
    "MAX_ASPECT",
    "SFT_TARGETS",
    "VIDEO_FPS",
    "VIDEO_FRAMES",
    "ImageError",
    "Samples",
    "check_samples",
    "dataset",
    "image_size",
    "measured",
    "messages",
    "open_image",
    "open_images",
    "open_shown",
    "prepare_sample",
    "target",
    "video_frames",
]

SFT_TARGETS = ("thinking+answer", "answer")


def prepare_sample(
    sample: Sample,
    loaded: LoadedModel | ModelInputs,
    *,
    answer_format: str | None = None,
    box_format: str | None = None,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Sample:
    """The sample for this model: `view` says how it writes boxes and how large it sees the image; `meta` gets `image_size`
    ([width, height] in pixels of the file), `answer_format` and `box_format` where it has none, and the special tokens that its
    row spells out (`vlrl.data.special_tokens`). `sizes`: of its images, where they are known. Of a video `meta` gets what the
    run asks (`--video_fps`, `--video_max_frames`) where it has none.

    Raises ImageError, or SampleError if `meta.image_size` contradicts the file or an image is too thin.
    """
    sample = with_written_tokens(sample, special_token_pattern(loaded.processor))
    meta: dict[str, Any] = {**sample.meta}
    input_size: tuple[int, int] | None = None
    for name, form in (("answer_format", answer_format), ("box_format", box_format)):
        if form is not None:
            meta.setdefault(name, form)
    takes_video = sample.video is not None and not loaded.why_frames
    if sample.video is not None:
        meta = {**loaded.videos.asked(), **meta}
    sizes = shown_sizes(sample) if sizes is None else sizes
    if problem := size_problem(sample, sizes):
        raise SampleError(f"id {sample.id!r}: {problem}")
    if sizes:
        width, height = sizes[image_index(sample)]
        meta["image_size"] = [width, height]
        if loaded.coords == "resized_px":
            input_size = input_size_px(loaded.processor, width, height)
    sample = dataclasses.replace(sample, meta=meta)
    if takes_video and input_size is not None:
        input_size = video_input_size_px(loaded.processor, taken_of(sample))
    return dataclasses.replace(sample, view=ModelView(loaded.coords, input_size, takes_video))


def check_samples(
    samples: Sequence[Sample],
    tasks: Mapping[str, Task],
    loaded: LoadedModel | ModelInputs,
    where: str,
    *,
    answer_format: str | None = None,
    box_format: str | None = None,
    lengths: PromptLengths | None = None,
) -> list[Sample]:
    """Prepare and check every sample before training, each by its own task: answers, boxes against image sizes, image headers,
    words that a prompt cannot hold. `lengths` measures the prompts as they pass.

    Raises SampleError naming file, id and value.
    """
    ready = []
    for sample in tqdm(samples, desc=f"checking {where}", disable=True if len(samples) < 2000 else None, leave=False):
        if sample.task not in tasks:
            raise SampleError(
                f"{where} (id {sample.id!r}): its task is {sample.task!r}, but this run's are {', '.join(tasks)}"
                f" (--task {','.join([*tasks, sample.task])} for all)"
            )
        task = tasks[sample.task]
        try:
            sizes = shown_sizes(sample)
            problem = size_problem(sample, sizes)
            if problem is None:
                sample = prepare_sample(sample, loaded, answer_format=answer_format, box_format=box_format, sizes=sizes)
                problem = task.check(sample) or prompt_problem(sample, task, loaded)
            if problem is None and lengths is not None:
                lengths.add(messages(sample, tasks, n_shown(sample)), measured(sample, sizes))
        except ValueError as error:
            raise SampleError(f"{where} (id {sample.id!r}): {error}") from error
        if problem:
            raise SampleError(f"{where} (id {sample.id!r}): {problem}")
        ready.append(sample)
    return ready


def prompt_problem(sample: Sample, task: Task, loaded: LoadedModel | ModelInputs) -> str | None:
    """Why the prompt that a task makes of a prepared sample cannot be given to this model, or None: it holds a placeholder of
    an image that its row does not spell out, so the task put it there."""
    text = f"{task.system}\n{as_plain_text(sample, task.prompt(sample))}"
    found = next((token for token in placeholders(loaded.processor) if token in text), None)
    if found is None:
        return None
    return f"the prompt of task {task.name} holds {found}, which stands for an image; leave it out, images are added"


def taken_of(sample: Sample) -> FramesTaken:
    """Which frames of its video a sample shows. Raises ImageError, SampleError."""
    assert sample.video is not None
    return frames_taken(sample.video, FrameChoice.of(sample))


def n_shown(sample: Sample) -> int:
    """How many images the model is shown of a sample, whose video may be shown as images. Raises ImageError, SampleError."""
    return len(sample.images) if sample.video is None else len(taken_of(sample).places)


def measured(
    sample: Sample, sizes: Sequence[tuple[int, int]] | None = None
) -> Sequence[tuple[int, int]] | Sequence[FramesTaken]:
    """What `PromptLengths` takes of a prepared sample: sizes in pixels of its images (`sizes`, where they are known), or which
    frames of a video that goes to the model as one. Raises ImageError, SampleError."""
    if sample.video is not None and sample.view.takes_video:
        return [taken_of(sample)]
    return shown_sizes(sample) if sizes is None else sizes


def messages(sample: Sample, tasks: Mapping[str, Task], n_images: int | None = None) -> list[dict[str, Any]]:
    """The system message of the sample's task, if it has one, and the user turn, images first, as structured content with one
    placeholder an image, or one for a video that goes to the model as one.

    `n_images`: how many were opened, where the sample does not tell (frames of a video).
    """
    kind = "video" if sample.view.takes_video else "image"
    n = 1 if sample.view.takes_video else len(sample.images) if n_images is None else n_images
    content: list[dict[str, Any]] = [{"type": kind} for _ in range(n)]
    task = tasks[sample.task]
    content.append({"type": "text", "text": as_plain_text(sample, task.prompt(sample))})
    system = [{"role": "system", "content": [{"type": "text", "text": task.system}]}] if task.system else []
    return [*system, {"role": "user", "content": content}]


class Samples:
    """Samples by index, opened on demand. One that turns out unusable (an unreadable image; of a large set, whose rows are
    checked when they are used, a bad row) is reported by its id and replaced by the next usable one, so a long run goes on.
    Replacement depends on the index alone: groups stay whole."""

    def __init__(self, n: int, get: Callable[[int], Sample], report: Callable[[str], None] = print) -> None:
        self.n, self.get, self.report = n, get, report
        self.unreadable: dict[str, str] = {}

    def open(self, index: int) -> tuple[Sample, list[ImageOrVideo]]:
        last = ""
        for step in range(min(self.n, 100)):
            place, key = (index + step) % self.n, ""
            try:
                sample = self.get(place)
                key = sample.id
                return sample, open_shown(sample)
            except (ImageError, SampleError) as error:
                key, last = key or f"number {place + 1}", str(error)
                if key not in self.unreadable:
                    self.unreadable[key] = last
                    self.report(f"sample {key}: {error}; the next sample takes its place")
        raise ImageError(f"100 samples in a row cannot be used or have unreadable images, the last: {last}")


class _Rows:
    """Indices -> TRL's rows; see `dataset`."""

    def __init__(self, samples: Samples, tasks: Mapping[str, Task], sft: str | None) -> None:
        self.samples, self.tasks, self.sft = samples, tasks, sft
        self.opened: dict[int, tuple[Sample, list[ImageOrVideo]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # `datasets` names a transform by a hash of all that it reaches, which may be a model: minutes for its weights.
        return {"n": self.samples.n, "sft": self.sft}

    def __call__(self, batch: dict[str, list[int]]) -> dict[str, list[Any]]:
        # TRL asks for every index once a completion and again for every micro-batch of a generation.
        kept = {i: self.opened[i] if i in self.opened else self.samples.open(i) for i in dict.fromkeys(batch["index"])}
        self.opened = kept
        opened = [kept[index] for index in batch["index"]]
        columns: dict[str, list[Any]] = {
            "prompt": [messages(sample, self.tasks, len(images)) for sample, images in opened],
            "images": [images for _, images in opened],
        }
        if self.sft:
            targets = [target(sample, self.tasks[sample.task], self.sft) for sample, _ in opened]
            columns["completion"] = [
                [{"role": "assistant", "content": [{"type": "text", "text": target}]}] for target in targets
            ]
            columns["weight"] = [imitated_weight(sample) for sample, _ in opened]
        else:
            columns["sample"] = [sample for sample, _ in opened]
            columns["index"] = batch["index"]
        return columns


def target(sample: Sample, task: Task, kind: str = SFT_TARGETS[0]) -> str:
    """What the supervised stage imitates: the completion that a row states (`meta.imitate`), else the whole completion, or
    ("answer") without its thought, whatever the prompt asks. Raises SampleError."""
    if (stated := imitated_text(sample, kind)) is not None:
        return as_plain_text(sample, stated)
    if kind == "answer" and sample.facts.get("answer_format", "think_answer") != "none":
        sample = dataclasses.replace(sample, meta={**sample.meta, "answer_format": "answer"})
    if task.sft_target is None:
        raise SampleError(f"task {task.name} has no oracle and no sft_target to imitate")
    return as_plain_text(sample, task.sft_target(sample))


def dataset(samples: Samples, tasks: Mapping[str, Task], sft: str | None = None) -> Dataset:
    """A lazily opened data set of TRL's rows: `prompt`, `images` (empty for text alone; a `Video` among them goes to the model
    as one), `sample` and `index`, or, with `sft` (one of `SFT_TARGETS`), a `completion` and its `weight` instead of
    these two."""
    return Dataset.from_dict({"index": np.arange(samples.n)}).with_transform(_Rows(samples, tasks, sft))
