import multiprocessing
import pickle
import sqlite3

import pytest
import torch
from dataset_helpers import add_ones, same, write_folder
from torch_geometric.loader import DataLoader

from pyg_atomenc import AtomTokenData
from pyg_atomenc.data import AtomTokenLoader, TokenBudgetSampler
from pyg_atomenc.datasets import OnDiskStructureDataset, StructureDataset

COUNT = 9


def graph(size):
    index = torch.arange(size) // 2
    return AtomTokenData(
        x=torch.full((size, 2), float(size)),
        edge_index=torch.zeros(2, 0, dtype=torch.long),
        atom_to_token=index,
        num_tokens=size,
        token_name=[f"T{size}"] * size,
        name=f"graph {size}",
    )


@pytest.fixture
def graphs():
    return [graph(size) for size in range(1, COUNT + 1)]


@pytest.fixture
def dataset(graphs, tmp_path):
    return OnDiskStructureDataset.create(tmp_path / "disk", iter(graphs))


def test_the_round_trip_is_equal(dataset, graphs, tmp_path):
    assert len(dataset) == COUNT
    again = OnDiskStructureDataset(tmp_path / "disk")
    for found in (dataset, again, dataset.multi_get(range(COUNT))):
        for one, other in zip(found, graphs, strict=True):
            assert same(one, other)
    assert same(dataset[-1], graphs[-1]) and same(dataset.multi_get([3])[0], graphs[3])
    files = [path for path in (tmp_path / "disk").rglob("*") if path.is_file()]
    assert [path.name for path in files] == ["sqlite.db"]


def test_it_grows(dataset, graphs):
    dataset.append(graphs[2])
    dataset.extend([graphs[0], graphs[1]])
    assert len(dataset) == COUNT + 3
    assert [data.num_nodes for data in dataset[COUNT:]] == [3, 1, 2]
    dataset.close()
    assert len(dataset) == COUNT + 3 and same(dataset[COUNT], graphs[2])


def test_sizes_without_loading(dataset, monkeypatch):
    monkeypatch.delattr(OnDiskStructureDataset, "deserialize")
    atoms, pairs = dataset.graph_sizes()
    assert atoms.tolist() == list(range(1, COUNT + 1))
    assert pairs.tolist() == [1, 4, 5, 8, 9, 12, 13, 16, 17]
    assert dataset[[4, 0]].graph_sizes()[0].tolist() == [5, 1]
    assert len(TokenBudgetSampler(dataset, max_atoms=45)) == 1


@pytest.mark.parametrize("method", [None, "fork", "spawn"])
def test_batches_are_those_of_memory(method, dataset, graphs):
    if method is not None and method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {method}")
    workers = {"num_workers": 2, "multiprocessing_context": method} if method else {}
    assert same(dataset[0], graphs[0])  # The connection is open before the fork.
    order = [7, 2, 2, 5]
    for stored, memory in (
        (dataset, graphs),
        (dataset[order], [graphs[i] for i in order]),
        (dataset[3:8], graphs[3:8]),
    ):
        found = list(AtomTokenLoader(stored, batch_size=3, **workers))
        expected = list(DataLoader(memory, batch_size=3))
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            for key in other.keys():  # noqa: SIM118
                equal = one[key] == other[key]
                assert equal.all() if torch.is_tensor(equal) else equal, key
            assert one.name == other.name and one.token_name == other.token_name
            assert torch.equal(one.token_layout().sizes, other.token_layout().sizes)
    assert same(dataset[1], graphs[1])


def test_the_transform_is_applied_once(dataset, tmp_path):
    def add_one(data):
        data.x = data.x + 1
        return data

    changed = OnDiskStructureDataset(tmp_path / "disk", transform=add_one)
    assert changed[0].x.tolist() == [[2.0, 2.0]]
    assert [data.x[0, 0].item() for data in changed.multi_get([0, 4])] == [2.0, 6.0]
    batch = next(iter(DataLoader(changed, batch_size=2)))
    assert batch.x[:, 0].tolist() == [2.0, 3.0, 3.0]


def test_of_a_structure_dataset(tmp_path):
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    folder = write_folder(tmp_path / "pdb", 5)
    dataset = StructureDataset(
        tmp_path / "cache", folder, pre_transform=add_ones, progress=False
    )
    copy = dataset.to_on_disk(tmp_path / "disk")
    assert len(copy) == 5
    for one, other in zip(copy, dataset, strict=True):
        assert same(one, other)
    for one, other in zip(copy.graph_sizes(), dataset.graph_sizes(), strict=True):
        assert torch.equal(one, other)
    part = dataset[[3, 1]].to_on_disk(tmp_path / "part", transform=lambda d: d.source)
    assert list(part) == ["003.pdb", "001.pdb"]
    with pytest.raises(ValueError, match=r"sqlite.db: is there already"):
        dataset.to_on_disk(tmp_path / "disk")


def test_an_interrupted_copy_leaves_nothing_and_starts_anew(graphs, tmp_path):
    def breaking():
        yield from graphs[:70]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        OnDiskStructureDataset.create(tmp_path, breaking())
    assert not (tmp_path / "processed" / "sqlite.db").exists()
    assert len(OnDiskStructureDataset.create(tmp_path, graphs)) == COUNT


def test_an_index_out_of_range(dataset):
    with pytest.raises(IndexError):
        dataset[COUNT]
    with pytest.raises(IndexError, match="is not in the data set of 9 graphs"):
        dataset.multi_get([0, COUNT])
    with pytest.raises(IndexError):
        dataset.get(-1)
    assert dataset[0].num_nodes == 1


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def change(path, column, value):
    connection = sqlite3.connect(path)
    table = "OnDiskStructureDataset"
    connection.execute(f"UPDATE {table} SET COL_{column} = ? WHERE id = 2", (value,))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("kind", ["pickle", "torch", "text", "empty", "cut", "number"])
def test_a_damaged_or_malicious_row_is_refused(kind, dataset, graphs, tmp_path):
    marker = tmp_path / "marker"
    torch.save(Bomb(marker), tmp_path / "bomb.pt")
    path = tmp_path / "disk" / "processed" / "sqlite.db"
    value = {
        "pickle": pickle.dumps(Bomb(marker)),
        "torch": (tmp_path / "bomb.pt").read_bytes(),
        "text": "no bytes",
        "empty": b"",
        "cut": bytes(dataset.serialize(graphs[2])["graph"].numpy())[:-1],
        "number": 5,
    }[kind]
    change(path, "graph", value)
    with pytest.raises(ValueError, match="sqlite.db: (is damaged|cannot be read)"):
        dataset[2]
    with pytest.raises(ValueError, match="sqlite.db: (is damaged|cannot be read)"):
        dataset.multi_get([1, 2])
    assert not marker.exists()
    assert same(dataset[1], graphs[1])


def test_no_database_is_refused(tmp_path):
    path = tmp_path / "processed" / "sqlite.db"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "marker")) * 40)
    with pytest.raises(ValueError, match="sqlite.db: is no data set of graphs"):
        len(OnDiskStructureDataset(tmp_path))
    assert not (tmp_path / "marker").exists()


def test_what_cannot_be_stored_is_named(dataset):
    with pytest.raises(ValueError, match="'bad' is of type object"):
        dataset.append(AtomTokenData(atom_to_token=torch.arange(2), bad=object()))
    assert len(dataset) == COUNT
