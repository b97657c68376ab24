"""Predict for molecules with a model that `train_molecules.py` saved.

    python examples/predict_molecules.py outputs/logS new.csv --out predicted.csv

Reads a CSV with a column of SMILES, or an SDF. Writes a CSV with every row in its
order: the given columns (of an SDF the entries' numbers, names, SMILES and properties),
`<target>_predicted` in the target's units, or `<target>_probability`, and `error`, the
reason why a molecule cannot be read. Nothing in the model's folder is executed. Needs
the extras `chem` and `save`.
"""

import argparse
import csv
import io
from pathlib import Path

import torch
from molecule_tools import check_device, fail
from tqdm import tqdm

from pyg_atomenc import AtomTokenData
from pyg_atomenc.checks import check_integer
from pyg_atomenc.data import AtomTokenLoader
from pyg_atomenc.datasets import MoleculeFile, SmilesTable
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io import Limits, from_smiles
from pyg_atomenc.io.limits import read_bytes
from pyg_atomenc.io.molecule_file import SUFFIXES
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.tokenizers import BRICS, Atom, RingsAndChains
from pyg_atomenc.transforms import AtomFeatures

# The packages, or a message that says how to install them.
Chem = require_package("rdkit.Chem", "this example")
BlockLogs = require_package("rdkit.rdBase", "this example").BlockLogs
require_package("safetensors.torch", "this example")

TOKENIZERS = {"brics": BRICS, "rings": RingsAndChains, "atom": Atom}
METADATA = {"targets", "task", "mean", "std", "tokenizer"}
# What the model reads of a graph, and what training does.
KEPT = "x edge_index edge_attr atom_to_token num_tokens smiles source y".split()


class Entries:
    """The entries of an SDF, each read as its SMILES: a model of one serves the other.

    Hydrogens and positions of the file, which a SMILES has not, are left out.
    """

    def __init__(self, path, labels=()):
        self.file = MoleculeFile(path, labels)
        self.names, self.stamp = self.file.names, self.file.stamp
        self.options = {**self.file.options, "as": "SMILES"}

    def read(self, index, tokenizer=None):
        """The graph of an entry, in a list; its texts are in `properties` then."""
        self.properties, found = {}, []

        def keep(mol):
            found.append(mol)
            return Atom()(mol)

        (entry,) = self.file.read(index, keep)
        (mol,) = found
        with BlockLogs():
            smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
        properties = {name: mol.GetProp(name) for name in mol.GetPropNames()}
        self.properties = {"name": entry.name, "smiles": smiles, **properties}
        data = from_smiles(smiles, tokenizer)
        data.source = entry.source
        if "y" in entry:
            data.y = entry.y
        return [data]


def add_input(parser):
    """The options of what is read, and where it is computed."""
    parser.add_argument("file", type=Path, help="CSV with SMILES, or SDF")
    parser.add_argument("--smiles-column", help="of a CSV (default: smiles)")
    tabs = dict(type=lambda text: text.replace("\\t", "\t"))
    parser.add_argument("--delimiter", **tabs, help="of a CSV, such as ';' or '\\t'")
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda")


def open_source(args, targets=()):
    """The molecules of a file, for `StructureDataset`, or one by one by `read`."""
    if args.file.name.lower().removesuffix(".gz").endswith(SUFFIXES):
        if args.smiles_column or args.delimiter:
            fail(f"{args.file}: --smiles-column and --delimiter are for a CSV only")
        return Entries(args.file, targets)
    options = {"delimiter": args.delimiter or ","}
    name = args.smiles_column or "smiles"
    return SmilesTable.from_csv(args.file, name, targets, **options)


def features(data):
    """A graph of what the model reads."""
    data = AtomFeatures()(data)
    return AtomTokenData(**{name: data[name] for name in KEPT if name in data})


@torch.no_grad()
def predict(model, graphs, batch_size=64):
    """Targets in their units, or probabilities, [molecules, targets] in float64."""
    model.eval()
    device, metadata = next(model.parameters()).device, model.metadata
    found = [torch.zeros(0, len(metadata["targets"]))]
    for batch in tqdm(AtomTokenLoader(graphs, batch_size), "predicting", leave=False):
        found.append(model(batch.to(device)).cpu())
    out = torch.cat(found).double()
    if metadata["task"] == "classification":
        return out.sigmoid()
    mean, std = (out.new_tensor(metadata[name]) for name in ("mean", "std"))
    return out * std + mean


def read_rows(args):
    """The columns of a table and its rows, as texts."""
    text = read_bytes(args.file, Limits()).decode("utf-8-sig")
    options = {"delimiter": args.delimiter or ",", "restval": ""}
    reader = csv.DictReader(io.StringIO(text, newline=""), **options)
    return list(reader.fieldnames), list(reader)


def read(args, tokenizer):
    """Columns, rows with an `error` or without, and the graphs of the latter."""
    source, graphs = open_source(args), []
    is_table = isinstance(source, SmilesTable)
    columns, rows = read_rows(args) if is_table else (["entry", "name", "smiles"], [])
    for index, name in enumerate(tqdm(source.names, "reading")):
        error = ""
        try:
            graphs.append(features(source.read(index, tokenizer)[0]))
        except (ValueError, RuntimeError) as why:
            error = " ".join(str(why).split())
        if not is_table:
            rows.append({"entry": name, **source.properties})
            columns += [new for new in source.properties if new not in columns]
        rows[index]["error"] = error
    return columns, rows, graphs


def load(folder):
    """The model, and its tokenizer, with what `train_molecules.py` notes of them."""
    model = MoleculeEncoder.from_pretrained(folder)
    known = set(model.metadata) >= METADATA
    if not known or model.metadata["tokenizer"] not in TOKENIZERS:
        fail(f"{folder}: holds a model, but none of train_molecules.py")
    return model, TOKENIZERS[model.metadata["tokenizer"]]()


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, header, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


def run(args):
    check_integer("--batch-size", args.batch_size)
    device = check_device(args.device)
    if args.out.exists() and args.file.exists() and args.out.samefile(args.file):
        fail(f"{args.out}: is the input, pass another --out")
    model, tokenizer = load(args.model)
    columns, rows, graphs = read(args, tokenizer)
    is_class = model.metadata["task"] == "classification"
    kind = "probability" if is_class else "predicted"
    added = [f"{target}_{kind}" for target in model.metadata["targets"]]
    header = [*columns, *added, "error"]
    if twice := sorted({name for name in header if header.count(name) > 1}):
        fail(f"{args.file}: rename its columns {twice}, which would come twice")
    predictions = predict(model.to(device), graphs, args.batch_size)
    if not predictions.isfinite().all():
        fail(f"{args.model}: predicts what is no finite number, train it anew")
    readable = [row for row in rows if not row["error"]]
    for row, values in zip(readable, predictions.tolist(), strict=True):
        row.update(zip(added, (f"{value:.8g}" for value in values), strict=True))
    write(args.out, header, rows)
    print(f"{len(graphs)} of {len(rows)} molecules predicted: {args.out}")
    if len(graphs) < len(rows):
        print(f"{len(rows) - len(graphs)} cannot be read: see the column 'error'")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the folder that training wrote")
    add_input(parser)
    parser.add_argument("--out", type=Path, default=Path("outputs/predicted.csv"))
    parser.add_argument("--batch-size", type=int, default=64)
    try:
        run(parser.parse_args())
    except (AtomEncodingError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    main()
