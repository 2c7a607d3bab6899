"""A promptable segmenter (SAM, SAM 2, EdgeTAM, as transformers has them): from one box in an image to a mask.

Not here: which boxes (`vlrl.bench.masks`), how masks are compared (`vlrl.metrics.grounding`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

SEGMENTERS = ("sam", "sam2", "sam_hq", "edgetam", "sam3_tracker")
"""`model_type`s that are tested or share the interface."""


class Segmenter:
    """Loaded once; `mask` is called for each box. Raises ValueError for a folder that holds no such model."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoConfig, AutoModelForMaskGeneration, AutoProcessor

        try:
            kind = AutoConfig.from_pretrained(folder).model_type
            if kind.removesuffix("_video") not in SEGMENTERS:
                raise ValueError(f"its model_type is {kind!r}; known: {', '.join(SEGMENTERS)}")
            processors: Any = AutoProcessor
            self.processor = processors.from_pretrained(folder)
            self.model: Any = AutoModelForMaskGeneration.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            what = "a folder of a promptable segmenter (config, weights, processor), as facebook/sam2.1-hiera-large"
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ValueError(f"--masks sam:{folder}: cannot be loaded: {first}. Give {what}") from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device).eval()
        self.name = f"{kind} {Path(folder).name}"

    @torch.no_grad()
    def mask(self, image: Image.Image, box_px: tuple[float, float, float, float]) -> NDArray[np.bool_]:
        """The mask [H, W] of what a box holds, in the image's pixels: the model's single mask for it, above its threshold."""
        inputs = self.processor(images=image.convert("RGB"), input_boxes=[[list(box_px)]], return_tensors="pt")
        sizes = {key: inputs[key] for key in ("original_sizes", "reshaped_input_sizes") if key in inputs}
        given = {key: inputs[key].to(self.device) for key in ("pixel_values", "input_boxes")}
        given["input_boxes"] = given["input_boxes"].to(self.model.dtype)
        given["pixel_values"] = given["pixel_values"].to(self.model.dtype)
        logits = self.model(**given, multimask_output=False).pred_masks
        found = self.processor.image_processor.post_process_masks(logits.float().cpu(), *sizes.values())
        mask: NDArray[np.bool_] = found[0].reshape(-1, image.height, image.width)[0].numpy().astype(np.bool_)
        return mask
