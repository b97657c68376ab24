"""mmCIF files as programs write them, and through the writers of gemmi and biotite."""

from inspect import signature

import pytest

from pyg_atomenc.io import from_structure, to_atom_array
from pyg_atomenc.tokenizers import AF3, Residue

pytest.importorskip("biotite.structure", reason="biotite is not installed")
gemmi = pytest.importorskip("gemmi", reason="gemmi is not installed")

COLUMNS = (
    "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id label_asym_id "
    "label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y Cartn_z occupancy auth_seq_id "
    "auth_asym_id pdbx_PDB_model_num"
).split()
# Two glycines, a glucose and two waters.
ROWS = """\
ATOM 1 N N . GLY A 1 ? 0.0 0.0 0.0 1.0 5 H 1
ATOM 2 C CA . GLY A 1 ? 1.45 0.0 0.0 1.0 5 H 1
ATOM 3 C C . GLY A 1 ? 2.0 1.4 0.0 1.0 5 H 1
ATOM 4 N N . GLY A 2 ? 3.33 1.4 0.0 1.0 6 H 1
HETATM 5 C C1 . GLC B . ? 20.0 0.0 0.0 1.0 1 H 1
HETATM 6 C C2 . GLC B . ? 21.5 0.0 0.0 1.0 1 H 1
HETATM 7 O O . HOH C . ? 30.0 0.0 0.0 1.0 101 H 1
HETATM 8 O O . HOH C . ? 34.0 0.0 0.0 1.0 102 H 1"""


def text(columns=COLUMNS, rows=ROWS, **others):
    """The table with some columns, and one value of each in place of another."""
    lines = []
    for row in rows.split("\n"):
        cells = dict(zip(COLUMNS, row.split(), strict=True)) | others
        lines.append(" ".join(cells[name] for name in columns))
    names = "\n".join(f"_atom_site.{name}" for name in columns)
    return f"data_x\nloop_\n{names}\n" + "\n".join(lines) + "\n"


def read(folder, content, **options):
    path = folder / "a.cif"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return from_structure(path, **options)


def bonds(data):
    ends = data.edge_index.t().tolist()
    return {(a, b) for a, b in ends if a < b}


def test_by_hand(tmp_path):
    data = read(tmp_path, text())
    assert data.atom_to_token.tolist() == [0, 0, 0, 1, 2, 2, 3, 4]
    assert data.token_entity_kind.tolist() == [0, 0, 3, 3, 3]
    assert bonds(data) == {(0, 1), (1, 2), (2, 3), (4, 5)}
    assert data.token_label_res_id.tolist() == [1, 2, 0, 0, 0]
    assert data.token_chain == ["H"] * 5 and data.reading_notes == ""


# What may be missing, and whether something then has to be assumed.
MISSING = {
    "group_PDB": False, "id": False, "label_alt_id": False, "occupancy": False,
    "pdbx_PDB_ins_code": False, "pdbx_PDB_model_num": False, "auth_asym_id": False,
    "label_asym_id": False, "label_seq_id": False, "auth_seq_id": False,
    "type_symbol": False,
}  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
@pytest.mark.parametrize("how", ["no column", "?", "."])
def test_columns_that_programs_leave_out(name, how, tmp_path):
    if how == "no column":
        content = text([column for column in COLUMNS if column != name])
    elif name == "group_PDB":
        pytest.skip("the format has no other value")
    else:
        content = text(**{name: how})
    data = read(tmp_path, content)
    assert data.z.tolist() == [7, 6, 6, 7, 6, 6, 8, 8]
    # Waters without a number, and without what tells them apart, are two for all that.
    assert data.atom_to_token.tolist() == [0, 0, 0, 1, 2, 2, 3, 4]
    assert data.token_entity_kind.tolist() == [0, 0, 3, 3, 3]
    assert bonds(data) == {(0, 1), (1, 2), (2, 3), (4, 5)}
    assert bool(data.reading_notes) == MISSING[name]


def test_names_that_become_longer(tmp_path):
    row = "HETATM 1 ? K+ . K+ A . ? 0.0 0.0 0.0 1.0 1 A 1"
    with pytest.warns(UserWarning, match=r"residues K\+ read as K: 1"):
        assert read(tmp_path, text(rows=row)).z.tolist() == [19]
    row = "HETATM 1 ? ZN . ZN A . ? 0.0 0.0 0.0 1.0 1 A 1"
    assert read(tmp_path, text(rows=row)).z.tolist() == [30]
    row = "ATOM 1 C CD . ILE A . ? 0.0 0.0 0.0 1.0 1 A 1"
    with pytest.warns(UserWarning, match="atoms renamed"):
        assert read(tmp_path, text(rows=row)).atom_name == ["CD1"]


def test_what_others_read(tmp_path):
    data = read(tmp_path, text())
    other = text().replace("21.5 ", "21.500(12) ").replace("loop_", "LOOP_")
    assert read(tmp_path, other).pos.equal(data.pos)
    latin = b"#\n_struct.title 'caf\xe9'\n" + text().partition("\n")[2].encode()
    assert read(tmp_path, b"data_x\n" + latin).pos.equal(data.pos)
    before = "data_first\n_cell.length_a 1\n" + text()
    assert read(tmp_path, before).pos.equal(data.pos)
    quoted = text(group_PDB="'ATOM  '").replace(" CA ", " ' CA ' ")
    assert read(tmp_path, quoted).atom_name == data.atom_name
    for charge, value in {"1+": 1, "-1.0": -1, "0.00": 0, "+2": 2}.items():
        rows = "\n".join(f"{row} {charge}" for row in ROWS.split("\n"))
        head, _, _ = text().partition("ATOM")
        charged = read(tmp_path, f"{head}_atom_site.pdbx_formal_charge\n{rows}\n")
        assert charged.formal_charge.tolist() == [value] * 8
    ligand = text().replace("1.0 1 H", "1.0 ? H")
    assert read(tmp_path, ligand).token_res_id.tolist() == [5, 6, 0, 101, 102]


def test_models_whose_rows_take_turns(tmp_path):
    rows = [row for row in ROWS.split("\n") for row in (row, f"{row[:-1]}2")]
    expected = read(tmp_path, text())
    for data in read(tmp_path, text(rows="\n".join(rows)), model="all"):
        assert data.pos.equal(expected.pos) and data.num_tokens == 5


def test_numbers_that_count_no_sequence(tmp_path):
    """Those of the authors in their place, as programs write them."""
    rows = ROWS.replace("A 1 ?", "A -1 ?").replace("A 2 ?", "A 0 ?")
    with pytest.warns(UserWarning, match="label_seq_id counts no sequence: 4"):
        data = read(tmp_path, text(rows=rows.replace("B .", "B 1")))
    assert data.token_entity_kind.tolist() == [0, 0, 3, 3, 3]
    assert (2, 3) in bonds(data) and not data.token_label_res_id.any()


def test_a_block_by_name(tmp_path):
    both = text() + text(rows=ROWS.split("\n")[0]).replace("data_x", "data_y")
    with pytest.warns(UserWarning, match="blocks with atoms that are not read: 1"):
        assert read(tmp_path, both).num_nodes == 8
    assert read(tmp_path, both, block="y").num_nodes == 1
    with pytest.raises(ValueError, match=r"'block' is 'z', but its blocks are \['x', "
                                         r"'y'\]: pass one") as caught:  # fmt: skip
        read(tmp_path, both, block="z")
    assert str(caught.value).startswith(f"{tmp_path / 'a.cif'}: 'block'")
    with pytest.raises(ValueError, match="it has no atom_site in block z"):
        read(tmp_path, both + "data_z\n_cell.length_a 1\n", block="z")
    (tmp_path / "a.pdb").write_text("")
    with pytest.raises(ValueError, match="'block' is 'x', but a PDB file has none"):
        from_structure(tmp_path / "a.pdb", block="x")


@pytest.mark.parametrize(
    "wrong, message",
    [
        (text()[:-30], "cannot be read as mmCIF"),
        (text().replace("_atom_site.id\n", ""), "cannot be read as mmCIF"),
        (text() + "_x.y 'odd\n", "cannot be read as mmCIF"),
        (text().replace("21.5", "21_5"), "row 5 of Cartn_x has the number '21_5'"),
        (text(auth_seq_id="1.5"), "a value of auth_seq_id is no whole number"),
        (text(group_PDB="TER"), "group_PDB is 'TER' in row 0"),
        (text(label_comp_id="?"), "no label_comp_id in row 0"),
        (text([c for c in COLUMNS if c != "Cartn_z"]), "atom_site has no Cartn_z"),
    ],
)
def test_what_cannot_be(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path, wrong)
    assert str(caught.value).startswith(str(tmp_path / "a.cif"))


def test_positions_of_an_input_for_prediction(tmp_path):
    with pytest.warns(UserWarning, match="a.cif: atoms without a position.*: 8"):
        data = read(tmp_path, text(Cartn_x="?"))
    assert not data.is_resolved.any() and data.pos.isnan().all()
    assert data.num_tokens == 5 and len(bonds(data)) == 4


def test_links_at_any_length(tmp_path):
    names = [f"ptnr{i}_{name}" for i in "12" for name in (
        "auth_asym_id", "auth_seq_id", "label_comp_id", "label_atom_id",
        "label_asym_id")]  # fmt: skip
    table = "loop_\n_struct_conn.conn_type_id\n" + "\n".join(
        f"_struct_conn.{name}" for name in names
    )
    rows = "\ncovale H 6 GLY N A H 1 GLC C1 B\nhydrog H 5 GLY N A H 101 HOH O C\n"
    assert (3, 4) in bonds(read(tmp_path, text() + table + rows))
    assert len(bonds(read(tmp_path, text() + table + rows))) == 5


@pytest.mark.parametrize(
    "columns, orders",
    [("value_order pdbx_aromatic_flag", ("DOUB N", "SING Y", "trip n")),
     ("value_order", ("double", "AROM", "TRIPLE")), ("type", ("DOUB", "arom", "trip"))],
)  # fmt: skip
def test_bonds_of_a_component_in_the_file(columns, orders, tmp_path):
    """Whatever programs write of their orders: double, aromatic and triple."""
    rows = "\n".join(f"HETATM {i} C C{i} . LIG A . ? {i}.0 0.0 0.0 1.0 5 H 1"
                     for i in range(4))  # fmt: skip
    names = "comp_id atom_id_1 atom_id_2".split() + columns.split()
    table = ["loop_", *(f"_chem_comp_bond.{name}" for name in names)]
    table += [f"LIG C{i} C{i + 1} {order}" for i, order in enumerate(orders)]
    data = read(tmp_path, text(rows=rows) + "\n".join(table) + "\n")
    upwards = data.edge_index[0] < data.edge_index[1]
    assert data.edge_attr[upwards].argmax(dim=1).tolist() == [1, 3, 2]
    assert data.reading_notes == ""


def test_label_numbers_merge_no_neighbours(tmp_path):
    glycan = ROWS.replace("HOH", "GLC").replace(" O . GLC", " C1 . GLC")
    for rows in (ROWS, glycan):
        data = read(tmp_path, text(rows=rows), numbering="label")
        assert data.num_tokens == 5 and data.res_id.tolist()[4:] == [0] * 4


ENTRIES = "1aki.cif 1aki.pdb 3o5r.cif 3o5r.pdb 4gxy.cif 5ugo.cif".split()


@pytest.mark.parametrize("name", ENTRIES)
@pytest.mark.parametrize("writer", ["gemmi.cif", "gemmi.pdb", "biotite.cif"])
@pytest.mark.filterwarnings("ignore:Attribute", "ignore:.*category")
def test_through_the_writers(name, writer, structures, tmp_path):
    path, target = structures / name, tmp_path / f"written.{writer[-3:]}"
    expected = [from_structure(path, tokenizer) for tokenizer in (Residue(), AF3())]
    if writer.startswith("gemmi"):
        structure = gemmi.read_structure(str(path))
        if writer == "gemmi.pdb":
            structure.write_pdb(str(target))
        else:
            structure.make_mmcif_document().write_file(str(target))
    else:
        from biotite.structure.io import pdbx

        file = pdbx.CIFFile()
        asked = "include_bonds" in signature(pdbx.set_structure).parameters
        options = {"include_bonds": True} if asked else {}
        pdbx.set_structure(file, to_atom_array(expected[0]), **options)
        file.write(target)
    for tokenizer, data in zip((Residue(), AF3()), expected, strict=True):
        again = from_structure(target, tokenizer)
        assert tokens_of(again) == tokens_of(data)


def tokens_of(data):
    """All that tells tokens, whatever their order: gemmi sorts chains anew."""
    rows = zip(data.atom_to_token.tolist(), data.atom_name, data.pos.tolist(),
               strict=True)  # fmt: skip
    atoms = [[] for _ in range(data.num_tokens)]
    for token, name, pos in rows:
        atoms[token].append((name, *(round(x, 2) for x in pos)))
    return sorted(
        zip(data.token_chain, data.token_res_id.tolist(), data.token_name,
            data.token_entity_kind.tolist(), map(sorted, atoms), strict=True)
    )  # fmt: skip


def test_tokens_of_a_file_that_numbers_no_sequence(structures, tmp_path):
    structure = gemmi.read_structure(str(structures / "1aki.pdb"))
    path = tmp_path / "1aki.cif"
    structure.make_mmcif_document().write_file(str(path))
    assert from_structure(path, AF3(), waters=False).num_tokens == 169
