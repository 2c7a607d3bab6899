"""Which weights see, and adapters that leave them alone. (That frozen weights stay as they were: test_grpo_trainer, test_training_sft.)"""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from vlrl.models.load import load_model
from vlrl.models.names import ModelError
from vlrl.models.vision_encoder import freeze_vision, is_vision_weight, with_targets


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("model.visual.blocks.0.attn.qkv.weight", True),  # Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V
        ("model.visual.merger.mlp.0.weight", True),
        ("base_model.model.model.visual.blocks.0.attn.qkv.base_layer.weight", True),
        ("model.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", True),  # LLaVA, Gemma 3, InternVL
        ("model.multi_modal_projector.linear_1.weight", True),
        ("model.vision_model.embeddings.patch_embedding.weight", True),  # Idefics 3, SmolVLM
        ("model.connector.modality_projection.proj.weight", True),
        ("model.language_model.layers.0.self_attn.q_proj.weight", False),
        ("model.text_model.layers.0.mlp.up_proj.weight", False),
        ("lm_head.weight", False),
        ("model.language_model.audiovisual.weight", False),
    ],
)
def test_names(name, answer):
    assert is_vision_weight(name) == answer


def test_what_is_frozen_is_counted():
    model = load_model("tiny-random").model
    n_all = sum(p.numel() for p in model.parameters())
    n_vision = sum(p.numel() for name, p in model.named_parameters() if "visual" in name)
    assert freeze_vision(model) == f"vision weights are frozen: {n_vision:,} of {n_all:,} parameters"
    assert 0 < sum(p.numel() for p in model.parameters() if p.requires_grad) == n_all - n_vision


def test_a_model_whose_tower_is_unknown_is_refused():
    with pytest.raises(ModelError, match="Linear has no vision weights under a known name"):
        freeze_vision(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
def test_adapters(frozen, targets):
    config = LoraConfig(r=2, target_modules=targets)
    model = get_peft_model(load_model("tiny-random").model, with_targets(config, frozen))
    adapted = {name.rsplit(".", 1)[0] for name, module in model.named_modules() if name.endswith("lora_A")}
    assert any("language_model" in name for name in adapted)
    assert any("visual" in name for name in adapted) == (not frozen)
    assert not any("lm_head" in name for name in adapted)
    named = {name.rsplit(".", 1)[1] for name in adapted if "language_model" in name}
    assert named == (set(targets) if targets else {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
    assert config.exclude_modules is None, "the configuration given stays as it was"
    assert not config.target_modules if targets is None else config.target_modules == set(targets)


def test_no_adapters_stay_none():
    assert with_targets(None, True) is None
