"""The packed pass and the shared rollout of every family that shares, against the plain ones, with its own processor."""

import pytest
import torch
from family_models import FAMILIES, build
from PIL import Image
from plain_layout import gradients
from test_prefix_attention import PlainKernel
from transformers import GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from vlrl.models.prefix_sharing import attention as packed_attention
from vlrl.models.prefix_sharing import rollout as shared_rollout
from vlrl.models.prefix_sharing.facts import COMPARED, facts_of, why_not
from vlrl.models.prefix_sharing.groups import NotShared, encode
from vlrl.models.prefix_sharing.image_rows import PER_TOKEN, told_image_counts
from vlrl.models.prefix_sharing.logprobs import group_logps
from vlrl.models.prefix_sharing.row_plans import plan_rows
from vlrl.models.prefix_sharing.step import BatchPlan, Sharing, split_prompts
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.training.grpo.mixed_modality import logps_of_mixed_rows

G, N = 3, 7
SIZES = ([(64, 48), (48, 80)], [(100, 50)], [])
TEXT = "where is it "
LENGTHS = (7, 3, 5, 1, 6, 7, 4, 7, 2)


def image(size, seed):
    draw = torch.Generator().manual_seed(seed)
    return Image.frombytes(
        "RGB", size, bytes(torch.randint(0, 256, (size[0] * size[1] * 3,), generator=draw, dtype=torch.uint8).tolist())
    )


@pytest.fixture(scope="module", params=[name for name in FAMILIES if name in COMPARED])
def made(request):
    """Model and processor of a family, three prompts (two images, one, none), and their plan."""
    if request.param == "smolvlm":
        pytest.importorskip("num2words", reason="its processor needs num2words")
    model, processor = build(request.param)
    add_fused_lm_head(model, temperature=0.9, outputs=("log_probs", "entropy"))
    prompts = []
    for number, sizes in enumerate(SIZES):
        images = [image(size, 10 * number + i) for i, size in enumerate(sizes)]
        words = [{"type": "image", "image": one} for one in images] + [{"type": "text", "text": TEXT * (number + 1)}]
        fields = processor.apply_chat_template(
            [[{"role": "user", "content": words}]], add_generation_prompt=True, tokenize=True, return_dict=True
        )
        ids = [list(fields.pop("input_ids")[0])]
        fields.pop("attention_mask")
        prompts += split_prompts(ids, [images], fields)
    sharing = Sharing("mask", False, False, False)
    return model, processor, prompts, sharing.plan(model, prompts, G, torch.device("cpu"))


def rows(prompts, processor):
    """Ids and mask of TRL's padded layout, with random completions."""
    pad = processor.tokenizer.pad_token_id
    longest = max(len(prompt.ids) for prompt in prompts)
    draw = torch.Generator().manual_seed(3)
    ids, mask = [], []
    for number, prompt in enumerate(prompts):
        for g in range(G):
            n = LENGTHS[number * G + g]
            empty = longest - len(prompt.ids)
            text = torch.randint(300, 900, (N,), generator=draw).tolist()[:n]
            ids.append([pad] * empty + prompt.ids + text + [pad] * (N - n))
            mask.append([0] * empty + [1] * (len(prompt.ids) + n) + [0] * (N - n))
    return torch.tensor(ids), torch.tensor(mask)


def plain(model, ids, mask, plan):
    fields = plan.plain_fields(ids, model.config.image_token_id)
    counts, _, _ = (fields.pop(name, None) for name in ("num_images", "num_tiles", "batch_num_images"))
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-N] = -100
    with told_image_counts(model, counts):
        out = model(input_ids=ids, attention_mask=mask, **fields, labels=labels, fused_lm_head=True)
    return out.log_probs[:, -N:]


def assert_same(model, want, got):
    weights = torch.randn(want.shape, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    want_grads, got_grads = gradients(model, want, weights), gradients(model, got, weights)
    moved = {name for name, grad in want_grads.items() if grad.abs().max() > 0}
    assert moved == {name for name, grad in got_grads.items() if grad.abs().max() > 0}
    norm = sum(grad.square().sum() for grad in want_grads.values()).sqrt()
    for name in moved:
        error = (got_grads[name] - want_grads[name]).norm() / max(want_grads[name].norm(), 1e-3 * norm)
        assert error < 1e-4, f"{name}: {error}"
    return moved


def test_log_probabilities_and_gradients_are_the_plain_ones(made):
    model, processor, prompts, plan = made
    assert why_not(model) is None
    ids, mask = rows(prompts, processor)
    model.train()
    want = plain(model, ids, mask, plan)
    got, _ = packed(model, ids, mask, plan)
    moved = assert_same(model, want, got)
    assert any("visual" in one or "vision" in one for one in moved)
    with torch.no_grad():
        torch.testing.assert_close(packed(model, ids, mask, plan, max_tokens=1)[0], want, atol=1e-5, rtol=0)


def packed(model, ids, mask, plan, **options):
    return group_logps(model, ids, mask, N, plan.groups, plan.image_batch, **options)


def test_micro_batches_hold_their_own_images(made):
    model, processor, prompts, plan = made
    ids, mask = rows(prompts, processor)
    model.eval()
    with torch.no_grad():
        want = plain(model, ids, mask, plan)
        for own, part in plan.parts([2, 0, 1], 2):
            torch.testing.assert_close(packed(model, ids[own], mask[own], part)[0], want[own], atol=1e-5, rtol=0)
            torch.testing.assert_close(plain(model, ids[own], mask[own], part), want[own], atol=1e-5, rtol=0)


def test_features_of_a_frozen_encoder_stand_for_pixels(made):
    model, processor, prompts, plan = made
    ids, mask = rows(prompts, processor)
    model.eval()
    with torch.no_grad():
        want = packed(model, ids, mask, plan)[0]
        ready = BatchPlan(plan.groups, encode(model, plan.image_batch))
        for own, part in [(list(range(9)), ready), *ready.parts([1, 2, 0], 3)]:
            torch.testing.assert_close(packed(model, ids[own], mask[own], part)[0], want[own], atol=1e-5, rtol=0)


def test_rows_of_trls_layout_become_the_same_groups(made):
    model, processor, prompts, plan = made
    ids, mask = rows(prompts, processor)
    fields = plan.plain_fields(ids, model.config.image_token_id)
    found = plan_rows(model, ids, mask, N, fields)
    assert [group.rows for group in found.groups] == [group.rows for group in plan.groups]
    model.eval()
    with torch.no_grad():
        want, got = (packed(model, ids, mask, one)[0] for one in (plan, found))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("order", [[2, 0, 1], [0, 2]], ids=["all", "two and none"])
def test_rows_of_a_processors_batch_keep_their_own_images(made, order):
    """As TRL has it, which runs all rows through the processor at once: some layouts cannot be split by counting."""
    model, processor, prompts, plan = made
    ids, mask = (one[::G] for one in rows(prompts, processor))
    words = [[*({"type": "image"},) * len(SIZES[i]), {"type": "text", "text": TEXT * (i + 1)}] for i in order]
    texts = [
        processor.apply_chat_template([{"role": "user", "content": one}], add_generation_prompt=True, tokenize=False)
        for one in words
    ]
    seen = processor(
        text=texts, images=[prompts[i].images for i in order], padding=True, padding_side="left", return_tensors="pt"
    )
    fields = {name: value for name, value in seen.items() if name not in ("input_ids", "attention_mask")}
    fields |= {
        name: torch.cat([fields[name], torch.zeros(len(order), N, dtype=torch.long)], 1) for name in PER_TOKEN if name in fields
    }
    own = seen["input_ids"].shape[1] + N
    fields["num_images"] = [len(SIZES[i]) for i in order]

    def trls(model, ids, mask, n_keep, batch_size, num_images=None, num_tiles=None, **fields):
        labels = ids.masked_fill(mask == 0, -100)
        labels[:, :-n_keep] = -100
        out = model(input_ids=ids, attention_mask=mask, **fields, labels=labels, fused_lm_head=True)
        return out.log_probs[:, -n_keep:], None, None

    model.eval()
    with torch.no_grad():
        want = packed(model, *rows(prompts, processor), plan)[0][::G][order]
        for size in (1, 2, None) if not facts_of(model).grids else (None,):
            got = logps_of_mixed_rows(trls, model, ids[order, -own:], mask[order, -own:], N, size, **fields)[0]
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_the_shared_rollout_says_the_tokens_of_generate(made):
    model, processor, prompts, plan = made
    ids, mask = (one[:, :-N] for one in rows(prompts, processor))
    fields = plan.plain_fields(ids, model.config.image_token_id)
    fields = {key: value for key, value in fields.items() if key not in ("num_images", "num_tiles")}
    ends = {"eos_token_id": processor.tokenizer.eos_token_id, "pad_token_id": processor.tokenizer.pad_token_id}
    config = GenerationConfig(
        max_new_tokens=12,
        do_sample=False,
        suppress_tokens=list(range(20)) + list(range(1840, model.get_input_embeddings().weight.shape[0])),
        **ends,
    )
    model.eval()
    want = model.generate(input_ids=ids, attention_mask=mask, generation_config=config, **fields)
    got = shared_rollout.rollout(model, ids[::G], mask[::G], plan.groups, plan.image_batch, G, config, drop_every=5)
    assert torch.equal(got, want)
    assert len({tuple(row) for row in want[:, ids.shape[1] :].tolist()}) == len(prompts)


def test_through_the_merged_kernel(made, monkeypatch):
    model, processor, prompts, plan = made
    if not facts_of(model).is_causal:
        assert packed_attention.use_attention(model) == {}
        return
    monkeypatch.setattr(packed_attention, "FlashKernel", PlainKernel)
    ids, mask = rows(prompts, processor)
    model.eval()
    own = model.config.text_config._attn_implementation
    with torch.no_grad():
        want = packed(model, ids, mask, plan)[0]
        packed_attention.use_attention(model)
        got = packed(model, ids, mask, plan, kernel="merge")[0]
    model.set_attn_implementation({"text_config": own})
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_prompts_have_their_measured_lengths(made):
    _, processor, prompts, _ = made
    lengths = PromptLengths(processor)
    words = [
        [{"role": "user", "content": [*({"type": "image"},) * len(sizes), {"type": "text", "text": TEXT * (i + 1)}]}]
        for i, sizes in enumerate(SIZES)
    ]
    for one, sizes in zip(words, SIZES, strict=True):
        lengths.add(one, sizes)
    assert lengths.longer_than(0, words.__getitem__) == {i: len(prompt.ids) for i, prompt in enumerate(prompts)}


def test_images_of_a_prompt_that_make_no_tensor_are_not_shared():
    with pytest.raises(NotShared, match="pixel_values of a prompt's images has no single shape"):
        split_prompts([[1, 2]], [["a", "b"]], {"pixel_values": [torch.zeros(3, 4, 4), torch.zeros(3, 4, 5)]})


def test_layers_with_a_running_state_are_not_shared_and_say_why():
    model, _ = build("qwen3_5")
    assert "layers of type linear_attention" in why_not(model, tried=True)
