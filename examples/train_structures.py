"""A property of residues, learnt from a folder of structure files and a table.

    python examples/train_structures.py my_pdb_files labels.csv --out my_model
    python examples/predict_structures.py my_model new.cif --out new.csv

The table has the columns file (as in the folder), chain, number (as its author counts),
ins_code where there are any, and the target, empty where it is not known. Text is
learnt as classes, and so are up to 20 integers: write 3.0 for a number. Whole files are
held out, to stop early and to test: leave out relatives of others, whose errors look
too good. Needs the extras `structure`, `chem` and `save`.
"""

import argparse
import csv
import math
import re
from collections import defaultdict
from copy import copy, deepcopy
from pathlib import Path
from statistics import fmean, mode

import torch
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.transforms import Compose
from tqdm import tqdm

from pyg_atomenc.datasets import StructureDataset, StructureFiles
from pyg_atomenc.errors import require_package
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.tokenizers import Residue
from pyg_atomenc.transforms import AtomFeatures, TokenEdges

require_package("safetensors", "train_structures.py")
KEYS = ("file", "chain", "number", "ins_code")
# Hydrogens would tell an NMR structure from one by X-rays.
READING, PATIENCE = {"waters": False, "hydrogens": False}, 15


def features(cutoff):
    """Categories of atoms; edges between residues by bonds, and up to a cutoff."""
    return Compose([AtomFeatures(), TokenEdges(cutoff=cutoff)])


def places(data):
    """Chain, number and insertion code of every residue."""
    numbers = data.token_res_id.tolist()
    return list(zip(data.token_chain, numbers, data.token_ins_code, strict=True))


def read_table(path, target):
    """The target's name, and of every file its labels by place, as text."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names, rows = list(reader.fieldnames or []), list(reader)
    target = target or next((name for name in names if name not in KEYS), "a target")
    if lacking := {*KEYS[:3], target} - set(names):
        raise ValueError(f"{path}: has columns {names}, and lacks {sorted(lacking)}")
    table = defaultdict(dict)
    for line, row in enumerate(rows, start=2):
        *place, label = ((row.get(key) or "").strip() for key in (*KEYS, target))
        if label.lower() in ("", "nan"):
            continue
        file, chain, number, code = place
        if not re.fullmatch(r"-?\d+", number):
            raise ValueError(f"{path}, line {line}: {number!r} is no residue's number")
        if table[file].setdefault((chain, int(number), code), label) != label:
            raise ValueError(f"{path}, line {line}: another label of the same residue")
    return target, table


def classes_of(table):
    """The classes in order, or None where labels are numbers to predict."""
    labels = {text for file in table.values() for text in file.values()}
    try:
        known = sorted(labels, key=float)
    except ValueError:
        return sorted(labels)
    whole = all(re.fullmatch(r"-?\d+", text) for text in labels)
    return known if whole and len(labels) <= 20 else None


def join(dataset, table, classes):
    """The graphs with labels, `token_y` [T], NaN for none; and what is left of them."""
    graphs, left = [], dict(table)
    for file, data in zip(dataset.names, dataset, strict=True):
        if labels := left.pop(file, None):
            found, value = places(data), classes.index if classes else float
            y = [value(labels[p]) if p in labels else math.nan for p in found]
            data.token_y = torch.tensor(y, dtype=torch.float)
            left[file] = set(labels) - set(found)
            graphs += [data] * bool(data.token_y.isfinite().any())
    return graphs, [f"{file} {c}{n}{i}" for file in left for c, n, i in left[file]]


def decode(out, info):
    """Numbers, or the positions of classes, of what the model gives."""
    return out.argmax(1) if info["classes"] else out[:, 0] * info["std"] + info["mean"]


@torch.no_grad()
def errors(model, graphs, guess):
    """The mean absolute error, or the share of wrong classes; beside it a guess's."""
    wrong, device = [], model.first.device
    for data in graphs:
        by_model = decode(model.eval()(copy(data).to(device)).cpu(), model.metadata)
        by_name = [guess.get(name, guess[""]) for name in data.token_name]
        both = torch.stack([by_model, torch.tensor(by_name)]) - data.token_y
        wrong.append(both[:, data.token_y.isfinite()].abs())
    most = 1 if model.metadata["classes"] else None
    return torch.cat(wrong, dim=1).clamp(0, most).mean(dim=1).tolist()


def guess_by_name(batch, classes):
    """What residues of a name have in the mean, or most often; and all of them, ''."""
    seen, middle = defaultdict(list), mode if classes else fmean
    for name, y in zip(sum(batch.token_name, []), batch.token_y.tolist(), strict=True):
        for group in (name, "") if math.isfinite(y) else ():
            seen[group].append(y)
    return {name: middle(values) for name, values in seen.items()}


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
                    else F.l1_loss(decode(out, info), y))  # fmt: skip
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        now, waited = errors(model, checked, guess)[0], waited + 1
        if now < best:
            best, waited, weights = now, 0, deepcopy(model.state_dict())
        bar.set_postfix(error=f"{now:.3f}", best=f"{best:.3f}")
        if waited > PATIENCE:
            break
    model.load_state_dict(weights)


def train(args):
    target, table = read_table(args.table, args.target)
    classes = classes_of(table)
    source, change = StructureFiles(args.folder, **READING), features(args.cutoff)
    dataset = StructureDataset(args.out / "graphs", source, Residue(), None, change)
    graphs, left = join(dataset, table, classes)
    print(f"{target}: {classes or 'numbers'}, of residues of {len(graphs)} files")
    print(f"labels that match no residue: {len(left)} {left[:5]}")
    if len(graphs) < 3:
        raise ValueError(f"{args.table}: has labels of fewer than 3 files. Add some.")
    torch.manual_seed(args.seed)
    graphs = [graphs[i] for i in torch.randperm(len(graphs))]
    count = min(max(1, round(len(graphs) * args.held_out)), (len(graphs) - 1) // 2)
    tested, checked = graphs[:count], graphs[count : 2 * count]
    batch = Batch.from_data_list(learnt := graphs[2 * count :])
    known, guess = batch.token_y.isfinite(), guess_by_name(batch, classes)
    y, kinds = batch.token_y[known], batch.token_entity_kind[known].unique()
    model = MoleculeEncoder(len(classes or [0]), readout="none", dropout=0.1)
    model.to(args.device).metadata = dict(
        target=target, classes=classes, mean=y.mean().item(), std=y.std().item(),
        cutoff=args.cutoff, kinds=kinds.tolist(),
    )  # fmt: skip
    fit(model, learnt, checked, guess, args)
    model.save_pretrained(args.out)
    what = "share of wrong classes" if classes else "mean absolute error"
    print(f"| {what} in {len(tested)} held-out files | |\n|---|---:|")
    wrong, by_name = errors(model, tested, guess)
    print(f"| the model | {wrong:.3f} |\n| a guess by name | {by_name:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="of structure files")
    parser.add_argument("table", type=Path, help="the labels, as CSV")
    parser.add_argument("--target", help="column (default: the first that is no key)")
    parser.add_argument("--out", type=Path, default=Path("outputs/residues"))
    parser.add_argument("--cutoff", type=float, default=8.0, help="in Å; 1 for bonds")
    parser.add_argument("--held-out", type=float, default=0.15, help="share, twice")
    parser.add_argument("--epochs", type=int, default=100)
    cuda = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        train(args)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
