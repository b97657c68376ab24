import pytest
import torch
from torch.utils.data import ConcatDataset, Subset
from torch_geometric.data import Batch, Data

from pyg_atomenc import AtomTokenData
from pyg_atomenc.data import dataset_sizes, graph_size


def graph(*tokens, extra=0):
    index = torch.tensor([t for t, n in enumerate(tokens) for _ in range(n)]).long()
    return AtomTokenData(
        x=torch.zeros(len(index), 1),
        atom_to_token=index[torch.randperm(len(index))],
        num_tokens=len(tokens) + extra,
    )


def test_sizes_by_hand():
    assert graph_size(graph(3, 1, 2)) == (6, 9 + 1 + 4)
    assert graph_size(graph(2, 0, 2, extra=3)) == (4, 8)
    assert graph_size(graph()) == (0, 0)
    assert graph_size(Batch.from_data_list([graph(3), graph(1, 1)])) == (5, 11)


def test_sizes_of_datasets():
    graphs = [graph(3), graph(1, 1), graph(2, 4)]
    atoms, pairs = dataset_sizes(graphs)
    assert atoms.tolist() == [3, 2, 6] and pairs.tolist() == [9, 2, 20]
    nested = ConcatDataset([Subset(graphs, [2, 0]), graphs[1:2]])
    atoms, pairs = dataset_sizes(nested)
    assert atoms.tolist() == [6, 3, 2] and pairs.tolist() == [20, 9, 2]
    assert [len(column) for column in dataset_sizes([])] == [0, 0]


def test_a_dataset_that_knows_its_sizes_is_not_loaded():
    class Known:
        def graph_sizes(self):
            return torch.tensor([5, 7]), torch.tensor([11, 13])

    atoms, pairs = dataset_sizes(Subset(Known(), [1]))
    assert (atoms.tolist(), pairs.tolist()) == ([7], [13])


@pytest.mark.parametrize("other", [Data(x=torch.zeros(1, 1)), AtomTokenData(), "CCO"])
def test_other_data_is_refused(other):
    with pytest.raises(ValueError, match=f"'dataset' gives {type(other).__name__}"):
        dataset_sizes([other])
