"""How fast a StructureDataset is made, with how much memory, and how it goes on.

    python examples/benchmarks/dataset.py --count 1000
    python examples/benchmarks/dataset.py 1abc.cif.gz 2xyz.pdb --count 1000

Copies the files in turn until there are --count of them; without files it makes chains
of amino acids with biotite. Then it reads them with 1 and with 2 processes, and prints
seconds, the cores that these used and that they would have used on a machine of their
own, and the memory of all processes while they read (on Linux). At last it kills a run
midway, and goes on. Needs the extra `structure`.
"""

import argparse
import multiprocessing
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import torch

from pyg_atomenc.data import AtomTokenLoader, TokenBudgetSampler
from pyg_atomenc.datasets import StructureDataset

AMINO_ACIDS = "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE SER TYR".split()


def make_chains(folder, count, seed=0):
    """Chains of 40 to 400 amino acids, each a straight line, half of them mmCIF."""
    from biotite.structure import concatenate
    from biotite.structure.info import residue
    from biotite.structure.io import save_structure

    draw = np.random.default_rng(seed)
    known = {name: residue(name) for name in AMINO_ACIDS}
    for name, atoms in known.items():
        heavy = (atoms.element != "H") & (atoms.atom_name != "OXT")
        known[name] = atoms[heavy]
    for i in range(count):
        chain = []
        for number, name in enumerate(draw.choice(AMINO_ACIDS, draw.integers(40, 400))):
            atoms = known[name].copy()
            atoms.res_id[:] = number + 1
            atoms.chain_id[:] = "A"
            atoms.hetero[:] = False
            atoms.coord[:, 0] += 3.8 * number
            atoms.set_annotation("occupancy", np.ones(atoms.array_length()))
            chain.append(atoms)
        suffix = ("cif", "pdb")[i % 2]
        save_structure(folder / f"chain{i:05d}.{suffix}", concatenate(chain))


def copy_files(files, folder, count):
    for i in range(count):
        file = files[i % len(files)]
        shutil.copy(file, folder / f"{i:05d}_{file.name}")


class Memory(threading.Thread):
    """Notes the memory of this process, and what its children have alone, in MB."""

    def __init__(self):
        super().__init__(daemon=True)
        self.points = []
        self.wanted = {}
        self.begin = time.perf_counter()
        self.done = threading.Event()

    def run(self):
        """Look every half second."""
        while not self.done.wait(0.5):
            children = [child.pid for child in multiprocessing.active_children()]
            point = [memory_of(pid) for pid in (os.getpid(), *children)]
            self.wanted.update({pid: wanted_seconds(pid) for pid in children})
            self.points.append((time.perf_counter() - self.begin, point))

    def show(self, parts=5):
        """A line for the end of each part of the run."""
        for part in range(1, parts + 1):
            until = self.points[-1][0] * part / parts
            seen = [point for seconds, point in self.points if seconds <= until]
            if not seen:
                continue
            workers = " and ".join(f"{megabytes:.0f}" for megabytes in seen[-1][1:])
            largest = max(max(point[1:], default=0) for point in seen)
            print(
                f"  at {100 * part // parts:3d} % of the time: parent "
                f"{seen[-1][0]:.0f} MB, workers {workers or '-'} MB "
                f"(at most {largest:.0f} so far)"
            )


def memory_of(pid):
    """What a process has for itself; what it shares with its parent is the parent's."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    names = ("Rss",) if pid == os.getpid() else ("Private_Clean", "Private_Dirty")
    return sum(int(line.split()[1]) for line in lines if line.startswith(names)) / 1024


def wanted_seconds(pid):
    """How long a process was on a core, or ready while others had them all."""
    try:
        on_core, waiting, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    except OSError:
        return 0.0
    return (int(on_core) + int(waiting)) / 1e9


def cpu_seconds():
    used = [resource.getrusage(who) for who in (0, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure(folder, root, workers):
    memory = Memory()
    memory.start()
    cpu, begin = cpu_seconds(), time.perf_counter()
    dataset = StructureDataset(root, folder, num_workers=workers, progress=False)
    seconds = time.perf_counter() - begin
    cpu = cpu_seconds() - cpu
    memory.done.set()
    memory.join()
    graphs = len(dataset)
    kept = (dataset.folder / "graphs.db").stat().st_size
    print(
        f"{workers} process{'es' if workers > 1 else ''}: {seconds:.1f} s, "
        f"{graphs / seconds:.1f} graphs/s, {cpu / seconds:.2f} cores used, "
        f"{sum(memory.wanted.values()) / seconds:.2f} wanted; "
        f"{len(dataset.report)} skipped, {kept / 1e6:.0f} MB kept"
    )
    if memory.points:
        memory.show()
    return dataset, seconds


def measure_use(dataset, seconds):
    """How long it takes to open, to read and to batch what is kept."""
    begin = time.perf_counter()
    StructureDataset(dataset.root, dataset.source, progress=False)
    opened = time.perf_counter() - begin
    begin = time.perf_counter()
    atoms = sum(data.num_nodes for data in dataset)
    read = time.perf_counter() - begin
    sampler = TokenBudgetSampler(dataset, max_pairs=500_000, shuffle=True)
    pairs = dataset.graph_sizes()[1]
    fill = torch.stack([pairs[batch].sum() for batch in sampler]).double() / 500_000
    begin = time.perf_counter()
    batches = sum(1 for _ in AtomTokenLoader(dataset, batch_sampler=sampler))
    loaded = time.perf_counter() - begin
    print(
        f"opened again in {opened:.2f} s; read all {atoms:,} atoms in {read:.1f} s, "
        f"{1000 * read / len(dataset):.1f} ms a graph ({seconds / read:.0f} × faster "
        f"than from the files); {batches} batches of at most 500,000 pairs, filled to "
        f"{100 * fill.mean():.1f} % on average, in {loaded:.1f} s"
    )


def restart(folder, root, workers, seconds):
    """Kill a run midway, and open the data set again."""
    code = (
        "import sys; from pyg_atomenc.datasets import StructureDataset\n"
        "StructureDataset(sys.argv[1], sys.argv[2], num_workers=int(sys.argv[3]),"
        " progress=False)"
    )
    arguments = [sys.executable, "-c", code, root, folder, workers]
    run = subprocess.Popen([str(argument) for argument in arguments])
    total = sum(1 for _ in folder.iterdir())
    deadline = time.perf_counter() + 20 * seconds
    while run.poll() is None and time.perf_counter() < deadline:
        if count_kept(root) > total / 4:
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = count_kept(root)
    begin = time.perf_counter()
    dataset = StructureDataset(root, folder, num_workers=workers, progress=False)
    took = time.perf_counter() - begin
    print(
        f"killed midway with {kept} graphs kept; the next run read the other "
        f"{len(dataset) - kept} in {took:.1f} s, and has {len(dataset)}"
    )


def count_kept(root):
    """The graphs in the files below ``root``."""
    count = 0
    for path in root.rglob("graphs.db"):
        with closing(sqlite3.connect(path)) as database, suppress(sqlite3.Error):
            count += database.execute("SELECT COUNT(*) FROM graphs").fetchone()[0]
    return count


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--count", type=int, default=1000, help="of structure files")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[1, 2], help="numbers of processes"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        folder = place / "structures"
        folder.mkdir()
        if args.files:
            copy_files(args.files, folder, args.count)
        else:
            # Elsewhere: what it loads would count as this process's memory.
            maker = multiprocessing.Process(
                target=make_chains, args=(folder, args.count)
            )
            maker.start()
            maker.join()
        size = sum(path.stat().st_size for path in folder.iterdir())
        print(f"{args.count} files, {size / 1e6:.0f} MB, {os.cpu_count()} cores")
        for workers in args.workers:
            dataset, seconds = measure(folder, place / f"cache{workers}", workers)
        measure_use(dataset, seconds)
        restart(folder, place / "killed", workers, seconds)


if __name__ == "__main__":
    main()
