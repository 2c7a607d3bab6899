"""Masks of thought tokens on real ids of three tokenizers, the imitation loss, and collapse diagnostics."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import vlrl
from vlrl.gtr.diagnostics import (
    CollapseRule,
    StepNote,
    Window,
    edit_similarity,
    length_quantiles,
    probe_sensitivity,
    rates,
    self_bleu2,
    state_sensitivity,
    swapped,
    unique_share,
)
from vlrl.gtr.loss import thought_cross_entropy
from vlrl.gtr.masks import IGNORED, MaskError, completion_mask, imitation_labels, thought_span, token_spans, token_weights

CARDS = '{"cards": ["K", "4"], "formula": "4 *", "thoughts": "the \\"action\\": is près de ♥", "action": "10"}'
TAGS = "<think>K ♥ près, so 10</think><answer>10</answer>"
TEXTS = {
    "json": [CARDS, f" {CARDS}\n", '{"thoughts":"","action":"+","more":"x"}', '{"thoughts": "a",\n"action" : "+"}<|im_end|>'],
    "tags": [TAGS, f"\n{TAGS}<|im_end|>", "<think></think><answer>+</answer>"],
}


def spaces_in_words():
    """Sentence-piece style: spaces are part of words, unknown characters are bytes."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    every_byte = [f"<0x{n:02X}>" for n in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=every_byte, show_progress=False)
    tokenizer.train_from_iterator([CARDS.replace("♥", "").replace("è", "e"), '"action": "action": "action": ", "'] * 5, trainer)
    return tokenizer


def single_bytes():
    """No merges at all: a character beyond ASCII is several tokens."""
    tokenizer = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZERS = {
    "tiny": Tokenizer.from_file(str(Path(vlrl.__file__).parent / "models" / "assets" / "tiny" / "tokenizer.json")),
    "spaces": spaces_in_words(),
    "bytes": single_bytes(),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def decode_with(tokenizer):
    return lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False)


@pytest.mark.parametrize("layout", TEXTS)
def test_the_ids_of_the_mask_decode_to_the_thought_and_never_to_the_action(tokenizer, layout):
    decode = decode_with(tokenizer)
    for text in TEXTS[layout]:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        mask = completion_mask(ids, decode, layout)
        whole = decode(ids)
        start, end = thought_span(whole, layout)
        n_first, n_kept = mask.index(True), sum(mask)
        assert mask == [False] * n_first + [True] * n_kept + [False] * (len(mask) - n_first - n_kept), "one run of tokens"
        kept = "".join(whole[a:b] for (a, b), inside in zip(token_spans(ids, decode), mask, strict=True) if inside)
        thought = whole[start:end]
        # A token that straddles a border belongs to the outside.
        assert kept in thought
        assert len(thought) - len(kept) <= 14
        if tokenizer is TOKENIZERS["bytes"]:
            assert kept == thought
        assert '"action"' not in kept.replace('\\"action\\"', "")
        assert "<answer>" not in kept


def test_spans_tile_the_text(tokenizer):
    decode = decode_with(tokenizer)
    for text in ("", "a", "♥", "près ♥ de ♥♥", CARDS, TAGS, "日本語 and \U0001f0a1", "�♥"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        spans = token_spans(ids, decode)
        assert len(spans) == len(ids)
        assert "".join(decode(ids)[a:b] for a, b in spans) == decode(ids)
        assert all(a <= b for a, b in spans)


@given(st.text(max_size=40), st.sampled_from(list(TOKENIZERS)))
def test_spans_tile_any_text(text, name):
    decode = decode_with(TOKENIZERS[name])
    ids = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    assert "".join(decode(ids)[a:b] for a, b in token_spans(ids, decode)) == decode(ids)


@pytest.mark.parametrize(
    ("text", "layout", "thought"),
    [
        ('{"thoughts": "x", "action": "+"}', "json", '{"thoughts": "x", '),
        ('{"action": "+"} {"thoughts": "x", "action": "-"}', "json", '{"thoughts": "x", '),
        ('{"x": {"action": 1}, "action": "-"}', "json", '{"x": {"action": 1}, '),
        ('{"thoughts": "x"}', "json", None),
        ("no object", "json", None),
        ('{"thoughts": "x", "action": "+"', "json", None),
        (TAGS, "tags", "<think>K ♥ près, so 10</think>"),
        ("<think>a</think><think>b</think>", "tags", None),
        ("</think><think>", "tags", None),
        ("<think>endless", "tags", None),
    ],
)
def test_thought_spans(text, layout, thought):
    span = thought_span(text, layout)
    assert (span and text[slice(*span)]) == thought


def test_labels_hold_the_thought_alone(tokenizer):
    decode = decode_with(tokenizer)
    prompt = tokenizer.encode("see <think>this</think>", add_special_tokens=False).ids
    for layout, texts in TEXTS.items():
        for text in texts[:1]:
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            labels = imitation_labels(prompt, ids, decode, layout)
            assert labels[: len(prompt)] == [IGNORED] * len(prompt)
            kept = [label for label in labels if label != IGNORED]
            assert kept
            mask = completion_mask(ids, decode, layout)
            assert labels[len(prompt) :] == [token if inside else IGNORED for token, inside in zip(ids, mask, strict=True)]


def test_an_empty_mask_and_a_missing_thought_are_loud():
    decode = {0: "<think>", 1: "</think><answer>", 2: '{"thoughts": "x", "action": "+"}'}
    with pytest.raises(MaskError, match="without a thought"):
        imitation_labels([1], [0], lambda ids: "".join(decode[i] for i in ids), "tags")
    with pytest.raises(MaskError, match="no token lies inside"):
        imitation_labels([1], [2], lambda ids: "".join(decode[i] for i in ids))
    straddling = completion_mask([0, 1], lambda ids: "".join(decode[i] for i in ids), "tags")
    assert straddling == [True, False], "a token across the border belongs to the answer"
    with pytest.raises(ValueError, match="layout='yaml'"):
        thought_span("", "yaml")


def test_weights_of_the_policy_term():
    assert token_weights([True, True, False], 0.5) == [0.5, 0.5, 1.0]
    assert token_weights([False, False], 0.0) == [1.0, 1.0], "without a thought all tokens weigh one"
    with pytest.raises(ValueError, match=r"thought_weight=1.5"):
        token_weights([True], 1.5)


# ---- the loss


def test_the_loss_is_a_mean_over_records_of_a_mean_over_tokens():
    torch.manual_seed(0)
    logps = torch.randn(3, 5, dtype=torch.float64).requires_grad_()
    thought = torch.zeros(3, 5, dtype=torch.bool)
    thought[0, :3], thought[1, 1] = True, True
    loss = thought_cross_entropy(logps, thought)
    torch.testing.assert_close(loss, (-logps[0, :3].mean() - logps[1, 1]) / 2)
    loss.backward()
    expected = torch.zeros(3, 5, dtype=torch.float64)
    expected[0, :3], expected[1, 1] = -1 / 6, -1 / 2
    torch.testing.assert_close(logps.grad, expected)


def test_nothing_to_imitate_is_a_loss_of_zero_with_a_zero_gradient():
    logps = torch.randn(2, 4, requires_grad=True)
    loss = thought_cross_entropy(logps, torch.zeros(2, 4, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert logps.grad.abs().sum() == 0


# ---- diagnostics

NLTK = json.loads((Path(__file__).parent / "cases" / "self_bleu2.json").read_text())


@pytest.mark.parametrize(("thoughts", "value"), NLTK)
def test_self_bleu_is_what_nltk_says(thoughts, value):
    assert self_bleu2(thoughts) == pytest.approx(value, abs=1e-6)


def test_self_bleu_of_equal_different_and_few_thoughts():
    assert self_bleu2(["one two three"] * 5) == pytest.approx(1)
    assert self_bleu2(["a b", "c d", "e f"]) == 0
    assert self_bleu2([]) == self_bleu2(["x"]) == 1
    assert 0 < self_bleu2(["so next is 4", "so next is 5"]) < 1


@given(st.lists(st.text(alphabet="ab ", max_size=12), max_size=8))
def test_self_bleu_stays_in_range_and_ignores_order(thoughts):
    value = self_bleu2(thoughts)
    assert -1e-9 <= value <= 1 + 1e-9
    assert self_bleu2(thoughts[::-1]) == pytest.approx(value)


def test_unique_share_and_lengths():
    assert unique_share(["Go up", "go  UP", "go down", "x"]) == 0.75
    assert unique_share([]) == 1
    assert length_quantiles([]) == {}
    assert length_quantiles(list(range(101))) == {"mean": 50, "p10": 10, "p90": 90}


def test_sensitivity_of_a_constant_policy_is_zero_and_of_one_that_reads_is_not():
    assert probe_sensitivity(lambda images: ["always the same"] * len(images)) == 0
    assert probe_sensitivity(lambda images: [f"card {i}" for i in images]) == pytest.approx(0.5)
    assert state_sensitivity(["a b"], ["c d"]) == 1
    assert swapped(3) == [1, 2, 0]
    assert all(i != other for i, other in enumerate(swapped(64)))
    with pytest.raises(ValueError, match="cannot swap"):
        swapped(1)
    with pytest.raises(ValueError, match="probe states"):
        state_sensitivity([], [])


@pytest.mark.parametrize(
    ("a", "b", "similarity"),
    [("", "", 1), ("", "x", 0), ("a b c d", "a x c d", 0.75), ("a b", "a b c d", 0.5), ("b a", "a b", 0), ("a", "a", 1)],
)
def test_edit_similarity(a, b, similarity):
    assert edit_similarity(a, b) == similarity
    assert edit_similarity(b, a) == similarity


def test_rates_and_the_window():
    window = Window(size=3)
    for i in range(4):
        window.add(StepNote(f"thought {i}", n_thought_tokens=i, n_tokens=10, status="corrected", recognised=i > 1))
    window.add(StepNote(None, n_tokens=20, status="invalid", legal=False))
    saved = json.loads(json.dumps(window.state()))
    report = window.report()
    assert report["valid"] == report["legal"] == report["corrected"] == 0.8
    assert report["recognised"] == 0.5
    assert report["response_tokens_mean"] == 12
    assert report["thought_tokens_mean"] == 2
    assert report["unique_thoughts"] == 1
    assert 0 < report["self_bleu2"] < 1
    assert "valid" not in window.report(), "an interval without steps has no rates"
    assert "self_bleu2" in window.report(), "the window goes on"
    other = Window(size=3)
    other.restore(saved)
    assert other.report() == report
    assert rates([]) == {}
    assert Window().report() == {}


def test_what_counts_as_collapse():
    rule, first = CollapseRule(), {"self_bleu2": 0.5, "recognised": 0.8, "sensitivity": 0.6}
    assert rule.why(first, {"self_bleu2": 0.9, "recognised": 0.8, "sensitivity": 0.6}) is None
    assert "ignore the image" in rule.why(first, {"self_bleu2": 0.9, "sensitivity": 0.05})
    assert "recognition fell" in rule.why(first, {"self_bleu2": 0.9, "recognised": 0.3})
    assert rule.why(first, {"self_bleu2": 0.65, "sensitivity": 0.0}) is None
    assert rule.why({"self_bleu2": 0.75}, {"self_bleu2": 0.9, "sensitivity": 0.0}) is None
    assert rule.why({}, {}) is None
    templates = {"self_bleu2": 0.985, "recognised": 1.0, "sensitivity": 0.32}
    assert rule.why(templates, {"self_bleu2": 0.98, "recognised": 0.7, "sensitivity": 0.4}) is None
    assert rule.why(templates, {"self_bleu2": 0.7, "recognised": 0.0}) is None, "no longer alike"
    assert rule.why(templates, {"self_bleu2": 0.98, "recognised": 0.1}) == (
        "self-BLEU-2 stayed at 0.98 and recognition fell from 1.00 to 0.10"
    )
