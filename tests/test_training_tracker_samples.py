"""Held-out samples in trackers: TensorBoard's own files, and the calls of the libraries that are not installed."""

import pytest
from PIL import Image
from transformers.trainer_callback import TrainerControl, TrainerState

from vlrl.schema import Prediction
from vlrl.tasks import TASKS
from vlrl.tasks.evaluate import evaluate
from vlrl.training import tracker_samples
from vlrl.training.tracker_samples import SHOWS, ShownSamples, show_samples, shown_samples
from vlrl.training.trackers import Guarded

HOSTILE = "<script>alert(1)</script> | a\nb \x1b[31m"


@pytest.fixture(scope="module")
def shown():
    task = TASKS["detection"]
    samples = [task.synthetic(0, "heldout", i) for i in range(3)]
    wrong = [Prediction(s.id, HOSTILE, 5, False) for s in samples]
    right = [Prediction(s.id, task.oracle(s), 5, False) for s in samples]
    measured = [evaluate({"detection": task}, samples, made) for made in (wrong, right)]
    return shown_samples({"detection": task}, samples, (right, wrong), (measured[1], measured[0]))


class Library:
    """Notes what is called, as `name(positional, keyword)`."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*words, **named):
            self.calls.append((name, words, named))
            return (name, words, named)

        return call


def callback(name, **attributes):
    return type(name + "Callback", (), attributes)()


def test_a_table_of_answers_and_an_image(shown):
    assert shown.image.width > 600
    assert len(shown.rows) == 3
    cells = dict(zip(tracker_samples.COLUMNS, shown.rows[0], strict=True))
    assert cells["value"] == "0.000"
    assert cells["change"] == "-1.000"
    assert "\x1b" not in cells["completion"]


def test_tensorboard_reads_what_was_written(shown, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path)) as writer:
        show_samples(callback("TensorBoard", tb_writer=writer), shown, 7)
        show_samples(callback("TensorBoard", tb_writer=None), shown, 8)
    found = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0})
    found.Reload()
    (image,) = found.Images("held_out")
    assert (image.step, image.width) == (7, shown.image.width)
    (text,) = found.Tensors("held_out/answers/text_summary")
    table = text.tensor_proto.string_val[0].decode()
    assert len(table.splitlines()) == 5, "a row a line"
    assert "<script" not in table
    assert all(line.count("|") == len(tracker_samples.COLUMNS) + 1 for line in table.splitlines())


@pytest.mark.parametrize("image", [True, False])
def test_other_trackers_are_called_as_their_libraries_say(shown, image):
    shown = ShownSamples(shown.image if image else None, shown.rows)
    for name, attribute in (("Wandb", "_wandb"), ("Trackio", "_trackio"), ("SwanLab", "_swanlab")):
        library = Library()
        show_samples(callback(name, **{attribute: library}), shown, 7)
        logs = [words[0] for called, words, _ in library.calls if called == "log"]
        assert len(logs) == 1
        assert ("held_out" in logs[0]) == image
        assert "held_out/answers" in logs[0]
    library = Library()
    show_samples(callback("MLflow", _ml_flow=library), shown, 7)
    assert [name for name, _, _ in library.calls] == (["log_image"] if image else []) + ["log_table"]
    library = Library()
    show_samples(callback("Comet", _experiment=library), shown, 7)
    show_samples(callback("Comet", _experiment=None), shown, 7)
    assert [name for name, _, _ in library.calls] == (["log_image"] if image else []) + ["log_table"]
    show_samples(callback("Neptune"), shown, 7)


def test_names_are_transformers_callbacks():
    from transformers import integrations

    for name in SHOWS:
        assert hasattr(integrations, f"{name}Callback")


def test_a_tracker_that_cannot_show_samples_goes_on_being_left_out(shown, capsys):
    class TensorBoardCallback:
        calls = 0

        def on_evaluate(self, _args, _state, control, **_context):
            self.calls += 1
            return control

        @property
        def tb_writer(self):
            raise RuntimeError("no disk")

    tracker = TensorBoardCallback()
    guarded, control = Guarded(tracker, lambda: shown), TrainerControl()
    for process_zero in (False, True, True):
        state = TrainerState(is_world_process_zero=process_zero)
        assert guarded.on_evaluate(None, state, control, metrics={}) is control
    assert tracker.calls == 2, "after its error it is not called again"
    assert "TensorBoard has failed and is left out" in capsys.readouterr().out


def test_long_answers_are_cut_and_only_some_rows_are_shown():
    task = TASKS["qa"]
    samples = [task.synthetic(0, "heldout", i) for i in range(tracker_samples.SHOWN_ROWS + 5)]
    made = [Prediction(s.id, "x" * 10_000, 5, False) for s in samples]
    scores = evaluate({"qa": task}, samples, made)
    shown = shown_samples({"qa": task}, samples, (made, made), (scores, scores))
    assert len(shown.rows) == tracker_samples.SHOWN_ROWS
    assert all(len(cell) < 3000 for row in shown.rows for cell in row)
    assert isinstance(shown.image, Image.Image)
