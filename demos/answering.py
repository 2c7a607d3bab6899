"""Models that answer on the page: loaded once, used by one visitor at a time, text as it is generated."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image

from demos.model_list import ModelList, Refused
from vlrl.data.special_tokens import with_written_tokens
from vlrl.models.names import TINY_NAMES
from vlrl.rewards.scoring import described
from vlrl.schema import ModelView, Sample, Task
from vlrl.tasks import KNOWN

LOAD_WAIT_S, LOAD_BUNDLED_S = 30.0, 120.0
"""Seconds that a question waits for its model, and for a bundled one; loading goes on afterwards."""
LOAD_ALONE_S = 600.0
"""Seconds that a large model may load before another one may be started beside it."""
LOAD_S = 3600.0
"""Seconds that the page's own first load may take before nobody waits for it."""
TURN_S = 120.0
"""Seconds that a question waits for the one before it."""
ANSWER_S = 120.0
"""Seconds after which an answer is cut off."""
STEP_S = 0.5
"""Seconds between the signs of life of a question with several answers: at each of them a visitor who has left is noticed."""
KEPT_PX = 2_000_000
"""Pixels of an uploaded image that stays in memory for its visitor; a larger one is scaled down."""
UPLOAD_FORMATS = frozenset({"JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "HEIF", "AVIF"})
"""Plain image formats, of which the last two need the extra `[images]`. Pillow also hands files to other programs (EPS)."""
BUNDLED_PARAMETERS = 20_000_000
"""A run's model with fewer is one of the embedded models, trained on."""


def open_upload(path: str) -> Image.Image:
    """An uploaded image as RGB, of at most `KEPT_PX` pixels. Raises Refused for anything else, and for what would fill the
    memory."""
    from vlrl.data.images import ImageError, ImageTooLarge, as_rgb, max_image_pixels, opened_image

    try:
        with opened_image(path, "this file") as image:
            width, height = image.size
            thin = max(width, height) > 200 * min(width, height)
            if image.format not in UPLOAD_FORMATS:
                raise ImageError(f"{image.format} is not taken")
            rgb = Image.new("RGB", (1, 1)) if thin else as_rgb(image)
    except ImageTooLarge as error:
        raise Refused(f"this image is too large; {max_image_pixels():,} pixels are the most") from error
    except ImageError as error:
        missing = "pip install" in str(error)
        what = "HEIC and AVIF need `pip install 'vlrl[images]'` where the page runs" if missing else "give a JPEG, PNG or WebP"
        raise Refused(f"this file is not an image that can be read; {what}") from error
    if thin:
        raise Refused(f"an image of {width}x{height} pixels is too thin")
    scale = (KEPT_PX / (rgb.width * rgb.height)) ** 0.5
    return rgb if scale >= 1 else rgb.resize((max(1, int(rgb.width * scale)), max(1, int(rgb.height * scale))))


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


class Stopping:
    """Stops a generation when it is asked to; transformers calls it after each token."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self.asked.is_set(), dtype=torch.bool, device=input_ids.device)


class Models:
    """The embedded models and one other in memory, and one question at a time. `tasks`: those that are asked about.

    A load that takes long goes on beside, and whoever asked is told so; a question ends after `ANSWER_S`, or when its visitor
    leaves (the generator is closed).
    """

    def __init__(self, models: ModelList, tasks: Mapping[str, Task] = KNOWN) -> None:
        self.models = models
        self._tasks = tasks
        self._asking, self._changing = threading.Lock(), threading.Lock()
        self._loaded: dict[str, Any] = {}
        self._loading: dict[str, tuple[threading.Thread, float]] = {}
        """What is being loaded, and since when."""
        self._failed: dict[str, str] = {}

    def warm(self, name: str) -> None:
        """Load a model before anybody asks; if it cannot be loaded, that is said when somebody does."""
        with contextlib.suppress(Refused):
            self.load(name, LOAD_S)
            if name in TINY_NAMES:  # the first token of a process takes as long as an answer after it
                sample = self.prepare_sample(name, next(iter(KNOWN.values())).draw(0, "heldout", 0), None)
                for _ in self.stream(name, sample, max_tokens=1):
                    pass

    def is_bundled(self, name: str | None) -> bool:
        """Whether a model knows drawn images alone: an embedded one, or one that a run has trained on (seen once loaded)."""
        if name in TINY_NAMES:
            return True
        try:
            loaded = self._loaded.get(self.models.source(name or ""))
        except Refused:
            return False
        return loaded is not None and sum(weight.numel() for weight in loaded.model.parameters()) < BUNDLED_PARAMETERS

    def load(self, name: str, wait_s: float | None = None) -> Any:
        """A model of the list, loaded. Raises Refused for another name, one that cannot be loaded, and where loading goes on
        for more than `wait_s` seconds."""
        source = self.models.source(name)
        if wait_s is None:
            wait_s = LOAD_BUNDLED_S if source in TINY_NAMES else LOAD_WAIT_S
        if source not in self._loaded and source not in self._loading:
            self.models.check_hub(source)
        with self._changing:
            if source in self._loaded:
                return self._loaded[source]
            if source not in self._loading:
                self._check_room(source)
                self._failed.pop(source, None)
                self._loading[source] = threading.Thread(target=self._load, args=(source, name), daemon=True), time.monotonic()
                self._loading[source][0].start()
            thread, since = self._loading[source]
        thread.join(max(1.0, since + wait_s - time.monotonic()))
        with self._changing:
            if source in self._loaded:
                return self._loaded[source]
            if source in self._failed:
                raise Refused(self._failed[source])
        raise Refused(f"{name} is still being loaded; ask again in a minute")

    def _check_room(self, source: str) -> None:
        """Raises Refused while another large model is being loaded."""
        since = [since for other, (_, since) in self._loading.items() if other not in TINY_NAMES]
        if source not in TINY_NAMES and since and time.monotonic() - max(since) < LOAD_ALONE_S:
            raise Refused("another model is being loaded; ask again in a minute, or choose one of the embedded models")

    def _load(self, source: str, name: str) -> None:
        """Runs beside. What goes wrong is printed where the page was started, as it may name files of that machine."""
        from vlrl.models.load import load_model

        try:
            safe: dict[str, Any] = {} if source in TINY_NAMES else {"use_safetensors": True}
            loaded = load_model(source, trust_remote_code=False, **safe)
            loaded.model.train(False)
        except Exception as error:  # noqa: BLE001  a folder of a run may hold anything, and the libraries raise anything for it
            print(f"{name} ({source}) cannot be loaded: {described(error)}", file=sys.stderr)
            with self._changing:
                self._failed[source] = f"{name} cannot be loaded; the console of the page says why"
                self._loading.pop(source, None)
            return
        with self._changing:
            for other in [kept for kept in self._loaded if kept not in TINY_NAMES and source not in TINY_NAMES]:
                del self._loaded[other]
            self._loaded[source] = loaded
            self._loading.pop(source, None)

    def prepare_sample(self, name: str, sample: Sample, image: Image.Image | None) -> Sample:
        """The sample for this model: its coordinate convention and the image's sizes in `meta`."""
        self.models.source(name)  # a wrong name is answered before libraries load
        from vlrl.models.inputs import prepare_sample
        from vlrl.models.load import special_token_pattern
        from vlrl.models.pixel_limits import input_size_px

        loaded = self.load(name)
        if image is None:
            return prepare_sample(dataclasses.replace(sample, meta=without_size(sample)), loaded)
        sample = with_written_tokens(sample, special_token_pattern(loaded.processor))
        meta = {**sample.meta, "image_size": list(image.size)}
        size = input_size_px(loaded.processor, *image.size) if loaded.coords == "resized_px" else None
        return dataclasses.replace(sample, meta=meta, view=ModelView(loaded.coords, size))

    def _inputs(self, loaded: Any, sample: Sample, image: Image.Image | None) -> Any:
        from vlrl.models.inputs import messages, open_shown
        from vlrl.models.videos import vision_arguments

        shown: list[Any] = [image] if image is not None else open_shown(sample)
        try:
            words = messages(sample, self._tasks, len(shown))
        except Exception as error:  # a user's prompt may need more than a visitor's question has
            raise Refused(f"task {sample.task}: its prompt failed on sample {sample.id!r}: {described(error)}") from error
        text = loaded.processor.apply_chat_template(words, add_generation_prompt=True, tokenize=False)
        pixels = vision_arguments(loaded.processor, [shown])
        return loaded.processor(text=[text], return_tensors="pt", **pixels).to(loaded.model.device)

    @contextlib.contextmanager
    def _generating(
        self, loaded: Any, sample: Sample, image: Image.Image | None, **settings: Any
    ) -> Iterator[tuple[threading.Thread, dict[str, Any]]]:
        """A generation that runs beside, one at a time; leaving the block ends it at its next token, without waiting for that
        (gradio leaves in the thread that answers everybody). Its ids stand in the dict once the thread is over. Raises Refused
        where others take too long, and where it failed."""
        import torch
        from transformers import StoppingCriteriaList

        from vlrl.models.load import vision_token_ids

        stopping, made = Stopping(), dict[str, Any]()

        def work() -> None:
            try:
                with torch.inference_mode():
                    made["ids"] = loaded.model.generate(
                        **made.pop("inputs"), **settings, max_time=ANSWER_S, suppress_tokens=vision_token_ids(loaded),
                        stopping_criteria=StoppingCriteriaList([stopping]),
                    )  # fmt: skip
            except Exception as error:  # noqa: BLE001  said to whoever asked
                made["error"] = error
            finally:
                if "streamer" in settings:
                    settings["streamer"].end()
                self._asking.release()

        thread = threading.Thread(target=work, daemon=True)
        if not self._asking.acquire(timeout=TURN_S):
            raise Refused("the model is busy with other questions; ask again in a minute")
        try:
            made["inputs"] = self._inputs(loaded, sample, image)
            made["n_prompt"] = made["inputs"]["input_ids"].shape[1]
            thread.start()
        except BaseException:
            self._asking.release()
            raise
        try:
            yield thread, made
            thread.join()
        finally:
            stopping.asked.set()
        if "error" in made:
            print(f"generation failed: {described(made['error'])}", file=sys.stderr)
            raise Refused("the model failed on this question; the console of the page says why")

    def stream(self, name: str, sample: Sample, image: Image.Image | None = None, max_tokens: int = 256) -> Iterator[str]:
        """The greedy answer so far, again and again until it is whole."""
        from transformers import TextIteratorStreamer

        loaded = self.load(name)
        streamer = TextIteratorStreamer(loaded.tokenizer, skip_prompt=True, skip_special_tokens=True)
        settings = {"max_new_tokens": max_tokens, "do_sample": False, "streamer": streamer}
        with self._generating(loaded, sample, image, **settings):
            text = ""
            for piece in streamer:
                text += piece
                yield text

    def group(
        self, name: str, sample: Sample, n: int, temperature: float, image: Image.Image | None = None, max_tokens: int = 256
    ) -> Iterator[Sequence[str]]:
        """`n` answers sampled at a temperature, after empty lists while they are being made."""
        loaded = self.load(name)
        settings = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0, "num_return_sequences": n}
        with self._generating(loaded, sample, image, **settings, max_new_tokens=max_tokens) as (thread, made):
            while thread.is_alive():
                thread.join(STEP_S)
                yield []
        answers: Sequence[str] = loaded.tokenizer.batch_decode(made["ids"][:, made["n_prompt"] :], skip_special_tokens=True)
        yield answers


def without_size(sample: Sample) -> dict[str, Any]:
    """The row's `meta` without the size of its image, which the processor is asked for again."""
    return {key: value for key, value in sample.meta.items() if key != "image_size"}
