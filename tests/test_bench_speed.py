"""The speed command on a model of seconds: the contract of its report, its bounds on numbers and counts, its FLOP count."""

import json
import statistics

import pytest
import torch
from family_models import saved
from transformers import Qwen2_5_VLConfig

from vlrl.bench.speed import check as speed_check
from vlrl.bench.speed import command as speed
from vlrl.bench.speed import measure as speed_run
from vlrl.bench.speed import models as speed_cases
from vlrl.bench.speed import plan as speed_plan
from vlrl.bench.speed import report as speed_report
from vlrl.models.prefix_sharing import logprobs as packed_scoring

SMALL = [
    "--device",
    "cpu",
    "--image_size",
    "56",
    "--completion_tokens",
    "4",
    "--group",
    "4",
    "--prompt_tokens",
    "8",
    "--threads",
    "1",
]


@pytest.fixture
def here(monkeypatch):
    """Children run in this process."""
    made = []

    def in_child(argv, what, **changes):
        args = speed.arguments([*argv, *(word for name, n in changes.items() for word in (f"--{name}", str(n)))])
        made.append(what)
        case = speed.case_of(args)
        if what == "check":
            found = speed_check.compare_layouts(case)
        else:
            found = speed_run.run_side(case, speed.setting_from_json(what))
        return json.loads(json.dumps({**found, "device": "cpu"}))

    monkeypatch.setattr(speed, "in_child", in_child)
    return made


def run(tmp_path, *argv):
    out = tmp_path / "speed.json"
    code = speed.main([*SMALL, *argv, "--out", str(out)])
    return code, json.loads(out.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "extra",
    [[], ["--freeze_vision"], ["--beta", "0"], ["--tune", "lora"], ["--tune", "lora", "--freeze_vision"]],
    ids=["full", "frozen", "no-kl", "lora", "frozen lora"],
)
def test_check_only_compares_numbers_and_counts_and_times_nothing(tmp_path, extra, capsys, here):
    code, report = run(tmp_path, "--check_only", *extra)
    assert (code, report["problems"]) == (0, [])
    assert set(report["seconds"]["vlrl"].values()) == {None}
    assert report["max_abs_dlogp"] <= 1e-5
    assert report["sampled_tokens_equal"]
    assert report["params_with_grad_equal"]
    n_passes = 2 if "--beta" in extra else 3
    stock, ours = report["counts"]["stock"], report["counts"]["vlrl"]
    assert (stock["processor_images"], ours["processor_images"]) == (16, 2), "two prompts of four completions, asked twice"
    assert (stock["prompt_forwards"], ours["prompt_forwards"]) == (8 * n_passes, 2 * n_passes)
    assert stock["tower_images"] == 8 * n_passes
    assert ours["decoded_images"] >= 1, "the loader opens what it fetches"
    assert ours["tower_images"] == (2 if "--freeze_vision" in extra else 2 * n_passes)
    assert capsys.readouterr().out.splitlines()[-1].endswith("speed.json")


@pytest.mark.long
def test_the_report_keeps_its_contract(tmp_path, capsys, here):
    code, report = run(tmp_path, "--repeats", "2", "--disable", "prefill_once")
    assert code == 0
    assert [json.loads(what)["side"] for what in here[1:]] == ["stock", "vlrl", "vlrl", "stock"], "in turn"
    wanted = (
        "schema command date versions device config seconds ratio peak_memory_bytes max_abs_dlogp mean_abs_dlogp noise_floor"
    )
    wanted += " grad_cosine grad_rel_l2 params_with_grad_equal sampled_tokens_equal counts sides noisy"
    assert set(wanted.split()) <= set(report)
    assert report["config"]["disabled"] == ["prefill_once"]
    assert report["counts"]["vlrl"]["prompt_forwards"] == 8 + 2 + 2, "the rollout runs every row's prompt"
    for side in ("stock", "vlrl"):
        seconds, made = report["seconds"][side], report["sides"][side]
        assert set(seconds) == set(speed_plan.PHASES)
        assert seconds["old"] is None
        assert seconds["step"] >= max(seconds["rollout"], seconds["ref"], seconds["update"]) > 0
        assert seconds["rollout"] == pytest.approx(seconds["rollout_prefill"] + seconds["rollout_decode"], rel=0.5)
        assert len(made["spread"]["step"]["runs"]) == 2
        assert statistics.median(made["spread"]["step"]["runs"]) == seconds["step"]
        assert made["spread"]["step"]["min"] <= seconds["step"]
        assert {"rollout", "update", "step"} <= set(report["peak_memory_bytes"][side])
    assert report["ratio"]["step"] == pytest.approx(report["seconds"]["stock"]["step"] / report["seconds"]["vlrl"]["step"])
    assert report["sides"]["vlrl"]["shared_path"] is True
    assert report["sides"]["vlrl"]["fallback_reason"] is None
    table = capsys.readouterr().out
    assert "(not run: aligned)" in table
    assert "sampled tokens equal: yes" in table


@pytest.mark.parametrize("family", ["smolvlm", "llava_next", "qwen3_vl_moe"])
def test_tiles_and_experts_are_measured(family, tmp_path, here):
    """An encoder that sees an image as tiles does no work twice; the loss that balances experts is left out on both sides."""
    folder = saved(family, tmp_path / family)
    code, report = run(tmp_path, "--check_only", "--model", str(folder))
    assert report["problems"] == []
    assert code == 0


@pytest.mark.long
def test_a_model_that_trains_as_trl_does_is_one_line(tmp_path, capsys):
    folder = saved("qwen3_5", tmp_path / "model")
    assert speed.main([*SMALL, "--check_only", "--model", str(folder), "--out", str(tmp_path / "speed.json")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(
        "error: the comparison of numbers failed: this model trains as TRL does: the language model has layers"
    )


def test_work_done_twice_is_an_error(tmp_path, monkeypatch, here):
    monkeypatch.setattr("vlrl.training.grpo.rollout.rollout_problem", lambda config: "every row runs its prompt")
    code, report = run(tmp_path, "--check_only", "--side", "vlrl")
    assert code == 1
    assert report["problems"] == ["tower_images 12, 6 needed", "prompt_forwards 12, 6 needed"]


def test_wrong_numbers_and_dead_children_are_errors(tmp_path, monkeypatch, capsys, here):
    dense_mask = packed_scoring.dense_mask
    monkeypatch.setattr(
        "vlrl.models.prefix_sharing.logprobs.dense_mask", lambda spans, device: dense_mask(spans, device).fill_(True).tril()
    )
    code, report = run(tmp_path, "--check_only", "--side", "stock")
    assert code == 1
    assert any("max_abs_dlogp" in line for line in report["problems"])
    monkeypatch.undo()
    monkeypatch.setattr(speed, "in_child", lambda *a, **k: {"failed": "out of memory"})
    assert speed.main([*SMALL, "--check_only", "--out", str(tmp_path / "x.json")]) == 1
    assert "out of memory" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image_size", "50"], "multiples of 28"),
        (["--image_size", "wide"], "a side in pixels"),
        (["--group", "1"], "at least 2"),
    ],
)
def test_sizes_that_cannot_be_exit_with_2(words, message, capsys):
    assert speed.main(["--device", "cpu", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_error_of_a_child_is_reported():
    assert "JSON" in speed.in_child([*SMALL], "not a setting")["failed"]


def test_several_processes_make_one_measurement():
    parts = [{"runs": {"step": runs}, "peaks": {"step": peak}} for runs, peak in (([1.0, 3.0], 5), ([2.0], 7))]
    both = speed_report.merged_runs(parts)
    assert both["runs"]["step"] == [1.0, 3.0, 2.0]
    assert both["peaks"]["step"] == 7
    assert speed_report.seconds_of(both)["step"] == 2.0
    assert speed_report.spread([1.0, 3.0, 2.0])["min"] == 1.0


def test_peaks_are_reset():
    speed_run.reset_peak(False)
    before = speed_run.peak_bytes(False)
    block = bytearray(200 * 2**20)
    assert speed_run.peak_bytes(False) >= before + len(block) // 2
    del block
    speed_run.reset_peak(False)
    assert speed_run.peak_bytes(False) < before + 100 * 2**20


@pytest.mark.parametrize(("side_px", "n_keep", "ratio"), [(896, 128, 5.5), (896, 256, 4.3), (448, 128, 3.3)])
def test_floating_point_operations_of_the_published_shape(side_px, n_keep, ratio):
    config = Qwen2_5_VLConfig(**speed_cases.MODEL_SHAPES["qwen2.5-vl-3b-random"])
    sizes = {
        "prompts": 1,
        "group": 8,
        "n_prompt": 84 + (side_px // 28) ** 2,
        "n_keep": n_keep,
        "n_patches": (side_px // 14) ** 2,
    }
    stock, shared = (speed_cases.forward_flops(config, shared, **sizes) for shared in (False, True))
    assert stock / shared == pytest.approx(ratio, rel=0.02)
    if (side_px, n_keep) == (896, 128):
        assert stock == pytest.approx(103e12, rel=0.02)


def test_utilisation_of_a_known_device():
    words = ["--model", "qwen2.5-vl-3b-random", "--image_size", "896", "--prompts", "1", "--device", "cpu"]
    case = speed.case_of(speed.arguments(words))
    about = {"device": "NVIDIA H100 80GB HBM3", "prompt_tokens": 1108}
    assert speed_report.mfu(case, 1.0, about, shared=False) == pytest.approx(3 * 103e12 / 989e12, rel=0.02)
    assert speed_report.mfu(case, 1.0, {**about, "device": "cpu"}, shared=False) is None
    assert speed_report.mfu(case, None, about, shared=False) is None


def test_completions_of_the_comparison_hold_no_vision_tokens():
    args = speed.arguments(["--model", "small", "--device", "cpu", "--image_size", "28", "--completion_tokens", "2000"])
    case = speed.case_of(args)
    loaded = speed_cases.speed_model("small", torch.device("cpu"), torch.float32, 0)
    ids, _ = speed_check._batch(case, loaded, speed_check.Sharing("mask", False, False, False))
    made = set(ids[:, -2000:].unique().tolist())
    assert made == set(range(speed_cases.N_BYTES))
