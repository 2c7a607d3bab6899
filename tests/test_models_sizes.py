"""Models counted from their configuration: published ones have the weights that the hub shows, small ones those that they hold."""

import pytest

from vlrl.bench.speed.models import MODEL_SHAPES
from vlrl.models.published_shapes import PUBLISHED_MODELS
from vlrl.models.sizes import model_sizes


@pytest.mark.parametrize("name", PUBLISHED_MODELS)
def test_a_published_model_has_its_weights(name):
    published = PUBLISHED_MODELS[name]
    sizes = model_sizes(published.make_config(), name)
    assert sizes.n_weights == published.n_weights
    assert sizes.vision is not None
    assert 0 < sizes.n_vision < sizes.n_text
    assert sizes.n_linear < sizes.n_weights - sizes.n_embedding
    matrices = sizes.text.n * sizes.text.n_weights
    assert matrices == pytest.approx(sizes.n_text, rel=0.01), "the widths of a layer are read right"
    assert sizes.vision.n * sizes.vision.n_weights == pytest.approx(sizes.n_vision, rel=0.4)


def test_adapters_and_weights_of_the_demo_model(tiny):
    from peft import LoraConfig, get_peft_model

    from vlrl.models.load import load_model

    sizes = model_sizes(tiny.model.config, "tiny", peft_config=LoraConfig(r=4, target_modules="all-linear"))
    assert sizes.n_weights == sum(p.numel() for p in tiny.model.parameters())
    adapted = get_peft_model(load_model("tiny").model, LoraConfig(r=4, target_modules="all-linear"))
    assert sizes.n_adapter == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    frozen = model_sizes(tiny.model.config, "tiny", peft_config=LoraConfig(r=4), freeze_vision=True)
    assert 0 < frozen.n_adapter < sizes.n_adapter


def test_the_measured_shapes_are_these():
    from transformers import Qwen2_5_VLConfig

    from vlrl.bench.speed.measured import QWEN_3B, SMALL

    for shape, written in (("small", SMALL), ("qwen2.5-vl-3b-random", QWEN_3B)):
        counted = model_sizes(Qwen2_5_VLConfig(**MODEL_SHAPES[shape]), shape)
        assert (counted.text, counted.vision) == (written.text, written.vision)
        assert (counted.n_text, counted.n_vision, counted.n_embedding) == (
            written.n_text,
            written.n_vision,
            written.n_embedding,
        )
