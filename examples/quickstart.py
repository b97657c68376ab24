"""From SMILES to a prediction: atoms → attention → tokens → your own GNN.

    python examples/quickstart.py

Learns measured hydration free energies (FreeSolv, see `data/README.md`) with BRICS
fragments as tokens, and asks what the encoder is good for: one network is trained with
five ways from atoms to tokens, of as many parameters each, on five random splits,
untuned. Prints the errors on held-out molecules and what follows from them, and draws
how much the atoms of one count. Needs the extra `chem`, and about two minutes.
"""

import csv
from functools import partial
from pathlib import Path

import command_line
import torch
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GINConv, GINEConv, global_add_pool, global_mean_pool
from tqdm import tqdm

from pyg_atomenc import AtomAttentionEncoder, token_graph
from pyg_atomenc.io import from_smiles
from pyg_atomenc.plotting import draw_atom_weights
from pyg_atomenc.transforms import AtomFeatures

HERE = Path(__file__).parent
# Any table with SMILES, names and, in its last column, a measured value.
TABLE, UNIT = HERE / "data" / "freesolv.csv", "kcal/mol"
SPLITS = 5
# How far from the mean of so many differences 95 % lie, in their standard errors.
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 10: 2.26}
CHANNELS = 64
# What the model reads of a graph, which tells much more.
USED = {"x", "edge_index", "edge_attr", "y", "atom_to_token", "num_tokens"}


def read_molecules(path):
    """Every row of the table as an `AtomTokenData` with its value as `y` [1, 1]."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    graphs, features = [], AtomFeatures()
    for smiles, name, value in tqdm(rows, desc="reading", unit="molecule"):
        data = features(from_smiles(smiles))
        data.name, data.y = name, torch.tensor([[float(value)]])
        graphs.append(data)
    return graphs


def mlp(in_channels, out_channels, hidden=CHANNELS):
    return nn.Sequential(
        nn.Linear(in_channels, hidden), nn.ReLU(), nn.Linear(hidden, out_channels)
    )


class Pool(nn.Module):
    """What the encoder is compared with: an MLP of its size, and PyG's pooling."""

    def __init__(self, pool):
        super().__init__()
        self.norm, self.pool = nn.LayerNorm(CHANNELS), pool
        self.mlp = mlp(CHANNELS, CHANNELS, 3 * CHANNELS // 2)

    def forward(self, x, layout):
        """Tokens [T, CHANNELS] of atoms [N, CHANNELS]."""
        x = self.mlp(self.norm(x))
        return self.pool(x, layout.atom_to_token, layout.num_tokens)


ENCODER = partial(AtomAttentionEncoder, CHANNELS, CHANNELS // 4, heads=4)
BASE, FLAT = "the mean of the training set", "no tokens"
DRAWN = "encoder, reduce='mean'"
WAYS = {
    FLAT: partial(Pool, global_add_pool),
    "tokens by mean pooling": partial(Pool, global_mean_pool),
    "tokens by sum pooling": partial(Pool, global_add_pool),
    DRAWN: partial(ENCODER, reduce="mean"),
    "encoder, reduce='sum'": partial(ENCODER, reduce="sum"),
}


class Model(nn.Module):
    """Convs over bonds → tokens → conv over the graph of tokens → one number."""

    def __init__(self, way):
        super().__init__()
        self.embed = nn.ModuleList(
            nn.Embedding(size, CHANNELS) for size in AtomFeatures.sizes
        )
        self.convs = nn.ModuleList(
            GINEConv(mlp(CHANNELS, CHANNELS), edge_dim=5) for _ in range(3)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(CHANNELS) for _ in self.convs)
        self.to_tokens, self.flat = WAYS[way](), way == FLAT
        # A mean does not know the size of its token.
        self.mix = nn.Linear(CHANNELS + 1, CHANNELS)
        self.conv = GINConv(mlp(CHANNELS, CHANNELS))
        self.readout = mlp(CHANNELS, 1)

    def atoms(self, batch):
        """Atom features [N, CHANNELS] from `AtomFeatures` and bonds."""
        x = sum(e(c) for e, c in zip(self.embed, batch.x.unbind(1), strict=True))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = x + conv(norm(x), batch.edge_index, batch.edge_attr).relu()
        return x

    def forward(self, batch):
        """Predictions [num_graphs, 1]."""
        x = self.atoms(batch)
        if self.flat:
            # Every atom is a token of its own, and bonds join them.
            batch.atom_to_token = torch.arange(len(x), device=x.device)
            batch.num_tokens = batch.ptr.diff()
        layout = batch.token_layout()
        x = self.to_tokens(x, layout)
        x = self.mix(torch.cat([x, layout.sizes.unsqueeze(1)], dim=1))
        tokens = token_graph(batch, x)
        x = tokens.x + self.conv(tokens.x, tokens.edge_index).relu()
        return self.readout(global_add_pool(x, tokens.batch, batch.num_graphs) / 10)


def train(model, graphs, epochs, device, bar):
    """Fit `model` to the standardised values of `graphs`; give their mean and std."""
    target = torch.cat([data.y for data in graphs])
    mean, std = target.mean().to(device), target.std().to(device)
    unused = list(set(graphs[0].keys()) - USED)
    loader = DataLoader(graphs, batch_size=64, shuffle=True, exclude_keys=unused)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01, fused=True)
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
    """The mean absolute error in the unit of the table."""
    mean, std = scale
    model.eval()
    batch = next(iter(DataLoader(graphs, batch_size=len(graphs)))).to(device)
    return (model(batch) * std + mean - batch.y).abs().mean().item()


@torch.no_grad()
def draw(model, data, path, device):
    """Colour the atoms of one molecule by how much they count in their fragment."""
    model.eval()
    batch = next(iter(DataLoader([data]))).to(device)
    _, weights = model.to_tokens(
        model.atoms(batch), batch.token_layout(), return_attention_weights=True
    )
    legend = f"{data.name}: how much atoms count in their fragment"
    picture = draw_atom_weights(data, weights, legend=legend, size=(600, 450))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(picture, encoding="utf-8")


def compare(graphs, epochs, seed, device):
    """Errors of every way on every split, and the models and molecules of the last."""
    errors, models = {BASE: []} | {way: [] for way in WAYS}, {}
    with tqdm(total=len(WAYS) * SPLITS * epochs, desc="training", unit="epoch") as bar:
        for split in range(seed, seed + SPLITS):
            torch.manual_seed(split)
            order, cut = torch.randperm(len(graphs)).tolist(), len(graphs) // 5
            held_out = [graphs[i] for i in order[:cut]]
            training = [graphs[i] for i in order[cut:]]
            mean = torch.cat([data.y for data in training]).mean()
            truth = torch.cat([data.y for data in held_out])
            errors[BASE].append((truth - mean).abs().mean().item())
            for way in WAYS:
                torch.manual_seed(split)
                model = models[way] = Model(way).to(device)
                scale = train(model, training, epochs, device, bar)
                errors[way].append(held_out_error(model, held_out, scale, device))
    return errors, models, held_out


def say(errors, ratio):
    """What the errors show of the encoder, in words, and what they do not show.

    Random splits share molecules, and their errors are not independent. So the variance
    of a mean gets `ratio`, held-out molecules over those to learn from, on top: Nadeau
    and Bengio, Machine Learning 52 (2003), doi:10.1023/A:1024068626366.
    """
    others = [way for way in errors if not way.startswith("encoder")]
    encoders = [way for way in errors if way not in others]
    lines, sign = [], {}
    for way in encoders:
        less, more, same = [], [], []
        for other in others:
            # On the same molecules, so that a hard split counts for nothing.
            gap = torch.tensor(errors[way]) - torch.tensor(errors[other])
            half = STUDENT[len(gap)] * gap.std() * (1 / len(gap) + ratio) ** 0.5
            sign[way, other] = int(gap.mean() > half) - int(gap.mean() < -half)
            kind = (same, more, less)[sign[way, other]]
            kind.append(f"{other} ({gap.mean():+.2f} ± {half:.2f})")
        lines.append(f"The error of {way} is")
        words = {"less than": less, "more than": more, "not told from": same}
        lines += [f"  {kind} {', '.join(of)}" for kind, of in words.items() if of]
    best = [way for way in encoders if all(sign[way, o] < 0 for o in others)]
    better = [o for o in others if all(sign[way, o] > 0 for way in encoders)]
    end = f"does not help: {', '.join(better)} does better" if better else ""
    end = f"helps: {', '.join(best)}" if best else end or "shows no gain"
    return [*lines, f"So here the encoder {end}."]


def run(args):
    # More threads than one take longer over tensors as small as these.
    torch.set_num_threads(1)
    graphs = read_molecules(TABLE)
    tokens = sum(data.num_tokens for data in graphs) / len(graphs)
    atoms = sum(data.num_nodes for data in graphs) / len(graphs)
    print(f"{len(graphs)} molecules of {atoms:.1f} atoms in {tokens:.1f} fragments")

    errors, models, held_out = compare(graphs, args.epochs, args.seed, args.device)
    print(
        f"\nmean absolute error in {UNIT}, molecules held out of {SPLITS} random splits"
    )
    print("(± is the standard deviation over splits)")
    for way, values in errors.items():
        size = sum(p.numel() for p in models[way].parameters()) if way in models else 0
        std, mean = torch.std_mean(torch.tensor(values))
        print(f"  {way:<30}{mean:.2f} ± {std:.2f}{size:>10,} parameters")
    ratio = len(held_out) / (len(graphs) - len(held_out))
    print("\nDifferences on the same splits (± is a 95 % interval of the mean):")
    print(*say(errors, ratio), sep="\n")

    # The one with the most fragments in which atoms can count more or less.
    data = max(held_out, key=lambda data: int((data.token_layout().sizes > 2).sum()))
    path = args.out / "quickstart.svg"
    draw(models[DRAWN], data, path, args.device)
    print(f"\npicture of {data.name}: {path}")


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=command_line.count, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", type=command_line.device, default="cpu")
    parser.add_argument("--out", type=Path, default=HERE.parent / "outputs")
    parser.run(run)


if __name__ == "__main__":
    main()
