import numpy as np
import pytest

from pyg_atomenc.chem.components import SYMBOLS, atomic_numbers


def test_symbols_in_any_case():
    found = atomic_numbers(np.array(["C", "FE", "Zn", "d", "X", "H", "OG"]))
    assert found.tolist() == [6, 26, 30, 1, 0, 1, 118]
    assert atomic_numbers(np.array([], dtype="U2")).tolist() == []


def test_the_whole_table_is_rdkits():
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    table = chem.GetPeriodicTable()
    symbols = [table.GetElementSymbol(number).upper() for number in range(1, 119)]
    assert ("X", *symbols) == SYMBOLS


def test_what_is_no_element():
    with pytest.raises(ValueError, match="'element' is 'Qq' for atom 1"):
        atomic_numbers(np.array(["C", "Qq"]))
