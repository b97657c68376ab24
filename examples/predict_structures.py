"""What a model of train_structures.py says of the residues of other files, as CSV.

    python examples/predict_structures.py my_model new.cif other.pdb --out new.csv

A row for every residue of the kinds that had labels, with the columns of the table that
the model learnt from, the residue's name and, of classes, the probability of the one
that is told. What cannot be read is told and left out, and the exit status is 1 then.
"""

import csv
import sys
from pathlib import Path

import command_line
import torch
from structure_tools import KEYS, READING, decode, features, load_model, places

from pyg_atomenc.io import from_structure
from pyg_atomenc.tokenizers import Residue


@torch.no_grad()
def rows_of(path, model):
    """A row for every residue of a file."""
    info = model.metadata
    data = from_structure(path, Residue(), **READING)
    out = model(features(info["cutoff"])(data))
    values, sure = decode(out, info).tolist(), out.softmax(dim=1).amax(dim=1).tolist()
    rows = zip(places(data), data.token_name, values, sure, strict=True)
    for kind, (place, name, value, probability) in zip(
        data.token_entity_kind.tolist(), rows, strict=True
    ):
        if kind in info["kinds"] and info["classes"]:
            value = info["classes"][value]
            yield path.name, *place, name, value, f"{probability:.3f}"
        elif kind in info["kinds"]:
            yield path.name, *place, name, f"{value:.5g}"


def predict(args):
    failed, rows = False, []
    model = load_model(args.model)
    for path in args.files:
        try:
            rows += rows_of(path, model)
        except ValueError as error:
            failed = True
            print(f"left out: {error}", file=sys.stderr)
    head = [*KEYS, "residue", model.metadata["target"]]
    head += ["probability"] if model.metadata["classes"] else []
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with open(args.out, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    print(f"{len(rows)} residues: {args.out}")
    sys.exit(int(failed))


def main():
    parser = command_line.Parser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="the folder of a model")
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path("outputs/residues.csv"))
    parser.run(predict)


if __name__ == "__main__":
    main()
