"""The parts of AutoTrust: the files that each needs, and the prompts that it makes of every row.

Not here: the sentences of the prompts (`vlrl.bench.autotrust.wording`), scores (`vlrl.bench.autotrust.scoring`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlrl.bench.autotrust import wording as words
from vlrl.bench.autotrust.attack_settings import Attack, target_of
from vlrl.bench.autotrust.corruptions import CORRUPTIONS
from vlrl.bench.autotrust.questions import MULTI, Question, QuestionFile

TRUSTFULNESS = (
    "trustfulness/nuscene_qa_English.json",
    "trustfulness/nuscene_mqa.json",
    "trustfulness/covla.json",
    "trustfulness/drivelm.json",
    "trustfulness/lingoqa.json",
)
ROBUSTNESS = (
    *(f"robustness/nuscene_qa_{language}.json" for language in ("Arabic", "Chinese", "Hindi", "Spanish")),
    *(f"robustness/dirvelm_{language}.json" for language in ("Arabic", "Hindi", "Spanish", "chinese")),
    "robustness/drivelm_perturbation_0.3.json",
)
PRIVATE = tuple(
    f"private/{name}{shots}.json"
    for name in ("people/privacy_people_LingoQA", "vehicle/privacy_vehicle_DriveLM", "location/privacy_location_DriveLM")
    for shots in ("", "_2shot")
)
SCENE = ("fairness/pedestrian_qa.json", "fairness/vehicle_qa.json")
PATTERNS = "fairness/ego_pattern.json"
OOD = ("ood_dataset/OOD_QA.json",)
OOD_SUBSETS = ("DADA", "CoVLA", "RVSD", "cityscapes_foggy_val")
"""Data sets of out-of-distribution images, each found by its name in the path of the image, as in the release."""
CLEAN = "clean"
"""The setting of rows with the unchanged image, which the corrupted ones are compared with."""
PRIVACY_SETTINGS = ("zs", "fpp", "fpl")


@dataclass(frozen=True)
class Ask:
    """One prompt. `setting`: distinguishes several prompts of one row ("fpp", "driver/race/asian"), else "". `question` holds
    the text in the prompt, `released` the text of the file, which the reference scorer reads."""

    part: str
    setting: str
    question: Question
    prompt: str
    released: Question

    @property
    def id(self) -> str:
        """The id of the sample: `part:setting/file#row`."""
        setting = f":{self.setting}" if self.setting else ""
        return f"{self.part}{setting}/{self.question.file}#{self.question.index}"

    @property
    def twin(self) -> tuple[str, int]:
        """(file, row): equal for all prompts of one row, in any part."""
        return self.question.file, self.question.index


@dataclass(frozen=True)
class Options:
    """The choices of the user. `prefixes`: question id -> prefix, instead of our own context or instruction. `surrogate`: the
    model that images are attacked through before they are shown to the measured one."""

    wording: Mapping[str, str] = field(default_factory=lambda: words.WORDING)
    prompt_set: str = "vlrl"
    fix_mojibake: bool = True
    settings: tuple[str, ...] = PRIVACY_SETTINGS
    attributes: tuple[str, ...] = ()
    subtypes: tuple[str, ...] = ()
    prefixes: Mapping[str, str] | None = None
    patterns: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    group_labels: Mapping[str, Mapping[str, str]] | None = None
    attacks: tuple[Attack, ...] = ()
    surrogate: str | None = None
    corruptions: tuple[str, ...] = CORRUPTIONS
    seed: int = 0


FactualityAnswers = Mapping[tuple[str, int], str]
Asks = Callable[[Question, Options, FactualityAnswers], Iterator[tuple[str, str]]]
"""(row, options, factuality answers by file and row) -> (setting, prompt)."""


@dataclass(frozen=True)
class Part:
    """One part of the benchmark. `about`, `needs`: for `vlrl bench list`; `files`: the released files it reads; `asks`: its
    prompts."""

    name: str
    about: str
    files: tuple[str, ...]
    asks: Asks
    needs: str
    headline: str = "accuracy"
    after_factuality: bool = False
    makes_images: bool = False
    """Whether the run makes the images that this part shows, by attack or corruption."""

    @property
    def turn(self) -> int:
        """The stage of the run: 0, 1 after the answers of factuality, or 2 for images to be made, which may take the
        longest."""
        return 2 if self.makes_images else int(self.after_factuality)


def _factuality(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    yield "", words.closed(question, options.wording)


def _uncertainty(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    answer = answers.get((question.file, question.index))
    if question.is_closed and answer is not None:
        yield "", words.uncertainty(question, answer, options.wording)


def _misinformation(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if question.is_closed:
        prefix = options.prefixes.get(question.key) if options.prefixes is not None else None
        prefix = words.misinformation(question, options.seed) if options.prefixes is None else prefix
        if prefix:
            yield "", words.closed(question, options.wording, prefix=f"{prefix} ")


def _misinstruction(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if question.is_closed:
        prefix = options.prefixes.get(question.key) if options.prefixes is not None else None
        prefix = words.misinstruction(question, options.seed) if options.prefixes is None else prefix
        if prefix:
            yield "", words.closed(question, options.wording, prefix=f"{prefix} ")


def _robustness_acc(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    yield "", words.closed(question, options.wording, blank=" ")


def _robustness_abs(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    yield "", f"{question.text('question')}\n{options.wording['abstain']}"


def _privacy(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    for setting in options.settings:
        yield setting, words.privacy(question, setting)


def _ego(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if question.kind != MULTI:
        return
    yield "none", words.closed(question, options.wording)
    for who, attributes in options.patterns.items():
        for attribute, groups in attributes.items():
            name = f"{who}/{attribute}".casefold()
            if options.attributes and name.replace("/", "_") not in options.attributes:
                continue
            for group, prefix in groups.items():
                if not options.subtypes or group in options.subtypes:
                    yield f"{name}/{group}", words.closed(question, options.wording, prefix=prefix)


def _scene(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    yield "", words.closed(question, options.wording)


def _white_box(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if question.is_closed and target_of(question) is not None:
        for attack in options.attacks:
            yield attack.setting, words.closed(question, options.wording)


def _black_box(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if options.surrogate is not None:
        for setting, prompt in _white_box(question, options, answers):
            yield f"transfer:{options.surrogate}/{setting}", prompt


def _attack_control(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if question.is_closed and target_of(question) is not None:
        controls = dict.fromkeys(attack.control for attack in options.attacks)
        yield from ((control.setting, words.closed(question, options.wording)) for control in controls if control is not None)


def _robustness_noise(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    if question.is_closed:
        for name in (CLEAN, *options.corruptions):
            yield name, words.closed(question, options.wording, blank=" ")


def ood_subset(question: Question) -> str:
    """The data set that the image of a question comes from, "other" where its path names none."""
    path = question.text("image_path")
    return next((name for name in OOD_SUBSETS if name in path), "other")


def _ood_acc(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    yield ood_subset(question), words.closed(question, options.wording, blank=" ")


def _ood_abs(question: Question, options: Options, answers: FactualityAnswers) -> Iterator[tuple[str, str]]:
    yield ood_subset(question), f"{question.text('question')}\n{options.wording['abstain']}"


_CLOSED_FILES = f"{', '.join(TRUSTFULNESS)} (any of them), images"
PARTS: dict[str, Part] = {
    part.name: part
    for part in (
        Part("factuality", "trustfulness: right answers", TRUSTFULNESS, _factuality, _CLOSED_FILES),
        Part(
            "uncertainty",
            "trustfulness: whether the model is sure where it is right",
            TRUSTFULNESS,
            _uncertainty,
            f"{_CLOSED_FILES}; factuality runs first",
            after_factuality=True,
        ),
        Part(
            "misinformation",
            "safety: a contradicting context before the question",
            TRUSTFULNESS,
            _misinformation,
            f"{_CLOSED_FILES}; --prefixes, else {words.MISINFORMATION_NAME} (our own)",
        ),
        Part(
            "misinstruction",
            "safety: a malicious instruction before the question",
            TRUSTFULNESS,
            _misinstruction,
            f"{_CLOSED_FILES}; --prefixes, else {words.MISINSTRUCTION_NAME} (our own)",
        ),
        Part(
            "robustness_acc", "robustness: languages and typos", ROBUSTNESS, _robustness_acc, f"{', '.join(ROBUSTNESS)}, images"
        ),
        Part(
            "robustness_abs",
            "robustness: whether it declines where it may",
            ROBUSTNESS,
            _robustness_abs,
            "the files of robustness_acc, images",
            headline="abstention",
        ),
        Part(
            "privacy",
            "privacy: refusing to disclose people, vehicles, places (setting=zs+fpp+fpl)",
            PRIVATE,
            _privacy,
            f"{', '.join(PRIVATE)}, images",
            headline="abstention",
        ),
        Part(
            "ego",
            "fairness: driver and vehicle (attribute=driver_race+..., subtype=...)",
            ("trustfulness/drivelm.json",),
            _ego,
            f"trustfulness/drivelm.json, {PATTERNS}, images",
        ),
        Part(
            "scene",
            "fairness: pedestrians and vehicles in the image",
            SCENE,
            _scene,
            f"{', '.join(SCENE)}, images; --group_labels for DAD and WA",
        ),
        Part(
            "white_box_attack",
            "safety: the image attacked through the model itself (epsilon=, alpha=, num_iter=, bce=1)",
            TRUSTFULNESS,
            _white_box,
            f"{_CLOSED_FILES}; --attack pgd+bim+cw, a model in this process",
            makes_images=True,
        ),
        Part(
            "black_box_attack",
            "safety: the image attacked through another model (options as above)",
            TRUSTFULNESS,
            _black_box,
            f"{_CLOSED_FILES}; --attack_model, as the attacked images were not released",
            makes_images=True,
        ),
        Part(
            "attack_control",
            "safety: random noise as strong as the attacks, run with them",
            TRUSTFULNESS,
            _attack_control,
            "the files of the attacks",
            makes_images=True,
        ),
        Part(
            "robustness_noise",
            "robustness: noise, compression, contrast, pixels, rain, fog (corruption=fog+..., severity=1+2+3)",
            ("trustfulness/drivelm.json",),
            _robustness_noise,
            "trustfulness/drivelm.json, images",
            makes_images=True,
        ),
        Part("ood_acc", "robustness: images from other distributions", OOD, _ood_acc, f"{OOD[0]}, its images"),
        Part(
            "ood_abs",
            "robustness: whether it declines where images are from other distributions",
            OOD,
            _ood_abs,
            f"{OOD[0]}, its images",
            headline="abstention",
        ),
    )
}
ATTACK_PARTS = ("white_box_attack", "black_box_attack", "attack_control")
NOT_ASKED = {
    "white_box_attack": "only on request, as it takes the longest: --attack pgd",
    "black_box_attack": "the attacked images were not released; --attack_model NAME attacks another model and transfers",
}
NO_SUBSTITUTE = "comes with the image archive and has no substitute"


def asks_of(
    part: Part, files: Sequence[QuestionFile], options: Options, answers: FactualityAnswers, limit: int | None
) -> list[Ask]:
    """Every prompt of a part, in the order of the rows. Malformed rows (no text, no known type) have none."""
    found = []
    for file in files:
        for question in file.questions(limit):
            if not question.is_valid:
                continue
            released = question
            if options.fix_mojibake and not question.text("question").isascii():
                row: dict[str, Any] = {**question.row, "question": words.asked_text(question, True)}
                question = Question(question.file, question.index, row)
            found += [
                Ask(part.name, setting, question, prompt, released) for setting, prompt in part.asks(question, options, answers)
            ]
    return found


def n_malformed(files: Iterable[QuestionFile], limit: int | None) -> int:
    """The number of malformed rows among the `limit` drawn of each file."""
    return sum(not question.is_valid for file in files for question in file.questions(limit))
