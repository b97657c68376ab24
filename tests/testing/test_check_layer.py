"""Every layer here passes the suite, and for every check some layer does not."""

import random
import unittest

import pytest
import torch
from oracle import BACKENDS
from torch import nn
from torch_geometric.nn import MessagePassing
from torch_geometric.nn.aggr import AttentionalAggregation

import pyg_atomenc.testing
from pyg_atomenc import AtomAttentionEncoder, TokenAttentionConv
from pyg_atomenc.attention import backends
from pyg_atomenc.nn import AtomTransformer
from pyg_atomenc.testing import LayerCheck, check_layer, layer_checks

CHECKS = {check.name: check for check in layer_checks()}
SLOW = ("compile", "export", "ddp")


def by_index(layer, x, layout):
    return layer(x, layout.atom_to_token, dim_size=layout.num_tokens)


class Mean(nn.Module):
    """A user's own layer: it knows nothing of this package."""

    in_channels = 6

    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(6, 4)

    def project(self, x):
        return torch.tanh(self.lin(x))

    def pool(self, h, index, dim_size):
        out = h.new_zeros(dim_size, 4).index_add(0, index, h)
        return out / self.count(index, dim_size)

    def count(self, index, dim_size):
        return index.bincount(minlength=dim_size).clamp(min=1)[:, None]

    def forward(self, x, index, dim_size):
        return self.pool(self.project(x), index, dim_size)


def encoder(*args, **options):
    return AtomAttentionEncoder(16, 8, 2, *args, **options), {}


LAYERS = {
    "a user's": (Mean(), {"call": by_index}),
    "PyG's aggregation": (
        AttentionalAggregation(nn.Linear(6, 1)),
        {"call": by_index, "in_channels": 6},
    ),
    "encoder by index": (AtomAttentionEncoder(16, 8, 2), {"call": by_index}),
    "lazy encoder": (AtomAttentionEncoder(-1, 8, 2, edge_dim=-1), {}),
    "transformer": (
        AtomTransformer(16, heads=2, depth=2),
        {"in_channels": 16, "call": lambda layer, x, layout: layer(x, layout, x)},
    ),
    "transformer with pairs": (
        AtomTransformer(16, heads=2, depth=1, pair_channels=1, post_norm=True),
        {
            "in_channels": 16,
            "call": lambda layer, x, layout: layer(
                x, layout, x, x[layout.to_edge_index()[0], :1]
            ),
        },
    ),
}
for name in BACKENDS:
    given = {"tolerance": {**backends()[name].tolerance, torch.float32: 5e-5}}
    few = {"concat": False, "bias": True, "dropout": 0.1, "edge_dim": 3}
    LAYERS |= {
        f"encoder, {name}": (AtomAttentionEncoder(16, 8, 2, backend=name), given),
        f"encoder, all options, {name}": (
            AtomAttentionEncoder(16, 8, 2, backend=name, **few),
            given,
        ),
        f"conv, {name}": (TokenAttentionConv(16, 8, 2, backend=name), given),
        f"conv, all options, {name}": (
            TokenAttentionConv(16, 8, 2, backend=name, **few),
            given,
        ),
    }

def cases():
    for layer in LAYERS:
        for name in CHECKS:
            marks = [pytest.mark.slow] if name in SLOW else []
            yield pytest.param(layer, name, marks=marks, id=f"{layer}-{name}")


@pytest.mark.parametrize("layer, name", cases())
def test_layers_pass(layer, name):
    module, options = LAYERS[layer]
    CHECKS[name](module, **options)
