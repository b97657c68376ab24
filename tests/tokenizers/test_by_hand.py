"""Every tokenizer on the same small molecules; all expected tokens written out."""

import pytest
from residues import DISULFIDE, LIGAND, disulfide, dna, glycan, ligand, phosphoserine

from pyg_atomenc.io import from_atom_array, from_rdmol
from pyg_atomenc.tokenizers import (
    AF3,
    BRICS,
    Atom,
    Beads,
    Boltz1,
    Boltz2,
    Components,
    Residue,
    RingsAndChains,
    Smarts,
)

pytest.importorskip("biotite.structure", reason="biotite is not installed")
Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

AMIDE = Smarts({"amide": "C(=O)N"})


def each(count):
    return list(range(count))


STRUCTURES = {
    disulfide: {
        Residue(): [0] * 3 + [1] * 6 + [2] * 6 + [3],
        Atom(): each(16),
        # The disulfide splits both cysteines; caps are no standard residues.
        AF3(): each(16),
        AF3(atomize_modified=False): [0, 1, 2] + [3] * 6 + [4] * 6 + [5],
        Boltz1(): [0, 1, 2] + [3] * 6 + [4] * 6 + [5],
        Boltz2(): [0] * 3 + [1] * 6 + [2] * 6 + [3],
        Beads(): [0] * 3 + [1] * 4 + [2] * 2 + [3] * 4 + [4] * 2 + [5],
        Components(): [0] * 16,
        RingsAndChains(): [0, 0, 0, 0, 1, 1, 2, 1, 1, 1, 1, 3, 3, 1, 1, 3],
        BRICS(): [0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 2, 2, 3],
        AMIDE: [0, 0, 1, 0, 2, 3, 3, 4, 5, 3, 6, 7, 7, 8, 9, 7],
    },
    glycan: {
        Residue(): [0] * 8 + [1] * 14,
        Atom(): each(22),
        AF3(): each(22),
        AF3(atomize_modified=False): [0] * 8 + each(15)[1:],
        Boltz1(): [0] * 8 + each(15)[1:],
        Boltz2(): [0] * 8 + each(15)[1:],
        Beads(): [0] * 4 + [1] * 4 + [2] * 14,
        Components(): [0] * 22,
        RingsAndChains(): [0] * 8 + [1] * 5 + [2, 3, 3, 3, 4, 5, 1, 2, 3],
    },
    phosphoserine: {
        Residue(): [0] * 5 + [1] * 10,
        Atom(): each(15),
        AF3(): [0] * 5 + each(11)[1:],
        Boltz1(): [0] * 5 + each(11)[1:],
        Boltz2(): [0] * 5 + [1] * 10,
        Beads(): [0] * 4 + [1] + [2] * 10,
        Components(): [0] * 15,
        RingsAndChains(): [0] * 15,
    },
    dna: {
        Residue(): [0] * 3 + [1] * 5 + [2],
        Atom(): each(9),
        AF3(): [0] * 3 + [1] * 5 + [2],
        Boltz1(): [0] * 3 + [1] * 5 + [2],
        Boltz2(): [0] * 3 + [1] * 5 + [2],
        Beads(): [0] * 3 + [1] * 5 + [2],
        Components(): [0] * 8 + [1],
    },
    ligand: {
        Residue(): [0] * 14,
        Atom(): each(14),
        AF3(): each(14),
        Boltz1(): each(14),
        Boltz2(): each(14),
        Beads(): [0] * 14,
        Components(): [0] * 14,
        RingsAndChains(): [0] * 9 + [1] * 2 + [2] * 3,
        BRICS(): [0] * 9 + [1] * 2 + [2] * 3,
        AMIDE: [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 10, 11],
    },
}
NAMES = {
    (disulfide, "Residue()"): ["ACE", "CYS", "CYS", "NH2"],
    (disulfide, "Beads(20 residues)"): ["ACE", "CYS:BB", "CYS:SC1", "CYS:BB",
                                        "CYS:SC1", "NH2"],
    (glycan, "Beads(20 residues)"): ["ASN:BB", "ASN:SC1", "NAG"],
    (phosphoserine, "Boltz2()"): ["ALA", "SEP"],
    (dna, "AF3(atomize_modified=True)"): ["DC", "DG", "ZN"],
    (dna, "Components()"): ["DC", "ZN"],
    (ligand, "RingsAndChains()"): ["c1ccc2c(c1)CCN2", "C=O", "C1CC1"],
    (ligand, "BRICS()"): ["*N1CCc2ccccc21", "*C(*)=O", "*C1CC1"],
}  # fmt: skip
KINDS = {
    (disulfide, "Residue()"): [0, 0, 0, 0],
    (glycan, "Residue()"): [0, 3],
    (phosphoserine, "Residue()"): [0, 0],
    (dna, "Residue()"): [1, 1, 3],
    (ligand, "Residue()"): [3],
}
MOLECULES = {
    # Without PDB information a molecule is one residue, of no polymer.
    DISULFIDE: {
        Residue(): [0] * 16,
        Atom(): each(16),
        AF3(): each(16),
        Boltz1(): each(16),
        Boltz2(): each(16),
        Beads(): [0] * 16,
        Components(): [0] * 16,
        RingsAndChains(): [0, 0, 0, 0, 1, 1, 2, 1, 1, 1, 1, 3, 3, 1, 1, 3],
        BRICS(): [0, 0, 0, 1, 2, 2, 2, 2, 2, 2, 2, 3, 3, 2, 2, 3],
        AMIDE: [0, 0, 1, 0, 2, 3, 3, 4, 5, 3, 6, 7, 7, 8, 9, 7],
    },
    LIGAND: {
        Residue(): [0] * 14,
        Atom(): each(14),
        AF3(): each(14),
        Boltz1(): each(14),
        Boltz2(): each(14),
        Beads(): [0] * 14,
        Components(): [0] * 14,
        RingsAndChains(): [0] * 9 + [1] * 2 + [2] * 3,
        BRICS(): [0] * 9 + [1] * 2 + [2] * 3,
        AMIDE: [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8, 9, 10, 11],
    },
}


def cases(table):
    found = []
    for molecule, expected in table.items():
        for tokenizer, tokens in expected.items():
            name = molecule if isinstance(molecule, str) else molecule.__name__
            name = f"{name}-{tokenizer!r}"
            found.append(pytest.param(molecule, tokenizer, tokens, id=name))
    return found


@pytest.mark.parametrize("molecule, tokenizer, expected", cases(STRUCTURES))
def test_of_a_structure(molecule, tokenizer, expected):
    data = from_atom_array(molecule(), tokenizer)
    data.validate()
    assert data.atom_to_token.tolist() == expected
    key = (molecule, repr(tokenizer))
    assert data.token_name == NAMES.get(key, data.token_name)
    if key in KINDS:
        assert data.token_entity_kind.tolist() == KINDS[key]


@pytest.mark.parametrize("smiles, tokenizer, expected", cases(MOLECULES))
def test_of_a_molecule(smiles, tokenizer, expected):
    data = from_rdmol(Chem.MolFromSmiles(smiles), tokenizer)
    data.validate()
    assert data.atom_to_token.tolist() == expected


def test_a_molecule_with_pdb_residues():
    mol = Chem.MolFromSmiles(DISULFIDE)
    for atom, known in zip(mol.GetAtoms(), disulfide(), strict=True):
        names = {"residueName": known.res_name, "chainId": "A"}
        number = int(known.res_id)
        info = Chem.AtomPDBResidueInfo(known.atom_name, residueNumber=number, **names)
        atom.SetMonomerInfo(info)
    for tokenizer, expected in STRUCTURES[disulfide].items():
        assert tokenizer(mol).atom_to_token.tolist() == expected, tokenizer
