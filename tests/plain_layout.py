"""Small random models and batches in TRL's padded layout, for tests that compare the shared path with it."""

from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from trl.trainer.utils import add_fused_lm_head

from vlrl.models.prefix_sharing import groups as group_shared
from vlrl.models.prefix_sharing import rollout as shared_rollout
from vlrl.models.prefix_sharing.groups import ImageBatch
from vlrl.models.prefix_sharing.logprobs import group_logps

PAD, EOS, IMAGE, VIDEO, START, END = 0, 1, 2, 3, 4, 5
TEXT = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True, "pad_token_id": PAD, "eos_token_id": EOS,
    "bos_token_id": PAD, "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [2, 3, 3]},
}  # fmt: skip
TOKENS = {
    "image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START, "vision_end_token_id": END,
    "tie_word_embeddings": True,
}  # fmt: skip


def build(family="qwen2_5_vl", seed=0):
    patches = {"patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "in_channels": 3}
    if family == "qwen2_5_vl":
        vision = {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "window_size": 56, "out_hidden_size": 64,
            "fullatt_block_indexes": [1], **patches,
        }  # fmt: skip
        kind, config = Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig(text_config=TEXT, vision_config=vision, **TOKENS)
    elif family == "qwen2_vl":
        vision = {"depth": 2, "embed_dim": 64, "hidden_size": 64, "num_heads": 4, "mlp_ratio": 2, **patches}
        kind, config = Qwen2VLForConditionalGeneration, Qwen2VLConfig(text_config=TEXT, vision_config=vision, **TOKENS)
    else:
        vision = {
            "depth": 2, "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "out_hidden_size": 64,
            "num_position_embeddings": 64, "deepstack_visual_indexes": [0], **patches,
        }  # fmt: skip
        text = {**TEXT, "head_dim": 16, "rope_parameters": {**TEXT["rope_parameters"], "mrope_interleaved": True}}
        kind, config = Qwen3VLForConditionalGeneration, Qwen3VLConfig(text_config=text, vision_config=vision, **TOKENS)
    torch.manual_seed(seed)
    model = kind(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)  # peaked attention, so that a wrong mask shows
    model.tie_weights()
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    return model.train()


@dataclass
class Case:
    """A batch in the padded layout, prompts left and completions right padded, with its plan."""

    ids: torch.Tensor
    mask: torch.Tensor
    n_keep: int
    groups: list
    image_batch: ImageBatch
    images_of: list
    n_generations: int
    prompts: torch.Tensor
    prompt_mask: torch.Tensor
    advantages: torch.Tensor


def case(model, prompts, lengths, seed=1):
    """`prompts`: per prompt the image grids (patches high and wide) it holds and its number of text tokens; `lengths`: completions."""
    draw = torch.Generator().manual_seed(seed)
    ids, grids, images_of = [], [], []
    for sizes, n_text in prompts:
        own = torch.randint(6, 96, (n_text,), generator=draw).tolist()
        for high, wide in sizes:
            own = [*own[:2], START, *[IMAGE] * (high * wide // 4), END, *own[2:]]
        images_of.append(list(range(len(grids), len(grids) + len(sizes))))
        grids += [(1, high, wide) for high, wide in sizes]
        ids.append(own)
    grid = torch.tensor(grids) if grids else None
    pixels = torch.randn(int(grid.prod(-1).sum()), 1176, generator=draw) if grids else None
    g, n_keep, n_columns = len(lengths[0]), max(map(max, lengths)), max(map(len, ids))
    prompt_ids = torch.tensor([[PAD] * (n_columns - len(own)) + own for own in ids])
    prompt_mask = torch.tensor([[0] * (n_columns - len(own)) + [1] * len(own) for own in ids])
    completions = torch.randint(6, 96, (len(ids) * g, n_keep), generator=draw)
    keep = torch.arange(n_keep)[None] < torch.tensor(lengths).reshape(-1, 1)
    return Case(
        ids=torch.cat([prompt_ids.repeat_interleave(g, 0), completions * keep], dim=1),
        mask=torch.cat([prompt_mask.repeat_interleave(g, 0), keep.long()], dim=1),
        n_keep=n_keep,
        groups=group_shared.plan_groups(model, ids, [len(i) for i in images_of], grid, g),
        image_batch=ImageBatch(pixels, grid),
        images_of=images_of,
        n_generations=g,
        prompts=prompt_ids,
        prompt_mask=prompt_mask,
        advantages=torch.randn(len(ids) * g, 1, generator=draw),
    )


def plain_inputs(made, ids, mask, repeats):
    inputs = {"input_ids": ids, "attention_mask": mask}
    images = [i for own in made.images_of for _ in range(repeats) for i in own]
    if images:
        patches = made.image_batch.pixel_values.split(made.image_batch.grid_thw.prod(-1).tolist())
        inputs["pixel_values"] = torch.cat([patches[i] for i in images])
        inputs["image_grid_thw"] = made.image_batch.grid_thw[images]
        inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    return inputs


def plain(model, made):
    """TRL's layout: every row with its prompt and its image."""
    labels = made.ids.masked_fill(made.mask == 0, -100)
    labels[:, : -made.n_keep] = -100
    out = model(**plain_inputs(made, made.ids, made.mask, made.n_generations), labels=labels, fused_lm_head=True)
    return out.log_probs[:, -made.n_keep :], out.entropy[:, -made.n_keep :]


def packed(model, made, **options):
    return group_logps(model, made.ids, made.mask, made.n_keep, made.groups, made.image_batch, entropy=True, **options)


def gradients(model, logps, advantages):
    model.zero_grad(set_to_none=True)
    (torch.exp(logps) * advantages + logps * advantages).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(model, made, **options):
    want, want_entropy = plain(model, made)
    want_grads = gradients(model, want, made.advantages)
    got, entropy = packed(model, made, **options)
    got_grads = gradients(model, got, made.advantages)
    assert want.abs().max() > 1
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, want_entropy, atol=1e-5, rtol=0)
    moved = {name for name, grad in want_grads.items() if grad.abs().max() > 0}
    assert moved == {name for name, grad in got_grads.items() if grad.abs().max() > 0}
    for name in moved:
        error = (got_grads[name] - want_grads[name]).norm() / want_grads[name].norm()
        assert error < 1e-4, f"{name}: {error}"
    return moved


ONE_IMAGE = ([([(8, 8)], 9)], [[7, 12, 5, 9]])
UNEQUAL = ([([(8, 12)], 9), ([(4, 8)], 17)], [[7, 1, 20, 9], [3, 11, 2, 16]])
SEVERAL = ([([(8, 8), (4, 12)], 9), ([(8, 8)], 11), ([], 13)], [[7, 4], [5, 6], [1, 9]])
TEXT_ONLY = ([([], 9), ([], 14)], [[7, 12, 5], [3, 1, 8]])


def stock_tokens(model, made, config):
    ids, mask = (x.repeat_interleave(made.n_generations, 0) for x in (made.prompts, made.prompt_mask))
    return model.generate(**plain_inputs(made, ids, mask, made.n_generations), generation_config=config)


def shared_tokens(model, made, config, **options):
    return shared_rollout.rollout(
        model, made.prompts, made.prompt_mask, made.groups, made.image_batch, made.n_generations, config, **options
    )


def greedy(**options):
    return GenerationConfig(
        max_new_tokens=12, do_sample=False, eos_token_id=EOS, pad_token_id=PAD, suppress_tokens=[IMAGE, VIDEO], **options
    )
