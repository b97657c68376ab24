import pytest
from residues import chain

from pyg_atomenc.tokenizers import RingsAndChains

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")


def test_ligand_with_several_rings():
    # Naphthalene, a chain with a branch, a spiro system, and a salt's ion.
    mol = Chem.MolFromSmiles("c1ccc2ccccc2c1CC(C)NC1CCC2(CC1)CC2.[Cl-]")
    tokens = RingsAndChains()(mol)
    assert tokens.atom_to_token.tolist() == [0] * 10 + [1] * 4 + [2] * 8 + [3]
    assert tokens.attributes["token_name"] == [
        "c1ccc2ccccc2c1", "CCCN", "C1CCC2(CC1)CC2", "[Cl-]"
    ] or tokens.attributes["token_name"][1] in ("CC(C)N", "CCCN")  # fmt: skip
    assert tokens.attributes["token_entity_kind"].tolist() == [3] * 4


def test_two_rings_at_a_bond_are_two_and_hydrogens_follow():
    mol = Chem.AddHs(Chem.MolFromSmiles("C1CC1C1CC1"))
    tokens = RingsAndChains()(mol)
    assert tokens.num_tokens == 2
    assert tokens.attributes["token_name"] == ["C1CC1", "C1CC1"]
    for atom in mol.GetAtoms():
        if atom.GetAtomicNum() == 1:
            owner = atom.GetNeighbors()[0].GetIdx()
            assert tokens.atom_to_token[atom.GetIdx()] == tokens.atom_to_token[owner]


def test_of_a_structure():
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    atoms = chain(
        ("LIG", "C1", "C2", "C3", "C4"), bonds=[(0, 1), (1, 2), (0, 2), (2, 3)]
    )
    tokens = RingsAndChains()(atoms)
    assert tokens.atom_to_token.tolist() == [0, 0, 0, 1]
    assert tokens.attributes["token_name"] == ["C1CC1", "C"]
    assert tokens.attributes["token_chain"] == ["A", "A"]
    atoms.bonds = None
    with pytest.raises(ValueError, match="'atoms' has no bonds"):
        RingsAndChains()(atoms)
    with pytest.raises(ValueError, match="'mol' is of type NoneType"):
        RingsAndChains()(None)
