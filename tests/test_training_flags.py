import pytest

from vlrl.training.flags import with_underscores

pytestmark = pytest.mark.quick


def test_dashes_inside_flags_are_underscores_and_values_stay():
    words = ["speed", "--image-size", "56-x", "--out-file=a-b=c.json", "-x", "a-b", "--"]
    assert with_underscores(words) == ["speed", "--image_size", "56-x", "--out_file=a-b=c.json", "-x", "a-b", "--"]
