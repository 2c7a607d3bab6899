"""A CLIP model that embeds images and texts: loaded once, frozen, in batches, its embeddings kept.

Not here: what is cut out of an image, and what a completion is paid (`vlrl.rewards.image_text`).
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoProcessor, CLIPModel
from transformers.utils import logging as transformers_logging

from vlrl.data.image_views import ImageView, cut_out, open_view
from vlrl.models.names import ModelError
from vlrl.models.whole_files import load_weights, one_line

N_KEPT_EMBEDDINGS = 16_384
"""Of views and of texts each: completions repeat, and so do questions."""
_Key = TypeVar("_Key", ImageView, str)


class ImageTextModel:
    """Embeddings of length 1 by a CLIP model. `device`: where it is. `seconds`, `n_scored`, `n_known`: spent, views that were
    embedded, and those found among the ones remembered, since the start. Raises ModelError for a folder that cannot be
    loaded."""

    def __init__(self, folder: str, device: torch.device | str, batch_size: int = 64) -> None:
        self.folder, self.device, self.batch_size = folder, torch.device(device), batch_size
        self.seconds, self.n_scored, self.n_known = 0.0, 0, 0
        if not sys.stderr.isatty():
            transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.model: Any = load_weights(CLIPModel, folder, dtype="auto")
        self.model.to(self.device).requires_grad_(False).eval()
        processors: Any = AutoProcessor
        with one_line(folder, "its processor cannot be loaded"):
            processor = processors.from_pretrained(folder)
        if not hasattr(processor, "tokenizer") or not hasattr(processor, "image_processor"):
            raise ModelError(f"{folder}: its processor lacks a tokenizer or an image processor; save both beside the model")
        self.tokenizer, self.image_processor = processor.tokenizer, processor.image_processor
        mean = self.image_processor.image_mean if self.image_processor.do_normalize else (0.5, 0.5, 0.5)
        red, green, blue = (round(255 * value) for value in mean)
        self._fill = (red, green, blue)
        self._views: OrderedDict[ImageView, NDArray[np.float64]] = OrderedDict()
        self._texts: OrderedDict[str, NDArray[np.float64]] = OrderedDict()

    @property
    def n_parameters(self) -> int:
        return sum(weight.numel() for weight in self.model.parameters())

    def __call__(self, views: Sequence[ImageView], texts: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The embeddings of views and of texts, a row each. Raises ImageError, and ValueError for a text that is too long."""
        started = time.monotonic()
        new = len(set(views) - self._views.keys())
        # Views of one image follow each other, so that it is opened once.
        images_NE = self._found(self._views, views, self._embed_views, lambda view: (view.image, repr(view)))
        texts_ME = self._found(self._texts, texts, self._embed_texts, len)
        self.n_scored += new
        self.n_known += len(views) - new
        self.seconds += time.monotonic() - started
        return images_NE, texts_ME

    def _found(
        self,
        kept: OrderedDict[_Key, NDArray[np.float64]],
        keys: Sequence[_Key],
        embed: Callable[[Sequence[_Key]], NDArray[np.float64]],
        order: Callable[[_Key], Any],
    ) -> NDArray[np.float64]:
        new = sorted({key for key in keys if key not in kept}, key=order)
        for start in range(0, len(new), self.batch_size):
            some = new[start : start + self.batch_size]
            kept.update(zip(some, embed(some), strict=True))
        found = np.stack([kept[key] for key in keys])
        for key in keys:
            kept.move_to_end(key)
        while len(kept) > N_KEPT_EMBEDDINGS:
            kept.popitem(last=False)
        return found

    @torch.inference_mode()
    def _embed_views(self, views: Sequence[ImageView]) -> NDArray[np.float64]:
        parts, image, shown = [], None, None
        for view in views:
            if image is None or shown != (view.image, view.state):
                image, shown = open_view(view), (view.image, view.state)
            parts.append(cut_out(view, image, self._fill))
        pixels = self.image_processor(images=parts, return_tensors="pt")["pixel_values"]
        made = self.model.get_image_features(pixel_values=pixels.to(self.device, self.model.dtype))
        return self._unit(made.pooler_output)

    @torch.inference_mode()
    def _embed_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        made = self.tokenizer(list(texts), padding=True, truncation=False, return_tensors="pt")
        most, n = int(self.model.config.text_config.max_position_embeddings), int(made["input_ids"].shape[1])
        if n > most:
            raise ValueError(f"a text has {n} tokens and {self.folder} reads {most}: {max(texts, key=len)!r:.120}")
        fields = {key: made[key].to(self.device) for key in ("input_ids", "attention_mask")}
        return self._unit(self.model.get_text_features(**fields).pooler_output)

    def _unit(self, embeddings_NE: torch.Tensor) -> NDArray[np.float64]:
        found: NDArray[np.float64] = embeddings_NE.float().cpu().numpy().astype(np.float64)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        if not np.isfinite(found).all() or not lengths.all():
            raise ModelError(f"{self.folder}: an embedding is not finite or is 0; are its weights damaged?")
        unit: NDArray[np.float64] = found / lengths
        return unit
