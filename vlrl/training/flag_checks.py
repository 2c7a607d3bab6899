"""What of a training run's flags can be known to fail later, found without importing a library: words that a library does not
know, packages that are not installed, trackers without a login, and options of evaluation that this project does otherwise.

Not here: numbers (`vlrl.training.number_ranges`), our own options by themselves (`vlrl.training.options`), and what must be
tried out (`vlrl.training.preflight`).
"""

from __future__ import annotations

import json
import netrc
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vlrl.data.name_values import nearest
from vlrl.models.names import TINY_NAMES
from vlrl.training.evaluation_flags import check_evaluation
from vlrl.training.options import ConfigError

KNOWN_WORDS: dict[str, tuple[str, ...]] = {
    "loss_type": ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"),
    "importance_sampling_level": ("token", "sequence"),
    "multi_objective_aggregation": ("sum_then_normalize", "normalize_then_sum"),
    "scale_rewards": ("group", "batch", "none", "True", "False"),
    "vllm_mode": ("server", "colocate"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    "bnb_4bit_quant_type": ("fp4", "nf4"),
}
"""Options that TRL takes as any text and refuses when it first uses them (a test compares them with its source)."""

NEEDED_PACKAGES: dict[str, tuple[str, str]] = {
    "use_vllm": ("vllm", "pip install 'vlrl[vllm]'"),
    "deepspeed": ("deepspeed", "pip install 'vlrl[deepspeed]'"),
    "load_in_4bit": ("bitsandbytes", "pip install 'vlrl[quant]'"),
    "load_in_8bit": ("bitsandbytes", "pip install 'vlrl[quant]'"),
    "use_liger_kernel": ("liger_kernel", "pip install liger-kernel"),
}
"""Option -> the package it needs, and how to get it."""
ATTENTION = ("auto", "eager", "sdpa", "flex_attention", "flash_attention_2", "flash_attention_3", "flash_attention_4")
_ATTENTION_PACKAGES = {
    "flash_attention_2": ("flash_attn", "pip install 'vlrl[flash]'"),
    "flash_attention_3": ("flash_attn_interface", "see https://github.com/Dao-AILab/flash-attention"),
    "flash_attention_4": ("flash_attn.cute", "pip install 'vlrl[fa4]'"),
}
_OPTIM_PACKAGES = (
    (r"galore", "galore_torch"),
    (r"apollo", "apollo_torch"),
    (r"lomo", "lomo_optim"),
    (r"grokadamw", "grokadamw"),
    (r"schedule_free", "schedulefree"),
    (r"stable_adamw", "optimi"),
    (r"adamw_torch_[48]bit", "torchao"),
    (r"anyprecision", "torchdistx"),
    (r"bnb|8bit|paged|lion|ademamix", "bitsandbytes"),
)


def check_values(values: Mapping[str, Any], *, measures: bool = True, environ: Mapping[str, str] | None = None) -> None:
    """Everything below on what files and command line set. `measures`: whether this kind of run can measure on the way;
    `environ`: the environment that the run will have (default: the process'). Raises ConfigError with the first problem."""
    environ = os.environ if environ is None else environ
    check_choices(values)
    check_evaluation(values, measures=measures)
    check_packages(values)
    check_quantised(values)
    for name in report_names(values.get("report_to")):
        check_tracker(name, environ)
    check_hub(values, environ)
    check_processes(values, environ)
    check_parallelism(values, environ)


def check_choices(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for a word that TRL would refuse in the middle of a run."""
    for name, known in KNOWN_WORDS.items():
        value = values.get(name)
        if value is not None and str(value) not in known:
            words = [word for word in known if word not in ("True", "False")]
            raise ConfigError(f"--{name} {value}: must be one of {', '.join(words)}{nearest(str(value), words)}")
    named = values.get("attn_implementation")
    if named is not None and "/" not in str(named) and str(named).removeprefix("paged|") not in ATTENTION:
        shown = ", ".join(ATTENTION)
        raise ConfigError(f"--attn_implementation {named}: unknown{nearest(str(named), ATTENTION)} (known: {shown})")


def check_packages(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for an option whose package is not installed."""
    wanted = [
        (f"--{name}", *NEEDED_PACKAGES[name]) for name in NEEDED_PACKAGES if values.get(name) not in (None, False, "", "None")
    ]
    attention = str(values.get("attn_implementation"))
    if "/" in attention:
        wanted.append((f"--attn_implementation {attention}", "kernels", "pip install kernels"))
    if attention in _ATTENTION_PACKAGES:
        wanted.append((f"--attn_implementation {attention}", *_ATTENTION_PACKAGES[attention]))
    optim = str(values.get("optim") or "")
    package = next((package for pattern, package in _OPTIM_PACKAGES if re.search(pattern, optim)), None)
    if package is not None:
        wanted.append((f"--optim {optim}", package, f"pip install {package.replace('_', '-')}"))
    for flag, package, how in wanted:
        if not is_installed(package):
            raise ConfigError(f"{flag} needs {package.partition('.')[0]}, which is not installed: {how}; or leave it out")


def check_processes(values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Raises ConfigError for an option of several processes in a run of one."""
    if int(environ.get("WORLD_SIZE") or 1) > 1:
        return
    for name in ("fsdp", "ddp_backend"):
        if values.get(name) not in (None, False, "", "None", []):
            raise ConfigError(
                f"--{name} {values[name]}: this run is one process; start it by torchrun --nproc_per_node 2 (or more), or leave"
                " it out"
            )


def check_parallelism(values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """Raises ConfigError where flags, a DeepSpeed file or accelerate's launcher cut sequences, layers or weights over processes
    in a way that GRPO here cannot follow."""
    how = ""
    if values.get("parallelism_config") not in (None, "", "None", {}):
        how = "--parallelism_config"
    if environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "").lower() == "true":
        sizes = (f"PARALLELISM_CONFIG_{name}_SIZE" for name in ("DP_REPLICATE", "DP_SHARD", "TP", "CP", "SP"))
        how = next((f"accelerate's {name}={environ[name]}" for name in sizes if environ.get(name, "1") != "1"), how)
    engine = _engine_settings(values.get("deepspeed"))
    cut = next((name for name in ("tensor_parallel", "sequence_parallel_size", "pipeline") if _cuts(engine.get(name))), "")
    if how or cut:
        raise ConfigError(
            f"{how or f'--deepspeed with {cut}'}: a sequence, a layer or a weight matrix cannot be cut over processes here."
            " GRPO reads each completion beside its prompt and images in one process, TRL refuses it, and accelerate's"
            " context parallel takes no attention mask. For long videos: fewer frames, --max_pixels,"
            " --gradient_checkpointing, FSDP2 or ZeRO-3; docs/scale.md names frameworks that can"
        )


def _cuts(value: Any) -> bool:
    """Whether a setting of a DeepSpeed file names more than one part."""
    if isinstance(value, dict):
        return any(_cuts(one) for one in value.values())
    return isinstance(value, int) and value > 1


def _engine_settings(deepspeed: Any) -> dict[str, Any]:
    """What a DeepSpeed configuration says, a file or a dict; nothing where it cannot be read, which DeepSpeed says itself."""
    if isinstance(deepspeed, str) and deepspeed.endswith(".json"):
        try:
            deepspeed = json.loads(Path(deepspeed).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
    return deepspeed if isinstance(deepspeed, dict) else {}


def is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ModuleNotFoundError, ValueError):
        return False


def check_quantised(values: Mapping[str, Any]) -> None:
    """Raises ConfigError for quantised weights of a model that has none, or that would be trained themselves."""
    flag = next((f"--{name}" for name in ("load_in_4bit", "load_in_8bit") if values.get(name) is True), None)
    if flag is None:
        return
    model = str(values.get("model_name_or_path"))
    if model in TINY_NAMES:
        raise ConfigError(f"{flag}: the embedded model {model} is not quantised (it has a million weights); leave it out")
    if values.get("use_peft") is not True:
        raise ConfigError(f"{flag}: quantised weights cannot be trained themselves; train adapters beside them: --use_peft")


# ---- trackers and the hub


@dataclass(frozen=True)
class Tracker:
    """Where an experiment tracker is: its package, and what counts as being logged in. `keys`: environment variables any of
    which is enough; `files`: files of the home folder that hold a login; `host`: looked up in the netrc file; `offline`:
    variables and the values with which no login is needed. Without keys there is nothing to log in to."""

    package: str
    keys: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    host: str = ""
    offline: Mapping[str, tuple[str, ...]] | None = None


TRACKERS: dict[str, Tracker] = {
    "tensorboard": Tracker("tensorboard"),
    "wandb": Tracker(
        "wandb",
        ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"),
        host="api.wandb.ai",
        offline={"WANDB_MODE": ("offline", "disabled", "dryrun")},
    ),
    "mlflow": Tracker("mlflow"),
    "trackio": Tracker("trackio"),
    "comet_ml": Tracker(
        "comet_ml",
        ("COMET_API_KEY",),
        (".comet.config",),
        offline={"COMET_MODE": ("offline", "disabled"), "COMET_START_ONLINE": ("0", "false", "False")},
    ),
    "swanlab": Tracker(
        "swanlab",
        ("SWANLAB_API_KEY",),
        (".swanlab/.netrc",),
        offline={"SWANLAB_MODE": ("local", "offline", "disabled")},
    ),
    "clearml": Tracker(
        "clearml", ("CLEARML_API_ACCESS_KEY",), ("clearml.conf",), offline={"CLEARML_OFFLINE_MODE": ("1", "true")}
    ),
    "neptune": Tracker("neptune", ("NEPTUNE_API_TOKEN",)),
    "codecarbon": Tracker("codecarbon"),
    "dvclive": Tracker("dvclive"),
    "dagshub": Tracker("dagshub"),
    "flyte": Tracker("flytekit"),
    "azure_ml": Tracker("azureml"),
    "kubeflow": Tracker("kubeflow"),
}
"""What `--report_to` takes; the names are transformers' (a test compares)."""


def report_names(value: Any) -> list[str]:
    """The trackers that a value of `--report_to` names; none for "none" and for "all" (all that are installed)."""
    words = value if isinstance(value, list | tuple) else [value]
    names = [name.strip() for word in words if word is not None for name in str(word).split(",")]
    return [name for name in names if name and name.lower() not in ("none", "all")]


def check_tracker(name: str, environ: Mapping[str, str] = os.environ) -> None:
    """A tracker is known, installed, and has a login where it needs one. Raises ConfigError."""
    tracker = TRACKERS.get(name)
    flag = f"--report_to {name}"
    if tracker is None:
        raise ConfigError(f"{flag}: unknown tracker{nearest(name, TRACKERS)} (known: {', '.join(TRACKERS)}, none, all)")
    if not is_installed(tracker.package):
        raise ConfigError(f"{flag} needs {tracker.package}, which is not installed: pip install it, or --report_to none")
    if name == "wandb" and environ.get("WANDB_DISABLED", "").lower() in ("1", "true", "yes", "on"):
        raise ConfigError(f"{flag}: WANDB_DISABLED is set; unset it, or --report_to none")
    if not tracker.keys or _is_logged_in(tracker, environ):
        return
    offline = [f"{variable}={values[0]}" for variable, values in (tracker.offline or {}).items()]
    without = f", {offline[0]} to send nothing" if offline else ""
    raise ConfigError(f"{flag}: nobody is logged in; set {tracker.keys[0]}, or run `{name.replace('_ml', '')} login`{without}")


def _is_logged_in(tracker: Tracker, environ: Mapping[str, str]) -> bool:
    if any(environ.get(key) for key in tracker.keys):
        return True
    if any(environ.get(variable) in values for variable, values in (tracker.offline or {}).items()):
        return True
    if any((Path.home() / file).is_file() for file in tracker.files):
        return True
    host = urlsplit(environ.get("WANDB_BASE_URL", "")).hostname or tracker.host
    return bool(tracker.host) and _in_netrc(host, environ)


def _in_netrc(host: str, environ: Mapping[str, str]) -> bool:
    """Whether the netrc file has a login for a host; one that cannot be read has none."""
    named = environ.get("NETRC")
    for path in [Path(named).expanduser()] if named else [Path.home() / ".netrc", Path.home() / "_netrc"]:
        try:
            if netrc.netrc(str(path)).authenticators(host):
                return True
        except (OSError, netrc.NetrcParseError, UnicodeDecodeError):
            continue
    return False


_REPO_ID = re.compile(r"(?:[\w](?:[\w.-]{0,94}[\w])?/)?[\w](?:[\w.-]{0,94}[\w])?")


def check_hub(values: Mapping[str, Any], environ: Mapping[str, str]) -> None:
    """`--push_to_hub` has a token, a valid repository name and leave to use the network. Raises ConfigError."""
    if values.get("push_to_hub") is not True:
        return
    named = values.get("hub_model_id")
    if named and (not _REPO_ID.fullmatch(str(named)) or "--" in str(named) or ".." in str(named)):
        raise ConfigError(f"--hub_model_id {named}: give a name, or owner/name, of letters, digits, '-', '_' and '.'")
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ConfigError(f"--push_to_hub: {variable}={environ[variable]} forbids to use the network; unset it")
    if not values.get("hub_token") and not _hub_token_places(environ):
        raise ConfigError("--push_to_hub: no token is known; run `hf auth login`, or set HF_TOKEN")


def _hub_token_places(environ: Mapping[str, str]) -> Sequence[str]:
    """Where a token of the hub is found."""
    home = environ.get("HF_HOME") or os.path.join(environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    path = Path(environ.get("HF_TOKEN_PATH") or os.path.join(home, "token")).expanduser()
    variables = [name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environ.get(name)]
    return [*variables, *([str(path)] if path.is_file() else [])]
