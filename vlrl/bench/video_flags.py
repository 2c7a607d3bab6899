"""The flags about videos that `vlrl bench run`, `vlrl bench check` and `vlrl data look` share."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from vlrl.bench.flag_types import above_0, whole_from

if TYPE_CHECKING:
    from vlrl.models.videos import VideoReading

AS_FRAMES = "--video_as frames"


def video_flags(parser: argparse.ArgumentParser) -> None:
    """Add them."""
    add = parser.add_argument
    add("--video_fps", type=above_0, help="frames a second that are taken of a video (default: 2; a row's meta goes first)")
    add("--video_max_frames", type=whole_from(2), help="most frames taken of a video (default: 16; a row's meta goes first)")
    add("--video_as", choices=("video", "frames"), default="video", help="how models that take videos are shown them")


def reading_of(args: argparse.Namespace) -> VideoReading:
    """What they say, for a model in this process."""
    from vlrl.models.videos import VideoReading  # imports torch

    return VideoReading(args.video_fps, args.video_max_frames, AS_FRAMES if args.video_as == "frames" else "")
