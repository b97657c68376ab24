"""The data set as a whole; what processes do is in test_processes.py."""

import gzip
import json
import pickle
import sqlite3
import warnings

import pytest
import torch
import torch_geometric.transforms as T
from dataset_helpers import (
    Logging,
    Missing,
    Own,
    Scale,
    add_ones,
    failing,
    has_two_residues,
    same,
    to_plain,
    write_folder,
    write_pdb,
)
from torch_geometric.loader import DataLoader

from pyg_atomenc.data import AtomTokenLoader, TokenBudgetSampler, graph_size
from pyg_atomenc.datasets import SmilesTable, StructureDataset, StructureFiles

pytest.importorskip("biotite.structure", reason="biotite is not installed")
from pyg_atomenc.io import from_smiles, from_structure  # noqa: E402
from pyg_atomenc.tokenizers import AF3, Atom, Beads  # noqa: E402


def open_set(root, *arguments, **options):
    return StructureDataset(root, *arguments, progress=False, **options)


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path / "pdb", 7)


def reads(log):
    return len(log.read_text().splitlines()) if log.exists() else 0


def test_graphs_are_those_of_the_reader(folder, tmp_path):
    dataset = open_set(tmp_path, folder)
    assert len(dataset) == 7 and dataset.report == []
    assert dataset.names == [f"{i:03d}.pdb" for i in range(7)]
    for i, data in enumerate(dataset):
        expected = from_structure(folder / f"{i:03d}.pdb")
        expected.source = f"{i:03d}.pdb"
        assert same(data, expected)
    atoms, pairs = dataset.graph_sizes()
    assert [graph_size(data) for data in dataset] == list(
        zip(atoms.tolist(), pairs.tolist(), strict=True)
    )


def test_the_folder_raw_is_the_default(tmp_path):
    write_folder(tmp_path / "raw", 2)
    assert len(open_set(tmp_path)) == 2


def test_subsets_and_batches(folder, tmp_path):
    dataset = open_set(tmp_path, folder)
    subset = dataset[[6, 2, 3]]
    assert subset.names == ["006.pdb", "002.pdb", "003.pdb"]
    assert subset.graph_sizes()[0].tolist() == [8, 12, 16]
    sampler = TokenBudgetSampler(subset, max_atoms=20)
    loader = AtomTokenLoader(subset, batch_sampler=sampler, num_workers=2)
    batches = list(loader)
    assert [batch.source for batch in batches] == [["006.pdb", "002.pdb"], ["003.pdb"]]
    layout = batches[0].token_layout()
    assert layout.sizes.tolist() == [4, 4, 4, 4, 4]
    assert batches[0].token_name == [["GLY"] * 2, ["GLY"] * 3]


def test_options_of_reading_tokenizing_and_transforming(folder, tmp_path):
    dataset = open_set(
        tmp_path,
        StructureFiles(folder, "00[0-3].pdb"),
        Atom(),
        transform=lambda data: data.num_tokens,
        pre_transform=add_ones,
        pre_filter=lambda data: data.num_nodes > 4,
    )
    assert dataset.names == ["001.pdb", "002.pdb", "003.pdb"]
    assert list(dataset) == [8, 12, 16]
    dataset.transform = None
    assert dataset[0].x.tolist() == [[1.0]] * 8
    assert dataset[0].note == ["a", {"deep": [2.5, None, True]}]
    assert "pre_filter" not in str(dataset.report)


def test_nothing_is_read_twice(folder, tmp_path):
    log = tmp_path / "log"
    dataset = open_set(tmp_path, folder, Logging(log))
    assert reads(log) == 7
    assert len(open_set(tmp_path, folder, Logging(log))) == 7
    assert reads(log) == 7
    # A file more, one changed, one gone.
    write_pdb(folder / "0005.pdb", 3)
    write_pdb(folder / "003.pdb", 9)
    (folder / "001.pdb").unlink()
    again = open_set(tmp_path, folder, Logging(log))
    assert reads(log) == 9
    assert again.names == ["000.pdb", "0005.pdb"] + [f"00{i}.pdb" for i in range(2, 7)]
    assert again[3].num_tokens == 9 and dataset.folder == again.folder
    # Other options are read beside these, and do not disturb them.
    other = open_set(tmp_path, folder, Logging(log), pre_filter=has_two_residues)
    assert reads(log) == 16 and len(other) == 5 and other.folder != again.folder
    kept = list(again)
    anew = open_set(tmp_path, folder, Logging(log), force_reload=True)
    assert reads(log) == 23
    assert all(same(one, two) for one, two in zip(anew, kept, strict=True))
    open_set(tmp_path, folder, Logging(log))
    assert reads(log) == 23


def test_bad_files_are_reported(folder, tmp_path):
    (folder / "bad.cif").write_text("no structure")
    (folder / "cut.pdb.gz").write_bytes(gzip.compress(b"ATOM" * 99)[:-9])
    with pytest.warns(UserWarning, match=r"2 of 9 files or rows cannot be read.*bad.c"):
        dataset = open_set(tmp_path, folder)
    assert len(dataset) == 7
    assert [skipped.source for skipped in dataset.report] == ["bad.cif", "cut.pdb.gz"]
    assert "bad.cif: cannot be read as mmCIF" in dataset.report[0].reason
    assert "is no complete gzip file" in dataset.report[1].reason
    table = (dataset.folder / "skipped.tsv").read_text().splitlines()
    assert table[0] == "source\treason"
    assert table[1:] == ["\t".join(skipped) for skipped in dataset.report]
    with pytest.raises(ValueError, match="2 of 9 .*bad.cif: cannot be read as mmCIF"):
        open_set(tmp_path, folder, on_error="raise")
    with pytest.warns(UserWarning, match="2 of 9"):
        assert open_set(tmp_path, folder).report == dataset.report
    # Mended, they are read, and the report is empty.
    write_pdb(folder / "bad.cif").rename(folder / "cut.pdb")
    (folder / "cut.pdb.gz").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset = open_set(tmp_path, folder, on_error="raise")
    assert dataset.names[-1] == "cut.pdb" and dataset.report == []
    assert (dataset.folder / "skipped.tsv").read_text() == "source\treason\n"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_may_end_the_run(num_workers, folder, tmp_path):
    (folder / "003.pdb").write_text("no structure")
    options = {"on_error": "raise", "num_workers": num_workers}
    with pytest.raises(ValueError, match=r"/003.pdb: "):
        open_set(tmp_path, folder, **options)
    write_pdb(folder / "003.pdb")
    assert len(open_set(tmp_path, folder, **options)) == 7


def test_a_success_replaces_an_older_failure(folder, tmp_path):
    flag = tmp_path / "flag"

    def fails_without_flag(data):
        assert flag.exists() or data.num_nodes < 20, "not yet"
        return data

    options = {"pre_transform": fails_without_flag}
    with pytest.warns(UserWarning, match="AssertionError: not yet"):
        dataset = open_set(tmp_path, folder, **options)
    assert [name for name, _ in dataset.report] == ["004.pdb"]
    flag.touch()
    with pytest.warns(UserWarning, match="AssertionError: not yet"):
        open_set(tmp_path, folder, **options)
    for retry in (True, False):
        dataset = open_set(tmp_path, folder, retry_skipped=retry, **options)
        assert dataset.report == [] and len(dataset) == 7
    assert dataset.names == sorted(dataset.names)


def test_nothing_readable_is_an_error(folder, tmp_path):
    with pytest.raises(ValueError, match=r"7 of 7 files .*KeyError: 'an own mistake'"):
        open_set(tmp_path, folder, pre_transform=failing)
    with pytest.raises(ValueError, match="'data' is of type dict: only AtomTokenData"):
        open_set(tmp_path, folder, pre_transform=to_plain)
    for _ in range(2):
        assert len(open_set(tmp_path, folder, pre_filter=lambda data: False)) == 0


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_missing_package_is_no_fault_of_a_file(num_workers, folder, tmp_path):
    with pytest.raises(ImportError, match="nobody_has_it"):
        open_set(tmp_path, folder, Missing(), num_workers=num_workers)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"on_error": "ignore"}, "'on_error' is 'ignore': choose one of"),
        ({"num_workers": -1}, "'num_workers' is -1"),
        ({"source": 5}, "'source' is of type int: pass a folder"),
        ({"source": "nowhere"}, "nowhere: is no folder"),
        (
            {"num_workers": 1, "multiprocessing_context": "thread"},
            "'multiprocessing_co",
        ),
    ],
)
def test_bad_arguments(options, message, folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        open_set(tmp_path, **{"source": folder, **options})


class Bomb:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def test_no_pickle_of_a_stranger_is_read(folder, tmp_path):
    dataset = open_set(tmp_path, folder)
    marker = tmp_path / "marker"
    bomb = pickle.dumps(Bomb(marker))
    # PyG's own data sets would load the first two.
    processed = tmp_path / "processed"
    torch.save(Bomb(marker), processed / "pre_transform.pt")
    torch.save(Bomb(marker), processed / "pre_filter.pt")
    (processed / "x.pt").write_bytes(bomb)
    (dataset.folder / "x.pkl").write_bytes(bomb)
    assert len(open_set(tmp_path, folder)) == 7
    assert not marker.exists()
    graphs = dataset.folder / "graphs.db"
    graphs.write_bytes(bomb * 40)
    with pytest.raises(ValueError, match=f"^{graphs}: is damaged, or no data set"):
        dataset[0]
    with pytest.raises(ValueError, match=f"^{graphs}: is damaged, or no data set"):
        open_set(tmp_path, folder)
    assert not marker.exists()
    assert len(open_set(tmp_path, folder, force_reload=True)) == 7


def test_the_files_hold_no_pickle(folder, tmp_path):
    dataset = open_set(tmp_path, folder, pre_transform=add_ones)
    names = sorted(path.name for path in (tmp_path / "processed").rglob("*.*"))
    assert names == [".lock", "graphs.db", "options.txt", "skipped.tsv"]
    connection = sqlite3.connect(dataset.folder / "graphs.db")
    rows = connection.execute("SELECT attributes, tensors FROM graphs").fetchall()
    connection.close()
    assert len(rows) == 7
    for text, tensors in rows:
        json.loads(text)
        header = int.from_bytes(tensors[:8], "little")
        shapes = json.loads(tensors[8 : 8 + header])
        ends = [entry["data_offsets"][1] for entry in shapes.values()]
        # Behind the header there are the numbers, and no other byte.
        assert len(tensors) == 8 + header + max(ends)


def test_a_damaged_row_is_named(folder, tmp_path):
    dataset = open_set(tmp_path, folder)
    graphs = dataset.folder / "graphs.db"
    bomb = pickle.dumps(Bomb(tmp_path / "marker"))
    torch.save(Bomb(tmp_path / "marker"), tmp_path / "bomb.pt")
    bad = [bomb, (tmp_path / "bomb.pt").read_bytes(), b"", "text", 5, None]
    for value in bad:
        connection = sqlite3.connect(graphs)
        connection.execute("UPDATE graphs SET tensors = ? WHERE id = 3", (value,))
        connection.commit()
        connection.close()
        with pytest.raises(ValueError, match=f"^{dataset.folder}: 002.pdb is dam"):
            dataset[2]
    assert not (tmp_path / "marker").exists()
    assert dataset[6].num_tokens == 2
    graphs.unlink()
    with pytest.raises(ValueError, match=f"^{dataset.folder}: 006.pdb is dam"):
        dataset[6]
    assert len(open_set(tmp_path, folder)) == 7


def test_a_copy_needs_no_files(folder, tmp_path):
    dataset = open_set(tmp_path, folder, pre_transform=add_ones)
    part = dataset[[3, 1, 6]]
    copy = part.to_on_disk(tmp_path / "part")
    sizes = torch.stack(part.graph_sizes()).tolist()
    again = StructureDataset(tmp_path / "part", transform=lambda data: data.source)
    assert copy.names == again.names == list(again) == part.names
    for found in (copy, part):
        assert torch.stack(found.graph_sizes()).tolist() == sizes
        assert all(same(one, two) for one, two in zip(found, part, strict=True))
    with pytest.raises(ValueError, match="'root' is .*, which holds graphs"):
        dataset.to_on_disk(tmp_path / "part")
    labels = dataset.to_on_disk(tmp_path / "all", transform=lambda data: data.num_nodes)
    assert list(labels) == dataset.graph_sizes()[0].tolist()


def test_names_that_are_no_text(tmp_path):
    dataset = open_set(tmp_path, Own(2, 3))
    dataset.source.names = ["\udcff", "b"]
    for _ in range(2):
        again = open_set(tmp_path, dataset.source)
        assert again.names == ["\\udcff", "b"]


@pytest.mark.parametrize("one, other", [
    ({"tokenizer": Atom()}, {"tokenizer": AF3()}),
    ({"tokenizer": AF3()}, {"tokenizer": AF3(atomize_modified=False)}),
    ({"tokenizer": Atom()}, {"tokenizer": Atom(), "version": "2"}),
    ({"pre_filter": has_two_residues}, {"pre_filter": to_plain}),
    ({"tokenizer": Beads({"A": {"B": ["N"]}})},
     {"tokenizer": Beads({"A": {"B": ["C"]}})}),
    ({"pre_transform": Scale(torch.arange(2000))},
     {"pre_transform": Scale(torch.arange(2000).flip(0))}),
    ({"pre_filter": has_two_residues}, {"pre_transform": has_two_residues}),
    ({"pre_transform": T.Compose([T.KNNGraph(k=3)])},
     {"pre_transform": T.Compose([T.KNNGraph(k=4)])}),
])  # fmt: skip
def test_other_options_have_another_folder(one, other, tmp_path):
    folders = [
        open_set(tmp_path, Own(), **options).folder for options in (one, other, one)
    ]
    assert folders[0] == folders[2] != folders[1]


def test_other_templates_have_another_folder(folder, tmp_path):
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    folders = []
    for smiles in ("CCO", "CCN", "CCO"):
        files = StructureFiles(folder, ligands={"LIG": chem.MolFromSmiles(smiles)})
        folders.append(open_set(tmp_path, files).folder)
    assert folders[0] == folders[2] != folders[1]


def test_a_progress_bar(folder, tmp_path, capfd):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    StructureDataset(tmp_path, folder)
    shown = capfd.readouterr()
    assert "reading: 100%" in shown.err and "7/7" in shown.err and not shown.out
    StructureDataset(tmp_path, folder)
    StructureDataset(tmp_path / "other", folder, progress=False)
    assert capfd.readouterr() == ("", "")


def test_smiles(tmp_path):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    path = tmp_path / "table.csv"
    path.write_text("smiles,y\nCCO,1\nc1ccccc,2\nCC,three\nc1ccccc1,4\n")
    with pytest.warns(UserWarning, match="2 of 4 files or rows cannot be read, the f"):
        dataset = open_set(tmp_path, SmilesTable.from_csv(path, label_columns=["y"]))
    assert [name for name, _ in dataset.report] == ["row 2", "row 3"]
    assert "RDKit refuses" in dataset.report[0].reason
    expected = from_smiles("c1ccccc1")
    expected.source, expected.y = "row 4", torch.tensor([[4.0]])
    assert same(dataset[1], expected)
    batch = next(iter(DataLoader(dataset, batch_size=2)))
    assert batch.y.tolist() == [[1.0], [4.0]]
    with pytest.warns(UserWarning, match="1 of 4"):
        assert len(open_set(tmp_path / "short", str(path))) == 3


def test_an_own_source(tmp_path):
    from pyg_atomenc import AtomTokenData

    class Chains:
        names = ["two", "one"]
        options = None

        def stamp(self, index):
            return ""

        def read(self, index, tokenizer):
            size = 2 - index
            return [AtomTokenData(atom_to_token=torch.arange(size))] * size

    dataset = open_set(tmp_path, Chains())
    assert [data.num_nodes for data in dataset] == [2, 2, 1]
    assert dataset.names == ["two", "two", "one"]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(tokenizer="x"), "'tokenizer' is 'x'"),
        (dict(pre_filter=3), "'pre_filter' is 3"),
        (dict(transform=3), "'transform' is 3"),
        (dict(num_workers="2"), "'num_workers' is '2'"),
        (dict(num_workers=1.5), "'num_workers' is 1.5"),
        (dict(multiprocessing_context="zz"), "'multiprocessing_context' is 'zz'"),
        (dict(source=[3]), "'files' is no list of paths"),
        (dict(source=[None]), "'files' is no list of paths"),
    ],
)
def test_options_that_cannot_be(options, message, tmp_path):
    source = SmilesTable(["C"])
    with pytest.raises(ValueError, match=message):
        StructureDataset(**{"root": tmp_path, "source": source, **options})
