"""A model behind an OpenAI-compatible server, asked for a visitor. The key goes to that server alone and is kept nowhere.

The page's machine makes the request: `demos/app.py` offers it only to who sits at this machine, unless the operator allows it.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from PIL import Image

from demos.model_list import Refused
from vlrl.bench.chat_messages import chat_messages
from vlrl.data.images import open_images
from vlrl.data.masking import secret_in_address, without_secrets
from vlrl.data.special_tokens import USUAL, with_written_tokens
from vlrl.rewards.chat_client import EndpointError, chat, listed_models
from vlrl.schema import ModelView, Sample, Task

LIST_S, ANSWER_S = 5.0, 60.0
"""Seconds that a server has to say which models it has, and to answer."""
STEP_S = 0.5
"""Seconds between signs of life."""
MAX_TOKENS = 1024
MAX_ADDRESS = 500
COORDS = {"0..1000 of the image": "norm1000", "0..1 of the image": "norm1", "pixels": "px"}
"""How the model writes boxes, in words."""
PNG_BYTES = 1_000_000
"""A longer image goes as a JPEG."""
Sign = tuple[Sample, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Server:
    """One visitor's server. `coords`: one of the words of `COORDS`."""

    base: str
    model: str
    key: str = dataclasses.field(repr=False)
    coords: str
    tasks: Mapping[str, Task] = dataclasses.field(repr=False)

    @property
    def shown(self) -> str:
        """The model and the address without user, password and query."""
        return f"{self.model.strip()[:200]} at {without_secrets(self.base.strip())[:200]}"

    def check(self) -> None:
        """Raises Refused where the address or the model's name cannot be used."""
        base = self.base.strip()
        if not base or not self.model.strip():
            raise Refused("give the server's address, such as http://127.0.0.1:8000/v1, and the name of a model")
        if len(base) > MAX_ADDRESS or len(self.model) > MAX_ADDRESS or len(self.key) > MAX_ADDRESS:
            raise Refused(f"the address, the model or the key is longer than {MAX_ADDRESS} characters")
        if what := secret_in_address(base):
            raise Refused(f"the address holds {what}; leave it out and give the key in its own field")
        if self.coords not in COORDS:
            raise Refused("choose how the model writes boxes from the list")

    def answers(
        self, sample: Sample, opened: Image.Image | None, *, n: int, temperature: float
    ) -> Iterator[tuple[Sample, Sequence[str]]]:
        """The sample as the server sees it, with no answers while they are made and then with all. Raises Refused."""
        self.check()
        images = [opened] if opened is not None else open_images(sample)
        sample = prepared(sample, images, COORDS[self.coords])
        body = {"model": self.model.strip(), "messages": self._messages(sample, images), "max_tokens": MAX_TOKENS}
        body["temperature"] = temperature if n > 1 else 0.0
        names = (yield from _beside([self._names], (sample, [])))[0]
        if names and self.model.strip() not in names:
            listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise Refused(f"the server has no model {self.model.strip()[:200]!r}; it has {listed[:300]}")
        yield sample, (yield from _beside([partial(self._reply, body)] * n, (sample, [])))

    def _names(self) -> list[str] | None:
        return listed_models(self.base.strip(), timeout_s=LIST_S, api_key=self.key)

    def _reply(self, body: Mapping[str, Any]) -> str:
        return chat(self.base.strip(), body, timeout_s=ANSWER_S, api_key=self.key).text

    def _messages(self, sample: Sample, images: Sequence[Image.Image]) -> list[dict[str, Any]]:
        messages = chat_messages(dataclasses.replace(sample, images=(), video=None), self.tasks)
        shown = [{"type": "image_url", "image_url": {"url": image_url(image)}} for image in images]
        messages[-1]["content"] = [*shown, *messages[-1]["content"]]
        return messages


def prepared(sample: Sample, images: Sequence[Image.Image], coords: str) -> Sample:
    """The sample for a model that writes boxes in `coords`, with the size of its image."""
    sample = with_written_tokens(sample, USUAL)
    meta = {**sample.meta}
    if images:
        meta["image_size"] = list(images[min(int(meta.get("image_index", 0)), len(images) - 1)].size)
    return dataclasses.replace(sample, meta=meta, view=ModelView(coords))


def image_url(image: Image.Image) -> str:
    """An image as a `data:` URL: PNG, or JPEG where that is long."""
    buffer, kind = io.BytesIO(), "png"
    image.convert("RGB").save(buffer, "PNG")
    if buffer.tell() > PNG_BYTES:
        buffer, kind = io.BytesIO(), "jpeg"
        image.convert("RGB").save(buffer, "JPEG", quality=95)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _beside(works: Sequence[Callable[[], Any]], sign: Sign) -> Generator[Sign, None, list[Any]]:
    """Runs functions side by side; yields `sign` until all are over, so that a visitor who leaves is noticed, and returns what
    they return, in order. Raises Refused where the server fails one."""
    done: dict[int, Any] = {}

    def run(i: int) -> None:
        try:
            done[i] = works[i]()
        except EndpointError as error:
            done[i] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(works))]
    for thread in threads:
        thread.start()
    while waiting := [thread for thread in threads if thread.is_alive()]:
        waiting[0].join(STEP_S)
        yield sign
    for one in done.values():
        if isinstance(one, EndpointError):
            raise Refused(f"the server gave no answer: {one}")
    return [done[i] for i in range(len(works))]
