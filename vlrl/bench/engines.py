"""Engines that answer: a model in this process (under torchrun one in each), a server at `--base_url`, or vLLM.

An engine adds its box format and image sizes to a sample (`prepare_sample`) and yields completions in batches as they are made.
Only the model in this process imports torch.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from functools import partial
from importlib.util import find_spec
from itertools import islice
from typing import Any, Protocol

from vlrl.bench.chat_messages import GO_ON, chat_messages
from vlrl.bench.video_flags import reading_of
from vlrl.data.images import FrameChoice, image_size
from vlrl.data.masking import without_secrets
from vlrl.data.special_tokens import USUAL, with_written_tokens
from vlrl.envs.cards.playing import play_episodes
from vlrl.models.names import ModelError, is_adapter_folder
from vlrl.rewards.chat_client import ChatReply, EndpointError
from vlrl.rewards.endpoint import Endpoint, Limits, asking
from vlrl.schema import ModelView, Prediction, Sample, SampleError, Task

Limit = Callable[[Sample], int]
BACKOFF_S = 1.0
GIVES_UP_AFTER = 5
"""Pauses in a row, of 15 s to a minute, after which the samples that are left count as failed."""


@dataclasses.dataclass(frozen=True)
class Failure:
    """A request that got no answer. The next run repeats it; it does not count as a wrong answer."""

    id: str
    why: str


Answers = Iterator[Sequence[Prediction | Failure]]


class Engine(Protocol):
    name: str
    rank: int
    world: int
    unit: str
    """What is counted on the way: "requests", "prompts"."""

    def prepare_sample(self, sample: Sample) -> Sample: ...

    def answers(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> Answers: ...

    def wait_for_everyone(self) -> None: ...

    def finish(self) -> None: ...


def load_engine(args: argparse.Namespace, boxes: bool) -> Engine:
    """The engine that the flags name. `boxes`: answers hold coordinates, whose convention must be known. Raises ValueError."""
    if args.base_url and args.use_vllm:
        raise ValueError("--base_url and --use_vllm are two engines; a vLLM server is reached by --base_url alone")
    if args.base_url:
        return Server(args, boxes)
    if args.use_vllm:
        if find_spec("vllm") is None:
            raise ValueError("--use_vllm needs vLLM, which is not installed: pip install 'vlrl[vllm]'; or leave the flag out")
        return Vllm(args, boxes)
    return Local(args)


class InProcesses:
    """A model in this process; under torchrun each process holds one and answers its share."""

    unit = "prompts"

    def __init__(self, args: argparse.Namespace) -> None:
        import torch
        from accelerate import PartialState
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        self.state = PartialState(cpu=args.device == "cpu" or not torch.cuda.is_available())
        self.rank, self.world = self.state.process_index, self.state.num_processes
        self.batch_size: int = args.batch_size

    def wait_for_everyone(self) -> None:
        """Return when all processes have come here."""
        self.state.wait_for_everyone()

    def finish(self) -> None:
        """Leave the process group, all together."""
        self.state.wait_for_everyone()
        self.state.destroy_process_group()


class Local(InProcesses):
    """A transformers model that generates."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__(args)
        from vlrl.models.load import load_model

        self.sampling = {"temperature": args.temperature or 0.0, "seed": args.seed}
        self.forms = {"answer_format": args.answer_format, "box_format": args.box_format}
        self.loaded = load_model(
            args.model_name_or_path,
            dtype=args.dtype,
            attn_implementation=args.attn_implementation,
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            coords=args.coords,
            min_pixels=args.min_pixels,
            max_pixels=args.max_pixels,
            seed=args.seed,
            videos=reading_of(args),
        )
        self.loaded.model.to(self.state.device)
        if self.rank == 0:
            stated = "" if self.loaded.stated_coords is None else "from "
            boxes = f"boxes {self.loaded.coords} ({stated}{self.loaded.coords_reason})"
            print(f"model     {self.loaded.name}; {boxes}; attention {self.loaded.attention}")
        self.name = f"transformers, {self.loaded.model.dtype}".replace("torch.", "")

    def prepare_sample(self, sample: Sample) -> Sample:
        from vlrl.models.inputs import prepare_sample

        return prepare_sample(sample, self.loaded, **self.forms)

    def answers(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> Answers:
        """Batches of equal limits and similar lengths, the longest first, so that too little memory shows at once."""
        return self.answers_to(tasks, self.batches(tasks, samples, limit), limit)

    def answers_to(self, tasks: Mapping[str, Task], batches: Sequence[Sequence[Sample]], limit: Limit) -> Answers:
        """The answers to batches as they are given."""
        from vlrl.models.generate import complete
        from vlrl.models.videos import video_notes

        samples = [sample for batch in batches for sample in batch]
        for line in video_notes(samples, self.loaded) if self.rank == 0 else ():
            print(f"note      {line}", flush=True)
        self._check_lengths(tasks, samples, limit)
        for batch in batches:
            yield complete(self.loaded, tasks, batch, limit(batch[0]), **self.sampling)

    def batches(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> list[list[Sample]]:
        """What is answered together. Sampling draws from the ids of a batch, so equal batches give equal completions."""
        ordered = sorted(samples, key=lambda sample: (limit(sample), prompt_length(sample, tasks)), reverse=True)
        found: list[list[Sample]] = []
        for sample in ordered:
            if not found or len(found[-1]) == self.batch_size or limit(found[-1][0]) != limit(sample):
                found.append([])
            found[-1].append(sample)
        return found

    def _check_lengths(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> None:
        """Raises SampleError where a prompt and its answer exceed the model's context."""
        from vlrl.models.inputs import measured, messages, n_shown
        from vlrl.models.prompt_lengths import PromptLengths, context_length

        context = context_length(self.loaded.model.config)
        if context is None or not samples:
            return
        lengths = PromptLengths(self.loaded.processor, self.loaded.template)
        for sample in samples:
            lengths.add(messages(sample, tasks, n_shown(sample)), measured(sample))
        most = context - max(map(limit, samples))
        found = lengths.longer_than(most, lambda i: messages(samples[i], tasks, n_shown(samples[i])))
        if found:
            first = ", ".join(f"{samples[i].id!r} ({n:,} tokens)" for i, n in list(found.items())[:3])
            raise SampleError(
                f"{len(found):,} of {len(samples):,} prompts are longer than {most:,} tokens (the model's context of"
                f" {context:,} less the answer); the first: {first}. --max_pixels makes images smaller; or leave such rows out"
            )


def prompt_length(sample: Sample, tasks: Mapping[str, Task]) -> float:
    """Roughly the length of a prompt in tokens: one for each 28 x 28 px of image, one for four letters of text."""
    width, height = sample.facts.get("image_size") or (0, 0)
    n = len(sample.images) if sample.video is None else FrameChoice.of(sample).at_most
    return n * width * height / 784 + len(tasks[sample.task].prompt(sample)) / 4


def prepare_elsewhere(sample: Sample, coords: str | None, forms: Mapping[str, Any]) -> Sample:
    """The sample for a model that another program holds: its image's size, how that model writes boxes (`coords`, None: as the
    sample says), and the forms of answers that the sample leaves open. Raises ImageError."""
    sample = with_written_tokens(sample, USUAL)
    meta = {**sample.meta}
    for name, form in forms.items():
        if form is not None:
            meta.setdefault(name, form)
    if sample.images:
        meta["image_size"] = list(image_size(sample.images[int(meta.get("image_index", 0))]))
    return dataclasses.replace(sample, meta=meta, view=sample.view if coords is None else ModelView(coords))


class _SingleProcess:
    """What the server and vLLM share: one process, and no image processor of the model at hand."""

    rank, world, unit = 0, 1, "prompts"

    def __init__(self, args: argparse.Namespace, boxes: bool, flag: str) -> None:
        if boxes and args.coords in (None, "resized_px"):
            raise ValueError(
                f"{flag}: state with --coords how this model writes boxes: norm1000 | norm1 | px"
                " (resized_px depends on its image processor, which only the model in this process has)"
            )
        self.model: str = args.model_name_or_path
        self.coords: str | None = args.coords
        self.temperature, self.seed = args.temperature or 0.0, args.seed
        self.forms: dict[str, Any] = {"answer_format": args.answer_format, "box_format": args.box_format}
        self.asked = {"video_fps": args.video_fps, "video_frames": args.video_max_frames}
        self.flag = flag

    def prepare_sample(self, sample: Sample) -> Sample:
        return prepare_elsewhere(sample, self.coords, self.forms if sample.video is None else self.forms | self.asked)

    def say_videos(self, samples: Sequence[Sample]) -> None:
        """A line about how videos are shown, where there are some."""
        if any(sample.video is not None for sample in samples):
            print(f"note      videos are shown as frames, one image each ({self.flag}: it is handed images alone)", flush=True)

    def wait_for_everyone(self) -> None:
        """There is no other process."""

    def finish(self) -> None:
        """There is no process group."""


class Server(_SingleProcess):
    """Any OpenAI-compatible server: `api_nproc` requests at a time, each tried `retry` times."""

    unit = "requests"

    def __init__(self, args: argparse.Namespace, boxes: bool) -> None:
        super().__init__(args, boxes, "--base_url")
        self.n_at_once: int = args.api_nproc
        self.name = f"server {without_secrets(args.base_url)}"
        limits = Limits(
            timeout_s=args.timeout,
            n_tries=args.retry,
            backoff_s=(BACKOFF_S, 15 * BACKOFF_S),
            n_parallel=self.n_at_once,
            max_failed_share=0.5,
            pause_s=15 * BACKOFF_S,
            longest_pause_s=60 * BACKOFF_S,
            waits="always",
            gives_up_after=GIVES_UP_AFTER,
        )
        say = partial(print, file=sys.stderr, flush=True)
        self.endpoint = Endpoint(self.name, args.base_url, "base_url", limits, report=say)

    def answers(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> Answers:
        self.say_videos(samples)
        waiting = iter(samples)

        def ask(sample: Sample) -> Prediction | Failure:
            return self._ask(tasks, sample, limit(sample))

        with asking(len(samples), self.n_at_once) as batch:
            running = {batch.submit(ask, one) for one in islice(waiting, self.n_at_once)}
            while running:
                done = next(as_completed(running))
                running.discard(done)
                running |= {batch.submit(ask, one) for one in islice(waiting, 1)}
                yield [done.result()]

    def _ask(self, tasks: Mapping[str, Task], sample: Sample, limit: int) -> Prediction | Failure:
        """The answer to a sample, of an episode all its replies."""
        try:
            if tasks[sample.task].is_episode(sample):
                return play_episodes([sample], lambda states: [self._reply(tasks, state, limit) for state in states])[0]
            return self._reply(tasks, sample, limit)
        except EndpointError as error:
            return Failure(sample.id, str(error))

    def _reply(self, tasks: Mapping[str, Task], sample: Sample, limit: int) -> Prediction:
        """The reply to one prompt. Raises EndpointError."""
        body = {"model": self.model, "messages": chat_messages(sample, tasks), "max_tokens": limit}
        body |= {"temperature": self.temperature} | ({"seed": seed_of(self.seed, sample)} if self.temperature else {})
        begun = sample.facts.get("begun", "")
        body |= GO_ON if begun else {}
        reply, text = self.endpoint.ask(lambda: _with_text(self.endpoint.call(body)))[0]
        counted = reply.usage.get("completion_tokens")
        n_tokens = counted if isinstance(counted, int) else None
        return Prediction(sample.id, f"{begun}{text}", n_tokens, reply.finish_reason == "length")


def _with_text(reply: ChatReply) -> tuple[ChatReply, str]:
    """A reply and its text. Raises EndpointError where it has none, which is worth another try."""
    return reply, reply.text


class Vllm(_SingleProcess):
    """vLLM in this process; it uses several GPUs by itself, so it is started without torchrun."""

    def __init__(self, args: argparse.Namespace, boxes: bool) -> None:
        super().__init__(args, boxes, "--use_vllm")
        import vllm
        from transformers import AutoTokenizer

        from vlrl.models.load import VISION_TOKENS

        if is_adapter_folder(args.model_name_or_path):
            raise ModelError(f"--use_vllm: {args.model_name_or_path} holds adapters; make a whole model of them by vlrl merge")
        self.vllm = vllm
        self.engine = vllm.LLM(
            model=self.model,
            dtype=args.dtype or "auto",
            revision=args.revision,
            trust_remote_code=args.trust_remote_code,
            seed=args.seed,
            limit_mm_per_prompt={"image": max(16, args.video_max_frames or 0)},
        )
        vocabulary = AutoTokenizer.from_pretrained(self.model, trust_remote_code=args.trust_remote_code).get_vocab()
        self.never = {vocabulary[token]: -100.0 for token in VISION_TOKENS if token in vocabulary}
        self.name = f"vllm {vllm.__version__}"

    def answers(self, tasks: Mapping[str, Task], samples: Sequence[Sample], limit: Limit) -> Answers:
        """256 prompts at a time, which vLLM batches by itself."""
        self.say_videos(samples)
        for start in range(0, len(samples), 256):
            batch = samples[start : start + 256]
            games = [sample for sample in batch if tasks[sample.task].is_episode(sample)]
            single = [sample for sample in batch if not tasks[sample.task].is_episode(sample)]
            yield [
                *self._replies(tasks, single, limit),
                *play_episodes(games, lambda states: self._replies(tasks, states, limit)),
            ]

    def _replies(self, tasks: Mapping[str, Task], batch: Sequence[Sample], limit: Limit) -> list[Prediction]:
        options = [
            self.vllm.SamplingParams(
                temperature=self.temperature, max_tokens=limit(sample), logit_bias=self.never, seed=seed_of(self.seed, sample)
            )
            for sample in batch
        ]
        made: dict[int, Any] = {}
        for going_on in (False, True):
            places = [i for i, sample in enumerate(batch) if bool(sample.facts.get("begun")) is going_on]
            asked = [chat_messages(batch[i], tasks) for i in places]
            how = GO_ON if going_on else {}
            replies = self.engine.chat(asked, [options[i] for i in places], use_tqdm=False, **how) if asked else []
            made |= {i: one.outputs[0] for i, one in zip(places, replies, strict=True)}
        return [
            Prediction(
                sample.id,
                f"{sample.facts.get('begun', '')}{made[i].text}",
                len(made[i].token_ids),
                made[i].finish_reason == "length",
            )
            for i, sample in enumerate(batch)
        ]


def seed_of(seed: int, sample: Sample) -> int:
    """The seed of one sampled reply: the same in every run, different for every sample."""
    return int.from_bytes(hashlib.sha256(f"{seed} {sample.id}".encode()).digest()[:4], "big") >> 1


def check_world(engine: Engine) -> None:
    """Raises SampleError for an engine of one process that was started by torchrun."""
    import os

    if engine.world == 1 and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SampleError(f"the engine '{engine.name}' runs in one process; start it without torchrun")
