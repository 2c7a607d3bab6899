"""What flags alone show to fail later: refused before a library is loaded, with what to do."""

import os

import pytest

from vlrl.training import flag_checks
from vlrl.training.flag_checks import TRACKERS, check_tracker, check_values, report_names
from vlrl.training.options import ConfigError

pytestmark = pytest.mark.quick

REFUSED = [
    ({"loss_type": "gpro"}, "--loss_type gpro: must be one of grpo, .*did you mean 'grpo'"),
    ({"importance_sampling_level": "word"}, "must be one of token, sequence"),
    ({"scale_rewards": "groups"}, "must be one of group, batch, none"),
    ({"vllm_mode": "remote"}, "must be one of server, colocate"),
    ({"dtype": "float99"}, "must be one of auto, bfloat16"),
    ({"attn_implementation": "flash_atention_2"}, "did you mean 'flash_attention_2'"),
    ({"eval_on_start": True}, "--eval_on_start needs measurements on the way.*--eval_strategy steps"),
    ({"eval_steps": 5}, "--eval_steps needs measurements on the way"),
    ({"save_strategy": "best"}, "--save_strategy best needs measurements on the way"),
    ({"load_best_model_at_end": True, "eval_strategy": "no"}, "--load_best_model_at_end needs measurements"),
    ({"early_stopping_patience": 3}, "--early_stopping_patience needs measurements"),
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "--lr_scheduler_type reduce_lr_on_plateau needs measurements"),
    ({"eval_strategy": "steps", "stage": "sft"}, "only the GRPO stage is measured on the way"),
    ({"eval_strategy": "steps", "num_generations_eval": 4}, "--num_generations_eval: held-out samples are answered once"),
    ({"eval_strategy": "steps", "eval_accumulation_steps": 4}, "--eval_accumulation_steps: it is for transformers' own"),
    ({"parallelism_config": "cp_size=2"}, "--parallelism_config: a sequence, a layer .*--max_pixels"),
    ({"parallelism_config": {"sp_size": 2}}, "--parallelism_config: a sequence"),
    ({"deepspeed": {"tensor_parallel": {"autotp_size": 2}}}, "--deepspeed with tensor_parallel: a sequence"),
    ({"deepspeed": {"sequence_parallel_size": 2}}, "--deepspeed with sequence_parallel_size"),
    ({"report_to": "tensorbord"}, "unknown tracker; did you mean 'tensorboard'"),
    ({"report_to": ["tensorboard", "wnadb"]}, "unknown tracker; did you mean 'wandb'"),
    ({"push_to_hub": True, "hub_model_id": "a/b/c"}, "--hub_model_id a/b/c: give a name, or owner/name"),
    ({"push_to_hub": True, "hub_model_id": "my model"}, "--hub_model_id my model"),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder without any login."""
    for name in list(os.environ):
        if name.startswith(
            ("WANDB", "HF_", "TRANSFORMERS", "COMET", "SWANLAB", "NEPTUNE", "CLEARML", "HUGGING", "NETRC", "XDG")
        ):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_refused(values, words, monkeypatch):
    monkeypatch.setattr(flag_checks, "is_installed", lambda package: True)
    with pytest.raises(ConfigError, match=words) as error:
        check_values(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "package"),
    [
        ({"use_vllm": True}, "vllm"),
        ({"deepspeed": "ds.json"}, "deepspeed"),
        ({"load_in_4bit": True, "use_peft": True, "model_name_or_path": "a/b"}, "bitsandbytes"),
        ({"attn_implementation": "flash_attention_2"}, "flash_attn"),
        ({"attn_implementation": "kernels-community/flash-attn2"}, "kernels"),
        ({"optim": "adamw_8bit"}, "bitsandbytes"),
        ({"optim": "schedule_free_adamw"}, "schedulefree"),
        ({"report_to": "wandb"}, "wandb"),
    ],
    ids=str,
)
def test_a_package_that_is_not_installed_is_named(values, package, monkeypatch):
    monkeypatch.setattr(flag_checks, "is_installed", lambda name: name != package)
    with pytest.raises(ConfigError, match=f"needs {package.partition('.')[0]}, which is not installed"):
        check_values(values)


def test_quantised_weights(monkeypatch):
    monkeypatch.setattr(flag_checks, "is_installed", lambda package: True)
    with pytest.raises(ConfigError, match="the embedded model tiny is not quantised"):
        check_values({"load_in_4bit": True, "model_name_or_path": "tiny"})
    with pytest.raises(ConfigError, match="--use_peft"):
        check_values({"load_in_8bit": True, "model_name_or_path": "a/b"})
    check_values({"load_in_8bit": True, "model_name_or_path": "a/b", "use_peft": True})


def test_a_tracker_needs_a_login(home, monkeypatch):
    monkeypatch.setattr(flag_checks, "is_installed", lambda package: True)
    for name in ("wandb", "comet_ml", "swanlab", "neptune", "clearml"):
        with pytest.raises(ConfigError, match=f"--report_to {name}: nobody is logged in; set {TRACKERS[name].keys[0]}"):
            check_tracker(name)
        with monkeypatch.context() as patch:
            patch.setenv(TRACKERS[name].keys[0], "key")
            check_tracker(name)
    for name in ("tensorboard", "mlflow", "trackio"):
        check_tracker(name)
    (home / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    check_tracker("wandb")
    (home / ".netrc").write_text("machine\n")
    with pytest.raises(ConfigError, match="nobody is logged in"):
        check_tracker("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_tracker("wandb")
    monkeypatch.setenv("WANDB_DISABLED", "true")
    with pytest.raises(ConfigError, match="WANDB_DISABLED is set"):
        check_tracker("wandb")


def test_the_hub_needs_a_token_and_the_network(home, monkeypatch):
    with pytest.raises(ConfigError, match="no token is known; run `hf auth login`"):
        check_values({"push_to_hub": True})
    (home / ".cache/huggingface").mkdir(parents=True)
    (home / ".cache/huggingface/token").write_text("hf_x")
    check_values({"push_to_hub": True, "hub_model_id": "owner/my-model_1.0"})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE=1 forbids"):
        check_values({"push_to_hub": True})


def test_values_as_yaml_writes_them_pass():
    assert report_names("tensorboard,wandb") == report_names(["tensorboard", "wandb"]) == ["tensorboard", "wandb"]
    assert report_names("none") == report_names("all") == report_names(None) == []
    check_values(
        {"report_to": "tensorboard", "scale_rewards": False, "eval_strategy": "no", "deepspeed": None, "optim": "adamw_torch"}
    )
    check_values({"attn_implementation": "sdpa", "save_strategy": "epoch", "push_to_hub": False, "load_in_4bit": False})


def test_sequences_are_not_cut_over_processes_by_the_launcher_or_a_file(tmp_path):
    engine = tmp_path / "engine.json"
    engine.write_text('{"sequence_parallel_size": 4}')
    with pytest.raises(ConfigError, match="sequence_parallel_size"):
        flag_checks.check_parallelism({"deepspeed": str(engine)}, {})
    launched = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true", "PARALLELISM_CONFIG_CP_SIZE": "2"}
    with pytest.raises(ConfigError, match="accelerate's PARALLELISM_CONFIG_CP_SIZE=2: a sequence"):
        flag_checks.check_parallelism({}, launched)
    flag_checks.check_parallelism({}, launched | {"PARALLELISM_CONFIG_CP_SIZE": "1"})
    engine.write_text('{"sequence_parallel_size": 1, "tensor_parallel": {"autotp_size": 0}}')
    flag_checks.check_parallelism({"deepspeed": str(engine)}, {})
