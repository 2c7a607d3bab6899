"""A method of one object is replaced within a block, and nowhere else."""

import pytest

from vlrl.models.replaced_method import own_method, replaced_method

pytestmark = pytest.mark.quick


class Model:
    def generate(self):
        return "own"


def test_one_object_within_one_block():
    model, other = Model(), Model()
    with replaced_method(model, "generate", lambda: "ours"):
        assert (model.generate(), other.generate(), Model().generate()) == ("ours", "own", "own")
        with own_method(model, "generate"):
            assert model.generate() == "own"
        assert model.generate() == "ours"
    assert model.generate() == "own"
    assert vars(model) == {}


def test_an_error_leaves_the_object_as_it_was():
    model = Model()
    with pytest.raises(KeyError), replaced_method(model, "generate", lambda: "ours"), own_method(model, "generate"):
        raise KeyError
    assert vars(model) == {}


def test_twice_is_a_fault():
    model = Model()
    with replaced_method(model, "generate", lambda: "ours"):
        with pytest.raises(RuntimeError, match=r"Model\.generate is replaced already"), replaced_method(model, "generate", len):
            pass
        assert model.generate() == "ours"


def test_what_others_have_replaced_comes_back():
    model = Model()
    model.generate = wrapped = lambda: "wrapped"
    with replaced_method(model, "generate", lambda: "ours"):
        assert model.generate() == "ours"
        with own_method(model, "generate"):
            assert model.generate is wrapped
        assert model.generate() == "ours"
    assert model.generate is wrapped
