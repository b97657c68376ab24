import numpy as np
import pytest

from pyg_atomenc.checks import check_callable, check_integer, check_positive
from pyg_atomenc.tokenizers import Residue


def test_integers():
    assert check_integer("a", np.int64(3), 1) == 3
    for value in (0, 1.5, "1", True, None):
        with pytest.raises(ValueError, match="'a' is .*: pass a positive int"):
            check_integer("a", value, 1)


def test_positive_numbers():
    assert check_positive("a", np.float32(0.5), "in ångström") == 0.5
    for value in (0, -1.0, float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ValueError, match="'a' is .*positive number in ångström"):
            check_positive("a", value, "in ångström")


def test_what_can_be_called():
    check_callable("a", None)
    check_callable("a", Residue())
    for value in (3, "x", Residue):
        with pytest.raises(ValueError, match="'a' is .*pass a function"):
            check_callable("a", value)
