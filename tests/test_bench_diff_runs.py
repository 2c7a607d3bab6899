"""`bench diff A1 A2 --to B1 B2`: several runs a side."""

import json

import pytest

from vlrl.bench import main
from vlrl.bench.suite import json_round_trip
from vlrl.tasks import TASKS

WRONG = "<think>x</think><answer>STOP, STOP</answer>"


def scored(folder, right, seed=0, n=12):
    """A scored run on `n` samples of `seed`, the answers to `right` of them right."""
    task = TASKS["planning"]
    samples = [json_round_trip(task.synthetic(seed, "heldout", i)) for i in range(n)]
    folder.mkdir()
    rows = [{"id": s.id, "completion": task.oracle(s) if i in right else WRONG, "n_tokens": 9} for i, s in enumerate(samples)]
    (folder / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["score", "--predictions", folder / "said.jsonl", "--task", "planning", "--limit", n, "--seed", seed]
    assert main([str(word) for word in [*words, "--output_path", folder]]) == 0
    return str(folder)


def told(a, b, out):
    assert main(["diff", *a, "--to", *b, "--output_path", str(out)]) == 0
    return json.loads((out / "diff.json").read_text())


@pytest.mark.long
def test_runs_and_samples_are_told_apart(tmp_path, capsys):
    a = [scored(tmp_path / f"a{i}", range(n)) for i, n in enumerate((3, 4, 5))]
    b = [scored(tmp_path / f"b{i}", range(n)) for i, n in enumerate((6, 9, 9, 12))]
    capsys.readouterr()
    found = told(a, b, tmp_path / "d")
    out = capsys.readouterr().out
    assert "A  3 runs" in out
    assert "3+4 runs" in out
    assert "12 that every run answered" in out
    assert out.splitlines()[-1] == str(tmp_path / "d" / "diff.json")
    assert found["paired_by_seed"] is False
    (runs,) = [one for one in found["over_runs"] if one["metric"] == "plan_accuracy"]
    assert runs["a"] == {"value": pytest.approx(4 / 12), "ci95": runs["a"]["ci95"], "n_runs": 3}
    assert runs["b"]["value"] == pytest.approx(9 / 12)  # of four runs the middle two
    assert runs["p_improvement"]["value"] == 1.0
    assert runs["difference"]["ci95"][0] > 0
    (tokens,) = [one for one in found["over_runs"] if one["metric"] == "n_tokens"]
    assert tokens["p_improvement"]["value"] == 0.5
    (samples,) = [one for one in found["over_samples"] if one["metric"] == "plan_accuracy"]
    assert samples["a"] == pytest.approx(12 / 36)
    assert samples["difference"] == pytest.approx(36 / 48 - 12 / 36)
    assert samples["n"] == 12
    again = told(a[::-1], [b[2], b[0], b[3], b[1]], tmp_path / "e")
    assert [again["over_runs"], again["over_samples"]] == [found["over_runs"], found["over_samples"]]


@pytest.mark.long
def test_runs_of_the_same_seeds_pair(tmp_path, capsys):
    a = [scored(tmp_path / f"a{seed}", range(2 + 3 * seed), seed) for seed in (1, 2, 3)]
    b = [scored(tmp_path / f"b{seed}", range(3 + 3 * seed), seed) for seed in (3, 1, 2)]
    found = told(a, b, tmp_path / "d")
    assert "runs pair by their seeds" in capsys.readouterr().out
    (runs,) = [one for one in found["over_runs"] if one["metric"] == "plan_accuracy"]
    assert runs["difference"]["ci95"] == pytest.approx([1 / 12, 1 / 12]), "each seed gains one sample"
    (samples,) = [one for one in found["over_samples"] if one["metric"] == "plan_accuracy"]
    assert (samples["n"], samples["difference"]) == (36, pytest.approx(3 / 36))


def test_what_cannot_be_compared_is_named(tmp_path, capsys):
    one = scored(tmp_path / "a", range(3))
    for words, message in (
        ([one], "1 folders: give two, or several a side"),
        ([one, one, one], "3 folders"),
        ([one, one, "--to", one], "named twice on one side"),
        ([one, "--to", str(tmp_path / "gone")], "holds no result.json"),
    ):
        assert main(["diff", *words]) == 2
        assert message in capsys.readouterr().err
