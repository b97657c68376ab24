"""A property of residues, learnt from a folder of structure files and a table.

    python examples/train_structures.py my_pdb_files labels.csv --out my_model
    python examples/predict_structures.py my_model new.cif --out new.csv

The table has the columns file (as in the folder), chain, number (as its author counts),
ins_code where there are any, and the target, empty, NA or - where it is not known. Text
is learnt as classes, and so are up to 20 integers, if --task does not say otherwise.
Whole files are held out, to stop early and to test: leave out relatives of others,
whose errors look too good. Writes `model.safetensors` and `config.json`, `metrics.json`
of the test and `split.csv`. Needs the extras `structure`, `chem` and `save`.
"""

import csv
import json
import math
from copy import deepcopy
from pathlib import Path

import command_line
import structure_tools as tools
import torch
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from tqdm import tqdm

from pyg_atomenc.datasets import StructureDataset, StructureFiles
from pyg_atomenc.errors import require_package
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.tokenizers import Residue

require_package("safetensors", "train_structures.py")
PATIENCE = 15


def fit(model, learnt, checked, guess, args):
    """Train; keep the weights that do best on the files to stop by."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.01)
    info, best, waited = model.metadata, math.inf, 0
    bar = tqdm(range(args.epochs), desc="training", unit="epoch")
    for _ in bar:
        model.train()
        for batch in DataLoader(learnt, batch_size=4, shuffle=True):
            batch = batch.to(args.device)
            known = batch.token_y.isfinite()
            out, y = model(batch)[known], batch.token_y[known]
            loss = (F.cross_entropy(out, y.long()) if info["classes"]
                    else F.l1_loss(tools.decode(out, info), y))  # fmt: skip
            command_line.check_finite("the loss", loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now, waited = tools.errors(model, checked, guess)[0], waited + 1
        command_line.check_finite("the error", now)
        if now < best:
            best, waited, weights = now, 0, deepcopy(model.state_dict())
        bar.set_postfix(error=f"{now:.3f}", best=f"{best:.3f}")
        if waited > PATIENCE:
            break
    model.load_state_dict(weights)


def read(args):
    """The target's name, its classes, and the graphs with labels."""
    target, table = tools.read_table(args.table, args.target, args.task)
    classes = tools.classes_of(table, args.task)
    source = StructureFiles(args.folder, **tools.READING)
    tools.check_files(args.table, table, source.names)
    change = tools.features(args.cutoff)
    dataset = StructureDataset(args.out / "graphs", source, Residue(), None, change)
    graphs, left = tools.join(dataset, table, classes)
    print(f"{target}: {classes or 'numbers'}, of residues of {len(graphs)} files")
    print(f"labels that match no residue: {len(left)} {left[:5]}")
    if len(graphs) < 3:
        raise ValueError(f"{args.table}: has labels of fewer than 3 files. Add some.")
    return target, classes, graphs


def split(graphs, share):
    """Whole files to learn from, to stop by and to test, by the names of the sets."""
    graphs = [graphs[i] for i in torch.randperm(len(graphs))]
    # At least one, and not all.
    count = min(max(1, round(len(graphs) * share)), (len(graphs) - 1) // 2)
    parts = graphs[2 * count :], graphs[count : 2 * count], graphs[:count]
    return dict(zip(("training", "validation", "test"), parts, strict=True))


def train(args):
    if (args.out / "config.json").exists() and not args.overwrite:
        text = "holds a model: pass --overwrite or another --out"
        raise ValueError(f"{args.out}: {text}")
    target, classes, graphs = read(args)
    torch.manual_seed(args.seed)
    sets = split(graphs, args.held_out)
    batch = Batch.from_data_list(sets["training"])
    known, guess = batch.token_y.isfinite(), tools.guess_by_name(batch, classes)
    kinds = batch.token_entity_kind[known].unique().tolist()
    mean, std = command_line.scale_of(batch.token_y[known])
    model = MoleculeEncoder(len(classes or [0]), readout="none", dropout=0.1)
    model.to(args.device).metadata = dict(
        target=target, classes=classes, mean=mean, std=std,
        cutoff=args.cutoff, kinds=kinds,
    )  # fmt: skip
    fit(model, sets["training"], sets["validation"], guess, args)
    wrong, by_name = tools.errors(model, sets["test"], guess)
    what = "share of wrong classes" if classes else "mean absolute error"
    files = {name: len(part) for name, part in sets.items()}
    report = {"target": target, "measure": what, "files": files,
              "model": wrong, "guess by name": by_name}  # fmt: skip
    text = json.dumps(report, indent=2, allow_nan=False)
    model.save_pretrained(args.out)
    (args.out / "metrics.json").write_text(text + "\n", "utf-8")
    with open(args.out / "split.csv", "w", newline="", encoding="utf-8") as file:
        rows = ((data.source, name) for name in sets for data in sets[name])
        csv.writer(file).writerows([("file", "set"), *rows])
    print(f"| {what} in {files['test']} held-out files | |\n|---|---:|")
    print(f"| the model | {wrong:.3f} |\n| a guess by name | {by_name:.3f} |")


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of structure files")
    parser.add_argument("table", type=Path, help="the labels, as CSV")
    parser.add_argument("--target", help="column (default: the first that is no key)")
    parser.add_argument("--task", choices=["regression", "classification"])
    parser.add_argument("--out", type=Path, default=Path("outputs/residues"))
    parser.add_argument("--overwrite", action="store_true", help="a model in --out")
    parser.add_argument("--cutoff", type=command_line.positive, default=8.0,
                        help="in Å; 1 for bonds")  # fmt: skip
    parser.add_argument("--held-out", type=command_line.share, default=0.15,
                        help="share, twice")  # fmt: skip
    parser.add_argument("--epochs", type=command_line.count, default=100)
    cuda = torch.cuda.is_available()
    device = command_line.device
    parser.add_argument("--device", type=device, default="cuda" if cuda else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.run(train)


if __name__ == "__main__":
    main()
