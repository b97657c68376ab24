"""From SMILES to a prediction: atoms → attention → tokens → your own GNN.

    python examples/quickstart.py

Reads `molecules.csv` beside it, cuts every molecule into fragments, and learns the
octanol-water partition coefficient logP that RDKit computes with Crippen's method. The
same model is trained twice on each of three random splits: once the encoder turns atoms
into tokens, once `global_mean_pool` does. Stereochemistry is left out of the file,
because this logP does not see it. Needs the extra `chem`, and about a minute on two
cores.
"""

import argparse
import csv
from pathlib import Path

import torch
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, GINEConv, global_add_pool, global_mean_pool
from tqdm import tqdm

from pyg_atomenc import AtomAttentionEncoder, token_graph
from pyg_atomenc.errors import require_package
from pyg_atomenc.io import from_smiles
from pyg_atomenc.plotting import draw_atom_weights

# RDKit, or a message that says how to install it.
Chem = require_package("rdkit.Chem", "quickstart.py")
MolLogP = require_package("rdkit.Chem.Crippen", "quickstart.py").MolLogP

HERE = Path(__file__).parent
SPLITS = 3
HELD_OUT = 0.2
CHANNELS = 64


def read_molecules(path):
    """Every row of the file as an `AtomTokenData` with its logP as `y` [1, 1]."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    graphs = []
    for row in tqdm(rows, desc="reading", unit="molecule"):
        data = from_smiles(row["smiles"])
        data.name = row["name"]
        data.y = torch.tensor([[MolLogP(Chem.MolFromSmiles(data.smiles))]])
        graphs.append(data)
    return graphs


def mlp(in_channels, out_channels):
    return nn.Sequential(
        nn.Linear(in_channels, CHANNELS), nn.ReLU(), nn.Linear(CHANNELS, out_channels)
    )


class Model(nn.Module):
    """Convs over bonds → tokens → conv over the graph of tokens → one number."""

    def __init__(self, encode):
        super().__init__()
        self.element = nn.Embedding(119, CHANNELS)
        self.charge = nn.Embedding(5, CHANNELS)
        self.convs = nn.ModuleList(
            GINEConv(mlp(CHANNELS, CHANNELS), edge_dim=5) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in self.convs)
        self.encoder = AtomAttentionEncoder(CHANNELS, 16, heads=4) if encode else None
        # Both ways average over a token's atoms, so its size is told apart.
        self.mix = nn.Linear(CHANNELS + 1, CHANNELS)
        self.conv = GINConv(mlp(CHANNELS, CHANNELS))
        self.readout = mlp(CHANNELS, 1)

    def atoms(self, batch):
        """Atom features [N, CHANNELS] from elements, charges and bonds."""
        x = self.element(batch.z) + self.charge(batch.formal_charge.clamp(-2, 2) + 2)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + conv(norm(x), batch.edge_index, batch.edge_attr).relu()
        return x

    def forward(self, batch):
        """Predictions [num_graphs, 1]."""
        x = self.atoms(batch)
        layout = batch.token_layout()
        if self.encoder is None:
            x = global_mean_pool(x, batch.atom_to_token, layout.num_tokens)
        else:
            x = self.encoder(x, layout)
        x = self.mix(torch.cat([x, layout.sizes.unsqueeze(1)], dim=1))
        tokens = token_graph(batch, x)
        x = tokens.x + self.conv(tokens.x, tokens.edge_index).relu()
        return self.readout(global_add_pool(x, tokens.batch, batch.num_graphs) / 10)


def train(model, graphs, epochs, device, bar):
    """Fit `model` to the standardised logP of `graphs`."""
    target = torch.cat([data.y for data in graphs])
    mean, std = target.mean().to(device), target.std().to(device)
    loader = DataLoader(graphs, batch_size=32, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=epochs * len(loader)
    )
    model.train()
    for _ in range(epochs):
        for batch in loader:
            batch = batch.to(device)
            loss = nn.functional.l1_loss(model(batch), (batch.y - mean) / std)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        bar.set_postfix(loss=f"{loss.item():.2f}")
        bar.update()
    return mean, std


@torch.no_grad()
def held_out_error(model, graphs, scale, device):
    """The mean absolute error in units of logP."""
    mean, std = scale
    model.eval()
    errors = []
    for batch in DataLoader(graphs, batch_size=64):
        batch = batch.to(device)
        errors.append((model(batch) * std + mean - batch.y).abs())
    return torch.cat(errors).mean().item()


@torch.no_grad()
def draw(model, data, path, device):
    """Colour the atoms of one molecule by how much they count in their fragment."""
    model.eval()
    batch = next(iter(DataLoader([data]))).to(device)
    layout = batch.token_layout()
    _, weights = model.encoder(
        model.atoms(batch), layout, return_attention_weights=True
    )
    legend = f"{data.name}: weight of each atom in its fragment"
    picture = draw_atom_weights(data, weights, legend=legend, size=(600, 450))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture, encoding="utf-8")


def compare(graphs, epochs, seed, device):
    """Train both models on every split; give errors, and what to draw."""
    errors = {
        "mean of the training set": [],
        "without the encoder": [],
        "with the encoder": [],
    }
    sizes = dict.fromkeys(errors, 0)
    drawing = None
    with tqdm(total=2 * SPLITS * epochs, desc="training", unit="epoch") as bar:
        for split in range(seed, seed + SPLITS):
            torch.manual_seed(split)
            order = torch.randperm(len(graphs)).tolist()
            cut = round(HELD_OUT * len(graphs))
            held_out = [graphs[i] for i in order[:cut]]
            training = [graphs[i] for i in order[cut:]]
            mean = torch.cat([data.y for data in training]).mean()
            truth = torch.cat([data.y for data in held_out])
            guess = (truth - mean).abs().mean().item()
            errors["mean of the training set"].append(guess)
            for name, encode in [
                ("without the encoder", False),
                ("with the encoder", True),
            ]:
                torch.manual_seed(split)
                model = Model(encode).to(device)
                sizes[name] = sum(p.numel() for p in model.parameters())
                scale = train(model, training, epochs, device, bar)
                errors[name].append(held_out_error(model, held_out, scale, device))
            drawing = drawing or (model, held_out)
    return errors, sizes, drawing


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")
    parser.add_argument("--out", type=Path, default=HERE.parent / "outputs")
    args = parser.parse_args()

    graphs = read_molecules(HERE / "molecules.csv")
    tokens = sum(data.num_tokens for data in graphs) / len(graphs)
    atoms = sum(data.num_nodes for data in graphs) / len(graphs)
    print(f"{len(graphs)} molecules of {atoms:.1f} atoms in {tokens:.1f} fragments")

    errors, sizes, drawing = compare(graphs, args.epochs, args.seed, args.device)
    print(
        f"\nmean absolute error of logP on held-out molecules, {SPLITS} random splits"
    )
    for name, values in errors.items():
        values = torch.tensor(values)
        print(
            f"  {name:<26}{values.mean():.2f} ± {values.std():.2f}"
            f"{sizes[name]:>10,} parameters"
        )

    model, held_out = drawing
    # The one with the most fragments among those that are readable as a picture.
    data = max(
        (data for data in held_out if data.num_nodes <= 40),
        key=lambda data: data.num_tokens,
    )
    path = args.out / "quickstart.svg"
    draw(model, data, path, args.device)
    print(f"\npicture of {data.name}: {path}")


if __name__ == "__main__":
    main()
