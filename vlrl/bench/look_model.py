"""For `vlrl data look --model_name_or_path`: the prompt as a model gets it, with its chat template and image tokens."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from vlrl.bench.look_page import AskedSample
from vlrl.bench.video_flags import reading_of
from vlrl.data.image_checks import shown_sizes
from vlrl.models.inputs import measured, messages, n_shown, prepare_sample
from vlrl.models.load import load_inputs
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.models.videos import video_notes
from vlrl.schema import Sample, Task


def prompts_of_model(args: argparse.Namespace, tasks: Mapping[str, Task]) -> Callable[[Sample], AskedSample]:
    """Sample -> how this model is asked, one placeholder an image; lines: tokens and image size. Raises ModelError."""
    limits = {"min_pixels": args.min_pixels, "max_pixels": args.max_pixels}
    inputs = load_inputs(args.model_name_or_path, videos=reading_of(args), **limits)

    forms = {name: getattr(args, name, None) for name in ("answer_format", "box_format")}

    def shown(sample: Sample) -> AskedSample:
        sizes = shown_sizes(sample)
        ready = prepare_sample(sample, inputs, sizes=sizes, **forms)
        said = messages(ready, tasks, n_shown(ready))
        text = inputs.processor.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        lengths = PromptLengths(inputs.processor)
        lengths.add(said, measured(ready, sizes))
        n_tokens = lengths.longer_than(0, lambda _: said)[0]
        facts = [f"prompt of {n_tokens:,} tokens, boxes in {ready.view.coords}"]
        if ready.view.input_size is not None:
            facts.append("the model sees {}x{} px".format(*ready.view.input_size))
        facts += video_notes([ready], inputs)
        return AskedSample(ready, str(text), facts)

    return shown
