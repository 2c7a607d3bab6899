"""The corrector that a run names, where its judges count, and the probe of how much its thoughts follow the image: made here,
used by the trainer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from vlrl.gtr import CheckpointCorrector, Corrector, OracleCorrector, RemoteCorrector, RemoteOptions
from vlrl.gtr.corrector import Request
from vlrl.gtr.diagnostics import probe_sensitivity
from vlrl.gtr.masks import thought_span
from vlrl.models.generate import complete
from vlrl.models.inputs import prepare_sample
from vlrl.models.load import LoadedModel, load_model
from vlrl.models.names import ModelError
from vlrl.rewards.budget import share_of
from vlrl.rewards.chat_client import DEFAULT_BASE, base_url
from vlrl.rewards.endpoint import api_key_of
from vlrl.rewards.judge import Place, is_judge, place_judges
from vlrl.tasks.rubric import Rubric
from vlrl.training.config import Config
from vlrl.training.options import ConfigError

AT_ONCE = 64
"""How many thoughts a checkpoint writes side by side."""


def make_corrector(config: Config, folder: Path, say: Callable[[str], None] = print) -> Corrector | None:
    """The corrector of `--corrector`, or None. Raises ConfigError for a checkpoint that cannot be loaded and for an
    endpoint without an address."""
    options = config.guide
    if not options.corrects or "grpo" not in config.stages:
        return None
    kind, _, name = options.corrector.partition(":")
    willing = options.invalid == "correct"
    if kind == "oracle":
        return OracleCorrector(solver=options.solver, correct_invalid=willing)
    if kind == "model":
        endpoint = replace(options.endpoint or RemoteOptions(name), solver=options.solver, correct_invalid=willing)
        return _remote(endpoint, folder / "corrections", say)
    return CheckpointCorrector(name, checkpoint_writer(config, name), correct_invalid=willing)


def _remote(options: RemoteOptions, folder: Path, say: Callable[[str], None]) -> RemoteCorrector:
    """The endpoint's corrector in this process, its cache and counts in `folder`; of limits it has its process' share."""
    if base_url(options.url) == DEFAULT_BASE and not api_key_of("corrector_url"):
        raise ConfigError(
            f"--corrector model:{options.model}: give --corrector_url (or set OPENAI_API_BASE); {DEFAULT_BASE} would need"
            " OPENAI_API_KEY"
        )
    state = PartialState()
    rank, n = state.process_index, state.num_processes
    own = replace(
        options,
        cache=folder / "cache",
        spent=folder / "spent" / f"rank-{rank}.json",
        max_calls=None if options.max_calls is None else share_of(options.max_calls, rank, n),
        max_cost=None if options.max_cost is None else options.max_cost / n,
    )
    try:
        return RemoteCorrector(own, report=say)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def start_judges(rubric: Rubric, folder: Path, say: Callable[[str], None] = print) -> None:
    """Where the judges among a run's rewards report and keep their counts: in its folder."""
    state = PartialState()
    counts = folder / "judge" if any(map(is_judge, rubric.rewards)) else None
    place_judges(Place(say, counts, state.process_index, state.num_processes))


def checkpoint_writer(config: Config, name: str) -> Callable[[Sequence[Request]], list[str]]:
    """A frozen model in this process that answers the prompts and images of requests; "" for a reply that did not end."""
    try:
        frozen = load_model(name, dtype=config.model.dtype, coords=config.run.coords)
    except (ModelError, OSError, ValueError) as error:
        raise ConfigError(f"--corrector checkpoint:{name}: {error}") from error
    frozen.model.to(PartialState().device).requires_grad_(False)

    def write(requests: Sequence[Request]) -> list[str]:
        texts: list[str] = []
        for start in range(0, len(requests), AT_ONCE):
            samples = [
                prepare_sample(one.sample, frozen) for one in requests[start : start + AT_ONCE] if one.sample is not None
            ]
            made = complete(frozen, config.tasks, samples, config.grpo.max_completion_length or 256)
            texts += ["" if one.truncated else one.completion for one in made]
        return texts

    return write


def make_probe(config: Config, loaded: LoadedModel, episodes: bool) -> Callable[[Any], float] | None:
    """How much a model's greedy thoughts follow the image, on states (or samples) that training does not draw; None for a run
    whose thoughts nobody corrects, or whose samples come from a file."""
    if config.run.data is not None or not (episodes or config.guide.corrects):
        return None
    n, task = config.guide.probes, config.task
    split = "coldstart-probe" if episodes else "probe"
    layout, box_format = config.layout
    samples = [
        prepare_sample(task.draw(0, split, i), loaded, answer_format=layout, box_format=box_format)
        for i in range(n * len(config.tasks))
    ]
    samples = [sample for sample in samples if sample.images and sample.task == task.name][:n]
    if len(samples) < 2:
        return None

    def probe(model: Any) -> float:
        def thoughts_for(images: Sequence[int]) -> list[str]:
            shown = [replace(one, images=samples[i].images) for one, i in zip(samples, images, strict=True)]
            made = complete(loaded, config.tasks, shown, config.grpo.max_completion_length or 256, model)
            return [_thought(one.completion, episodes) for one in made]

        return probe_sensitivity(thoughts_for, len(samples))

    return probe


def _thought(completion: str, episodes: bool) -> str:
    """The thought of a completion, or all of it where it has no separate thought."""
    span = thought_span(completion, "json" if episodes else "tags")
    return completion if span is None else completion[slice(*span)]
