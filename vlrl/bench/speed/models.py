"""What `bench speed` measures: random models of published shapes, a byte-level processor, images and prompts of given sizes.

Nothing is downloaded. Not here: the measured run (`vlrl.bench.speed.measure`) and the command (`vlrl.bench.speed.command`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from vlrl.models.load import LoadedModel, choose_attention, load_model
from vlrl.models.pixel_limits import limit_pixels
from vlrl.models.tiny import CHAT_TEMPLATE, SPECIAL_TOKENS
from vlrl.schema import Sample, Score, Task

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 by the makers' datasheets (SXM)."""
N_BYTES = 256
IDS = {token: N_BYTES + i for i, token in enumerate(SPECIAL_TOKENS)}


def _shape(text: tuple[int, ...], sections: list[int], vision: tuple[Any, ...]) -> dict[str, Any]:
    """Sizes in the order of Qwen2.5-VL's config files."""
    text_names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "intermediate_size")
    vision_names = ("hidden_size", "depth", "num_heads", "intermediate_size", "fullatt_block_indexes")
    return {
        "text_config": {
            **dict(zip((*text_names, "vocab_size"), text, strict=True)),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
            "max_position_embeddings": 32768,
            "pad_token_id": IDS["<|endoftext|>"],
            "bos_token_id": IDS["<|endoftext|>"],
            "eos_token_id": IDS["<|im_end|>"],
            "tie_word_embeddings": True,
        },
        "vision_config": {
            **dict(zip(vision_names, vision, strict=True)),
            "out_hidden_size": text[0],
            "window_size": 112,
        },
        "image_token_id": IDS["<|image_pad|>"],
        "video_token_id": IDS["<|video_pad|>"],
        "vision_start_token_id": IDS["<|vision_start|>"],
        "vision_end_token_id": IDS["<|vision_end|>"],
        "tie_word_embeddings": True,
    }


MODEL_SHAPES = {
    "small": _shape((512, 8, 8, 2, 1408, 272), [8, 12, 12], (320, 8, 4, 864, [3, 7])),
    "qwen2.5-vl-3b-random": _shape((2048, 36, 16, 2, 11008, 151936), [16, 24, 24], (1280, 32, 16, 3420, [7, 15, 23, 31])),
}


def byte_processor() -> Qwen2_5_VLProcessor:
    """256 byte symbols, no merges, the eight special tokens of Qwen; images of any size a multiple of 28."""
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: i for i, symbol in enumerate(symbols)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    limits: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": 4096 * 28 * 28}
    make: Any = Qwen2_5_VLProcessor
    processor: Qwen2_5_VLProcessor = make(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", padding_side="left"
        ),
        video_processor=Qwen2VLVideoProcessor(**limits),
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def speed_model(name: str, device: torch.device, dtype: torch.dtype, seed: int, *, packed: bool = True) -> LoadedModel:
    """A random model of a published shape, the embedded one, or any folder or hub id. `packed`: with vlrl's attention (all
    windows of the vision encoder at once), else as transformers runs it."""
    if name not in MODEL_SHAPES:
        named = "auto" if packed else "sdpa"
        loaded = load_model("tiny-random" if name == "tiny" else name, dtype=dtype, attn_implementation=named, seed=seed)
        if hasattr(loaded.processor.image_processor, "merge_size"):  # others show images at sizes of their own
            limit_pixels(loaded.processor, 28 * 28, 4096 * 28 * 28)
        loaded.model.to(device)  # type: ignore[arg-type]
        return loaded
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = Qwen2_5_VLForConditionalGeneration._from_config(  # type: ignore[no-untyped-call]
            Qwen2_5_VLConfig(**MODEL_SHAPES[name]), dtype=dtype, attn_implementation="sdpa"
        )
    ends = {"eos_token_id": IDS["<|im_end|>"], "pad_token_id": IDS["<|endoftext|>"]}
    model.generation_config = GenerationConfig(**ends)  # type: ignore[no-untyped-call]
    attention = choose_attention(model, None) if packed else "sdpa, as transformers runs it"
    return LoadedModel(model, byte_processor(), name, "resized_px", "no boxes are written", attention)


# -- prompts and images ---------------------------------------------------------------------------------------------------


def write_images(folder: Path, n: int, size_px: tuple[int, int], seed: int) -> list[str]:
    """`n` images of smooth noise, as PNG files."""
    paths = []
    for index in range(n):
        rng = np.random.default_rng([seed, index])
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        paths.append(str(folder / f"{index}.png"))
        coarse.resize(size_px, Image.Resampling.BICUBIC).save(paths[-1])
    return paths


def speed_task(prompt_tokens: int, seed: int) -> Task:
    """Prompts of so many random letters, each a token of the byte-level tokenizer; completions are scored by their letters."""

    def prompt(sample: Sample) -> str:
        rng = np.random.default_rng([seed, int(sample.id)])
        return "".join(chr(97 + int(i)) for i in rng.integers(0, 26, prompt_tokens))

    def nothing(*_: Any) -> Any:
        raise NotImplementedError("measured runs have no right answer")

    return Task(
        name="speed",
        prompt=prompt,
        rewards=(),
        metric=nothing,
    )


def letter_score(text: str, sample: Sample) -> Score:
    """A value that only depends on the text and differs between texts."""
    return Score(sum(map(ord, text)) % 97 / 97, text)


def forward_flops(config: Any, shared: bool, *, prompts: int, group: int, n_prompt: int, n_keep: int, n_patches: int) -> float:
    """Floating-point operations of one log-probability pass over `prompts` groups.

    Linear layers count 2 per weight and token, causal attention half of the square, the vision encoder's windows of 64 patches,
    the head completion tokens only. `n_patches`: of the images of one prompt.
    """
    text, vision = config.text_config, config.vision_config
    dim = text.hidden_size // text.num_attention_heads
    weights = text.hidden_size * (2 * text.hidden_size + 2 * text.num_key_value_heads * dim + 3 * text.intermediate_size)
    g, p, r = group, n_prompt, n_keep
    if shared:
        tokens, pairs, images = p + g * r, p * p / 2 + g * (p * r + r * r / 2), 1
    else:
        tokens, pairs, images = g * (p + r), g * (p + r) ** 2 / 2, g
    language = text.num_hidden_layers * (2 * weights * tokens + 4 * text.hidden_size * pairs)
    wide = vision.hidden_size
    n_full = len(vision.fullatt_block_indexes)
    linear = 2 * (4 * wide * wide + 3 * wide * vision.intermediate_size) * n_patches * vision.depth
    attention = 4 * wide * n_patches * (n_patches * n_full + 64 * (vision.depth - n_full))
    merger = 2 * (n_patches // 4) * 4 * wide * (4 * wide + vision.out_hidden_size)
    return float(prompts * (language + images * (linear + attention + merger) + 2 * text.hidden_size * text.vocab_size * g * r))
