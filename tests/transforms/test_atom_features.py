import numpy as np
import pytest
import torch
import torch_geometric.transforms as T
from residues import chain
from torch_geometric.data import Batch

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.io import from_atom_array, from_rdmol, from_smiles, from_structure
from pyg_atomenc.transforms import AtomFeatures

chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
pytest.importorskip("rdkit.Chem.rdCIPLabeler")

SMILES = [
    "C[C@H](N)C(=O)O",
    "C[C@@H]([NH3+])C(=O)[O-]",
    "c1ccc2[nH]ccc2c1",
    "CS(=O)(=O)N1CC2(C1)CCCCCCC2",
    "C#CC=C=C[N+](=O)[O-]",
    "[Na+].[Cl-]",
    "FC(F)(F)[C@]12C[C@H]1CCCN2Br",
    "O=P(O)(O)OB(O)O",
    "[2H]C([2H])Cl",
    "C/C=C/C",
    "C/C=C\\[CH]C",
    "[13CH2]",
]


def column(x, name):
    return x[:, AtomFeatures.columns.index(name)]


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("smiles", SMILES)
def test_they_are_what_rdkit_sees_in_the_molecule(smiles, hydrogens):
    data = AtomFeatures()(from_smiles(smiles, hydrogens=hydrogens))
    mol = chem.MolFromSmiles(smiles)
    if hydrogens:
        mol = chem.AddHs(mol)
    chem.rdCIPLabeler.AssignCIPLabels(mol)
    if hydrogens:
        # Hydrogens have no hybridisation until then.
        chem.SanitizeMol(mol)
    hybridizations = "S SP SP2 SP3 SP3D SP3D2".split()
    rings = mol.GetRingInfo()
    for atom, row in zip(mol.GetAtoms(), data.x.tolist(), strict=True):
        found = dict(zip(AtomFeatures.columns, row, strict=True))
        hybridization = str(atom.GetHybridization())
        code = {"R": 1, "S": 2}
        size = rings.MinAtomRingSize(atom.GetIdx())
        assert found == {
            "element": atom.GetAtomicNum(),
            "charge": atom.GetFormalCharge() + 5,
            "degree": atom.GetTotalDegree(),
            "hybridization": (
                hybridizations.index(hybridization) + 1
                if hybridization in hybridizations
                else 0
            ),
            "is_aromatic": int(atom.GetIsAromatic()),
            "ring_size": size if size <= 8 else 0,
            "chirality": code.get(atom.GetPropsAsDict().get("_CIPCode"), 0),
            "num_hydrogens": atom.GetTotalNumHs(includeNeighbors=True),
            "isotope": atom.GetIsotope(),
            "num_radical_electrons": atom.GetNumRadicalElectrons(),
            "bond_stereo": max(
                (
                    ["", "E", "Z"].index(bond.GetPropsAsDict().get("_CIPCode", ""))
                    for bond in atom.GetBonds()
                ),
                default=0,
            ),
        }


def test_values_beyond_a_range_count_as_its_end():
    ring = from_smiles("C1" + "C" * 8 + "1")
    ring.formal_charge[0] = 9
    ring.formal_charge[1] = -9
    x = AtomFeatures()(ring).x
    assert column(x, "charge")[:3].tolist() == [10, 0, 5]
    assert column(x, "ring_size").tolist() == [0] * 9
    assert (x < torch.tensor(AtomFeatures.sizes)).all() and x.dtype == torch.long


def test_what_a_transform_did_to_bonds():
    data = from_smiles("C/C=C\\C(C)/C=C/C")
    expected = AtomFeatures()(data).x
    assert column(expected, "bond_stereo").tolist() == [0, 2, 2, 0, 0, 1, 1, 0]
    assert AtomFeatures()(T.ToSparseTensor("edge_attr")(data)).x.equal(expected)
    with pytest.warns(UserWarning, match="'edge_stereo' has 14 rows for 22 bonds"):
        x = AtomFeatures()(T.AddSelfLoops("edge_attr")(data)).x
    assert x[:, :-1].equal(expected[:, :-1]) and not x[:, -1].any()
    del data.edge_stereo, data.isotope, data.num_radical_electrons
    assert not AtomFeatures()(data).x[:, 8:].any()


def test_a_copy_gets_them_under_any_name():
    plain = from_smiles("CCO")
    assert "x" not in AtomFeatures("features")(plain) and "features" not in plain
    assert AtomFeatures("features")(plain).features.shape == (3, 11)


def test_a_batch_has_those_of_its_graphs():
    graphs = [from_smiles(smiles) for smiles in SMILES]
    together = AtomFeatures()(Batch.from_data_list(graphs)).x
    assert together.equal(torch.cat([AtomFeatures()(graph).x for graph in graphs]))


def test_handedness_by_positions_where_the_reader_did_not_find_it():
    mol = chem.AddHs(chem.MolFromSmiles("C[C@H](N)C(=O)O"))
    from rdkit.Chem import AllChem

    AllChem.EmbedMolecule(mol, randomSeed=1)
    data = from_rdmol(mol)
    expected = column(AtomFeatures()(data).x, "chirality")
    assert expected[1] == 2 and expected.count_nonzero() == 1
    data.chirality[:] = -1
    assert column(AtomFeatures()(data).x, "chirality").equal(expected)
    data.pos[:, 0] *= -1
    assert column(AtomFeatures()(data).x, "chirality")[1] == 1
    data.pos[0] = torch.nan
    assert column(AtomFeatures()(data).x, "chirality")[1] == 0


def test_residues_as_the_dictionary_knows_them():
    pytest.importorskip("biotite", reason="biotite is not installed")
    side = ("CB", "CG", "CD1", "NE1", "CE2", "CD2", "CE3", "CZ3", "CZ2", "CH2")
    atoms = chain(("TRP", "N", "CA", "C", "O", *side))
    struc = pytest.importorskip("biotite.structure")
    atoms.bonds = struc.connect_via_residue_names(atoms)
    x = AtomFeatures()(from_atom_array(atoms)).x
    assert column(x, "chirality").tolist() == [0, 2] + [0] * 12
    assert column(x, "is_aromatic").tolist() == [0] * 5 + [1] * 9
    assert column(x, "ring_size").tolist() == [0] * 5 + [5] * 5 + [6] * 4
    # N and CA as in a free amino acid: what is missing are hydrogens.
    assert column(x, "num_hydrogens")[:4].tolist() == [2, 1, 1, 0]
    assert column(x, "num_hydrogens")[7] == 1  # N-H of the indole


def test_real_entries_have_features_within_their_sizes(structures):
    for name in ("5ugo.cif", "4gxy.cif", "1l2y.bcif", "hetatm.pdb"):
        x = AtomFeatures()(from_structure(structures / name)).x
        assert (x >= 0).all() and (x < torch.tensor(AtomFeatures.sizes)).all()
        assert name == "hetatm.pdb" or column(x, "chirality").bincount()[2] > 10


@pytest.mark.parametrize("name", ["z", "formal_charge", "num_hydrogens"])
def test_what_is_missing(name):
    data = from_smiles("CCO")
    del data[name]
    with pytest.raises(ValueError, match=f"'{name}' is missing"):
        AtomFeatures()(data)


def test_bonds_need_types():
    data = from_smiles("CCO")
    data.edge_attr = data.edge_attr[:, :3]
    with pytest.raises(ValueError, match=r"'edge_attr' needs .*E, 5\], found: .*3\]"):
        AtomFeatures()(data)
    del data.edge_attr
    with pytest.raises(ValueError, match="'edge_attr' needs .*BOND_TYPES"):
        AtomFeatures()(data)


def test_no_bonds_at_all():
    count = torch.zeros(2, dtype=torch.long)
    data = AtomTokenData(
        z=torch.tensor([8, 30]),
        formal_charge=torch.tensor([0, 2]),
        num_hydrogens=torch.tensor([2, 0]),
        atom_to_token=count,
    )
    x = AtomFeatures()(data).x
    assert column(x, "degree").tolist() == [2, 0]
    assert column(x, "charge").tolist() == [5, 7]
    assert np.array_equal(column(x, "element"), [8, 30])
