"""The speed command on a model of seconds: its report, its bound on numbers, its FLOP count."""

import json
import subprocess
import sys

import pytest
from transformers import Qwen2_5_VLConfig

from vlrl import speed, speed_cases

SMALL = [
    "--model",
    "tiny",
    "--device",
    "cpu",
    "--image_size",
    "56",
    "--completion_tokens",
    "4",
    "--group",
    "4",
    "--threads",
    "1",
]


def run(tmp_path, *argv):
    out = tmp_path / "speed.json"
    code = speed.main([*SMALL, *argv, "--out", str(out)])
    return code, json.loads(out.read_text(encoding="utf-8"))["cases"][0]


@pytest.mark.parametrize("extra", [[], ["--freeze_vision", "--prompts", "2"]], ids=["trained tower", "frozen tower"])
def test_check_only_compares_numbers_and_times_nothing(tmp_path, extra, capsys):
    code, case = run(tmp_path, "--check_only", *extra)
    assert code == 0
    assert case["results"] == {}
    assert case["numerics"]["greedy_tokens_equal"]
    assert case["numerics"]["vlrl"]["max_abs_dlogp"] <= 1e-5
    assert ("tower_rel_l2" in case["numerics"]["vlrl"]) == (extra == [])
    assert "within_bound: yes" in capsys.readouterr().out


def test_wrong_numbers_are_an_error(tmp_path, monkeypatch):
    dense_mask = speed_cases.group_shared.dense_mask
    monkeypatch.setattr(
        speed_cases.group_shared, "dense_mask", lambda spans, device: dense_mask(spans, device).fill_(True).tril()
    )
    code, case = run(tmp_path, "--check_only")
    assert code == 1
    assert not case["numerics"]["within_bound"]


def test_a_side_reports_every_phase(tmp_path):
    code, case = run(tmp_path, "--side", "vlrl", "--repeats", "2", "--check", "none")
    assert code == 0
    assert set(case["results"]["vlrl"]) == set(speed.PHASES)
    made = speed.fastest(case["results"]["vlrl"], "update")
    assert len(made["runs"]) == 2
    assert made["min"] <= made["seconds"] <= made["first_call"] * 100
    _, late = run(tmp_path, "--side", "stock", "--check", "none", "--time_limit", "-1")
    assert all(made["why"] == "time limit" for found in late["results"]["stock"].values() for made in found.values())


def test_a_child_s_peak_is_its_own():
    weight = bytearray(300 * 2**20)
    code = "from vlrl.speed import peak_resident_bytes; print(peak_resident_bytes())"
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert speed.peak_resident_bytes() > child + len(weight) // 2


def test_two_processes_make_one_measurement():
    a, b = ({"first_call": 9.0, "peak_bytes": n, **speed.summary(runs)} for n, runs in ((5, [1.0, 3.0]), (7, [2.0])))
    both = speed.merged(a, b)
    assert (both["seconds"], both["min"], both["peak_bytes"], both["runs"]) == (2.0, 1.0, 7, [1.0, 3.0, 2.0])
    assert speed.merged({"seconds": None, "why": "out of memory"}, b) is b


@pytest.mark.parametrize(("side_px", "n_keep", "ratio"), [(896, 128, 5.5), (896, 256, 4.3), (448, 128, 3.3)])
def test_floating_point_operations_of_the_published_shape(side_px, n_keep, ratio):
    args = speed.arguments(["--device", "cpu"])
    model = speed_cases.build("tiny", args.device, args.dtype, 0)
    batch = speed_cases.make_batch(model, 1, 82, side_px, n_keep, 8, 0)
    config = Qwen2_5_VLConfig(**speed_cases.SHAPES["qwen2.5-vl-3b-random"])
    stock, shared = (speed_cases.forward_flops(config, batch, shared) for shared in (False, True))
    assert stock / shared == pytest.approx(ratio, rel=0.02)
    if (side_px, n_keep) == (896, 128):
        assert stock == pytest.approx(103e12, rel=0.02)
