"""Stereo, isotopes and radicals: by hand, by RDKit, and by the component dictionary."""

from zlib import crc32

import numpy as np
import pytest
import torch
from residues import chain
from torch_geometric.data import Batch

from pyg_atomenc.chem import rdkit
from pyg_atomenc.io import from_atom_array, from_rdmol, from_smiles, to_atom_array
from pyg_atomenc.tokenizers import Residue
from pyg_atomenc.transforms import AtomFeatures

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

# The CIP label of each centre, as the literature gives it: 1 R, 2 S, 3 r, 4 s.
CENTRES = {
    "C[S@@](=O)c1ccccc1": {1: 1},
    "C[S@](=O)c1ccccc1": {1: 2},
    "COc1ccc2[nH]c([S@@](=O)Cc3ncc(C)c(OC)c3C)nc2c1": {8: 2},  # esomeprazole
    "C[C@H](N)C(=O)O": {1: 2},  # L-alanine
    "N[C@@H](CS)C(=O)O": {1: 1},  # L-cysteine
    "C[C@H]1CC[C@@H](C)CC1": {1: 4, 4: 4},  # trans
    "C[C@H]1CC[C@H](C)CC1": {1: 3, 4: 3},  # cis
    "CC(O)C": {},
}


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("smiles", CENTRES)
def test_centres_by_hand(smiles, hydrogens):
    data = from_smiles(smiles, hydrogens=hydrogens)
    found = {i: code for i, code in enumerate(data.chirality.tolist()) if code}
    assert found == CENTRES[smiles]
    x = AtomFeatures()(data).x[:, AtomFeatures.columns.index("chirality")]
    assert x.equal(data.chirality)


@pytest.mark.parametrize(
    "smiles, code",
    [
        ("C/C=C/C", 1),
        ("C/C=C\\C", 2),
        ("CC=CC", 0),
        ("C/C(Cl)=C(/F)CC", 2),
        ("C/C=N/O", 1),
        ("CC(C)=C/C", 0),
        # Its sides differ by handedness alone: seqtrans and seqcis.
        ("F/C=C(\\[C@H](C)Cl)[C@@H](C)Cl", 3),
        ("F/C=C(/[C@H](C)Cl)[C@@H](C)Cl", 4),
    ],
)
def test_double_bonds_by_hand(smiles, code):
    data = from_smiles(smiles)
    double = data.edge_attr[:, 1] == 1
    assert data.edge_stereo[double].tolist() == [code, code]
    assert data.edge_stereo.dtype == torch.long and not data.edge_stereo[~double].any()
    assert data.edge_attr.shape[1] == 5


def test_axes_by_hand():
    mol = Chem.MolFromSmiles("Cc1cccc(O)c1-c1c(C)cccc1N")
    axis = mol.GetBondBetweenAtoms(7, 8)
    axis.SetStereoAtoms(5, 14)
    # Seen along the axis, the nearer O turns clockwise to the farther N: P.
    for kind, code in (("CW", 6), ("CCW", 5)):
        axis.SetStereo(getattr(Chem.BondStereo, f"STEREOATROP{kind}"))
        data = from_rdmol(mol)
        (bond,) = (data.edge_stereo == code).nonzero()[:1].flatten().tolist()
        assert data.edge_index[:, bond].tolist() == [7, 8]
        assert data.edge_stereo.count_nonzero() == 2


def test_isotopes_and_radicals_by_hand():
    data = from_smiles("[2H]C([13CH3])[CH2]")
    order = data.z.tolist()
    assert order == [1, 6, 6, 6]
    assert data.isotope.tolist() == [2, 0, 13, 0]
    assert data.num_radical_electrons.tolist() == [0, 0, 0, 1]


def test_they_batch_and_follow_a_subgraph():
    graphs = [from_smiles(s) for s in ("C/C=C/C", "[13CH4]", "OC/C=C\\C")]
    batch = Batch.from_data_list(graphs)
    for name in ("edge_stereo", "isotope", "chirality", "num_radical_electrons"):
        assert batch[name].equal(torch.cat([graph[name] for graph in graphs]))
    # Four atoms and four directed bonds: only the name tells what belongs to bonds.
    four = from_smiles("CO.C=C")
    assert four.num_nodes == four.num_edges == 4
    assert four.is_edge_attr("edge_stereo") and four.is_node_attr("isotope")
    left = graphs[2].subgraph(torch.tensor([2, 3, 4]))
    assert left.edge_stereo.tolist() == [2, 2, 0, 0]


def test_an_array_carries_them_but_for_bonds():
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    data = from_smiles("C/C=C/[C@H](F)[13CH2][CH2]", Residue())
    data.pos = torch.rand(7, 3)
    again = from_atom_array(to_atom_array(data))
    for name in ("chirality", "isotope", "num_radical_electrons", "num_hydrogens"):
        assert data[name].any() and again[name].equal(data[name]), name
    assert set(again.edge_stereo.tolist()) == {0, -1}


def test_what_takes_too_long_says_so(monkeypatch):
    monkeypatch.setattr(rdkit, "_MOST_COMPARISONS", 1)
    data = from_smiles("C[C@H](O)[C@@H](O)[C@@H](O)[C@H](O)/C=C/C(C)C")
    assert -1 in data.chirality and set(data.chirality.tolist()) <= {-1, 0, 1, 2, 4}
    x = AtomFeatures()(data).x
    assert (x >= 0).all()


def test_a_structure_knows_its_dictionarys_bonds_and_hydrogens_isotopes():
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    names = ("FUM", "C4", "C5", "C", "O")
    bonds = [(0, 1, 2), (0, 2, 1), (2, 3, 2)]
    data = from_atom_array(chain(names, bonds=bonds))
    stereo = {(0, 1): 1, (1, 0): 1}
    pairs = map(tuple, data.edge_index.t().tolist())
    assert data.edge_stereo.tolist() == [stereo.get(pair, 0) for pair in pairs]
    unknown = from_atom_array(chain(("QQQQ", *names[1:]), bonds=bonds))
    assert sorted(unknown.edge_stereo.tolist()) == [-1] * 4 + [0, 0]
    assert unknown.num_radical_electrons.tolist() == [-1] * 4
    atoms = chain(("DOD", "O", "D1", "D2"))
    atoms.element = np.array(["O", "D", "T"])
    data = from_atom_array(atoms)
    assert data.isotope.tolist() == [0, 2, 3] and data.z.tolist() == [8, 1, 1]
    assert to_atom_array(data).element.tolist() == ["O", "D", "T"]


# Well-known components: sugars, cofactors, drugs, amino acids, two sulfoxides.
QUICK = (
    "ALA CYS DAL ILE THR NAG GLC BGC MAN FUC SIA ATP NAD FAD SAM RET REA FUM MAE "
    "BTN CLR EST TES DEX PNN AMX TAX STR OLA LDA ORN SME MHO MYR XMP LNL ACD"
).split()
# What the dictionary labels otherwise than the rules do, or RDKit sees no centre in:
# nitrogens and metals of complexes, ambiguous drawings, r and s.
WRONG = {
    ("0ZB", "CA"), ("0ZB", "CA1"), ("1R6", "N3"), ("1ZV", "C9"), ("A1H3B", "C2"),
    ("A1H3B", "C3"), ("BH3", "CAZ"), ("GGA", "P34"), ("GSZ", "CAC"), ("HZU", "C23"),
    ("I3Q", "N11"), ("ISE", "C5"), ("L1U", "AS"), ("SNA", "C52"), ("UMM", "N2"),
    ("UOJ", "N12"), ("ZND", "N2"), ("A8S", "="), ("EST", "C8"),
}  # fmt: skip
SULFUR = {
    ("577", "S1"), ("7EN", "S19"), ("A1CHB", "S10"), ("A1EAY", "S01"), ("ALW", "S1"),
    ("CSX", "SG"), ("DSK", "SAV"), ("MC8", "S32"), ("NXQ", "S"), ("OSM", "S"),
    ("S68", "SAP"), ("VAZ", "SAR"), ("VJM", "S17"), ("YU0", "S17"),
}  # fmt: skip


def centres(names):
    """Each centre and double bond with the labels of three readers."""
    info = pytest.importorskip("biotite.structure.info", reason="biotite is missing")
    interface = pytest.importorskip("biotite.interface.rdkit")
    base = pytest.importorskip("rdkit.rdBase")
    for name in names:
        atoms = info.residue(name, allow_missing_coord=True)
        if "X" in atoms.element or not np.isfinite(atoms.coord).all():
            continue
        known = from_atom_array(atoms)
        mol = interface.to_mol(atoms)
        try:
            with base.BlockLogs():
                Chem.SanitizeMol(mol)
                Chem.AssignStereochemistryFrom3D(mol)
                heavy = Chem.RemoveHs(mol)
                smiles = Chem.MolToSmiles(heavy)
                order = heavy.GetPropsAsDict(True, True)["_smilesAtomOutputOrder"]
                by_smiles = from_smiles(smiles, max_length=99_999).chirality.tolist()
        except ValueError:
            continue  # Boron cages and the like, which RDKit refuses.
        by_mol = from_rdmol(mol)
        place = [atom.GetPDBResidueInfo().GetName() for atom in heavy.GetAtoms()]
        of = {place[i]: code for i, code in zip(order, by_smiles, strict=True)}
        for i in known.chirality.nonzero().flatten().tolist():
            atom = known.atom_name[i]
            labels = [known.chirality[i].item(), by_mol.chirality[i].item(), of[atom]]
            yield (name, atom), atoms.element[i], labels
        for i in (known.edge_stereo > 0).nonzero().flatten().tolist():
            both = [known.edge_stereo[i].item(), by_mol.edge_stereo[i].item()]
            yield (name, "="), "=", both


def with_centres(sulfur=False):
    """Components with stereocentres: one in 37, or all that have one of sulfur."""
    components = pytest.importorskip("pyg_atomenc.chem.components")
    info = pytest.importorskip("biotite.structure.info", reason="biotite is missing")
    for name in sorted(info.all_residues()):
        if sulfur or crc32(name.encode()) % 37 == 0:
            _, elements, *_, stereo = components.component_atoms(name)
            here = np.isin(stereo, ("R", "S"))
            if "S" in elements[here] if sulfur else here.any():
                yield name


def disagree(rows):
    return {key for key, _, labels in rows if len(set(labels)) > 1}


def test_labels_of_well_known_components():
    found = list(centres(QUICK))
    assert len(found) > 100
    assert disagree(found) <= WRONG


@pytest.mark.slow
def test_labels_of_the_dictionary():
    found = list(centres(with_centres()))
    wrong = disagree(found)
    print(f"{len(found)} labels of components, {len(wrong)} atoms and bonds disagree")
    assert wrong <= WRONG and len(wrong) < 0.02 * len(found) and len(found) > 2000
    assert any(row[1] == "S" for row in found)


@pytest.mark.slow
def test_sulfur_of_the_dictionary():
    found = [row for row in centres(with_centres(sulfur=True)) if row[1] == "S"]
    assert disagree(found) <= SULFUR and len(found) > 130
