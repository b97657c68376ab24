"""Every transform of PyG, on a graph that has all that they read."""

import copy
import pickle
import warnings

import pytest
import torch
import torch_geometric.transforms as T
from residues import chain
from torch_geometric.data import Batch
from torch_geometric.loader.utils import filter_data
from torch_geometric.transforms.pad import AttrNamePadding

from pyg_atomenc import AtomTokenData
from pyg_atomenc.attention import TokenLayout
from pyg_atomenc.data import AtomTokenLoader
from pyg_atomenc.errors import AtomEncodingError

NUM_ATOMS = 8
RING = [[0, 1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 0, 6]]  # atom 7 has no bond


def without(*keys):
    """Apply a transform to a graph that lacks attributes."""

    def wrap(transform):
        def run(data):
            data = copy.copy(data)
            for key in keys:
                del data[key]
            return transform(data)

        return run

    return wrap


def flat(data):
    """The same graph in a plane, where polar coordinates are defined."""
    data.pos = data.pos[:, :2]
    return T.Polar()(data)


def link_split(data):
    return T.RandomLinkSplit(0.2, 0.2)(data)[0]


def weighted(transform):
    def run(data):
        data.edge_attr = data.edge_attr[:, 0]
        return transform(data)

    return run


RUN = {
    "Compose": T.Compose([T.Center(), T.NormalizeScale()]),
    "ToDevice": T.ToDevice("cpu"),
    "ToSparseTensor": T.ToSparseTensor("edge_attr", layout=torch.sparse_coo),
    "Constant": T.Constant(),
    "NormalizeFeatures": T.NormalizeFeatures(),
    "SVDFeatureReduction": T.SVDFeatureReduction(2),
    "RemoveTrainingClasses": T.RemoveTrainingClasses([1]),
    "RandomNodeSplit": T.RandomNodeSplit(num_val=2, num_test=2),
    "RandomLinkSplit": link_split,
    "NodePropertySplit": T.NodePropertySplit("popularity", [0.3, 0.1, 0.1, 0.3, 0.2]),
    "IndexToMask": T.IndexToMask(),
    "MaskToIndex": T.MaskToIndex(),
    "Pad": T.Pad(11, 40, add_pad_mask=True),
    "ToUndirected": T.ToUndirected(),
    "OneHotDegree": T.OneHotDegree(10),
    "TargetIndegree": T.TargetIndegree(),
    "LocalDegreeProfile": T.LocalDegreeProfile(),
    "AddSelfLoops": T.AddSelfLoops(),
    "AddRemainingSelfLoops": T.AddRemainingSelfLoops(),
    "RemoveSelfLoops": T.RemoveSelfLoops(),
    "RemoveIsolatedNodes": T.RemoveIsolatedNodes(),
    "RemoveDuplicatedEdges": T.RemoveDuplicatedEdges(),
    "KNNGraph": T.KNNGraph(2),
    "RadiusGraph": T.RadiusGraph(0.5),
    "ToDense": T.ToDense(),
    "TwoHop": T.TwoHop(),
    "LineGraph": T.LineGraph(),
    "LaplacianLambdaMax": T.LaplacianLambdaMax(),
    "GDC": weighted(T.GDC()),
    "SIGN": T.SIGN(2),
    "GCNNorm": T.GCNNorm(),
    "RootedEgoNets": T.RootedEgoNets(1),
    "RootedRWSubgraph": T.RootedRWSubgraph(2),
    "LargestConnectedComponents": T.LargestConnectedComponents(),
    "VirtualNode": T.VirtualNode(),
    "AddLaplacianEigenvectorPE": T.AddLaplacianEigenvectorPE(2),
    "AddRandomWalkPE": T.AddRandomWalkPE(2),
    "FeaturePropagation": weighted(lambda d: T.FeaturePropagation(d.x > 0.9)(d)),
    "HalfHop": without("edge_attr")(T.HalfHop()),
    "Distance": T.Distance(),
    "Cartesian": T.Cartesian(),
    "LocalCartesian": T.LocalCartesian(),
    "Polar": flat,
    "Spherical": T.Spherical(),
    "PointPairFeatures": T.PointPairFeatures(),
    "Center": T.Center(),
    "NormalizeRotation": T.NormalizeRotation(),
    "NormalizeScale": T.NormalizeScale(),
    "RandomJitter": T.RandomJitter(0.1),
    "RandomFlip": T.RandomFlip(0),
    "LinearTransformation": T.LinearTransformation(torch.eye(3)),
    "RandomScale": T.RandomScale((0.5, 1.0)),
    "RandomRotate": T.RandomRotate(90),
    "RandomShear": T.RandomShear(0.1),
    "FaceToEdge": T.FaceToEdge(),
    "SamplePoints": T.SamplePoints(5),
    "FixedPoints": without("edge_index", "edge_attr")(T.FixedPoints(5, replace=False)),
    "GenerateMeshNormals": T.GenerateMeshNormals(),
    "Delaunay": T.Delaunay(),
}
# The result has other nodes than atoms, or other rows for some attributes only, in PyG
# itself: `validate`, and a layer, refuse it.
NOTICED = {
    "HalfHop": "puts nodes onto bonds, and gives them x alone",
    "LineGraph": "makes bonds the nodes, and gives them x alone",
    "SamplePoints": "gives as many positions as it is asked for, whatever the nodes",
}
# They select atoms otherwise than by `subgraph`: what was made from pairs of atoms
# refuses.
SELECTING = ("RemoveIsolatedNodes", "FixedPoints")
LEFT_OUT = {
    "BaseTransform": "the base class",
    "ComposeFilters": "gives True or False",
    "AddMetaPaths": "of HeteroData",
    "AddRandomMetaPaths": "of HeteroData",
    "AddGPSE": "needs a trained network",
    "ToSLIC": "of images",
    "GridSampling": "takes means over atoms of all it finds, of z as of token ids",
}


def graph(num_tokens, made=False):
    """A graph of eight atoms, with what was made from pairs of them or without."""
    bonds = torch.tensor(RING)
    index = torch.tensor([2, 0, 0, 2, 1, 1, 0, 1])
    if num_tokens == NUM_ATOMS:
        index = torch.randperm(NUM_ATOMS)
    atom_id = torch.arange(1, NUM_ATOMS + 1)
    data = AtomTokenData(
        x=torch.rand(NUM_ATOMS, 3) + 0.1,
        edge_index=torch.cat([bonds, bonds.flip(0)], dim=1),
        edge_attr=torch.rand(14, 2),
        y=torch.randint(1, 3, (NUM_ATOMS,)),
        pos=torch.rand(NUM_ATOMS, 3),
        z=torch.randint(1, 20, (NUM_ATOMS,)),
        norm=torch.rand(NUM_ATOMS, 3),
        face=torch.tensor([[0, 1], [2, 3], [4, 5]]),
        train_mask=torch.rand(NUM_ATOMS) < 0.5,
        known_index=torch.tensor([1, 3]),
        atom_id=atom_id,
        atom_to_token=index,
        num_tokens=num_tokens,
        token_y=torch.rand(num_tokens) + 1,
        token_edge_index=torch.randint(0, num_tokens, (2, 3)),
        token_edge_attr=torch.rand(3, 1),
    )
    if made:
        data.radius_edge_index = torch.randint(0, NUM_ATOMS, (2, 9))
        data.radius_distance = code(data.radius_edge_index, atom_id)
        data.pair_attr = code(data.token_layout().to_edge_index(), atom_id)
    data.validate()
    return data


def code(edges, atom_id):
    """Each pair's own number, by which it is known again; 0 between new atoms."""
    return 100 * atom_id[edges[0]] + atom_id[edges[1]]


def apply(name, data):
    """The result of a transform, and the warnings that are ours."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            out = RUN[name](copy.copy(data))
        except (ImportError, AttributeError) as error:
            text = str(error).replace("_", "-")
            packages = ("pyg-lib", "torch-cluster", "'-OpNamespace' 'pyg'")
            if not any(package in text for package in packages):
                raise
            pytest.skip(text)
    return out, [str(w.message) for w in caught if "atom_to_token" in str(w.message)]


def check(out, data, said):
    assert type(out) is AtomTokenData
    out.validate()
    real, total = out.atom_id > 0, data.num_tokens
    assert torch.equal(
        out.atom_to_token[real], data.atom_to_token[out.atom_id[real] - 1]
    )
    added = out.atom_to_token[~real]
    assert torch.equal(added, torch.arange(total, out.num_tokens))
    assert len(added) == 0 or "each gets a token of its own" in said[0]
    assert torch.equal(out.token_y[:total], data.token_y)
    assert not out.token_y[total:].any()
    assert torch.equal(out.token_edge_index, data.token_edge_index)
    assert torch.equal(out.token_edge_attr, data.token_edge_attr)
    if "pair_attr" in data:
        pairs = out.token_layout().to_edge_index()
        assert torch.equal(out.pair_attr, code(pairs, out.atom_id))
        assert torch.equal(
            out.radius_distance, code(out.radius_edge_index, out.atom_id)
        )


def test_every_transform_is_here():
    assert set(T.__all__) <= set(RUN) | set(LEFT_OUT)
    assert set(NOTICED) < set(RUN) and not set(RUN) & set(LEFT_OUT)


@pytest.mark.parametrize("num_tokens", [4, NUM_ATOMS])
@pytest.mark.parametrize("made", [False, True])
@pytest.mark.parametrize("name", RUN)
def test_every_transform_keeps_tokens_or_is_noticed(name, made, num_tokens):
    data, other = graph(num_tokens, made), graph(num_tokens, made)
    if made and name in SELECTING:
        with pytest.raises(AtomEncodingError, match="by data.subgraph"):
            apply(name, data)
        return
    (out, said), (second, _) = apply(name, data), apply(name, other)
    if name in NOTICED:
        with pytest.raises(ValueError, match="rows for"):
            out.validate()
        return
    if name.startswith("Rooted"):
        with pytest.raises(ValueError, match="AtomTokenData.from_data"):
            next(iter(AtomTokenLoader([out, second], batch_size=2)))
        return
    if name == "FixedPoints" and num_tokens == NUM_ATOMS:
        # PyG selects from every attribute of as many rows, whatever its name.
        with pytest.raises(ValueError, match="'token_y' has 5 rows for 8 tokens"):
            out.validate()
        return
    check(out, data, said)
    batch = Batch.from_data_list([out, second])
    batch.validate()
    shifted = torch.cat([out.atom_to_token, second.atom_to_token + out.num_tokens])
    assert torch.equal(batch.atom_to_token, shifted)
    # PyG does not separate torch's sparse tensors.
    parts = [] if "adj_t" in batch else batch.to_data_list()
    for one, again in zip((out, second), parts, strict=False):
        assert torch.equal(one.atom_to_token, again.atom_to_token)
        assert torch.equal(one.token_y, again.token_y)
    mean = torch.zeros(batch.total_num_tokens).index_add(
        0, batch.atom_to_token, batch.z.float()
    )
    single = [
        torch.zeros(g.num_tokens).index_add(0, g.atom_to_token, g.z.float())
        for g in (out, second)
    ]
    assert torch.equal(mean, torch.cat(single))


@pytest.mark.parametrize("name", RUN)
def test_a_loaded_batch_has_the_layout_of_its_tokens_after_every_transform(name):
    made = name not in SELECTING
    graphs = [graph(4, made), graph(NUM_ATOMS, made)]
    (batch,) = AtomTokenLoader(graphs, batch_size=2)
    if name in ("Pad", "VirtualNode"):
        pad = {"Pad": T.Pad(20, 40), "VirtualNode": T.VirtualNode()}[name]
        with pytest.raises(AtomEncodingError, match="before they are batched"):
            pad(batch)
        return
    out, _ = apply(name, batch)
    if not isinstance(out, AtomTokenData) or name in NOTICED:
        return
    index = out.atom_to_token
    expected = TokenLayout.from_index(index, out.total_num_tokens, out.batch)
    found = out.token_layout()
    assert torch.equal(found.to_edge_index(), expected.to_edge_index())
    assert torch.equal(found.ptr, expected.ptr)


def read_smiles():
    io = pytest.importorskip("pyg_atomenc.io")
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    return io.from_smiles("CC(=O)Oc1ccccc1C(=O)O.O")


def read_structure():
    io = pytest.importorskip("pyg_atomenc.io")
    parts = ["GLY", "N", "CA", "C", "O"], ["CYS", "N", "CA", "SG"], ["HOH", "O"]
    atoms = chain(*parts, bonds=[(0, 1), (1, 2), (2, 3), (2, 4), (4, 5), (5, 6)])
    return io.from_atom_array(atoms)


def read(reader):
    """A graph of a reader, with what transforms need and an id for every atom."""
    data = reader()
    count = data.num_nodes
    data.update({"x": torch.rand(count, 3) + 0.1, "pos": torch.rand(count, 3)})
    data.update({"y": torch.randint(1, 3, (count,)), "norm": torch.rand(count, 3)})
    data.train_mask, data.known_index = torch.rand(count) < 0.5, torch.tensor([1, 3])
    data.face = torch.tensor([[0, 1], [2, 3], [4, 5]])
    data.edge_attr = torch.rand(data.num_edges, 2)
    data.atom_id = torch.arange(1, count + 1)
    return data


def named(data):
    """The names of every atom, and those of its token."""
    keys = [k for k, v in data.to_dict().items() if isinstance(v, list)]
    assert {"atom_name", "res_name", "token_name"} < set(keys)
    return {
        atom: [data[k][token if k.startswith("token_") else i] for k in keys]
        for i, (atom, token) in enumerate(
            zip(data.atom_id.tolist(), data.atom_to_token.tolist(), strict=True)
        )
    }


@pytest.mark.parametrize("reader", [read_smiles, read_structure])
@pytest.mark.parametrize("name", sorted(set(RUN) - {"Pad", *NOTICED}))
def test_names_of_readers_follow_their_atoms(name, reader):
    check_names(read(reader), name, RUN[name])


@pytest.mark.parametrize("reader", [read_smiles, read_structure])
def test_names_of_padded_atoms_are_empty(reader):
    for transform in (T.Pad(30, 90), T.VirtualNode()):
        data = read(reader)
        data.later = [f"{i}" for i in range(data.num_nodes)]
        with pytest.warns(UserWarning, match="a token of its own"):
            out = transform(copy.copy(data))
        before, after = named(data), named(out)
        added = [out.later[i] for i in range(data.num_nodes, out.num_nodes)]
        assert set(added) == {""} and len(out.later) == out.num_nodes
        after.pop(0)
        assert after == before and out.validate()
    out = T.Pad(30, node_pad_value=AttrNamePadding({"atom_to_token": 1}))(data)
    assert out.atom_name[data.num_nodes :] == [""] * (30 - data.num_nodes)
    assert out.validate() and out.atom_to_token[-1] == 1


def check_names(data, name, transform):
    if name == "FixedPoints":
        # It selects from tensors alone.
        with pytest.raises(AtomEncodingError, match="'atom_name' was made from the"):
            apply(name, data)
        return
    out, _ = apply(name, data)
    for one in (out, copy.copy(out).to("cpu")):
        if isinstance(one, AtomTokenData):
            before, after = named(data), named(one)
            after.pop(0, None)
            assert len(one.atom_name) == one.num_nodes and one.validate()
            assert {atom: before[atom] for atom in after} == after


@pytest.mark.parametrize("reader", [read_smiles, read_structure])
def test_names_are_lists_that_go_through_batches_files_and_workers(reader, tmp_path):
    data = read(reader)
    atoms, mask = torch.tensor([3, 0, 3]), torch.arange(data.num_nodes) % 3 == 1
    names = list(data.atom_name)
    assert data.atom_name == names and data.atom_name[1:3] == names[1:3]
    assert data.atom_name[atoms] == [names[3], names[0], names[3]]
    assert data.atom_name[mask] == names[1::3] and data.atom_name[-1] == names[-1]
    torch.save(data.to_dict(), tmp_path / "a.pt")
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    options = {"num_workers": 1, "multiprocessing_context": "fork"}
    batches = [Batch.from_data_list([data, data]), Batch.from_data_list([data]).clone()]
    batches += [*AtomTokenLoader([data, data], batch_size=2, **options)]
    graphs = [graph for batch in batches for graph in batch.to_data_list()]
    graphs += [AtomTokenData.from_dict(loaded), pickle.loads(pickle.dumps(data))]
    for found in [*graphs, copy.deepcopy(data), data.clone().to("cpu")]:
        assert isinstance(found.atom_name, list) and named(found) == named(data)
        assert T.RemoveIsolatedNodes()(found).validate()


@pytest.mark.parametrize("reader", [read_smiles, read_structure])
def test_neighbor_loaders_say_that_they_take_no_names(reader):
    data = read(reader)
    atoms, bonds = torch.tensor([3, 1, 4]), torch.tensor([0, 1])
    row = torch.tensor([0, 1])
    with pytest.raises(AtomEncodingError, match=r"'atom_name' is a list.*n_id\]"):
        filter_data(data, atoms, row, row, bonds)
    rest = copy.copy(data)
    for key in ("atom_name", "res_name", "chain_id", "ins_code"):
        del rest[key]
    part = filter_data(rest, atoms, row, row, bonds)
    assert part.validate() and part.token_name == data.token_name
    assert data.atom_name[part.atom_id - 1] == [data.atom_name[i] for i in (3, 1, 4)]


@pytest.mark.parametrize("reader", [read_smiles, read_structure])
def test_names_of_a_batch_that_lost_atoms_are_noticed(reader):
    batch = Batch.from_data_list([read(reader), read(reader)])
    assert batch.validate() and batch.subgraph(torch.tensor([0, 2])).validate()
    with pytest.raises(AtomEncodingError, match="'atom_name' has .* rows for"):
        T.RemoveIsolatedNodes()(batch).validate()
