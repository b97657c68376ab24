"""The model of the study, and the ways that turn its atoms into tokens."""

import torch
from molecules import OFFSETS, SIZES
from torch import nn
from torch_geometric.nn import GINConv, GINEConv, aggr, global_add_pool

from pyg_atomenc import AtomAttentionEncoder

CHANNELS = 32
HEADS = 4
# Of the convolutions in the model with most parameters; others are as many by wider
# ones.
HIDDEN = 32
LARGEST = "set transformer"


def mlp(in_channels, hidden, out_channels):
    return nn.Sequential(
        nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, out_channels)
    )


class Plain(nn.Module):
    """An aggregation of PyG over atoms in the order of their tokens."""

    def __init__(self, aggregation, with_size=False):
        super().__init__()
        self.aggregation, self.with_size = aggregation, with_size

    def forward(self, x, layout, index):
        """Tokens [T, C] from atoms [N, C]."""
        # Padding, as SetTransformerAggregation has it, goes by sorted tokens.
        order = index.argsort(stable=True)
        out = self.aggregation(x[order], index[order], dim_size=layout.num_tokens)
        if self.with_size:
            out = torch.cat([out, layout.sizes.to(out.dtype).unsqueeze(1)], dim=1)
        return out


class Ours(nn.Module):
    """The encoder of this package."""

    def __init__(self, reduce):
        super().__init__()
        width = CHANNELS // HEADS
        self.encoder = AtomAttentionEncoder(CHANNELS, width, HEADS, reduce=reduce)

    def forward(self, x, layout, index):
        """Tokens [T, C] from atoms [N, C]."""
        return self.encoder(x, layout)


def _attentional():
    gate = mlp(CHANNELS, CHANNELS, 1)
    return aggr.AttentionalAggregation(gate, nn.Linear(CHANNELS, CHANNELS))


POOLINGS = {
    "mean": lambda: Plain(aggr.MeanAggregation()),
    "sum": lambda: Plain(aggr.SumAggregation()),
    "mean+size": lambda: Plain(aggr.MeanAggregation(), with_size=True),
    "attentional": lambda: Plain(_attentional()),
    LARGEST: lambda: Plain(aggr.SetTransformerAggregation(CHANNELS, heads=HEADS)),
    "none": lambda: None,
    "ours, mean": lambda: Ours("mean"),
    "ours, sum": lambda: Ours("sum"),
}
# What the others are compared with.
SIMPLE = ("mean", "sum", "mean+size", "none")


class Model(nn.Module):
    """Embeddings → three GINE convs over bonds → tokens → a GIN conv → a sum.

    Without pooling ("none") the last conv goes over bonds, too, and the sum over atoms.

    Args:
        pooling (str): One of `POOLINGS`.
        hidden (int): The inner width of all convs.
        per_token (bool): Give a value for each token rather than each molecule, without
            pooling the sum of its atoms' values. (default: `False`)
    """

    def __init__(self, pooling, hidden, per_token=False):
        super().__init__()
        self.per_token = per_token
        self.embedding = nn.EmbeddingBag(int(OFFSETS[-1]) + SIZES[-1], CHANNELS)
        self.pool = POOLINGS[pooling]()
        self.convs = nn.ModuleList(
            GINEConv(mlp(CHANNELS, hidden, CHANNELS), edge_dim=5)
            for _ in range(3 if self.pool else 4)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in self.convs)
        if self.pool:
            width = CHANNELS + (pooling == "mean+size")
            self.mix = nn.Linear(width, CHANNELS)
            self.token_conv = GINConv(mlp(CHANNELS, hidden, CHANNELS))
            self.token_norm = nn.LayerNorm(CHANNELS)
        self.readout = mlp(CHANNELS, CHANNELS, 1)

    def forward(self, batch):
        """Values [num_graphs], or [num_tokens]."""
        x, index = self.embedding(batch.x), batch.atom_to_token
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + conv(norm(x), batch.edge_index, batch.edge_attr).relu()
        if not self.pool:
            if self.per_token:
                # Values of atoms, so that there are no tokens in this model at all.
                return global_add_pool(
                    self.readout(x), index, batch.total_num_tokens
                ).squeeze(1)
            owner = batch.batch
        else:
            x = self.mix(self.pool(x, batch.token_layout(), index))
            h = self.token_conv(self.token_norm(x), batch.token_edge_index)
            x, owner = x + h.relu(), batch.token_batch
        if not self.per_token:
            x = global_add_pool(x, owner, batch.num_graphs)
        return self.readout(x).squeeze(1)


def count_parameters(pooling, hidden):
    with torch.device("meta"):
        return sum(p.numel() for p in Model(pooling, hidden).parameters())


def matched_hidden(pooling):
    """The inner width at which a model has as many parameters as the largest."""
    wanted = count_parameters(LARGEST, HIDDEN)
    # The number of parameters is linear in the width.
    at_one, at_two = count_parameters(pooling, 1), count_parameters(pooling, 2)
    return 1 + round((wanted - at_one) / (at_two - at_one))
