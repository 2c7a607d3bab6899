"""A training step in the shared layout: which batches can take it, what is prepared once for a prompt, how it checks itself.

TRL asks for log-probabilities of padded rows, G of them with one prompt; a `BatchPlan` says which. What is not shared takes
TRL's own path, and the run prints why. Not here: the passes (`vlrl.models.prefix_sharing.groups`,
`vlrl.models.prefix_sharing.rollout`) and TRL's hooks (`vlrl.training.grpo`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vlrl.models.prefix_sharing import rollout as shared_rollout
from vlrl.models.prefix_sharing.attention import choose_kernel, use_attention
from vlrl.models.prefix_sharing.facts import TEXT_ATTENTION, base_of, facts_of, takes_features, unwrapped, why_not
from vlrl.models.prefix_sharing.groups import (
    Group,
    ImageBatch,
    NotShared,
    PromptBatch,
    encode,
    micro_batches,
    plan_groups,
    sharing_problem,
    token_types,
)
from vlrl.models.prefix_sharing.image_rows import PER_TOKEN, n_tiles
from vlrl.models.prefix_sharing.logprobs import group_logps
from vlrl.models.replaced_method import own_method, replaced_method
from vlrl.models.vision_encoder import is_vision_weight

DROP_EVERY = 16
"""Decoded rows that have ended leave the batch every so many tokens, where no graph is replayed."""
NOISE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""What log-probabilities may differ by in the self-check, beside four times TRL's own differences."""
VIDEO_PIXELS = "pixel_values_videos"
AUX_LOSS = "; update TRL's way: the loss that balances experts is of whole rows (--router_aux_loss_coef 0 shares it too)"
GRADIENT_BOUND = 1e-3
"""What gradients may differ by there, relative to their length (L2)."""


@dataclass(frozen=True)
class Prompt:
    """One distinct prompt, processed once. `pixel_values` (patches, values) and `grid_thw` (images, 3) of all its images, or
    None without any; `fields`: the arguments about its images of a model without grids, or about its images and videos."""

    ids: list[int]
    images: Any
    pixel_values: Tensor | None = None
    grid_thw: Tensor | None = None
    fields: Mapping[str, Tensor] | None = None

    @property
    def n_items(self) -> int:
        """Items of an `ImageBatch`."""
        return int(self.fields is not None) if self.grid_thw is None else len(self.grid_thw)

    @property
    def shows_video(self) -> bool:
        return VIDEO_PIXELS in (self.fields or {})

    @property
    def about(self) -> Mapping[str, Tensor]:
        """The model's arguments about what it shows, {} where it shows nothing."""
        if self.pixel_values is None or self.grid_thw is None:
            return self.fields or {}
        return {"pixel_values": self.pixel_values, "image_grid_thw": self.grid_thw}


def split_prompts(ids: Sequence[Sequence[int]], images: Sequence[Any] | None, fields: Mapping[str, Any]) -> list[Prompt]:
    """What TRL's tokenization returned for distinct prompts, prompt by prompt. Without grids, images of several prompts cannot
    be told apart, so that these come one by one, as those with videos do. Raises NotShared."""
    shown = [None] * len(ids) if images is None else list(images)
    grid_thw = fields.get("image_grid_thw")
    if VIDEO_PIXELS in fields or (grid_thw is None and fields.get("pixel_values") is not None):
        (own_ids,), (own_images,) = ids, shown
        about = {name: _tensor(name, value) for name, value in fields.items() if name not in PER_TOKEN}
        return [Prompt(list(own_ids), own_images, fields=about)]
    if grid_thw is None:
        return [Prompt(list(one), own_images) for one, own_images in zip(ids, shown, strict=True)]
    grid_thw, pixels = torch.as_tensor(grid_thw), torch.as_tensor(fields["pixel_values"])
    grids = torch.split(grid_thw, [len(own_images or ()) for own_images in shown])
    patches = torch.split(pixels, [int(grid.prod(dim=-1).sum()) for grid in grids])
    return [
        Prompt(list(one), own_images, *((own, grid) if len(grid) else ()))
        for one, own_images, own, grid in zip(ids, shown, patches, grids, strict=True)
    ]


def _tensor(name: str, value: Any) -> Tensor:
    """A processor's field, which it returns as a list of arrays where it was not asked for tensors. Raises NotShared."""
    try:
        if isinstance(value, list) and value and isinstance(value[0], Tensor):
            return torch.stack(value)
        return value if isinstance(value, Tensor) else torch.from_numpy(np.asarray(value))
    except (ValueError, RuntimeError, TypeError) as error:
        raise NotShared(f"{name} of a prompt's images has no single shape") from error


@dataclass(frozen=True)
class BatchPlan:
    """Rows that are scored together, in order: groups (their `rows` counted within these) and the images of all prompts."""

    groups: tuple[Group, ...]
    image_batch: ImageBatch

    @property
    def n_rows(self) -> int:
        return sum(len(group.rows) for group in self.groups)

    @property
    def shares(self) -> bool:
        """Whether some rows have a prompt in common. A plan of single rows says what each shows."""
        return any(len(group.rows) > 1 for group in self.groups)

    def of_single_rows(self, groups: Sequence[int]) -> BatchPlan:
        """A plan in which row i is alone and has the prompt of the group `groups[i]` of this one."""
        return replace(self, groups=tuple(replace(self.groups[g], rows=(row,)) for row, g in enumerate(groups)))

    def parts(self, order: Sequence[int], per_batch: int) -> list[tuple[list[int], BatchPlan]]:
        """Micro-batches of `per_batch` rows, groups in this order: the rows of this plan that each holds, and its own plan."""
        cut = micro_batches(self.groups, order, per_batch)
        return [(rows, BatchPlan(tuple(groups), self.image_batch)) for rows, groups in cut]

    def plain_fields(self, ids_BT: Tensor, image_token_id: int, video_token_id: int | None = None) -> dict[str, Any]:
        """TRL's arguments about images for these rows, with every image once a row, as TRL's own layout has it; and what it has
        no arguments for, about videos."""
        batch = self.image_batch
        items: dict[int, tuple[int, ...]] = {row: group.images for group in self.groups for row in group.rows}
        wanted = [item for row in range(self.n_rows) for item in items[row]]
        if isinstance(batch, PromptBatch):
            if not wanted:
                return {}
            types = {batch.token_types: token_types(ids_BT, image_token_id, video_token_id)}
            return {**batch.fields(wanted), **types, **batch.counts([items[row] for row in range(self.n_rows)])}
        if not wanted or batch.pixel_values is None:
            return {}
        found: dict[str, Any] = dict(batch.fields(wanted))
        if batch.token_types:
            found[batch.token_types] = (ids_BT == image_token_id).int()
        n_of = batch.n_images or (1,) * len(batch)
        found["num_images"] = [sum(n_of[item] for item in items[row]) for row in range(self.n_rows)]
        if batch.grid_thw is None:
            rows = [batch.fields(items[row]) if items[row] else {} for row in range(self.n_rows)]
            if tiles := n_tiles(rows, found["num_images"]):
                found["num_tiles"] = tiles
        return found


@dataclass
class Sharing:
    """How a run shares prompts and images, decided once.

    `kernel`: of the packed attention. `frozen`: the vision encoder's features serve all passes. `sharded`: the weights are.
    `graphs`: decode by CUDA graph. `off`: why nothing is shared, None while it is. `one_pass`: one forward per micro-batch,
    for wrappers that count forwards. `aux_loss`: the update takes whole rows, since the loss that balances experts is of all
    their tokens. `without`: features left out to measure them (`vlrl.bench.speed.plan.WITHOUT`).
    """

    kernel: str
    frozen: bool
    sharded: bool
    graphs: bool
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    off: str | None = None
    one_pass: bool = False
    without: frozenset[str] = frozenset()
    aux_loss: bool = False

    def line(self, by_row: bool = False) -> str:
        """The line a run prints at its start. `by_row`: for episodes, whose steps form a group where their states are equal."""
        if self.off is not None:
            return f"sharing   off: {self.off}"
        if by_row:
            return f"sharing   on: equal states of a batch run once per pass; attention kernel: {self.kernel}"
        vision = "once per batch (frozen)" if self.frozen else "once per pass"
        decode = "by CUDA graph" if self.graphs else "as in transformers" if self.sharded else "finished rows dropped"
        return (
            f"sharing   on: each prompt runs once per group; attention kernel: {self.kernel}; vision encoder: {vision};"
            f" decoding: {decode}{AUX_LOSS if self.aux_loss else ''}"
        )

    def plan(self, model: Any, prompts: Sequence[Prompt], n_generations: int, device: torch.device) -> BatchPlan:
        """The plan of a generation batch. Raises NotShared."""
        image_batch = ImageBatch()
        seen = [prompt for prompt in prompts if prompt.n_items]
        shown: tuple[Mapping[str, Tensor], ...] = ()
        n_items = [prompt.n_items for prompt in prompts]
        if any(prompt.shows_video for prompt in seen):
            shown = tuple({name: value.to(device) for name, value in prompt.about.items()} for prompt in seen)
            image_batch, n_items = PromptBatch(prompts=shown), [int(n > 0) for n in n_items]
        elif seen and seen[0].fields is not None:
            own = [{name: value.to(device) for name, value in (prompt.fields or {}).items()} for prompt in seen]
            n_images = [len(prompt.images or ()) for prompt in seen]
            image_batch = ImageBatch.of_prompts(own, n_images, facts_of(model).token_types)
        elif seen:
            pixels = torch.cat([prompt.pixel_values for prompt in seen if prompt.pixel_values is not None])
            grid = torch.cat([prompt.grid_thw for prompt in seen if prompt.grid_thw is not None])
            image_batch = ImageBatch(pixels.to(device), grid.to(device))
        ids = [prompt.ids for prompt in prompts]
        groups = plan_groups(model, ids, n_items, image_batch.grid_thw, n_generations, shown)
        return BatchPlan(tuple(groups), self.encoded(model, image_batch))

    def encoded(self, model: Any, image_batch: ImageBatch) -> ImageBatch:
        """The images of a generation batch, with their features where those serve all passes."""
        if not self.frozen:
            return image_batch
        with self.autocast():
            return encode(model, image_batch)

    def logps(self, model: Any, ids_BT: Tensor, mask_BT: Tensor, n_keep: int, plan: BatchPlan, entropy: bool) -> Any:
        """Log-probabilities and entropies of a plan's rows in one micro-batch."""
        return group_logps(
            model, ids_BT, mask_BT, n_keep, plan.groups, plan.image_batch,
            kernel=self.kernel, one_pass=self.one_pass, entropy=entropy, autocast=self.autocast,
        )  # fmt: skip

    def disagreement(
        self,
        model: Any,
        ids_BT: Tensor,
        mask_BT: Tensor,
        n_keep: int,
        plan: BatchPlan,
        plain: Callable[[Any, Tensor, Tensor, BatchPlan, int], Tensor],
    ) -> Disagreement:
        """Compare two completions of a group with TRL's layout, without dropout; gradients too, where they are
        wanted, in float32 and on whole weights.

        `plain(model, ids, mask, plan, rows at a time)` computes TRL's log-probabilities. A group with images is taken
        where there is one; two rows, since TRL's layout may need more memory than the run has.
        """
        first = max(plan.groups, key=lambda group: (bool(group.images), len(group.rows)))
        n_tokens = mask_BT[:, -n_keep:].sum(dim=1)
        rows = sorted(first.rows, key=lambda row: -int(n_tokens[row]))[:2]
        one = BatchPlan((replace(first, rows=tuple(range(len(rows)))),), plan.image_batch)
        ids, mask = ids_BT[rows], mask_BT[rows]
        with self.autocast():
            mixed = torch.is_autocast_enabled(ids.device.type)
            precision = torch.get_autocast_dtype(ids.device.type) if mixed else _dtype(model)
        exact = precision == torch.float32 and not self.sharded
        training = model.training
        model = model if self.sharded else unwrapped(model)
        model.eval()
        try:
            with torch.no_grad():
                shared, _ = self.logps(model, ids, mask, n_keep, one, entropy=False)
                together, apart = (plain(model, ids, mask, one, at_once) for at_once in (len(rows), 1))
            bound = 4 * float((together - apart).abs().max()) + NOISE.get(precision, 1e-2)
            gradients = 0.0
            watched = watched_weights(model) if exact and torch.is_grad_enabled() else []
            if watched:
                own, _ = self.logps(model, ids, mask, n_keep, one, entropy=False)
                other = plain(model, ids, mask, one, len(rows))
                gradients = gradient_gap(own, other, watched)
        finally:
            model.train(training)
        return Disagreement(float((shared - together).abs().max()), bound, gradients)


@dataclass(frozen=True)
class Disagreement:
    """The largest difference of log-probabilities between the two layouts, what it may be (four times TRL's own difference
    between rows together and one by one, and a constant for the precision), and the relative difference of gradients.
    `failure`: what the shared pass, or the comparison, died of."""

    logps: float = math.inf
    bound: float = 1.0
    gradients: float = 0.0
    failure: str = ""

    @property
    def excess(self) -> float:
        """Above 1 where the layouts disagree by more than rounding."""
        worst = max(self.logps / self.bound, self.gradients / GRADIENT_BOUND)
        return worst if math.isfinite(self.logps) and math.isfinite(self.gradients) else math.inf

    def __str__(self) -> str:
        if self.failure:
            return f"the shared pass failed: {self.failure}"
        return (
            f"the shared pass differs from TRL's by more than rounding: log-probabilities by {self.logps:.2g}"
            f" (rounding: {self.bound:.2g}), gradients by a share of {self.gradients:.2g} (rounding: {GRADIENT_BOUND})"
        )


def watched_weights(model: Any) -> list[Tensor]:
    """Trained weights whose gradients pass through all others: the vision encoder's first, the first and last of the rest."""
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad and p.is_floating_point()]
    vision, rest = ([p for name, p in trained if is_vision_weight(name) == is_vision] for is_vision in (True, False))
    return [*vision[:1], *rest[:1], *rest[1:][-1:]]


def gradient_gap(own_BT: Tensor, other_BT: Tensor, weights: Sequence[Tensor]) -> float:
    """The largest relative L2 difference of the gradients of two computations of the same values."""
    draw = torch.Generator().manual_seed(0)
    direction = torch.randn(own_BT.shape, generator=draw).to(own_BT)
    gaps = [0.0]
    grads = [torch.autograd.grad(made, weights, direction, allow_unused=True) for made in (own_BT, other_BT)]
    for a, b in zip(*grads, strict=True):
        if (a is None) != (b is None):
            return math.inf
        if a is not None and b is not None:
            gaps.append(float((a - b).norm() / b.norm().clamp(min=1e-12)))
    return max(gaps)


def _dtype(model: Any) -> torch.dtype:
    found: torch.dtype = next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    return found


def start_sharing(
    model: Any,
    reference: Any,
    *,
    mode: str,
    device: torch.device,
    compute_dtype: torch.dtype | None,
    sharded: bool,
    n_processes: int,
    batch: tuple[int, int, int],
    autocast: Callable[[], AbstractContextManager[Any]],
    named_kernel: str = "auto",
    aux_loss: bool = False,
) -> Sharing:
    """Decide for a run. `batch`: rows of a micro-batch, micro-batches a generation, completions a group. `reference`: the
    frozen copy that KL is measured against, or None. `named_kernel`: of `KERNELS`, or auto. `aux_loss`: of experts, in the
    update. Raises NotShared where `mode` is "on" and sharing cannot be, and where the named kernel cannot run."""
    why = "--group_shared off" if mode == "off" else why_not(model, tried=mode == "on") or sharing_problem(*batch)
    if mode == "on" and not why and aux_loss:
        why = "the loss that balances experts is computed on whole rows; set --router_aux_loss_coef 0"
    if mode == "on" and why:
        raise NotShared(f"--group_shared on: {why}")
    packed = not why and base_of(model).config.get_text_config()._attn_implementation == TEXT_ATTENTION
    if packed and reference is not None:
        use_attention(reference)
    try:
        kernel = choose_kernel(device, compute_dtype or _dtype(model), named_kernel)[0] if packed else "mask"
    except ValueError as error:
        raise NotShared(f"--group_shared_kernel {named_kernel}: {error}") from error
    if named_kernel not in ("auto", kernel):
        raise NotShared(f"--group_shared_kernel {named_kernel}: {why or 'the masks of this model are not plainly causal'}")
    frozen = not why and not sharded and takes_features(model) and is_frozen(model, reference)
    # A static cache for sliding layers wraps around, which a prompt that is copied into it whole does not.
    graphs = device.type == "cuda" and not sharded and (bool(why) or facts_of(model).window is None)
    # DDP looks at the last forward for weights without a gradient: after one without images it would skip the vision encoder.
    return Sharing(kernel, frozen, sharded, graphs, autocast, why, one_pass=sharded or n_processes > 1, aux_loss=aux_loss)


def is_frozen(model: Any, reference: Any) -> bool:
    """Whether the vision encoder stays as it is in the policy and equals the reference's, so that its features serve both."""
    own = {name: parameter for name, parameter in base_of(model).named_parameters() if is_vision_weight(name)}
    if not own or any(parameter.requires_grad for parameter in own.values()):
        return False
    if reference is None:
        return True
    other = dict(base_of(reference).named_parameters())
    return all(name in other and torch.equal(parameter.cpu(), other[name].cpu()) for name, parameter in own.items())


@contextmanager
def prefilled_once(model: Any, sharing: Sharing, plan: BatchPlan, n_generations: int) -> Iterator[None]:
    """Within, `model.generate` on rows that come G in a row with one prompt runs each prompt once (`shared_rollout.rollout`).

    Settings that manage the cache themselves (beams, a cache implementation) raise NotShared: ask `rollout_problem` first.
    """

    def generate(input_ids: Tensor, attention_mask: Tensor, generation_config: Any, **_: Any) -> Tensor:
        with own_method(model, "generate"):  # which the rollout calls
            return shared_rollout.rollout(
                model, input_ids[::n_generations], attention_mask[::n_generations], plan.groups, plan.image_batch,
                n_generations, generation_config, graphs=sharing.graphs,
                drop_every=0 if sharing.sharded or sharing.graphs else DROP_EVERY, autocast=sharing.autocast,
            )  # fmt: skip

    with replaced_method(model, "generate", generate):
        yield
