"""A model of your own as a reward: how well an image and the answer agree, by SigLIP or CLIP. Any model of PyTorch will do.

vlrl train --task qa --data rows.jsonl --rewards exact_match examples/own_model_reward.py:agreement:folder=siglip,device=cuda:0
"""

from functools import cache
from typing import Any

import torch
from transformers import AutoModel, AutoProcessor

from vlrl.answers.read import read_span
from vlrl.data.images import open_image
from vlrl.schema import Sample


@cache
def loaded(folder: str, device: str) -> tuple[Any, Any]:
    """Once in each process, when the reward is called first: before the model in training is loaded."""
    return AutoModel.from_pretrained(folder).eval().to(device), AutoProcessor.from_pretrained(folder)


@torch.inference_mode()
def agreement(text: str, sample: Sample, *, folder: str, device: str = "cpu") -> float | None:
    """The cosine of the first image and the answer, -1..1; -1 where no answer can be read, None for rows without
    images. Of a long answer the model reads the first 77 tokens (CLIP) or 64 (SigLIP)."""
    if not sample.images:
        return None
    answer = read_span(text, sample).text
    if not answer:
        return -1.0
    model, processor = loaded(folder, device)
    image = open_image(sample.images[0])
    inputs = processor(text=[answer], images=[image], padding="max_length", truncation=True, return_tensors="pt").to(device)
    found = model(**inputs)
    return float(torch.cosine_similarity(found.image_embeds, found.text_embeds))
