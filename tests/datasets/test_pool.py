"""Processes: many at once, dying ones, and runs that are killed."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dataset_helpers import Dying, Logging, same, write_folder

from pyg_atomenc.datasets import StructureDataset, StructureFiles
from pyg_atomenc.datasets.shard import read_index

pytest.importorskip("biotite.structure", reason="biotite is not installed")


def open_set(root, *arguments, **options):
    return StructureDataset(root, *arguments, progress=False, **options)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pdb", 30)


def needs(method):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {method}")


@pytest.mark.parametrize("method, workers", [("fork", 1), ("fork", 3), ("spawn", 2)])
def test_any_number_of_processes_gives_the_same(method, workers, folder, tmp_path):
    needs(method)
    (folder / "0075.pdb").write_text("no structure")
    with pytest.warns(UserWarning, match="1 of 31"):
        alone = open_set(tmp_path / "alone", folder)
    with pytest.warns(UserWarning, match="1 of 31"):
        dataset = open_set(
            tmp_path / "several",
            folder,
            num_workers=workers,
            multiprocessing_context=method,
            save_every=0.02,
        )
    assert dataset.names == alone.names and dataset.report == alone.report
    assert all(same(one, two) for one, two in zip(dataset, alone, strict=True))
    manifests = [(d.folder / "manifest.tsv").read_text() for d in (dataset, alone)]
    assert manifests[0] == manifests[1]
    assert not list(dataset.folder.glob("*.part"))


@pytest.mark.parametrize("how, reason", [
    ("exit", "ended with exit code 3"),
    ("kill", r"was ended by SIGKILL \(out of memory\?\)"),
])  # fmt: skip
def test_a_file_that_kills_processes_is_reported(how, reason, folder, tmp_path):
    needs("fork")
    # The files 004, 009, … have five residues.
    deadly = StructureFiles([folder / f"00{i}.pdb" for i in (0, 1, 4, 6, 7, 8)])
    with pytest.warns(UserWarning, match=f"004.pdb: the process that read it {reason}"):
        dataset = open_set(
            tmp_path,
            deadly,
            Dying(20, how),
            num_workers=2,
            multiprocessing_context="fork",
        )
    assert [Path(name).name for name, _ in dataset.report] == ["004.pdb"]
    assert [Path(name).name for name in dataset.names] == [
        f"00{i}.pdb" for i in (0, 1, 6, 7, 8)
    ]
    with pytest.raises(
        ValueError, match=r"004.pdb: the process that read it .*, twice"
    ):
        open_set(
            tmp_path / "b", deadly, Dying(20, how), num_workers=1, on_error="raise"
        )


def test_many_deadly_files(folder, tmp_path):
    needs("fork")
    with pytest.warns(UserWarning, match="6 of 30 files"):
        dataset = open_set(
            tmp_path,
            folder,
            Dying(20),
            num_workers=2,
            multiprocessing_context="fork",
        )
    assert [n for n, _ in dataset.report] == [f"0{i:02d}.pdb" for i in range(4, 30, 5)]
    assert len(dataset) == 24


def test_a_death_by_chance_loses_no_file(folder, tmp_path):
    needs("fork")
    dataset = open_set(
        tmp_path,
        folder,
        Dying(20, once=tmp_path / "once"),
        num_workers=2,
        multiprocessing_context="fork",
    )
    assert (tmp_path / "once").exists()
    assert len(dataset) == 30 and dataset.report == []


def test_what_cannot_be_sent_is_named(folder, tmp_path):
    needs("spawn")
    options = {"num_workers": 1, "multiprocessing_context": "spawn"}
    with pytest.raises(
        ValueError, match="'pre_transform' cannot be sent to another pr"
    ):
        open_set(tmp_path, folder, pre_transform=lambda data: data, **options)
    with pytest.raises(ValueError, match="'pre_filter' cannot be sent"):
        open_set(tmp_path, folder, pre_filter=lambda data: True, **options)
    needs("fork")
    options["multiprocessing_context"] = "fork"
    assert len(open_set(tmp_path, folder, pre_filter=lambda d: True, **options)) == 30


SCRIPT = """
import signal, sys
# A job in the background ignores Ctrl-C, and so would this.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv[1])
from dataset_helpers import Logging
from pyg_atomenc.datasets import StructureDataset
root, folder, log, workers = sys.argv[2:]
StructureDataset(root, folder, Logging(log, 0.1), num_workers=int(workers),
                 multiprocessing_context="fork", save_every=0.3, progress=False)
"""


def start(tmp_path, folder, workers):
    helpers = Path(__file__).parents[1]
    arguments = [helpers, tmp_path / "cache", folder, tmp_path / "log", workers]
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )


def shards(tmp_path):
    return list((tmp_path / "cache").rglob("*.shard"))


def reads(tmp_path):
    return len((tmp_path / "log").read_text().splitlines())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_where_it_stopped(how, workers, folder, tmp_path):
    needs("fork")
    run = start(tmp_path, folder, workers)
    deadline = time.monotonic() + 120
    while len(shards(tmp_path)) < 2 and run.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # SIGINT goes to all processes, as Ctrl-C does; SIGKILL to the first alone.
    (os.killpg if how == signal.SIGINT else os.kill)(run.pid, how)
    assert run.wait(60) != 0
    # Processes that lost their parent end by themselves, and hold the lock till then.
    dataset = open_set(tmp_path / "cache", folder, Logging(tmp_path / "log", 0.1))
    total = reads(tmp_path)
    done = [entry.name for path in shards(tmp_path) for entry in read_index(path)]
    assert sorted(set(done)) == [f"0{i:02d}.pdb" for i in range(30)]
    assert len(dataset) == 30 and not list(dataset.folder.glob("*.part"))
    # Read twice: what was not saved, at most 0.3 s and one file of each process.
    assert 30 <= total <= 30 + 5 * max(1, workers)
    if how == signal.SIGINT:
        assert total <= 30 + max(1, workers)
    plain = open_set(tmp_path / "plain", folder)
    assert all(same(one, two) for one, two in zip(dataset, plain, strict=True))


def test_two_runs_at_once_read_once(folder, tmp_path):
    needs("fork")
    runs = [start(tmp_path, folder, 1) for _ in range(2)]
    assert [run.wait(200) for run in runs] == [0, 0]
    assert reads(tmp_path) == 30
