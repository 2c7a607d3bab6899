"""Every packed kernel is one softmax over what the rule lets a token see; windows in one call equal the loop."""

from contextlib import nullcontext

import pytest
import torch
from plain_layout import SEVERAL, assert_same, build, case

from vlrl.models.prefix_sharing import attention as packed_attention
from vlrl.models.prefix_sharing.attention import GroupSpan
from vlrl.models.prefix_sharing.groups import NotShared
from vlrl.models.prefix_sharing.step import start_sharing

SPANS = (GroupSpan(0, 6, (3, 1, 4)), GroupSpan(14, 4, (5,)), GroupSpan(23, 7, ()), GroupSpan(30, 2, (2, 2)))


def test_the_mask_is_the_rule_written_out():
    mask = packed_attention.dense_mask([SPANS], torch.device("cpu"))[0, 0]
    want = torch.zeros(36, 36, dtype=torch.bool)
    for span in SPANS:
        for i in range(span.n_prompt):
            want[span.start + i, span.start : span.start + i + 1] = True
        at = span.start + span.n_prompt
        for n in span.n_completions:
            for i in range(n):
                want[at + i, span.start : span.start + span.n_prompt - 1] = True
                want[at + i, at : at + i + 1] = True
            at += n
    assert torch.equal(mask, want)
    assert mask.any(dim=1).all()


def scores(q, k, scale, causal):
    """(heads, queries, keys), causal aligned at the bottom right."""
    grouped = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    made = torch.einsum("qhd,khd->hqk", q, grouped) * scale
    n_q, n_k = made.shape[1:]
    hidden = torch.arange(n_k)[None] > torch.arange(n_q)[:, None] + n_k - n_q
    return made.masked_fill(hidden, -torch.inf) if causal else made


def sequences(lengths):
    cu_q, cu_k = lengths[0].tolist(), lengths[1].tolist()
    return [(slice(a, b), slice(c, d)) for a, b, c, d in zip(cu_q, cu_q[1:], cu_k, cu_k[1:], strict=False)]


class PlainKernel:
    """What flash kernels compute, written out: the log-sum-exp has no gradient, the backward takes output and log-sum-exp as given."""

    @staticmethod
    def forward(q, k, v, lengths, causal, scale):
        out, lse = torch.empty_like(q), q.new_empty(q.shape[1], q.shape[0])
        for at, keys in sequences(lengths):
            made = scores(q[at], k[keys], scale, causal)
            lse[:, at] = made.logsumexp(-1)
            grouped = v[keys].repeat_interleave(q.shape[1] // v.shape[1], dim=1)
            out[at] = torch.einsum("hqk,khd->qhd", made.softmax(-1), grouped)
        return out, lse

    @staticmethod
    def backward(d_out, q, k, v, out, lse, lengths, causal, scale):
        dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
        n_share = q.shape[1] // k.shape[1]
        for at, keys in sequences(lengths):
            p = torch.exp(scores(q[at], k[keys], scale, causal) - lse[:, at, None])
            vg, kg = (x[keys].repeat_interleave(n_share, dim=1) for x in (v, k))
            delta = (d_out[at] * out[at]).sum(-1).T[..., None]
            ds = p * (torch.einsum("qhd,khd->hqk", d_out[at], vg) - delta) * scale
            dq[at] = torch.einsum("hqk,khd->qhd", ds, kg)
            for total, made in (
                (dk, torch.einsum("hqk,qhd->khd", ds, q[at])),
                (dv, torch.einsum("hqk,qhd->khd", p, d_out[at])),
            ):
                total[keys] = made.unflatten(1, (-1, n_share)).sum(2)
        return dq, dk, dv


def qkv(n=36):
    torch.manual_seed(3)
    return [torch.randn(n, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]


def by_mask(q, k, v, spans=SPANS):
    mask = packed_attention.dense_mask([spans], torch.device("cpu"))[0, 0]
    made = scores(q, k, 0.3, False).masked_fill(~mask, -torch.inf)
    return torch.einsum("hqk,khd->qhd", made.softmax(-1), v.repeat_interleave(2, dim=1))


@pytest.mark.parametrize("spans", [SPANS, SPANS[:1], (GroupSpan(0, 7, ()),)], ids=["four groups", "one group", "no completion"])
def test_two_calls_merged_by_their_log_sum_exp_are_one_softmax(spans):
    n = spans[-1].suffix.stop
    q, k, v = qkv(n)
    want = by_mask(q, k, v, spans)
    weights = torch.randn_like(want)
    want_grads = torch.autograd.grad((want * weights).sum(), (q, k, v))
    made = packed_attention.layout(spans, "merge", torch.device("cpu"))
    got = packed_attention.MergedAttention.apply(q, k, v, made, 0.3, PlainKernel)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(torch.autograd.grad((got * weights).sum(), (q, k, v)), want_grads)


def test_gathered_keys_are_one_softmax(monkeypatch):
    def varlen(q, k, v, cu_q, cu_k, max_q, max_k, causal, scale):
        assert int(cu_q.diff().max()) == max_q
        assert int(cu_k.diff().max()) == max_k
        out = []
        for at, keys in sequences((cu_q, cu_k)):
            made = scores(q[at], k[keys], scale, causal).softmax(-1)
            out.append(torch.einsum("hqk,khd->qhd", made, v[keys].repeat_interleave(2, dim=1)))
        return torch.cat(out)

    monkeypatch.setattr(packed_attention, "varlen_kernel", lambda: ("emulated", varlen))
    q, k, v = qkv()
    want = by_mask(q, k, v)
    made = packed_attention.layout(SPANS, "gather", torch.device("cpu"))
    got, _ = packed_attention.packed_attention(None, *(x.transpose(0, 1)[None] for x in (q, k, v)), None, 0.3, made)
    torch.testing.assert_close(got[0], want)
    torch.testing.assert_close(
        torch.autograd.grad(got.sum() + got.square().sum(), (q, k, v)),
        torch.autograd.grad(want.sum() + want.square().sum(), (q, k, v)),
    )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_a_model_through_the_merged_kernel_equals_the_plain_layout(family, checkpointing, monkeypatch):
    monkeypatch.setattr(packed_attention, "FlashKernel", PlainKernel)
    model = build(family)
    names = packed_attention.use_attention(model)
    assert model.config.text_config._attn_implementation == names["text_config"] == packed_attention.TEXT_ATTENTION
    assert model.config._attn_implementation == "sdpa"
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    assert_same(model, case(model, *SEVERAL), kernel="merge")


def test_windows_in_one_call_equal_the_loop():
    grids = [(8, 8), (4, 12), (8, 12), (10, 6)]  # the last has windows cut by the image's edge
    model = build()
    made = case(model, [(grids, 9)], [[3, 4]])
    want = model.model.visual(made.image_batch.pixel_values, grid_thw=made.image_batch.grid_thw).pooler_output
    want_grads = torch.autograd.grad(want.square().sum(), list(model.model.visual.parameters()))
    assert packed_attention.use_attention(model, text=False) == {"vision_config": packed_attention.VISION_ATTENTION}
    calls = []
    sdpa = torch.nn.functional.scaled_dot_product_attention
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or sdpa(*a, **k))
        got = model.model.visual(made.image_batch.pixel_values, grid_thw=made.image_batch.grid_thw).pooler_output
    assert len(calls) < 8
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    got_grads = torch.autograd.grad(got.square().sum(), list(model.model.visual.parameters()))
    for a, b in zip(got_grads, want_grads, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_the_kernel_follows_device_and_dtype():
    cpu = torch.device("cpu")
    assert packed_attention.choose_kernel(cpu, torch.float32)[0] == "mask"
    assert packed_attention.choose_kernel(cpu, torch.float32, "mask") == ("mask", "--group_shared_kernel")
    refused = {"merge": "need CUDA", "gather": "need CUDA", "flex": "no gradient on a CPU", "fast": "known: auto, mask, merge"}
    for named, why in refused.items():
        with pytest.raises(ValueError, match=why):
            packed_attention.choose_kernel(cpu, torch.bfloat16, named)


def test_a_named_kernel_is_used_or_the_run_ends():
    model = build()
    packed_attention.use_attention(model)

    def start(mode, named):
        return start_sharing(
            model, None, mode=mode, device=torch.device("cpu"), compute_dtype=None, sharded=False, n_processes=1,
            batch=(4, 1, 4), autocast=nullcontext, named_kernel=named,
        )  # fmt: skip

    assert start("auto", "mask").kernel == "mask"
    for named, why in (("merge", "need CUDA"), ("flex", "no gradient on a CPU")):
        with pytest.raises(NotShared, match=f"--group_shared_kernel {named}: .*{why}"):
            start("auto", named)
    with pytest.raises(NotShared, match="--group_shared_kernel merge: --group_shared off"):
        start("off", "merge")


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_equals_the_dense_mask_without_gradients():
    """On a CPU it has none; compiled code is left out, which takes half a minute."""
    q, k, v = (x.detach() for x in qkv())
    made = packed_attention.layout(SPANS, "flex", torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        patch.setattr(packed_attention, "_flex", lambda: (create_block_mask, flex_attention))
        inputs = (x.transpose(0, 1)[None].contiguous() for x in (q, k, v))
        got, _ = packed_attention.packed_attention(None, *inputs, None, 0.3, made)
    torch.testing.assert_close(got[0], by_mask(q, k, v))
    with pytest.raises(ValueError, match="no packed kernel"):
        packed_attention.layout(SPANS, "dense", torch.device("cpu"))


def test_layouts_are_made_for_packed_kernels_alone():
    with pytest.raises(ValueError, match="no packed kernel"):
        packed_attention.layout(SPANS, "mask", torch.device("cpu"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["merge", "gather", "flex"])
def test_gpu_kernels_equal_the_dense_mask(kernel):
    torch.manual_seed(0)
    spans = (GroupSpan(0, 300, (128, 1, 60)), GroupSpan(489, 70, (33,)))
    inputs = [torch.randn(1, heads, 592, 128, device="cuda", dtype=torch.bfloat16) for heads in (16, 2, 2)]
    inputs = [x.requires_grad_() for x in inputs]
    exact_inputs = [x.detach()[0].transpose(0, 1).double().cpu().requires_grad_() for x in inputs]
    mask = packed_attention.dense_mask([spans], torch.device("cpu"))[0, 0]
    q, k, v = exact_inputs
    p = scores(q, k, 0.09, False).masked_fill(~mask, -torch.inf).softmax(-1)
    exact = torch.einsum("hqk,khd->qhd", p, v.repeat_interleave(8, dim=1))
    weights = torch.randn_like(exact)
    made = packed_attention.layout(spans, kernel, torch.device("cuda"))
    got, _ = packed_attention.packed_attention(None, *inputs, None, 0.09, made)
    got_grads = torch.autograd.grad((got[0].double() * weights.cuda()).sum(), inputs)
    want_grads = torch.autograd.grad((exact * weights).sum(), exact_inputs)
    pairs = [(got[0], exact), *((a[0].transpose(0, 1), b) for a, b in zip(got_grads, want_grads, strict=True))]
    errors = [float((a.double().cpu() - b).norm() / b.norm()) for a, b in pairs]
    print(kernel, "relative errors of output, dq, dk, dv:", errors)
    assert max(errors) < 1e-2
