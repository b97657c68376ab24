import numpy as np
import pytest
from residues import chain

from pyg_atomenc.io import from_structure
from pyg_atomenc.tokenizers import Boltz1, Boltz2
from pyg_atomenc.transforms import BoltzFeatures

pytest.importorskip("biotite.structure", reason="biotite is not installed")


def test_a_peptide_with_a_modified_residue_and_two_ligands():
    # Phosphoserine inside the chain, and free; then a water.
    atoms = chain(
        ("ALA", "N", "CA", "C"),
        ("SEP", "N", "CA", "C", "P"),
        ("MSE", "N", "C"),
        ("SEP", "N", "CA"),
        ("HOH", "O"),
        bonds=[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 7)],
    )
    one, two = Boltz1()(atoms), Boltz2()(atoms)
    expected = [0, 0, 0, 1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert one.atom_to_token.tolist() == expected
    assert two.atom_to_token.tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 3, 4, 5]
    assert one.num_tokens == 9 and two.num_tokens == 6
    assert one.attributes["token_name"][1:5] == ["SEP"] * 4
    assert one.attributes["token_res_id"].tolist() == [0, 1, 1, 1, 1, 2, 3, 3, 4]
    assert repr(Boltz2()) == "Boltz2()"


def test_nucleotides():
    atoms = chain(
        ("DA", "P", "O3'"), ("5CM", "P", "O3'"), ("DG", "P"), bonds=[(1, 2), (3, 4)]
    )
    assert Boltz1()(atoms).num_tokens == 4
    assert Boltz2()(atoms).num_tokens == 3


@pytest.mark.parametrize("tokenizer", [Boltz1(), Boltz2()])
def test_a_complex_with_its_ligand(structures, tokenizer):
    options = {"hydrogens": False, "waters": False}
    path = structures / "3o5r.cif"
    data = from_structure(path, tokenizer, **options)
    residues = from_structure(path, **options)
    # 128 residues stay tokens, every other atom is one.
    in_ligands = sum(residues.token_name[t] not in tokenizer_names(residues) for t in
                     residues.atom_to_token.tolist())  # fmt: skip
    assert data.num_tokens == 128 + in_ligands > 150
    features = BoltzFeatures(augment=False, keep_atoms=True)
    made, whole = features(data), features(residues)
    assert made.ref_space_uid.equal(whole.ref_space_uid)
    assert made.ref_pos.allclose(whole.ref_pos)


def tokenizer_names(data):
    """Names of residues with a Cα: the protein's."""
    index = data.atom_to_token.tolist()
    return {
        data.token_name[token]
        for token, name in zip(index, data.atom_name, strict=True)
        if name == "CA"
    }


@pytest.mark.parametrize("tokenizer", [Boltz1(), Boltz2()])
def test_without_bonds_a_chain_cannot_be_told(tokenizer):
    atoms = chain(("ALA", "N", "CA"), ("MSE", "N", "CA"))
    atoms.bonds = None
    with pytest.raises(ValueError, match="'atoms' has no bonds"):
        tokenizer(atoms)
    atoms.set_annotation("label_seq_id", np.array(["1", "1", "2", "2"]))
    assert tokenizer(atoms).num_tokens == 2
