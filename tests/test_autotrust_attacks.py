"""Attacks on the raw image: inside their bound, seeded, aimed at the right answer, and without a trace in the model."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from vlrl.bench.autotrust import fixture
from vlrl.bench.autotrust import wording as words
from vlrl.bench.autotrust.attack_settings import CONTROL, Attack, Target, read_attacks, target_of
from vlrl.bench.autotrust.attacks import Aim, Attacker, Judged, check_saved, rounded
from vlrl.bench.autotrust.questions import Question
from vlrl.data.images import open_image
from vlrl.models.load import load_model
from vlrl.models.names import ModelError

LETTERS = Target(("A", "B", "C", "D"), 0)


def question(kind, answer):
    return Question("f.json", 0, {"question": "Q?", "question_type": kind, "answer": answer})


@pytest.fixture(scope="module")
def attacker(tiny):
    return Attacker(tiny)


@pytest.fixture(scope="module")
def aims():
    """Questions of both kinds on images of several sizes."""
    made, _, _ = fixture.files(0)
    asked = [one for one in made[0].questions() if one.is_closed][:5]
    sizes = [(112, 112), (112, 112), (112, 112), (190, 60), (40, 40)]
    return [
        Aim(open_image(one.image_key).resize(size), words.closed(one, words.WORDING), target_of(one), f"{one.file}#{one.index}")
        for one, size in zip(asked, sizes, strict=True)
    ]


# ---- settings


def test_published_defaults_and_names():
    pgd, bim, cw = read_attacks("pgd+bim,cw", {})
    assert (pgd.epsilon_px, pgd.alpha_px, pgd.n_steps, pgd.setting) == (16, 2, 10, "pgd-eps16-alpha2-steps10")
    assert (bim.epsilon_px, bim.alpha_px, bim.n_steps) == (8, 0.8, 10)
    assert (cw.epsilon_px, cw.n_steps, cw.setting, cw.control) == (None, 100, "cw-steps100", None)
    (mine,) = read_attacks("bim", {"epsilon": ("4",), "num_iter": ("3",), "bce": ("1",)})
    assert (mine.alpha_px, mine.setting) == (0.4, "bim-eps4-alpha0.4-steps3-bce")
    assert mine.control == Attack(CONTROL, 4, None, 0)
    assert mine.control.setting == "random-eps4"
    for told, options, why in (
        ("fgsm", {}, "unknown attack 'fgsm'"),
        ("pgd", {"epsilon": ("300",)}, "not within 0..255"),
        ("pgd", {"epsilon": ("1", "2")}, "one number"),
        ("pgd", {"alpha": ("0",)}, "moves nothing"),
        ("pgd", {"num_iter": ("1.5",)}, "not a number of steps"),
        ("cw", {"epsilon": ("8",)}, "has no bound"),
    ):
        with pytest.raises(ValueError, match=why):
            read_attacks(told, options)


def test_what_is_aimed_at():
    assert target_of(question("multi-choice", "C")) == Target(("A", "B", "C", "D"), 2)
    assert target_of(question("yes-or-no", "Yes")).words == ("Yes", "No")
    assert target_of(question("yes-or-no", "no")).words == ("yes", "no"), "spelt as the right answer is"
    assert target_of(question("yes-or-no", "NO")).words == ("YES", "NO")
    assert target_of(question("yes-or-no", "Yes"), lower=True).words == ("yes", "no")
    aim = target_of(question("yes-or-no", "No"))
    assert (aim.right, aim.positive, aim.negative) == (1, ("no", "No"), ("yes", "Yes"))
    assert target_of(question("yes-or-no", "*")) is None
    assert target_of(question("open-ended", "a car")) is None


# ---- attacks


@pytest.mark.long
@pytest.mark.parametrize(
    "told", [("pgd", {}), ("bim", {}), ("pgd", {"epsilon": ("2.5",), "alpha": ("1",)}), ("pgd", {"bce": ("1",)})]
)
def test_inside_the_bound_and_the_loss_rises(attacker, aims, told):
    (attack,) = read_attacks(*told)
    made = attacker.attack(attack, aims, seed=0)
    for one, aim in zip(made, aims, strict=True):
        change = one.pixels_HWC.astype(int) - np.asarray(aim.image).astype(int)
        assert one.pixels_HWC.dtype == np.uint8
        assert one.pixels_HWC.shape == (aim.image.height, aim.image.width, 3)
        assert np.abs(change).max() == one.linf_px <= attack.epsilon_px
        assert one.linf_px == int(attack.epsilon_px), "a value somewhere uses all of it"
        assert one.l2_px == pytest.approx(np.sqrt((change**2).sum()), rel=1e-6)
        assert one.loss_after > one.loss_before
    again = attacker.attack(attack, aims, seed=0)
    assert all(np.array_equal(a.pixels_HWC, b.pixels_HWC) for a, b in zip(made, again, strict=True))


def test_no_step_changes_nothing(attacker, aims):
    for name in ("pgd", "bim", "cw"):
        (attack,) = read_attacks(name, {"num_iter": ("0",)})
        for one, aim in zip(attacker.attack(attack, aims, 0), aims, strict=True):
            assert np.array_equal(one.pixels_HWC, np.asarray(aim.image))
            assert (one.linf_px, one.loss_after) == (0, one.loss_before)


@pytest.mark.long
def test_cw_moves_as_little_as_turns_the_answer(attacker, aims):
    (attack,) = read_attacks("cw", {"num_iter": ("25",)})
    # What the model itself would say is taken for right: else there is nothing to turn.
    turned = [dataclasses.replace(aim, target=LETTERS) for aim in aims[:3]]
    with torch.no_grad():
        said = Judged(attacker, turned, False)
        inputs = attacker.inputs(
            attacker.processor, [torch.from_numpy(np.array(a.image)).permute(2, 0, 1).float() for a in turned], turned
        )
        logits = attacker.loaded.model(**inputs, **attacker.options).logits[:, -1]
    best = [int(logits[i, said.ids[i]].argmax()) for i in range(3)]
    turned = [dataclasses.replace(aim, target=Target(LETTERS.words, k)) for aim, k in zip(turned, best, strict=True)]
    made = attacker.attack(attack, turned, 0)
    assert all(one.right_clean for one in made)
    assert all(np.isfinite(one.l2_px) and one.l2_px > 0 for one in made)
    (strong,) = read_attacks("pgd", {})
    pgd = attacker.attack(strong, turned, 0)
    assert np.mean([one.l2_px for one in made]) < np.mean([one.l2_px for one in pgd])
    assert all(one.loss_after > one.loss_before for one in made)


def test_random_noise_of_the_same_strength(attacker, aims):
    noise = Attack(CONTROL, 16, None, 0)
    made = attacker.attack(noise, aims, seed=0)
    for one, aim in zip(made, aims, strict=True):
        change = one.pixels_HWC.astype(int) - np.asarray(aim.image).astype(int)
        assert np.abs(change).max() <= 16
        inside = (np.asarray(aim.image) >= 16) & (np.asarray(aim.image) <= 239)
        assert set(np.unique(change[inside])) == {-16, 16}
        assert one.right_clean is None
    assert np.array_equal(made[0].pixels_HWC, attacker.attack(noise, aims, seed=0)[0].pixels_HWC)
    assert not np.array_equal(made[0].pixels_HWC, attacker.attack(noise, aims, seed=1)[0].pixels_HWC)


def test_the_model_is_left_as_it_was(attacker, aims, tiny):
    before = {name: value.clone() for name, value in tiny.model.state_dict().items()}
    wanted = {name: p.requires_grad for name, p in tiny.model.named_parameters()}
    tiny.model.train()
    attacker.attack(read_attacks("pgd", {})[0], aims[:2], 0)
    assert tiny.model.training
    tiny.model.eval()
    assert all(torch.equal(value, before[name]) for name, value in tiny.model.state_dict().items())
    assert {name: p.requires_grad for name, p in tiny.model.named_parameters()} == wanted
    assert all(p.grad is None for p in tiny.model.parameters())
    assert "Differentiable" not in type(tiny.processor.image_processor).__name__


def test_a_batch_attacks_each_image_for_itself(attacker, aims):
    (attack,) = read_attacks("pgd", {"num_iter": ("1",)})
    together = attacker.attack(attack, aims, 0)
    alone = attacker.attack(attack, aims[1:2], 0)[0]
    same = (together[1].pixels_HWC == alone.pixels_HWC).mean()
    assert same > 0.97, "signs of gradients near 0 may differ by padding alone"


def test_answers_that_begin_alike_cannot_be_told_apart(attacker, aims):
    same = [dataclasses.replace(aims[0], target=Target(("A", "A"), 0))]
    with pytest.raises(ModelError, match="do not begin with different tokens"):
        attacker.attack(read_attacks("pgd", {})[0], same, 0)


def test_an_image_that_the_graph_does_not_repeat_is_not_attacked(tiny, aims):
    attacker = Attacker(tiny)
    attacker.processor.image_processor.image_mean = [0.0, 0.0, 0.0]
    with pytest.raises(ModelError, match="nothing was attacked"):
        attacker.attack(read_attacks("pgd", {})[0], aims[:1], 0)


def test_the_saved_image_is_checked(tmp_path):
    clean = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    pixels = np.asarray(clean).astype(int)
    path = str(tmp_path / "a.png")
    Image.fromarray(np.clip(pixels + 5, 0, 255).astype(np.uint8)).save(path)
    assert check_saved(path, clean, 5) == 5
    with pytest.raises(ModelError, match="5 grey levels from the clean image, 4 is the bound"):
        check_saved(path, clean, 4)
    clean.save(str(tmp_path / "b.jpg"), quality=30)
    with pytest.raises(ModelError, match="is the bound"):
        check_saved(str(tmp_path / "b.jpg"), clean, 8)
    x = torch.tensor([100.0])
    assert rounded(x + 2.5, x, 2.5).item() == 102, "never above the bound"
    assert rounded(x - 2.5, x, 2.5).item() == 98
    assert rounded(torch.tensor([255.4]), torch.tensor([250.0]), None).item() == 255


def test_another_models_images_are_no_worse_for_the_bound(aims):
    """Transfer: the image depends on the attacked model only."""
    surrogate = Attacker(load_model("tiny-random", seed=3))
    made = surrogate.attack(read_attacks("pgd", {"num_iter": ("2",)})[0], aims[:2], 0)
    assert all(one.linf_px == 4 for one in made)
