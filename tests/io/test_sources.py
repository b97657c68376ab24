import gzip
import os

import pytest
from dataset_helpers import same, write_folder, write_pdb

from pyg_atomenc.datasets import StructureFiles

pytest.importorskip("biotite.structure", reason="biotite is not installed")
from pyg_atomenc.io import from_structure  # noqa: E402


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, 3)
    (tmp_path / "README.md").write_text("no structure")
    (tmp_path / ".hidden.pdb").write_text("no structure")
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "folder.pdb").mkdir()
    packed = tmp_path / "deep" / "er" / "x.PDB.gz"
    packed.write_bytes(gzip.compress((tmp_path / "001.pdb").read_bytes()))
    return tmp_path


def test_a_folder(folder):
    source = StructureFiles(folder)
    assert source.names == ["000.pdb", "001.pdb", "002.pdb"]
    assert StructureFiles(str(folder), "*1*").names == ["001.pdb"]
    deep = StructureFiles(folder, recursive=True)
    assert deep.names == ["000.pdb", "001.pdb", "002.pdb", "deep/er/x.PDB.gz"]
    # What is asked for by name is not left out silently.
    assert "README.md" in StructureFiles(folder, "*.md").names


def test_a_graph_is_that_of_the_reader(folder):
    source = StructureFiles(folder, recursive=True, hydrogens=False)
    (data,) = source.read(3, None)
    assert data.source == "deep/er/x.PDB.gz"
    data.source = ""
    assert same(data, from_structure(folder / "001.pdb"))


def test_a_list_of_files(folder):
    files = [folder / "002.pdb", str(folder / "000.pdb"), folder / "002.pdb"]
    source = StructureFiles(files)
    assert source.names == [f"{folder}/000.pdb", f"{folder}/002.pdb"]
    assert source.read(1, None)[0].num_tokens == 3


def test_all_models(tmp_path):
    atoms = write_pdb(tmp_path / "a.pdb", 1).read_text().splitlines()[:4]
    models = [[f"MODEL     {number:4d}", *atoms, "ENDMDL"] for number in (1, 2)]
    (tmp_path / "a.pdb").write_text("\n".join([*models[0], *models[1], "END", ""]))
    found = StructureFiles(tmp_path, model="all").read(0, None)
    assert [data.source for data in found] == ["a.pdb model 1", "a.pdb model 2"]


def test_a_stamp_changes_with_the_file(folder):
    source = StructureFiles(folder)
    stamps = [source.stamp(index) for index in range(3)]
    assert stamps == [StructureFiles(folder).stamp(index) for index in range(3)]
    os.utime(folder / "000.pdb", ns=(1, 1))
    write_pdb(folder / "001.pdb", 9)
    (folder / "002.pdb").unlink()
    after = [source.stamp(index) for index in range(3)]
    assert all(one != other for one, other in zip(stamps, after, strict=True))
    assert after[2] == "cannot be found: No such file or directory"


def test_bad_arguments(folder, tmp_path):
    for files, pattern in ((tmp_path / "nowhere", None), (folder / "deep", None)):
        with pytest.raises(ValueError, match=f"{files}: is no folder, or holds no "):
            StructureFiles(files, pattern)
    with pytest.raises(ValueError, match=r"holds no \*.bcif.*Check 'pattern'"):
        StructureFiles(folder, "*.bcif")
    with pytest.raises(ValueError, match="from_structure got an unexpected .*'water'"):
        StructureFiles(folder, water=False)
    for files in ([], [3], 3, b"files"):
        with pytest.raises(ValueError):
            StructureFiles(files)
    with pytest.raises(ValueError, match="'pattern' and 'recursive' are for a folder"):
        StructureFiles([folder / "000.pdb"], recursive=True)
