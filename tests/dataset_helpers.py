"""Small structure files, and tokenizers that misbehave, for tests of data sets.

Here and not in the tests, so that processes started by spawn can import them.
"""

import os
import signal
import time
from pathlib import Path

import torch

from pyg_atomenc import AtomTokenData
from pyg_atomenc.tokenizers import Residue

ATOM = (
    "ATOM  {:5d}  {:<3} GLY A{:4d}    {:8.3f}{:8.3f}   0.000  1.00  0.00           {}"
)


def write_pdb(path, residues=2):
    """A chain of glycines."""
    lines = []
    for residue in range(residues):
        for k, name in enumerate(("N", "CA", "C", "O")):
            place = (4 * residue + k) * 1.4
            line = ATOM.format(len(lines) + 1, name, residue + 1, place, k, name[0])
            lines.append(line)
    Path(path).write_text("\n".join([*lines, "END"]) + "\n")
    return path


def write_folder(folder, count, residues=lambda i: 1 + i % 5):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        write_pdb(folder / f"{i:03d}.pdb", residues(i))
    return folder


def same(one, other):
    """Whether two graphs have the same attributes, types included."""
    if list(one.keys()) != list(other.keys()):
        return False
    for key in one.keys():  # noqa: SIM118
        a, b = one[key], other[key]
        if type(a) is not type(b):
            return False
        if torch.is_tensor(a):
            if a.dtype != b.dtype or a.shape != b.shape:
                return False
            if not torch.allclose(a.double(), b.double(), 0, 0, equal_nan=True):
                return False
        elif repr(a) != repr(b):
            return False
    return True


class Logging(Residue):
    """Notes in a file how many atoms it saw, and takes its time."""

    def __init__(self, log, seconds=0.0):
        self.log, self.seconds = str(log), seconds

    def __call__(self, source):
        with open(self.log, "a") as file:
            file.write(f"{source.array_length()}\n")
        time.sleep(self.seconds)
        return super().__call__(source)


class Dying(Residue):
    """Ends its process at a structure of so many atoms."""

    def __init__(self, atoms):
        self.atoms = atoms

    def __call__(self, source):
        if source.array_length() == self.atoms:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(source)


class Own:
    """A source of one's own: graphs of so many atoms, each a token."""

    options = None

    def __init__(self, *sizes):
        self.sizes, self.names = sizes, [f"of {size}" for size in sizes]

    def stamp(self, index):
        return ""

    def read(self, index, tokenizer):
        size = self.sizes[index]
        return [AtomTokenData(x=torch.rand(size), atom_to_token=torch.arange(size))]


class Missing(Residue):
    """Needs a package that nobody has."""

    def __call__(self, source):
        raise ImportError("no package 'nobody_has_it'", name="nobody_has_it")


def has_two_residues(data):
    return data.num_tokens >= 2


def add_ones(data):
    data.x = torch.ones(data.num_nodes, 1)
    data.note = ["a", {"deep": [2.5, None, True]}]
    return data


class Scale:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, data):
        data.x = data.x * self.factor
        return data


def failing(data):
    raise KeyError("an own mistake")


def to_plain(data):
    return data.to_dict()
