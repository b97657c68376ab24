"""What `train_structures.py` and `predict_structures.py` share: labels and measures."""

import csv
import math
import re
from collections import defaultdict
from copy import copy
from statistics import fmean, mode

import torch
from torch_geometric.transforms import Compose

from pyg_atomenc.errors import FileFormatError
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.transforms import AtomFeatures, TokenEdges

KEYS = ("file", "chain", "number", "ins_code")
MISSING = ("", "-", "na", "n/a", "nan", "null")
INFINITE = ("inf", "infinity")
# Hydrogens would tell an NMR structure from one by X-rays.
READING = {"waters": False, "hydrogens": False}


def features(cutoff):
    """Categories of atoms; edges between residues by bonds, and up to a cutoff."""
    return Compose([AtomFeatures(), TokenEdges(cutoff=cutoff)])


def load_model(folder):
    """A model of `train_structures.py`."""
    model = MoleculeEncoder.from_pretrained(folder)
    if "cutoff" not in model.metadata:
        raise FileFormatError(f"{folder}: holds no model of train_structures.py")
    return model


def places(data):
    """Chain, number and insertion code of every residue."""
    numbers = data.token_res_id.tolist()
    return list(zip(data.token_chain, numbers, data.token_ins_code, strict=True))


def is_number(text):
    """Whether it is a finite number in single precision."""
    try:
        return abs(float(text)) < 3e38
    except ValueError:
        return False


def read_table(path, target=None, task=None):
    """The target's name, and of every file its labels by place, as text."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names, rows = list(reader.fieldnames or []), list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        why = f"cannot be read as a table in UTF-8 ({error}). Mend it."
        raise FileFormatError(f"{path}: {why}") from error
    target = target or next((name for name in names if name not in KEYS), "a target")
    if lacking := {*KEYS[:3], target} - set(names):
        raise ValueError(f"{path}: has columns {names}, and lacks {sorted(lacking)}")
    table, other, known = defaultdict(dict), [], 0
    for line, row in enumerate(rows, start=2):
        *place, label = ((row.get(key) or "").strip() for key in (*KEYS, target))
        if label.lower() in MISSING:
            continue
        file, chain, number, code = place
        if not re.fullmatch(r"-?\d+", number):
            raise ValueError(f"{path}, line {line}: {number!r} is no residue's number")
        if table[file].setdefault((chain, int(number), code), label) != label:
            raise ValueError(f"{path}, line {line}: another label of the same residue")
        known += 1
        other += [] if is_number(label) else [(line, label)]
    infinite = any(text.lower().strip("+-") in INFINITE for _, text in other)
    numbers = task == "regression" or len(other) < known / 2 or infinite
    if numbers and other and task != "classification":
        line, label = other[0]
        why = f"{label!r} is no finite number. Leave it empty, or pass --task"
        raise ValueError(f"{path}, line {line}: {why} classification")
    return target, table


def classes_of(table, task=None):
    """The classes in order, or None where labels are numbers to predict."""
    labels = {text for file in table.values() for text in file.values()}
    numbers = all(map(is_number, labels))
    known = sorted(labels, key=float if numbers else None)
    whole = all(re.fullmatch(r"-?\d+", text) for text in labels)
    few = whole and len(labels) <= 20
    by_labels = "classification" if few or not numbers else "regression"
    return known if (task or by_labels) == "classification" else None


def check_files(path, table, names):
    """Help where the table leaves out the suffix of every file."""
    for file in table:
        near = [name for name in names if name.startswith(f"{file}.")]
        if file not in names and near:
            why = f"no file of the folder is named {file!r}; do you mean {near[0]!r}?"
            raise ValueError(f"{path}: {why}")


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
    wrong, device = [], next(model.parameters()).device
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
