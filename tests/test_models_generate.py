import torch
from PIL import Image

from vlrl.models.generate import eos_ids, generate
from vlrl.models.inputs import prepare_sample
from vlrl.models.load import vision_token_ids
from vlrl.schema import Sample
from vlrl.tasks import TASKS


def samples(loaded, n, task="detection"):
    return [prepare_sample(TASKS[task].synthetic(0, "heldout", i), loaded) for i in range(n)]


def test_batch_size_and_order_do_not_change_the_words(tiny):
    some = samples(tiny, 7)
    one_by_one = generate(tiny, TASKS, some, max_new_tokens=48, batch_size=1)
    together = generate(tiny, TASKS, some, max_new_tokens=48, batch_size=5)
    assert [p.completion for p in one_by_one] == [p.completion for p in together]
    assert [p.id for p in together] == [s.id for s in some]
    backwards = generate(tiny, TASKS, some[::-1], max_new_tokens=48, batch_size=5)
    assert [p.completion for p in backwards] == [p.completion for p in together][::-1]


def test_text_images_and_video_of_several_tasks_in_one_batch(tiny, tmp_path):
    for i in range(3):
        Image.new("RGB", (60, 90), (40 * i, 90, 30)).save(tmp_path / f"{i}.png")
    film = Sample("film", "qa", "How many objects are there?", 0, video=str(tmp_path))
    some = [prepare_sample(film, tiny), *samples(tiny, 8, "qa"), *samples(tiny, 2), *samples(tiny, 2, "planning")]
    assert {len(sample.images) for sample in some} == {0, 1, 2}
    alone = generate(tiny, TASKS, some, max_new_tokens=32, batch_size=1)
    together = generate(tiny, TASKS, some, max_new_tokens=32, batch_size=len(some))
    assert [p.completion for p in together] == [p.completion for p in alone]
    assert len({p.completion for p in alone}) > 3


def test_truncation_is_told(tiny):
    (cut,) = generate(tiny, TASKS, samples(tiny, 1), max_new_tokens=3, batch_size=4)
    assert cut.truncated
    assert cut.n_tokens == 3
    (whole,) = generate(tiny, TASKS, samples(tiny, 1), max_new_tokens=64, batch_size=4)
    assert not whole.truncated
    assert whole.n_tokens < 64
    assert whole.completion.endswith("</answer>")


def test_vision_tokens_are_never_said(tiny):
    banned = vision_token_ids(tiny)
    bias = torch.zeros(tiny.model.lm_head.out_features)
    bias[banned] = 1e4
    handle = tiny.model.lm_head.register_forward_hook(lambda _m, _i, out: out + bias)
    said = generate(tiny, TASKS, samples(tiny, 2), max_new_tokens=20, batch_size=2)
    handle.remove()
    plain = generate(tiny, TASKS, samples(tiny, 2), max_new_tokens=20, batch_size=2)
    assert [p.completion for p in said] == [p.completion for p in plain]


def test_the_models_own_generation_defaults_do_not_leak_in(tiny, monkeypatch):
    expected = generate(tiny, TASKS, samples(tiny, 3), max_new_tokens=40, batch_size=3)
    for name, value in (
        ("do_sample", True),
        ("temperature", 5.0),
        ("top_k", 1),
        ("repetition_penalty", 3.0),
        ("max_length", 5),
    ):
        monkeypatch.setattr(tiny.model.generation_config, name, value)
    assert generate(tiny, TASKS, samples(tiny, 3), max_new_tokens=40, batch_size=3) == expected


def test_all_ends_count(tiny, monkeypatch):
    monkeypatch.setattr(tiny.model.generation_config, "eos_token_id", [5, 7])
    assert eos_ids(tiny) == sorted({5, 7, tiny.tokenizer.eos_token_id})
