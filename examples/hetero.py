"""Atoms and tokens as two kinds of nodes, with the encoder between them.

    python examples/hetero.py
    python examples/hetero.py my_molecules.csv --target logS --epochs 50

Every layer is a `HeteroConv` of PyG: atoms get messages along bonds, tokens what
`AtomAttentionEncoder` makes of their atoms along ('atom', 'in', 'token'), and messages
from tokens that they are bonded to; another type of edges is one entry more. Learns
hydration free energies, in kcal/mol, or a column of a table of your own, and prints
the error on a fifth of the molecules beside that of a guess. Needs the extra `chem`,
and less than a minute.
"""

from pathlib import Path

import command_line
import torch
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, GINEConv, HeteroConv, global_add_pool
from torch_geometric.transforms import Compose
from tqdm import tqdm

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.datasets import SmilesTable
from pyg_atomenc.errors import require_package
from pyg_atomenc.transforms import AtomFeatures, ToHetero, TokenEdges

# RDKit, or a message that says how to install it.
require_package("rdkit.Chem", "hetero.py")
TABLE = Path(__file__).parent / "data" / "freesolv.csv"
BOND, IN = ("atom", "bond", "atom"), ("atom", "in", "token")
EDGE = ("token", "edge", "token")
to_hetero = Compose([AtomFeatures(), TokenEdges("bond"), ToHetero()])


class TokensFromAtoms(nn.Module):
    """The encoder as a convolution from atoms to tokens, along edges between them."""

    def __init__(self, channels, heads):
        super().__init__()
        sizes = channels, channels // heads, heads
        self.encoder = AtomAttentionEncoder(*sizes, reduce="sum")

    def forward(self, x, edge_index):
        """Atoms [N, C] and tokens [T, C], edges [2, N] → tokens [T, C]."""
        atoms, tokens = x
        atom, token = edge_index
        return self.encoder(atoms[atom], token, dim_size=tokens.size(0))


def mlp(in_channels, out_channels):
    return nn.Sequential(
        nn.Linear(in_channels, 2 * in_channels),
        nn.ReLU(),
        nn.Linear(2 * in_channels, out_channels),
    )


class HeteroModel(nn.Module):
    """Layers of one convolution for each type of edges; a sum over tokens."""

    def __init__(self, out_channels, channels=64, heads=4, num_layers=3):
        super().__init__()
        self.embeddings = nn.ModuleList(
            nn.Embedding(size, channels) for size in AtomFeatures.sizes
        )
        self.layers = nn.ModuleList(
            HeteroConv(
                {
                    BOND: GINEConv(mlp(channels, channels), edge_dim=5),
                    IN: TokensFromAtoms(channels, heads),
                    EDGE: GINConv(mlp(channels, channels)),
                }
            )
            for _ in range(num_layers)
        )
        self.norms = nn.ModuleList(
            nn.ModuleDict({kind: nn.LayerNorm(channels) for kind in ("atom", "token")})
            for _ in range(num_layers)
        )
        self.readout = mlp(channels, out_channels)

    def forward(self, batch):
        """Predictions [num_graphs, out_channels]."""
        columns = zip(self.embeddings, batch["atom"].x.t(), strict=True)
        atoms = sum(embedding(column) for embedding, column in columns)
        # Tokens are what the first layer makes of their atoms.
        tokens = atoms.new_zeros(batch["token"].num_nodes, atoms.size(1))
        x = {"atom": atoms, "token": tokens}
        edges, attr = batch.edge_index_dict, {BOND: batch[BOND].edge_attr}
        for layer, norms in zip(self.layers, self.norms, strict=True):
            h = {kind: norms[kind](value) for kind, value in x.items()}
            h = layer(h, edges, edge_attr_dict=attr)
            x = {kind: value + h[kind] for kind, value in x.items()}
        graph = batch["token"].batch
        # A sum over tokens, as the energy adds up; divided, to start with a small one.
        return self.readout(global_add_pool(x["token"], graph, batch.num_graphs) / 10)


def train(model, graphs, epochs):
    """Fit the standardised targets; gives mean, standard deviation and the losses."""
    y = torch.cat([data.y for data in graphs])
    mean, std = command_line.scale_of(y)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    model.train()
    for epoch in range(epochs):
        total = 0.0
        for batch in DataLoader(graphs, batch_size=32, shuffle=True):
            loss = nn.functional.mse_loss(model(batch), (batch.y - mean) / std)
            command_line.check_finite("the loss", loss)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += loss.item() * batch.num_graphs
        losses.append(total / len(graphs))
        print(f"epoch {epoch + 1}: loss {losses[-1]:.3f}")
    return mean, std, losses


@torch.no_grad()
def predict(model, graphs):
    model.eval()
    found = [model(batch) for batch in DataLoader(graphs, batch_size=64)]
    return torch.cat(found)


def read(path, smiles_column, target):
    """The graphs with a label; tells how many rows cannot be read, and the first."""
    table = SmilesTable.from_csv(path, smiles_column, target)
    graphs, faults = [], []
    for i, row in enumerate(tqdm(table.names, "reading", unit="molecule")):
        try:
            data = table.read(i)[0]
            if not data.y.isfinite().all():
                raise ValueError(f"{target!r} is empty, or not finite")
            graphs.append(to_hetero(data))
        except ValueError as error:
            faults.append(f"{row}: {error}")
    print(f"{len(graphs)} molecules; {len(faults)} rows are left out")
    for fault in faults[:10]:
        print(f"  {fault}")
    if len(graphs) < 5:
        raise ValueError(f"{path}: fewer than 5 molecules are left. Add some.")
    return graphs


def run(args):
    graphs = read(args.table, args.smiles_column, args.target)
    print(graphs[0])

    torch.manual_seed(args.seed)
    order = torch.randperm(len(graphs)).tolist()
    cut = len(graphs) // 5
    held_out, training = (
        [graphs[i] for i in part] for part in (order[:cut], order[cut:])
    )
    model = HeteroModel(1)
    mean, std, _ = train(model, training, args.epochs)
    truth = torch.cat([data.y for data in held_out])
    error = (predict(model, held_out) * std + mean - truth).abs().mean()
    guess = (mean - truth).abs().mean()
    print(f"mean absolute error on other molecules: {error:.2f}")
    print(f"that of the mean as a guess: {guess:.2f}")


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("table", nargs="?", type=Path, default=TABLE, help="a CSV")
    parser.add_argument("--smiles-column", default="smiles")
    parser.add_argument("--target", default="hydration_free_energy", help="a column")
    parser.add_argument("--epochs", type=command_line.count, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.run(run)


if __name__ == "__main__":
    main()
