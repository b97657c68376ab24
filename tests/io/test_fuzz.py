"""Damaged files give a ValueError that names file and reason, or a correct result.

Correct is what another reader makes of the same file: gemmi of mmCIF and PDB, a loop
over the specification of BinaryCIF; where that reads nothing, the undamaged file's
atoms. `pytest -s` prints how many files were refused and how many read.
"""

import gzip
import random
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from base_files import bcif_bytes, cif_text, pdb_text
from bcif_oracle import atoms_of_bcif
from bombs import BOMBS
from gemmi_oracle import gemmi_residues
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import cuts, flips, mutations

from pyg_atomenc.chem.components import SYMBOLS
from pyg_atomenc.errors import FileFormatError
from pyg_atomenc.io import from_structure

pytest.importorskip("biotite.structure", reason="biotite is not installed")
pytest.importorskip("gemmi", reason="gemmi is not installed")

KINDS = ("cif", "pdb", "bcif")
TESTS = Path(__file__).parents[1]
FIGURES = defaultdict(Counter)
# A file of 100 atoms; generous, since machines may be busy.
SECONDS = 20


def ours(path):
    """What a correct result is judged by, sorted."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        data = from_structure(path)
    # A flood of warnings is a fault, too.
    assert len(told) == bool(data.reading_notes)
    assert all(str(warning.message).startswith(f"{path}: ") for warning in told)
    data.validate()
    rows = zip(
        data.chain_id, data.res_id.tolist(), data.ins_code, data.res_name,
        data.atom_name, [SYMBOLS[z] for z in data.z.tolist()], *data.pos.t().tolist(),
        strict=True,
    )  # fmt: skip
    return sorted(rows), data.reading_notes


def gemmis(path):
    _, residues = gemmi_residues(path)
    return sorted(
        (r.chain, r.number, r.ins, r.name, atom.name,
         {"D": "H"}.get(atom.element.name.upper(), atom.element.name.upper()),
         *atom.pos.tolist())
        for r in residues
        for atom in r.atoms
    )  # fmt: skip


def same(found, expected, numbers=True):
    if not numbers:
        # What others make of a number that is none, they do not say.
        found, expected = (
            sorted((row[0], *row[2:]) for row in rows) for rows in (found, expected)
        )
    if [row[:-3] for row in found] != [row[:-3] for row in expected]:
        return False
    one, other = (np.array([row[-3:] for row in rows]) for rows in (found, expected))
    return np.allclose(one, other, rtol=1e-5, atol=2e-3, equal_nan=True)


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    atoms = {}
    for kind, data in (("cif", cif_text().encode()), ("pdb", pdb_text().encode()),
                       ("bcif", bcif_bytes())):  # fmt: skip
        path = folder / f"base.{kind}"
        path.write_bytes(data)
        atoms[kind], notes = ours(path)
        assert notes == ""
    assert atoms["cif"] == atoms["pdb"] and len(atoms["cif"]) == 82
    assert same(atoms["bcif"], atoms["cif"])
    assert same(gemmis(folder / "base.cif"), atoms["cif"])
    assert same(sorted(atoms_of_bcif(bcif_bytes())), atoms["cif"])
    return atoms["cif"]


def plain_rows(data):
    """An mmCIF file with one row a line, read by line."""
    names, rows = [], []
    for line in data.decode().splitlines():
        if line.startswith("_atom_site."):
            names.append(line.strip().partition(".")[2])
        elif names and line.strip() and line[0] not in "#_":
            rows.append(dict(zip(names, line.split(), strict=True)))

    def either(row, name):
        return row.get(f"auth_{name}", row.get(f"label_{name}")).strip("\"'")

    kept = []
    for row in rows:
        place = [either(row, n) for n in ("asym_id", "seq_id", "comp_id", "atom_id")]
        ins = row["pdbx_PDB_ins_code"].strip(".?")
        pos = [float(row[f"Cartn_{axis}"]) for axis in "xyz"]
        # The base's second location is the heavier one.
        if row.get("label_alt_id", ".") != "A" or place[1] not in "56":
            number = 0 if place[1] in ".?" else int(place[1])
            kept.append((place[0], number, ins, *place[2:],
                         row["type_symbol"].upper(), *pos))  # fmt: skip
    return sorted(kept)


def other_readers(path, data):
    """The atoms by each of the other readers that does not refuse the file."""
    suffix = path.name.removesuffix(".gz").rpartition(".")[2]
    plain = gzip.decompress(data) if path.name.endswith(".gz") else data
    readers = {
        "cif": [lambda: gemmis(path), lambda: plain_rows(plain)],
        "pdb": [lambda: gemmis(path)],
        "bcif": [lambda: sorted(atoms_of_bcif(plain))],
    }
    for read in readers[suffix]:
        try:
            yield read()
        except Exception:  # noqa: BLE001
            continue


def judge(path, data, outcome, undamaged):
    """Read a damaged file: whether it was refused or read, or what is wrong."""
    path.write_bytes(data)
    start = time.perf_counter()
    try:
        found, notes = ours(path)
    except FileFormatError as error:
        if (
            not str(error).startswith(f"{path}: ")
            or len(str(error)) < len(str(path)) + 9
        ):
            return f"gives the error {error}"
        return "was refused" if outcome == "same" else "refused"
    except Exception as error:
        return f"raised {error!r}"
    if time.perf_counter() - start > SECONDS:
        return f"took {time.perf_counter() - start:.0f} seconds"
    if outcome == "refused" and not notes:
        return f"was read, with {len(found)} atoms"
    told = any(words in notes for words in ("cut short", "that are no atoms"))
    if same(found, undamaged) or told or (notes and outcome in ("refused", "whole")):
        return "read"
    if outcome != "oracle":
        return f"was read as something else, with {len(found)} atoms"
    others = list(other_readers(path, data))
    numbers = "residue number" not in notes
    if not numbers:
        others.append(undamaged)
    if any(same(found, expected, numbers) for expected in others):
        return "read"
    odd = [sorted(set(found) ^ set(expected))[:3] for expected in others]
    return f"was read with {len(found)} atoms, by others differently: {odd}"


def check(name, files, folder, undamaged):
    """Judge all files, keep the figures, and tell of all faults together."""
    faults = []
    for number, (suffix, what, data, outcome) in enumerate(files):
        path = folder / f"{number}{suffix}"
        verdict = judge(path, data, outcome, undamaged)
        if verdict not in ("refused", "read"):
            faults.append(f"{path.name}: {what}: {verdict}")
        FIGURES[name][verdict] += 1
        path.unlink()
    counts = FIGURES[name]
    print(f"{name}: {counts.total()} damaged files, {counts['refused']} refused, "
          f"{counts['read']} read and verified")  # fmt: skip
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(kind, tmp_path, undamaged):
    files = list(mutations(kind))
    assert len(files) >= 200
    check(kind, files, tmp_path, undamaged)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["3o5r.pdb", "1aki.cif", "hetatm.pdb", "1l2y.bcif"])
def test_damaged_entries(name, tmp_path, structures):
    path = structures / name
    content, (atoms, _) = path.read_bytes(), ours(path)
    rng = random.Random(7)
    files = [
        (path.suffix, *file)
        for file in (*cuts(content, 8, rng), *flips(content, 12, rng))
        # What ends between two lines, and has nothing that tells its length, is whole.
        if name != "hetatm.pdb" or file[2] == "oracle"
    ]
    check(name, files, tmp_path, atoms)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10**6), length=st.integers(0, 200),
       put=st.binary(max_size=80), kind=st.sampled_from(KINDS))  # fmt: skip
def test_any_piece_replaced_by_any_bytes(place, length, put, kind, tmp_path, undamaged):
    base = {"cif": cif_text, "pdb": pdb_text}.get(kind, bcif_bytes)()
    base = base if isinstance(base, bytes) else base.encode()
    place %= len(base)
    data = base[:place] + put + base[place + length :]
    path = tmp_path / f"any.{kind}"
    # Lines or values may be gone as a whole: then all readers see the same atoms.
    assert judge(path, data, "oracle", undamaged) in ("refused", "read")


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), kind=st.sampled_from(KINDS))
def test_any_bytes_are_refused(content, kind, tmp_path, undamaged):
    path = tmp_path / f"any.{kind}"
    assert judge(path, content, "refused", undamaged) == "refused"


@pytest.mark.slow
def test_bombs_take_little_memory(tmp_path):
    done = subprocess.run(
        [sys.executable, TESTS / "bombs.py"], cwd=tmp_path, timeout=280,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, *_ in lines] == list(BOMBS)
    for name, grown, peak, verdict in lines:
        print(f"bomb {name}: {grown} MiB to {peak}, {verdict[:90]}")
        FIGURES["bombs"][verdict.partition(":")[0]] += 1
        file = BOMBS[name][0]
        read = name in ("serial", "crowd")
        expected = "read" if read else f"refused: {file}: "
        assert verdict.startswith(expected), name
        assert int(grown) < 600, name


def test_the_figures():
    counts = sum(FIGURES.values(), Counter())
    print(f"all: {counts.total()} damaged files, {counts['refused']} refused, "
          f"{counts['read']} read and verified")  # fmt: skip
    if len(FIGURES) > 2:
        assert counts.total() >= 200 and set(counts) == {"refused", "read"}
