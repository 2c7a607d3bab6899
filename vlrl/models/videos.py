"""Videos as videos: which models take them, how their processors are handed one, and how many tokens it takes.

A processor gets frames that were taken already, the frame rate of the file and which frames of it these are, and samples no
more: from that it makes the times that the model sees (`second_per_grid_ts` of Qwen2.5-VL, words such as `<1.5 seconds>` of
Qwen3-VL). Models that are not named here see frames, as so many images.

Not here: which frames are taken (`vlrl.data.images`), and rows of a batch that share a video (`vlrl.models.prefix_sharing`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from transformers import Qwen3VLVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize
from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize as smart_resize_all
from transformers.video_utils import VideoMetadata

from vlrl.data.images import VIDEO_FPS, VIDEO_FRAMES, FrameChoice, FramesTaken, ImageError, Video, open_images, open_video
from vlrl.schema import Sample

VIDEO_MODELS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5")
"""Model types whose processor and model take videos, and of which `tests/test_models_videos.py` says that all our passes
compute what transformers does."""
SPENT_ON_VIDEO = 0.9
"""The share of `max_video_tokens` that a video may take, as in `Qwen2VLVideoProcessor.resize`."""

ImageOrVideo = Image.Image | Video


@dataclass(frozen=True)
class VideoReading:
    """What a run asks of its videos: frames a second and the most frames, None: the defaults; a row's `meta` goes first.
    `as_frames`: why they are shown as images even where the model takes videos, "" where they are not."""

    fps: float | None = None
    max_frames: int | None = None
    as_frames: str = ""

    def asked(self) -> dict[str, float]:
        """What rows are given in `meta` where they state nothing."""
        stated = {"video_fps": self.fps, "video_frames": self.max_frames}
        return {name: value for name, value in stated.items() if value is not None}


def why_frames(processor: Any, config: Any, reading: VideoReading) -> str:
    """Why videos go to this model as images, one a frame; "" where they go as videos."""
    if reading.as_frames:
        return reading.as_frames
    if config.model_type not in VIDEO_MODELS or getattr(processor, "video_processor", None) is None:
        return f"models of type {config.model_type!r} are not handed videos here"
    if not _has_place(processor):
        return "its chat template has no place for a video"
    return ""


@lru_cache(maxsize=4)
def _has_place(processor: Any) -> bool:
    words = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "a"}]}]
    text = str(processor.apply_chat_template(words, add_generation_prompt=True, tokenize=False))
    return text.count(processor.video_token) == 1


class TakesVideos(Protocol):
    """A model with its processor, or what is known of it before its weights."""

    videos: VideoReading

    @property
    def why_frames(self) -> str: ...


def video_notes(samples: Iterable[Sample], model: TakesVideos) -> list[str]:
    """A line about how the videos of a run are shown, if it has some."""
    if all(sample.video is None for sample in samples):
        return []
    reading, why = model.videos, model.why_frames
    fps, most = reading.fps or VIDEO_FPS, reading.max_frames or VIDEO_FRAMES
    how = f"as frames, one image each ({why})" if why else "as videos, with the times of their frames"
    return [f"videos are shown {how}: {fps:g} frames a second, {most} at most, unless a row states others"]


# -- opened, and handed to a processor -------------------------------------------------------------------------------------


def open_shown(sample: Sample) -> list[ImageOrVideo]:
    """What the model sees with the prompt of a prepared sample: its images, its video, the frames of its video, or nothing.
    Raises ImageError, SampleError."""
    if sample.video is None or not sample.view.takes_video:
        return [*open_images(sample)]
    video = open_video(sample.video, FrameChoice.of(sample))
    sizes = {frame.size for frame in video.frames}
    if len(sizes) > 1:
        some = ", ".join(f"{width}x{height}" for width, height in sorted(sizes)[:3])
        raise ImageError(f"cannot read video {sample.video}: its frames are of {len(sizes)} sizes ({some} px), a video has one")
    taken = at_least_two(video.taken)
    return [Video(taken, video.frames * (len(taken.places) // len(video.frames)))]


def at_least_two(taken: FramesTaken) -> FramesTaken:
    """The frames as a model takes them: a single one is shown twice, since two make a patch."""
    return replace(taken, places=taken.places * 2) if len(taken.places) == 1 else taken


def vision_arguments(processor: Any, shown: Sequence[Sequence[ImageOrVideo]]) -> dict[str, Any]:
    """What a processor is called with for the prompts of a batch that show this, each in the order of its placeholders."""
    images = [[one for one in row if not isinstance(one, Video)] for row in shown]
    videos = [one for row in shown for one in row if isinstance(one, Video)]
    found: dict[str, Any] = {"images": images if any(images) else None}
    return found | video_arguments(processor, videos) if videos else found


def video_arguments(processor: Any, videos: Sequence[Video]) -> dict[str, Any]:
    """What a processor is called with for these videos: its own sampling off, and what was taken stated."""
    options: dict[str, Any] = {"do_sample_frames": False, "video_metadata": [video.taken.metadata for video in videos]}
    if hasattr(processor.video_processor, "cap_pixels_per_frame"):
        options["cap_pixels_per_frame"] = _caps(processor.video_processor)
    return {"videos": [_pixels(video) for video in videos], "videos_kwargs": options}


def _pixels(video: Video) -> torch.Tensor:
    """Frames as (T, 3, height, width) in 8 bits."""
    return torch.from_numpy(np.stack([np.asarray(frame) for frame in video.frames]).transpose(0, 3, 1, 2).copy())


def _caps(videos: Any) -> bool:
    """Whether a frame's pixels are bounded by its share of a budget, as `qwen_vl_utils` does; so unless a config says no."""
    stated = getattr(videos, "cap_pixels_per_frame", None)
    return stated is None or bool(stated)


def with_contents(words: Sequence[Mapping[str, Any]], shown: Sequence[ImageOrVideo]) -> list[dict[str, Any]]:
    """Messages whose placeholders of images and videos hold what they stand for, in order."""
    left = iter(shown)

    def filled(part: Mapping[str, Any]) -> dict[str, Any]:
        return {**part, part["type"]: next(left)} if part["type"] in ("image", "video") else dict(part)

    return [{**turn, "content": [filled(part) for part in turn["content"]]} for turn in words]


def contents(words: Sequence[Mapping[str, Any]], kind: str) -> list[Any]:
    """What the placeholders of this kind, "image" or "video", hold in messages."""
    return [part[kind] for turn in words for part in turn["content"] if part["type"] == kind and kind in part]


def pictures(shown: Sequence[ImageOrVideo]) -> list[Image.Image]:
    """What is seen, as images: of a video its frames."""
    return [image for one in shown for image in (one.frames if isinstance(one, Video) else (one,))]


def tokenized(
    processor: Any, prompts: Sequence[Sequence[Mapping[str, Any]]], template: Mapping[str, Any]
) -> tuple[list[list[int]], list[list[Image.Image] | None], dict[str, Any]]:
    """Ids of prompts whose placeholders hold images and videos, their images, and the model's fields about both: what
    `processor.apply_chat_template(..., tokenize=True)` makes, which has no way to say which frames were taken."""
    bare = [
        [
            {**turn, "content": [{key: part[key] for key in part if key not in ("image", "video")} for part in turn["content"]]}
            for turn in words
        ]
        for words in prompts
    ]
    texts = processor.apply_chat_template(bare, add_generation_prompt=True, tokenize=False, **template)
    images = [contents(words, "image") for words in prompts]
    shown = [[*own, *contents(words, "video")] for own, words in zip(images, prompts, strict=True)]
    made = processor(text=list(texts), add_special_tokens=False, **vision_arguments(processor, shown))
    fields = {name: value for name, value in made.items() if name not in ("input_ids", "attention_mask")}
    if "second_per_grid_ts" in fields:
        fields["second_per_grid_ts"] = torch.tensor(fields["second_per_grid_ts"])  # 32 bits, as it makes tensors itself
    return [list(ids) for ids in made["input_ids"]], [own or None for own in images], fields


# -- how large, and how many tokens ------------------------------------------------------------------------------------------


def video_grid(processor: Any, taken: FramesTaken) -> tuple[int, int, int]:
    """Patches of these frames in time, height and width, as the video processor cuts them (a test compares it)."""
    videos, (width, height), n = processor.video_processor, taken.size, len(taken.places)
    factor, least, most = videos.patch_size * videos.merge_size, videos.size["shortest_edge"], videos.size["longest_edge"]
    caps, in_time = hasattr(videos, "cap_pixels_per_frame") and _caps(videos), videos.temporal_patch_size
    if isinstance(videos, Qwen3VLVideoProcessor):
        if caps:
            most = n * max(min(videos.max_video_tokens * factor**2, most // n), int(least * 1.05))
        high, wide = smart_resize_all(n, height, width, in_time, factor, least, most)
    else:
        if caps:
            budget = int(videos.max_video_tokens * factor**2 * SPENT_ON_VIDEO)
            most = max(min(most, budget * in_time // n), int(least * 1.05))
        high, wide = smart_resize(height, width, factor, least, most)
    return -(-n // in_time), high // videos.patch_size, wide // videos.patch_size


def video_input_size_px(processor: Any, taken: FramesTaken) -> tuple[int, int]:
    """Width and height of a frame as the model sees it."""
    _, high, wide = video_grid(processor, at_least_two(taken))
    return wide * processor.video_processor.patch_size, high * processor.video_processor.patch_size


def video_tokens(processor: Any, taken: FramesTaken) -> int:
    """Tokens in the place of a video's one placeholder: its features, and what the processor writes between them."""
    merge, taken = processor.video_processor.merge_size, at_least_two(taken)
    in_time, high, wide = video_grid(processor, taken)
    per_step = int(high * wide // merge**2)
    smallest = {
        "video_grid_thw": torch.tensor([[in_time, merge, merge]]),  # one token for each step in time
        "video_metadata": [VideoMetadata(**taken.metadata)],
    }
    text = processor.replace_video_token(smallest, 0)
    n = len(processor.tokenizer(text, add_special_tokens=False).input_ids)
    return n + int(in_time * (per_step - 1))
