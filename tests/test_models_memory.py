"""The memory model: hand computations, what must hold whatever the numbers, and figures that were measured on a GPU."""

from dataclasses import replace

import pytest

from vlrl.models.memory import ENGINES, GIB, TUNINGS, Job, Layers, ModelSizes, estimate
from vlrl.models.memory_lowering import lowered

pytestmark = pytest.mark.quick

TEXT = Layers(36, 2048, 2048, 256, 11008)
VISION = Layers(32, 1280, 1280, 1280, 3420, fused_qkv=True, windows=28, input_values=1176)
QWEN_3B = ModelSizes("3B", TEXT, VISION, 151_936, 2_774_773_760, 668_684_288, 311_164_928, 0, 3_400_000_000, 119_734_272)
N = QWEN_3B.n_weights


def test_weights_gradients_and_optimizer_by_hand():
    assert N == 3_754_622_976
    wide = estimate(QWEN_3B, Job(weight_bytes=4, n_micro=2))
    assert (wide.weights, wide.gradients, wide.optimizer) == (4 * N, 4 * N, 8 * N)
    assert wide.gathered == 2 * (N - QWEN_3B.n_embedding), "autocast keeps 16-bit copies of the matrices"
    narrow = estimate(QWEN_3B, Job(n_micro=2, reference=True))
    assert (narrow.weights, narrow.gradients, narrow.optimizer, narrow.reference) == (2 * N, 2 * N, 4 * N, 2 * N)
    lora = estimate(QWEN_3B, Job(tuning="lora"))
    assert lora.weights == 2 * N + 4 * QWEN_3B.n_adapter
    assert (lora.gradients, lora.optimizer) == (4 * QWEN_3B.n_adapter, 8 * QWEN_3B.n_adapter)
    qlora = estimate(QWEN_3B, Job(tuning="qlora"))
    assert qlora.weights == 3_400_000_000 * 0.5625 + (N - 3_400_000_000) * 2 + 2 * QWEN_3B.n_adapter


@pytest.mark.parametrize(("engine", "whole"), [("zero2", 2), ("zero3", 0), ("fsdp2", 0)])
def test_sharded_state_is_16_bytes_a_weight(engine, whole):
    """ZeRO paper, section 3: what is not whole lies in equal parts."""
    for n in (8, 64):
        memory = estimate(QWEN_3B, Job(engine=engine, processes=n, weight_bytes=4))
        buckets = 3 * 2 * 200_000_000 if engine == "zero2" else 0
        state = memory.weights + memory.gradients - buckets + memory.optimizer
        assert state == pytest.approx(N * (whole + (16 - whole) / n))


def test_ddp_holds_gradients_twice():
    """Its buckets are a copy of them."""
    alone, two = (estimate(QWEN_3B, Job(processes=n, weight_bytes=4)) for n in (1, 2))
    assert two.gradients == 2 * alone.gradients
    assert two.weights == alone.weights


def test_cache_by_hand():
    job = Job(rows_generated=64, prompt_tokens=100, image_tokens=400, completion_tokens=1000)
    assert estimate(QWEN_3B, job).cache == 64 * 1500 * 2 * 256 * 36 * 2


@pytest.mark.parametrize(("tokens", "measured_gib"), [(128, 26), (256, 32)])
def test_measured_on_a_gpu(tokens, measured_gib):
    """docs/speed.md, one H100: the bare update of a group of 8, without an optimizer, activations kept."""
    job = Job(completion_tokens=tokens, checkpointing=False, moment_bytes=0)
    assert estimate(QWEN_3B, job).update / GIB == pytest.approx(measured_gib, rel=0.1)


MORE = {"rows": 16, "rows_generated": 64, "prompt_tokens": 900, "image_tokens": 4096, "completion_tokens": 2048, "n_micro": 4}


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_more_never_takes_less(tuning, engine):
    job = Job(tuning=tuning, engine=engine, processes=8, weight_bytes=4 if tuning == "full" else 2)
    peak = estimate(QWEN_3B, job).peak
    assert peak > 0
    for name, value in MORE.items():
        assert estimate(QWEN_3B, replace(job, **{name: value})).peak >= peak, name
    for less in ({"freeze_vision": True}, {"rows": 4}, {"rows_generated": 1}):
        assert estimate(QWEN_3B, replace(job, **less)).peak <= peak, less
    for more in ({"checkpointing": False}, {"reference": True}, {"shared": False}, {"dense_mask": True}, {"dropout": True}):
        assert estimate(QWEN_3B, replace(job, **more)).peak >= peak, more
    if engine != "ddp":
        assert estimate(QWEN_3B, replace(job, processes=64)).peak <= peak


def test_the_peak_is_the_larger_phase():
    writes = estimate(QWEN_3B, Job(tuning="lora", rows_generated=512))
    assert (writes.phase, writes.peak) == ("rollout", writes.rollout)
    trains = estimate(QWEN_3B, Job())
    assert (trains.phase, trains.peak) == ("update", trains.update)


def test_what_to_lower_starts_with_what_costs_least():
    job = Job(weight_bytes=4, rows=32, rows_generated=128, completion_tokens=2048, checkpointing=False, reference=True)
    steps = lowered(QWEN_3B, job)
    words = [step for step, _ in steps]
    assert words[0].startswith("--gradient_checkpointing true")
    assert any(one.startswith("--per_device_train_batch_size 16 --gradient_accumulation_steps 2") for one in words)
    assert [one.startswith("--use_peft") for one in words].index(True) < [
        one.startswith("--max_pixels") for one in words
    ].index(True)
    peaks = [estimate(QWEN_3B, one).peak for _, one in steps]
    assert peaks == sorted(peaks, reverse=True)
    assert peaks[0] < estimate(QWEN_3B, job).peak
    assert not lowered(QWEN_3B, Job(tuning="qlora", image_tokens=64, completion_tokens=64, freeze_vision=True))


def test_text_alone_has_no_encoder():
    text = replace(QWEN_3B, vision=None, n_vision=0)
    assert estimate(text, Job(image_tokens=0)).peak < estimate(QWEN_3B, Job(image_tokens=0)).peak
