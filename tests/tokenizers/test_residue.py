import numpy as np
import pytest

from pyg_atomenc.tokenizers import Residue

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")


def atoms_of(rows):
    """Rows of (chain, residue number, insertion code, residue name, atom name)."""
    return struc.array(
        [
            struc.Atom(
                np.zeros(3),
                chain_id=chain,
                res_id=number,
                ins_code=ins,
                res_name=residue,
                atom_name=name,
                element=name[0],
            )
            for chain, number, ins, residue, name in rows
        ]
    )


def tokens_of(rows):
    return Residue()(atoms_of(rows)).atom_to_token.tolist()


def test_chain_number_insertion_code_and_name_tell_residues_apart():
    rows = [
        ("A", 1, "", "GLY", "N"),
        ("A", 1, "", "GLY", "CA"),
        ("A", 1, "A", "GLY", "N"),
        ("A", 2, "A", "GLY", "N"),
        ("B", 2, "A", "GLY", "N"),
        ("B", 2, "A", "ALA", "N"),
        ("A", -5, "", "ALA", "N"),
    ]
    tokens = Residue()(atoms_of(rows))
    assert tokens.atom_to_token.tolist() == [0, 0, 1, 2, 3, 4, 5]
    assert tokens.num_tokens == 6
    known = tokens.attributes
    assert known["token_name"] == ["GLY", "GLY", "GLY", "GLY", "ALA", "ALA"]
    assert known["token_chain"] == ["A", "A", "A", "B", "B", "A"]
    assert known["token_res_id"].tolist() == [1, 1, 2, 2, 2, -5]
    assert known["token_ins_code"] == ["", "A", "A", "A", "A", ""]


def test_atoms_of_a_residue_need_not_stand_together():
    rows = [
        ("A", 1, "", "GLY", "N"),
        ("A", 2, "", "GLY", "N"),
        ("A", 1, "", "GLY", "H"),
        ("A", 2, "", "GLY", "H"),
        ("A", 1, "", "GLY", "H2"),
    ]
    assert tokens_of(rows) == [0, 1, 0, 1, 0]


def test_a_repeated_atom_name_further_on_is_another_residue():
    water = [("W", 1, "", "HOH", name) for name in ("O", "H1", "H2")]
    other = [("W", 2, "", "HOH", "O")]
    assert tokens_of(water + other + water + other + water) == (
        [0] * 3 + [1] + [2] * 3 + [3] + [4] * 3
    )
    # Names that are not told apart inside a residue say nothing.
    same = [("A", 1, "", "LIG", "C")] * 3
    assert tokens_of(same + other) == [0, 0, 0, 1]


def test_leaves_its_input_alone():
    atoms = atoms_of([("A", 2, "", "GLY", "N"), ("A", 1, "", "GLY", "N")])
    before = atoms.copy()
    Residue()(atoms)
    assert atoms == before


def test_bad_input():
    atoms = atoms_of([("A", 1, "", "GLY", "N")])
    with pytest.raises(
        ValueError, match=r"'atoms' is of type AtomArrayStack.*stack\[0"
    ):
        Residue()(struc.stack([atoms]))
    with pytest.raises(ValueError, match="'atoms' is of type str"):
        Residue()("GLY")
    with pytest.raises(ValueError, match="'atoms' has no atoms"):
        Residue()(atoms[:0])


def test_repr():
    assert repr(Residue()) == "Residue()"
