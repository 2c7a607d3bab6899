"""Batches of the supervised stage whose rows show videos: TRL's collator hands the processor images alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vlrl.data.images import Video
from vlrl.models.videos import video_arguments


class VideoCollator:
    """TRL's collator for vision-language models, whose rows may hold a `Video` among their images."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> Any:
        videos = [one for row in rows for one in row["images"] if isinstance(one, Video)]
        if not videos:
            return self.own(rows)
        bare = [{**row, "images": [one for one in row["images"] if not isinstance(one, Video)]} for row in rows]
        return replace(self.own, processor=_HandsVideos(self.own.processor, videos))(bare)


class _HandsVideos:
    """A processor that is given these videos with the texts that have places for them: the prompts, and no completions."""

    def __init__(self, own: Any, videos: Sequence[Video]) -> None:
        self.own, self.videos = own, videos

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def __call__(self, *, text: Sequence[str], **given: Any) -> Any:
        if any(self.own.video_token in one for one in text):
            given |= video_arguments(self.own, self.videos)
        return self.own(text=text, **given)
