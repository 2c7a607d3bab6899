"""The embedded VLM: Qwen2.5-VL's real classes at about a million parameters, with a tokenizer of its own.

`random_model()` makes it with random weights, `load_embedded()` with those of a shipped cold start: `tiny` for single
questions, `tiny-cards` for card games. Both save to and load from a folder like any hub model, so nothing downstream knows that
it is tiny. Not here: what the cold starts were trained on (`vlrl.data.synthetic`) and how (`vlrl.training.sft`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from vlrl.models.names import EMBEDDED, RANDOM_SUFFIX, embedded_model

N_TOKENIZER_SAMPLES = 2000
INIT_STD = 0.06
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# The question stands before the images, so that image tokens can attend to it.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] if 'text' in part %}{{ part['text'] }}{% endfor %}"
    "{% for part in message['content'] if part['type'] in ('image', 'video') %}{{ '\n' if loop.first else '' }}"
    "<|vision_start|><|{{ part['type'] }}_pad|><|vision_end|>{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# One alternative a line: a run of tags; a fence; a JSON key with the brackets around it; the same in Python's quotes; the comma
# before a number; a list of named coordinates; a whole number; a sentence (so that fixed instructions cost one token); a word;
# anything else.
PIECES = (
    r"(?:</?[a-z]+>)+"
    r"|```(?:json)?\n?"
    r'|[\]\["{},]*"[a-z_0-9]+":[\["]?'
    r"|[\]\[{}, ]*'[A-Za-z]+': \[?"
    r"|, (?=[0-9])|\),?\("
    r"|[a-z][0-9](?:, ?[a-z][0-9])+"
    r"|[0-9]+"
    r"|[ ]?[A-Z][^.\n\"0-9<\[{]*\."
    r"|[ ]?[A-Za-z]+(?:_[A-Za-z]+)*"
    r"|<|[^A-Za-z0-9\s<]+"
    r"|\s+"
)
# Before those, for replies in card games: a JSON key with what stands around it; what is between two texts; a number or a
# sign of a formula.
CARD_PIECES = r'[\]\["{}, ]*"[a-z ]+": [\["]*|", "|[ ]?[0-9]+|[ ]?[-+*/()=](?![-+*/()=,])|'
PIECES_OF = {"tiny": PIECES, "tiny-cards": CARD_PIECES + PIECES}
"""Into what the tokenizer of an embedded model cuts a text before it merges bytes."""


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2048, pieces: str = PIECES) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `pieces`; every number from 0 to 1000 is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pieces), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    numbers = [str(n) for n in range(1001)] * 4
    tokenizer.train_from_iterator([*numbers, *texts], trainer=trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def build_processor(texts: Iterable[str], name: str = "tiny") -> Qwen2_5_VLProcessor:
    """Tokenizer (trained on `texts`) and image processor of the embedded model `name`."""
    limits: dict[str, Any] = {"min_pixels": 28 * 28, "max_pixels": EMBEDDED[name].max_pixels}
    make: Any = Qwen2_5_VLProcessor
    processor: Qwen2_5_VLProcessor = make(
        image_processor=Qwen2VLImageProcessor(**limits),
        tokenizer=train_tokenizer(texts, pieces=PIECES_OF[name]),
        video_processor=Qwen2VLVideoProcessor(**limits),
        chat_template=CHAT_TEMPLATE,
    )
    return processor


def build_config(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLConfig:
    tokenizer = processor.tokenizer
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    # A multiple of 8 keeps matrix shapes friendly; the few rows beyond the tokenizer are never labels.
    vocab_size = (len(tokenizer) + 7) // 8 * 8
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": vocab_size,
            "hidden_size": 128,
            "intermediate_size": 384,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [4, 6, 6]},
            "initializer_range": INIT_STD,
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 192,
            "num_heads": 2,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
            "initializer_range": INIT_STD,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def project_texts(name: str = "tiny") -> list[str]:
    """Prompts and right answers of synthetic samples, which the tokenizer of an embedded model is trained on."""
    from vlrl.data.synthetic import IMAGE_SIDE_PX
    from vlrl.schema import ModelView
    from vlrl.tasks import TASKS
    from vlrl.tasks.games import GAME_TASKS

    tasks = TASKS if name == "tiny" else {task: GAME_TASKS[task] for task in GAME_TASKS if task != "cards"}
    texts = []
    for task in tasks.values():
        for index in range(N_TOKENIZER_SAMPLES):
            sample = task.draw(0, "coldstart-tokenizer", index)
            size = [IMAGE_SIDE_PX, IMAGE_SIDE_PX]
            view = ModelView("resized_px", (IMAGE_SIDE_PX, IMAGE_SIDE_PX))
            sample = dataclasses.replace(sample, meta={**sample.meta, "image_size": size}, view=view)
            texts += [f"user\n{task.prompt(sample)}", f"assistant\n{task.reference(sample)}"]
    return texts


def random_model(
    seed: int, processor: Qwen2_5_VLProcessor | None = None, name: str = "tiny"
) -> tuple[Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor]:
    """Random weights from `seed`, every matrix drawn with std 0.06 (with the usual 0.02 it does not learn to locate)."""
    processor = processor or build_processor(project_texts(name), name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(build_config(processor))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=INIT_STD)
        _order_numbers(model, processor)
        model.tie_weights()
    tokenizer = processor.tokenizer
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model, processor


def _order_numbers(model: Qwen2_5_VLForConditionalGeneration, processor: Qwen2_5_VLProcessor) -> None:
    """Start the number tokens 0..1000 as Fourier features of their value, so that near numbers are near from the start.

    With random rows each coordinate has to be learnt by itself: mean IoU on one object after 200 steps was 0.16 that way and
    0.56 this way.
    """
    weights: torch.Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    ids = processor.tokenizer.convert_tokens_to_ids([str(n) for n in range(1001)])
    periods = torch.logspace(math.log10(8), math.log10(4000), weights.shape[1] // 2)
    angles = 2 * math.pi * torch.arange(1001)[:, None] / periods
    with torch.no_grad():
        weights[ids] = INIT_STD * math.sqrt(2) * torch.cat((angles.cos(), angles.sin()), dim=1)


def embedded_processor(name: str = "tiny") -> Qwen2_5_VLProcessor:
    """Tokenizer and image processor of one of `TINY_NAMES`: the shipped ones, or (before any are shipped) new ones."""
    embedded = embedded_model(name)
    if (embedded.assets / "tokenizer.json").is_file():
        return Qwen2_5_VLProcessor.from_pretrained(embedded.assets)
    return build_processor(project_texts(embedded.name), embedded.name)


def load_embedded(name: str, seed: int, processor: Any) -> Qwen2_5_VLForConditionalGeneration:
    """One of `TINY_NAMES` in float32: a shipped cold start, or (`...-random`) the same model untrained, drawn from `seed`."""
    embedded = embedded_model(name)
    if name.endswith(RANDOM_SUFFIX):
        return random_model(seed, processor, embedded.name)[0]
    return Qwen2_5_VLForConditionalGeneration.from_pretrained(embedded.assets, dtype=torch.float32)
