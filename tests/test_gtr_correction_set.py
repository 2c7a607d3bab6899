"""The correction set: growth, draws, caps, and coming back after a stop."""

import dataclasses
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from vlrl.gtr import CorrectionSet, Record


def record(i, corrected=True, update=0, **fields):
    target = f'{{"thoughts": "{i} ♥ \u2028 \ud800", "action": "+"}}' if corrected else None
    status = "corrected" if corrected else "ok"
    return Record(str(i), "points24", f"prompt {i}", status, target, (0, 5) if corrected else None, update=update, **fields)


def filled(folder, n=20, every=2, **options):
    found = CorrectionSet(folder / "images", **options)
    for i in range(n):
        found.add(record(i, corrected=i % every == 0))
    return found


def ids(records):
    return [found.id for found in records]


def test_it_grows_by_every_step_and_keeps_the_share_of_corrected_ones(tmp_path):
    corrections = CorrectionSet(tmp_path / "images")
    for i in range(30):
        corrections.add(record(i, corrected=i % 3 == 0, update=i // 10))
        assert len(corrections) == corrections.n_added == i + 1
    assert corrections.corrected_share == pytest.approx(1 / 3)
    drawn = corrections.draw(30)
    assert sorted(ids(drawn), key=int) == [str(i) for i in range(30)], "without replacement"
    assert sum(found.target is not None for found in drawn) == 10, "the gate is the corrected share"
    assert corrections.draw(60), "and then again"


def test_draws_cycle_and_are_uniform(tmp_path):
    corrections = filled(tmp_path, 10)
    assert Counter(ids(corrections.draw(50))) == Counter({str(i): 5 for i in range(10)})
    firsts = Counter()
    for _ in range(2000):
        corrections.new_epoch()
        firsts.update(ids(corrections.draw(3)))
    assert chisquare([firsts[str(i)] for i in range(10)]).pvalue > 1e-4


def test_a_new_epoch_sees_what_was_added_since(tmp_path):
    corrections = filled(tmp_path, 3)
    corrections.draw(1)
    corrections.add(record(99))
    assert "99" not in ids(corrections.draw(2))
    corrections.new_epoch()
    assert "99" in ids(corrections.draw(4))


def test_the_gate_may_leave_out_empty_records_and_old_updates_too(tmp_path):
    corrections = filled(tmp_path, gate="always")
    assert all(found.target for found in corrections.draw(40))
    assert CorrectionSet(tmp_path / "images").draw(5) == []
    assert filled(tmp_path, 5, every=99, gate="always").draw(1)[0].id == "0"
    fresh = CorrectionSet(tmp_path / "images", aggregate="fresh")
    for i in range(12):
        fresh.add(record(i, update=i // 4))
    assert set(ids(fresh.draw(30))) == {"8", "9", "10", "11"}


def test_a_cap_is_a_reservoir(tmp_path):
    kept = Counter()
    for seed in range(300):
        corrections = filled(tmp_path, 40, seed=seed, cap=10)
        assert (len(corrections), corrections.n_added) == (10, 40)
        kept.update(ids(corrections.records))
    assert chisquare([kept[str(i)] for i in range(40)]).pvalue > 1e-4


def picture(value):
    return Image.fromarray(np.full((30, 30, 3), value, dtype=np.uint8))


def test_images_lie_once_each_and_come_back_as_they_were(tmp_path):
    corrections = CorrectionSet(tmp_path / "images")
    stored = [corrections.add(record(i), [picture(i % 2), picture(7)]) for i in range(6)]
    assert len(list((tmp_path / "images").iterdir())) == 3
    first, second = corrections.open_images(stored[1])
    assert (np.asarray(first) == 1).all()
    assert (np.asarray(second) == 7).all()


@pytest.mark.parametrize("options", [{}, {"cap": 8}, {"gate": "always"}, {"aggregate": "fresh"}])
def test_a_resumed_set_draws_and_replaces_as_the_first_would_have(tmp_path, options):
    first = filled(tmp_path, **options)
    first.add(record("x", corrected=True, deal_seed=4, episode=1, t=2, corrector="oracle", privileged=True), [picture(3)])
    first.draw(7)
    first.save(tmp_path / "checkpoint")
    again = CorrectionSet(tmp_path / "images", seed=99, **options)
    again.restore(tmp_path / "checkpoint")
    assert again.records == first.records
    for corrections in (first, again):
        for i in range(100, 120):
            corrections.add(record(i))
    assert again.records == first.records
    assert ids(again.draw(50)) == ids(first.draw(50))
    again.save(tmp_path / "checkpoint")
    assert len((tmp_path / "checkpoint" / "records.jsonl").read_bytes().split(b"\n")) == len(again) + 1
    assert not list((tmp_path / "checkpoint").glob("*.partial"))


def test_what_does_not_fit_together_is_refused(tmp_path):
    corrections = filled(tmp_path, 4)
    corrections.add(record("x"), [picture(1)])
    corrections.save(tmp_path / "c")
    with pytest.raises(ValueError, match="cap=None, this run has cap=3"):
        CorrectionSet(tmp_path / "images", cap=3).restore(tmp_path / "c")
    with pytest.raises(ValueError, match="1 of its images"):
        CorrectionSet(tmp_path / "elsewhere").restore(tmp_path / "c")
    lines = (tmp_path / "c" / "records.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "c" / "records.jsonl").write_bytes(b"".join(lines[:-1]))
    with pytest.raises(ValueError, match="4 records, but"):
        CorrectionSet(tmp_path / "images").restore(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        CorrectionSet(tmp_path / "images").restore(tmp_path / "nowhere")
    for options in ({"gate": "never"}, {"aggregate": "some"}, {"cap": 0}):
        with pytest.raises(ValueError, match="give"):
            CorrectionSet(tmp_path / "images", **options)
    with pytest.raises(ValueError, match="status 'ok' with target"):
        dataclasses.replace(record(1), status="ok")


def test_records_are_one_json_line_each_with_everything_disclosed(tmp_path):
    corrections = CorrectionSet(tmp_path / "images")
    corrections.add(record(1, corrector="model:x", prompt_version="1", privileged=False), [picture(1)])
    corrections.save(tmp_path / "c")
    row = json.loads((tmp_path / "c" / "records.jsonl").read_text(errors="surrogatepass"))
    wanted = "id task deal_seed episode t update image_sha256s prompt target thought_span status corrector privileged"
    assert set(wanted.split()) <= set(row)
