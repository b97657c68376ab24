import multiprocessing

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData
from pyg_atomenc.data import AtomTokenLoader


def graphs(count=6):
    found = []
    for size in range(1, count + 1):
        index = torch.randint(0, size, (3 * size,))
        found.append(
            AtomTokenData(
                x=torch.randn(3 * size, 4),
                edge_index=torch.zeros(2, 0).long(),
                atom_to_token=index,
                num_tokens=size + 1,
            )
        )
    return found


@pytest.mark.parametrize("method", [None, "fork", "spawn"])
def test_batches_carry_the_layout_they_would_build(method):
    if method is not None and method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {method}")
    data = graphs()
    workers = {"num_workers": 1, "multiprocessing_context": method} if method else {}
    plain = list(DataLoader(data, batch_size=4))
    carrying = list(AtomTokenLoader(data, batch_size=4, **workers))
    assert len(plain) == len(carrying) == 2
    encoder = AtomAttentionEncoder(4)
    for one, other in zip(plain, carrying, strict=True):
        layout = other.token_layout()
        assert layout is other.token_layout()
        assert one.token_layout() is not one.token_layout()
        assert torch.equal(layout.ptr, one.token_layout().ptr)
        pairs = one.token_layout().to_edge_index()
        assert torch.equal(layout.to_edge_index(), pairs)
        torch.testing.assert_close(
            encoder(other.x, layout),
            encoder(one.x, one.atom_to_token, dim_size=99)[: len(layout.sizes)],
        )
        assert other.num_nodes == one.num_nodes and other.validate()


def test_the_layout_moves_with_the_batch():
    (batch,) = AtomTokenLoader(graphs(), batch_size=6)
    layout = batch.token_layout()
    there = batch.to("meta").token_layout()
    assert there.device.type == "meta" and there.num_pairs == layout.num_pairs


def test_graphs_come_back_out_of_a_batch():
    data = graphs()
    (batch,) = AtomTokenLoader(data, batch_size=6)
    for one, other in zip(batch.to_data_list(), data, strict=True):
        assert torch.equal(one.atom_to_token, other.atom_to_token)
        assert torch.equal(one.token_layout().ptr, other.token_layout().ptr)


def test_other_data_is_refused():
    loader = AtomTokenLoader([Data(x=torch.zeros(2, 1))] * 2, batch_size=2)
    with pytest.raises(ValueError, match=r"'dataset\[i\]' is of type Data"):
        next(iter(loader))


@pytest.mark.parametrize("place", [0, 2])
def test_other_data_among_graphs_is_refused_by_its_class(place):
    class Mine(Data):
        pass

    data = graphs(2)
    data.insert(place, Mine(y=torch.zeros(2, 1)))
    with pytest.raises(ValueError, match=r"'dataset\[i\]' is of type Mine: .*AtomTok"):
        next(iter(AtomTokenLoader(data, batch_size=3)))
