"""What one process does for all, and what all must have alike. Two real processes: `tests/test_distributed.py`."""

from types import SimpleNamespace

import pytest

from vlrl.schema import SampleError
from vlrl.training import first_process
from vlrl.training.checkpoints import RunStopped
from vlrl.training.first_process import check_alike, of_first_process


@pytest.fixture
def two(monkeypatch):
    """A second process of two that is given what the first one sends."""
    sent = []

    def play(first, compute):
        state = SimpleNamespace(is_main_process=first, num_processes=2)
        monkeypatch.setattr(first_process, "PartialState", lambda: state)

        def broadcast(shared):
            if first:
                sent[:] = shared
            else:
                shared[:] = sent

        monkeypatch.setattr(first_process, "broadcast_object_list", broadcast)
        return of_first_process(compute)

    return play


def never():
    raise AssertionError("only the first process computes")


def test_the_first_process_computes_for_all(two):
    assert two(True, lambda: [1, 2]) == two(False, never) == [1, 2]


@pytest.mark.parametrize(("error", "elsewhere"), [(SampleError("row 3"), SampleError), (OSError("disk"), RunStopped)])
def test_an_error_of_the_first_process_ends_all(two, error, elsewhere):
    def fails():
        raise error

    with pytest.raises(type(error), match=str(error)):
        two(True, fails)
    with pytest.raises(elsewhere, match=str(error)):
        two(False, never)


def test_other_rows_on_another_node_stop_the_run(monkeypatch):
    monkeypatch.setattr(first_process, "PartialState", lambda: SimpleNamespace(num_processes=3))
    monkeypatch.setattr(first_process, "gather_object", lambda own: ["aa", "aa", *own])
    check_alike("set of rows", "aa")
    with pytest.raises(RunStopped, match=r"process 2 of 3 has another set of rows than the first \(bb, not aa\)"):
        check_alike("set of rows", "bb")
