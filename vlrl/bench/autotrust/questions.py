"""AutoTrust's question files: their names and digests, how they are read, and where their images are. Rows stay as released.

Defects (impossible answers, repeated ids, wrongly decoded Spanish) are not repaired here; they are counted where they matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from vlrl.data.subsets import answer_key, drawn_places
from vlrl.schema import SampleError

MULTI, YES_NO, OPEN = "multi-choice", "yes-or-no", "open-ended"
RELEASED_FILES: dict[str, str] = {
    "fairness/ego_pattern.json": "1c42827ceca6d4696ecde2eb03b7100de16e31c2b9ff71cbe0aeaf17bdfd2f39",
    "fairness/pedestrian_qa.json": "7f985525d7d63c256914d61e0ac2be25366e7d09df630bc21217ed5989ee07f5",
    "fairness/vehicle_qa.json": "80dd12c8d6f64342d13c21fd4120878774178229082cf63035a067201753eb99",
    "private/location/privacy_location_DriveLM.json": "e32a9d34127a119ba904130a2023c6b3ec2f634b68ed131002c21ef3fde0b082",
    "private/location/privacy_location_DriveLM_2shot.json": "98efe26e3eb7cc232fee913fd3e987862dfb21e58b8e3ed8d67a96a7724ae43b",
    "private/people/privacy_people_LingoQA.json": "87b35a731c4e2127b86abeb4f8a2d3ae06e62f3db28d9513bc04c49f74fa9c68",
    "private/people/privacy_people_LingoQA_2shot.json": "a9febb0c763aeeb481d212ba5b70df8f1f3a627d5cc61e5e4d5d2f85b6610d4c",
    "private/vehicle/privacy_vehicle_DriveLM.json": "c3691cc8320ac7ef6c4abcd18fedf13482bf00ef92120d9673c6e9a1d989e5fa",
    "private/vehicle/privacy_vehicle_DriveLM_2shot.json": "46aa0dee6bc74602513db426b958fe39d214e4a4889038fcc84ae5ba77c43d89",
    "robustness/dirvelm_Arabic.json": "99983d6d7a8f3a75358f7e853e5e4abffb0b053f841e20dfcd98a40d9436f7d6",
    "robustness/dirvelm_Hindi.json": "42784335f3c640915268c16dcbbb152c8ec347d3c90c663f30bb42ff87cd5195",
    "robustness/dirvelm_Spanish.json": "d2f20abf92748fcfd6795d98b715daa09e653b32d3958ae1348c8adc339cc5ec",
    "robustness/dirvelm_chinese.json": "69f699de8f7fc7c261096c3a88922aad44d26f85f9ab5703c6cf34698bb01a69",
    "robustness/drivelm_perturbation_0.3.json": "1f68005421e6bf07086adc76337881138d151b72e694a9d5f0e69e3b050fd1fb",
    "robustness/nuscene_qa_Arabic.json": "b5e065c8ec8fbfd833a19b906ef5bd5bfd1302fec5228bfbfd86eb66bcc1a254",
    "robustness/nuscene_qa_Chinese.json": "7854a376009ffc68ad57f41a87318478852eec562540ba865d29e8d18d9efe6b",
    "robustness/nuscene_qa_Hindi.json": "344cc51ea66e848595f2b2b19a122b2e24ffec3a84db9b33fa7bfad7fe9e59f8",
    "robustness/nuscene_qa_Spanish.json": "ff3c328a92d6544edf47dd87d922606b989fb3e6fefb17f967efaa2d6eac9c63",
    "trustfulness/covla.json": "a33523a3f2643000a4f4cb3230055b62ef3ca4cac21c1bbb7d951a137fe6f2d1",
    "trustfulness/drivelm.json": "5a0e7ffd62a49a3b6bb476495262042943db8d09a3670df1799c6a8ae4f337a0",
    "trustfulness/lingoqa.json": "38a0e04ff45b5f2ab46b83da262e3af4410cabab5b83a9b315b7c8e8f3e39e39",
    "trustfulness/nuscene_mqa.json": "1454cc7ae6a1af67df1bc68ea35b3e61edfad6ca8a1a00b269b88d1792f56428",
    "trustfulness/nuscene_qa_English.json": "5ec8271be75f664d2f0b9dfc65e5ddb23437df4b804e3483b87a7588f387a685",
}
"""Released file -> SHA-256."""
FOLDERS = {
    "drivelm": "DriveLM",
    "dirvelm": "DriveLM",
    "nuscene": "NuScenesMQA",
    "lingoqa": "LingoQA",
    "covla": "CoVLA",
    "ood_qa": "ood_dataset/VLM_OOD_data_2024",
}
"""Word in a file's name -> folder of its images under the image root, as in the release."""


@dataclass(frozen=True)
class Question:
    """Row `index` of `file`. Text fields are "" where the row has no text; `is_valid`: it has a question and a known type."""

    file: str
    index: int
    row: Mapping[str, Any]

    def text(self, key: str) -> str:
        """The text under `key`, "" where there is none."""
        value = self.row.get(key)
        return value if isinstance(value, str) else ""

    @property
    def kind(self) -> str:
        """The type of the question: `MULTI`, `YES_NO` or `OPEN` in a valid row."""
        return self.text("question_type")

    @property
    def is_closed(self) -> bool:
        """Whether the answer is a letter, or yes or no."""
        return self.kind in (MULTI, YES_NO)

    @property
    def is_valid(self) -> bool:
        """Whether the row has a question and a known type."""
        return bool(self.text("question")) and self.kind in (MULTI, YES_NO, OPEN)

    @property
    def image_key(self) -> str:
        """The image, or the row without one: questions with the same key are not independent."""
        return self.text("image_path") or f"{self.file}#{self.index}"

    @property
    def key(self) -> str:
        """The question id, which translations of one question share."""
        return str(self.row.get("question_id"))


@dataclass(frozen=True)
class QuestionFile:
    """A file as read. `name`: its path inside the release (`trustfulness/drivelm.json`), or its own."""

    name: str
    rows: tuple[Any, ...]
    sha256: str

    @property
    def is_released(self) -> bool:
        """Whether the file is the released one, byte for byte."""
        return RELEASED_FILES.get(self.name) == self.sha256

    def questions(self, limit: int | None = None) -> list[Question]:
        """The rows as questions, or `limit` of them, drawn; a row that is not an object becomes an empty question, which counts
        as malformed."""
        rows = [row if isinstance(row, dict) else {} for row in self.rows]
        strata = [(str(row.get("type", row.get("question_type"))), answer_key(row.get("answer"))) for row in rows]
        return [Question(self.name, i, rows[i]) for i in drawn_places(strata, limit, 0)]


def read_file(path: Path, name: str | None = None) -> QuestionFile:
    """Read a JSON array of questions. Raises SampleError for any other content."""
    try:
        raw = path.read_bytes()
        rows = json.loads(raw.decode("utf-8"))
    except (OSError, ValueError) as error:
        raise SampleError(f"{path}: not a question file: {error}") from error
    if not isinstance(rows, list):
        raise SampleError(f"{path}: a question file is one JSON array of objects, got {type(rows).__name__}")
    digest = hashlib.sha256(raw).hexdigest()
    known = next((key for key, value in RELEASED_FILES.items() if value == digest), None)
    return QuestionFile(name or known or release_name(path), tuple(rows), digest)


def release_name(path: Path) -> str:
    """The name of the released file that `path` ends in, else the name of the file itself."""
    return next((name for name in RELEASED_FILES if path.as_posix().endswith(f"/{name}")), path.name)


def read_question_files(folder: Path, names: Sequence[str]) -> tuple[list[QuestionFile], list[str]]:
    """The named files that a copy of the release holds, and the names of those it lacks."""
    there = [name for name in names if (folder / name).is_file()]
    return [read_file(folder / name, name) for name in there], [name for name in names if name not in there]


def find_image(image_path: str, file: str, root: Path | None) -> str:
    """The path of an image: under the root as named, in the data set's folder, or by its name alone; the second if nowhere."""
    if image_path.startswith("synthetic:") or root is None:
        return image_path
    stem = file.rpartition("/")[2].casefold()
    folder = next((place for word, place in FOLDERS.items() if word in stem), "")
    places = [root / image_path, root / folder / image_path, root / folder / Path(image_path).name]
    return next((str(place) for place in places if _exists(str(place))), str(places[1]))


@lru_cache(maxsize=100_000)
def _exists(path: str) -> bool:
    return Path(path).is_file()
