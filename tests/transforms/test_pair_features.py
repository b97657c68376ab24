import math

import pytest
import torch
from torch_geometric.data import Batch

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData
from pyg_atomenc.io import BOND_TYPES, from_rdmol, from_smiles
from pyg_atomenc.tokenizers import Atom, RingsAndChains
from pyg_atomenc.transforms import PairFeatures
from pyg_atomenc.transforms.pair_features import bonds_apart

chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

DRUG = "CC1=C(C=CC(=C1)OC[C@@H]2CO2)C(=O)N3CCOCC3"


def molecule(smiles=DRUG):
    from rdkit.Chem import AllChem

    mol = chem.MolFromSmiles(smiles)
    AllChem.EmbedMolecule(mol, randomSeed=2)
    return mol


def test_every_row_is_what_rdkit_says_of_the_pair():
    mol = molecule()
    features = PairFeatures(num_rbf=5, cutoff=4.0)
    data = features(from_rdmol(mol, RingsAndChains()))
    pairs = data.token_layout().to_edge_index().t().tolist()
    assert data.pair_attr.shape == (len(pairs), features.edge_dim) == (len(pairs), 18)
    apart = chem.GetDistanceMatrix(mol)
    place = mol.GetConformer().GetPositions()
    for (a, b), row in zip(pairs, data.pair_attr.tolist(), strict=True):
        bond = mol.GetBondBetweenAtoms(a, b) if a != b else None
        kind = [0.0] * 5
        if bond is not None:
            kind[BOND_TYPES.index(str(bond.GetBondType()).lower())] = 1.0
        assert row[:5] == kind
        assert row[5:13] == [float(min(apart[a][b], 7) == i) for i in range(8)]
        distance = math.dist(place[a], place[b])
        gauss = [math.exp(-0.5 * (distance - i) ** 2) for i in range(5)]
        assert row[13:] == pytest.approx(gauss, abs=1e-5)


def test_a_path_may_leave_the_token():
    # Two carbons of one token, joined over an atom of another.
    data = from_smiles("CCC", Atom())
    data.atom_to_token, data.num_tokens = torch.tensor([0, 1, 0]), 2
    pair = PairFeatures(num_rbf=0)(data).pair_attr
    pairs = data.token_layout().to_edge_index().t().tolist()
    assert pair[pairs.index([0, 2])].tolist() == [0] * 5 + [0, 0, 1, 0, 0, 0, 0, 0]


def test_a_batch_has_the_rows_of_its_graphs_in_the_order_of_its_layout():
    graphs = [from_rdmol(molecule(s), RingsAndChains()) for s in (DRUG, "C", "OCC1CC1")]
    graphs[1].num_tokens += 1
    for name, value in graphs[1].to_dict().items():
        if name.startswith("token_"):
            value = [*value, *value[:1]]
            named = isinstance(value[0], str)
            graphs[1][name] = value if named else torch.stack(value)
    # Tokens need not be sorted.
    turned = torch.randperm(graphs[0].num_nodes)
    graphs[0] = graphs[0].subgraph(turned)
    features = PairFeatures()
    one_by_one = Batch.from_data_list([features(graph) for graph in graphs])
    together = features(Batch.from_data_list(graphs))
    assert together.pair_attr.equal(one_by_one.pair_attr)
    one_by_one.validate()
    encoder = AtomAttentionEncoder(4, 8, 2, edge_dim=features.edge_dim)
    x = torch.randn(together.num_nodes, 4)
    tokens = encoder(x, together.token_layout(), edge_attr=together.pair_attr)
    first = features(graphs[0])
    alone = encoder(
        x[: first.num_nodes], first.token_layout(), edge_attr=first.pair_attr
    )
    torch.testing.assert_close(tokens[: first.num_tokens], alone)


def test_distances_are_differentiable_twice_and_where_atoms_are_unknown():
    data = from_rdmol(molecule(), RingsAndChains())
    data.pos = data.pos.double()
    data.pos[3] = torch.nan
    pos = data.pos.clone().requires_grad_()
    data.pos = pos
    rbf = PairFeatures(num_rbf=4, cutoff=3.0)(data).pair_attr[:, 13:]
    assert rbf.dtype == torch.float64 and rbf.isfinite().all()
    (grad,) = torch.autograd.grad(rbf.square().sum(), pos, create_graph=True)
    known = torch.arange(len(pos)) != 3
    assert grad.isfinite()[known].all() and grad[known].abs().max() > 0
    grad[known].square().sum().backward()
    assert pos.grad[known].isfinite().all()

    def energy(moved):
        data.pos = torch.where(known.unsqueeze(1), moved, torch.nan)
        return PairFeatures(num_rbf=4, cutoff=3.0)(data).pair_attr[:, 13:].sum(0)

    torch.autograd.gradcheck(energy, (pos.detach().nan_to_num(0.0).requires_grad_(),))


def test_no_bonds_and_no_atoms():
    data = AtomTokenData(pos=torch.rand(3, 3), atom_to_token=torch.tensor([0, 0, 1]))
    pair = PairFeatures(num_rbf=2)(data).pair_attr
    assert pair[:, :5].eq(0).all() and pair[:, 5].tolist() == [1, 0, 0, 1, 1]
    assert pair[:, 12].tolist() == [0, 1, 1, 0, 0]
    empty = AtomTokenData(
        pos=torch.rand(0, 3),
        atom_to_token=torch.empty(0, dtype=torch.long),
        num_tokens=2,
    )
    assert PairFeatures()(empty).pair_attr.shape == (0, 29)


@pytest.mark.parametrize("num_rbf", [-1, 1, 2.0])
def test_bad_arguments(num_rbf):
    with pytest.raises(ValueError, match="'num_rbf' is"):
        PairFeatures(num_rbf)
    with pytest.raises(ValueError, match="'cutoff' is -1"):
        PairFeatures(cutoff=-1)
    with pytest.raises(ValueError, match="'pos' holds no known.*num_rbf=0"):
        PairFeatures()(from_smiles("CCO"))
    data = from_smiles("CCO")
    data.edge_attr = data.edge_attr[:, :4]
    with pytest.raises(ValueError, match=r"'edge_attr' needs .*E, 5\], found: .*4\]"):
        PairFeatures(num_rbf=0)(data)


@pytest.mark.parametrize("most", [0, 1, 3, 6])
@pytest.mark.parametrize("seed", range(8))
def test_it_is_the_shortest_path_of_networkx(seed, most):
    nx = pytest.importorskip("networkx", reason="networkx is not installed")
    graph = nx.gnm_random_graph(40, 44, seed=seed)
    once = torch.tensor(list(graph.edges)).t()
    edge_index = torch.cat([once, once.flip(0)], dim=1)
    edge_index = edge_index[:, torch.randperm(edge_index.size(1))]
    # Some pairs in any order, an atom with itself among them.
    pair = torch.randperm(1600)[:300]
    pairs = torch.stack([pair // 40, pair % 40])
    found = bonds_apart(edge_index, 40, pairs, most)
    length = dict(nx.all_pairs_shortest_path_length(graph))
    expected = [
        min(length[a].get(b, most + 1), most + 1) for a, b in pairs.t().tolist()
    ]
    assert found.tolist() == expected


def test_no_bonds_and_no_pairs():
    none = torch.empty((2, 0), dtype=torch.long)
    pairs = torch.tensor([[0, 1, 0], [0, 1, 1]])
    assert bonds_apart(none, 2, pairs, 6).tolist() == [0, 0, 7]
    assert bonds_apart(none, 2, none, 6).tolist() == []
    assert bonds_apart(none, 0, none, 6).tolist() == []


def test_bonds_that_are_listed_twice():
    edge_index = torch.tensor([[0, 0, 1, 1], [1, 1, 0, 0]])
    assert bonds_apart(edge_index, 2, torch.tensor([[0], [1]]), 6).tolist() == [1]
