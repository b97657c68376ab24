import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import ConcatDataset, Subset
from torch_geometric.data import Batch, Data

from pyg_atomenc import AtomTokenData
from pyg_atomenc.data import dataset_sizes, graph_size
from pyg_atomenc.data.token_budget_sampler import pack

PAIRS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=300)


@given(sizes=PAIRS, budget=st.integers(1, 50), most_open=st.integers(1, 64))
def test_every_sample_once_and_within_the_budget(sizes, budget, most_open):
    batches = pack(range(len(sizes)), sizes, budget, most_open)
    assert sorted(sum(batches, [])) == list(range(len(sizes)))
    for batch in batches:
        assert batch
        sums = [sum(sizes[sample][k] for sample in batch) for k in (0, 1)]
        assert max(sums) <= budget or len(batch) == 1


@given(sizes=PAIRS, budget=st.integers(1, 50))
def test_in_order_is_in_order_and_greedy(sizes, budget):
    batches = pack(range(len(sizes)), sizes, budget, 1)
    assert sum(batches, []) == list(range(len(sizes)))
    for one, other in zip(batches, batches[1:], strict=False):
        joined = [*one, other[0]]
        assert any(sum(sizes[s][k] for s in joined) > budget for k in (0, 1))


def test_evenly_by_hand():
    sizes = [(size, 0) for size in (6, 4, 7, 3, 5, 5)]
    assert sorted(pack(range(6), sizes, 10, 64)) == [[0, 1], [2, 3], [4, 5]]
    sizes = [(size, 0) for size in (6, 5, 6, 5, 6, 4)]
    assert sorted(pack(range(6), sizes, 10, 64)) == [[0], [1, 3], [2], [4, 5]]
    # In order, six samples need five batches.
    assert pack(range(6), sizes, 10, 1) == [[0], [1], [2], [3], [4, 5]]
    # The fullest batch is closed for a third: the 2 comes too late for it.
    sizes = [(size, 0) for size in (8, 7, 6, 2, 3)]
    assert sorted(pack(range(5), sizes, 10, 2)) == [[0], [1, 3], [2, 4]]


def test_batches_are_full_on_a_realistic_mix():
    draw = random.Random(0)
    atoms = [min(int(draw.lognormvariate(7.8, 0.9)), 40_000) for _ in range(20_000)]
    sizes = [(n, int(n * draw.uniform(0.7, 1.4))) for n in atoms]
    batches = pack(range(len(sizes)), sizes, 40_000, 64)
    used = [max(sum(sizes[s][k] for s in batch) for k in (0, 1)) for batch in batches]
    within = [min(one, 40_000) / 40_000 for one in used]
    assert sum(within) / len(within) > 0.98


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
    known = isinstance(other, AtomTokenData)
    found = "atom_to_token' is missing" if known else type(other).__name__
    with pytest.raises(ValueError, match=found):
        dataset_sizes([other])
