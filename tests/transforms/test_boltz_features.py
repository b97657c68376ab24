import pytest
import torch
from residues import chain

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.io import from_atom_array, from_rdmol, from_smiles, from_structure
from pyg_atomenc.nn import BoltzAtomEncoder, BoltzConfig
from pyg_atomenc.transforms import BoltzFeatures
from pyg_atomenc.transforms.boltz_features import (
    NUCLEIC_BACKBONE,
    PROTEIN_BACKBONE,
    RESIDUE_TYPES,
    name_codes,
)


def test_names():
    codes = name_codes(["CA", "OP1", "n ", "H5''"])
    assert codes[0].tolist() == [ord("C") - 32, ord("A") - 32, 0, 0]
    assert codes[2].tolist() == [ord("N") - 32, 0, 0, 0]
    assert codes.max() < 64
    for name in ("C1000", "Cα"):
        with pytest.raises(ValueError, match=f"'atom_name' is '{name}' for atom 1"):
            name_codes(["C", name])


def test_codes_are_those_of_boltz():
    const = pytest.importorskip("boltz.data.const", reason="boltz is not installed")
    assert RESIDUE_TYPES == const.tokens
    backbone = const.protein_backbone_atom_names + const.nucleic_backbone_atom_names
    assert backbone == PROTEIN_BACKBONE + NUCLEIC_BACKBONE


def test_a_smiles_gets_a_conformer():
    pytest.importorskip("rdkit")
    for hydrogens in (False, True):
        plain = from_smiles("OC(=O)C[NH3+]", hydrogens=hydrogens)
        data = BoltzFeatures()(plain)
        assert "ref_pos" not in plain
        assert data.ref_pos.shape == (data.num_nodes, 3)
        # Bonds of the data are as short as bonds are: the atoms are in its order.
        source, target = data.edge_index
        length = (data.ref_pos[source] - data.ref_pos[target]).norm(dim=1)
        assert 0.8 < length.min() and length.max() < 1.7
        torch.testing.assert_close(
            data.ref_pos.mean(0), torch.zeros(3), atol=1e-5, rtol=0
        )
        assert data.ref_charge.sum() == 1 and data.ref_space_uid.eq(0).all()


def test_a_molecule_keeps_its_conformer():
    chem = pytest.importorskip("rdkit.Chem.AllChem")
    mol = chem.AddHs(chem.MolFromSmiles("CCO"))
    with pytest.raises(ValueError, match="'pos' is not known for 9 atoms.*C1"):
        BoltzFeatures()(from_rdmol(mol))
    chem.EmbedMolecule(mol, randomSeed=1)
    data = from_rdmol(mol)
    found = BoltzFeatures()(data)
    torch.testing.assert_close(found.ref_pos, data.pos - data.pos.mean(0))


def test_rotation_keeps_the_shape():
    pytest.importorskip("rdkit")
    data = from_smiles("CC(N)C(=O)O")
    plain, turned = BoltzFeatures()(data), BoltzFeatures(rotate=True)(data)
    assert (plain.ref_pos - turned.ref_pos).abs().max() > 0.1
    volumes = []
    for found in (plain, turned):
        a, b, c = found.ref_pos[1:4] - found.ref_pos[0]
        volumes.append(torch.dot(a, torch.linalg.cross(b, c)))
    # A reflection would turn the sign.
    torch.testing.assert_close(volumes[0], volumes[1], atol=1e-3, rtol=1e-3)


def test_a_structure(structures):
    pytest.importorskip("biotite")
    plain = from_structure(structures / "1aki.cif", hydrogens=False)
    data = BoltzFeatures(backbone=True, residue=True)(plain)
    # Lysozyme: 129 residues, all standard; waters are of no polymer.
    assert data.token_mol_type.eq(0).sum() == 129
    assert data.token_modified.sum() == 0
    assert data.backbone.bincount()[1:5].tolist() == [129] * 4
    assert data.ref_space_uid.max() + 1 == data.num_tokens
    first = [RESIDUE_TYPES[i] for i in data.token_res_type[:3]]
    assert first == list(data.token_name[:3]) == ["LYS", "VAL", "PHE"]
    # The conformer is the dictionary's, not the crystal's, but of the same bonds.
    inside = (
        data.ref_space_uid[data.edge_index[0]] == data.ref_space_uid[data.edge_index[1]]
    )
    source, target = data.edge_index[:, inside]
    for pos in (data.ref_pos, data.pos):
        length = (pos[source] - pos[target]).norm(dim=1)
        assert 1.1 < length.min() and length.max() < 2.0
    assert not torch.allclose(data.ref_pos[:9], data.pos[:9] - data.pos[:9].mean(0))


def test_selenomethionine_is_read_as_methionine():
    atoms = chain(("MSE", "N", "CA", "C", "O", "CB", "CG", "SE", "CE"))
    atoms.element[6] = "SE"
    plain = from_atom_array(atoms)
    data = BoltzFeatures(residue=True)(plain)
    assert plain.token_name == ["MSE"] and plain.z[6] == 34
    assert data.atom_name[6] == "SD" and data.z[6] == 16
    assert RESIDUE_TYPES[data.token_res_type] == "MET" and data.token_modified == 0
    # The bond from CG to SD of methionine's ideal conformer.
    length = (data.ref_pos[5] - data.ref_pos[6]).norm()
    assert 1.75 < length < 1.85


def test_nucleic_acids(structures):
    pytest.importorskip("biotite")
    data = from_structure(structures / "5ugo.cif", hydrogens=False)
    data = BoltzFeatures(backbone=True, residue=True)(data)
    kinds = data.token_mol_type
    names = {RESIDUE_TYPES[i] for i in data.token_res_type[kinds == 1].tolist()}
    assert names <= {"DA", "DC", "DG", "DT", "DN"} and len(names) == 4
    assert data.backbone[kinds[data.atom_to_token] == 1].max() == 16
    assert data.backbone[kinds[data.atom_to_token] == 3].max() == 0


def test_the_encoder_reads_a_batch_of_them(structures):
    pytest.importorskip("biotite")
    from torch_geometric.loader import DataLoader

    config = BoltzConfig.boltz2("trunk", backbone=True, residue=True)
    torch.manual_seed(0)
    encoder = BoltzAtomEncoder(config).eval()
    names = ("1l2y.bcif", "1aki.cif")
    graphs = [from_structure(structures / name, hydrogens=False) for name in names]
    graphs = [BoltzFeatures(backbone=True, residue=True)(graph) for graph in graphs]
    batch = next(iter(DataLoader(graphs, batch_size=2)))
    with torch.no_grad():
        together = encoder(encoder.condition(batch)).tokens
        alone = [encoder(encoder.condition(graph)).tokens for graph in graphs]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_data_without_names():
    data = AtomTokenData(atom_to_token=torch.zeros(2, dtype=torch.long))
    with pytest.raises(ValueError, match="'z' is missing from the data"):
        BoltzFeatures()(data)


def test_features_go_by_residues_whatever_the_tokens_are_called():
    from pyg_atomenc.tokenizers import Beads, Residue

    atoms = chain(("MSE", "N", "CA", "C", "O", "CB", "SE"), ("ALA", "N", "CA", "CB"))
    features = BoltzFeatures(backbone=True, residue=True)
    one, other = (
        features(from_atom_array(atoms, tokenizer())) for tokenizer in (Residue, Beads)
    )
    assert other.token_name == ["MET", "ALA:BB", "ALA:SC1"]
    assert other.ref_pos.equal(one.ref_pos) and other.z.equal(one.z)
    assert other.ref_space_uid.equal(one.ref_space_uid)
    assert other.backbone.equal(one.backbone)
    assert one.token_res_type.tolist() == [
        RESIDUE_TYPES.index(n) for n in ("MET", "ALA")
    ]
    types = other.token_res_type[other.atom_to_token]
    assert types.equal(one.token_res_type[one.atom_to_token])


def test_kinds_are_those_that_the_data_carries():
    atoms = chain(("ALA", "N", "CA", "C"), ("PHE", "N", "CA", "C"))
    # A free amino acid is a ligand, as in Boltz, whatever its name.
    atoms.hetero[3:] = True
    features = BoltzFeatures(backbone=True, residue=True)
    plain = from_atom_array(atoms)
    data = features(plain)
    assert data.token_mol_type.equal(plain.token_entity_kind)
    assert data.token_mol_type.tolist() == [0, 3]
    assert data.backbone.tolist() == [1, 2, 3, 0, 0, 0]
    assert [RESIDUE_TYPES[i] for i in data.token_res_type.tolist()] == ["ALA", "UNK"]
    del plain.token_entity_kind
    assert "ref_pos" in BoltzFeatures()(plain)
    with pytest.raises(ValueError, match="'token_entity_kind' is missing"):
        features(plain)


def test_names_of_smiles_atoms_are_boltzs():
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    data = from_smiles("OC(=O)CCl")
    # As Boltz' parser does it, written out.
    mol = chem.AddHs(chem.MolFromSmiles("OC(=O)CCl"))
    ranks = list(chem.CanonicalRankAtoms(mol))[:5]
    symbols = zip("O C O C CL".split(), ranks, strict=True)
    names = [f"{symbol}{rank + 1}" for symbol, rank in symbols]
    assert BoltzFeatures()(data).ref_atom_name_chars.equal(name_codes(names))
    plain = BoltzFeatures(rank_names=False)(data).ref_atom_name_chars
    assert plain.equal(name_codes(["O1", "C1", "O2", "C2", "Cl1"]))


def test_a_thousand_atoms_of_one_element():
    data = from_smiles("C" * 1001 + "Cl")
    assert data.atom_name[998:1001] == ["C999", "CA00", "CA01"]
    data.pos = torch.zeros(1002, 3)
    codes = BoltzFeatures(rank_names=False)(data).ref_atom_name_chars
    assert len({*map(tuple, codes.tolist())}) == 1002
    assert len(BoltzFeatures()(data).ref_atom_name_chars.unique(dim=0)) == 1002
