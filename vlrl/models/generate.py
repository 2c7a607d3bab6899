"""Greedy completions of a set of samples, each exactly once, over one process or several."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm.auto import tqdm
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel

from vlrl.data.special_tokens import as_plain_text
from vlrl.envs.cards.playing import play_episodes
from vlrl.models.inputs import messages, open_shown
from vlrl.models.load import LoadedModel, vision_token_ids
from vlrl.models.row_sampling import RowSampling
from vlrl.models.videos import vision_arguments
from vlrl.schema import Prediction, Sample, Task


def begun_text(sample: Sample) -> str:
    """How the completion of a sample begins (`meta.begun`); mostly it begins with nothing."""
    return str(sample.facts.get("begun", ""))


def eos_ids(loaded: LoadedModel) -> list[int]:
    """Every id that ends a completion: the generation config's and the tokenizer's."""
    configured = loaded.model.generation_config.eos_token_id
    ids = [] if configured is None else [configured] if isinstance(configured, int) else list(configured)
    return sorted({*ids, loaded.tokenizer.eos_token_id})


def generate(
    loaded: LoadedModel,
    tasks: Mapping[str, Task],
    samples: Sequence[Sample],
    *,
    max_new_tokens: int,
    batch_size: int,
    model: PreTrainedModel | None = None,
    label: str = "generating",
    each: Callable[[list[Prediction]], None] | None = None,
) -> list[Prediction]:
    """Greedy completions in the order of `samples`, which `vlrl.models.inputs.prepare_sample` has prepared.

    Each sample is prompted by its own task. Prompts are left-padded, vision tokens cannot be sampled, and the model's own
    generation defaults are not used. Samples are dealt to the processes in turn; every rank calls `generate` equally often,
    as sharded models need. `model`: the unwrapped model to use, default `loaded.model`. `each`: called with this process'
    predictions of every batch.
    """
    state = PartialState()
    rank, world = state.process_index, state.num_processes
    mine = list(range(rank, len(samples), world))
    n_batches = math.ceil(math.ceil(len(samples) / world) / batch_size)
    done: list[tuple[int, Prediction]] = []
    for number in tqdm(range(n_batches), desc=label, disable=True if rank > 0 else None, leave=False):
        indices = mine[number * batch_size : (number + 1) * batch_size]
        batch = [samples[i] for i in indices] or [samples[0]]
        made = list(zip(indices, complete(loaded, tasks, batch, max_new_tokens, model), strict=False))
        done += made
        if each is not None:
            each([prediction for _, prediction in made])
    if world > 1:
        done = gather_object(done)
    return [prediction for _, prediction in sorted(done, key=lambda pair: pair[0])]


def complete(
    loaded: LoadedModel,
    tasks: Mapping[str, Task],
    batch: Sequence[Sample],
    max_new_tokens: int,
    model: PreTrainedModel | None = None,
    *,
    temperature: float = 0.0,
    seed: int = 0,
    row_keys: Sequence[str] | None = None,
) -> list[Prediction]:
    """Greedy completions of one batch, on this process alone; see `generate`. With a temperature they are sampled (top-p 1, no
    top-k), from `seed` and the batch's ids; with `row_keys` each at temperature 1 from its own key, whatever else is in the
    batch, which holds no episodes then. Episodes are played side by side, and their
    completion is the transcript (`max_new_tokens` holds for each reply). A completion that is begun (`meta.begun`) goes on from
    there: its text is whole, `n_tokens` counts the new tokens."""
    games = [i for i, sample in enumerate(batch) if tasks[sample.task].is_episode(sample)]
    single = [i for i in range(len(batch)) if i not in set(games)]
    made: dict[int, Prediction] = {}

    def ask(samples: Sequence[Sample]) -> list[Prediction]:
        if not temperature:
            return _answers(loaded, tasks, samples, max_new_tokens, model, row_keys=row_keys)
        with torch.random.fork_rng():
            key = hashlib.sha256(repr([seed, *(sample.id for sample in samples)]).encode()).digest()
            torch.manual_seed(int.from_bytes(key[:8], "big", signed=True))
            return _answers(loaded, tasks, samples, max_new_tokens, model, temperature)

    if single:
        made |= zip(single, ask([batch[i] for i in single]), strict=True)
    if games:
        made |= zip(games, play_episodes([batch[i] for i in games], ask), strict=True)
    return [made[i] for i in range(len(batch))]


def _answers(
    loaded: LoadedModel,
    tasks: Mapping[str, Task],
    batch: Sequence[Sample],
    max_new_tokens: int,
    model: PreTrainedModel | None,
    temperature: float = 0.0,
    row_keys: Sequence[str] | None = None,
) -> list[Prediction]:
    model = loaded.model if model is None else model
    ends = torch.tensor(eos_ids(loaded))
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {"do_sample": False}
    )
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        **sampling,
        max_new_tokens=max_new_tokens,
        eos_token_id=ends.tolist(),
        pad_token_id=loaded.tokenizer.pad_token_id,
        suppress_tokens=vision_token_ids(loaded),
        use_cache=True,
    )
    was_training = model.training
    model.eval()  # type: ignore[no-untyped-call]
    made = []
    for sample, ids in zip(batch, _complete(loaded, tasks, batch, model, config, row_keys), strict=True):
        ended = torch.isin(ids, ends).nonzero()
        n_tokens = int(ended[0]) + 1 if len(ended) else len(ids)
        text = loaded.tokenizer.decode(ids[:n_tokens], skip_special_tokens=True)
        made.append(Prediction(sample.id, f"{begun_text(sample)}{text}", n_tokens, truncated=not len(ended)))
    model.train(was_training)
    return made


def _complete(
    loaded: LoadedModel,
    tasks: Mapping[str, Task],
    batch: Sequence[Sample],
    model: PreTrainedModel,
    config: GenerationConfig,
    row_keys: Sequence[str] | None = None,
) -> torch.Tensor:
    """Completion ids `[batch, tokens]` on the CPU."""
    shown = [open_shown(sample) for sample in batch]
    prompts = [messages(sample, tasks, len(seen)) for sample, seen in zip(batch, shown, strict=True)]
    given: dict[str, Any] = {**loaded.template, "add_generation_prompt": True, "tokenize": False}
    texts = [
        loaded.processor.apply_chat_template(prompt, **given) + as_plain_text(sample, begun_text(sample))
        for prompt, sample in zip(prompts, batch, strict=True)
    ]
    inputs = loaded.processor(
        text=texts,
        **vision_arguments(loaded.processor, shown),
        padding=True,
        padding_side="left",
        return_tensors="pt",
        add_special_tokens=False,
    ).to(model.device)
    # `generate` fills what `config` leaves open from the model's own defaults, so those are set aside.
    own, model.generation_config = model.generation_config, config
    draws = None if row_keys is None else LogitsProcessorList([RowSampling(row_keys)])
    try:
        with torch.inference_mode():
            ids: torch.Tensor = model.generate(**inputs, generation_config=config, logits_processor=draws)  # type: ignore[operator]
    finally:
        model.generation_config = own
    return ids[:, inputs["input_ids"].shape[1] :].cpu()
