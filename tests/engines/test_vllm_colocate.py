"""Training with vLLM in the trainer's processes, on the demo model: the numbers say that it samples from the model in training."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

pytestmark = [
    pytest.mark.engines,
    pytest.mark.skipif(
        find_spec("vllm") is None, reason="vLLM is not installed; tests/engines/install.sh makes an environment with it"
    ),
    pytest.mark.usefixtures("vllm_alone"),
]
ROOT = Path(__file__).resolve().parents[2]
SHARED_MEMORY = Path("/dev/shm")
COLOCATE = ["--use_vllm", "--vllm_mode", "colocate", "--vllm_max_model_length", "1024"]
RUN = ["--per_device_train_batch_size", "8", "--num_generations", "4", "--eval_limit", "2", "--logging_steps", "1", "--report_to", "none"]  # fmt: skip


@pytest.fixture
def engines(monkeypatch):
    """The vLLM engines that TRL makes, with statistics, little memory and blocks that a prompt of `tiny` fills."""
    from trl.generation import vllm_generation

    made, theirs = [], vllm_generation.LLM

    def make(**options):
        made.append(theirs(**options, disable_log_stats=False, block_size=32, kv_cache_memory_bytes=2**26))
        return made[-1]

    monkeypatch.setattr(vllm_generation, "LLM", make)
    yield made
    for one in made:  # the cache is held from several sides, and engines stay until the process ends
        config = one.llm_engine.vllm_config
        one.llm_engine.model_executor.driver_worker.model_runner.kv_caches.clear()
        for layer in config.compilation_config.static_forward_context.values():
            layer.kv_cache = None
    made.clear()


def logged(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def counted(llm, name, **labels):
    return sum(one.value for one in llm.get_metrics() if one.name == name and labels.items() <= one.labels.items())


def is_sound(rows):
    """Rewards come, and vLLM's log-probabilities are the trainer's, before and after updates of the weights."""
    assert [
        row["sampling/sampling_logp_difference/mean"] for row in rows if row["sampling/sampling_logp_difference/mean"] > 1e-2
    ] == []
    assert all(abs(row["sampling/importance_sampling_ratio/mean"] - 1) < 0.05 for row in rows)
    assert max(row["reward"] for row in rows) > 0


@pytest.mark.parametrize("n_parallel", [1, 2])
def test_two_processes(n_parallel, tmp_path):
    """Each has an engine of its own, for its own prompts; or both have one together (tensor parallelism)."""
    words = [
        *COLOCATE,
        *RUN,
        "--vllm_tensor_parallel_size",
        str(n_parallel),
        "--max_steps",
        "2",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, str(ROOT / "vlrl/train.py"), "--task", "detection", *words]
    before = set(SHARED_MEMORY.glob("*cpushm*"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    is_sound([row for row in logged(tmp_path / "run") if "reward" in row])
    assert set(SHARED_MEMORY.glob("*cpushm*")) == before, "the next run would find it, and end"


def test_weights_go_over_and_a_prompt_is_prefilled_once(run_train, tmp_path, engines):
    code, _, err = run_train(
        "--task", "detection", *COLOCATE, *RUN, "--max_steps", "4", "--learning_rate", "1e-4", "--output_dir", tmp_path
    )
    assert code == 0, err
    rows = [row for row in logged(tmp_path) if "reward" in row]
    assert len(rows) == 4
    is_sound(rows)
    assert len({row["grad_norm"] for row in rows} - {0.0}) > 1
    (llm,) = engines
    n_prompts, n_rows = 4 * 2, 4 * 8  # each with 4 completions
    assert counted(llm, "vllm:mm_cache_queries") == n_prompts, "a group's image goes through vLLM's processor once"
    # All that fills blocks of 32 tokens is computed for the first completion of a group alone.
    found = [counted(llm, "vllm:prompt_tokens_by_source", source=one) for one in ("local_compute", "local_cache_hit")]
    tokens = counted(llm, "vllm:prompt_tokens")
    assert sum(found) == tokens
    assert found[1] >= 32 * (n_rows - n_prompts)
    assert found[0] <= tokens - 32 * (n_rows - n_prompts)


def test_on_a_cpu_an_engine_multiplies_by_the_weights_themselves():
    """By itself it keeps packed copies on some CPUs, which no update reaches."""
    import torch
    from vllm.model_executor.layers import utils

    from vlrl.training.grpo.vllm_on_cpu import fit_for_training

    layer = torch.nn.Linear(32, 32, bias=False, dtype=torch.bfloat16)
    layer.weight.weight_loader = weight_loader = object()
    with fit_for_training():
        utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    layer.weight.data = torch.eye(32, dtype=torch.bfloat16)
    assert layer.weight.weight_loader is weight_loader
    given_BD = torch.randn(4, 32, dtype=torch.bfloat16)
    assert torch.equal(layer.cpu_linear(given_BD, layer.weight, None), given_BD)


def test_an_image_that_comes_again_is_seen_by_the_newest_weights(run_train, tmp_path, engines):
    """vLLM keeps what its vision encoder made of an image; the encoder is trained too."""
    for name, n in (("train", 2), ("held_out", 2)):
        rows = []
        for i in range(n):
            Image.effect_noise((112, 112), 40 + 20 * i).convert("RGB").save(tmp_path / f"{name}-{i}.png")
            rows.append(
                {"id": f"{name}-{i}", "task": "qa", "images": [f"{name}-{i}.png"], "question": "How many?", "answer": "3"}
            )
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    reward = tmp_path / "length.py"
    reward.write_text("def length(text, sample):\n    return sum(map(ord, text)) % 7 / 7\n")
    code, _, err = run_train(
        "--task", "qa", "--stage", "grpo", "--data", tmp_path / "train.jsonl", "--eval_data", tmp_path / "held_out.jsonl",
        "--rewards", f"{reward}:length",
        *COLOCATE, *RUN, "--max_steps", "4", "--learning_rate", "1e-3", "--warmup_steps", "0", "--output_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, err
    rows = [row for row in logged(tmp_path / "run") if "reward" in row]
    assert sum(row["grad_norm"] > 0 for row in rows) > 1
    assert max(row["sampling/sampling_logp_difference/mean"] for row in rows) < 4e-3, "0.01 where it is not forgotten"


def test_without_the_mending_the_run_ends_with_what_differs(run_train, tmp_path, monkeypatch, engines):
    from vlrl.training.grpo.vllm_prompts import ImageBlock

    monkeypatch.setattr(ImageBlock, "collapsed", lambda _self, ids, _n: list(ids))
    code, _, err = run_train("--task", "detection", *COLOCATE, *RUN, "--max_steps", "2", "--output_dir", tmp_path)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("stopped: vLLM samples from other prompts than the trainer learns from")
    assert "prompt tokens, the trainer has" in last
    assert "image tokens" in last
    assert not list(tmp_path.glob("checkpoint-*"))


def test_an_engine_with_other_weights_ends_the_run(run_train, tmp_path, monkeypatch, engines):
    """Right prompts, but weights that never went over: the trainer's own pass over the first generation tells."""
    import torch
    from trl.generation.vllm_generation import VLLMGeneration

    def wrong(self):
        for weight in self.llm.llm_engine.model_executor.driver_worker.model_runner.model.parameters():
            weight.data.add_(torch.randn_like(weight) * weight.abs().mean())

    monkeypatch.setattr(VLLMGeneration, "sync_weights", wrong)
    off = ["--vllm_importance_sampling_correction", "false"]
    code, _, err = run_train("--task", "detection", *COLOCATE, *RUN, *off, "--max_steps", "2", "--output_dir", tmp_path)
    assert code == 1
    last = err.strip().splitlines()[-1]
    assert last.startswith("stopped: the engine that samples is not the model that is trained")
    assert "numbers are float32 here and float16 in the engine" in last  # which follows the file of the model


def test_episodes_and_adapters(run_train, tmp_path, engines):
    """Every step of a game is a prompt of its own, with an image of its own."""
    code, _, err = run_train(
        "--task", "cards", *COLOCATE, *RUN, "--stage", "grpo", "--model_name_or_path", "tiny-cards", "--max_steps", "2",
        "--per_device_train_batch_size", "4", "--use_peft", "--lora_r", "4", "--learning_rate", "1e-3", "--output_dir", tmp_path,
    )  # fmt: skip
    assert code == 0, err
    rows = [row for row in logged(tmp_path) if "reward" in row]
    assert max(row["sampling/sampling_logp_difference/mean"] for row in rows) < 1e-2
