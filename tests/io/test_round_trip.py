"""Token values in the B-factor column of files, written by biotite and read back."""

from inspect import signature

import numpy as np
import pytest
import torch
from base_files import pdb_text

from pyg_atomenc.io import from_structure, to_atom_array

pytest.importorskip("biotite.structure", reason="biotite is not installed")
general = pytest.importorskip("biotite.structure.io")


def read_b_factors(path):
    from biotite.structure.io import pdb, pdbx

    options = {"model": 1, "extra_fields": ["b_factor"]}
    if path.suffix == ".pdb":
        return pdb.PDBFile.read(path).get_structure(**options)
    kind = pdbx.BinaryCIFFile if path.suffix == ".bcif" else pdbx.CIFFile
    return pdbx.get_structure(kind.read(path), **options)


def write(atoms, path):
    from biotite.structure.io import pdb, pdbx

    if path.suffix == ".pdb":
        file = pdb.PDBFile()
        file.set_structure(atoms)
    else:
        file = (pdbx.BinaryCIFFile if path.suffix == ".bcif" else pdbx.CIFFile)()
        # Older versions write no bonds unasked, newer ones always.
        asked = "include_bonds" in signature(pdbx.set_structure).parameters
        pdbx.set_structure(file, atoms, **({"include_bonds": True} if asked else {}))
    file.write(path)


@pytest.mark.parametrize("suffix", ["pdb", "cif", "bcif"])
@pytest.mark.parametrize("name", ["base.pdb", "3o5r.cif"])
def test_token_values_in_a_file(name, suffix, structures, tmp_path):
    (tmp_path / "base.pdb").write_text(pdb_text())
    data = from_structure((tmp_path if name == "base.pdb" else structures) / name)
    values = torch.linspace(-1.5, 90.25, data.num_tokens)
    path = tmp_path / f"values.{suffix}"
    write(to_atom_array(data, values), path)
    expected = values[data.atom_to_token].numpy()
    np.testing.assert_allclose(read_b_factors(path).b_factor, expected, atol=0.005)
    # What was written reads as the same graph.
    again = from_structure(path)
    for name in ("token_name", "atom_name", "ins_code", "chain_id"):
        assert again[name] == data[name], name
    for name in ("z", "res_id", "atom_to_token", "edge_index", "hetero"):
        assert torch.equal(again[name], data[name]), name
    assert again.pos.allclose(data.pos, atol=1e-3)
