"""Synthetic samples as a file: the same on every machine, readable, usable as a run's data."""

import pytest

from data_prep import synthetic
from vlrl.data.sample_files import read_samples
from vlrl.tasks import TASKS

pytestmark = pytest.mark.quick


def test_tasks_in_turn_the_same_bytes_and_splits_apart(tmp_path, capsys):
    words = ["--task", ",".join(TASKS), "--n", "50", "--seed", "3"]
    for name, more in (("a", []), ("b", []), ("c", ["--split", "test"])):
        assert synthetic.main([*words, *more, "--out", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    samples, others = read_samples(tmp_path / "a"), read_samples(tmp_path / "c")
    assert [sample.task for sample in samples[:6]] == [*TASKS, "detection"]
    assert samples[0] == TASKS["detection"].synthetic(3, "train", 0)
    assert not {image for s in samples for image in s.images} & {image for s in others for image in s.images}


def test_open_labels_have_no_candidates(tmp_path):
    out = tmp_path / "open.jsonl"
    assert synthetic.main(["--task", "classification", "--open_label", "--n", "20", "--out", str(out)]) == 0
    for sample in read_samples(out):
        assert sample.choices is None
        assert "One of" not in TASKS["classification"].prompt(sample)


def test_unknown_tasks_exit_with_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        synthetic.main(["--task", "detectoin", "--out", str(tmp_path / "x")])
    assert stopped.value.code == 2
    assert "known: detection" in capsys.readouterr().err
