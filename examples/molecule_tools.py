"""What `train_molecules.py` needs beside the training itself: sets and measures."""

import csv
import math
from collections import defaultdict

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, mse_loss

from pyg_atomenc.errors import require_package

# The package, or a message that says how to install it.
murcko = require_package("rdkit.Chem.Scaffolds.MurckoScaffold", "this example")

SHARES = {"training": 0.8, "validation": 0.1, "test": 0.1}


def fail(text):
    """Stop with a message of one line, and the status 1."""
    raise SystemExit(f"error: {' '.join(str(text).split())}")


def check_device(device):
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        fail(f"'--device' is {device!r}: {str(error).splitlines()[0]}")


def write_csv(path, header, rows):
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_skipped(path, dataset):
    """What a data set could not read, and why; print the first few."""
    write_csv(path, ["row", "reason"], dataset.report)
    print(f"{len(dataset)} molecules; {len(dataset.report)} cannot be read: {path}")
    for row, reason in dataset.report[:10]:
        print(f"  {row}: {reason}")


def find_task(graphs, targets, asked):
    """What is asked for, or what the labels `y` [1, targets] of the graphs say."""
    if len(set(targets)) < len(targets):
        fail("'--targets' has a name twice")
    kinds = set()
    for name, labels in zip(targets, torch.cat([g.y for g in graphs]).T, strict=True):
        known = labels[~labels.isnan()]
        if len(known) == 0 or known.isinf().any():
            what = "no label" if len(known) == 0 else "infinite labels, or above 3e38"
            fail(f"{name!r} has {what}")
        known = known.double()
        if 0 < known.std(correction=0) < 1e-4 * known.mean().abs():
            why = "vary too little for their size, and float32 would lose digits"
            fail(f"the labels of {name!r} {why}: subtract a constant from them")
        binary = set(known.tolist()) <= {0, 1}
        kinds.add("classification" if binary else "regression")
        if asked == "classification" and not binary:
            fail(f"{name!r} has labels other than 0 and 1: pass --task regression")
    if asked is None and len(kinds) > 1:
        fail("some targets are 0 or 1, and others not: pass --task regression")
    task = asked or kinds.pop()
    print(f"task: {task}" + ("" if asked else ", by the labels"))
    return task


def tell_repeats(graphs, targets):
    """Print how many molecules come again, and how much their labels differ."""
    groups = defaultdict(list)
    for data in graphs:
        groups[data.smiles].append(data.y)
    repeats = [torch.cat(labels) for labels in groups.values() if len(labels) > 1]
    if not repeats:
        return
    # Of missing labels alone it is -inf.
    highest = [y.where(~y.isnan(), -math.inf).amax(0) for y in repeats]
    lowest = [y.where(~y.isnan(), math.inf).amin(0) for y in repeats]
    gaps = (torch.stack(highest) - torch.stack(lowest)).amax(0).clamp(min=0)
    texts = [f"{gap:g} in {t}" for t, gap in zip(targets, gaps.tolist(), strict=True)]
    print(
        f"{len(repeats)} molecules repeat, with labels up to {', '.join(texts)} apart"
    )


def split_molecules(graphs, by_scaffold):
    """Sets of graphs by name; what shares a scaffold, or a SMILES, shares a set."""
    key = murcko.MurckoScaffoldSmiles if by_scaffold else str
    groups = defaultdict(list)
    for data in graphs:
        groups[key(data.smiles)].append(data)
    if by_scaffold and len(groups) == 1:
        (scaffold,) = groups
        what = f"the scaffold {scaffold}" if scaffold else "the empty scaffold, no ring"
        fail(f"all molecules share {what}: pass --split random")
    groups = [list(groups.values())[i] for i in torch.randperm(len(groups)).tolist()]
    if by_scaffold:
        # The largest are for training, so that the test has many scaffolds.
        groups.sort(key=len, reverse=True)
    sets = {name: [] for name in SHARES}
    room = {name: round(share * len(graphs)) for name, share in SHARES.items()}
    for group in groups:
        fits = (name for name in SHARES if len(sets[name]) + len(group) <= room[name])
        sets[next(fits, "training")] += group
    return sets


def labels_of(sets, targets):
    """The labels [molecules, targets] of each set in float64, some of each target."""
    print(", ".join(f"{len(part)} molecules for {name}" for name, part in sets.items()))
    none, y = torch.zeros(0, len(targets)), {}
    for name, part in sets.items():
        y[name] = torch.cat([none, *(data.y for data in part)]).double()
        for target, labels in zip(targets, y[name].T, strict=True):
            if labels.isnan().all():
                mend = "add rows, or try another --seed or --split"
                fail(f"{target!r} has no label among those for {name}: {mend}")
    return y


def scale_of(y, task):
    """The mean and std of the training labels, by which targets are standardised."""
    mean = y.nanmean(0)
    std = (y - mean).square().nanmean(0).sqrt()
    if task == "classification":
        mean, std = torch.zeros_like(mean), torch.ones_like(std)
    return {"mean": mean.tolist(), "std": std.where(std > 0, 1).tolist()}


def total_loss(model, batch):
    """The loss of the known labels, summed, and how many they are."""
    known = ~batch.y.isnan()
    mean, std = (batch.y.new_tensor(model.metadata[name]) for name in ("mean", "std"))
    target = ((batch.y - mean) / std).where(known, 0)
    classify = model.metadata["task"] == "classification"
    criterion = binary_cross_entropy_with_logits if classify else mse_loss
    loss = criterion(model(batch), target, reduction="none")
    return loss.where(known, 0).sum(), known.sum()


def run_epoch(model, loader, device, optimizer=None):
    """The mean loss; with an optimizer it trains."""
    model.train(optimizer is not None)
    total = count = 0.0
    for batch in loader:
        with torch.set_grad_enabled(model.training):
            loss, known = total_loss(model, batch.to(device))
        if optimizer and known:
            optimizer.zero_grad()
            (loss / known).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        total, count = total + loss.item(), count + known.item()
    return total / count


def roc_auc(score, label):
    """How often a positive scores above a negative, ties half; None without both."""
    _, place, counts = score.unique(return_inverse=True, return_counts=True)
    rank = (counts.cumsum(0) - (counts.double() - 1) / 2)[place]
    positive = int((label == 1).sum())
    pairs = positive * (len(label) - positive)
    above = rank[label == 1].sum().item() - positive * (positive + 1) / 2
    return above / pairs if pairs else None


def measure(task, prediction, truth):
    """How good predictions are, of the molecules with a label; None is undefined."""
    prediction, truth = prediction[~truth.isnan()], truth[~truth.isnan()].double()
    if task == "classification":
        right = (prediction >= 0.5) == (truth == 1)
        accuracy = right.double().mean().item()
        return {"accuracy": accuracy, "roc_auc": roc_auc(prediction, truth)}
    error, spread = prediction - truth, (truth - truth.mean()).square().sum().item()
    squares = error.square()
    found = {
        "mae": error.abs().mean().item(),
        "rmse": squares.mean().sqrt().item(),
        "r2": 1 - squares.sum().item() / spread if spread else math.nan,
    }
    return {
        name: value if math.isfinite(value) else None for name, value in found.items()
    }


def compare(metadata, prediction, truth, mean):
    """Measures of every target, beside those of always saying the training's mean."""
    task, found = metadata["task"], {}
    base = "majority" if task == "classification" else "mean"
    for i, target in enumerate(metadata["targets"]):
        guesses = {"model": prediction[:, i], base: mean[i].expand(len(truth))}
        found[target] = {"labels": int((~truth[:, i].isnan()).sum())}
        print(f"{target}, {found[target]['labels']} labels of the test set")
        for name, guess in guesses.items():
            found[target][name] = values = measure(task, guess, truth[:, i])
            texts = (f"{k} {v:.3f}" for k, v in values.items() if v is not None)
            print(f"  {name:<10}{', '.join(texts)}")
    return found
