"""What `vlrl.speed` measures: random models of published shapes, batches of fixed lengths, and the passes of both sides.

Nothing is downloaded. Not here: the measuring (`vlrl.speed`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from trl.trainer.utils import add_fused_lm_head

from vlrl import group_shared, packed_attention, shared_rollout
from vlrl.group_shared import Group, Pictures

PAD, EOS, IMAGE, VIDEO, START, END = 0, 1, 2, 3, 4, 5
PATCH_VALUES = 3 * 2 * 14 * 14
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 by the makers' datasheets (SXM)."""


def _shape(text: dict[str, Any], vision: dict[str, Any]) -> dict[str, Any]:
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    )
    tower = ("hidden_size", "depth", "num_heads", "intermediate_size", "fullatt_block_indexes")
    return {
        "text_config": {
            **dict(zip(names, text["sizes"], strict=True)),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": text["sections"]},
            "max_position_embeddings": 32768,
            "pad_token_id": PAD,
            "bos_token_id": PAD,
            "eos_token_id": EOS,
            "tie_word_embeddings": True,
        },
        "vision_config": {
            **dict(zip(tower, vision["sizes"], strict=True)),
            "out_hidden_size": text["sizes"][0],
            "window_size": 112,
        },
        "image_token_id": IMAGE,
        "video_token_id": VIDEO,
        "vision_start_token_id": START,
        "vision_end_token_id": END,
        "tie_word_embeddings": True,
    }


BETA = 0.04

SHAPES = {
    "tiny": _shape({"sizes": (64, 2, 4, 2, 128, 272), "sections": [2, 3, 3]}, {"sizes": (64, 2, 4, 128, [1])}),
    "small": _shape({"sizes": (512, 8, 8, 2, 1408, 272), "sections": [8, 12, 12]}, {"sizes": (320, 8, 4, 864, [3, 7])}),
    "qwen2.5-vl-3b-random": _shape(
        {"sizes": (2048, 36, 16, 2, 11008, 151936), "sections": [16, 24, 24]}, {"sizes": (1280, 32, 16, 3420, [7, 15, 23, 31])}
    ),
}


def build(name: str, device: torch.device, dtype: torch.dtype, seed: int) -> Any:
    """A random model of a published shape, on its device from the start, with TRL's head."""
    torch.manual_seed(seed)
    config = Qwen2_5_VLConfig(**SHAPES[name])
    with torch.device(device):
        model = Qwen2_5_VLForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    add_fused_lm_head(model)
    return model.train()


@dataclass(frozen=True)
class Batch:
    """U prompts of one image each with G completions of R tokens, in TRL's layout and planned into groups."""

    ids_BT: Tensor
    n_prompt: int
    n_keep: int
    n_generations: int
    groups: list[Group]
    pictures: Pictures
    advantages_B1: Tensor

    @property
    def mask_BT(self) -> Tensor:
        return torch.ones_like(self.ids_BT)


def make_batch(model: Any, prompts: int, prompt_tokens: int, side_px: int, n_keep: int, group: int, seed: int) -> Batch:
    """Prompts of one square image and `prompt_tokens` text tokens, each with `group` completions of `n_keep` tokens."""
    draw = torch.Generator().manual_seed(seed)
    side, vocab = side_px // 14, model.config.text_config.vocab_size
    text = torch.randint(6, vocab, (prompts, prompt_tokens), generator=draw)
    image = torch.tensor([START, *[IMAGE] * ((side // 2) ** 2), END]).expand(prompts, -1)
    prompt_ids = torch.cat([text[:, :2], image, text[:, 2:]], dim=1)
    completions = torch.randint(6, vocab, (prompts * group, n_keep), generator=draw)
    grid = torch.tensor([[1, side, side]] * prompts)
    pixels = torch.randn(prompts * side * side, PATCH_VALUES, generator=draw)
    return Batch(
        ids_BT=torch.cat([prompt_ids.repeat_interleave(group, 0), completions], dim=1).to(model.device),
        n_prompt=prompt_ids.shape[1],
        n_keep=n_keep,
        n_generations=group,
        groups=group_shared.plan_groups(model, prompt_ids.tolist(), [1] * prompts, grid, group),
        pictures=Pictures(pixels.to(model.device, model.dtype), grid.to(model.device)),
        advantages_B1=torch.randn(prompts * group, 1, generator=draw).to(model.device),
    )


def stock_inputs(batch: Batch, ids: Tensor, rows: list[int]) -> dict[str, Tensor]:
    """TRL's forward arguments for some rows: pixels and grid once a row."""
    pixels, grid = batch.pictures.pixel_values, batch.pictures.grid_thw
    assert pixels is not None
    assert grid is not None
    images = [row // batch.n_generations for row in rows]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels.view(len(batch.groups), -1, PATCH_VALUES)[images].flatten(0, 1),
        "image_grid_thw": grid[images],
        "mm_token_type_ids": (ids == IMAGE).int(),
    }


def fixed_length(n_new: int, sample: bool) -> GenerationConfig:
    """Exactly `n_new` tokens, never an image's."""
    return GenerationConfig(
        max_new_tokens=n_new, min_new_tokens=n_new, do_sample=sample, eos_token_id=EOS, pad_token_id=PAD,
        suppress_tokens=[IMAGE, VIDEO, START, END], **({"top_k": 0} if sample else {}),
    )  # fmt: skip


# -- the two sides --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """How a side runs. `rows`: rows (stock) or prompts (shared) of a micro-batch, 0: all. `kernel`: of the packed stream.
    `window`: a tower's windows in one call. `attention`: of the language model on the stock side. `graphs`: decode by CUDA
    graph."""

    side: str
    checkpointing: bool = False
    rows: int = 0
    kernel: str = "mask"
    window: bool = False
    attention: str = "sdpa"
    graphs: bool = False

    @property
    def label(self) -> str:
        parts = [f"micro-batch {self.rows or 'all'}", "checkpointing" if self.checkpointing else "no checkpointing"]
        parts.append(f"packed={self.kernel}" if self.side == "vlrl" else f"attention={self.attention}")
        return ", ".join([self.side, *parts, *(["windows batched"] if self.window else [])])


def prepare(model: Any, setting: Setting) -> None:
    model.set_attn_implementation({"text_config": setting.attention, "vision_config": "sdpa"})
    packed_attention.use_attention(model, tower=setting.window, text=setting.side == "vlrl")
    (model.gradient_checkpointing_enable if setting.checkpointing else model.gradient_checkpointing_disable)()


def settings(side: str, device: torch.device, dtype: torch.dtype) -> list[Setting]:
    """What a side is tried with. On a GPU stock's are sdpa at several micro-batches, TRL's default (checkpointing, 8 rows), and
    stock with the windows of its tower batched, which says how much of the gain is the sharing's."""
    if device.type != "cuda":
        return [Setting(side, window=side == "vlrl")]
    if side == "stock":
        rows = [Setting(side, rows=4), Setting(side, rows=4, window=True), Setting(side, rows=8), Setting(side, rows=2)]
        return [*rows, Setting(side, checkpointing=True, rows=8)]
    kernel = packed_attention.choose_kernel(device, dtype)[0]
    fast = Setting(side, kernel=kernel, window=True, graphs=True)
    return [fast, replace(fast, checkpointing=True), *([] if kernel == "mask" else [replace(fast, kernel="mask")])]


def logps_of(model: Any, batch: Batch, setting: Setting, each: Callable[[list[int], Tensor], None]) -> None:
    """Log-probabilities, micro-batch by micro-batch, handed to `each` with the rows they belong to."""
    n_rows = batch.ids_BT.shape[0]
    if setting.side == "vlrl":
        per_batch = (setting.rows or len(batch.groups)) * batch.n_generations
        for rows, groups in group_shared.micro_batches(batch.groups, range(len(batch.groups)), per_batch):
            ids, mask = batch.ids_BT[rows], batch.mask_BT[rows]
            made, _ = group_shared.score(model, ids, mask, batch.n_keep, groups, batch.pictures, kernel=setting.kernel)
            each(rows, made)
        return
    for part in torch.arange(n_rows).split(setting.rows or n_rows):
        rows = part.tolist()
        ids = batch.ids_BT[rows]
        labels = ids.clone()
        labels[:, : -batch.n_keep] = -100
        out = model(**stock_inputs(batch, ids, rows), labels=labels, fused_lm_head=True)
        each(rows, out.log_probs[:, -batch.n_keep :])


def scored(model: Any, batch: Batch, setting: Setting) -> Tensor:
    made: list[Tensor] = []
    with torch.no_grad():
        logps_of(model, batch, setting, lambda rows, logps: made.append(logps))
    return torch.cat(made)


def update(model: Any, batch: Batch, setting: Setting, reference_BR: Tensor) -> float:
    """Forward and backward of the GRPO loss with a KL term, over all rows; gradients stay on the model."""
    model.zero_grad(set_to_none=True)
    total = torch.zeros((), device=model.device)

    def backward(rows: list[int], logps: Tensor) -> None:
        gap = reference_BR[rows] - logps
        per_token = -torch.exp(logps - logps.detach()) * batch.advantages_B1[rows] + BETA * (torch.exp(gap) - gap - 1)
        loss = per_token.sum() / batch.ids_BT.shape[0] / batch.n_keep
        loss.backward()
        total.add_(loss.detach())

    logps_of(model, batch, setting, backward)
    return float(total)


def generated(model: Any, batch: Batch, setting: Setting, n_new: int, sample: bool = True) -> Tensor:
    config = fixed_length(n_new, sample)
    prompts = batch.ids_BT[:, : batch.n_prompt]
    model.eval()
    try:
        if setting.side == "stock":
            inputs = stock_inputs(batch, prompts, list(range(len(prompts))))
            made: Tensor = model.generate(**inputs, generation_config=config)
            return made
        unique = prompts[:: batch.n_generations].contiguous()
        graphs = setting.graphs and n_new > 1
        return shared_rollout.rollout(
            model, unique, torch.ones_like(unique), batch.groups, batch.pictures, batch.n_generations, config, graphs=graphs
        )
    finally:
        model.train()


def forward_flops(config: Any, batch: Batch, shared: bool) -> float:
    """Floating-point operations of one log-probability pass over the batch: linear layers 2 a weight and token, causal
    attention half of the square, the tower's windows of 64 patches, the head on completion tokens."""
    text, vision = config.text_config, config.vision_config
    dim = text.hidden_size // text.num_attention_heads
    weights = text.hidden_size * (2 * text.hidden_size + 2 * text.num_key_value_heads * dim + 3 * text.intermediate_size)
    g, p, r, n = batch.n_generations, batch.n_prompt, batch.n_keep, len(batch.groups)
    if shared:
        tokens, pairs, images = p + g * r, p * p / 2 + g * (p * r + r * r / 2), 1
    else:
        tokens, pairs, images = g * (p + r), g * (p + r) ** 2 / 2, g
    language = text.num_hidden_layers * (2 * weights * tokens + 4 * text.hidden_size * pairs)
    assert batch.pictures.grid_thw is not None
    patches, wide = int(batch.pictures.grid_thw[0].prod()), vision.hidden_size
    n_full = len(vision.fullatt_block_indexes)
    linear = 2 * (4 * wide * wide + 3 * wide * vision.intermediate_size) * patches * vision.depth
    attention = 4 * wide * patches * (patches * n_full + 64 * (vision.depth - n_full))
    merger = 2 * (patches // 4) * 4 * wide * (4 * wide + vision.out_hidden_size)
    return n * (language + images * (linear + attention + merger) + 2 * text.hidden_size * text.vocab_size * g * r)
