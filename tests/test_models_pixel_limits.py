"""`--min_pixels` and `--max_pixels` with every kind of image processor: kept, in numbers, or refused with what there is instead."""

from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from family_models import PINPOINTS, SQUARE, build
from PIL import Image

from vlrl.models.names import ModelError
from vlrl.models.pixel_limits import keep_grids, limit_pixels

TILES = {"size": SQUARE, "crop_to_patches": True, "min_patches": 1, "max_patches": 12}
PROCESSORS = {
    "area": lambda: hf.Qwen2VLImageProcessor(),
    "GLM's area": lambda: hf.Glm4vImageProcessor(),
    "tiles": lambda: hf.GotOcr2ImageProcessor(**TILES),
    "grids": lambda: hf.LlavaOnevisionImageProcessor(size=SQUARE, image_grid_pinpoints=PINPOINTS),
    "LLaVA-NeXT's grids": lambda: hf.LlavaNextImageProcessor(
        size={"shortest_edge": 56}, crop_size=SQUARE, image_grid_pinpoints=PINPOINTS
    ),
    "side": lambda: hf.Idefics3ImageProcessor(size={"longest_edge": 1456}, max_image_size={"longest_edge": 364}),
    "one size": lambda: hf.Gemma3ImageProcessor(size=SQUARE),
    "a crop": lambda: hf.CLIPImageProcessor(size={"shortest_edge": 56}, crop_size=SQUARE),
}


def pixels(images, made):
    """How many pixels of an image the model sees, thumbnails left out."""
    if "image_grid_thw" in made:
        return int(made["image_grid_thw"][0].prod()) * images.patch_size**2
    seen = made["pixel_values"]
    n = int(made["num_patches"][0]) if "num_patches" in made else seen.flatten(0, -4).shape[0]
    return (n - 1 or 1) * seen.shape[-1] * seen.shape[-2]


LIMITS = {"area": 50_000, "GLM's area": 50_000, "tiles": 4 * 3136, "grids": 6272, "LLaVA-NeXT's grids": 6272, "side": 728 * 728}


@pytest.mark.parametrize("kind", LIMITS)
def test_an_image_is_shown_within_the_limit(kind):
    images, config = PROCESSORS[kind](), SimpleNamespace(image_grid_pinpoints=PINPOINTS)
    picture = Image.new("RGB", (900, 850), "red")
    whole = pixels(images, images(images=[picture], return_tensors="pt"))
    limit = LIMITS[kind]
    assert whole > limit
    limit_pixels(SimpleNamespace(image_processor=images), 28 * 28 if "area" in kind else None, limit, config)
    shown = pixels(images, images(images=[picture], return_tensors="pt"))
    assert limit / 2 < shown <= limit
    again = type(images)(**{key: value for key, value in images.to_dict().items() if key != "image_processor_type"})
    assert pixels(again, again(images=[picture], return_tensors="pt")) == shown, "the saved processor keeps it"
    if "grids" in kind:
        assert config.image_grid_pinpoints == [[56, 112], [112, 56]]


@pytest.mark.parametrize(
    ("kind", "limits", "why"),
    [
        ("one size", (None, 9999), "--max_pixels 9999: Gemma3ImageProcessor has no pixel limits to set: .* every image at 56x56 px"),
        ("a crop", (784, None), "--min_pixels 784: CLIPImageProcessor has no pixel limits to set: .* every image at 56x56 px"),
        ("tiles", (None, 3000), "tiles of 3136 pixels .*give --max_pixels 3136 or more"),
        ("grids", (None, 6000), "one of 3 grids of tiles, of 6272, 12544 pixels"),
        ("side", (1000, None), "makes the longest side of every image 1456 px"),
        ("side", (None, 1000), "tiles of 364x364 px; give 132496 or more"),
        ("area", (10**6, 10**5), "exceeds the largest"),
    ],
)  # fmt: skip
def test_a_limit_that_cannot_be_kept_is_refused_with_what_there_is(kind, limits, why):
    with pytest.raises(ModelError, match=why):
        limit_pixels(SimpleNamespace(image_processor=PROCESSORS[kind]()), *limits)


@pytest.mark.parametrize("name", ["llava_onevision", "llava_next", "internvl"])
def test_a_limited_model_reads_the_images_that_its_processor_makes(name):
    model, processor = build(name)
    config = type(model.config)(**model.config.to_dict())
    limit_pixels(processor, None, 3136 if name == "internvl" else 6272, config)
    keep_grids(model, config)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    made = processor(text=[text], images=[[Image.new("RGB", (112, 100))]], return_tensors="pt")
    with torch.no_grad():
        assert model(**made).logits.isfinite().all()
