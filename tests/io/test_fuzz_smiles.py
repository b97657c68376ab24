"""Damaged SMILES give a ValueError, or a molecule with the atoms that they spell."""

import random
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_atomenc.io import from_smiles

pytest.importorskip("rdkit", reason="RDKit is not installed")

DRUGS = (
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C)C(=O)N2C",
    "C[C@H](N)C(=O)N[C@@H](CS)C(=O)[O-].[Na+]",
    "O=C(O)/C=C/c1ccc(O)c([N+](=O)[O-])c1",
    "CCOP(=S)(OCC)Oc1nc(C(C)C)nc(C)c1",
    "[13CH3]C1CC2(CC1)OCCO2",
)
HOSTILE = {
    "a chain": "C" * 5000,
    "branches": "C(" * 1600 + "C" + ")" * 1600,
    "open branches": "C(" * 2400,
    "rings onto themselves": "C1" * 2500,
    "a huge ring number": "C%(99999)CC%(99999)",
    "a ring number too far": "C%(9999999999999999999)C",
    "a negative ring number": "C%(-1)CC%(-1)",
    "an open ring": "C1CC",
    "brackets": "[" * 2500,
    "an open bracket": "[C",
    "an isotope": "[999999999999C]",
    "a charge": "[C+99999999999]",
    "hydrogens": "[CH99999]",
    "a map number": "[C:99999999999999999999]",
    "dots": "." * 100,
    "many components": "C." * 2400 + "C",
    "an empty branch": "C()C",
    "NUL": "C\0C",
    "a letter that looks like one": "\u0421",
    "two lines": "C\nC",
    "a reaction": "CC>>CC",
    "an open extension": "CC |" + "(" * 1000 + "|",
    "any atoms": "*" * 1000,
    "double bonds": "C/C=C/" * 800 + "C",
    "one ring": "C1" + "C" * 2000 + "1",
    "a cage": "C12C3C4C1C5C4C3C25" * 200,
    "nothing but hydrogen": "[H]" * 500,
    "too long": "C" * 5001,
}
# What an atom looks like; hydrogens in brackets may go into their neighbours.
ATOM = re.compile(r"\[[^\]]*\]|Br|Cl|[BCNOPSFIbcnops*]")


def spelled(smiles):
    atoms = ATOM.findall(smiles.split()[0])
    return sum(not re.match(r"\[\d*H[+-]?\d*\]", atom) for atom in atoms)


def judge(smiles):
    start = time.perf_counter()
    try:
        data = from_smiles(smiles)
    except ValueError as error:
        assert str(error).startswith("'smiles' ") and len(str(error)) < 1500
        return "refused"
    finally:
        assert time.perf_counter() - start < 60
    data.validate()
    assert (data.z != 1).sum() == spelled(smiles)
    return "read"


# The longest of them take seconds in all.
LONG = ("a chain", "a cage", "double bonds", "one ring")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in HOSTILE],
)
def test_hostile(name):
    judge(HOSTILE[name])


def test_damaged():
    rng = random.Random(3)
    count = {"refused": 0, "read": 0}
    for _ in range(400):
        text = rng.choice(DRUGS)
        place, other = sorted(rng.sample(range(len(text)), 2))
        text = rng.choice(
            (
                text[:place],
                text[:place] + text[other:],
                text[:place] + rng.choice("()[]12%=#/\\@+-.:*Hcn9") + text[place:],
                text[:place] + text[other] + text[place + 1 :],
                text[:other] + text[place:],
            )
        )
        count[judge(text)] += 1
    print(f"SMILES: 400 damaged, {count['refused']} refused, {count['read']} read")
    assert min(count.values()) > 50


@pytest.mark.slow
@settings(max_examples=200)
@given(st.text("CNOcn()[]12%=#/\\@+-.:*H9 |", max_size=40))
def test_any_text_of_its_letters(smiles):
    judge(smiles)


@pytest.mark.slow
@settings(max_examples=100)
@given(st.text(max_size=30))
def test_any_text(smiles):
    judge(smiles)
