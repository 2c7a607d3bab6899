"""Too little memory is one line: the phase, and what to lower, cheapest first."""

import pytest
import torch

from vlrl.training import endings, out_of_memory, stopping
from vlrl.training.out_of_memory import is_out_of_memory, out_of_memory_words, phase_of, remedies_in

CUDA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB"
CPU = "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9437184 bytes."


def raised(names, error=None):
    """An error that came up through functions of these names, the innermost last."""

    def fail():
        raise error or torch.OutOfMemoryError(CUDA)

    for name in reversed(names):
        scope = {"inner": fail}
        exec(f"def {name}():\n    inner()\n", scope)
        fail = scope[name]
    with pytest.raises(type(error) if error else torch.OutOfMemoryError) as found:
        fail()
    return found.value


@pytest.mark.parametrize(
    ("names", "phase"),
    [
        (["load", "load_start", "load_model"], out_of_memory.LOADING),
        (["grpo_stage", "measure", "generate"], out_of_memory.MEASURING),
        (["training_step", "_prepare_inputs", "batch_of", "sample", "rollout", "generate"], out_of_memory.WRITING),
        (["training_step", "_prepare_inputs", "batch_of", "logps"], out_of_memory.SCORING),
        (["training_step", "compute_loss"], out_of_memory.UPDATING),
        (["training_step", "backward"], out_of_memory.UPDATING),
        (["anything"], "during the run"),
    ],
)
def test_the_phase_is_what_was_running(names, phase):
    assert phase_of(raised(names)) == phase


def test_what_is_out_of_memory():
    assert is_out_of_memory(torch.OutOfMemoryError(CUDA))
    assert is_out_of_memory(RuntimeError(CPU))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_the_line_names_phase_size_and_flags_in_order():
    values = {"rows": 32, "group": 8, "steps": 2, "shared": True}
    line = out_of_memory_words(raised(["training_step", "backward"]), values)
    assert line.startswith(
        f"out of the GPU's memory {out_of_memory.UPDATING} (2.50 GiB more were asked for); lower, in this order: "
    )
    order = [
        "--gradient_checkpointing",
        "--per_device_train_batch_size 16 --gradient_accumulation_steps 4",
        "zero3",
        "--use_peft",
    ]
    places = [line.index(word) for word in [*order, "--max_pixels", "--freeze_vision"]]
    assert places == sorted(places)
    assert "\n" not in line
    on_cpu = out_of_memory_words(raised(["training_step", "backward"], RuntimeError(CPU)), values)
    assert on_cpu.startswith("out of memory in the update (forward and backward) (9 MiB more were asked for)")


def test_what_is_as_low_as_it_goes_is_not_named():
    low = {"rows": 8, "group": 8, "shared": True, "checkpointing": True, "peft": True, "quantised": True, "sharded": True}
    words = " ".join(remedies_in(out_of_memory.UPDATING, low))
    for word in ("--gradient_checkpointing", "--per_device_train_batch_size", "--use_peft", "--load_in_4bit", "zero3"):
        assert word not in words
    assert "--max_pixels" in words


def test_a_run_ends_with_the_line_and_code_1(capsys, tmp_path):
    with stopping.StopRequests() as stop:
        stop.asked = {"rows": 8, "group": 8, "shared": True}
        assert endings.refuse_failed(raised(["training_step", "generate"])) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"stopped: out of the GPU's memory {out_of_memory.WRITING}")
    assert err.count("\n") == 1
    assert "--steps_per_generation" in err
    assert endings.refuse_failed(RuntimeError("a bug")) is None
