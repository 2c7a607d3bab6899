"""An image processor whose output can be differentiated by the raw image: what attacks on images need.

The model's own processor class runs, only its resize is replaced: by the same fixed-point resize that the processor does on
8-bit images, rounding included, through which gradients pass as if nothing were rounded. Cropping into tiles, padding,
normalising and cutting into patches stay the processor's own code. Nothing is assumed: `differentiable` compares both on
random images and refuses a processor whose output it does not repeat. Not here: attacks (`vlrl.bench.autotrust.attacks`).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import pil_torch_interpolation_mapping

from vlrl.models.names import ModelError

TOLERANCE = 1e-3
"""Of normalised pixel values; one of 256 grey levels is about 1.4e-2."""
CHECKED_SIZES = ((112, 112), (67, 131), (240, 176), (353, 509))
"""Height and width of the random images that a processor is compared on: kept, enlarged and reduced, both ways."""
PILLOW_BITS = 22
"""Binary places of a weight in Pillow's resize; PyTorch's 8-bit resize takes as many as fit into 16 bits."""


def _cubic(x: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -0.5."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def _linear(x: torch.Tensor) -> torch.Tensor:
    return (1 - x.abs()).clamp(min=0)


def _lanczos(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x.abs() < 3, torch.sinc(x) * torch.sinc(x / 3), torch.zeros_like(x))


RESIZE_FILTERS: dict[InterpolationMode, tuple[Callable[[torch.Tensor], torch.Tensor], int]] = {
    InterpolationMode.BILINEAR: (_linear, 1),
    InterpolationMode.BICUBIC: (_cubic, 2),
    InterpolationMode.LANCZOS: (_lanczos, 3),
}
"""Filter and its half width, in pixels of the coarser grid."""


@lru_cache(maxsize=64)
def resize_weights(n_in: int, n_out: int, mode: InterpolationMode, bits: int | None) -> torch.Tensor:
    """The matrix [n_out, n_in], float64, that resizes a line of pixels with antialiasing, its weights rounded to `bits` binary
    places (None: as many as fit into 16 bits), as the integer arithmetic of Pillow and PyTorch rounds them."""
    kernel, half_width = RESIZE_FILTERS[mode]
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = half_width * stretch
    weights = torch.zeros(n_out, n_in, dtype=torch.float64)
    for i in range(n_out):
        centre = scale * (i + 0.5)
        start, end = max(int(centre - support + 0.5), 0), min(int(centre + support + 0.5), n_in)
        drawn = kernel((torch.arange(start, end, dtype=torch.float64) - centre + 0.5) / stretch)
        weights[i, start:end] = drawn / drawn.sum()
    if bits is None:
        bits = next((n for n in range(22) if int(0.5 + float(weights.max()) * 2 ** (n + 1)) >= 2**15), 22)
    scale_up = 2.0**bits
    rounded: torch.Tensor = torch.sign(weights) * torch.floor(weights.abs() * scale_up + 0.5) / scale_up
    return rounded


def as_8_bit(values: torch.Tensor) -> torch.Tensor:
    """Rounded to whole numbers of 0..255; the gradient passes inside the range as if nothing were rounded."""
    inside = values.clamp(0, 255)
    return inside + (torch.floor(inside + 0.5) - inside).detach()


def resize_8_bit(
    images: torch.Tensor, height: int, width: int, mode: InterpolationMode, bits: int | None, down_first: bool = False
) -> torch.Tensor:
    """`[..., H, W]` of 0..255 to `[..., height, width]` in float64: across and then down (`down_first`: the other way round),
    each rounded as an 8-bit image is."""
    out = images.double()
    for down in (down_first, not down_first):
        if down and out.shape[-2] != height:
            out = as_8_bit(resize_weights(out.shape[-2], height, mode, bits).to(out.device) @ out)
        elif not down and out.shape[-1] != width:
            out = as_8_bit(out @ resize_weights(out.shape[-1], width, mode, bits).to(out.device).T)
    return out


@lru_cache(maxsize=256)
def pillow_goes_down_first(size: tuple[int, int], new: tuple[int, int], mode: InterpolationMode) -> bool:
    """Whether this Pillow resizes the columns before the rows: newer releases choose by the sizes, so this tries one."""
    pixels_HWC = np.random.default_rng(0).integers(0, 256, size=(*size, 3), dtype=np.uint8)
    filter_ = Image.Resampling[mode.name]
    resized = as_raw(Image.fromarray(pixels_HWC).resize((new[1], new[0]), resample=filter_))
    return not torch.equal(resize_8_bit(as_raw(pixels_HWC), *new, mode, PILLOW_BITS).float(), resized)


class _Resize(TorchvisionBackend):
    """Stands between a processor's class and its backend, so that every resize of the class ends here."""

    weight_bits: int | None = None

    def resize(self, image: torch.Tensor, size: Any, resample: Any = None, antialias: bool = True, **kwargs: Any) -> Any:
        mode = pil_torch_interpolation_mapping.get(resample, resample) or InterpolationMode.BILINEAR
        if mode not in RESIZE_FILTERS or not antialias:
            raise ModelError(f"a resize by {mode}, antialias={antialias} has no differentiable form here")
        shape = image.shape[-2:]
        empty = torch.empty((1, *shape), device="meta")
        height, width = super().resize(empty, size, resample=InterpolationMode.NEAREST, antialias=False, **kwargs).shape[-2:]
        if (height, width) == tuple(shape):
            return image
        by_pillow = self.weight_bits == PILLOW_BITS
        down_first = by_pillow and pillow_goes_down_first(tuple(shape), (height, width), mode)
        return resize_8_bit(image, height, width, mode, self.weight_bits, down_first)


def differentiable(processor: Any) -> Any:
    """A processor like `processor` that takes float images `[3, H, W]` of 0..255 and lets gradients through.

    Raises ModelError for one whose output is not repeated within `TOLERANCE` on random 8-bit images.
    """
    name = type(processor).__name__
    if isinstance(processor, TorchvisionBackend):
        made, bits = copy.copy(processor), None
    elif isinstance(processor, PilBackend):
        sibling = getattr(transformers, name.removesuffix("Pil"), None)
        if not (isinstance(sibling, type) and issubclass(sibling, TorchvisionBackend)):
            raise ModelError(f"{name} has no form that works on tensors, so nothing can be differentiated through it")
        settings = {key: value for key, value in processor.to_dict().items() if key != "image_processor_type"}
        made, bits = sibling(**settings), PILLOW_BITS
    else:
        raise ModelError(
            f"{name} is not an image processor of transformers' own backends (torchvision, PIL), whose steps can be repeated on"
            " tensors; white-box attacks need one"
        )
    kind = type(f"Differentiable{type(made).__name__}", (type(made), _Resize), {"weight_bits": bits})
    found: Any = object.__new__(kind)
    vars(found).update(vars(made))
    check_equal_output(processor, found)
    return found


def check_equal_output(processor: Any, made: Any, sizes: Sequence[tuple[int, int]] = CHECKED_SIZES) -> float:
    """The largest difference of both outputs on random 8-bit images. Raises ModelError above `TOLERANCE`."""
    name = type(processor).__name__
    worst = 0.0
    for height, width in sizes:
        pixels_HWC = np.random.default_rng([height, width]).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
        expected = processor(images=[Image.fromarray(pixels_HWC)], return_tensors="pt")
        raw_CHW = as_raw(pixels_HWC).requires_grad_()
        try:
            found = made(images=[raw_CHW], return_tensors="pt")
        except ModelError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ModelError(f"{name} cannot be repeated on float images: {error}") from error
        if "pixel_values" not in expected:
            raise ModelError(f"{name} makes {', '.join(expected)} and no pixel_values; only these can be attacked")
        difference = largest_difference(expected, found)
        if not difference <= TOLERANCE:
            raise ModelError(
                f"{name}: the differentiable form differs by {difference:.3g} from the processor on a random image of"
                f" {width}x{height} px ({TOLERANCE:g} is allowed), so an attack through it would attack another model"
            )
        if not found["pixel_values"].requires_grad:
            raise ModelError(f"{name}: no gradient passes from its pixel_values back to the image")
        worst = max(worst, difference)
    return worst


def largest_difference(expected: Any, found: Any) -> float:
    """Over all tensors of two processor outputs; infinity where names or shapes differ."""
    worst = 0.0
    if set(expected) != set(found):
        return math.inf
    for key in expected:
        one, two = expected[key], found[key]
        if not isinstance(one, torch.Tensor) or not isinstance(two, torch.Tensor):
            continue
        if one.shape != two.shape:
            return math.inf
        if one.numel():
            worst = max(worst, float((one.double() - two.detach().cpu().double()).abs().max()))
    return worst


def as_raw(pixels_HWC: Any) -> torch.Tensor:
    """An 8-bit image as float `[3, H, W]` of 0..255."""
    return torch.from_numpy(np.array(pixels_HWC, dtype=np.float32)).permute(2, 0, 1).contiguous()
