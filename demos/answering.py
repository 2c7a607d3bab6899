"""Models that answer on the page: loaded once, used by one visitor at a time, text as it is generated."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from vlrl.rewards.scoring import described
from vlrl.schema import Sample, Task
from vlrl.tasks import KNOWN

MAX_PIXELS = 40_000_000
"""Larger uploads are refused before they are decoded."""


class Refused(ValueError):
    """What a visitor gave cannot be used; the message says why."""


def open_upload(path: str) -> Image.Image:
    """An uploaded image as RGB. Raises Refused for anything else, and for what would fill the memory."""
    from vlrl.data.images import ImageError, image_size, open_image

    try:
        width, height = image_size(path)
        if width * height > MAX_PIXELS:
            raise Refused(f"the image has {width}x{height} pixels; {MAX_PIXELS // 10**6} million are the most")
        image = open_image(path)
    except ImageError as error:
        raise Refused("this file is not an image that can be read; give a JPEG, PNG or WebP") from error
    if max(width, height) > 200 * min(width, height):
        raise Refused(f"an image of {width}x{height} pixels is too thin")
    return image


def open_drawing(drawing: Mapping[str, Any] | None) -> Image.Image:
    """What was drawn, on white, as RGB; `drawing` is what gradio's editor gives. Raises Refused for an empty sheet."""
    drawn = (drawing or {}).get("composite")
    if drawn is None or not drawn.convert("RGBA").getchannel("A").getbbox():
        raise Refused("nothing is drawn yet")
    sheet = Image.new("RGBA", drawn.size, "white")
    sheet.alpha_composite(drawn.convert("RGBA"))
    image = sheet.convert("RGB")
    if len(image.getcolors(2) or [0, 0]) < 2:
        raise Refused("nothing is drawn yet")
    return image


class Models:
    """At most one model in memory, and one question at a time. `tasks`: those that are asked about."""

    def __init__(self, tasks: Mapping[str, Task] = KNOWN) -> None:
        self._tasks = tasks
        self._lock = threading.Lock()
        self._name = ""
        self._loaded: Any = None

    def warm(self, name: str) -> None:
        """Load a model before anybody asks; if it cannot be loaded, the error is shown when somebody does."""
        with contextlib.suppress(Refused), self._lock:
            self._load(name)

    def prepare_sample(self, name: str, sample: Sample, image: Image.Image | None) -> Sample:
        """The sample for this model: its coordinate convention and the image's sizes in `meta`."""
        from vlrl.models.inputs import prepare_sample
        from vlrl.models.load import input_size_px

        with self._lock:
            loaded = self._load(name)
        if image is None:
            return prepare_sample(dataclasses.replace(sample, meta=without_model_meta(sample)), loaded)
        meta: dict[str, Any] = {**without_model_meta(sample), "coords": loaded.coords, "image_size": list(image.size)}
        if loaded.coords == "resized_px":
            meta["input_size"] = list(input_size_px(loaded.processor, *image.size))
        return dataclasses.replace(sample, meta=meta)

    def _load(self, name: str) -> Any:
        from vlrl.models.load import load_model
        from vlrl.models.names import ModelError

        if name != self._name:
            try:
                self._loaded = load_model(name)
            except (ModelError, OSError, ValueError) as error:
                raise Refused(f"{name} cannot be loaded: {error}") from error
            self._loaded.model.eval()
            self._name = name
        return self._loaded

    def _inputs(self, loaded: Any, sample: Sample, image: Image.Image | None) -> Any:
        from vlrl.models.inputs import messages, open_images

        images = [image] if image is not None else open_images(sample)
        try:
            words = messages(sample, self._tasks, len(images))
        except Exception as error:  # a user's prompt may need more than a visitor's question has
            raise Refused(f"task {sample.task}: its prompt failed on sample {sample.id!r}: {described(error)}") from error
        text = loaded.processor.apply_chat_template(words, add_generation_prompt=True, tokenize=False)
        return loaded.processor(text=[text], images=images or None, return_tensors="pt").to(loaded.model.device)

    def stream(self, name: str, sample: Sample, image: Image.Image | None = None, max_tokens: int = 256) -> Iterator[str]:
        """The greedy answer so far, again and again until it is whole."""
        import torch
        from transformers import TextIteratorStreamer

        from vlrl.models.load import vision_token_ids

        with self._lock:
            loaded = self._load(name)
            inputs = self._inputs(loaded, sample, image)
            streamer = TextIteratorStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)

            def work() -> None:
                with torch.inference_mode():
                    loaded.model.generate(
                        **inputs, max_new_tokens=max_tokens, do_sample=False, streamer=streamer,
                        suppress_tokens=vision_token_ids(loaded),
                    )  # fmt: skip

            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            text = ""
            for piece in streamer:
                text += piece
                yield text
            thread.join()

    def group(
        self, name: str, sample: Sample, n: int, temperature: float, image: Image.Image | None = None, max_tokens: int = 256
    ) -> Sequence[str]:
        """`n` answers sampled at a temperature."""
        import torch

        from vlrl.models.load import vision_token_ids

        with self._lock:
            loaded = self._load(name)
            inputs = self._inputs(loaded, sample, image)
            with torch.inference_mode():
                ids = loaded.model.generate(
                    **inputs, max_new_tokens=max_tokens, do_sample=True, temperature=temperature, top_k=0, top_p=1.0,
                    num_return_sequences=n, suppress_tokens=vision_token_ids(loaded),
                )  # fmt: skip
            answers: list[str] = loaded.tokenizer.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            return answers


def without_model_meta(sample: Sample) -> dict[str, Any]:
    return {key: value for key, value in sample.meta.items() if key not in ("coords", "image_size", "input_size")}
