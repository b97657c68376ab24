"""Processes: that read, that die, that are killed, and that load batches."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from dataset_helpers import Dying, Logging, Own, same, write_folder, write_pdb
from torch_geometric.loader import DataLoader

from pyg_atomenc.data import AtomTokenLoader, TokenBudgetSampler
from pyg_atomenc.datasets import StructureDataset, StructureFiles

pytest.importorskip("biotite.structure", reason="biotite is not installed")


def open_set(root, *arguments, **options):
    return StructureDataset(root, *arguments, progress=False, **options)


def needs(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {method}")
    return {"multiprocessing_context": method}


SPAWN = pytest.param("spawn", marks=pytest.mark.slow)


@pytest.mark.parametrize("method", ["fork", SPAWN])
def test_any_number_of_processes_gives_the_same(method, tmp_path):
    folder = write_folder(tmp_path / "pdb", 12)
    (folder / "0075.pdb").write_text("no structure")
    with pytest.warns(UserWarning, match="1 of 13"):
        alone = open_set(tmp_path / "alone", folder)
    with pytest.warns(UserWarning, match="1 of 13"):
        dataset = open_set(tmp_path / "b", folder, num_workers=2, **needs(method))
    assert dataset.names == alone.names and dataset.report == alone.report
    assert all(same(one, two) for one, two in zip(dataset, alone, strict=True))


def test_a_process_that_dies_ends_the_run_and_what_was_read_is_kept(
    tmp_path, monkeypatch
):
    # The files 004 and 009 have five residues.
    folder = write_folder(tmp_path / "pdb", 10)
    tokenizer, options = Dying(20), {"num_workers": 1, **needs("fork")}
    with pytest.raises(ValueError, match="'num_workers': a process died .* is kept"):
        open_set(tmp_path, folder, tokenizer, **options)
    # Without these files, what was read before them is not read again.
    for name in ("004.pdb", "009.pdb"):
        write_pdb(folder / name, 1)
    read = []
    reads = StructureFiles.read
    monkeypatch.setattr(
        StructureFiles, "read", lambda *args: read.append(args[1]) or reads(*args)
    )
    dataset = open_set(tmp_path, folder, tokenizer)
    assert len(dataset) == 10 and read == [4, 5, 6, 7, 8, 9]


def test_what_cannot_be_sent_is_named(tmp_path):
    options = {"num_workers": 1, **needs("spawn")}
    with pytest.raises(ValueError, match="'pre_transform' cannot be sent to an"):
        open_set(tmp_path, Own(1), pre_transform=lambda data: data, **options)
    with pytest.raises(ValueError, match="'pre_filter' cannot be sent"):
        open_set(tmp_path, Own(1), pre_filter=lambda data: True, **options)
    options |= needs("fork")
    assert len(open_set(tmp_path, Own(1), pre_filter=lambda d: True, **options)) == 1


@pytest.mark.parametrize("method", [None, "fork", SPAWN])
def test_batches_are_those_of_memory(method, tmp_path):
    dataset = open_set(tmp_path, Own(*range(1, 10)))
    workers = {"num_workers": 2, **needs(method)} if method else {}
    graphs = list(dataset)
    order = [7, 2, 2, 5]
    cases = [(dataset[order], [graphs[i] for i in order])]
    if method != "spawn":
        cases += [(dataset, graphs), (dataset[3:8], graphs[3:8])]
    for stored, memory in cases:
        found = list(AtomTokenLoader(stored, batch_size=3, **workers))
        expected = list(DataLoader(memory, batch_size=3))
        for one, other in zip(found, expected, strict=True):
            assert torch.equal(one.x, other.x) and torch.equal(one.ptr, other.ptr)
            assert torch.equal(one.token_layout().sizes, other.token_layout().sizes)


def test_a_sampler_needs_no_graph(tmp_path, monkeypatch):
    dataset = open_set(tmp_path, Own(*range(1, 10)))
    with monkeypatch.context() as patch:
        patch.delattr(StructureDataset, "get")
        batches = list(TokenBudgetSampler(dataset, max_atoms=20))
        assert dataset[[4, 0]].graph_sizes()[0].tolist() == [5, 1]
    loader = AtomTokenLoader(dataset, batch_sampler=batches, num_workers=1)
    assert sum(batch.num_nodes for batch in loader) == 45


SCRIPT = """
import signal, sys
# A job in the background ignores Ctrl-C, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from dataset_helpers import Logging
from pyg_atomenc.datasets import StructureDataset, structure_dataset
structure_dataset._SAVE_SECONDS = 0.3
root, folder, log, workers = sys.argv[2:]
StructureDataset(root, folder, Logging(log, 0.1), num_workers=int(workers),
                 multiprocessing_context="fork", progress=False)
"""


def start(tmp_path, folder, workers):
    helpers = Path(__file__).parents[1]
    arguments = [helpers, tmp_path / "cache", folder, tmp_path / "log", workers]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


def reads(tmp_path):
    log = tmp_path / "log"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.parametrize("how, workers", [
    (signal.SIGKILL, 0),
    (signal.SIGKILL, 2),
    (signal.SIGINT, 2),
])  # fmt: skip
@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(how, workers, tmp_path):
    needs("fork")
    folder = write_folder(tmp_path / "pdb", 30)
    run = start(tmp_path, folder, workers)
    deadline = time.monotonic() + 120
    while reads(tmp_path) < 12 and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # SIGINT goes to all processes, as Ctrl-C does; SIGKILL to the first alone.
    (os.killpg if how == signal.SIGINT else os.kill)(run.pid, how)
    assert run.wait(60) != 0
    # Processes that lost their parent end by themselves, and hold the lock till then.
    dataset = open_set(tmp_path / "cache", folder, Logging(tmp_path / "log", 0.1))
    # Read twice: what was not saved, at most 0.3 s and what was under way.
    assert len(dataset) == 30 and 30 <= reads(tmp_path) <= 30 + 6 * max(1, workers)
    plain = open_set(tmp_path / "plain", folder)
    assert all(same(one, two) for one, two in zip(dataset, plain, strict=True))


@pytest.mark.slow
def test_two_runs_at_once_read_once(tmp_path):
    needs("fork")
    folder = write_folder(tmp_path / "pdb", 30)
    runs = [start(tmp_path, folder, 1) for _ in range(2)]
    assert [run.wait(200) for run in runs] == [0, 0]
    assert reads(tmp_path) == 30


def open_and_count(root, folder, log, results):
    results.put(len(open_set(root, folder, Logging(log, 0.02))))


def test_several_at_once_read_once(tmp_path):
    context = multiprocessing.get_context(needs("fork")["multiprocessing_context"])
    folder, results = write_folder(tmp_path / "pdb", 8), context.SimpleQueue()
    arguments = (tmp_path / "cache", folder, tmp_path / "log", results)
    runs = [context.Process(target=open_and_count, args=arguments) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [results.get() for _ in runs] == [8, 8, 8] and reads(tmp_path) == 8
