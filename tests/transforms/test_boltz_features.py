import warnings

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
        data = BoltzFeatures(augment=False, skip_last=False)(plain)
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


def bond_lengths(data, pos):
    source, target = data.edge_index
    return (pos[source] - pos[target]).norm(dim=1)


def distances(pos):
    return torch.cdist(pos, pos)


def volume(pos, *atoms):
    """That of the four atoms, whose sign is a handedness."""
    a, b, c = pos[list(atoms[1:])] - pos[atoms[0]]
    return torch.dot(a, torch.linalg.cross(b, c))


def embedded(smiles, seed):
    chem = pytest.importorskip("rdkit.Chem.AllChem")
    mol = chem.AddHs(chem.MolFromSmiles(smiles))
    assert chem.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def test_positions_of_a_molecule_tell_but_its_handedness():
    found = []
    for smiles in ("CCC[C@H](N)C(=O)OCC", "CCC[C@@H](N)C(=O)OCC"):
        data = from_rdmol(embedded(smiles, 3))
        pos = BoltzFeatures(augment=False)(data).ref_pos
        assert (distances(pos) - distances(data.pos)).abs().max() > 0.5
        length = bond_lengths(data, pos)
        assert 0.9 < length.min() and length.max() < 1.7
        for own in (data.pos, pos):
            found.append(volume(own, 3, 2, 4, 5).sign())
        # Only who asks for them gets them.
        given = BoltzFeatures(augment=False, conformers="given")(data)
        assert given.ref_pos.equal(data.pos)
    assert found[0] == found[1] == -found[2] == -found[3]


def test_a_molecule_without_positions():
    chem = pytest.importorskip("rdkit.Chem.AllChem")
    plain = from_rdmol(chem.MolFromSmiles("[Na+].CC[O-]"))
    pos = BoltzFeatures()(plain).ref_pos
    assert pos.isfinite().all() and pos.shape == (4, 3)
    del plain.pos, plain.is_resolved
    assert BoltzFeatures(version=1)(plain).ref_pos.isfinite().all()
    for smiles in ("C[C@H](N)O", "C/C=C/C"):
        data = from_rdmol(chem.MolFromSmiles(smiles))
        with pytest.raises(ValueError, match="'ref_pos' is not known for 4 atoms"):
            BoltzFeatures()(data)
        with pytest.raises(ValueError, match="'ref_pos' is not known for 4 atoms"):
            BoltzFeatures(conformers="given")(data)
        assert BoltzFeatures()(from_smiles(smiles)).ref_pos.isfinite().all()


def ligand_of(smiles, seed):
    """A residue that no dictionary knows, with bonds and positions."""
    mol = embedded(smiles, seed)
    interface = pytest.importorskip("biotite.interface.rdkit")
    atoms = interface.from_mol(mol, add_hydrogen=False)[0]
    atoms = atoms[atoms.element != "H"]
    atoms.res_name[:], atoms.chain_id[:], atoms.hetero[:] = "LIG", "A", True
    atoms.atom_name = [f"{e}{i}" for i, e in enumerate(atoms.element)]
    return atoms


def test_a_ligand_that_nobody_knows_is_computed_by_its_bonds():
    for smiles in ("C1CC[C@H](N)CC1=O", "C1CC[C@@H](N)CC1=O"):
        data = from_atom_array(ligand_of(smiles, 5) + chain(("ALA", "N", "CA")))
        pos = BoltzFeatures(augment=False)(data).ref_pos
        change = distances(pos[:8]) - distances(data.pos[:8])
        assert change.abs().max() > 0.05
        length = bond_lengths(data, pos)
        assert 1.15 < length.min() and length.max() < 1.6
        signs = [volume(p, 3, 2, 4, 5).sign() for p in (pos, data.pos)]
        assert signs[0] == signs[1]
        torch.testing.assert_close(pos[:8].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    # Atoms that no bonds join are no molecule.
    alone = data.edge_index.eq(3).any(dim=0)
    data.edge_index, data.edge_attr = data.edge_index[:, ~alone], data.edge_attr[~alone]
    data.edge_stereo = data.edge_stereo[~alone]
    with pytest.raises(ValueError, match="'ref_pos' is not known for 8 atoms, first 0"):
        BoltzFeatures()(data)


def test_positions_of_the_dictionarys_crystals_are_none():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    info = pytest.importorskip("biotite.structure.info")
    # In no release of the dictionary are its ideal positions known.
    with warnings.catch_warnings(action="ignore"):
        atoms = info.residue("1LN")
    atoms.hetero[:], atoms.chain_id[:] = True, "A"
    data = BoltzFeatures(augment=False)(from_atom_array(atoms))
    change = distances(data.ref_pos) - distances(data.pos)
    assert data.ref_pos.isfinite().all() and change.abs().max() > 0.1


def test_an_atom_that_the_dictionary_lacks():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    names = "N CA C O CB H1".split()
    atoms = chain(
        ("ALA", *names), ("GLY", "N", "CA", "C", "O"),
        bonds=[(0, 1), (1, 2), (2, 3, 2), (1, 4), (0, 5), (2, 6), (6, 7), (7, 8),
               (8, 9, 2)],
    )  # fmt: skip
    data = BoltzFeatures(augment=False)(from_atom_array(atoms))
    inside = data.ref_space_uid[data.edge_index].diff(dim=0)[0] == 0
    length = bond_lengths(data, data.ref_pos)[inside]
    assert 0.95 < length.min() and length.max() < 1.6


def test_motion():
    atoms = chain(*[("TRP", "N", "CA", "C", "O", "CB", "CG")] * 400)
    plain = from_atom_array(atoms)
    still = BoltzFeatures(augment=False, skip_last=False)(plain).ref_pos.view(-1, 6, 3)
    torch.testing.assert_close(still.mean(1), torch.zeros(400, 3), atol=1e-5, rtol=0)
    for options in ({}, {"skip_last": False}, {"version": 1, "conformers": "ideal"}):
        features = BoltzFeatures(**options)
        pos = features(plain).ref_pos.view(-1, 6, 3)
        assert not pos.equal(features(plain).ref_pos.view(-1, 6, 3))
        torch.manual_seed(5)
        pos = features(plain).ref_pos.view(-1, 6, 3)
        torch.manual_seed(5)
        assert pos.equal(features(plain).ref_pos.view(-1, 6, 3))
        # No shape changes, nor is one reflected.
        torch.testing.assert_close(distances(pos), distances(still), atol=1e-4, rtol=0)
        for residue in (0, 399):
            torch.testing.assert_close(
                volume(pos[residue], 1, 0, 2, 4), volume(still[0], 1, 0, 2, 4)
            )
        if options.get("version") == 1:
            # All move as one.
            torch.testing.assert_close(pos, pos[:1].expand_as(pos))
            continue
        shift, turned = pos.mean(1), pos[:, 0] - pos.mean(1)
        assert shift[:399].mean(0).abs().max() < 0.2
        assert (shift[:399].std(0) - 1).abs().max() < 0.15
        # Uniform rotations turn a vector anywhere.
        direction = torch.nn.functional.normalize(turned[:399], dim=1)
        assert direction.mean(0).abs().max() < 0.12
        second = direction.t() @ direction / 399
        assert (second - torch.eye(3) / 3).abs().max() < 0.06
        ideal = BoltzFeatures(augment=False, keep_atoms=True)(plain).ref_pos[-6:]
        assert pos[-1].equal(ideal) == features.skip_last


def test_centred_by_what_is_resolved():
    atoms = chain(*[("ALA", "N", "CA", "C", "O", "CB")] * 4)
    plain = from_atom_array(atoms)
    plain.is_resolved[[0, 1, *range(5, 10)]] = False
    ideal = BoltzFeatures(version=1, conformers="ideal", augment=False)(plain).ref_pos
    ideal = ideal.view(4, 5, 3)
    found = BoltzFeatures(augment=False)(plain).ref_pos.view(4, 5, 3)
    close = torch.testing.assert_close
    close(found[0], ideal[0] - ideal[0, 2:].mean(0))
    close(found[2], ideal[2] - ideal[2].mean(0))
    assert found[1].equal(ideal[1]) and found[3].equal(ideal[3])
    found = BoltzFeatures(augment=False, resolved_only=False)(plain).ref_pos
    close(found.view(4, 5, 3)[:3], ideal[:3] - ideal[:3].mean(1, keepdim=True))
    moved = BoltzFeatures()(plain).ref_pos.view(4, 5, 3)
    assert moved[1].equal(ideal[1]) and not moved[0].allclose(found[:5], atol=0.01)
    # In inference nothing is.
    plain.is_resolved[:] = False
    assert BoltzFeatures(augment=False)(plain).ref_pos.equal(found)


def test_atoms_and_their_order_are_boltzs():
    from pyg_atomenc.tokenizers import Atom

    atoms = chain(
        ("GLY", "CA", "N", "O", "C"), ("MSE", "C", "N", "CA", "O", "OXT"),
        ("GLU", "OXT", "N"), ("ZN", "ZN"),
    )  # fmt: skip
    atoms.hetero[9:], atoms.element[-1] = True, "ZN"
    plain = from_atom_array(atoms)
    data = BoltzFeatures()(plain)
    assert data.atom_name == [*"N CA C O N CA C O".split(), "N", "OXT", "ZN"]
    assert data.atom_to_token.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [3]
    assert data.pos.equal(plain.pos[[1, 0, 3, 2, 5, 6, 4, 7, 10, 9, 11]])
    kept = BoltzFeatures(keep_atoms=True)(plain)
    assert kept.atom_name == plain.atom_name and kept.pos.equal(plain.pos)
    # An atom that is a token goes with it, and tokens stay in the file's order.
    data = BoltzFeatures(residue=True)(from_atom_array(atoms, Atom()))
    assert data.atom_name == [n for i, n in enumerate(atoms.atom_name) if i != 8]
    assert data.num_tokens == len(data.token_res_type) == 11 and data.validate()
    del plain.token_entity_kind
    with pytest.raises(ValueError, match="'token_entity_kind' is missing"):
        BoltzFeatures()(plain)


@pytest.mark.parametrize(
    ("name", "value"), [("version", 3), ("conformers", "crystal"), ("seed", -1)]
)
def test_options_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"'{name}' is {value!r}"):
        BoltzFeatures(**{name: value})


def test_a_structure(structures):
    pytest.importorskip("biotite")
    plain = from_structure(structures / "1aki.cif", hydrogens=False)
    features = BoltzFeatures(backbone=True, residue=True, augment=False)
    data = features(plain)
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
    assert data.num_nodes == plain.num_nodes - 1
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
    # A free one is a ligand, which Boltz takes as it is.
    atoms.hetero[:] = True
    free = BoltzFeatures(residue=True)(from_atom_array(atoms))
    assert free.atom_name[6] == "SE" and free.token_name == ["MSE"]
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
    features = BoltzFeatures(backbone=True, residue=True, augment=False)
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
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    data = from_smiles("C" * 1001 + "Cl")
    assert data.atom_name[998:1001] == ["C999", "CA00", "CA01"]
    data.pos = torch.zeros(1002, 3)
    for rank_names in (False, True):
        features = BoltzFeatures(rank_names=rank_names, conformers="given")
        assert len(features(data).ref_atom_name_chars.unique(dim=0)) == 1002
    # To embed it would take an hour.
    with pytest.raises(ValueError, match="conformers='given'"):
        BoltzFeatures()(from_smiles("C" * 1000))
