"""`--dry_run`: everything that a run knows before its weights are loaded, and the memory that it will take. Writes nothing.

Configuration, processor and data are read and checked as for training; the model is built without memory for its weights, so
that a folder that holds none will do. Not here: the run itself (`vlrl.train`), and what memory follows from
(`vlrl.training.memory_plan`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import PartialState

from vlrl.data.images import FramesTaken
from vlrl.models.inputs import measured, messages, n_shown
from vlrl.models.load import ModelInputs
from vlrl.models.memory import Job, Memory, ModelSizes, estimate
from vlrl.models.names import ModelError
from vlrl.models.prompt_lengths import PromptLengths
from vlrl.schema import Sample
from vlrl.training import banner, run_data, run_folder
from vlrl.training.config import Config
from vlrl.training.grpo.costs import held_back_of
from vlrl.training.held_out import overlap_line
from vlrl.training.memory_plan import (
    Device,
    PromptSize,
    cards_words,
    fits_device,
    job_of_run,
    longest_prompt,
    memory_words,
    other_ways,
    remedies_for,
    sizes_of_run,
    this_device,
)
from vlrl.training.monitor_options import check_gold_of_run
from vlrl.training.reward_models.door import say_reward_models
from vlrl.training.reward_models.prime_start import check_prime_folder
from vlrl.training.video_options import video_reading
from vlrl.training.weights import start_inputs

N_PROMPTS = 200
"""Samples whose prompts are measured for the longest."""


def show_dry_run(config: Config, say: Callable[..., None], n_processes: int) -> None:
    """Print what would run. Raises ConfigError, SampleError, ModelError for what would stop the run at its start."""
    asked = config.run
    if asked.data and asked.eval_data:
        say(banner.banner_line("data", overlap_line(asked.data, asked.eval_data, asked.image_root, list(config.tasks))))
    rows = run_data.read_data(config)
    rubric = run_data.choose_rubric(config, rows)
    held_back = held_back_of(config.regularisers, rubric.rewards, rows.known(config))
    source = str(asked.data or "drawn samples")
    check_gold_of_run(config.monitor.gold, rubric.rewards, config.tasks, rows.held_out, source)
    template: Any = config.grpo.chat_template_kwargs  # a dictionary once it is parsed
    about: dict[str, Any] = {"template": template, "weights": False, "videos": video_reading(config)}
    inputs = start_inputs(config.model, asked, trust_remote_code=config.grpo.trust_remote_code, **about)
    config, data, notes = run_data.prepare_data(config, rows, inputs, rubric)
    check_prime_folder(config.prime, inputs)
    sizes = sizes_of_run(config, inputs)
    say(banner.banner_line("model", model_words(inputs, sizes)))
    say(banner.banner_line("data", data.description))
    for note in [*banner.drawn_data_note(config, inputs), *notes]:
        say(banner.banner_line("note", note))
    say(banner.banner_line("rewards", ", ".join(reward.name for reward in rubric.rewards)))
    say_reward_models(rubric.rewards, say, config.prime)
    if held_back.words():
        say(banner.banner_line("held back", held_back.words()))
    first = data.held_out[0]
    say(banner.example_lines(first, config.tasks[first.task]))
    lengths = PromptLengths(inputs.processor, inputs.template)
    shown = prompt_size(first, config, lengths)
    say(banner.banner_line("tokens", tokens_words(first, shown, lengths)))
    if "grpo" in config.stages:
        say(banner.steps_line(config, n_processes, f"{steps_words(config, data.train.n)}; {data.length}"))
        some = (data.known(config) + data.held_out)[:N_PROMPTS]
        longest = longest_prompt([prompt_size(sample, config, lengths) for sample in some])
        device = this_device(config)
        job = job_of_run(config, inputs, longest, device, n_processes)
        say(banner.banner_line("memory", memory_lines(config, inputs, sizes, job, device)))
        if data.episodes:
            more = "steps of an episode are made while it is played; their images and earlier turns come on top of this"
            say(banner.banner_line("note", more))
    if "sft" in config.stages:
        say(banner.banner_line("note", "the memory of the supervised stage is not estimated"))
    say(f"\n{run_folder.config_text(config.values)}")


def model_words(inputs: ModelInputs, sizes: ModelSizes) -> str:
    """Name, size and box format, from the configuration alone."""
    adapters = f", adapters of {sizes.n_adapter / 1e6:.2f} M" if sizes.n_adapter else ""
    parts = f"language model {(sizes.n_weights - sizes.n_vision) / 1e6:.2f} M, vision encoder {sizes.n_vision / 1e6:.2f} M"
    return (
        f"{inputs.name}, {sizes.n_weights / 1e6:.2f} M parameters ({parts}){adapters}; boxes as {inputs.coords} (from"
        f" {inputs.coords_reason})"
    )


def prompt_size(sample: Sample, config: Config, lengths: PromptLengths) -> PromptSize:
    """Tokens of one sample's prompt."""
    words = messages(sample, config.tasks, n_shown(sample))
    sizes = measured(sample)
    images = lengths.shown_tokens(words, sizes)
    total = lengths.tokens_over(0, words, sizes) or 0
    return PromptSize(images, max(0, total - images))


def tokens_words(sample: Sample, size: PromptSize, lengths: PromptLengths) -> str:
    """What the shown prompt takes."""
    total, sizes = f"{size.image_tokens + size.text_tokens:,} of this prompt", measured(sample)
    if sizes and isinstance(sizes[0], FramesTaken):
        (width, height), n = sizes[0].size, len(sizes[0].places)
        return f"{total}; its video: {n} frames of {width}x{height} px = {size.image_tokens:,} tokens"
    images = [one for one in sizes if not isinstance(one, FramesTaken)]
    seen = ", ".join(f"{w}x{h} px = {lengths.image_tokens((w, h)):,} tokens" for w, h in images[:4])
    return total + (f"; its images: {seen}" if seen else "")


def steps_words(config: Config, n_samples: int) -> str:
    """How far the steps go through the samples."""
    steps = run_data.planned_steps(config, n_samples)
    grpo = config.grpo
    per_step = grpo.per_device_train_batch_size * PartialState().num_processes * grpo.gradient_accumulation_steps
    epochs = steps * per_step / config.group_size / max(n_samples, 1)
    return f"{steps:,} steps over {n_samples:,} samples, {epochs:.3g} epochs"


def memory_lines(config: Config, inputs: ModelInputs, sizes: ModelSizes, job: Job, device: Device) -> str:
    """The peak by part, whether it fits, what to lower where it does not, and the peaks of other ways to train."""
    memory: Memory = estimate(sizes, job)
    lines = [memory_words(memory, device), f"{tuning_words(job)}: {cards_words(memory)}"]
    if not fits_device(memory, device):
        steps = remedies_for(sizes, job, device)
        lines.append("to make it fit, in this order, each on top of the one before: " + "; ".join(steps))
    try:
        lines.append("other ways: " + other_ways(config, inputs, job))
    except (ModelError, ValueError) as error:  # adapters of this model cannot be counted: no reason to refuse this run
        lines.append(f"other ways could not be counted: {error}")
    return "\n".join(lines)


def tuning_words(job: Job) -> str:
    """What is estimated, in words."""
    names = {"full": "all weights", "lora": "LoRA", "qlora": "QLoRA"}
    engines = {"ddp": "", "zero2": ", ZeRO-2", "zero3": ", ZeRO-3", "fsdp2": ", FSDP2"}
    rows = f"{job.rows} completions of {job.completion_tokens} tokens on prompts of {job.prompt_length} at once"
    again = ", layers computed again" if job.checkpointing else ""
    return f"{names[job.tuning]}{engines[job.engine]}, {job.weight_bytes * 8}-bit weights, {rows}{again}"
