"""Small random models of every family with transformers' own classes: two layers, 32 wide, images of 56 pixels, a tokenizer made
from that of `tiny`. `build(name)` returns model and processor; `saved(name, folder)` writes them like a model of the hub.
VLRL_FAMILY_WIDTH (a multiple of 16) and VLRL_FAMILY_SIDE (of 56) make larger ones, for measurements (`family_speed.py`)."""

import os
from dataclasses import dataclass

import torch
import transformers as hf
from transformers import AutoTokenizer, GenerationConfig

from vlrl.models.names import ASSETS

SIDE = int(os.environ.get("VLRL_FAMILY_SIDE", "56"))
WIDTH = int(os.environ.get("VLRL_FAMILY_WIDTH", "32"))
PATCHES = SIDE // 14
HEADS, INNER = WIDTH // 16, WIDTH * 3 // 2
PAIR = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": HEADS}
PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
TEMPLATE = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n{{% for part in message['content'] %}}"
    "{{% if part['type'] == 'image' %}}{image}{{% elif part['type'] == 'video' %}}{video}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)
QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@dataclass(frozen=True)
class Family:
    """`tokens`: what its tokenizer has beside those of `tiny`, by their names there. `image`, `video`: what its template writes
    for one."""

    image: str
    tokens: dict
    parts: object
    video: str = ""


def text(size, **more):
    return {
        **PAIR,
        "num_hidden_layers": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "vocab_size": size,
        **more,
    }


def rope(**more):
    return {"rope_type": "default", "rope_theta": 100.0, **more}


def qwen_like(config, model, ids, processor, text_config, vision_config, patch=14):
    limits = {"min_pixels": (2 * patch) ** 2, "max_pixels": (PATCHES * patch) ** 2, "patch_size": patch}
    vision = {
        "depth": 2,
        "num_heads": HEADS,
        "patch_size": patch,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        **vision_config,
    }
    tokens = {
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"), "tie_word_embeddings": True,
        "vision_start_token_id": ids("<|vision_start|>"), "vision_end_token_id": ids("<|vision_end|>"),
    }  # fmt: skip
    video = hf.Qwen2VLVideoProcessor if processor in (hf.Qwen2VLProcessor, hf.Qwen2_5_VLProcessor) else hf.Qwen3VLVideoProcessor
    return (
        model(config(text_config={**text_config, "tie_word_embeddings": True}, vision_config=vision, **tokens)),
        lambda tokenizer, template: processor(
            hf.Qwen2VLImageProcessor(**limits), tokenizer, video(**limits), chat_template=template
        ),
    )


def qwen2_vl(size, ids):
    made = text(size, rope_parameters=rope(mrope_section=[2, 3, 3]))
    vision = {"embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2}
    return qwen_like(hf.Qwen2VLConfig, hf.Qwen2VLForConditionalGeneration, ids, hf.Qwen2VLProcessor, made, vision)


def qwen2_5_vl(size, ids):
    made = text(size, rope_parameters=rope(mrope_section=[2, 3, 3]))
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "window_size": 56,
        "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [1],
    }
    return qwen_like(hf.Qwen2_5_VLConfig, hf.Qwen2_5_VLForConditionalGeneration, ids, hf.Qwen2_5_VLProcessor, made, vision)


DEEP = {"hidden_size": WIDTH, "intermediate_size": INNER, "out_hidden_size": WIDTH, "num_position_embeddings": 64}


def qwen3_vl(size, ids):
    made = text(size, head_dim=16, rope_parameters=rope(mrope_section=[2, 3, 3], mrope_interleaved=True))
    vision = {**DEEP, "deepstack_visual_indexes": [0]}
    return qwen_like(hf.Qwen3VLConfig, hf.Qwen3VLForConditionalGeneration, ids, hf.Qwen3VLProcessor, made, vision, 16)


def qwen3_vl_moe(size, ids):
    made = text(size, head_dim=16, rope_parameters=rope(mrope_section=[2, 3, 3], mrope_interleaved=True))
    made |= {"moe_intermediate_size": WIDTH, "num_experts": 4, "num_experts_per_tok": 2}
    vision = {**DEEP, "deepstack_visual_indexes": [0]}
    return qwen_like(hf.Qwen3VLMoeConfig, hf.Qwen3VLMoeForConditionalGeneration, ids, hf.Qwen3VLProcessor, made, vision, 16)


def qwen3_5(size, ids):
    made = text(
        size, head_dim=16, rope_parameters=rope(mrope_section=[2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.5)
    )
    made |= {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
    made |= {"layer_types": ["linear_attention", "full_attention"]}
    return qwen_like(hf.Qwen3_5Config, hf.Qwen3_5ForConditionalGeneration, ids, hf.Qwen3VLProcessor, made, DEEP, 16)


def glm4v(size, ids):
    made = text(size, rope_parameters=rope(mrope_section=[2, 3, 3]), tie_word_embeddings=True)
    vision = {
        "depth": 2, "hidden_size": WIDTH, "num_heads": HEADS, "out_hidden_size": WIDTH, "intermediate_size": INNER, "image_size": SIDE,
        "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
    }  # fmt: skip
    names = {"image_token_id": "<|image|>", "video_token_id": "<|video|>"}
    names |= {f"{kind}_{end}_token_id": f"<|{word}_of_{kind}|>" for kind in ("image", "video") for end, word in (("start", "begin"), ("end", "end"))}  # fmt: skip
    tokens = {name: ids(token) for name, token in names.items()}
    size_px = {"shortest_edge": 28 * 28, "longest_edge": SIDE * SIDE}
    return (
        hf.Glm4vForConditionalGeneration(
            hf.Glm4vConfig(text_config=made, vision_config=vision, tie_word_embeddings=True, **tokens)
        ),
        lambda tokenizer, template: hf.Glm4vProcessor(
            hf.Glm4vImageProcessor(size=size_px), tokenizer, hf.Glm4vVideoProcessor(), chat_template=template
        ),
    )


SIGLIP = {**PAIR, "num_hidden_layers": 2, "image_size": SIDE, "patch_size": 14}
SQUARE = {"height": SIDE, "width": SIDE}


def internvl(size, ids):
    vision = {**PAIR, "num_hidden_layers": 2, "image_size": [SIDE, SIDE], "patch_size": [14, 14]}
    made = {"model_type": "qwen2", **text(size, rope_parameters=rope()), "tie_word_embeddings": True}
    config = hf.InternVLConfig(
        text_config=made,
        vision_config=vision,
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=PATCHES**2 // 4,
        tie_word_embeddings=True,
    )
    images = hf.GotOcr2ImageProcessor(size=SQUARE, crop_to_patches=True, min_patches=1, max_patches=2)
    return (
        hf.InternVLForConditionalGeneration(config),
        lambda tokenizer, template: hf.InternVLProcessor(
            images, tokenizer, hf.InternVLVideoProcessor(), image_seq_length=PATCHES**2 // 4, chat_template=template
        ),
    )


def gemma3(size, ids):
    made = text(
        size, head_dim=16, sliding_window=16, layer_types=["sliding_attention", "full_attention"], query_pre_attn_scalar=16
    )
    made |= {"pad_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>"), "bos_token_id": ids("<|endoftext|>")}
    config = hf.Gemma3Config(
        text_config=made, vision_config={**SIGLIP, "vision_use_head": False}, mm_tokens_per_image=PATCHES**2 // 4,
        boi_token_index=ids("<start_of_image>"), eoi_token_index=ids("<end_of_image>"), image_token_index=ids("<image_soft_token>"),
    )  # fmt: skip
    images = hf.Gemma3ImageProcessor(size=SQUARE)
    return (
        hf.Gemma3ForConditionalGeneration(config),
        lambda tokenizer, template: hf.Gemma3Processor(
            images, tokenizer, chat_template=template, image_seq_length=PATCHES**2 // 4
        ),
    )


def idefics_like(config, model, images, processor, size, ids, **more):
    made = {
        "model_type": "llama",
        **text(size, rope_parameters=rope()),
        "pad_token_id": ids("<|endoftext|>"),
        "tie_word_embeddings": True,
    }
    made |= {"eos_token_id": ids("<|im_end|>"), "bos_token_id": ids("<|endoftext|>")}
    whole = config(
        text_config=made, vision_config=SIGLIP, image_token_id=ids("<image>"), scale_factor=2, tie_word_embeddings=True,
        pad_token_id=ids("<|endoftext|>"),
    )  # fmt: skip
    seen = images(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE})
    return model(whole), lambda tokenizer, template: processor(
        seen, tokenizer, image_seq_len=PATCHES**2 // 4, chat_template=template, **more
    )


def smolvlm(size, ids):
    video = hf.SmolVLMVideoProcessor(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}, num_frames=2, fps=1
    )
    return idefics_like(
        hf.SmolVLMConfig, hf.SmolVLMForConditionalGeneration, hf.SmolVLMImageProcessor, hf.SmolVLMProcessor, size, ids,
        video_processor=video,
    )  # fmt: skip


def idefics3(size, ids):
    return idefics_like(
        hf.Idefics3Config, hf.Idefics3ForConditionalGeneration, hf.Idefics3ImageProcessor, hf.Idefics3Processor, size, ids
    )


def llava_text(size):
    return {"model_type": "llama", **text(size, rope_parameters=rope())}


CLIP = {"model_type": "clip_vision_model", **SIGLIP, "projection_dim": WIDTH}


def llava(size, ids):
    config = hf.LlavaConfig(
        text_config=llava_text(size), vision_config=CLIP, image_token_index=ids("<image>"), image_seq_length=PATCHES**2
    )
    images = hf.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE)
    return (
        hf.LlavaForConditionalGeneration(config),
        lambda tokenizer, template: hf.LlavaProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=template,
        ),
    )  # fmt: skip


def llava_next(size, ids):
    config = hf.LlavaNextConfig(
        text_config=llava_text(size), vision_config=CLIP, image_token_index=ids("<image>"), image_grid_pinpoints=PINPOINTS
    )
    images = hf.LlavaNextImageProcessor(size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS)
    return (
        hf.LlavaNextForConditionalGeneration(config),
        lambda tokenizer, template: hf.LlavaNextProcessor(
            images, tokenizer, patch_size=14, vision_feature_select_strategy="default", num_additional_image_tokens=1,
            chat_template=template,
        ),
    )  # fmt: skip


def llava_onevision(size, ids):
    config = hf.LlavaOnevisionConfig(
        text_config={**llava_text(size), "model_type": "qwen2"}, vision_config={"model_type": "siglip_vision_model", **SIGLIP},
        image_token_index=ids("<image>"), video_token_index=ids("<video>"), image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    images = hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=PINPOINTS)
    return (
        hf.LlavaOnevisionForConditionalGeneration(config),
        lambda tokenizer, template: hf.LlavaOnevisionProcessor(
            images, tokenizer, hf.LlavaOnevisionVideoProcessor(size=SQUARE), num_image_tokens=PATCHES**2,
            vision_feature_select_strategy="full", chat_template=template,
        ),
    )  # fmt: skip


GLM_TOKENS = ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"]
TILES = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
IDEFICS_TOKENS = ["<fake_token_around_image>", "<end_of_utterance>", "<global-img>", *TILES]
FAMILIES = {
    "qwen2_vl": Family(QWEN_IMAGE, {}, qwen2_vl, QWEN_VIDEO),
    "qwen2_5_vl": Family(QWEN_IMAGE, {}, qwen2_5_vl, QWEN_VIDEO),
    "qwen3_vl": Family(QWEN_IMAGE, {}, qwen3_vl, QWEN_VIDEO),
    "qwen3_vl_moe": Family(QWEN_IMAGE, {}, qwen3_vl_moe, QWEN_VIDEO),
    "qwen3_5": Family(QWEN_IMAGE, {}, qwen3_5, QWEN_VIDEO),
    "glm4v": Family("<|begin_of_image|><|image|><|end_of_image|>", {"": GLM_TOKENS}, glm4v),
    "internvl": Family(
        "<IMG_CONTEXT>\n",
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        internvl,
    ),
    "gemma3": Family(
        "<start_of_image>",
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        gemma3,
    ),
    "smolvlm": Family("<image>", {"image_token": "<image>", "": IDEFICS_TOKENS}, smolvlm),
    "idefics3": Family("<image>", {"image_token": "<image>", "": IDEFICS_TOKENS}, idefics3),
    "llava": Family("<image>\n", {"image_token": "<image>"}, llava),
    "llava_next": Family("<image>\n", {"image_token": "<image>"}, llava_next),
    "llava_onevision": Family("<image>\n", {"image_token": "<image>", "video_token": "<video>"}, llava_onevision),
}


def tokenizer_of(family):
    named = {name: token for name, token in family.tokens.items() if name}
    tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tiny", extra_special_tokens=named, padding_side="left")
    if family.tokens.get(""):
        tokenizer.add_tokens([hf.AddedToken(token, special=True, normalized=False) for token in family.tokens[""]])
    return tokenizer


def build(name, seed=0, std=0.15, tokenizer=None):
    """Model and processor. `std`: of every matrix; wide draws make peaked attention, so that a wrong mask shows."""
    family = FAMILIES[name]
    tokenizer = tokenizer or tokenizer_of(family)
    size = (len(tokenizer) + 7) // 8 * 8
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, make_processor = family.parts(size, tokenizer.convert_tokens_to_ids)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=std)
        model.tie_weights()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    for config in (model.config, model.config.get_text_config()):
        config.eos_token_id, config.pad_token_id = ends.values()
    model.generation_config = GenerationConfig(do_sample=False, **ends)
    return model, make_processor(tokenizer, TEMPLATE.format(image=family.image, video=family.video))


def saved(name, folder, **options):
    """The folder of a model of this family."""
    model, processor = build(name, **options)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
