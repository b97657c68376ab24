import gzip
import math

import pytest
import torch

from pyg_atomenc.datasets import SmilesTable
from pyg_atomenc.io import Limits

pytest.importorskip("rdkit", reason="RDKit is not installed")

CSV = """\
name,smiles,a,"b ""x"" c"
ethanol,CCO,1.5,2
"ring, six",c1ccccc1,,-3e2
no label,C,1.0,many
short,CC
"""


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(CSV)
    return path


def test_a_csv_file(path):
    table = SmilesTable.from_csv(path, label_columns=["a", 'b "x" c'])
    assert table.names == ["row 1", "row 2", "row 3", "row 4"]
    (data,) = table.read(0, None)
    assert data.smiles == "CCO" and data.source == "row 1"
    assert data.y.dtype == torch.float32 and data.y.tolist() == [[1.5, 2.0]]
    (data,) = table.read(1, None)
    assert math.isnan(data.y[0, 0]) and data.y[0, 1] == -300 and data.num_nodes == 6
    with pytest.raises(ValueError, match="'many' is no number: mend the row"):
        table.read(2, None)
    with pytest.raises(ValueError, match="the row is too short: mend"):
        table.read(3, None)
    plain = SmilesTable.from_csv(path, hydrogens=True)
    assert "y" not in plain.read(3, None)[0] and plain.read(2, None)[0].num_nodes == 5
    one = SmilesTable.from_csv(path, label_columns="a")
    assert one.read(2, None)[0].y.tolist() == [[1.0]]


def test_rows_with_too_many_cells(path):
    path.write_text("name,smiles,a\n1,2-x,C,7\nplain,CC,1\nend,CC,2,\n")
    for labels in ((), "a"):
        table = SmilesTable.from_csv(path, label_columns=labels)
        assert table.read(1)[0].num_nodes == 2
        for index in (0, 2):
            with pytest.raises(ValueError, match="more cells than the header: quote"):
                table.read(index)
    stamp = table.stamp(2)
    path.write_text("name,smiles,a\n1,2-x,C,7\nplain,CC,1\nend,CC,2\n")
    assert SmilesTable.from_csv(path, label_columns="a").stamp(2) != stamp


@pytest.mark.parametrize(
    "mark", ["", " ", "-", "NA", "n/a", "#N/A", "NaN", "None", "NULL"]
)
def test_marks_of_a_missing_label(mark, path):
    path.write_text(f"smiles,a,b\nC,{mark},2\nC,-2,2\n")
    table = SmilesTable.from_csv(path, label_columns=["a", "b"])
    missing, known = table.read(0)[0].y[0]
    assert math.isnan(missing) and known == 2
    assert table.read(1)[0].y.tolist() == [[-2, 2]]


@pytest.mark.parametrize("mark", [">5", "--", "no", "1,5"])
def test_what_is_no_mark(mark, path):
    path.write_text(f'smiles,a\nC,"{mark}"\n')
    with pytest.raises(ValueError, match=f"'{mark}' is no number"):
        SmilesTable.from_csv(path, label_columns="a").read(0)


def test_packed_tabbed_and_with_a_mark(path, tmp_path):
    text = "\ufeff" + CSV.replace(",", "\t")
    packed = tmp_path / "t.tsv.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    table = SmilesTable.from_csv(packed, "smiles", ["a"], delimiter="\t")
    assert table.read(0, None)[0].y.item() == 1.5


@pytest.mark.parametrize(
    "labels, y",
    [
        ([1, 2], [[2]]),
        (torch.tensor([1, 2]), [[2]]),
        ([[0.5, 1.0], [1.5, 2.0]], [[1.5, 2.0]]),
        (None, None),
    ],
)
def test_lists(labels, y):
    (data,) = SmilesTable(["C", "CC"], labels).read(1, None)
    if y is None:
        assert "y" not in data
    else:
        assert data.y.tolist() == y
        assert data.y.dtype == torch.as_tensor(labels).dtype


def test_stamps_go_by_content():
    one = SmilesTable(["C", "CC", "C"], [1.0, 2.0, 3.0])
    other = SmilesTable(["C", "CCC", "C"], [1.0, 2.0, 4.0])
    same = [one.stamp(i) == other.stamp(i) for i in range(3)]
    assert same == [True, False, False]
    assert SmilesTable(["C"]).stamp(0) != one.stamp(0)


def test_bad_tables(path, tmp_path):
    with pytest.raises(
        ValueError, match=r"table.csv: has 4 rows, with 0 columns 'SMILES'"
    ):
        SmilesTable.from_csv(path, "SMILES")
    with pytest.raises(ValueError, match="Did you mean 'smiles'[?] Check the"):
        SmilesTable.from_csv(path, " Smiles")
    with pytest.raises(ValueError, match=r"'smile' among \[.*\]. Check the columns'"):
        SmilesTable.from_csv(path, "smile")
    with pytest.raises(ValueError, match="with 0 columns 'y' among"):
        SmilesTable.from_csv(path, label_columns=["a", "y"])
    with pytest.raises(ValueError, match="none.csv: does not exist"):
        SmilesTable.from_csv(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="table.csv: holds more than 10 file bytes"):
        SmilesTable.from_csv(path, limits=Limits(file_bytes=10))
    path.write_bytes(b"smiles\n\xff\xfe\n")
    with pytest.raises(ValueError, match="table.csv: cannot be read as a table in UTF"):
        SmilesTable.from_csv(path)
    path.write_text("smiles\n")
    with pytest.raises(ValueError, match="table.csv: has 0 rows"):
        SmilesTable.from_csv(path)
    path.write_text("smiles\n" + "C" * 200_000 + "\n")
    with pytest.raises(ValueError, match="table.csv: cannot be read as a table"):
        SmilesTable.from_csv(path)
    with pytest.raises(ValueError, match="'smiles' is 'CCO': pass a list"):
        SmilesTable("CCO")
    with pytest.raises(ValueError, match="'smiles' is empty"):
        SmilesTable([])
    with pytest.raises(ValueError, match="'labels' has 3 rows for 2 SMILES"):
        SmilesTable(["C", "CC"], [1, 2, 3])


def test_a_quote_that_nobody_closes_loses_no_row(tmp_path):
    path = tmp_path / "open.csv"
    path.write_text('smiles,y\n"C,1\nCC,2\nCCC,3\n')
    with pytest.raises(ValueError, match="open.csv: cannot be read as a table"):
        SmilesTable.from_csv(path)
    path.write_text("smiles,smiles\nC,CC\n")
    with pytest.raises(ValueError, match="with 2 columns 'smiles'"):
        SmilesTable.from_csv(path)
    with pytest.raises(ValueError, match="open.csv: cannot be read as a table"):
        SmilesTable.from_csv(path, delimiter=",,")


@pytest.mark.parametrize("labels", [[[1.0], [1.0, 2.0]], ["a", "b"]])
def test_labels_that_are_no_tensor(labels):
    with pytest.raises(ValueError, match="'labels' must be one"):
        SmilesTable(["C", "CC"], labels)


def test_what_is_no_list_of_smiles():
    with pytest.raises(ValueError, match="'smiles' is 3"):
        SmilesTable(3)
    with pytest.raises(ValueError, match="from_smiles got an unexpected .*'hydrogen'"):
        SmilesTable(["C"], hydrogen=True)


def test_arrays_of_smiles():
    numpy = pytest.importorskip("numpy")
    table = SmilesTable(numpy.array(["C", "CC"]))
    assert table.read(1, None)[0].num_nodes == 2
