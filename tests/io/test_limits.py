import gzip
import os

import pytest
from base_files import cif_text, pdb_text

from pyg_atomenc.io import Limits, from_structure

pytest.importorskip("biotite.structure", reason="biotite is not installed")


@pytest.mark.parametrize(
    "limits, message",
    [
        (Limits(file_bytes=1000), "more than 1,000 file bytes, .*file_bytes="),
        (Limits(unpacked_bytes=1000), "1,000 unpacked bytes, .*unpacked_bytes="),
        (Limits(atoms=50), "more than 50 atoms, which is the limit"),
    ],
)
@pytest.mark.parametrize("suffix, text", [("cif", cif_text), ("pdb", pdb_text)])
def test_over_a_limit(limits, message, suffix, text, tmp_path):
    path = tmp_path / f"a.{suffix}.gz"
    path.write_bytes(gzip.compress(text().encode(), mtime=0))
    from_structure(path)
    with pytest.raises(ValueError, match=message) as caught:
        from_structure(path, limits=limits)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_ratio_that_no_structure_has(tmp_path):
    path = tmp_path / "a.pdb.gz"
    path.write_bytes(gzip.compress(bytes(2**27)))
    with pytest.raises(ValueError, match=r"unpacked_ratio=\.\.\."):
        from_structure(path)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "many"])
@pytest.mark.parametrize("name", vars(Limits()))
def test_bad_limits(name, value):
    with pytest.raises(ValueError, match=f"'{name}' is {value!r}"):
        Limits(**{name: value})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_would_never_end(tmp_path):
    os.mkfifo(tmp_path / "a.cif")
    with pytest.raises(ValueError, match="no regular file"):
        from_structure(tmp_path / "a.cif")
