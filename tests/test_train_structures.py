"""`train_structures.py` and `predict_structures.py`, on structures made here."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"
for _package in ("biotite", "gemmi", "rdkit", "safetensors", "filelock"):
    pytest.importorskip(_package, reason=f"{_package} is not installed")


def write_peptide(path, helices, seed, *, water=False):
    """Eight residues of a helix where true, else of a strand; gives (number, kind)."""
    from biotite import structure
    from biotite.structure import info
    from biotite.structure.io import save_structure

    random, place, parts, kinds = np.random.default_rng(seed), np.zeros(3), [], []
    for helix in helices:
        for i in range(8):
            number = len(kinds) + 1
            name = random.choice(["ALA", "LEU", "SER", "LYS", "PHE"])
            part = info.residue(name)
            part = part[~np.isin(part.atom_name, ("OXT", "HXT", "H2"))]
            turn = np.deg2rad(100 * i)
            bend = 2.3 * np.array([np.cos(turn), np.sin(turn)])
            shift = [*(bend if helix else (0, 0.9 * (-1) ** i)), place[2]]
            place[2] += 1.5 if helix else 3.3
            part.coord += shift - part.coord[part.atom_name == "CA"][0]
            part.chain_id[:], part.res_id[:], part.hetero[:] = "A", number, False
            # The fifth residue is numbered as the fourth, and has a code.
            part.ins_code[:] = "B" if number == 5 else ""
            part.res_id[:] -= number >= 5
            parts.append(part)
            kinds.append((int(part.res_id[0]), part.ins_code[0], "ab"[not helix]))
    if water:
        part = info.residue("HOH")
        part.chain_id[:], part.res_id[:], part.hetero[:] = "A", 500, True
        parts.append(part)
    atoms = structure.concatenate(parts)
    atoms.bonds = None
    save_structure(path, atoms)
    return kinds


def write_table(path, rows, target):
    with open(path, "w", newline="") as file:
        head = ["file", "chain", "number", "ins_code", target]
        csv.writer(file).writerows([head, *rows])
    return path


@pytest.fixture
def files(tmp_path):
    """A folder of peptides, and the rows of their labels."""
    folder = tmp_path / "files"
    folder.mkdir()
    patterns = [[1, 0], [0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]]
    rows = [
        (f"{seed}.pdb", "A", *place)
        for seed, helices in enumerate(2 * patterns)
        for place in write_peptide(folder / f"{seed}.pdb", helices, seed, water=True)
    ]
    return folder, rows


def test_labels_go_to_the_residues_that_they_are_of(files, script, tmp_path):
    from pyg_atomenc.datasets import StructureDataset, StructureFiles

    tools = script("structure_tools")
    folder, _ = files
    rows = [("0.pdb", "A", 4, "", 1.5), ("0.pdb", "A", 4, "B", "-2e-1"),
            ("0.pdb", "A", 7, "", ""), ("0.pdb", "A", 8, "", "nan"),
            ("0.pdb", "B", 1, "", 7), ("2.pdb", " A ", 1, "", 4),
            ("1.pdb", "A", 99, "", 5), ("none.pdb", "A", -3, "C", 6)]  # fmt: skip
    table = write_table(tmp_path / "table.csv", rows, "pKa")
    target, labels = tools.read_table(table)
    assert target == "pKa" and tools.classes_of(labels) is None
    dataset = StructureDataset(
        tmp_path / "kept", StructureFiles(folder, **tools.READING)
    )
    graphs, left = tools.join(dataset, labels, None)
    assert sorted(left) == ["0.pdb B1", "1.pdb A99", "none.pdb A-3C"]
    assert [data.source for data in graphs] == ["0.pdb", "2.pdb"]
    # Residues in the order of the file, without the water.
    expected = torch.full((16,), math.nan)
    expected[3], expected[4] = 1.5, -0.2
    assert graphs[0].token_y.allclose(expected, equal_nan=True)
    assert graphs[1].token_y[0] == 4 and graphs[1].token_y.isnan().sum() == 23


@pytest.mark.parametrize(
    "labels, task, classes",
    [
        (["H", "C", "1"], None, ["1", "C", "H"]),
        (["10", "9", "-1"], None, ["-1", "9", "10"]),
        (["10", "9", "-1"], "regression", None),
        (["10", "9.0"], None, None),
        (["10", "9.0"], "classification", ["9.0", "10"]),
        ([str(i) for i in range(21)], None, None),
        (["1.5", "2", "x", "inf"], "classification", ["1.5", "2", "inf", "x"]),
        (["1.5", "2", "N/A", "null", "-", "NA", "NaN"], None, None),
    ],
)
def test_labels_tell_whether_they_are_classes(labels, task, classes, script, tmp_path):
    rows = [("file", "A", number, "", label) for number, label in enumerate(labels)]
    table = write_table(tmp_path / "table.csv", rows, "y")
    tools = script("structure_tools")
    _, table = tools.read_table(table, None, task)
    assert tools.classes_of(table, task) == classes


@pytest.mark.parametrize(
    "rows, target, message",
    [
        ([("0.pdb", "A", "12.0", "", 1)], "y", "line 2: '12.0' is no residue's number"),
        ([("0.pdb", "A", 1, "", i) for i in (3, 4)], "y", "line 3: another label"),
        ([("0.pdb", "A", 1, "", 3)], "z", "lacks ['z']"),
        ([("0.pdb", "A", 1, "", 3)], "y", "fewer than 3 files"),
        (
            [("0.pdb", "A", i, "", y) for i, y in enumerate(["1", "2", "?"])],
            "y",
            "line 4: '?' is no finite number",
        ),
        (
            [("0.pdb", "A", i, "", y) for i, y in enumerate(["1", "inf"])],
            "y",
            "line 3: 'inf' is no finite number",
        ),
        (
            [("0.pdb", "A", i, "", y) for i, y in enumerate(["1", "2", "1e99"])],
            "y",
            "line 4: '1e99' is no finite number",
        ),
        (
            [("0", "A", 1, "", 3)],
            "y",
            "no file of the folder is named '0'; do you mean '0.pdb'?",
        ),
    ],  # fmt: skip
)
def test_says_what_is_wrong_with_a_table(
    rows, target, message, files, run, tmp_path, capsys
):
    table = write_table(tmp_path / "table.csv", rows, "y")
    arguments = (files[0], table, "--target", target, "--out", tmp_path / "model")
    with pytest.raises(SystemExit) as stopped:
        run("train_structures", *arguments)
    assert stopped.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model" / "config.json").exists()


@pytest.mark.parametrize(
    "option, message",
    [
        (("--epochs", 0), "--epochs: '0' is no positive integer"),
        (("--held-out", 2), "--held-out: '2' is not between 0 and 0.5"),
        (("--held-out", -0.1), "--held-out: '-0.1' is not between 0 and 0.5"),
        (("--cutoff", "nan"), "--cutoff: 'nan' is no positive number"),
        (("--device", "abacus"), "--device: 'abacus' is no device here"),
        (("--task", "regression"), "line 2: 'helix' is no finite number"),
        (("--target", "ä"), "table.csv: cannot be read as a table in UTF-8"),
        (("--target", "none"), "table.csv: has columns"),
    ],
)
def test_says_what_is_wrong_in_one_line(option, message, run, tmp_path, capsys):
    table = write_table(tmp_path / "table.csv", [("0.pdb", "A", 1, "", "helix")], "y")
    if option[1] == "ä":
        table.write_bytes(table.read_bytes() + "0.pdb,A,2,,ä".encode("latin-1"))
    with pytest.raises(SystemExit) as stopped:
        run("train_structures", tmp_path, table, "--out", tmp_path / "new", *option)
    said = capsys.readouterr().err
    assert stopped.value.code == 1 and said.startswith("error: ") and message in said
    assert said.count("\n") == 1 and not (tmp_path / "new").exists()


def test_says_which_file_is_missing(run, tmp_path, capsys):
    for arguments in ((tmp_path, "no.csv"), ("no", write_table(tmp_path / "t", [], 1))):
        with pytest.raises(SystemExit, match="1"):
            run("train_structures", *arguments, "--out", tmp_path / "new")
        assert re.match(r"error: .*\bno(\.csv)?\b.*\n$", capsys.readouterr().err)


def test_a_model_of_another_script_is_told(run, tmp_path, capsys):
    from pyg_atomenc.nn import MoleculeEncoder

    model = MoleculeEncoder(1, 16)
    model.metadata = {"targets": ["logS"], "task": "regression", "tokenizer": "brics"}
    model.save_pretrained(tmp_path)
    with pytest.raises(SystemExit, match="1"):
        run("predict_structures", tmp_path, "new.cif")
    wanted = f"error: {tmp_path}: holds no model of train_structures.py\n"
    assert capsys.readouterr().err == wanted


def test_keeps_what_it_did_and_no_other_model(files, run, tmp_path, capsys):
    folder, rows = files
    # A constant: its spread counts as 1.
    table = write_table(tmp_path / "table.csv", [(*r[:4], 2.5) for r in rows], "y")
    arguments = ("train_structures", folder, table, "--out", tmp_path / "model")
    arguments += ("--device", "cpu", "--epochs", 1)
    model, guess = errors_of(run(*arguments))
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["model"] == pytest.approx(model, abs=1e-3)
    assert metrics["guess by name"] == pytest.approx(guess, abs=1e-3)
    sets = read(tmp_path / "model" / "split.csv")
    assert sorted(row["file"] for row in sets) == sorted({row[0] for row in rows})
    counts = {"training": 10, "validation": 2, "test": 2}
    assert metrics["files"] == counts
    assert {n: [r["set"] for r in sets].count(n) for n in counts} == counts
    scale = json.loads((tmp_path / "model" / "config.json").read_text())["metadata"]
    assert (scale["mean"], scale["std"]) == (2.5, 1.0)
    with pytest.raises(SystemExit):
        run(*arguments)
    assert "model: holds a model: pass --overwrite" in capsys.readouterr().err
    run(*arguments, "--overwrite", "--held-out", 0.3)
    metrics = json.loads((tmp_path / "model" / "metrics.json").read_text())
    assert metrics["files"] == {"training": 6, "validation": 4, "test": 4}


def test_saves_no_model_whose_loss_is_not_finite(
    files, script, run, tmp_path, capsys, monkeypatch
):
    folder, rows = files
    table = write_table(tmp_path / "table.csv", rows, "part")
    wrong = torch.tensor(math.nan, requires_grad=True)
    functional = script("train_structures").F
    monkeypatch.setattr(functional, "cross_entropy", lambda *_: wrong)
    with pytest.raises(SystemExit):
        run("train_structures", folder, table, "--out", tmp_path / "model")
    assert "the loss is not finite: nothing is saved" in capsys.readouterr().err
    assert not (tmp_path / "model" / "config.json").exists()


def errors_of(text):
    """The errors that are printed, of the model and of a guess."""
    lines = [line.split("|") for line in text.splitlines() if line[:2] == "| "]
    return [float(line[2]) for line in lines[1:]]


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_learns_what_a_residue_is_part_of(files, run, tmp_path, capsys):
    folder, rows = files
    table = write_table(tmp_path / "table.csv", rows, "part")
    options = ("--epochs", 40, "--cutoff", 6, "--device", "cpu")
    text = run("train_structures", folder, table, "--out", tmp_path / "model", *options)
    assert "part: ['a', 'b'], of residues of 14 files" in text
    assert "match no residue: 0 []" in text
    of_model, of_guess = errors_of(text)
    assert of_model < 0.25 < of_guess
    # A file of its own, and one that is none.
    kinds = write_peptide(tmp_path / "new.pdb", [0, 1, 1], seed=11, water=True)
    (tmp_path / "bad.cif").write_text("data_\n")
    out = tmp_path / "new" / "predicted.csv"
    arguments = (tmp_path / "bad.cif", tmp_path / "new.pdb", "--out", out)
    with pytest.raises(SystemExit, match="1"):
        run("predict_structures", tmp_path / "model", *arguments)
    assert "left out" in capsys.readouterr().err
    predicted = read(out)
    names = ["file", "chain", "number", "ins_code", "residue", "part", "probability"]
    assert list(predicted[0]) == names
    places = [(int(row["number"]), row["ins_code"]) for row in predicted]
    assert places == [(number, code) for number, code, _ in kinds]
    right = [r["part"] == k for r, (*_, k) in zip(predicted, kinds, strict=True)]
    assert sum(right) > 0.8 * len(right)
    assert all(0.5 <= float(row["probability"]) <= 1 for row in predicted)


@pytest.mark.slow
def test_numbers_as_a_user_learns_them(files, tmp_path):
    folder, rows = files
    # What only the surroundings tell, in units of its own.
    rows = [(*row[:4], 300.0 + 50.0 * (row[4] == "a") + 0.25) for row in rows]
    table, model = write_table(tmp_path / "table.csv", rows, "shift"), tmp_path / "m"
    done = apart("train_structures", folder, table, "--out", model, "--cutoff", 6,
                 "--epochs", 30)  # fmt: skip
    assert done.returncode == 0, done.stderr
    of_model, of_guess = errors_of(done.stdout)
    assert of_model < 0.5 * of_guess
    assert sorted(path.name for path in model.glob("*.*")) == [
        "config.json", "metrics.json", "model.safetensors", "split.csv",
    ]  # fmt: skip
    out, file = tmp_path / "new.csv", folder / "3.pdb"
    done = apart("predict_structures", model, file, "--out", out)
    assert done.returncode == 0, done.stderr
    predicted = {(row["number"], row["ins_code"]): row["shift"] for row in read(out)}
    wanted = {(str(n), code): y for name, _, n, code, y in rows if name == "3.pdb"}
    assert predicted.keys() == wanted.keys()
    wrong = [abs(float(predicted[place]) - wanted[place]) for place in wanted]
    assert np.mean(wrong) < 0.6 * of_guess


def apart(name, *arguments):
    """As a user runs it."""
    words = [sys.executable, EXAMPLES / f"{name}.py", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True)
