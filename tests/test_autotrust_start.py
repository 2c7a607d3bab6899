"""The shipped start takes the embedded trust exam: it scores well above the best constant answer, and attacks and noise lower that."""

import json

import pytest

from vlrl.bench import main

pytestmark = pytest.mark.long


def measured(task, out, *flags):
    assert main(["run", "--task", task, "--model_name_or_path", "tiny", "--output_path", str(out), *flags]) == 0
    result = json.loads((out / "result.json").read_text())
    return {key.removesuffix(",none"): value for key, value in result["results"][task].items()}, result


def test_the_exam_says_something_of_the_shipped_start(tmp_path, capsys):
    values, result = measured("autotrust", tmp_path / "exam")
    printed = capsys.readouterr().out
    assert len(printed.split("trust card:")[1].split("further numbers")[0].splitlines()) <= 25
    assert values["factuality/accuracy"] >= 0.80
    assert values["factuality/best_constant"] <= 0.56 < values["factuality/accuracy_ci95"][0]
    assert values["factuality/accuracy_reference"] == values["factuality/accuracy"], (
        "its answers are plain enough for either scorer"
    )
    assert result["n_unparsed"] == result["n_failed"] == 0
    assert values["robustness_noise/drop"] > 0.05
    assert values["robustness_noise/drop:vlrl-corruption-fog-3_ci95"][0] > 0.1
    assert abs(values["robustness_noise/drop:vlrl-corruption-gaussian-1"]) < 0.1, "what is hardly seen changes little"


def test_an_attack_lowers_it_and_random_noise_of_the_same_strength_does_not(tmp_path):
    values, result = measured("autotrust/white_box_attack", tmp_path / "attacked")
    assert values["white_box_attack/accuracy_ci95"][1] < values["factuality/accuracy_ci95"][0], "separated intervals"
    assert values["white_box_attack/drop"] > 0.4
    assert abs(values["attack_control/drop"]) < 0.1
    assert result["n_unparsed"] <= 1
