"""The packed pass against the plain layout: same log-probabilities, same gradients, whole groups."""

import pytest
import torch
from plain_layout import IMAGE, ONE_IMAGE, SEVERAL, TEXT_ONLY, UNEQUAL, assert_same, build, case, gradients, packed, plain

from vlrl.models.prefix_sharing import groups as group_shared
from vlrl.models.prefix_sharing import logprobs as packed_scoring
from vlrl.models.prefix_sharing.facts import takes_features, why_not
from vlrl.models.prefix_sharing.groups import Group, ImageBatch, NotShared


@pytest.mark.parametrize("batch", [ONE_IMAGE, UNEQUAL, SEVERAL, TEXT_ONLY], ids=["one", "unequal", "several", "text"])
def test_log_probs_and_gradients_equal_the_plain_layout(batch):
    model = build()
    moved = assert_same(model, case(model, *batch))
    assert any("visual" in name for name in moved) == (batch is not TEXT_ONLY)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_other_families_are_equal_too(family):
    model = build(family)
    assert_same(model, case(model, *SEVERAL))


@pytest.mark.parametrize("max_tokens", [40, 60, 10_000])
def test_streams_cut_by_a_token_budget_are_equal(max_tokens):
    model = build()
    made = case(model, *UNEQUAL)
    counts = made.mask[:, -made.n_keep :].sum(1).tolist()
    streams = packed_scoring.plan_streams(made.groups, counts, max_tokens)
    assert (len(streams) == 1) == (max_tokens == 10_000)
    assert sorted(row for stream in streams for piece in stream for row in piece.rows) == list(range(8))
    assert_same(model, made, max_tokens=max_tokens)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing(reentrant):
    model = build()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert_same(model, case(model, *UNEQUAL))


def test_lora_on_the_language_model_with_ready_features():
    from peft import LoraConfig, get_peft_model

    targets = r".*language_model.*\.(q_proj|v_proj|up_proj)"
    model = get_peft_model(build(), LoraConfig(r=4, init_lora_weights=False, target_modules=targets))
    made = case(model, *SEVERAL)
    moved = assert_same(model, made)
    assert moved
    assert all("lora" in name for name in moved)
    made.image_batch = group_shared.encode(model, made.image_batch)
    assert takes_features(model)
    assert assert_same(model, made, max_tokens=40) == moved


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_frozen_tower_s_features_stand_for_pixels(family):
    model = build(family)
    model.model.visual.requires_grad_(False)
    made = case(model, *SEVERAL)
    want, _ = packed(model, made)
    made.image_batch = ImageBatch(None, made.image_batch.grid_thw, group_shared.encode(model, made.image_batch).features)
    got, _ = packed(model, made)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    one = made.image_batch.inputs([1])["mm_encoder_outputs"]["image"]
    torch.testing.assert_close(one.pooler_output[0], made.image_batch.features.pooler_output[1])


def test_completions_masked_out_count_zero_and_keep_the_graph():
    model = build()
    made = case(model, *ONE_IMAGE)
    made.mask[1, -made.n_keep :] = 0
    assert_same(model, made)
    made.mask[:, -made.n_keep :] = 0
    got, _ = packed(model, made)
    assert got.shape == (4, made.n_keep)
    assert not got.any()
    grads = gradients(model, got, made.advantages)
    assert any("visual" in name for name in grads)
    assert not any(grad.any() for grad in grads.values())


def test_the_image_is_encoded_once_a_group():
    model = build()
    made = case(model, *UNEQUAL)
    seen = []
    model.model.visual.register_forward_hook(
        lambda module, args, kwargs, out: seen.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    packed(model, made)
    assert sum(seen) == 2
    plain(model, made)
    assert sum(seen) == 2 + 8


@pytest.mark.parametrize(
    ("n", "steps", "g", "near"), [(8, 1, 8, None), (16, 1, 8, None), (4, 2, 8, None), (4, 1, 8, "8"), (6, 4, 8, "4 or 8")]
)
def test_batch_sizes_that_tear_groups_apart_are_named(n, steps, g, near):
    problem = group_shared.sharing_problem(n, steps, g)
    assert problem is None if near is None else f"use {near}" in problem


@pytest.mark.parametrize("per_batch", [2, 4, 8])
def test_micro_batches_hold_whole_groups_in_the_given_order(per_batch):
    positions = torch.arange(5).expand(3, -1)
    groups = [Group(tuple(range(4 * g, 4 * g + 4)), (g,), positions) for g in range(4)]
    batches = group_shared.micro_batches(groups, [2, 0, 3, 1], per_batch)
    assert [row for rows, _ in batches for row in rows] == [8, 9, 10, 11, 0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7]
    for rows, own in batches:
        assert sorted(at for group in own for at in group.rows) == list(range(per_batch))
        for group in own:
            assert {rows[at] // 4 for at in group.rows} == set(group.images)


def test_masked_completions_are_left_out_of_streams_and_long_groups_are_cut_between_completions():
    group = Group((0, 1, 2, 3), (), torch.arange(10).expand(3, -1))
    other = Group((4, 5), (), torch.arange(6).expand(3, -1))
    plan = packed_scoring.plan_streams([group, other], [5, 0, 5, 5, 0, 0], 20)
    assert plan == [[(0, (0, 2))], [(0, (3,))], [(1, ())]]  # 15 and 6 tokens do not fit into 20
    assert packed_scoring.plan_streams([group, other], [5] * 6, None) == [[(0, (0, 1, 2, 3)), (1, (4, 5))]]
    assert packed_scoring.plan_streams([group], [50] * 4, 20) == [[(0, (row,))] for row in range(4)]


def test_what_cannot_be_shared_says_why():
    model = build()
    assert why_not(model) is None
    text = model.config.get_text_config()
    text.layer_types = ["sliding_attention", "full_attention"]
    assert why_not(model) is None, "windows are a matter of the mask"
    text.layer_types = ["linear_attention", "full_attention"]
    assert "layers of type linear_attention" in why_not(model, tried=True)
    text.layer_types, model.config.model_type = ["full_attention"], "some_new_vlm"
    assert "'some_new_vlm' was not compared with the plain pass" in why_not(model)
    assert why_not(model, tried=True) is None
    with pytest.raises(NotShared, match="ends in an image"):
        group_shared.plan_groups(build(), [[7, IMAGE]], [0], None, 1)


def test_dense_masks_cost_least_in_one_stream_for_short_completions_and_in_several_for_long_ones():
    model = build()
    group = Group(tuple(range(8)), (), torch.arange(100).expand(3, -1))
    assert packed_scoring.mask_budget(model.config, [group], [10] * 8) == 180
    assert packed_scoring.mask_budget(model.config, [group], [5000] * 8) == 5100
