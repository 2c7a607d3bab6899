"""What README.md, CONTRIBUTING.md and docs/ say is what the program does."""

import re
import shlex
from pathlib import Path

import pytest
from clip_folders import folder_of
from value_head_folders import head_folder

from vlrl import bench
from vlrl.rewards import REWARDS
from vlrl.tasks import KNOWN
from vlrl.training.config import parse
from vlrl.training.dpo.config import parse_dpo
from vlrl.training.dpo.options import is_dpo
from vlrl.training.prm.config import parse_prm
from vlrl.training.prm.options import is_requested as is_prm

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXT["README.md"]


def commands(text):
    """The command lines of all bash blocks, continued lines joined, comments dropped."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for command in line.split("&&"):
                words = shlex.split(command, comments=True)
                if words:
                    yield words


def after(words, *starts):
    """The arguments of a command that begins, anywhere in its words, with one of `starts`; None if it does not."""
    for start in starts:
        n = len(start)
        for i in range(len(words) - n + 1):
            if words[i : i + n] == list(start):
                return words[i + n :]
    return None


def as_parameters(*starts):
    found = [(page, after(words, *starts)) for page, text in TEXT.items() for words in commands(text)]
    return [pytest.param(words, id=f"{page}: {' '.join(words)[:60]}") for page, words in found if words is not None]


TRAIN = as_parameters(["vlrl/train.py"], ["vlrl", "train"])
BENCH = as_parameters(["vlrl", "bench"], ["-m", "vlrl.bench"])
DATA_PREP = [
    pytest.param(script, words, id=f"{page}: {' '.join(words)[:60]}")
    for page, text in TEXT.items()
    for words in commands(text)
    for script in words[1:2]
    if script.startswith("data_prep/")
]


def test_the_two_commands_are_there():
    assert "pip install -e . && torchrun vlrl/train.py --task detection" in README
    assert "pip install -e '.[test]' && pytest" in README


def test_the_readme_is_for_ten_minutes():
    assert len(README.splitlines()) <= 200


def test_commands_are_found():
    assert len(TRAIN) >= 10
    assert len(BENCH) >= 15
    assert len(DATA_PREP) >= 5


@pytest.mark.parametrize("words", TRAIN)
def test_every_training_command_parses(words, tmp_path, monkeypatch):
    words = list(words)
    monkeypatch.chdir(tmp_path)
    for i, word in enumerate(words):
        own, colon, function = word.partition(".py:")
        if (ROOT / word).exists() and "/" in word:
            words[i] = str(ROOT / word)
        elif "," in word and all((ROOT / one).is_file() for one in word.split(",")):
            words[i] = ",".join(str(ROOT / one) for one in word.split(","))
        elif colon and (ROOT / f"{own}.py").is_file():
            words[i] = f"{ROOT / own}.py:{function}"
        elif word.endswith((".jsonl", ".json")):
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).write_text("")
        elif word.startswith("rm:"):
            for folder in word.removeprefix("rm:").partition(",")[0].split("+"):
                head_folder(Path(folder))
        elif word.startswith("clip:"):
            folder_of(Path(word.removeprefix("clip:").partition(",")[0]))
        elif words[i - 1] == "--image_root":
            Path(word).mkdir()
    words += ["--use_cpu", "--bf16", "false"]
    assert (parse_dpo if is_dpo(words) else parse_prm if is_prm(words) else parse)(words)


@pytest.mark.parametrize("words", BENCH)
def test_every_bench_command_parses(words):
    args = bench.parse_command(words)
    assert callable(args.run)


@pytest.mark.parametrize(("script", "words"), DATA_PREP)
def test_every_converter_command_names_flags_that_exist(script, words):
    assert (ROOT / script).is_file()
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "data_prep").glob("*.py")]
    for word in words:
        if word.startswith("--"):
            assert any(f'"{word}"' in source for source in sources), word


@pytest.mark.parametrize("page", TEXT)
def test_links_and_images_exist(page):
    """Links to files of the repository, and to headings of them."""
    for target in re.findall(r"\]\(([^)]+)\)", TEXT[page]):
        if target.startswith("http"):
            continue
        path, _, heading = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", place.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles], target


@pytest.mark.parametrize("page", TEXT)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:vlrl|tests|data_prep|configs|examples|demos|docs)/[\w./-]*\w)`", TEXT[page])
    for path in named:
        if path.endswith("-v0"):  # the id of an environment
            continue
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", TEXT)
def test_shown_files_are_the_files(page):
    """`<!-- file: path -->` is followed by a block that holds the file as it is."""
    for path, block in re.findall(r"<!-- file: (\S+) -->\n+```python\n(.*?)^```", TEXT[page], re.DOTALL | re.MULTILINE):
        assert block == (ROOT / path).read_text(encoding="utf-8"), path
    assert TEXT[page].count("<!-- file: ") == len(re.findall(r"<!-- file: \S+ -->\n+```python\n", TEXT[page]))


def test_every_task_and_reward_is_named():
    for name in KNOWN:
        assert f"`{name}`" in README, name
    for name in REWARDS:
        assert f"`{name}`" in TEXT["docs/extending.md"], name


def test_every_room_is_named():
    for room in (ROOT / "vlrl").iterdir():
        if room.name not in ("__init__.py", "py.typed", "__pycache__"):
            for page in ("README.md", "docs/architecture.md"):
                assert room.name in TEXT[page], f"{page}: {room.name}"
