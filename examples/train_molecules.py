"""Train a model on molecules of your own, and save it for `predict_molecules.py`.

    python examples/train_molecules.py solubility.csv --targets logS --out outputs/logS
    python examples/predict_molecules.py outputs/logS new.csv --out predicted.csv

Reads a CSV with a column of SMILES, or an SDF with the targets as properties. Labels
may be missing; what is all 0 or 1 is classified. Writes `model.safetensors` and
`config.json`, `metrics.json` of the test set, `log.csv` of the epochs, `split.csv`,
`skipped.csv`, and `checkpoint.pt`, from which --resume goes on as if nothing had
stopped it. Needs the extras `chem` and `save`.
"""

import argparse
import hashlib
import json
import math
import os
import warnings
from pathlib import Path

import molecule_tools as tools
import torch
from predict_molecules import TOKENIZERS, add_input, features, open_source, predict
from tqdm import tqdm

from pyg_atomenc.checks import check_integer, check_positive
from pyg_atomenc.data import AtomTokenLoader
from pyg_atomenc.datasets import StructureDataset
from pyg_atomenc.errors import AtomEncodingError, MissingPackageError, require_package
from pyg_atomenc.nn import MoleculeEncoder

# What a resumed run may have otherwise than the one that it resumes.
FREE = {"file", "out", "device", "epochs", "resume", "tensorboard"}
LOGGED = ["epoch", "training_loss", "validation_loss", "learning_rate"]


def read(args):
    """The graphs with their labels `y` [1, targets]; tells what cannot be read."""
    source = open_source(args, args.targets)
    options = {"tokenizer": TOKENIZERS[args.tokenizer](), "pre_transform": features}
    with warnings.catch_warnings():
        # What is skipped is told below.
        warnings.simplefilter("ignore", UserWarning)
        dataset = StructureDataset(args.out / "graphs", source, **options)
    tools.write_skipped(args.out / "skipped.csv", dataset)
    return list(dataset), len(dataset.report)


def fit(model, sets, state, args):
    """Train, on from `state`, until validation gains no more; load the best."""
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate)
    slow_down = torch.optim.lr_scheduler.ReduceLROnPlateau
    schedule = slow_down(optimizer, factor=0.5, patience=max(1, args.patience // 3))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}
    for name in parts.keys() & state.keys():
        parts[name].load_state_dict(state[name])
    training = AtomTokenLoader(sets["training"], args.batch_size, shuffle=True)
    validation = AtomTokenLoader(sets["validation"], args.batch_size)
    first = len(state["history"]) + 1
    board = None
    if args.tensorboard:
        tensorboard = require_package("torch.utils.tensorboard", "--tensorboard")
        board = tensorboard.SummaryWriter(args.out, purge_step=first)
    bar = tqdm(range(first, args.epochs + 1), "training", unit="epoch")
    for epoch in bar:
        if epoch > state["best_epoch"] + args.patience:
            break
        # Each epoch has random numbers of its own: a resumed run draws the same.
        torch.manual_seed(args.seed + 1_000_003 * epoch)
        losses = [tools.run_epoch(model, training, args.device, optimizer)]
        losses += [tools.run_epoch(model, validation, args.device)]
        if not all(map(math.isfinite, losses)):
            mend = "pass a lower --learning-rate"
            if epoch > 1:
                save = f"--resume --epochs {epoch - 1} to save the best before it"
                mend += f" and another --out, or {save}"
            tools.fail(f"the loss of epoch {epoch} is no finite number: {mend}")
        values = [epoch, *losses, optimizer.param_groups[0]["lr"]]
        schedule.step(losses[1])
        if losses[1] < state["best_loss"]:
            best = {name: value.clone() for name, value in model.state_dict().items()}
            state.update(best_loss=losses[1], best_epoch=epoch, best=best)
        state.update({name: part.state_dict() for name, part in parts.items()})
        state["history"].append(values)
        # Whole or not at all, whenever it is stopped.
        torch.save(state, args.out / "checkpoint.tmp")
        os.replace(args.out / "checkpoint.tmp", args.out / "checkpoint.pt")
        tools.write_csv(args.out / "log.csv", LOGGED, state["history"])
        if board:
            for name, value in zip(LOGGED[1:], values[1:], strict=True):
                board.add_scalar(name, value, epoch)
            board.flush()
        bar.set_postfix(loss=f"{losses[1]:.3f}", best=f"{state['best_loss']:.3f}")
    model.load_state_dict(state["best"])


def start(args):
    """The state of a new run, or of the one to resume."""
    path = args.out / "checkpoint.pt"
    options = {k: v for k, v in vars(args).items() if k not in FREE}
    options["data"] = hashlib.blake2b(args.file.read_bytes()).hexdigest()
    if args.resume and not path.exists():
        tools.fail(f"{path}: is not there, leave out --resume")
    if path.exists() and not args.resume:
        tools.fail(f"{path}: is there, pass --resume or another --out, or delete it")
    if not args.resume:
        return dict(options=options, history=[], best_loss=torch.inf, best_epoch=0)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        old = state["options"]
    except Exception as error:
        tools.fail(f"{path}: is no checkpoint of this script ({type(error).__name__})")
    if changed := [name for name in options if options[name] != old.get(name)]:
        mend = "pass the same, or begin anew in another --out"
        tools.fail(f"{path}: was begun with other {', '.join(changed)}: {mend}")
    return state


def run(args):
    for name in ("epochs", "patience", "batch_size"):
        check_integer(f"--{name}", getattr(args, name))
    check_positive("--learning-rate", args.learning_rate)
    args.device = tools.check_device(args.device)
    if args.tensorboard:
        require_package("tensorboard", "--tensorboard")
    args.out.mkdir(parents=True, exist_ok=True)
    state = start(args)
    graphs, skipped = read(args)
    task = tools.find_task(graphs, args.targets, args.task)
    torch.manual_seed(args.seed)
    tools.tell_repeats(graphs, args.targets)
    sets = tools.split_molecules(graphs, args.split == "scaffold")
    y = tools.labels_of(sets, args.targets)
    rows = ((d.source, d.smiles, name) for name in sets for d in sets[name])
    tools.write_csv(args.out / "split.csv", ["row", "smiles", "set"], rows)
    options = {k: getattr(args, k) for k in ("channels", "readout", "dropout")}
    model = MoleculeEncoder(len(args.targets), **options)
    for parameter in model.head[-1].parameters():
        # A new model says the mean, from which it is not far to any target.
        torch.nn.init.zeros_(parameter)
    metadata = {"targets": args.targets, "task": task, "tokenizer": args.tokenizer}
    model.metadata = metadata | tools.scale_of(y["training"], task)
    fit(model.to(args.device), sets, state, args)
    model.save_pretrained(args.out)
    print(
        f"of {len(state['history'])} epochs, {state['best_epoch']} is saved: {args.out}"
    )
    prediction, mean = predict(model, sets["test"]), y["training"].nanmean(0)
    report = {
        "task": task,
        "molecules": {name: len(part) for name, part in sets.items()},
        "skipped": skipped,
        "best_epoch": state["best_epoch"],
        "test": tools.compare(metadata, prediction, y["test"], mean),
    }
    text = json.dumps(report, indent=2, allow_nan=False)
    (args.out / "metrics.json").write_text(text + "\n", "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_input(parser)
    parser.add_argument("--targets", nargs="+", required=True, help="columns")
    parser.add_argument("--out", type=Path, default=Path("outputs/molecules"))
    parser.add_argument("--task", choices=["regression", "classification"])
    parser.add_argument("--split", choices=["random", "scaffold"], default="random")
    parser.add_argument("--tokenizer", choices=TOKENIZERS, default="brics")
    parser.add_argument("--readout", choices=["sum", "mean"], default="sum")
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=200, help="at most")
    parser.add_argument("--patience", type=int, default=30, help="epochs without gain")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--tensorboard", action="store_true")
    args = parser.parse_args()
    try:
        run(args)
    except (AtomEncodingError, MissingPackageError, OSError) as error:
        tools.fail(error)
    except KeyboardInterrupt:
        whole = (args.out / "checkpoint.pt").exists()
        mend = "--resume goes on after the last whole epoch" if whole else "start anew"
        tools.fail(f"stopped; {mend}")


if __name__ == "__main__":
    main()
