"""Reading structures: small ones by hand, real ones against gemmi."""

import gzip
import multiprocessing

import numpy as np
import pytest
import torch
from torch_geometric.loader import DataLoader

from pyg_atomenc import AtomAttentionEncoder
from pyg_atomenc.errors import FileFormatError
from pyg_atomenc.io import BOND_TYPES, from_atom_array, from_structure
from pyg_atomenc.tokenizers import Tokens

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")

PDB = """\
ATOM      1  N   GLY A   1       0.000   0.000   0.000  1.00  0.00           N
ATOM      2  CA  GLY A   1       1.450   0.000   0.000  1.00  0.00           C
ATOM      3  C   GLY A   1       2.000   1.400   0.000  1.00  0.00           C
ATOM      4  O   GLY A   1       1.300   2.400   0.000  1.00  0.00           O
ATOM      5  N   ALA A   1A      3.300   1.500   0.000  1.00  0.00           N1+
ATOM      6  CA AALA A   1A      4.000   2.800   0.000  0.40  0.00           C
ATOM      7  CA BALA A   1A      4.100   2.900   0.000  0.60  0.00           C
HETATM    8  O   HOH A 101      10.000   0.000   0.000  1.00  0.00           O
HETATM    9 ZN    ZN A 102      12.000   0.000   0.000  1.00  0.00          ZN2+
ATOM     10  H   GLY A   1      -0.500   0.800   0.000  1.00  0.00           H
END
"""


def write(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture
def small(tmp_path):
    return write(tmp_path, "small.pdb", PDB)


def test_a_small_file_by_hand(small):
    data = from_structure(small)
    data.validate()
    assert data.z.tolist() == [7, 6, 6, 8, 7, 6, 8, 30, 1]
    assert data.formal_charge.tolist() == [0, 0, 0, 0, 1, 0, 0, 2, 0]
    assert data.atom_name == ["N", "CA", "C", "O", "N", "CA", "O", "ZN", "H"]
    assert data.atom_to_token.tolist() == [0, 0, 0, 0, 1, 1, 2, 3, 0]
    assert data.token_name == ["GLY", "ALA", "HOH", "ZN"]
    assert data.token_res_id.tolist() == [1, 1, 101, 102]
    assert data.token_ins_code == ["", "A", "", ""]
    assert data.token_chain == ["A"] * 4
    assert data.pos.dtype == torch.float32
    torch.testing.assert_close(data.pos[5], torch.tensor([4.1, 2.9, 0.0]))
    bonds = {
        (a, b): BOND_TYPES[kind]
        for (a, b), kind in zip(
            data.edge_index.t().tolist(), data.edge_attr.argmax(1).tolist(), strict=True
        )
    }
    assert bonds == bonds | {(b, a): kind for (a, b), kind in bonds.items()}
    assert {pair: kind for pair, kind in bonds.items() if pair[0] < pair[1]} == {
        (0, 1): "single",
        (1, 2): "single",
        (2, 3): "double",
        (2, 4): "single",
        (4, 5): "single",
        (0, 8): "single",
    }


def test_waters_and_hydrogens(small):
    assert from_structure(small, waters=False).token_name == ["GLY", "ALA", "ZN"]
    assert 1 not in from_structure(small, hydrogens=False).z


def test_an_own_tokenizer_sees_the_atom_array(small):
    def by_chain(atoms):
        names, index = np.unique(atoms.chain_id, return_inverse=True)
        return Tokens(torch.from_numpy(index), len(names))

    assert from_structure(small, by_chain).num_tokens == 1


@pytest.mark.parametrize("name", ["small.PDB.gz", "small.ent"])
def test_names_of_any_kind(name, small, tmp_path):
    content = small.read_bytes()
    path = write(tmp_path, name, gzip.compress(content) if "gz" in name else content)
    for given in (path, str(path)):
        assert from_structure(given).token_name == from_structure(small).token_name


def mmcif(altlocs="AB", numbers=(1, 1)):
    """Two locations of two residues in one place, in two models."""
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id "
        "label_asym_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z "
        "occupancy pdbx_formal_charge auth_seq_id auth_asym_id pdbx_PDB_model_num"
    ).split()
    rows = []
    for model in numbers:
        for altloc, name, occupancy in zip(
            altlocs, ("SER", "THR"), (0.3, 0.7), strict=True
        ):
            for atom in ("N", "CA"):
                rows.append(
                    f"ATOM {len(rows)} {atom[0]} {atom} {altloc} {name} A 5 ? "
                    f"{len(rows)}.0 0 0 {occupancy} ? 25 H {model}"
                )
    names = "\n".join(f"_atom_site.{name}" for name in columns)
    return f"data_x\nloop_\n{names}\n" + "\n".join(rows) + "\n#\n"


@pytest.mark.parametrize("altlocs", ["AB", "12"])
@pytest.mark.parametrize("numbers", [(1, 2), (7, 3)])
def test_models_and_alternate_residues_of_mmcif(altlocs, numbers, tmp_path):
    path = write(tmp_path, "two.cif", mmcif(altlocs, numbers))
    for model, x in [(1, [2.0, 3.0]), (2, [6.0, 7.0])]:
        data = from_structure(path, model=model)
        assert data.token_name == ["THR"] and data.pos[:, 0].tolist() == x
        assert data.token_chain == ["H"] and data.token_res_id.tolist() == [25]
        assert data.edge_index.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("model", [0, True])
def test_bad_model(small, model):
    with pytest.raises(ValueError, match=f"'model' is {model}"):
        from_structure(small, model=model)


def test_limits_of_another_type(small):
    with pytest.raises(ValueError, match="'limits' is of type int: pass a Limits"):
        from_structure(small, limits=3)


BAD = {
    "missing model.pdb": PDB,
    "empty.cif": "",
    "blank.pdb": " \n\n",
    "words.cif": "This is no structure at all.",
    "words.pdb": "This is no structure at all.",
    "words.bcif": b"This is no structure at all.",
    "binary.cif": bytes(range(256)),
    "not gzip.cif.gz": mmcif(),
    "cut.cif.gz": gzip.compress(mmcif().encode())[:-20],
    "a pdb.cif": PDB,
    "no coordinates.cif": mmcif().replace("Cartn_x", "Cartn_q"),
    "no number.cif": mmcif().replace("3.0 0 0", "three 0 0"),
    "infinite.cif": mmcif().replace("2.0 0 0", "inf 0 0"),
    "cut.cif": mmcif()[: mmcif().index("#") - 30],
    "inf.pdb": PDB.replace("   2.000   1.400", "     inf   1.400"),
    "element.pdb": PDB.replace("           O\n", "          Qq\n"),
    "text.xyz": "C 0 0 0",
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name, tmp_path):
    path = write(tmp_path, name, BAD[name])
    with pytest.raises(FileFormatError) as caught:
        from_structure(path, model=2 if name.startswith("missing") else 1)
    assert str(caught.value).startswith(str(path))
    assert isinstance(caught.value, ValueError)


def test_no_file(tmp_path):
    with pytest.raises(FileFormatError, match="does not exist"):
        from_structure(tmp_path / "nothing.cif")
    (tmp_path / "folder.cif").mkdir()
    with pytest.raises(FileFormatError, match="cannot be read"):
        from_structure(tmp_path / "folder.cif")
    only_water = write(tmp_path, "water.pdb", PDB.splitlines()[7] + "\nEND\n")
    with pytest.raises(FileFormatError, match="in model 1 but 1 that 'waters'"):
        from_structure(only_water, waters=False)


def test_bad_arrays(small):
    from biotite.structure.io.pdb import PDBFile

    stack = PDBFile.read(small).get_structure()
    with pytest.raises(ValueError, match="'atoms' is of type AtomArrayStack"):
        from_atom_array(stack)
    atoms = stack[0]
    assert from_atom_array(atoms).num_edges == 0
    atoms.coord[3, 1] = np.inf
    with pytest.raises(ValueError, match=r"'pos' is .*atom 3 \(O of GLY 1"):
        from_atom_array(atoms)


@pytest.mark.parametrize(
    "method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)]
)
def test_real_entries_batch_as_they_are_alone(method, structures):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot start processes by {method}")
    names = ("1l2y.bcif", "hetatm.pdb", "1aki.cif")
    graphs = [from_structure(structures / name) for name in names]
    graphs[0].num_tokens += 2  # trailing tokens without atoms
    del graphs[0].token_res_id
    for graph in graphs[1:]:
        del graph.token_res_id
    torch.manual_seed(0)
    embedding = torch.nn.Embedding(119, 16).double()
    encoder = AtomAttentionEncoder(16, 8, 2).double()
    alone = [encoder(embedding(g.z), g.token_layout()) for g in graphs]
    loader = DataLoader(
        graphs, batch_size=3, num_workers=1, multiprocessing_context=method
    )
    batch = next(iter(loader))
    together = encoder(embedding(batch.z), batch.token_layout())
    assert len(together) == sum(graph.num_tokens for graph in graphs)
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-12)
