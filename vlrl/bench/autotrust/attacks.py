"""Attacks on the raw image of a question: PGD, BIM, C&W through a model's own preprocessing, and noise to compare with.

The objective is the next token after the prompt, restricted to the tokens of the possible answers, as in AutoTrust's released
program (arXiv 2412.15206). The result is an 8-bit image, which the measured model then sees. differs: the released program
answers from the unrounded image and truncates the one it saves; here values are rounded within the bound, and the answer to the
unrounded image is reported beside it (`right_unrounded`). An answer of several tokens is represented by its first, where the
first tokens of the answers differ; in the release each answer must be one token. Not here: which samples are attacked, and the
files (`vlrl.bench.autotrust.perturbed_images`).
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from vlrl.bench.autotrust.attack_settings import CONTROL, Attack, Target
from vlrl.data.images import open_image
from vlrl.data.synthetic import item_rng
from vlrl.models.differentiable_images import TOLERANCE, as_raw, differentiable, largest_difference
from vlrl.models.load import LoadedModel
from vlrl.models.names import ModelError

CW_RATE, CW_KAPPA, CW_TRADE_OFF, CW_EDGE = 1e-2, 0.0, 1.0, 1e-6


@dataclass(frozen=True)
class Aim:
    """One image to attack. `prompt`: the text of the user turn; `key`: names the item, for seeds and messages."""

    image: Image.Image
    prompt: str
    target: Target
    key: str


@dataclass(frozen=True)
class Attacked:
    """An attacked 8-bit image `[H, W, 3]`. `linf_px`, `l2_px`: the largest and the Euclidean change in grey levels; `loss_*`:
    of the right answer before and after; `right_*`: whether the right answer has the highest logit among the answers for the
    clean, the unrounded and the 8-bit image. Losses and the latter are None for random noise, which runs no model."""

    pixels_HWC: np.ndarray[Any, np.dtype[np.uint8]]
    linf_px: float
    l2_px: float
    loss_before: float | None = None
    loss_after: float | None = None
    right_clean: bool | None = None
    right_unrounded: bool | None = None
    right_saved: bool | None = None


class Attacker:
    """A model to attack. Raises ModelError where its image processor has no differentiable form, and in `attack` where that
    form gives other inputs than the processor for an image of the batch."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self.processor = copy.copy(loaded.processor)
        self.processor.image_processor = differentiable(loaded.processor.image_processor)
        forward = inspect.signature(loaded.model.forward).parameters
        self.options: dict[str, Any] = {"use_cache": False} | ({"logits_to_keep": 1} if "logits_to_keep" in forward else {})

    def attack(self, attack: Attack, aims: Sequence[Aim], seed: int) -> list[Attacked]:
        """Attack the images of one batch independently of each other. Raises ModelError."""
        cleans = [as_raw(np.asarray(aim.image)) for aim in aims]
        if attack.name == CONTROL:
            return [random_noise(clean, attack, aim.key, seed) for clean, aim in zip(cleans, aims, strict=True)]
        with _frozen(self.loaded.model):
            judged = Judged(self, aims, attack.bce)
            self._check(cleans, aims)
            device = self.loaded.device
            raw = [clean.to(device) for clean in cleans]
            with torch.no_grad():
                before = judged(raw)
            found = cw(judged, raw, attack) if attack.name == "cw" else steps(judged, raw, attack)
            saved = [rounded(x.cpu(), clean, attack.epsilon_px) for x, clean in zip(found, cleans, strict=True)]
            with torch.no_grad():
                after, eight_bit = judged(found), judged([x.to(device) for x in saved])
        return [
            Attacked(
                x.permute(1, 2, 0).to(torch.uint8).numpy(),
                float((x - clean).abs().max()),
                float((x - clean).double().square().sum().sqrt()),
                loss_before=float(before.loss_B[i]),
                loss_after=float(after.loss_B[i]),
                right_clean=bool(before.margin_B[i] > 0),
                right_unrounded=bool(after.margin_B[i] > 0),
                right_saved=bool(eight_bit.margin_B[i] > 0),
            )
            for i, (x, clean) in enumerate(zip(saved, cleans, strict=True))
        ]

    def inputs(self, processor: Any, images: Sequence[Any], aims: Sequence[Aim]) -> Any:
        """The model inputs of these images with the prompts of `aims`, padded on the left."""
        texts = []
        for aim in aims:
            content = [{"type": "image"}, {"type": "text", "text": aim.prompt}]
            turn: Any = [{"role": "user", "content": content}]
            texts.append(self.loaded.processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False))
        return processor(
            text=texts,
            images=[[image] for image in images],
            padding=True,
            padding_side="left",
            return_tensors="pt",
            add_special_tokens=False,
        )

    def _check(self, cleans: Sequence[torch.Tensor], aims: Sequence[Aim]) -> None:
        """Raises ModelError unless the differentiable processor gives the inputs of the model's own for these images."""
        expected = self.inputs(self.loaded.processor, [aim.image for aim in aims], aims)
        with torch.no_grad():
            difference = largest_difference(expected, self.inputs(self.processor, cleans, aims))
        if not difference <= TOLERANCE:
            raise ModelError(
                f"the differentiable preprocessing differs by {difference:.3g} from {self.loaded.name}'s own on"
                f" {aims[0].key} or another image of its batch ({TOLERANCE:g} is allowed); nothing was attacked"
            )


@dataclass(frozen=True)
class Judgement:
    """`loss_B`: the loss that an attack increases; `margin_B`: the right answer's logit minus the largest other one."""

    loss_B: torch.Tensor
    margin_B: torch.Tensor


class Judged:
    """Called with the raw images of a batch `[3, H, W]`: loss and margin of the model's next token for each right answer."""

    def __init__(self, attacker: Attacker, aims: Sequence[Aim], bce: bool) -> None:
        self.attacker, self.aims, self.bce = attacker, aims, bce
        self.ids = [self._first_ids(aim.target.words) for aim in aims]
        self.signed = [self._signed_ids(aim.target) for aim in aims] if bce else []

    def __call__(self, raw: Sequence[torch.Tensor]) -> Judgement:
        attacker = self.attacker
        inputs = attacker.inputs(attacker.processor, raw, self.aims).to(attacker.loaded.device)
        logits_BV = attacker.loaded.model(**inputs, **attacker.options).logits[:, -1].float()
        losses, margins = [], []
        for i, aim in enumerate(self.aims):
            chosen = logits_BV[i, self.ids[i]]
            right = aim.target.right
            others = torch.cat([chosen[:right], chosen[right + 1 :]])
            margins.append(chosen[right] - others.max())
            if self.bce:
                ids, wanted = self.signed[i]
                losses.append(functional.binary_cross_entropy_with_logits(logits_BV[i, ids], wanted.to(logits_BV)))
            else:
                losses.append(functional.cross_entropy(chosen[None], torch.tensor([right], device=chosen.device)))
        return Judgement(torch.stack(losses), torch.stack(margins))

    def _first_ids(self, words: Sequence[str]) -> list[int]:
        tokenizer = self.attacker.loaded.tokenizer
        ids = [tokenizer(word, add_special_tokens=False).input_ids[0] for word in words]
        if len(set(ids)) < len(ids):
            raise ModelError(
                f"the answers {', '.join(words)} do not begin with different tokens in {self.attacker.loaded.name}'s"
                " vocabulary, so no next token tells them apart; this attack cannot aim at them"
            )
        return ids

    def _signed_ids(self, target: Target) -> tuple[list[int], torch.Tensor]:
        """Answer tokens, and 1 for those of the right answer, else 0: four letters, or both spellings of yes and of no."""
        if not target.positive:
            return self._first_ids(target.words), functional.one_hot(torch.tensor(target.right), len(target.words))
        ids = self._first_ids((*target.positive, *target.negative))
        return ids, torch.tensor([1] * len(target.positive) + [0] * len(target.negative))


def steps(judged: Callable[[Sequence[torch.Tensor]], Judgement], clean: Sequence[torch.Tensor], attack: Attack) -> list[Any]:
    """PGD and BIM: steps of `alpha_px` along the sign of the gradient from the clean image, clipped to the bound and to
    0..255."""
    assert attack.epsilon_px is not None
    assert attack.alpha_px is not None
    x = [one.clone() for one in clean]
    for _ in range(attack.n_steps):
        x = [one.detach().requires_grad_() for one in x]
        gradients = torch.autograd.grad(judged(x).loss_B.sum(), x)
        x = [
            (one.detach() + attack.alpha_px * gradient.sign())
            .clamp(0, 255)
            .clamp(start - attack.epsilon_px, start + attack.epsilon_px)
            for one, gradient, start in zip(x, gradients, clean, strict=True)
        ]
    return [one.detach() for one in x]


def cw(judged: Callable[[Sequence[torch.Tensor]], Judgement], clean: Sequence[torch.Tensor], attack: Attack) -> list[Any]:
    """Carlini and Wagner: minimizes the squared distance (of values in 0..1) plus the right answer's margin, by Adam in tanh
    space; returns the last iterate."""
    if not attack.n_steps:
        return [one.clone() for one in clean]
    start = [(one / 255).clamp(CW_EDGE, 1 - CW_EDGE) for one in clean]
    free = [torch.atanh(2 * one - 1).requires_grad_() for one in start]
    optimizer = torch.optim.Adam(free, lr=CW_RATE)
    for _ in range(attack.n_steps):
        x = [(torch.tanh(w) + 1) / 2 for w in free]
        distance = torch.stack([(one - two).square().sum() for one, two in zip(x, start, strict=True)])
        margin_B = judged([255 * one for one in x]).margin_B
        total = (distance + CW_TRADE_OFF * margin_B.clamp(min=-CW_KAPPA)).sum()
        for w, gradient in zip(free, torch.autograd.grad(total, free), strict=True):
            w.grad = gradient
        optimizer.step()
    return [(255 * (torch.tanh(w) + 1) / 2).detach() for w in free]


def random_noise(clean: torch.Tensor, attack: Attack, key: str, seed: int) -> Attacked:
    """Every value moved by the whole strength, up or down by a seeded coin."""
    assert attack.epsilon_px is not None
    coins = item_rng("random noise", seed, key).integers(0, 2, size=tuple(clean.shape))
    moved = (clean + attack.epsilon_px * torch.from_numpy(2.0 * coins - 1).float()).clamp(0, 255)
    saved = rounded(moved, clean, attack.epsilon_px)
    change = saved - clean
    return Attacked(
        saved.permute(1, 2, 0).to(torch.uint8).numpy(), float(change.abs().max()), float(change.double().square().sum().sqrt())
    )


def rounded(x: torch.Tensor, clean: torch.Tensor, epsilon_px: float | None) -> torch.Tensor:
    """`x` in whole grey levels, no further from the clean image than the bound."""
    change = torch.round(x - clean)
    if epsilon_px is not None:
        change = change.clamp(-int(epsilon_px), int(epsilon_px))
    return (clean + change).clamp(0, 255)


def check_saved(path: str, clean: Image.Image, epsilon_px: float | None) -> float:
    """The largest change of any value, in grey levels, of the image in the file. Raises ModelError where it exceeds the
    bound."""
    saved, raw = open_image(path), np.asarray(clean, dtype=np.int16)
    if saved.size != clean.size:
        raise ModelError(f"{path}: is {saved.size}, the attacked image {clean.size}")
    linf = float(np.abs(np.asarray(saved, dtype=np.int16) - raw).max())
    if epsilon_px is not None and linf > epsilon_px:
        raise ModelError(f"{path}: a value differs by {linf:g} grey levels from the clean image, {epsilon_px:g} is the bound")
    return linf


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """Within the block the model is in evaluation mode and its weights have no gradients."""
    was_training, wanted = model.training, [p for p in model.parameters() if p.requires_grad]
    model.eval()
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        model.train(was_training)
