"""Batches that leave weights without use: their gradients are zeros, not absent."""

import subprocess
import sys

import pytest
import torch
from oracle import BACKENDS
from torch_geometric.nn import SAGEConv

from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv, TokenLayout

BATCHES = {
    "single atoms": torch.arange,
    "no atoms": lambda count: torch.zeros(0).long(),
    "pairs": lambda count: torch.arange(count) // 2,
}


def missing(model):
    return [
        n for n, p in model.named_parameters() if p.requires_grad and p.grad is None
    ]


@pytest.mark.parametrize("layer", ["encoder", "sum", "conv", "conv over edges"])
@pytest.mark.parametrize("count", [5, 2_000])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_every_weight_has_a_gradient(backend, batch, count, layer):
    if layer == "conv over edges" and backend == "dense":
        backend = "auto"
    index = BATCHES[batch](count)
    layout = TokenLayout.from_index(index, count)
    options = {"edge_dim": 3, "bias": True, "backend": backend}
    for autocast in (False, True):
        if layer.startswith("conv"):
            model = TokenAttentionConv(6, 4, 2, **options)
        else:
            reduce = "sum" if layer == "sum" else "mean"
            model = AtomAttentionEncoder(6, 4, 2, reduce=reduce, **options)
        where = layout.to_edge_index() if layer.endswith("edges") else layout
        edge_attr = torch.randn(layout.num_pairs, 3)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = model(torch.randn(len(index), 6), where, edge_attr=edge_attr)
        out.float().pow(2).sum().backward()
        assert not missing(model)
        if batch == "no atoms":
            assert all((p.grad == 0).all() for p in model.parameters())
        elif batch == "single atoms":
            assert (model.lin_query.weight.grad == 0).all()
            assert (model.lin_value.weight.grad != 0).any()


@pytest.mark.parametrize("count", [5, 2_000])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize("layer", [AtomAttentionEncoder, TokenAttentionConv])
def test_so_it_is_when_forces_are_trained(layer, backend, count):
    model = layer(6, 4, 2, bias=True, backend=backend)
    x = torch.randn(count, 6, requires_grad=True)
    energy = model(x, TokenLayout.from_index(torch.arange(count))).pow(3).sum()
    (force,) = torch.autograd.grad(energy, x, create_graph=True)
    force.pow(2).sum().backward()
    assert not missing(model)


@pytest.mark.parametrize("layer", [AtomAttentionEncoder, TokenAttentionConv])
def test_frozen_weights_have_none(layer):
    model = layer(6, 4, 2)
    model.lin_key.requires_grad_(False)
    model(torch.randn(5, 6), TokenLayout.from_index(torch.arange(5))).sum().backward()
    assert not missing(model) and model.lin_key.weight.grad is None


def test_without_edges():
    x, edges = torch.randn(5, 6), torch.zeros(2, 0).long()
    conv = TokenAttentionConv(6, 4, 2, edge_dim=2)
    conv(x, edges, torch.zeros(0, 2)).sum().backward()
    assert not missing(conv)
    sage = SAGEConv(6, 4, aggr=AtomAttentionEncoder(6, 3, 2))
    sage(x, edges).sum().backward()
    assert not missing(sage)


WORKER = """
import sys
import torch
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.nn import SAGEConv
from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv, TokenLayout

rank, store = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.distributed.init_process_group(
    "gloo", f"file://{store}", rank=rank, world_size=2
)

class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = TokenAttentionConv(6, 4, 2, edge_dim=3)
        self.sage = SAGEConv(8, 8, aggr=AtomAttentionEncoder(8, 4, 2))
        self.encoder = AtomAttentionEncoder(8, 4, 2, edge_dim=3, reduce="sum")

    def forward(self, x, layout, edge_attr):
        x = self.conv(x, layout, edge_attr)
        x = self.sage(x, layout.to_edge_index())
        return self.encoder(x, layout, edge_attr=edge_attr)

def whole(index):
    torch.manual_seed(index.numel())
    layout = TokenLayout.from_index(index, 5)
    x, edge_attr = torch.randn(len(index), 6), torch.randn(layout.num_pairs, 3)
    return x, layout, edge_attr

torch.manual_seed(0)
model = Model()
parallel = DistributedDataParallel(model)
batches = [torch.arange(10) // 2, torch.arange(5), torch.zeros(0).long()]
for step in range(6):
    mine, other = batches[(step + rank) % 3], batches[(step + 1 - rank) % 3]
    parallel.zero_grad()
    parallel(*whole(mine)).pow(2).sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    (model(*whole(mine)).pow(2).sum() + model(*whole(other)).pow(2).sum()).backward()
    for grad, p in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(grad, p.grad / 2)
torch.distributed.destroy_process_group()
print("done")
"""


@pytest.mark.slow
def test_two_processes_one_without_use_for_some_weights(tmp_path):
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, rank, str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        for worker in workers:
            out, errors = worker.communicate(timeout=120)
            assert worker.returncode == 0 and out.strip() == "done", errors
    finally:
        for worker in workers:
            worker.kill()
