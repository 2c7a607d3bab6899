"""Preprocessing that lets gradients through: equal to the real processors, or refused."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch.nn import functional
from torchvision.transforms.v2 import InterpolationMode

from vlrl.data.images import open_image
from vlrl.models.differentiable_images import (
    PILLOW_BITS,
    TOLERANCE,
    as_8_bit,
    as_raw,
    check_equal_output,
    differentiable,
    largest_difference,
    resize_8_bit,
    resize_weights,
)
from vlrl.models.names import ModelError

QWEN3 = {
    "patch_size": 16,
    "image_mean": [0.5] * 3,
    "image_std": [0.5] * 3,
    "size": {"shortest_edge": 65536, "longest_edge": 16777216},
}
PROCESSORS = {
    "Qwen2-VL and Qwen2.5-VL": lambda: transformers.Qwen2VLImageProcessor(),
    "Qwen2.5-VL, limited pixels": lambda: transformers.Qwen2VLImageProcessor(min_pixels=784, max_pixels=12544),
    "Qwen3-VL": lambda: transformers.Qwen2VLImageProcessor(**QWEN3),
    "Qwen2-VL by Pillow": lambda: transformers.Qwen2VLImageProcessorPil(),
    "GLM-4.1V": lambda: transformers.Glm4vImageProcessor(),
    "CLIP": lambda: transformers.CLIPImageProcessor(),
    "SigLIP": lambda: transformers.SiglipImageProcessor(),
    "SigLIP by Pillow": lambda: transformers.SiglipImageProcessorPil(),
    "LLaVA": lambda: transformers.LlavaImageProcessor(),
    "LLaVA-NeXT": lambda: transformers.LlavaNextImageProcessor(),
    "LLaVA-OneVision": lambda: transformers.LlavaOnevisionImageProcessor(),
    "Gemma 3": lambda: transformers.Gemma3ImageProcessor(),
    "InternVL": lambda: transformers.GotOcr2ImageProcessor(),
    "Llama 3.2 Vision": lambda: transformers.MllamaImageProcessor(),
    "Idefics 2": lambda: transformers.Idefics2ImageProcessor(),
    "Pixtral": lambda: transformers.PixtralImageProcessor(),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_output_is_the_processors_own_and_gradients_reach_the_image(name):
    processor = PROCESSORS[name]()
    made = differentiable(processor)
    road = open_image("synthetic:planning/test/0/3").resize((171, 93))
    expected = processor(images=[road], return_tensors="pt")
    raw = as_raw(np.asarray(road)).requires_grad_()
    found = made(images=[raw], return_tensors="pt")
    assert largest_difference(expected, found) < 1e-5, "a hundredth of what is allowed: rounding of floats alone"
    (gradient,) = torch.autograd.grad(found["pixel_values"].square().sum(), raw)
    assert torch.isfinite(gradient).all()
    # Processors that crop the middle never see the edges; all others see every pixel.
    assert (gradient.abs().sum(0) > 0).float().mean() > (0.4 if name in ("CLIP", "LLaVA") else 0.95)
    again = processor(images=[road], return_tensors="pt")
    assert largest_difference(expected, again) == 0, "the processor itself is left as it was"
    assert type(processor).__name__.startswith("Differentiable") is False


def test_the_embedded_models_processor(tiny):
    processor = tiny.processor.image_processor
    assert check_equal_output(processor, differentiable(processor), [(112, 112), (50, 300), (111, 37)]) < 1e-5


class Blurring(transformers.SiglipImageProcessor):
    """Blurs images, but not tensors."""

    def process_image(self, image, *args, **kwargs):
        if isinstance(image, Image.Image):
            image = image.reduce(2).resize(image.size)
        return super().process_image(image, *args, **kwargs)


class Cutting(transformers.SiglipImageProcessor):
    """Lets no gradient through."""

    def rescale_and_normalize(self, images, *args, **kwargs):
        return super().rescale_and_normalize(images.detach(), *args, **kwargs)


class Nearest(transformers.SiglipImageProcessor):
    resample = 0


@pytest.mark.parametrize(
    ("processor", "why"),
    [
        (Blurring, "Blurring: the differentiable form differs by"),
        (Cutting, "no gradient passes"),
        (Nearest, "has no differentiable form"),
        (transformers.Emu3ImageProcessor, "not an image processor of transformers' own backends"),
        (transformers.FuyuImageProcessor, "no pixel_values"),
    ],
)
def test_what_cannot_be_proven_is_refused(processor, why):
    with pytest.raises(ModelError, match=why):
        differentiable(processor())


@pytest.mark.parametrize("mode", [InterpolationMode.BILINEAR, InterpolationMode.BICUBIC])
@pytest.mark.parametrize("sizes", [(40, 28), (28, 40), (113, 28)])
def test_weights_are_those_of_an_antialiased_resize(mode, sizes):
    n_in, n_out = sizes
    line = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, size=(1, 1, n_in, 9)))
    expected = functional.interpolate(line, size=(n_out, 9), mode=mode.value, align_corners=False, antialias=True)
    found = resize_weights(n_in, n_out, mode, PILLOW_BITS) @ line[0, 0]
    assert (expected[0, 0] - found).abs().max() < 1e-3
    assert (resize_weights(n_in, n_out, mode, None).sum(1) - 1).abs().max() < 1e-3


def test_rounding_is_exact_forward_and_invisible_backward():
    x = torch.tensor([-3.0, 0.4, 0.5, 200.49, 300.0], requires_grad=True)
    y = as_8_bit(x)
    assert y.tolist() == [0, 0, 1, 200, 255]
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.tolist() == [0, 1, 1, 1, 0], "outside the range nothing changes the output"


def test_the_gradient_is_that_of_the_resize_without_rounding():
    raw = as_raw(np.asarray(open_image("synthetic:planning/test/0/1"))) * 0.5 + 64
    wanted = torch.randn(3, 84, 140, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    raw = raw.double().requires_grad_()
    found = torch.autograd.grad((resize_8_bit(raw, 84, 140, InterpolationMode.BICUBIC, None) * wanted).sum(), raw)[0]
    smooth = functional.interpolate(raw[None], size=(84, 140), mode="bicubic", align_corners=False, antialias=True)[0]
    expected = torch.autograd.grad((smooth * wanted).sum(), raw)[0]
    assert (found - expected).abs().max() < 1e-3 * expected.abs().max()
    assert TOLERANCE == 1e-3
