"""For `vlrl data look --model_name_or_path`: the prompt as a model gets it, with its chat template and image tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from vlrl.data.image_checks import shown_sizes
from vlrl.models.inputs import messages, n_shown, prepare_sample
from vlrl.models.load import load_inputs
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.schema import Sample, Task


def prompts_of_model(args: argparse.Namespace, tasks: Mapping[str, Task]) -> Callable[[Sample], tuple[str, list[str]]]:
    """Sample -> the text of its prompt, one placeholder an image; its length and image size as lines. Raises ModelError."""
    inputs = load_inputs(args.model_name_or_path, min_pixels=args.min_pixels, max_pixels=args.max_pixels)

    def shown(sample: Sample) -> tuple[str, list[str]]:
        sizes = shown_sizes(sample)
        ready = prepare_sample(sample, inputs, sizes=sizes)
        said = messages(ready, tasks, n_shown(ready))
        text = inputs.processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        lengths = PromptLengths(inputs.processor)
        lengths.add(said, sizes)
        n_tokens = lengths.longer_than(0, lambda _: said)[0]
        facts = [f"prompt of {n_tokens:,} tokens, boxes in {ready.meta['coords']}"]
        if "input_size" in ready.meta:
            facts.append("the model sees {}x{} px".format(*ready.meta["input_size"]))
        return str(text), facts

    return shown
