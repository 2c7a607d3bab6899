import subprocess
import sys

import pytest

from vlrl.models.load import check_is_vlm
from vlrl.models.names import TINY_NAMES, ModelError, model_name_problem


def test_what_can_be_a_model(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in (*TINY_NAMES, str(tmp_path), "Qwen/Qwen2.5-VL-3B-Instruct"):
        assert model_name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tinny", "did you mean 'tiny'"),
        ("tiny_cards", "did you mean 'tiny-cards'"),
        ("runs/detection/final", "there is no such folder"),
        ("./final", "there is no such folder"),
        ("FOLDER", "without config.json"),
        ("FOLDER/note.txt", "is a file"),
    ],
)
def test_a_wrong_name_is_refused_before_the_hub_is_asked(name, message, tmp_path, monkeypatch):
    (tmp_path / "note.txt").write_text("")
    name = name.replace("FOLDER", str(tmp_path))
    monkeypatch.setattr("vlrl.models.load.AutoConfig", None)  # would be asked for the config of a hub model
    with pytest.raises(ModelError, match=message):
        check_is_vlm(name)


def test_names_need_no_torch():
    code = "import sys; import vlrl.models.names; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
