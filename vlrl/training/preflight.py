"""What is tried before the first stage, so that a run does not stop hours later for something that was known at its start.

Flags alone: `vlrl.training.flag_checks`. Data and prompts: `vlrl.training.run_data`. Here: what only shows when it is tried, as
an optimizer made of its flags, a folder that is written to, a tracker or a hub that is asked.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx
import torch
from accelerate import PartialState
from transformers import GenerationConfig, Trainer, TrainingArguments, get_scheduler
from trl import GRPOConfig, ModelConfig  # type: ignore[attr-defined]

from vlrl.data.files import disk_is_full, free_mib
from vlrl.data.masking import without_secrets
from vlrl.data.name_values import nearest
from vlrl.gtr.options import GuideOptions
from vlrl.models.load import LoadedModel
from vlrl.models.prefix_sharing.attention import choose_kernel
from vlrl.models.sharded import n_numbers
from vlrl.models.whole_files import LOAD_ERRORS, first_line
from vlrl.rewards.chat_client import EndpointError, base_url
from vlrl.rewards.judge import check_judge
from vlrl.schema import Reward
from vlrl.training.grpo.rollout_server import RolloutServer, ServerError
from vlrl.training.grpo.vllm_prompts import ImageBlock
from vlrl.training.options import ConfigError
from vlrl.training.run_folder import RunFolder, check_together
from vlrl.training.run_lock import FolderInUse, lock_folder
from vlrl.training.sharding import check_fsdp
from vlrl.training.whole_checkpoints import saved_by

NETWORK_TIMEOUT_S = 10.0


def check_start(arguments: TrainingArguments, model: ModelConfig, folder: Path) -> None:
    """Before data and model are read. Raises ConfigError."""
    check_together(lambda: check_writable(folder))
    check_device(arguments, model)
    check_fsdp(arguments)
    check_optimizer(arguments)
    if isinstance(arguments, GRPOConfig):
        check_generation(arguments)
    if PartialState().is_main_process:
        check_reachable(arguments)


def check_writable(folder: Path) -> None:
    """Files can be made in the run's folder. Raises ConfigError."""
    probe = folder / f".writable-{uuid.uuid4().hex[:8]}"
    try:
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        room = f" ({free_mib(folder)} MiB free)" if disk_is_full(error, folder) else ""
        raise ConfigError(
            f"--output_dir {folder} cannot be written to: {error.strerror or error}{room}; name another"
        ) from error


def check_device(arguments: TrainingArguments, model: ModelConfig) -> None:
    """The number formats and the attention that flags name work on this device. Raises ConfigError."""
    on_cuda = torch.cuda.is_available() and not arguments.use_cpu
    device = torch.cuda.get_device_name() if on_cuda else "the CPU"
    if arguments.bf16 and on_cuda and not torch.cuda.is_bf16_supported():
        raise ConfigError(f"--bf16: {device} has no bfloat16; use --fp16, or --bf16 false")
    if arguments.fp16 and (arguments.use_cpu or not torch.accelerator.is_available()):
        raise ConfigError(f"--fp16: {device} does not train in float16; leave it out")
    named = str(model.attn_implementation)
    if named.startswith("flash_attention") and not on_cuda:
        raise ConfigError(f"--attn_implementation {named}: it runs on GPUs, and this run is on {device}; leave it out")


def check_kernel(named: str, arguments: TrainingArguments) -> None:
    """The attention that `--group_shared_kernel` names runs on this device, if the number format does. Raises ConfigError."""
    on_cuda = torch.cuda.is_available() and not arguments.use_cpu
    try:
        choose_kernel(torch.device("cuda" if on_cuda else "cpu"), torch.bfloat16, named)
    except ValueError as error:
        raise ConfigError(f"--group_shared_kernel {named}: {error}; leave it out") from error


def check_optimizer(arguments: TrainingArguments) -> None:
    """The optimizer and the schedule that flags name can be made. Raises ConfigError."""
    weight = torch.nn.Parameter(torch.zeros(2, 2))  # drawn ones would move the random numbers of the run
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments)
        if arguments.deepspeed or "galore" in arguments.optim or "apollo" in arguments.optim or "lomo" in arguments.optim:
            return  # made of the model's own modules
        optimizer = kind([weight], **options)
    except LOAD_ERRORS as error:
        words = " ".join(f"--{name} {getattr(arguments, name)}" for name in ("optim", "optim_args") if getattr(arguments, name))
        raise ConfigError(f"{words}: this optimizer cannot be made: {first_line(error)}") from error
    settings = arguments.lr_scheduler_kwargs
    try:
        get_scheduler(
            arguments.lr_scheduler_type,
            optimizer=optimizer,
            num_warmup_steps=1,
            num_training_steps=10,
            scheduler_specific_kwargs=settings if isinstance(settings, dict) else None,
        )
    except LOAD_ERRORS as error:
        named = f"--lr_scheduler_type {getattr(arguments.lr_scheduler_type, 'value', arguments.lr_scheduler_type)}"
        given = f" --lr_scheduler_kwargs {arguments.lr_scheduler_kwargs}" if arguments.lr_scheduler_kwargs else ""
        raise ConfigError(f"{named}{given}: this schedule cannot be made: {first_line(error)}") from error


def check_generation(arguments: GRPOConfig) -> None:
    """Completions can be sampled as flags say. Raises ConfigError."""
    given: dict[str, Any] = dict(arguments.generation_kwargs or {})  # type: ignore[arg-type]  # a str only before it is parsed
    known = GenerationConfig().to_dict() if not arguments.use_vllm else {}  # type: ignore[no-untyped-call]
    unknown = next((name for name in given if known and name not in known), None)
    if unknown is not None:
        raise ConfigError(f"--generation_kwargs: unknown {unknown!r}{nearest(unknown, known)}")
    if arguments.use_vllm:
        return
    named = {
        name: getattr(arguments, name)
        for name in ("temperature", "top_p", "min_p", "repetition_penalty", "cache_implementation")
    }
    top_k = arguments.top_k or None
    try:
        made = GenerationConfig(**{**named, "top_k": top_k, "do_sample": True, "max_new_tokens": 1, **given})  # type: ignore[no-untyped-call]
        made.validate()
    except LOAD_ERRORS as error:
        raise ConfigError(f"completions cannot be sampled with these flags: {first_line(error)}") from error


def check_reachable(arguments: TrainingArguments) -> None:
    """A tracker's server answers, and the hub knows the token. Raises ConfigError."""
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if "mlflow" in (arguments.report_to or ()) and server.startswith("http"):
        try:
            httpx.get(server, timeout=NETWORK_TIMEOUT_S)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ConfigError(
                f"--report_to mlflow: MLFLOW_TRACKING_URI does not answer: {first_line(error)}; start the server, or"
                " --report_to none"
            ) from error
    if arguments.push_to_hub:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError

        try:
            HfApi(token=arguments.hub_token).whoami()
        except HfHubHTTPError as error:
            raise ConfigError(f"--push_to_hub: the hub refused the token: {first_line(error)}; run `hf auth login`") from error
        except (OSError, httpx.HTTPError) as error:
            raise ConfigError(f"--push_to_hub: the hub does not answer: {first_line(error)}; or leave it out") from error


def check_endpoints(rewards: Sequence[Reward], guide: GuideOptions) -> None:
    """A judge answers one question, and the address of a corrector takes connections (a question would count as one of its
    calls). Raises ConfigError."""
    for reward in rewards:
        try:
            check_judge(reward)
        except EndpointError as error:
            raise ConfigError(str(error)) from error
    if not guide.corrects or not guide.corrector.startswith("model:"):
        return
    address = base_url("" if guide.endpoint is None else guide.endpoint.url)
    parts = urlsplit(address)
    if parts.hostname is None or getproxies():
        return  # refused elsewhere; a proxy makes the connections
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), NETWORK_TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--corrector {guide.corrector}: {without_secrets(address)} takes no connections: {first_line(error)}; start the"
            " server, or check --corrector_url"
        ) from error


def check_adapters(module: torch.nn.Module, model: ModelConfig) -> None:
    """Every module that adapters are asked for is there (peft passes over those that are not). Raises ConfigError."""
    if not model.use_peft:
        return
    names = [name for name, _ in module.named_modules()]
    last = sorted({name.rsplit(".", 1)[-1] for name in names if name})
    for flag in ("lora_target_modules", "lora_modules_to_save"):
        wanted = getattr(model, flag)
        for target in [] if wanted is None or isinstance(wanted, str) else wanted:
            if not any(name == target or name.endswith(f".{target}") for name in names):
                raise ConfigError(f"--{flag} {target}: the model has no module of this name{nearest(target, last)}")
        if flag == "lora_target_modules" and wanted and "lm_head" in (wanted if not isinstance(wanted, str) else [wanted]):
            raise ConfigError("--lora_target_modules lm_head: TRL would not train adapters of it; leave it out")


def check_model_options(module: Any, arguments: GRPOConfig) -> None:
    """What TRL would refuse of this kind of model once the trainer is made, or fail at. Raises ConfigError."""
    config = module.config.get_text_config()
    if arguments.router_aux_loss_coef and not hasattr(config, "output_router_logits"):
        raise ConfigError(f"--router_aux_loss_coef: {type(module).__name__} is not a mixture of experts; leave it out")
    is_tied = getattr(module.config, "tie_word_embeddings", False)
    if arguments.cast_lm_head_to_fp32 and is_tied and not hasattr(getattr(module, "model", None), "embed_tokens"):
        raise ConfigError(
            f"--cast_lm_head_to_fp32: TRL cannot do it for {type(module).__name__}, whose output layer is its input embedding;"
            " leave it out, or train with --dtype float32"
        )


def check_engine(loaded: LoadedModel, arguments: GRPOConfig, weights_at: Path | None, run: Path) -> None:
    """vLLM can be handed this model's prompts; a server that reads its weights below `weights_at` is there and sees the folder.
    `run`: the run's own folder. Raises ConfigError."""
    if not arguments.use_vllm or (arguments.vllm_mode != "colocate" and weights_at is None):
        return
    flag = "--vllm_mode colocate" if weights_at is None else "--vllm_weight_transport files"
    try:
        ImageBlock.of(loaded.processor)
    except ValueError as error:
        other = "--vllm_mode server" if weights_at is None else "--vllm_weight_transport nccl"
        raise ConfigError(f"{flag} cannot be used with {loaded.name}: {error}; use {other}") from error
    if weights_at is not None:
        n_bytes = sum(n_numbers(one) * one.element_size() for one in loaded.model.parameters())
        check_together(lambda: _check_server(arguments, weights_at, run, 2 * n_bytes))


def _check_server(arguments: GRPOConfig, weights_at: Path, run: Path, needed: int) -> None:
    """On the first process. `needed`: bytes of the weights that are served and of those that are written."""
    if not PartialState().is_main_process:
        return
    url = str(arguments.vllm_server_base_url or f"http://{arguments.vllm_server_host}:{arguments.vllm_server_port}")
    server = RolloutServer(url, arguments.vllm_server_timeout)
    try:
        weights_at.mkdir(parents=True, exist_ok=True)
        if run.resolve() not in weights_at.resolve().parents:
            lock_folder(weights_at, "--rollout_weights")
        server.wait()
        server.check(weights_at.absolute())
    except (FolderInUse, OSError, ServerError) as error:
        raise ConfigError(str(error)) from error
    finally:
        server.close()
    free = shutil.disk_usage(weights_at).free
    if free < needed:
        raise ConfigError(
            f"{weights_at} has {free // 2**20} MiB free, but the weights for the vLLM server take {needed // 2**20} MiB (twice"
            " the model); free some space, or name another folder: --rollout_weights"
        )


def check_enough(n_samples: int, arguments: GRPOConfig, what: str) -> None:
    """There are as many samples as one generation takes prompts. Raises ConfigError."""
    batch = int(arguments.generation_batch_size or 0)
    wanted = batch // int(arguments.num_generations or 1)
    if n_samples < wanted:
        raise ConfigError(
            f"{what} holds {n_samples} training samples, but a generation takes {wanted} prompts ({batch} completions,"
            f" {arguments.num_generations} of each): not one step could be made; use a smaller batch or more samples"
        )


def resume_notes(opened: RunFolder) -> list[str]:
    """What a person must know of a run that goes on: checkpoints that were passed over, and what another number of processes
    changes. Options that differ are named elsewhere (`vlrl.training.run_folder.settle_config`)."""
    notes = [opened.note] if opened.note else []
    now, then = int(PartialState().num_processes), 0 if opened.checkpoint is None else saved_by(Path(opened.checkpoint))
    if then and then != now:
        notes.append(
            f"{opened.checkpoint} was saved by {then} process{'' if then == 1 else 'es'}, this run has {now}: a step has"
            f" {now}/{then} of the completions, samples come in another order, what is left of a generation is sampled anew,"
            " random numbers begin anew. Weights, optimizer and step count go on"
        )
    return notes
