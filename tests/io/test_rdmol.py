import math

import pytest
import torch
from torch_geometric.loader import DataLoader

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.chem.rdkit import short_name
from pyg_atomenc.io import BOND_TYPES, from_rdmol, from_smiles
from pyg_atomenc.tokenizers import Tokens

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")


def test_alanine_zwitterion_by_hand():
    data = from_smiles("C[C@H]([NH3+])C(=O)[O-]")
    data.validate()
    assert data.z.tolist() == [6, 6, 7, 6, 8, 8]
    assert data.formal_charge.tolist() == [0, 0, 1, 0, 0, -1]
    assert data.atom_name == ["C1", "C2", "N1", "C3", "O1", "O2"]
    bonds = {
        (a, b): BOND_TYPES[kind]
        for (a, b), kind in zip(
            data.edge_index.t().tolist(), data.edge_attr.argmax(1).tolist(), strict=True
        )
    }
    assert bonds[3, 4] == bonds[4, 3] == "double"
    assert len(bonds) == 10 and sorted(set(bonds.values())) == ["double", "single"]
    assert data.smiles == "C[C@H]([NH3+])C(=O)[O-]"
    assert data.pos.shape == (6, 3) and data.pos.isnan().all()
    assert data.token_pos.isnan().all() and not data.is_resolved.any()


def test_bond_types():
    data = from_smiles("C#Cc1ccccc1.[NH3]->[Fe]")
    kinds = data.edge_attr.sum(0).tolist()
    assert dict(zip(BOND_TYPES, kinds, strict=True)) == {
        "single": 2.0,
        "double": 0.0,
        "triple": 2.0,
        "aromatic": 12.0,
        "other": 2.0,
    }


def test_hydrogens():
    assert from_smiles("CO").num_nodes == 2
    full = from_smiles("CO", hydrogens=True)
    assert full.num_nodes == 6 and full.smiles == "CO"


def embedded(smiles, seed=7):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    all_chem = pytest.importorskip("rdkit.Chem.AllChem")
    assert all_chem.EmbedMolecule(mol, randomSeed=seed) == 0
    return mol


def test_positions_of_a_3d_conformer_only():
    mol = embedded("CCO")
    expected = torch.tensor(mol.GetConformer().GetPositions()).float()
    assert torch.equal(from_rdmol(mol).pos, expected)
    assert from_rdmol(mol).is_resolved.all()
    assert from_rdmol(mol, conformer=None).pos.isnan().all()
    drawing = Chem.MolFromSmiles("CCO")
    pytest.importorskip("rdkit.Chem.AllChem").Compute2DCoords(drawing)
    assert from_rdmol(drawing).pos.isnan().all()
    with pytest.raises(ValueError, match=r"'conformer' is 0, .* 3D are \[\]"):
        from_rdmol(drawing, conformer=0)
    with pytest.raises(ValueError, match=r"'conformer' is 9, .* 3D are \[0\]"):
        from_rdmol(mol, conformer=9)


def test_positions_that_are_not_finite():
    mol = embedded("CCO")
    mol.GetConformer().SetAtomPosition(1, (0.0, math.nan, 0.0))
    with pytest.raises(ValueError, match=r"not finite.*atom 1 \(C2\)"):
        from_rdmol(mol)


def test_an_own_tokenizer():
    def atoms(mol):
        num = mol.GetNumAtoms()
        return Tokens(torch.arange(num), num)

    data = from_smiles("CCO", atoms)
    assert data.num_tokens == 3 and data.token_name == ["UNL"] * 3
    assert data.token_entity_kind.tolist() == [3] * 3

    def last_is_empty(mol):
        return Tokens(torch.tensor([1, 1, 0]), 3, {"token_name": list("abc")})

    data = from_smiles("CCO", last_is_empty)
    assert data.token_name == ["a", "b", "c"] and data.token_chain == [""] * 3
    assert data.token_res_id.tolist() == [0] * 3 and data.validate()
    with pytest.raises(ValueError, match="1 rows for 3 atoms"):
        from_smiles("CCO", lambda mol: Tokens(torch.zeros(1).long(), 1))


def test_leaves_the_molecule_alone():
    mol = embedded("CC(=O)Nc1ccccc1")
    every = int(Chem.PropertyPickleOptions.AllProps)
    before = mol.ToBinary(every)
    from_rdmol(mol)
    assert mol.ToBinary(every) == before


@pytest.mark.parametrize(
    "smiles, message",
    [
        ("", "'smiles' is '', which holds no atoms"),
        ("  ", "holds no atoms"),
        (None, "'smiles' is of type NoneType"),
        (Chem.MolFromSmiles("C"), "'smiles' is of type Mol.*from_rdmol"),
        ("C(C", "'smiles' is 'C\\(C', which RDKit refuses"),
        ("CN(C)(C)(C)C", "RDKit refuses: .*valence"),
        ("c1cccc1", "RDKit refuses: .*kekulize"),
        ("Qq", "RDKit refuses"),
        ("[CH99999]", "RDKit refuses: (?!BOOST)"),
        ("CCO ethanol", "with 'ethanol' behind a blank"),
    ],
)
def test_bad_smiles(smiles, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        from_smiles(smiles)


@pytest.mark.parametrize("mol", [None, "CCO", Chem.Mol()])
def test_bad_molecules(mol):
    with pytest.raises(ValueError, match="'mol' "):
        from_rdmol(mol)


def test_batches_into_the_encoder():
    smiles = ["CC(=O)Oc1ccccc1C(=O)O", "[Na+].[Cl-]", "C", "CCN(CC)CCNC(=O)c1ccccc1"]
    graphs = [from_smiles(text) for text in smiles]
    encoder = AtomAttentionEncoder(8).double()
    embedding = torch.nn.Embedding(119, 8).double()
    single = [encoder(embedding(g.z), g.token_layout()) for g in graphs]
    batch = next(iter(DataLoader(graphs, batch_size=4)))
    together = encoder(embedding(batch.z), batch.token_layout())
    torch.testing.assert_close(together, torch.cat(single), rtol=0, atol=1e-12)
    assert batch.token_name == [g.token_name for g in graphs]


def test_molecules_and_structures_batch_together():
    pytest.importorskip("biotite", reason="biotite is not installed")
    from residues import chain
    from torch_geometric.data import Batch

    from pyg_atomenc.io import from_atom_array

    peptide = Chem.AddHs(Chem.MolFromSequence("GA"))
    for mol in (peptide, Chem.MolFromSmiles("OC(=O)c1ccccc1")):
        AllChem.EmbedMolecule(mol, randomSeed=1)
        residue = from_atom_array(chain(("GLY", "N", "CA", "C", "O")))
        data = from_rdmol(mol)
        assert set(data.keys()) == set(residue.keys())
        for graphs in ([data, residue], [residue, data]):
            batch = Batch.from_data_list(graphs)
            batch.validate()
            assert batch.token_res_id.shape == (batch.total_num_tokens,)
            assert [len(names) for names in batch.res_name] == [
                graph.num_nodes for graph in graphs
            ]


def test_residues_of_atoms():
    mol = Chem.AddHs(Chem.MolFromSequence("GA"))
    data = from_rdmol(mol)
    # Hydrogens without a name of their own are in the residue of their atom.
    source, target = data.edge_index
    hydrogen = data.z[source] == 1
    assert data.res_id[source][hydrogen].equal(data.res_id[target][hydrogen])
    assert set(zip(data.res_name, data.res_id.tolist(), strict=True)) == {
        ("GLY", 1),
        ("ALA", 2),
    }
    assert set(data.chain_id) == {"A"} and not data.hetero.any()
    plain = from_smiles("CO")
    assert plain.res_name == ["UNL"] * 2 and plain.res_id.tolist() == [0, 0]
    assert plain.chain_id == ["", ""] and plain.hetero.all()


def test_half_characters_and_limits_that_are_none():
    with pytest.raises(ValueError, match="'smiles' is .*half a character"):
        from_smiles("C\ud800")
    for limit in ("5", None, True):
        with pytest.raises(ValueError, match="'max_length' is"):
            from_smiles("C", max_length=limit)


def test_names_of_many_atoms_of_one_element():
    # By hand: behind 999 and 99 go letters, behind those of two letters one letter.
    names = {("C", 999): "C999", ("C", 1000): "CA00", ("C", 1036): "CA10"}
    names |= {("Cl", 99): "Cl99", ("Cl", 100): "ClA0", ("Cl", 1035): "ClZZ"}
    names |= {("Cl", 1036): "CA10", ("C", 34_695): "CZZZ", ("C", 34_696): "C34696"}
    assert {key: short_name(*key) for key in names} == names
