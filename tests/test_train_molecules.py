"""`train_molecules.py` and `predict_molecules.py`: a file → a model → predictions."""

import csv
import importlib
import json
import math
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from pyg_atomenc.io import from_smiles
from pyg_atomenc.nn import MoleculeEncoder
from pyg_atomenc.tokenizers import BRICS, Atom, RingsAndChains
from pyg_atomenc.transforms import AtomFeatures

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("filelock", reason="filelock is not installed")
EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = ("molecule_tools", "predict_molecules", "train_molecules")
COUNT = 30


@pytest.fixture
def scripts(monkeypatch):
    """The three modules by name, imported anew."""
    monkeypatch.syspath_prepend(EXAMPLES)
    for name in SCRIPTS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield {name: importlib.import_module(name) for name in SCRIPTS}
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.fixture
def run(scripts, monkeypatch):
    """Runs a script with arguments, in this process."""

    def main(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        scripts[name].main()

    return main


def run_apart(name, *arguments):
    """As a user runs it."""
    command = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def molecules(count=COUNT, table="freesolv"):
    """Names, SMILES, and how many atoms of carbon and of oxygen there are."""
    with open(EXAMPLES / "data" / f"{table}.csv", newline="") as file:
        rows = list(csv.DictReader(file))[:count]
    for row in rows:
        symbols = [a.GetSymbol() for a in Chem.MolFromSmiles(row["smiles"]).GetAtoms()]
        row["carbon"], row["oxygen"] = symbols.count("C"), symbols.count("O")
        row["acid"] = int(row["oxygen"] >= 2)
    return rows


def write(path, rows, **changes):
    """Rows as a CSV; a change, such as `carbon={3: ""}`, is of single cells."""
    for column, cells in changes.items():
        for index, cell in cells.items():
            rows[index][column] = cell
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def expected(folder, smiles, tokenizer=BRICS):
    """What the model in a folder predicts, one molecule at a time [M, targets]."""
    model = MoleculeEncoder.from_pretrained(folder)
    with torch.no_grad():
        graphs = [AtomFeatures()(from_smiles(text, tokenizer())) for text in smiles]
        out = torch.cat([model(data) for data in graphs])
    if model.metadata["task"] == "classification":
        return 1 / (1 + (-out).exp())
    return out * torch.tensor(model.metadata["std"]) + torch.tensor(
        model.metadata["mean"]
    )


def numbers(rows, *columns):
    return torch.tensor([[float(row[name]) for name in columns] for row in rows])


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_from_a_csv_to_a_model_to_predictions(tmp_path, run, capsys):
    rows = molecules()
    path = write(tmp_path / "m.csv", rows, smiles={4: "C(C"}, carbon={2: "", 9: ""})
    out = tmp_path / "new" / "model"
    run("train_molecules", path, "--targets", "carbon", "oxygen", "--epochs", 3,
        "--out", out)  # fmt: skip
    printed = capsys.readouterr().out
    assert (
        "29 molecules; 1 cannot be read" in printed and "  row 5: 'smiles'" in printed
    )
    assert "task: regression, by the labels" in printed
    assert [row["row"] for row in read(out / "skipped.csv")] == ["row 5"]
    assert "RDKit refuses" in read(out / "skipped.csv")[0]["reason"]

    run("predict_molecules", out, path, "--out", tmp_path / "p.csv")
    found = read(tmp_path / "p.csv")
    given = [{k: row[k] for k in rows[0]} for row in found]
    assert given == [{k: str(v) for k, v in row.items()} for row in rows]
    bad = found.pop(4)
    assert bad["carbon_predicted"] == bad["oxygen_predicted"] == ""
    assert "'C(C', which RDKit refuses" in bad["error"]
    assert not any(row["error"] for row in found)
    predicted = numbers(found, "carbon_predicted", "oxygen_predicted")
    close(predicted, expected(out, [row["smiles"] for row in found]))

    # The scale is that of the training set, and the measures those of the test set.
    sets = {row["row"]: row["set"] for row in read(out / "split.csv")}
    assert Counter(sets.values()) == {"training": 23, "validation": 3, "test": 3}
    report = json.loads((out / "metrics.json").read_text())
    assert report["skipped"] == 1 and report["molecules"]["test"] == 3
    metadata = MoleculeEncoder.from_pretrained(out).metadata
    assert metadata["targets"] == ["carbon", "oxygen"]
    for i, target in enumerate(metadata["targets"]):
        known = [
            (sets[f"row {n}"], float(row[target]), row[f"{target}_predicted"])
            for n, row in zip([*range(1, 5), *range(6, 31)], found, strict=True)
            if row[target]
        ]
        labels = [label for name, label, _ in known if name == "training"]
        mean = sum(labels) / len(labels)
        std = math.sqrt(sum((label - mean) ** 2 for label in labels) / len(labels))
        assert metadata["mean"][i] == pytest.approx(mean, rel=1e-5)
        assert metadata["std"][i] == pytest.approx(std, rel=1e-5)
        truth, guess = zip(
            *[(y, float(p)) for s, y, p in known if s == "test"], strict=True
        )
        assert report["test"][target]["labels"] == len(truth)
        for name, values in [("model", guess), ("mean", [mean] * len(truth))]:
            errors = [a - b for a, b in zip(values, truth, strict=True)]
            mae = sum(map(abs, errors)) / len(errors)
            rmse = math.sqrt(sum(e * e for e in errors) / len(errors))
            measures = report["test"][target][name]
            assert measures["mae"] == pytest.approx(mae, rel=1e-3)
            assert measures["rmse"] == pytest.approx(rmse, rel=1e-3)


@pytest.mark.slow
def test_as_a_user_runs_them(tmp_path):
    path = write(tmp_path / "m.csv", molecules())
    arguments = ("--targets", "carbon", "--epochs", 3, "--out", tmp_path / "model")
    done = run_apart("train_molecules", path, *arguments)
    assert done.returncode == 0, done.stderr
    assert "training" in done.stderr and "100%" in done.stderr
    out = tmp_path / "p.csv"
    done = run_apart("predict_molecules", tmp_path / "model", path, "--out", out)
    assert done.returncode == 0, done.stderr
    found = read(out)
    assert len(found) == COUNT and "30 of 30 molecules predicted" in done.stdout
    wanted = expected(tmp_path / "model", [row["smiles"] for row in found])
    close(numbers(found, "carbon_predicted"), wanted)
    for name, given in [("train", (path, "--targets", "x")), ("predict", (path, path))]:
        done = run_apart(f"{name}_molecules", *given)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def sdf(path, rows, hydrogens):
    """Rows as an SDF with all their columns, flat or with hydrogens in space."""
    AllChem = pytest.importorskip("rdkit.Chem.AllChem")
    with Chem.SDWriter(str(path)) as writer:
        for row in rows:
            mol = Chem.MolFromSmiles(row["smiles"])
            if hydrogens:
                mol = Chem.AddHs(mol)
                assert AllChem.EmbedMolecule(mol, randomSeed=0) == 0
            mol.SetProp("_Name", row["name"])
            for name in ("carbon", "oxygen"):
                if row[name] != "":
                    mol.SetProp(name, str(row[name]))
            writer.write(mol)
    return path


@pytest.mark.parametrize("hydrogens", [False, True])
def test_an_sdf_is_read_as_its_smiles(hydrogens, tmp_path, run):
    # None tells its stereo, which one of them has in space.
    rows = [row for row in molecules(80) if "@" not in row["smiles"]][:20]
    rows[3]["carbon"], rows[5]["smiles"] = "", "CC(O)C(=O)NC"
    path = sdf(tmp_path / "m.sdf", rows, hydrogens)
    text = path.read_text().split("$$$$\n")
    text[6] = text[6].replace("V2000", "V9999")
    path.write_text("$$$$\n".join(text))
    out = tmp_path / "model"
    run("train_molecules", path, "--targets", "carbon", "oxygen", "--epochs", 2,
        "--out", out)  # fmt: skip
    assert [row["row"] for row in read(out / "skipped.csv")] == ["entry 7"]
    assert len(read(out / "split.csv")) == 19
    run("predict_molecules", out, path, "--out", tmp_path / "p.csv")
    found = read(tmp_path / "p.csv")
    assert [row["entry"] for row in found] == [f"entry {i}" for i in range(1, 21)]
    bad = found.pop(6)
    assert bad["error"] and bad["carbon_predicted"] == bad["name"] == ""
    assert found[3]["carbon"] == "" and found[4]["carbon"] == str(rows[4]["carbon"])
    del rows[6]
    assert [row["name"] for row in found] == [row["name"] for row in rows]
    texts = "".join(row["smiles"] for row in found)
    # A structure in space says which hand a centre has.
    assert "[H]" not in texts and ("@" in texts) == hydrogens
    smiles = [row["smiles"] for row in (found if hydrogens else rows)]
    predicted = numbers(found, "carbon_predicted", "oxygen_predicted")
    close(predicted, expected(out, smiles))


# With this learning rate and patience the schedule lowers the rate, too.
ARGUMENTS = ("--targets", "carbon", "--dropout", 0.3, "--batch-size", 8, "--seed", 2,
             "--learning-rate", 0.003, "--patience", 5)  # fmt: skip


def test_a_resumed_run_is_as_one_that_was_not_stopped(
    tmp_path, run, scripts, monkeypatch
):
    path = write(tmp_path / "m.csv", molecules())
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    arguments = (path, *ARGUMENTS)
    run("train_molecules", *arguments, "--epochs", 6, "--out", whole)
    # Stopped at the end of an epoch, and then amid one.
    run("train_molecules", *arguments, "--epochs", 2, "--out", parts)
    tools, calls = scripts["molecule_tools"], iter(range(100))
    loss = tools.total_loss

    def interrupted(*arguments):
        if next(calls) == 7:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(tools, "total_loss", interrupted)
    resume = ("--epochs", 6, "--out", parts, "--resume")
    stops("--resume goes on", run, "train_molecules", *arguments, *resume)
    assert len(read(parts / "log.csv")) == 3
    torch.manual_seed(99)
    run("train_molecules", *arguments, *resume)
    for name in ("log.csv", "metrics.json", "model.safetensors", "config.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    log = read(whole / "log.csv")
    assert len({row["learning_rate"] for row in log}) > 1
    assert len(log) == 6 == len({row["training_loss"] for row in log})


def test_stops_early_and_keeps_the_best(tmp_path, run, scripts):
    rows = molecules()
    path, out = write(tmp_path / "m.csv", rows), tmp_path / "model"
    # Steps too large to get on with for long.
    run("train_molecules", path, "--targets", "carbon", "--epochs", 90,
        "--patience", 3, "--learning-rate", 0.1, "--out", out)  # fmt: skip
    losses = [float(row["validation_loss"]) for row in read(out / "log.csv")]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 3 < 90
    assert json.loads((out / "metrics.json").read_text())["best_epoch"] == best + 1
    metadata = MoleculeEncoder.from_pretrained(out).metadata
    names = [r["row"] for r in read(out / "split.csv") if r["set"] == "validation"]
    held = [rows[int(name.split()[1]) - 1] for name in names]
    error = expected(out, [row["smiles"] for row in held]) - numbers(held, "carbon")
    loss = (error / metadata["std"][0]).square().mean().item()
    assert loss == pytest.approx(min(losses), rel=1e-3)
    # There is nothing left to do for a run that has ended.
    before = (out / "model.safetensors").read_bytes()
    run("train_molecules", path, "--targets", "carbon", "--epochs", 90,
        "--patience", 3, "--learning-rate", 0.1, "--out", out, "--resume")  # fmt: skip
    assert len(read(out / "log.csv")) == len(losses)
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_missing_label_has_no_influence(task, scripts):
    """The loss and its gradient are those of a loop over the known labels alone."""
    nan, tools = math.nan, scripts["molecule_tools"]
    y = [[1.0, nan], [nan, nan], [0.0, 1.0], [nan, 0.0]]
    smiles = ["CCO", "c1ccccc1O", "CC(=O)NC", "O"]
    graphs = [AtomFeatures()(from_smiles(text)) for text in smiles]
    for data, labels in zip(graphs, y, strict=True):
        data.y = torch.tensor([labels])
    model = MoleculeEncoder(2, 16)
    model.metadata = {"task": task, "mean": [0.5, 0.25], "std": [2.0, 0.5]}
    if task == "classification":
        model.metadata |= {"mean": [0.0, 0.0], "std": [1.0, 1.0]}
    batch = next(iter(scripts["train_molecules"].AtomTokenLoader(graphs, 4)))
    loss, count = tools.total_loss(model, batch)
    found = torch.autograd.grad(loss, list(model.parameters()))
    total = 0
    for data, labels in zip(graphs, y, strict=True):
        out = model(data)[0]
        for i, label in enumerate(labels):
            if label == label and task == "regression":
                mean, std = model.metadata["mean"][i], model.metadata["std"][i]
                total = total + (out[i] - (label - mean) / std) ** 2
            elif label == label:
                probability = 1 / (1 + (-out[i]).exp())
                total = total - (probability if label else 1 - probability).log()
    assert count == 4
    torch.testing.assert_close(loss, total)
    wanted = torch.autograd.grad(total, list(model.parameters()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_a_batch_without_labels_changes_nothing(tmp_path, scripts):
    data = AtomFeatures()(from_smiles("CCO"))
    data.y = torch.tensor([[math.nan]])
    tools, model = scripts["molecule_tools"], MoleculeEncoder(1, 16)
    model.metadata = {"task": "regression", "mean": [0.0], "std": [1.0]}
    known = data.clone()
    known.y = torch.tensor([[3.0]])
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(model.parameters(), 0.1)
    loader = scripts["train_molecules"].AtomTokenLoader
    bare, both = (loader(d, 1) for d in ([data], [data, known]))
    with pytest.raises(ZeroDivisionError):
        tools.run_epoch(model, bare, "cpu", optimizer)
    assert all(map(torch.equal, before, model.parameters()))
    tools.run_epoch(model, both, "cpu", optimizer)
    assert not all(map(torch.equal, before, model.parameters()))
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_split_by_scaffold_shares_none(tmp_path, run):
    murcko = pytest.importorskip("rdkit.Chem.Scaffolds.MurckoScaffold")
    path, scaffolds = write(tmp_path / "m.csv", molecules(60)), {}
    run("train_molecules", path, "--targets", "carbon", "--epochs", 1,
        "--split", "scaffold", "--out", tmp_path / "model")  # fmt: skip
    rows = read(tmp_path / "model" / "split.csv")
    assert sorted(int(row["row"].split()[1]) for row in rows) == [*range(1, 61)]
    for row in rows:
        mol = murcko.GetScaffoldForMol(Chem.MolFromSmiles(row["smiles"]))
        Chem.RemoveStereochemistry(mol)
        scaffolds.setdefault(Chem.MolToSmiles(mol), set()).add(row["set"])
    assert all(len(sets) == 1 for sets in scaffolds.values()) and len(scaffolds) > 10
    counts = Counter(row["set"] for row in rows)
    assert counts["validation"] == counts["test"] == 6


def test_a_random_split_is_of_the_seed_and_parts_no_molecule(scripts):
    split = scripts["molecule_tools"].split_molecules
    graphs = [from_smiles(t) for t in ["CCO", "OCC", "C", "CC", "CCC", "N", "O", "S"]]
    graphs += [from_smiles("C" * n) for n in range(4, 16)]
    found = []
    for seed in (0, 0, *range(1, 9)):
        torch.manual_seed(seed)
        sets = split(graphs, False)
        assert sorted(map(id, sum(sets.values(), []))) == sorted(map(id, graphs))
        assert [len(part) for part in sets.values()] == [16, 2, 2]
        home = {id(data): name for name, part in sets.items() for data in part}
        assert home[id(graphs[0])] == home[id(graphs[1])]
        found.append(tuple(home[id(data)] for data in graphs))
    assert found[0] == found[1] and len(set(found)) == 9


def test_measures(scripts):
    tools = scripts["molecule_tools"]
    score = torch.randint(0, 8, (40,)) / 8
    label = torch.randint(0, 2, (40,)).float()
    label[5] = math.nan
    pairs = [
        (p > n) + 0.5 * (p == n)
        for p, a in zip(score.tolist(), label.tolist(), strict=True)
        for n, b in zip(score.tolist(), label.tolist(), strict=True)
        if a == 1 and b == 0
    ]
    found = tools.measure("classification", score, label)
    assert found["roc_auc"] == pytest.approx(sum(pairs) / len(pairs))
    right = [
        (s >= 0.5) == (y == 1) for s, y in zip(score, label, strict=True) if y == y
    ]
    assert found["accuracy"] == pytest.approx(sum(map(float, right)) / 39)
    ones = tools.measure("classification", score, torch.ones(40))
    assert ones["roc_auc"] is None
    found = tools.measure(
        "regression", torch.tensor([1.0, 9.0, 4.0]), torch.tensor([2.0, math.nan, 6.0])
    )
    assert found == pytest.approx({"mae": 1.5, "rmse": 2.5**0.5, "r2": 1 - 5 / 8})
    constant = tools.measure("regression", torch.ones(2), torch.ones(2))
    assert constant["r2"] is None
    none = tools.measure("regression", torch.tensor([math.nan, 1]), torch.arange(2.0))
    assert none == {"mae": None, "rmse": None, "r2": None}


def test_the_scale_of_known_labels(scripts):
    scale_of = scripts["molecule_tools"].scale_of
    y = torch.tensor([[1.0, math.nan, 0.0], [3.0, 5.0, 1.0], [math.nan, 5.0, 0.0]])
    scale = scale_of(y[:, :2], "regression")
    # What does not vary is left in its unit.
    assert scale == {"mean": [2.0, 5.0], "std": [1.0, 1.0]}
    assert scale_of(y * 4, "regression")["std"][0] == 4.0
    assert scale_of(y[:, 2:], "classification") == {"mean": [0.0], "std": [1.0]}


def test_classification(tmp_path, run, capsys):
    rows = molecules(40)
    path, out = write(tmp_path / "m.csv", rows, acid={3: ""}), tmp_path / "model"
    run("train_molecules", path, "--targets", "acid", "--epochs", 2, "--seed", 1,
        "--tokenizer", "rings", "--readout", "mean", "--out", out)  # fmt: skip
    assert "task: classification, by the labels" in capsys.readouterr().out
    report = json.loads((out / "metrics.json").read_text())["test"]["acid"]
    assert set(report) == {"labels", "model", "majority"}
    run("predict_molecules", out, path, "--out", tmp_path / "p.csv")
    found = read(tmp_path / "p.csv")
    probability = numbers(found, "acid_probability")
    close(probability, expected(out, [r["smiles"] for r in rows], RingsAndChains))
    names = {r["row"]: r["set"] for r in read(out / "split.csv")}
    truth = [int(r["acid"] or -1) for r in found]
    right = [
        (p >= 0.5) == (t == 1)
        for i, (p, t) in enumerate(zip(probability[:, 0], truth, strict=True), 1)
        if names[f"row {i}"] == "test" and t >= 0
    ]
    assert report["labels"] == len(right)
    assert report["model"]["accuracy"] == pytest.approx(sum(right) / len(right))


@pytest.mark.parametrize("target, measure", [("carbon", "mae"), ("acid", "roc_auc")])
def test_learns_what_it_was_shown(target, measure, tmp_path, run, scripts):
    """Better than the mean, or the majority, by far, on the molecules themselves."""
    rows = molecules(60, "esol")
    path, out = write(tmp_path / "m.csv", rows), tmp_path / "model"
    run("train_molecules", path, "--targets", target, "--epochs", 15,
        "--batch-size", 8, "--seed", 1, "--out", out)  # fmt: skip
    predicted = expected(out, [row["smiles"] for row in rows])[:, 0]
    truth = numbers(rows, target)[:, 0]
    tools = scripts["molecule_tools"]
    task = "regression" if measure == "mae" else "classification"
    found = tools.measure(task, predicted, truth)[measure]
    base = tools.measure(task, truth.mean().expand(60), truth)[measure]
    assert found < base / 2 if measure == "mae" else found > 0.9 > base


def test_the_tokenizer_goes_with_the_model(tmp_path, run):
    path, out = write(tmp_path / "m.csv", molecules()), tmp_path / "model"
    run("train_molecules", path, "--targets", "carbon", "--epochs", 1,
        "--tokenizer", "atom", "--channels", 16, "--out", out)  # fmt: skip
    run("predict_molecules", out, path, "--out", tmp_path / "p.csv")
    found = read(tmp_path / "p.csv")
    smiles = [row["smiles"] for row in found]
    close(numbers(found, "carbon_predicted"), expected(out, smiles, Atom))


@pytest.mark.parametrize(
    "changes, arguments, message",
    [
        ({}, ["--targets", "mass"], "0 columns 'mass'"),
        ({}, ["--targets", "name"], "'4-methoxy-N,N-dimethyl-benzamide' is no number"),
        ({}, ["--targets", "carbon", "carbon"], "a name twice"),
        ({}, ["--targets", "carbon", "--smiles-column", "s"], "0 columns 's'"),
        ({}, ["--targets", "carbon", "acid"], "pass --task regression"),
        ({}, ["--targets", "carbon", "--task", "classification"], "other than 0 and 1"),
        ({}, ["--targets", "carbon", "--device", "abacus"], "'--device' is 'abacus'"),
        ({}, ["--targets", "carbon", "--epochs", "0"], "'--epochs' is 0"),
        ({}, ["--targets", "carbon", "--channels", "7"], "'channels' is 7"),
        ({}, ["--targets", "carbon", "--learning-rate", "nan"], "'--learning-rate'"),
        ({}, ["--targets", "carbon", "--learning-rate", "1e30"],
         "the loss of epoch 1 is no finite number: pass a lower --learning-rate"),
        ({}, ["--targets", "carbon", "--resume"], "leave out --resume"),
        (dict(carbon=dict.fromkeys(range(8), "")), ["--targets", "carbon"], "no label"),
        (dict(carbon={1: "inf"}), ["--targets", "carbon"], "infinite labels"),
        (dict(carbon={1: "1e39"}), ["--targets", "carbon"], "above 3e38"),
        (dict(carbon={i: 1e7 + i for i in range(8)}), ["--targets", "carbon"],
         "'carbon' vary too little for their size, and float32"),
        (dict(carbon=dict.fromkeys(range(8), "True")), ["--targets", "carbon"],
         "'True' is no number: mend the row; two classes are 0 and 1."),
        ({}, ["--targets", "Carbon "], "Did you mean 'carbon'? "),
        ({}, ["--targets", "carbon", "--delimiter", ";"], "and 'delimiter'"),
        (dict(smiles=dict.fromkeys(range(8), "(")), ["--targets", "carbon"], "RDKit"),
    ],
)  # fmt: skip
def test_training_says_what_is_wrong(changes, arguments, message, tmp_path, run):
    path = write(tmp_path / "m.csv", molecules(8), **changes)
    stops(message, run, "train_molecules", path, "--out", tmp_path / "out", *arguments)


def stops(message, run, *arguments):
    with pytest.raises(SystemExit) as stopped:
        run(*arguments)
    # Which Python prints, and exits with 1.
    text = stopped.value.code
    assert text.startswith("error: ") and message in text and "\n" not in text


def test_a_set_without_labels(tmp_path, run):
    rows = molecules(8)
    path = write(tmp_path / "m.csv", rows, carbon=dict.fromkeys(range(1, 8), ""))
    arguments = ("train_molecules", path, "--targets", "carbon", "--out", tmp_path)
    stops("has no label among those for", run, *arguments)
    # One scaffold fills no second set, whatever the seed.
    chains = [{"smiles": "C" * n, "carbon": n} for n in range(1, 21)]
    arguments = (
        write(tmp_path / "c.csv", chains),
        *arguments[2:],
        "--split",
        "scaffold",
    )
    stops("share the empty scaffold, no ring", run, "train_molecules", *arguments)
    for row in chains:
        row["smiles"] = f"c1ccccc1{row['smiles']}"
    write(tmp_path / "c.csv", chains)
    stops("share the scaffold c1ccccc1: pass", run, "train_molecules", *arguments)


def test_files_that_cannot_be_read(tmp_path, run):
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "head.csv").write_text("smiles,carbon\n")
    (tmp_path / "none.sdf").write_text("\n")
    for name, message in [("empty.csv", "is empty"), ("head.csv", "has 0 rows"),
                          ("none.sdf", "is empty"), ("no.csv", "no.csv")]:  # fmt: skip
        arguments = (tmp_path / name, "--targets", "carbon", "--out", tmp_path / "out")
        stops(message, run, "train_molecules", *arguments)
    path = sdf(tmp_path / "m.sdf", molecules(3), False)
    arguments = (path, "--targets", "mass", "--out", tmp_path / "out")
    stops("no property 'mass'", run, "train_molecules", *arguments)


def test_a_folder_is_not_trained_into_twice(tmp_path, run):
    path, out = write(tmp_path / "m.csv", molecules()), tmp_path / "model"
    arguments = ("train_molecules", path, "--targets", "carbon", "--out", out)
    run(*arguments, "--epochs", 1)
    stops("is there, pass --resume or another --out", run, *arguments)
    other = "was begun with other seed: pass the same, or begin anew in another --out"
    stops(other, run, *arguments, "--resume", "--seed", 7)
    write(tmp_path / "m.csv", molecules(), carbon={0: 99})
    stops("was begun with other data", run, *arguments, "--resume")
    # The way out that is named.
    (out / "checkpoint.pt").unlink()
    run(*arguments, "--epochs", 2, "--seed", 7)
    assert len(read(out / "log.csv")) == 2


def no_constant(name):
    raise AssertionError(f"{name} is no JSON")


def read_json(path):
    return json.loads(path.read_text(), parse_constant=no_constant)


def test_huge_labels(tmp_path, run):
    rows = molecules()
    huge = {i: row["carbon"] * 1e37 for i, row in enumerate(rows)}
    path, out = write(tmp_path / "m.csv", rows, carbon=huge), tmp_path / "model"
    run("train_molecules", path, "--targets", "carbon", "--epochs", 2, "--out", out)
    metadata = read_json(out / "config.json")["metadata"]
    names = {row["row"]: row["set"] for row in read(out / "split.csv")}
    known = [huge[i] / 1e37 for i in huge if names[f"row {i + 1}"] == "training"]
    mean = sum(known) / len(known)
    std = math.sqrt(sum((label - mean) ** 2 for label in known) / len(known))
    assert metadata["mean"] == [pytest.approx(mean * 1e37, rel=1e-5)]
    assert metadata["std"] == [pytest.approx(std * 1e37, rel=1e-5)]
    measures = read_json(out / "metrics.json")["test"]["carbon"]
    assert all(v is not None for m in ("model", "mean") for v in measures[m].values())
    run("predict_molecules", out, path, "--out", tmp_path / "p.csv")
    assert numbers(read(tmp_path / "p.csv"), "carbon_predicted").isfinite().all()


def test_labels_that_do_not_vary(tmp_path, run):
    rows, out = molecules(), tmp_path / "model"
    path = write(tmp_path / "m.csv", rows, carbon=dict.fromkeys(range(COUNT), 0.1))
    run("train_molecules", path, "--targets", "carbon", "--epochs", 1, "--out", out)
    assert read_json(out / "config.json")["metadata"]["std"] == [1.0]


def test_a_loss_that_is_no_number(tmp_path, run, scripts, monkeypatch):
    """Nothing of its epoch is kept: what was before can be saved."""
    path = write(tmp_path / "m.csv", molecules())
    tools, out = scripts["molecule_tools"], tmp_path / "model"
    arguments = ("train_molecules", path, "--targets", "carbon", "--out", out)
    # One batch of training and one of validation in an epoch.
    loss, calls = tools.total_loss, iter(range(100))

    def broken(*given):
        total, known = loss(*given)
        return total * (math.nan if next(calls) == 4 else 1), known

    with monkeypatch.context() as third:
        third.setattr(tools, "total_loss", broken)
        told = "and another --out, or --resume --epochs 2 to save the best before it"
        stops(told, run, *arguments)
    assert len(read(out / "log.csv")) == 2 and not (out / "config.json").exists()
    run(*arguments, "--resume", "--epochs", 2)
    assert read_json(out / "metrics.json")["best_epoch"] in (1, 2)
    # What fails at once leaves nothing that the next run would be held to.
    anew = (*arguments[:-1], tmp_path / "anew")
    stops("of epoch 1 is no", run, *anew, "--learning-rate", 1e30)
    run(*anew, "--epochs", 1)


def test_stopped_before_the_first_epoch(tmp_path, run, scripts, monkeypatch):
    def interrupt(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr(scripts["molecule_tools"], "total_loss", interrupt)
    path = write(tmp_path / "m.csv", molecules())
    arguments = ("train_molecules", path, "--targets", "carbon", "--out", tmp_path)
    stops("stopped; start anew", run, *arguments)


def test_a_model_that_predicts_no_number(tmp_path, run):
    path, model = write(tmp_path / "m.csv", molecules(4)), MoleculeEncoder(1, 16)
    model.metadata = {"targets": ["carbon"], "task": "regression", "mean": [1.0],
                      "std": [2.0], "tokenizer": "brics"}  # fmt: skip
    torch.nn.init.constant_(model.head[-1].bias, math.nan)
    model.save_pretrained(tmp_path)
    arguments = (tmp_path, path, "--out", tmp_path / "p.csv")
    stops("is no finite number, train it anew", run, "predict_molecules", *arguments)


def test_rows_with_more_cells_than_the_header(tmp_path, run):
    """A comma in a name that nobody quoted moves no other cell into its place."""
    lines = [f"name {i},{row['smiles']},{row['carbon']}\n"
             for i, row in enumerate(molecules())]  # fmt: skip
    # Even where what stands in the column is a SMILES, or a number.
    lines[3], lines[8] = "1,C,5,1\n", "a,C,3,\n"
    path, out = tmp_path / "m.csv", tmp_path / "model"
    path.write_text("".join(["name,smiles,carbon\n", *lines]))
    run("train_molecules", path, "--targets", "carbon", "--epochs", 1, "--out", out)
    skipped = read(out / "skipped.csv")
    assert [row["row"] for row in skipped] == ["row 4", "row 9"]
    assert all("more cells than the header" in row["reason"] for row in skipped)
    run("predict_molecules", out, path, "--out", tmp_path / "p.csv")
    found = read(tmp_path / "p.csv")
    bad = [i for i, row in enumerate(found) if row["error"]]
    assert bad == [3, 8] and len(found) == COUNT
    for i in bad:
        assert "more cells than the header" in found[i]["error"]
        assert found[i]["carbon_predicted"] == ""


def test_marks_of_a_missing_label(tmp_path, run):
    marks = ["N/A", "na", " NULL ", "-", "None", "#N/A", "nan"]
    path = write(tmp_path / "m.csv", molecules(), carbon=dict(enumerate(marks)),
                 oxygen={8: ">5"})  # fmt: skip
    out = tmp_path / "model"
    run("train_molecules", path, "--targets", "carbon", "oxygen", "--epochs", 1,
        "--seed", 1, "--out", out)  # fmt: skip
    assert [row["row"] for row in read(out / "skipped.csv")] == ["row 9"]
    assert "'>5' is no number" in read(out / "skipped.csv")[0]["reason"]
    names = {row["row"]: row["set"] for row in read(out / "split.csv")}
    known = [name for i in range(7, COUNT) if (name := names.get(f"row {i + 1}"))]
    report = read_json(out / "metrics.json")["test"]
    assert report["carbon"]["labels"] == known.count("test")
    assert report["oxygen"]["labels"] == [*names.values()].count("test")


def test_molecules_that_repeat_are_told(tmp_path, run, capsys):
    rows = [{"smiles": "C" * n, "a": n, "b": -n} for n in range(2, 32)]
    rows += [{"smiles": "C(C)C", "a": 5.5, "b": ""}, {"smiles": "CC", "a": 1, "b": 0},
             {"smiles": "CC", "a": "", "b": 1.25}]  # fmt: skip
    path = write(tmp_path / "m.csv", rows)
    arguments = ("train_molecules", path, "--targets", "a", "b", "--epochs", 1)
    run(*arguments, "--out", tmp_path / "model")
    told = "2 molecules repeat, with labels up to 2.5 in a, 3.25 in b apart"
    assert told in capsys.readouterr().out
    write(tmp_path / "m.csv", rows[:30])
    run(*arguments, "--out", tmp_path / "other")
    assert "molecules repeat" not in capsys.readouterr().out


@pytest.mark.parametrize("delimiter, given", [(";", ";"), ("\t", "\\t")])
def test_other_tables(delimiter, given, tmp_path, run):
    rows = [{"SMILES": r["smiles"], "carbon": r["carbon"]} for r in molecules()]
    path, out = write(tmp_path / "m.csv", rows), tmp_path / "model"
    path.write_text(path.read_text().replace(",", delimiter))
    arguments = (path, "--delimiter", given)
    training = (*arguments, "--targets", "carbon", "--epochs", 1, "--out", out)
    stops("Did you mean 'SMILES'? ", run, "train_molecules", *training)
    column = ("--smiles-column", "SMILES")
    run("train_molecules", *training, *column)
    arguments += (*column, "--out", tmp_path / "p.csv")
    run("predict_molecules", out, *arguments)
    found = read(tmp_path / "p.csv")
    assert [row["SMILES"] for row in found] == [row["SMILES"] for row in rows]
    wanted = expected(out, [row["SMILES"] for row in rows])
    close(numbers(found, "carbon_predicted"), wanted)


def test_an_sdf_has_no_columns(tmp_path, run):
    path = sdf(tmp_path / "m.sdf", molecules(3), False)
    arguments = ("train_molecules", path, "--targets", "carbon", "--out", tmp_path)
    for option in (("--smiles-column", "s"), ("--delimiter", ";")):
        stops("are for a CSV only", run, *arguments, *option)


def test_text_classes_say_where_all_are_told(tmp_path, run):
    path = write(
        tmp_path / "m.csv", molecules(), carbon=dict.fromkeys(range(COUNT), "a")
    )
    with pytest.raises(SystemExit) as stopped:
        run("train_molecules", path, "--targets", "carbon", "--out", tmp_path / "out")
    told = Path(stopped.value.code.split("(see ")[1].removesuffix(")."))
    assert told.read_text().count("'a' is no number") == COUNT


class Harmful:
    def __reduce__(self):
        return (open, ("harmed", "w"))


def test_a_checkpoint_executes_nothing(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "m.csv", molecules())
    (tmp_path / "model").mkdir()
    torch.save({"options": Harmful()}, tmp_path / "model" / "checkpoint.pt")
    arguments = (path, "--targets", "carbon", "--out", tmp_path / "model", "--resume")
    stops("is no checkpoint of this script", run, "train_molecules", *arguments)
    assert not (tmp_path / "harmed").exists()


def test_tensorboard(tmp_path, run, monkeypatch):
    path = write(tmp_path / "m.csv", molecules())
    arguments = ("train_molecules", path, "--targets", "carbon", "--epochs", 1,
                 "--tensorboard", "--out", tmp_path / "model")  # fmt: skip
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "tensorboard", None)
        stops("pip install tensorboard", run, *arguments)
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    run(*arguments)
    assert list((tmp_path / "model").glob("events.out.tfevents.*"))


def test_predicting_says_what_is_wrong(tmp_path, run):
    path, out = write(tmp_path / "m.csv", molecules(8)), tmp_path / "p.csv"

    def wrong(message, model, file, *arguments):
        given = ("predict_molecules", model, file, "--out", out, *arguments)
        stops(message, run, *given)
        assert not out.exists()

    wrong("holds no model of save_pretrained", tmp_path, path)
    model = MoleculeEncoder(1, 16)
    model.save_pretrained(tmp_path / "other")
    wrong("none of train_molecules.py", tmp_path / "other", path)
    model.metadata = {"targets": ["carbon"], "task": "regression", "mean": [1.0],
                      "std": [2.0], "tokenizer": "brics"}  # fmt: skip
    model.save_pretrained(tmp_path / "model")
    wrong("0 columns 's'", tmp_path / "model", path, "--smiles-column", "s")
    wrong("no.csv", tmp_path / "model", tmp_path / "no.csv")
    wrong("'--batch-size' is 0", tmp_path / "model", path, "--batch-size", "0")
    wrong("'--device' is 'abacus'", tmp_path / "model", path, "--device", "abacus")
    given = path.read_bytes()
    for same in (path, tmp_path / "new" / ".." / "m.csv"):
        (tmp_path / "new").mkdir(exist_ok=True)
        arguments = (tmp_path / "model", path, "--out", same)
        stops("is the input, pass another", run, "predict_molecules", *arguments)
    assert path.read_bytes() == given
    twice = [{**row, "error": ""} for row in molecules(3)]
    write(tmp_path / "twice.csv", twice)
    wrong("rename its columns ['error']", tmp_path / "model", tmp_path / "twice.csv")


def test_a_file_of_bad_rows_alone(tmp_path, run):
    model = MoleculeEncoder(1, 16)
    model.metadata = {"targets": ["carbon"], "task": "regression", "mean": [1.0],
                      "std": [2.0], "tokenizer": "brics"}  # fmt: skip
    model.save_pretrained(tmp_path)
    # A blank line is no row; a row may be short, or lack its SMILES.
    (tmp_path / "m.csv").write_text('n,smiles,"a,b"\n1,,x\n\n2\n3,C(,"y,z"\n')
    run("predict_molecules", tmp_path, tmp_path / "m.csv", "--out", tmp_path / "p.csv")
    found = read(tmp_path / "p.csv")
    assert [row["n"] for row in found] == ["1", "2", "3"]
    assert [row["a,b"] for row in found] == ["x", "", "y,z"]
    assert all(row["error"] and not row["carbon_predicted"] for row in found)
