import pytest
from residues import chain

from pyg_atomenc.tokenizers import Atom


def test_every_atom():
    atoms = chain(("ALA", "N", "CA"), ("HOH", "O"))
    tokens = Atom()(atoms)
    assert tokens.atom_to_token.tolist() == [0, 1, 2]
    assert tokens.attributes["token_name"] == ["ALA", "ALA", "HOH"]


def test_every_atom_of_a_molecule():
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    tokens = Atom()(chem.MolFromSmiles("CO"))
    assert tokens.attributes["token_name"] == ["C", "O"] and tokens.num_tokens == 2
    with pytest.raises(ValueError, match="'atoms' is of type str"):
        Atom()("CO")
