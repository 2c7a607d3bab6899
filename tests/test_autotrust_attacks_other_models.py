"""The attack on models of other families, small and with random weights: their own classes, their own preprocessing."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from vlrl.bench.autotrust.attack_settings import Target, read_attacks
from vlrl.bench.autotrust.attacks import Aim, Attacker
from vlrl.data.images import open_image
from vlrl.models.load import LoadedModel, load_model

IDS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    **IDS,
}


def tokenizer_and_template():
    processor = load_model("tiny").processor
    return processor.tokenizer, processor.chat_template


def llava():
    """A tower that sees the cropped middle of 56 x 56 px; pixel values `[B, 3, H, W]`."""
    tokenizer, template = tokenizer_and_template()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    vision = {"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 56, "patch_size": 14}
    text = {**TEXT, "model_type": "llama", "vocab_size": len(tokenizer)}
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    images = CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    template = template.replace("<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>", "<image>")
    options = {"patch_size": 14, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, chat_template=template, image_token="<image>", **options
    )
    return LlavaForConditionalGeneration(config), processor


def qwen3():
    tokenizer, template = tokenizer_and_template()
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "patch_size": 16, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 64}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3], "mrope_interleaved": True}
    text = {**TEXT, "vocab_size": len(tokenizer), "head_dim": 16, "rope_parameters": rope}
    ids = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    ids |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    limits = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    size = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, **limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=template,
    )
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(vision_config=vision, text_config=text, **ids)), processor


@pytest.mark.parametrize("family", [llava, qwen3])
def test_the_loss_rises_within_the_bound(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, processor = family()
    attacker = Attacker(LoadedModel(model.eval(), processor, family.__name__, "px", "test"))
    images = [
        open_image(f"synthetic:planning/test/0/{i}").resize(size, Image.Resampling.BICUBIC)
        for i, size in enumerate([(120, 80), (64, 64)])
    ]
    aims = [Aim(image, "Is it red?", Target(("yes", "no"), i), str(i)) for i, image in enumerate(images)]
    for name in ("pgd", "cw"):
        (attack,) = read_attacks(name, {"num_iter": ("6",)})
        for one, image in zip(attacker.attack(attack, aims, 0), images, strict=True):
            change = np.abs(one.pixels_HWC.astype(int) - np.asarray(image).astype(int))
            assert one.pixels_HWC.shape == np.asarray(image).shape
            assert np.isfinite(one.l2_px)
            if name == "pgd":
                assert 0 < change.max() <= 12, "six steps of two grey levels"
                assert one.loss_after > one.loss_before
