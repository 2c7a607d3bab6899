"""A question as messages of OpenAI's API, with its images as `data:` URLs. No torch."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlrl.data.deep_images import is_deep
from vlrl.data.images import image_bytes, open_images, opened_image
from vlrl.data.special_tokens import as_plain_text
from vlrl.schema import Sample, Task

SENT_UNCHANGED = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}
GO_ON = {"continue_final_message": True, "add_generation_prompt": False}
"""What makes vLLM's and SGLang's chat go on with the last message, which is the assistant's."""


def chat_messages(sample: Sample, tasks: Mapping[str, Task]) -> list[dict[str, Any]]:
    """The system message and the user turn in the format of OpenAI's API: images as data URLs before the text."""
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": url}} for url in data_urls(sample)]
    task = tasks[sample.task]
    content.append({"type": "text", "text": as_plain_text(sample, task.prompt(sample))})
    system = [{"role": "system", "content": task.system}] if task.system else []
    begun = sample.facts.get("begun")
    going_on = [{"role": "assistant", "content": as_plain_text(sample, begun)}] if begun else []
    return [*system, {"role": "user", "content": content}, *going_on]


def data_urls(sample: Sample) -> list[str]:
    """The images of a sample as `data:` URLs: JPEG and PNG files as they are, anything else as PNG of the opened image."""
    kinds = [SENT_UNCHANGED.get(Path(path).suffix.lower()) for path in sample.images]
    if sample.video is None and None not in kinds and not any(_needs_conversion(path) for path in sample.images):
        return [_url(image_bytes(path), str(kind)) for path, kind in zip(sample.images, kinds, strict=True)]
    urls = []
    for image in open_images(sample):
        buffer = io.BytesIO()
        image.save(buffer, format="PNG")
        urls.append(_url(buffer.getvalue(), "png"))
    return urls


def _needs_conversion(path: str) -> bool:
    """Whether an image is rotated by its EXIF tag, has transparency or more than 8 bits a channel, which a server may read
    differently from us."""
    with opened_image(path) as image:
        return image.mode not in ("RGB", "L") or is_deep(image) or image.getexif().get(0x0112, 1) != 1


def _url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
