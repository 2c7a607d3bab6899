"""A CLIP model of a few hundred thousand weights that reads text letter by letter: at random, or trained on drawn scenes."""

import math
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

from vlrl.data.image_views import ImageView, cut_out, within_image
from vlrl.data.synthetic.items import IMAGE_SIDE_PX, item_rng
from vlrl.data.synthetic.scenes import CATEGORIES, COLOURS, SHAPE_NAMES, scene

SIDE_PX, N_TOKENS = 32, 77
START, END = "<|startoftext|>", "<|endoftext|>"
NOTHING, ANY = "the background", "an object"
TEXTS = [*(f"the {name}" for name in CATEGORIES), *(f"the {name} object" for name in COLOURS)]
TEXTS += [*(f"the {name}" for name in SHAPE_NAMES), ANY, NOTHING]
FILL = (122, 117, 104)
"""CLIP's mean colour."""


def letters():
    """The signs that stand for bytes in a byte-level vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def new_clip(seed=0, width=64, layers=2, n_tokens=N_TOKENS):
    """An untrained model and its processor."""
    words = [*letters(), *(f"{one}</w>" for one in letters()), START, END]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=n_tokens)
    shape = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers, "num_attention_heads": 4}
    ends = {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1, "pad_token_id": len(words) - 1}
    config = CLIPConfig(
        text_config={**shape, **ends, "vocab_size": len(words), "max_position_embeddings": n_tokens},
        vision_config={**shape, "image_size": SIDE_PX, "patch_size": 8},
        projection_dim=32,
    )
    side = {"height": SIDE_PX, "width": SIDE_PX}
    torch.manual_seed(seed)
    processor = CLIPProcessor(CLIPImageProcessor(size={"shortest_edge": SIDE_PX}, crop_size=side), tokenizer)
    return CLIPModel(config), processor


def clip_folder(folder, **options):
    """A folder of an untrained model."""
    model, processor = new_clip(**options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def texts_of(category):
    colour, shape = category.split()
    return [f"the {category}", f"the {colour} object", f"the {shape}", ANY]


def drawn_part(split, seed, index):
    """A part of scene `index`, and the texts that are true of it: around an object, around a point of one, or of the background."""
    drawn, rng = scene("grounding", split, seed, index), item_rng("clip part", split, seed, index)
    kind = rng.random()
    if kind < 0.25:
        for _ in range(20):
            side = rng.uniform(16, 60)
            x, y = rng.uniform(0, IMAGE_SIDE_PX - side, size=2)
            box = (x, y, x + side, y + side)
            if all(_overlap(box, one.box_px) < 0.1 for one in drawn.objects):
                return _cut(drawn, box), [NOTHING]
    one = drawn.objects[int(rng.integers(len(drawn.objects)))]
    x1, y1, x2, y2 = one.box_px
    width, height = x2 - x1, y2 - y1
    if kind < 0.6:
        x, y, half = x1 + width * rng.uniform(0.3, 0.7), y1 + height * rng.uniform(0.3, 0.7), 0.15 * IMAGE_SIDE_PX
        box = (x - half, y - half, x + half, y + half)
    else:
        left, top, right, bottom = rng.uniform(-0.1, 0.25, size=4)
        box = (x1 - left * width, y1 - top * height, x2 + right * width, y2 + bottom * height)
    return _cut(drawn, box), texts_of(one.category)


def _overlap(box, other):
    """The share of `other` that is in `box`."""
    x1, y1, x2, y2 = (max(box[0], other[0]), max(box[1], other[1]), min(box[2], other[2]), min(box[3], other[3]))
    return max(0, x2 - x1) * max(0, y2 - y1) / ((other[2] - other[0]) * (other[3] - other[1]))


def _cut(drawn, box):
    return cut_out(ImageView("", within_image(box, drawn.image.size)), drawn.image, FILL)


def train_clip(folder, steps=600, batch=96, seed=0, say=print):
    """A model trained on parts of drawn scenes (split `clip`), saved. Each image is told from the texts that are not true of it,
    each text from the images that it is not true of (the loss of CLIP, with several true pairs)."""
    model, processor = new_clip(seed, width=96, layers=3)
    words = processor.tokenizer(TEXTS, padding=True, return_tensors="pt")
    place = {text: i for i, text in enumerate(TEXTS)}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for step in range(steps):
        parts = [drawn_part("clip", seed, step * batch + i) for i in range(batch)]
        true_BT = torch.zeros(batch, len(TEXTS))
        for i, (_, texts) in enumerate(parts):
            true_BT[i, [place[text] for text in texts]] = 1
        pixels = processor.image_processor(images=[image for image, _ in parts], return_tensors="pt")["pixel_values"]
        images = F.normalize(model.get_image_features(pixel_values=pixels).pooler_output, dim=-1)
        texts = F.normalize(model.get_text_features(**words).pooler_output, dim=-1)
        logits_BT = model.logit_scale.exp().clamp(max=50) * images @ texts.T
        loss = _told_apart(logits_BT, true_BT) + _told_apart(logits_BT.T, true_BT.T)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == steps - 1:
            say(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def _told_apart(logits_RC, true_RC):
    """Cross-entropy of each true pair against what is not true of its row."""
    wrong_RC = logits_RC.masked_fill(true_RC > 0, -math.inf)
    rest_R1 = torch.logsumexp(wrong_RC, dim=1, keepdim=True)
    lost_RC = torch.logaddexp(logits_RC, rest_R1) - logits_RC
    return (lost_RC * true_RC).sum() / true_RC.sum()


if __name__ == "__main__":
    import sys

    np.set_printoptions(precision=3)
    train_clip(Path(sys.argv[1]), *map(int, sys.argv[2:]))
