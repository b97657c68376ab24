"""What a model makes of a molecule's atoms and bonds, or of a protein's residues.

    python examples/explain_molecule.py "CC(=O)Nc1ccc(O)cc1"
    python examples/explain_molecule.py "CCO" --model outputs/logS --target logS
    python examples/explain_molecule.py --structure 1aki.cif --model outputs/residues

A model is a folder of `MoleculeEncoder.save_pretrained`, such as `train_molecules.py`
writes. Without one it is trained for some seconds on hydration free energies, kcal/mol;
with `--epochs 0`, and for a structure, it is random. Needs the extras `chem`, `plot`,
`save` for a model, `structure` for a structure, and captum for integrated gradients.

Of a molecule it writes `weights.svg`, how much an atom counts in its token, relative to
the average; `attention.svg`, which atoms of one token attend to which; and
`attributions.svg`, what each atom adds to the prediction by integrated gradients, as
against a molecule whose atoms are all alike. `atoms.csv` and `bonds.csv` hold the
numbers, and how much of an atom's features and of a bond's messages the prediction
needs, from 0 to 1, by PyG's GNNExplainer. Attention tells what the encoder reads, not
what a prediction is made of; integrated gradients do, as they add up to it.

Of a structure it writes `residues.cif` with a value a residue as B-factors: what a
model with readout="none" predicts for it, of a class its probability, else the sum of
its atoms' attributions. Of a model of `train_structures.py` it holds what that predicts
for: no waters, hydrogens, or kinds of residues without labels.
"""

import csv
from pathlib import Path

import command_line
import explanations
import torch
from torch import nn
from torch_geometric.loader import DataLoader
from torch_geometric.utils import scatter

from pyg_atomenc.datasets import SmilesTable
from pyg_atomenc.errors import require_package
from pyg_atomenc.io import from_smiles, to_atom_array
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.plotting import draw_atom_weights
from pyg_atomenc.tokenizers import BRICS, Atom, RingsAndChains
from pyg_atomenc.transforms import AtomFeatures

# Before anything is trained.
require_package("matplotlib.figure", "explain_molecule.py")
TABLE, TARGET = Path(__file__).parent / "data/freesolv.csv", "hydration_free_energy"
TOKENIZERS = {"brics": BRICS, "rings": RingsAndChains, "atom": Atom}
# Of GNNExplainer: below it a column tells nothing.
LEAST = 0.05


def train(epochs):
    """A small model of what was measured of small molecules."""
    table = SmilesTable.from_csv(TABLE, label_columns=TARGET)
    graphs = [AtomFeatures()(table.read(i)[0]) for i in range(len(table.names))]
    y = torch.cat([data.y for data in graphs])
    mean, std = y.mean().item(), y.std().item()
    model = MoleculeEncoder(1)
    model.metadata = {"target": TARGET, "mean": mean, "std": std}
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(epochs):
        for batch in DataLoader(graphs, batch_size=32, shuffle=True):
            loss = nn.functional.mse_loss(model(batch), (batch.y - mean) / std)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


def get_model(args):
    """That of --model, one trained now, or a random one; says which."""
    torch.manual_seed(args.seed)
    if args.epochs is not None and (args.model or args.epochs and args.structure):
        raise ValueError("--epochs is for a model that is trained here on molecules")
    epochs = 10 if args.epochs is None else args.epochs
    if args.model is not None:
        model = MoleculeEncoder.from_pretrained(args.model)
        print(f"model of {args.model}")
    elif args.structure is not None or epochs == 0:
        model = MoleculeEncoder(1, readout="none" if args.structure else "sum").eval()
        print(f"RANDOM weights, seed {args.seed}: what follows has no meaning")
    else:
        model = train(epochs)
        print(f"trained for {epochs} epochs on {TABLE.name}")
    return model


def write_csv(path, columns):
    rows = zip(*columns.values(), strict=True)
    rows = [[v if isinstance(v, str) else f"{v:.4f}" for v in row] for row in rows]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


def explain_molecule(explained, args):
    """Write pictures and tables; print the table of atoms."""
    model, data, names = explained.model, explained.data, explained.data.atom_name
    x = model.embed(data).detach()
    prediction = explained.predict(x).item()
    told = f"{explained.predicted}{args.target} is {prediction:.3f}"
    print(f"{data.given_smiles}: {told}")
    if explained.classifies:
        print("what follows explains its logit, in logits")
    sizes = data.token_layout().sizes
    weights = model(data, return_attention_weights=True)[1].detach()
    picture = draw_atom_weights(data, weights, atom_names=True)
    (args.out / "weights.svg").write_text(picture, "utf-8")

    token = sizes.argmax().item() if args.token is None else args.token
    if not 0 <= token < data.num_tokens:
        raise ValueError(f"--token {token}: the molecule has {data.num_tokens}, from 0")
    atoms, alpha = explanations.attention_of_token(model, data, token)
    path = args.out / "attention.svg"
    explanations.draw_attention(alpha, [names[i] for i in atoms], path)
    print(f"attention of token {token}, {data.token_name[token]}: {path}")

    needed, bonds, needed_bonds = explanations.gnn_explainer(explained, x)
    if torch.cat([needed, needed_bonds]).max() < LEAST:
        text = f"finds nothing that is needed, all is below {LEAST}"
        print(f"note: GNNExplainer {text}: the model may be weak")
    columns = {
        "atom": names,
        "token": [data.token_name[token] for token in data.atom_to_token],
        "weight": (weights.mean(1) * sizes[data.atom_to_token]).tolist(),
        "gnn_explainer": needed.tolist(),
    }
    if (added := explanations.attributions(explained, x, args.steps)) is not None:
        columns["integrated_gradients"] = added.tolist()
        legend = f"what atoms add to {explained.added_up}{args.target}"
        options = dict(relative=False, atom_names=True, legend=legend)
        picture = draw_atom_weights(data, added, **options)
        (args.out / "attributions.svg").write_text(picture, "utf-8")
    write_csv(args.out / "atoms.csv", columns)
    pairs = [f"{names[i]}-{names[j]}" for i, j in bonds.t().tolist()]
    columns = {"bond": pairs, "gnn_explainer": needed_bonds.tolist()}
    write_csv(args.out / "bonds.csv", columns)
    print((args.out / "atoms.csv").read_text("utf-8"))


def explain_structure(explained, args, used):
    """Write the structure with a value of every residue that is used as B-factors."""
    pdbx = require_package("biotite.structure.io.pdbx", "--structure")
    model, data = explained.model, explained.data
    x = model.embed(data).detach()
    if model.config["readout"] == "none":
        values, what = explained.predict(x), f"{explained.predicted}{args.target}"
    else:
        if (added := explanations.attributions(explained, x, args.steps)) is None:
            raise SystemExit(1)
        values = scatter(added, data.atom_to_token, 0, data.num_tokens, "sum")
        what = f"what residues add to {explained.added_up}{args.target}"
    atoms = to_atom_array(data, values)[used[data.atom_to_token].numpy()]
    file = pdbx.CIFFile()
    pdbx.set_structure(file, atoms, data_block="residues")
    file.write(args.out / "residues.cif")
    low, high = values[used].aminmax()
    print(f"B-factors: {what}, {low:.3f} to {high:.3f}: {args.out / 'residues.cif'}")
    print("in PyMOL: load residues.cif; spectrum b, blue_white_red")


def explain(args):
    model = get_model(args)
    targets = explanations.targets_of(model.metadata)
    args.target = args.target or targets[0]
    if args.target not in targets:
        raise ValueError(f"--target: the model predicts {', '.join(targets)}")
    target = targets.index(args.target)
    if args.structure:
        data, used = explanations.read_structure(args.structure, model.metadata)
    elif model.config["readout"] == "none":
        raise ValueError("the model predicts for tokens: explain a --structure")
    else:
        tokenizer = TOKENIZERS[model.metadata.get("tokenizer", "brics")]()
        data = AtomFeatures()(from_smiles(args.smiles, tokenizer))
    args.out.mkdir(parents=True, exist_ok=True)
    explained = explanations.Explained(model, data, target)
    if args.structure:
        explain_structure(explained, args, used)
    else:
        explain_molecule(explained, args)


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("smiles", nargs="?", default="CC(=O)Nc1ccc(O)cc1")
    parser.add_argument("--structure", type=Path, help="mmCIF, BinaryCIF or PDB file")
    parser.add_argument("--model", type=Path, help="folder of save_pretrained")
    parser.add_argument("--target", help="the model's first, if not given")
    parser.add_argument("--token", type=int, help="its attention; the largest's if not")
    help = "without --model (default: 10)"
    parser.add_argument("--epochs", type=command_line.count_or_0, help=help)
    help = "of integrated gradients"
    parser.add_argument("--steps", type=command_line.count, default=50, help=help)
    parser.add_argument("--out", type=Path, default=Path("outputs/explained"))
    parser.add_argument("--seed", type=int, default=0)
    parser.run(explain)


if __name__ == "__main__":
    main()
