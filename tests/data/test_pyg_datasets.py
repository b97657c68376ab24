"""Every loader and every base class of data sets of PyG keeps tokens."""

import copy
import io
import pickle

import pytest
import torch
import torch_geometric
import torch_geometric.transforms as T
from torch.utils.data import ConcatDataset, Subset
from torch_geometric.data import Batch, Data, Dataset, InMemoryDataset, OnDiskDataset
from torch_geometric.io import fs
from torch_geometric.loader import (
    CachedLoader,
    DataListLoader,
    DataLoader,
    DenseDataLoader,
    DynamicBatchSampler,
    ImbalancedSampler,
    PrefetchLoader,
)

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData, token_graph
from pyg_atomenc.data import AtomTokenLoader, TokenBudgetSampler
from pyg_atomenc.transforms import AtomFeatures, PairFeatures, RadiusEdges, TokenEdges


def graph(num_atoms, num_tokens, label=0):
    return AtomTokenData(
        x=torch.randn(num_atoms, 4),
        edge_index=torch.randint(0, max(num_atoms, 1), (2, 2 * num_atoms)),
        y=torch.tensor([label]),
        atom_to_token=torch.randint(0, num_tokens - 1, (num_atoms,)),
        num_tokens=num_tokens,  # the last one is empty
        token_y=torch.rand(num_tokens),
        token_edge_index=torch.randint(0, num_tokens, (2, num_tokens)),
    )


def graphs():
    sizes = [(5, 3), (2, 2), (7, 8), (0, 4), (12, 4)]
    return [graph(*size, label=i % 2) for i, size in enumerate(sizes)]


def same(data, other):
    assert set(data.keys()) == set(other.keys())
    for key in data.keys():
        assert torch.equal(torch.as_tensor(data[key]).flatten(), flatten(other[key]))


def flatten(value):
    return torch.as_tensor(value).flatten()


def check_batches(batches, data):
    """Batches of all graphs encode as the graphs do, one by one and in order."""
    encoder = AtomAttentionEncoder(4, 4, 2)
    alone = torch.cat([encoder(g.x, g.token_layout()) for g in data])
    found = [encoder(b.x, b.token_layout(), batch=b.batch) for b in batches]
    torch.testing.assert_close(torch.cat(found), alone)
    parts = [part for batch in batches for part in batch.to_data_list()]
    for one, other in zip(parts, data, strict=True):
        same(one, other)
    assert all(batch.validate() for batch in batches)


CPU = torch.device("cpu")
LOADERS = {
    "DataLoader": lambda data: DataLoader(data, 2),
    "workers": lambda data: DataLoader(
        data, 2, num_workers=2, multiprocessing_context="fork"
    ),
    "AtomTokenLoader": lambda data: AtomTokenLoader(data, batch_size=2),
    "CachedLoader": lambda data: CachedLoader(DataLoader(data, 2)),
    "PrefetchLoader": lambda data: PrefetchLoader(DataLoader(data, 2), CPU),
    "DynamicBatchSampler": lambda data: DataLoader(
        data, batch_sampler=DynamicBatchSampler(data, max_num=14, num_steps=3)
    ),
    "TokenBudgetSampler": lambda data: DataLoader(
        data, batch_sampler=TokenBudgetSampler(data, max_atoms=14)
    ),
    "Subset": lambda data: DataLoader(Subset(data, range(5)), 2),
    "ConcatDataset": lambda data: DataLoader(ConcatDataset([data[:2], data[2:]]), 2),
}


# By `Data.subgraph` or `filter_data`, which tests/data/test_editing.py tries, or of
# another kind of data.
LOADERS_LEFT_OUT = {
    "RandomNodeLoader": "parts by subgraph",
    **dict.fromkeys(
        ("NodeLoader", "LinkLoader", "NeighborLoader", "LinkNeighborLoader"),
        "need pyg-lib; they filter by filter_data",
    ),
    **dict.fromkeys(
        ("ClusterData", "ClusterLoader", "ShaDowKHopSampler", "NeighborSampler"),
        "need pyg-lib or torch-sparse",
    ),
    **dict.fromkeys(
        (
            "GraphSAINTSampler",
            "GraphSAINTNodeSampler",
            "GraphSAINTEdgeSampler",
            "GraphSAINTRandomWalkSampler",
        ),
        "need torch-sparse",
    ),
    "HGTLoader": "of HeteroData",
    "TemporalDataLoader": "of TemporalData",
    "ZipLoader": "zips node loaders",
    "AffinityMixin": "no loader",
}
GIVE_OTHER = {"DataListLoader", "DenseDataLoader", "ImbalancedSampler"}


def test_every_loader_is_here():
    known = {*LOADERS, *GIVE_OTHER, *LOADERS_LEFT_OUT}
    assert set(torch_geometric.loader.__all__) <= known


@pytest.mark.parametrize(
    "transform", [AtomFeatures(), PairFeatures(), TokenEdges(), RadiusEdges(3.0)]
)
def test_our_transforms_refuse_plain_data_and_say_the_way_back(transform):
    plain = [Data.from_dict(g.to_dict()) for g in graphs()]
    for data in (plain[0], Batch.from_data_list(plain)):
        with pytest.raises(ValueError, match=r"AtomTokenData.from_data\(data\)"):
            transform(data)


@pytest.mark.parametrize("name", LOADERS)
def test_every_loader(name):
    data = graphs()
    loader = LOADERS[name](data)
    check_batches([*loader], data)
    check_batches([*loader], data)  # a second epoch, of a cache too


def test_loaders_that_give_something_else():
    data = graphs()
    for one, other in zip(next(iter(DataListLoader(data, 5))), data, strict=True):
        assert one is other
    sampler = ImbalancedSampler(torch.cat([g.y for g in data]))
    batches = list(DataLoader(data, 2, sampler=sampler))
    check_batches(batches, [g for b in batches for g in b.to_data_list()])
    # A dense batch has one token vector a graph, and is no AtomTokenData.
    dense = [T.ToDense()(graph(6, 4)) for _ in range(2)]
    batch = next(iter(DenseDataLoader(dense, 2)))
    assert batch.atom_to_token.shape == (2, 6)
    with pytest.raises(ValueError, match="shape"):
        AtomAttentionEncoder(4)(batch.x.flatten(0, 1), batch.atom_to_token)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_in_memory_datasets_are_saved_and_loaded(count, tmp_path, recwarn):
    data = graphs()[:count]
    InMemoryDataset.save(data, str(tmp_path / "data.pt"))
    dataset = InMemoryDataset()
    dataset.load(str(tmp_path / "data.pt"), data_cls=AtomTokenData)
    assert not [w for w in recwarn if "Weights only" in str(w.message)]
    assert len(dataset) == count
    check_batches(list(DataLoader(dataset, 2)), data)
    again = dataset.copy()
    check_batches(list(DataLoader(again, 3)), data)


class Processed(InMemoryDataset):
    def __init__(self, root, transform=None):
        super().__init__(root, transform)
        self.load(self.processed_paths[0], data_cls=AtomTokenData)

    processed_file_names = "data.pt"

    def process(self):
        torch.manual_seed(1)
        self.save(graphs(), self.processed_paths[0])


def test_a_data_set_on_disk_comes_back_with_its_class(tmp_path):
    memory = Processed(str(tmp_path))
    data = list(memory)
    check_batches(list(DataLoader(memory, 2)), data)
    disk = memory.to_on_disk_dataset(str(tmp_path / "disk"), log=False)
    assert type(disk[0]) is Data
    with pytest.raises(
        ValueError, match=r"'dataset\[i\]' is of type Data.*AtomTokenData.from_data"
    ):
        next(iter(AtomTokenLoader(disk, batch_size=2)))
    batch = next(iter(DataLoader(disk, 2)))
    for function in (
        lambda: token_graph(batch, torch.zeros(5, 2)),
        lambda: TokenBudgetSampler(disk, max_atoms=9),
    ):
        with pytest.raises(ValueError, match="AtomTokenData"):
            function()
    disk.transform = AtomTokenData.from_data
    check_batches(list(AtomTokenLoader(disk, batch_size=2)), data)
    disk.close()


class Kept(OnDiskDataset):
    """By its own schema."""

    SCHEMA = {
        "x": {"dtype": torch.float32, "size": (-1, 4)},
        "edge_index": {"dtype": torch.int64, "size": (2, -1)},
        "y": {"dtype": torch.int64, "size": (-1,)},
        "atom_to_token": {"dtype": torch.int64, "size": (-1,)},
        "num_tokens": int,
        "token_y": {"dtype": torch.float32, "size": (-1,)},
        "token_edge_index": {"dtype": torch.int64, "size": (2, -1)},
    }

    def __init__(self, root, schema):
        super().__init__(root, schema=schema)

    def serialize(self, data):
        return data.to_dict() if isinstance(self.schema, dict) else data

    def deserialize(self, row):
        is_dict = isinstance(self.schema, dict)
        return AtomTokenData.from_dict(row) if is_dict else row


@pytest.mark.parametrize("schema", [object, Kept.SCHEMA])
def test_on_disk_datasets(schema, tmp_path):
    data = graphs()
    dataset = Kept(str(tmp_path), schema)
    dataset.append(data[0])
    dataset.extend(data[1:])
    check_batches(list(DataLoader(dataset, 2)), data)
    dataset.close()


class Listed(Dataset):
    def __init__(self, data, transform=None):
        super().__init__(transform=transform)
        self.data = data

    def len(self):
        return len(self.data)

    def get(self, idx):
        return self.data[idx]


def test_the_base_class_of_datasets():
    data = graphs()
    dataset = Listed(data, T.Compose([T.ToUndirected()]))
    batches = list(AtomTokenLoader(dataset[[4, 0, 2]], batch_size=2))
    check_batches(batches, [dataset[i] for i in (4, 0, 2)])


def test_a_batch_becomes_a_dictionary_and_comes_back():
    data = graphs()
    for some in (data, data[:1]):
        batch = Batch.from_data_list(some)
        same_again = AtomTokenData.from_dict(batch.to_dict())
        assert same_again.validate()
        same(same_again, batch)
        assert same_again.total_num_tokens == batch.total_num_tokens
        assert torch.equal(same_again.token_batch, batch.token_batch)
        encoder = AtomAttentionEncoder(4, 4, 2)
        out = [encoder(b.x, b.token_layout()) for b in (batch, same_again)]
        torch.testing.assert_close(*out)
    plain = AtomTokenData.from_dict(data[0].to_dict())
    same(plain, data[0])
    assert isinstance(plain.num_tokens, int)
    with pytest.raises(ValueError, match="num_tokens >= "):
        AtomTokenData(
            atom_to_token=torch.tensor([0, 4]), num_tokens=torch.tensor([2, 2])
        )


def test_graphs_and_batches_are_stored_by_torch(tmp_path):
    data = graphs()
    (batch,) = AtomTokenLoader(data, batch_size=5)
    path = str(tmp_path / "graph.pt")
    fs.torch_save(data[0], path)
    same(torch.load(path, weights_only=False), data[0])
    same(pickle.loads(pickle.dumps(data[0])), data[0])
    same(copy.deepcopy(data[0]), data[0])
    file = io.BytesIO()
    torch.save(batch, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    same(again, batch)
    for one, other in zip(again.to_data_list(), data, strict=True):
        same(one, other)


def test_follow_batch_and_exclude_keys():
    data = graphs()
    follow = ["token_y", "x", "token_edge_index"]
    loaders = [
        DataLoader(data, 5, follow_batch=follow),
        AtomTokenLoader(data, batch_size=5, follow_batch=follow),
    ]
    for loader in loaders:
        (batch,) = loader
        assert batch.validate()
        assert torch.equal(batch.token_y_batch, batch.token_batch)
        sizes = [g.num_tokens for g in data]
        assert batch.token_y_ptr.diff().tolist() == sizes
        assert batch.token_edge_index_ptr.diff().tolist() == sizes
        check_batches([batch], data)
        again = Batch.from_data_list(batch.to_data_list(), follow_batch=follow)
        assert torch.equal(again.token_y_batch, batch.token_batch)
    (batch,) = AtomTokenLoader(data, batch_size=5, exclude_keys=["token_y", "y"])
    assert batch.validate() and "token_y" not in batch
    assert batch.total_num_tokens == sum(g.num_tokens for g in data)
    with pytest.raises(ValueError, match="'atom_to_token' is missing"):
        next(iter(AtomTokenLoader(data, batch_size=5, exclude_keys=["atom_to_token"])))
    with pytest.raises(ValueError, match="'num_tokens' is missing"):
        next(iter(AtomTokenLoader(data, batch_size=5, exclude_keys=["num_tokens"])))


def test_plain_data_becomes_what_it_was():
    data = graphs()[:3]
    plain = [Data.from_dict(g.to_dict()) for g in data]
    check_batches([Batch.from_data_list([*map(AtomTokenData.from_data, plain)])], data)
    assert AtomTokenData.from_data(data[0]) is data[0]
    batch = Batch.from_data_list(plain)
    for value in (data[0].to_dict(), batch):
        with pytest.raises(
            ValueError, match=f"'data' is of type {type(value).__name__}"
        ):
            AtomTokenData.from_data(value)
    with pytest.raises(ValueError, match="graphs 0 and . of 'batch'"):
        AtomTokenData.from_dict(batch.to_dict())


def test_what_batches_in_its_own_way_is_refused_with_a_way_out():
    data = [graph(5, 3), graph(7, 4)]
    rooted = [T.RootedEgoNets(1)(g) for g in data]
    with pytest.raises(ValueError, match=r"class Both\(RootedSubgraphData, Atom"):
        AtomTokenData.from_data(rooted[0])

    class Both(type(rooted[0]), AtomTokenData):
        pass

    mended = [Both.from_dict(g.to_dict()) for g in rooted]
    batch = Batch.from_data_list(mended)
    assert batch.validate()
    shifted = torch.cat([data[0].atom_to_token, data[1].atom_to_token + 3])
    assert torch.equal(batch.atom_to_token, shifted)
    assert torch.equal(batch.n_id, Batch.from_data_list(rooted).n_id)
