"""The shared rollout against stock generation: the same tokens, every prompt and image once."""

from types import SimpleNamespace

import pytest
import torch
from plain_layout import EOS, SEVERAL, TEXT_ONLY, UNEQUAL, build, case, greedy, shared_tokens, stock_tokens
from transformers import CompileConfig
from transformers.modeling_outputs import CausalLMOutputWithPast

from vlrl.models.prefix_sharing import rollout as shared_rollout
from vlrl.models.prefix_sharing.groups import ImageBatch


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("batch", [UNEQUAL, SEVERAL, TEXT_ONLY], ids=["unequal", "several", "text"])
def test_greedy_tokens_equal_stock_generation(family, batch):
    model = build(family).eval()
    made = case(model, *batch)
    want = stock_tokens(model, made, greedy())
    assert len({tuple(row) for row in want[:, made.prompts.shape[1] :].tolist()}) > 1
    assert torch.equal(shared_tokens(model, made, greedy()), want)


def test_sampled_tokens_equal_stock_generation_under_the_same_seed():
    model = build().eval()
    made = case(model, *UNEQUAL)
    config = greedy()
    config.do_sample, config.top_k, config.temperature = True, 0, 1.1
    torch.manual_seed(5)
    want = stock_tokens(model, made, config)
    torch.manual_seed(5)
    assert torch.equal(shared_tokens(model, made, config), want)
    assert len({tuple(row) for row in want.tolist()}) == 8


def ending_rows(model, made):
    """A greedy config whose end token is one that some rows say early and others never."""
    tokens = stock_tokens(model, made, greedy())[:, made.prompts.shape[1] :]
    for end in tokens.flatten().tolist():
        hits = (tokens == end).any(dim=1)
        if hits.any() and not hits.all() and (tokens[:, :4] == end).any():
            config = greedy()
            config.eos_token_id = [EOS, end]
            return config
    raise AssertionError("no such token; choose another seed")


@pytest.mark.parametrize("every", [1, 3, 5])
def test_finished_rows_leave_without_changing_the_others(every):
    model = build().eval()
    made = case(model, *SEVERAL)
    config = ending_rows(model, made)
    want, rows = stock_tokens(model, made, config), []
    model.register_forward_pre_hook(lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    assert torch.equal(shared_tokens(model, made, config, drop_every=every), want)
    assert min(rows[1:]) < len(want) == max(rows[1:])
    config.min_new_tokens = 3  # counted anew in every call, so there must be one
    assert torch.equal(shared_tokens(model, made, config, drop_every=every), stock_tokens(model, made, config))


def test_every_prompt_and_image_is_prefilled_once():
    model = build().eval()
    made = case(model, *UNEQUAL)
    shapes, images = [], []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    model.model.visual.register_forward_hook(
        lambda module, args, kwargs, out: images.append(len(kwargs["grid_thw"])), with_kwargs=True
    )
    shared_tokens(model, made, greedy())
    assert shapes[0] == (2, made.prompts.shape[1] - 1)
    assert set(shapes[1:]) == {(8, 1)}
    assert sum(images) == 2


def test_a_static_cache_decodes_the_same_tokens():
    model = build().eval()
    made = case(model, *UNEQUAL)
    with torch.no_grad():
        cache = shared_rollout.prefill(model, made.prompts, made.prompt_mask, made.groups, made.image_batch)
        static = shared_rollout.static_cache(cache, model.config, 4, made.prompts.shape[1] + 12)
        assert static.get_max_length() % shared_rollout.CACHE_MULTIPLE == 0
        model.model.rope_deltas = torch.tensor([[g.position_delta] for g in made.groups]).repeat_interleave(4, 0)
        ids, mask = (x.repeat_interleave(4, 0) for x in (made.prompts, made.prompt_mask))
        got = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy(), **{shared_rollout.CACHE: static})
    assert torch.equal(got, stock_tokens(model, made, greedy()))


def test_generate_runs_its_decode_steps_through_the_graph(monkeypatch):
    """On CPU, with a recorder that runs the step again where a CUDA graph would replay it."""
    recorded = []

    def capture(run):
        out = CausalLMOutputWithPast(logits=torch.zeros(8, 1, 96))

        def replay():
            out.logits.copy_(run().logits)
            recorded.append(1)

        return out, replay

    model = build().eval()
    made = case(model, *UNEQUAL)
    config = greedy(compile_config=CompileConfig())
    config.compile_config._compile_all_devices = True
    monkeypatch.setattr(shared_rollout, "cuda_capture", capture)
    assert torch.equal(shared_tokens(model, made, config, graphs=True), stock_tokens(model, made, greedy()))
    assert len(recorded) == 12 - 2  # the first token comes of the prompt's last one, the second warms up
    assert "get_compiled_call" not in vars(model)


def test_a_graphed_forward_refills_its_inputs_and_replays():
    calls = []

    def forward(x, masks, cache):
        cache.append(x + masks["full"])
        return SimpleNamespace(logits=x * masks["full"])

    def capture(run):  # stands in for a CUDA graph: recorded once, repeated on the same tensors
        result = run()
        calls.append("captured")

        def replay():
            result.logits.copy_(run().logits)
            calls.append("replayed")

        return result, replay

    graphed, cache = shared_rollout.GraphedForward(forward, capture), []
    for step in range(1, 5):
        out = graphed(x=torch.full((2,), float(step)), masks={"full": torch.tensor(10.0 * step)}, cache=cache)
        assert out.logits.tolist() == [10.0 * step * step] * 2
    assert calls == ["captured", "replayed", "replayed", "replayed"]
    with pytest.raises(RuntimeError, match="changed its shape"):
        graphed(x=torch.ones(3), masks={"full": torch.tensor(1.0)}, cache=cache)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_gpu_graph_decoding_says_the_tokens_of_stock_generation():
    model = build().eval().cuda()
    made = case(model.cpu(), *UNEQUAL)
    model.cuda()
    for name in ("ids", "mask", "prompts", "prompt_mask"):
        setattr(made, name, getattr(made, name).cuda())
    made.image_batch = ImageBatch(made.image_batch.pixel_values.cuda(), made.image_batch.grid_thw.cuda())
    want = stock_tokens(model, made, greedy())
    assert torch.equal(shared_tokens(model, made, greedy(), graphs=True), want)
    assert torch.equal(shared_tokens(model, made, greedy()), want)
