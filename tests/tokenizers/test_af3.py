"""AlphaFold 3's tokens, by hand and against a loop over OpenFold-3's reading."""

import numpy as np
import pytest
from residues import chain

from pyg_atomenc.io import from_structure
from pyg_atomenc.tokenizers import AF3

pytest.importorskip("biotite.structure", reason="biotite is not installed")


def sizes(tokens):
    return tokens.atom_to_token.bincount().tolist()


def test_a_capped_dipeptide_with_a_disulfide():
    atoms = chain(
        ("ACE", "C", "O", "CH3"),
        ("CYS", "N", "CA", "C", "SG"),
        ("CYS", "N", "CA", "C", "SG"),
        ("NH2", "N"),
        bonds=[(0, 1), (0, 2), (0, 3), (3, 4), (4, 5), (4, 6), (5, 7), (7, 8), (8, 9),
               (8, 10), (9, 11), (6, 10)],
    )  # fmt: skip
    assert sizes(AF3()(atoms)) == [1] * 12
    # The caps are no standard residues.
    whole = AF3(atomize_modified=False)(atoms)
    assert sizes(whole) == [1, 1, 1, 4, 4, 1]
    assert whole.attributes["token_is_standard"].tolist() == [0, 0, 0, 1, 1, 0]
    assert whole.representative.tolist() == [0, 1, 2, 4, 8, 11]
    assert repr(AF3()) == "AF3(atomize_modified=True)"


def test_a_glycan_splits_its_asparagine_alone():
    atoms = chain(
        ("ALA", "N", "CA", "C"),
        ("ASN", "N", "CA", "C", "ND2"),
        ("NAG", "C1", "O5"),
        ("MSE", "N", "CA"),
        ("HOH", "O"),
        bonds=[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (4, 6), (6, 7), (7, 8), (9, 10)],
    )
    assert sizes(AF3()(atoms)) == [3] + [1] * 9


def test_dna_and_a_free_amino_acid():
    atoms = chain(
        ("DA", "O5'", "C1'", "O3'"),
        ("DG", "P", "C1'", "O3'"),
        ("PHE", "N", "CA", "C"),
        bonds=[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (6, 7), (7, 8)],
    )
    atoms.hetero[6:] = True
    tokens = AF3()(atoms)
    assert sizes(tokens) == [3, 3, 1, 1, 1]
    assert tokens.attributes["token_entity_kind"].tolist() == [1, 1, 3, 3, 3]
    assert tokens.representative.tolist() == [1, 4, 6, 7, 8]
    # By the sequence, where it is known: then the amino acid is part of a peptide.
    atoms.set_annotation("label_seq_id", np.array(["1"] * 3 + ["2"] * 3 + ["1"] * 3))
    assert sizes(AF3()(atoms)) == [3, 3, 3]


def by_loop(atoms):
    """OpenFold-3's reading, one residue and one bond at a time."""
    standard = set(
        "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR "
        "VAL UNK A C G U N DA DC DG DT DN".split()
    )
    residue, residues = [], {}
    for atom in atoms:
        # The number counts within a chain; here as the authors give it.
        key = (atom.chain_id, atom.res_id, atom.ins_code, atom.res_name)
        residue.append(residues.setdefault(key, len(residues)))
    split = [False] * len(residues)
    for number, atom in zip(residue, atoms, strict=True):
        if atom.res_name not in standard or atom.label_seq_id == ".":
            split[number] = True
    for a, b, _ in atoms.bonds.as_array().tolist():
        if residue[a] == residue[b]:
            continue
        names = {str(atoms.atom_name[a]), str(atoms.atom_name[b])}
        if not (names <= {"N", "C"} or names <= {"P", "O3'", "O5'"}):
            split[residue[a]] = split[residue[b]] = True
    tokens = {}
    for i, number in enumerate(residue):
        yield tokens.setdefault((number, i if split[number] else -1), len(tokens))


@pytest.mark.parametrize("name", ["1igy.bcif", "5ugo.cif", "4gxy.cif", "3o5r.cif"])
def test_real_entries(name, structures):
    seen = []

    def tokenizer(atoms):
        seen.append(atoms)
        return AF3()(atoms)

    data = from_structure(structures / name, tokenizer, waters=False)
    assert data.atom_to_token.tolist() == list(by_loop(seen[0]))


def test_needs_bonds():
    atoms = chain(("ALA", "N"))
    atoms.bonds = None
    with pytest.raises(ValueError, match="'atoms' has no bonds"):
        AF3()(atoms)
    assert AF3(atomize_modified=False)(atoms).num_tokens == 1
