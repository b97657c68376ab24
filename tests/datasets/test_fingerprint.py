import functools
import subprocess
import sys

import numpy as np
import pytest
import torch
from dataset_helpers import Dying, Logging, has_two_residues

from pyg_atomenc.datasets.fingerprint import describe, fingerprint
from pyg_atomenc.io import Limits
from pyg_atomenc.tokenizers import AF3, Beads, Residue

LIMIT = 3


def closing_over(number):
    return lambda data: data.num_nodes > number


def reading_a_global(data):
    return data.num_nodes > LIMIT


DIFFERENT = [
    (Residue(), AF3()),
    (AF3(), AF3(atomize_modified=False)),
    (Limits(), Limits(atoms=5)),
    (Beads({"ALA": {"BB": ["N"]}}), Beads({"ALA": {"BB": ["C"]}})),
    (closing_over(3), closing_over(4)),
    (lambda data: data.x > 2, lambda data: data.x > 3),
    (lambda data: data.x, lambda data: data.y),
    (lambda data, k=1: k, lambda data, k=2: k),
    (lambda data: [x for x in data if x > 1], lambda data: [x for x in data if x > 2]),
    (functools.partial(max, 1), functools.partial(max, 2)),
    (torch.tensor([1.0]), torch.tensor([2.0])),
    (torch.tensor([1]), torch.tensor([1.0])),
    (torch.zeros(2, 3), torch.zeros(3, 2)),
    (np.arange(3), np.arange(4)),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ([1, "1"], ["1", 1]),
    (None, "None"),
    (True, 1),
    (Logging("a"), Logging("b")),
    (Logging("a"), Dying("a")),
    (str.upper, str.lower),
]


@pytest.mark.parametrize("one, other", DIFFERENT)
def test_different_options_differ(one, other):
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint([one], 2) != fingerprint([other], 2)


@pytest.mark.parametrize("make", [
    Residue, AF3, Limits, Beads, lambda: closing_over(3), lambda: {3, 1, 2},
    lambda: functools.partial(max, key=has_two_residues), lambda: torch.eye(3),
    lambda: Logging("a").__call__, object,
])  # fmt: skip
def test_equal_options_are_equal(make):
    assert describe(make()) == describe(make())


def test_a_plain_global_counts(monkeypatch):
    before = fingerprint(reading_a_global)
    monkeypatch.setitem(globals(), "LIMIT", 4)
    assert fingerprint(reading_a_global) != before


def test_an_edited_method_counts():
    kinds = []
    for number in (1, 2):
        names = {}
        exec(f"class Own:\n  def __call__(self, x): return x + {number}", names)
        names["Own"].__module__ = "own"
        kinds.append(names["Own"]())
    assert fingerprint(kinds[0]) != fingerprint(kinds[1])


def test_a_circle_ends():
    items = []
    items.append(items)
    assert describe(items) == "[…]"


def test_another_process_says_the_same():
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from dataset_helpers import Logging, has_two_residues\n"
        "from pyg_atomenc.datasets.fingerprint import fingerprint\n"
        "print(fingerprint(Logging('a'), has_two_residues, {'x', 'y', 'z'}))"
    )
    folder = __file__.rsplit("/", 2)[0]
    done = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, check=True
    )
    expected = fingerprint(Logging("a"), has_two_residues, {"x", "y", "z"})
    assert done.stdout.strip() == expected
