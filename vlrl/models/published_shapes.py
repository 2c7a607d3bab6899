"""The sizes of published models, as their config.json files on the hub give them; no weights, no network.

Written down by hand. A test builds each one without memory and compares the number of its weights with the one that the hub
shows (`safetensors` metadata of the repository): a wrong width would change it. Not here: loading (`vlrl.models.load`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig

QWEN_IDS = {
    "image_token_id": 151655, "video_token_id": 151656, "vision_start_token_id": 151652, "vision_end_token_id": 151653,
}  # fmt: skip


@dataclass(frozen=True)
class PublishedModel:
    """One model of the hub. `n_weights`: as its repository shows; `config`: the fields of its config.json that give sizes."""

    name: str
    model_type: str
    n_weights: int
    config: dict[str, Any]

    def make_config(self) -> Any:
        """The configuration, as `AutoConfig.from_pretrained` would give it."""
        return AutoConfig.for_model(self.model_type, **self.config)


def _text(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int, **more: Any) -> dict[str, Any]:
    names = (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "vocab_size",
    )
    return {**dict(zip(names, (hidden, layers, heads, kv_heads, inner, vocab), strict=True)), **more}


def _qwen2_5_vl(text: dict[str, Any], tied: bool, vision_inner: int = 3420) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision: dict[str, Any] = {"depth": 32, "hidden_size": 1280, "num_heads": 16, "intermediate_size": vision_inner}
    vision |= {"out_hidden_size": text["hidden_size"], "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112}
    text = {**text, "rope_parameters": rope, "max_position_embeddings": 128000, "tie_word_embeddings": tied}
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied, **QWEN_IDS}


def _qwen2_vl(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}
    vision: dict[str, Any] = {
        "depth": 32,
        "embed_dim": 1280,
        "num_heads": 16,
        "mlp_ratio": 4,
        "hidden_size": text["hidden_size"],
    }
    text = {**text, "rope_parameters": rope, "max_position_embeddings": 32768, "tie_word_embeddings": tied}
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied, **QWEN_IDS}


def _qwen3_vl(text: dict[str, Any], tied: bool, large: bool) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    vision: dict[str, Any] = {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "deepstack_visual_indexes": [5, 11, 17],
    }
    if large:
        vision = {
            "depth": 27,
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "deepstack_visual_indexes": [8, 16, 24],
        }
    vision |= {"num_heads": 16, "patch_size": 16, "num_position_embeddings": 2304, "out_hidden_size": text["hidden_size"]}
    text = {**text, "head_dim": 128, "rope_parameters": rope, "max_position_embeddings": 262144, "tie_word_embeddings": tied}
    return {"text_config": text, "vision_config": vision, "tie_word_embeddings": tied, **QWEN_IDS}


def _gemma3(text: dict[str, Any]) -> dict[str, Any]:
    vision: dict[str, Any] = {
        "hidden_size": 1152,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "intermediate_size": 4304,
    }
    vision |= {"image_size": 896, "patch_size": 14, "vision_use_head": False}
    return {"text_config": text, "vision_config": vision, "mm_tokens_per_image": 256, "tie_word_embeddings": True}


def _internvl3(text: dict[str, Any], tied: bool) -> dict[str, Any]:
    vision: dict[str, Any] = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    vision |= {"image_size": [448, 448], "patch_size": [14, 14], "attention_bias": True}
    text = {**text, "model_type": "qwen2", "max_position_embeddings": 32768, "tie_word_embeddings": tied}
    ids = {"image_token_id": 151667, "tie_word_embeddings": tied}
    return {"text_config": text, "vision_config": vision, "downsample_ratio": 0.5, **ids}


PUBLISHED_MODELS = {
    model.name: model
    for model in (
        PublishedModel(
            "Qwen/Qwen2-VL-2B-Instruct", "qwen2_vl", 2_208_985_600, _qwen2_vl(_text(1536, 28, 12, 2, 8960, 151936), True)
        ),
        PublishedModel(
            "Qwen/Qwen2-VL-7B-Instruct", "qwen2_vl", 8_291_375_616, _qwen2_vl(_text(3584, 28, 28, 4, 18944, 152064), False)
        ),
        PublishedModel(
            "Qwen/Qwen2.5-VL-3B-Instruct", "qwen2_5_vl", 3_754_622_976, _qwen2_5_vl(_text(2048, 36, 16, 2, 11008, 151936), True)
        ),
        PublishedModel(
            "Qwen/Qwen2.5-VL-7B-Instruct",
            "qwen2_5_vl",
            8_292_166_656,
            _qwen2_5_vl(_text(3584, 28, 28, 4, 18944, 152064), False),
        ),
        PublishedModel(
            "Qwen/Qwen2.5-VL-32B-Instruct",
            "qwen2_5_vl",
            33_452_718_336,
            _qwen2_5_vl(_text(5120, 64, 40, 8, 27648, 152064), False, 3456),
        ),
        PublishedModel(
            "Qwen/Qwen2.5-VL-72B-Instruct",
            "qwen2_5_vl",
            73_410_777_344,
            _qwen2_5_vl(_text(8192, 80, 64, 8, 29568, 152064), False, 3456),
        ),
        PublishedModel(
            "Qwen/Qwen3-VL-2B-Instruct", "qwen3_vl", 2_127_532_032, _qwen3_vl(_text(2048, 28, 16, 8, 6144, 151936), True, False)
        ),
        PublishedModel(
            "Qwen/Qwen3-VL-4B-Instruct", "qwen3_vl", 4_437_815_808, _qwen3_vl(_text(2560, 36, 32, 8, 9728, 151936), True, False)
        ),
        PublishedModel(
            "Qwen/Qwen3-VL-8B-Instruct",
            "qwen3_vl",
            8_767_123_696,
            _qwen3_vl(_text(4096, 36, 32, 8, 12288, 151936), False, True),
        ),
        PublishedModel(
            "google/gemma-3-4b-it", "gemma3", 4_300_079_472, _gemma3(_text(2560, 34, 8, 4, 10240, 262208, head_dim=256))
        ),
        PublishedModel(
            "google/gemma-3-12b-it", "gemma3", 12_187_325_040, _gemma3(_text(3840, 48, 16, 8, 15360, 262208, head_dim=256))
        ),
        PublishedModel(
            "OpenGVLab/InternVL3-2B-hf", "internvl", 2_088_957_440, _internvl3(_text(1536, 28, 12, 2, 8960, 151674), False)
        ),
        PublishedModel(
            "OpenGVLab/InternVL3-8B-hf", "internvl", 7_944_373_760, _internvl3(_text(3584, 28, 28, 4, 18944, 151674), False)
        ),
    )
}
