"""Images made worse: the same pixels for the same seed and item, worse with every severity, and the released noise as released."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from vlrl.bench.autotrust.corruptions import CORRUPTIONS, OWN, SEVERITIES, chosen_corruptions, corrupt
from vlrl.data.images import open_image


def road(index=3):
    return open_image(f"synthetic:planning/test/0/{index}")


def pixels(image):
    return np.asarray(image, dtype=np.int16)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_same_seed_and_item_give_the_same_pixels(name):
    one = corrupt(road(), name, 0, "file.json", 7)
    assert (one.size, one.mode) == (road().size, "RGB")
    assert np.array_equal(pixels(one), pixels(corrupt(road(), name, 0, "file.json", 7)))
    assert not np.array_equal(pixels(one), pixels(road())), "something is changed"
    if not any(kind in name for kind in ("compression", "contrast", "pixelation")):
        assert not np.array_equal(pixels(one), pixels(corrupt(road(), name, 1, "file.json", 7))), "seed"
        assert not np.array_equal(pixels(one), pixels(corrupt(road(), name, 0, "file.json", 8))), "item"


@pytest.mark.parametrize("kind", OWN)
def test_each_severity_is_worse_than_the_one_before(kind):
    far = [
        np.mean(
            [np.abs(pixels(corrupt(road(i), f"vlrl-corruption-{kind}-{k}", 0, i)) - pixels(road(i))).mean() for i in range(6)]
        )
        for k in SEVERITIES
    ]
    assert far[0] < far[1] < far[2]


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("size", [(8, 8), (1, 5), (500, 300)])
def test_any_size(name, size):
    assert corrupt(Image.new("RGB", size, (90, 120, 30)), name, 0, 0).size == size


def test_noise_of_variance_6_and_its_wrapped_form():
    grey = Image.new("RGB", (300, 300), (100, 100, 100))
    noise = pixels(corrupt(grey, "gaussian_var6", 0, 0)) - 100
    assert noise.var() == pytest.approx(6 + 1 / 12, rel=0.02), "rounded to whole levels"
    assert abs(noise.mean()) < 0.02
    wrapped = pixels(corrupt(grey, "gaussian_var6_wrapped", 0, 0))
    expected = stats.norm.cdf(-1 / np.sqrt(6))
    assert expected == pytest.approx(0.3415, abs=1e-4)
    assert (wrapped == 255).mean() == pytest.approx(expected, abs=0.003), "negative noise turns white"
    assert (wrapped[wrapped < 255] >= 100).all(), "no value gets darker"


def test_stated_parameters():
    image = road()
    contrast = pixels(corrupt(image, "vlrl-corruption-contrast-1", 0, 0))
    assert contrast.std() == pytest.approx(pixels(image).astype(float).std() * 0.5, rel=0.35)
    coarse = pixels(corrupt(image, "vlrl-corruption-pixelation-3", 0, 0))
    assert len(np.unique(coarse.reshape(-1, 3), axis=0)) <= 14 * 14, "112 px at an eighth"
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=15)
    assert np.array_equal(pixels(corrupt(image, "vlrl-corruption-compression-2", 0, 0)), pixels(Image.open(buffer)))
    fog = pixels(corrupt(image, "vlrl-corruption-fog-3", 0, 0))
    assert np.abs(fog - 222).mean() < 0.45 * np.abs(pixels(image) - 222).mean(), "0.7 of it is fog"


def test_choosing():
    assert chosen_corruptions((), ()) == CORRUPTIONS
    assert len(CORRUPTIONS) == 2 + 3 * len(OWN)
    assert chosen_corruptions(("fog", "gaussian_var6"), ("3",)) == ("gaussian_var6", "vlrl-corruption-fog-3")
    assert chosen_corruptions(("gaussian",), ("1", "2")) == ("vlrl-corruption-gaussian-1", "vlrl-corruption-gaussian-2")
    with pytest.raises(ValueError, match="unknown corruption 'snow'"):
        chosen_corruptions(("snow",), ())
    with pytest.raises(ValueError, match="severity '4'"):
        chosen_corruptions((), ("4",))
