import json

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlamaConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from vlrl.models import tiny as tiny_module
from vlrl.models.load import check_is_vlm, choose_coords, load_model, vision_token_ids
from vlrl.models.names import ModelError
from vlrl.schema import UNKNOWN_COORDS

TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}


def token_ids(tokenizer):
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}  # fmt: skip
    return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}


def save_family(family, tokenizer, folder):
    """A small random model of another family, saved as a hub model would be."""
    torch.manual_seed(0)
    text = {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": ROPE, "eos_token_id": tokenizer.eos_token_id}
    if family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2}
        model = Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **token_ids(tokenizer)))
        limits = {"min_pixels": 28 * 28, "max_pixels": 112 * 112}
        images = Qwen2VLImageProcessor(**limits)
        processor = Qwen2VLProcessor(
            images, tokenizer, Qwen2VLVideoProcessor(**limits), chat_template=tiny_module.CHAT_TEMPLATE
        )
    else:
        vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64, "patch_size": 16, "deepstack_visual_indexes": [0], "num_position_embeddings": 64}  # fmt: skip
        config = Qwen3VLConfig(text_config={**text, "head_dim": 16}, vision_config=vision, **token_ids(tokenizer))
        model = Qwen3VLForConditionalGeneration(config)
        limits = {"min_pixels": 32 * 32, "max_pixels": 128 * 128, "patch_size": 16}
        images = Qwen2VLImageProcessor(**limits)
        processor = Qwen3VLProcessor(
            images, tokenizer, Qwen3VLVideoProcessor(**limits), chat_template=tiny_module.CHAT_TEMPLATE
        )
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


@pytest.mark.parametrize(("family", "coords"), [("qwen2_vl", "norm1000"), ("qwen3_vl", "norm1000")])
def test_other_families_train_from_a_folder_whose_name_says_nothing(family, coords, tiny, tmp_path, run_train, small):
    folder = tmp_path / "qwen2.5-vl-misnamed"
    save_family(family, tiny.tokenizer, folder)
    code, out, err = run_train(
        "--model_name_or_path", folder, "--output_dir", tmp_path / "run", *small, "--use_cpu", "--bf16", "false",
        "--max_completion_length", "16", "--max_steps", "1", "--limit", "8", "--beta", "0.04",
    )  # fmt: skip
    assert code == 0, err
    assert f"{coords} (from config.model_type={family})" in out
    assert str(folder) in out.split("\nreference ")[1].splitlines()[0]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["coords"] == coords
    AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "final")
    AutoProcessor.from_pretrained(tmp_path / "run" / "final")


def test_dialect_follows_the_type_and_is_never_guessed():
    assert choose_coords("qwen2_5_vl") == ("resized_px", "config.model_type=qwen2_5_vl")
    assert choose_coords("qwen3_vl")[0] == "norm1000"
    assert choose_coords("qwen2_5_vl", "norm1") == ("norm1", "--coords")
    assert choose_coords("some_new_vlm")[0] == UNKNOWN_COORDS


def test_a_text_model_is_refused_before_it_loads(tmp_path):
    LlamaConfig(hidden_size=32, num_attention_heads=2, num_key_value_heads=2).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="takes no images"):
        check_is_vlm(str(tmp_path))


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ModelError, match="nothing_here"):
        load_model(str(tmp_path / "nothing_here"))


def test_pixel_limits_are_kept_with_the_model(tmp_path):
    loaded = load_model("tiny-random", min_pixels=784, max_pixels=56 * 56)
    loaded.processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert again.image_processor.size["longest_edge"] == 56 * 56
    with pytest.raises(ModelError, match="exceeds"):
        load_model("tiny-random", min_pixels=10**6)


def test_vision_tokens_do_not_include_the_ends(tiny):
    ids = vision_token_ids(tiny)
    assert tiny.tokenizer.eos_token_id not in ids
    assert tiny.tokenizer.pad_token_id not in ids
    assert tiny.tokenizer.convert_tokens_to_ids("<|image_pad|>") in ids


def test_lora_by_trls_own_flags_ends_in_a_merged_model(tmp_path, run_train, small):
    code, _, err = run_train(
        "--output_dir", tmp_path, *small, "--use_peft", "--lora_r", "4", "--lora_target_modules", "q_proj", "v_proj",
        "--learning_rate", "1e-2", "--beta", "0.04",
    )  # fmt: skip
    assert code == 0, err
    final = AutoModelForImageTextToText.from_pretrained(tmp_path / "final")
    start = AutoModelForImageTextToText.from_pretrained(tmp_path / "start")
    assert not any("lora" in name for name, _ in final.named_parameters())
    moved = {
        name
        for (name, a), (_, b) in zip(final.named_parameters(), start.named_parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert moved
    assert all("q_proj" in name or "v_proj" in name for name in moved)
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
