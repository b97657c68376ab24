"""Time of reading, tokenizing and featurising, beside biotite's and gemmi's reading.

    python examples/benchmarks/reading.py              # a made-up protein, 3 formats
    python examples/benchmarks/reading.py 1abc.cif 2xyz.pdb
    python examples/benchmarks/reading.py --atoms 44000 --cold     # as a ribosome
    python examples/benchmarks/reading.py --growth     # tokenizers, to 500,000 atoms
    python examples/benchmarks/reading.py --smiles examples/data/esol.csv
    python examples/benchmarks/reading.py --fragments  # BRICS, rings and chains

biotite reads what this package does: one model, charges, occupancies, labels, one
alternate location by occupancy, and bonds; gemmi reads atoms alone, and no BinaryCIF.
All contenders take turns in one process; a figure is the median of its rounds, in the
time of the processor on one thread, which other programs disturb least. With --cold,
more columns tell of the first time of all, in a fresh process that has imported and
opened the component dictionary, and by how much its memory then grows at most.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch

from pyg_atomenc.io import from_smiles, from_structure
from pyg_atomenc.tokenizers import (
    AF3,
    BRICS,
    Atom,
    Beads,
    Boltz1,
    Boltz2,
    Components,
    Residue,
    RingsAndChains,
)  # fmt: skip
from pyg_atomenc.transforms import AtomFeatures

FIELDS = ["charge", "occupancy"]
TOKENIZERS = (Residue(), Atom(), AF3(), Boltz1(), Boltz2(), Beads(), Components())
RESIDUES = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR".split()


def biotite_reads(path):
    from biotite.structure.io import pdb, pdbx

    options = {"model": 1, "altloc": "occupancy", "include_bonds": True}
    if path.suffix in (".pdb", ".ent"):
        return pdb.PDBFile.read(path).get_structure(extra_fields=[*FIELDS], **options)
    kind = pdbx.BinaryCIFFile if path.suffix == ".bcif" else pdbx.CIFFile
    fields = [*FIELDS, "label_asym_id", "label_seq_id"]
    options["use_author_fields"] = True
    return pdbx.get_structure(kind.read(path), extra_fields=fields, **options)


def gemmi_reads(path):
    import gemmi

    return gemmi.read_structure(str(path)).setup_entities()


def protein(atoms_wanted):
    """Chains of at most 500 residues, as they stand in the component dictionary."""
    import biotite.structure as struc
    from biotite.structure import info

    made = {}
    for name in RESIDUES:
        residue = info.residue(name)
        residue = residue[(residue.element != "H") & (residue.atom_name != "OXT")]
        residue.hetero[:] = False
        residue.bonds = None
        made[name] = residue
    generator = np.random.default_rng(0)
    parts, count = [], 0
    while count < atoms_wanted:
        part = made[RESIDUES[generator.integers(len(RESIDUES))]].copy()
        part.res_id[:] = len(parts) % 500 + 1
        part.chain_id[:] = chr(ord("A") + len(parts) // 500 % 26)
        part.coord += generator.uniform(-99, 99, 3)
        parts.append(part)
        count += len(part)
    atoms = struc.concatenate(parts)
    if count < 100_000:
        atoms.bonds = struc.connect_via_residue_names(atoms)
    return atoms


def write(atoms, folder):
    from biotite.structure.io import pdb, pdbx

    for kind, suffix in ((pdbx.CIFFile, "cif"), (pdbx.BinaryCIFFile, "bcif")):
        file = kind()
        pdbx.set_structure(file, atoms)
        file.write(folder / f"protein.{suffix}")
        yield folder / f"protein.{suffix}"
    file = pdb.PDBFile()
    file.set_structure(atoms)
    file.write(folder / "protein.pdb")
    yield folder / "protein.pdb"


def medians(contenders, rounds):
    """Milliseconds of each contender by name, in turns."""
    times = {name: [] for name in contenders}
    for turn in range(rounds + 1):
        for name, run in contenders.items():
            start = time.process_time()
            run()
            if turn:
                times[name].append(time.process_time() - start)
    return {name: 1e3 * statistics.median(found) for name, found in times.items()}


def cold(path, who):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import time, biotite.structure.io.pdb, biotite.structure.io.pdbx, gemmi\n"
        "import biotite.structure.info, scipy.spatial\n"
        "from pathlib import Path\n"
        "from reading import biotite_reads, from_structure\n"
        "from pyg_atomenc.io import from_atom_array\n"
        "from_atom_array(biotite.structure.info.residue('GLY'))\n"
        "peak = lambda: int(open('/proc/self/status').read().split('VmHWM:')[1]"
        ".split()[0])\n"
        "before = peak()\n"
        f"start = time.process_time(); {who}(Path({str(path)!r}))\n"
        "print(1e3 * (time.process_time() - start))\n"
        "print((peak() - before) / 1024)"
    )
    run = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    return [float(line) for line in done.stdout.split()]


def compare(paths, rounds, with_cold):
    features = AtomFeatures()
    names = ["from_structure", *(repr(t) for t in TOKENIZERS[1:]), "+ AtomFeatures"]
    head = ["file", "atoms", "biotite", "gemmi", *names]
    more = ("biotite cold", "from_structure cold", "its memory")
    head += more if with_cold else ()
    print("| " + " | ".join(head) + " |")
    print("|" + "---|" * len(head))
    for path in paths:
        contenders = {"biotite": lambda path=path: biotite_reads(path)}
        for name, tokenizer in zip(names, TOKENIZERS, strict=False):
            contenders[name] = lambda path=path, t=tokenizer: from_structure(path, t)
        contenders[names[-1]] = lambda path=path: features(from_structure(path))
        if path.suffix != ".bcif":
            contenders["gemmi"] = lambda path=path: gemmi_reads(path)
        time_of = medians(contenders, rounds)
        theirs = time_of["biotite"]
        atoms = from_structure(path).num_nodes
        row = [path.name, f"{atoms:,}", f"{theirs:.0f} ms"]
        row += [f"{time_of['gemmi'] / theirs:.2f} ×" if "gemmi" in time_of else "–"]
        row += [f"{time_of[name] / theirs:.2f} ×" for name in names]
        if with_cold:
            first = [cold(path, who) for who in ("biotite_reads", "from_structure")]
            (other, _), (own, memory) = first
            row += [f"{other:.0f} ms", f"{own:.0f} ms", f"{memory:.0f} MiB"]
        print("| " + " | ".join(row) + " |", flush=True)


def growth(sizes, rounds):
    """Time of each tokenizer on atoms in memory, which should grow as they do."""
    import biotite.structure as struc

    print("| atoms | " + " | ".join(repr(t) for t in TOKENIZERS) + " |")
    print("|" + "---|" * (len(TOKENIZERS) + 1))
    for size in sizes:
        atoms = protein(size)
        if atoms.bonds is None:
            count = np.arange(len(atoms) - 1)
            pairs = np.stack([count, count + 1, np.ones_like(count)], axis=1)
            atoms.bonds = struc.BondList(len(atoms), pairs)
        contenders = {repr(t): lambda t=t, a=atoms: t(a) for t in TOKENIZERS}
        time_of = medians(contenders, rounds)
        row = " | ".join(f"{found:.0f} ms" for found in time_of.values())
        print(f"| {len(atoms):,} | {row} |", flush=True)


def smiles(path, rounds):
    """SMILES to graphs with BRICS tokens a second, on one processor."""
    with open(path, newline="") as file:
        rows = [row["smiles"] for row in csv.DictReader(file)]
    time_of = medians({"": lambda: [from_smiles(row) for row in rows]}, rounds)[""]
    atoms = sum(from_smiles(row).num_nodes for row in rows) / len(rows)
    print(f"{1e3 * len(rows) / time_of:.0f} SMILES of {atoms:.0f} atoms a second")


def fragments(atoms, rounds):
    """Time of fragments of a structure, whose bonds are read from files' components."""
    import biotite.structure as struc

    atoms.bonds = struc.connect_via_residue_names(atoms)
    contenders = {repr(t): lambda t=t: t(atoms) for t in (BRICS(), RingsAndChains())}
    for name, time_of in medians(contenders, rounds).items():
        print(f"{name}: {len(atoms):,} atoms, {time_of:.0f} ms")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--atoms", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--smiles", type=Path)
    parser.add_argument("--fragments", action="store_true")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if arguments.smiles:
        smiles(arguments.smiles, arguments.rounds)
    elif arguments.fragments:
        for size in (6_900, 13_800, 27_626):
            fragments(protein(size)[:size], arguments.rounds)
    elif arguments.growth:
        growth([arguments.atoms * times for times in (1, 10, 100)], arguments.rounds)
    elif arguments.files:
        compare(arguments.files, arguments.rounds, arguments.cold)
    else:
        with tempfile.TemporaryDirectory() as folder:
            files = list(write(protein(arguments.atoms), Path(folder)))
            compare(files, arguments.rounds, arguments.cold)


if __name__ == "__main__":
    main()
