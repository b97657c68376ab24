"""PDB files, line by line; what programs write that the format does not foresee."""

import pytest
import torch
from torch_geometric.data import Batch

from pyg_atomenc.io import from_structure

pytest.importorskip("biotite.structure", reason="biotite is not installed")
pytest.importorskip("gemmi", reason="gemmi is not installed")


def line(
    name, residue, chain=" A", number=1, xyz=(0.0, 0.0, 0.0), element="", serial=1,
    record="ATOM", altloc=" ", ins=" ", segment="", occupancy=1.0,
):  # fmt: skip
    """Columns as the format has them; names of four columns are taken as they are."""
    position = "".join(
        f"{x:8.3f}" if isinstance(x, (int, float)) else f"{x:>8}" for x in xyz
    )
    name = name if len(name) == 4 else f" {name:3}"
    return (
        f"{record:6}{serial:>5} {name}{altloc}{residue:>3}{chain}{number:>4}{ins}   "
        f"{position}{occupancy:6.2f}  0.00{'':6}{segment:4}{element:>2}"
    )


def read(folder, *lines, **options):
    path = folder / "a.pdb"
    path.write_text("\n".join(lines) + "\n")
    return from_structure(path, **options)


def bonds(data):
    ends = data.edge_index.t().tolist()
    return {(a, b) for a, b in ends if a < b}


def glycines(*numbers, apart=1.33, chain=" A", segments=("", "")):
    """N and C of two glycines, the second N so far from the first C."""
    one, other = numbers
    return [
        line("N", "GLY", chain, one, (0, 0, 0), "N", segment=segments[0]),
        line("CA", "GLY", chain, one, (1.45, 0, 0), "C", segment=segments[0]),
        line("C", "GLY", chain, one, (2, 1.4, 0), "C", segment=segments[0]),
        line("N", "GLY", chain, other, (2 + apart, 1.4, 0), "N", segment=segments[1]),
        line(
            "CA", "GLY", chain, other, (3.5 + apart, 1.4, 0), "C", segment=segments[1]
        ),
    ]


def test_what_follows_is_bonded_where_it_is_near(tmp_path):
    inside = {(0, 1), (1, 2), (3, 4)}
    assert bonds(read(tmp_path, *glycines(1, 2))) == inside | {(2, 3)}
    assert bonds(read(tmp_path, *glycines(1, 2, apart=3))) == inside | {(2, 3)}
    assert bonds(read(tmp_path, *glycines(1, 2, apart=40))) == inside
    lines = glycines(1, 2)
    assert bonds(read(tmp_path, *lines[:3], "TER", *lines[3:])) == inside
    assert bonds(read(tmp_path, *glycines(1, 2, segments=("P1", "P2")))) == inside


@pytest.mark.filterwarnings("ignore:.*number")
def test_residue_numbers_that_do_not_fit(tmp_path):
    waters = [
        line("O", "HOH", number="****", xyz=(3.0 * i, 0, 0), element="O")
        for i in range(3)
    ]
    data = read(tmp_path, line("O", "HOH", number=9999, element="O"), *waters)
    assert data.num_tokens == 4 and data.token_res_id.unique().numel() == 4
    assert "residue number did not fit its columns: 3" in data.reading_notes
    # Notes are those of one file.
    assert Batch.from_data_list([data]).reading_notes == ""
    more = [line("O", "HOH", number="A000", element="O"),
            line("O", "HOH", number="a000", xyz=(3, 0, 0), element="O")]  # fmt: skip
    data = read(tmp_path, *more)
    assert data.token_res_id.tolist() == [10_000, 10_000 + 26 * 36**3]
    # As NAMD goes on, in hexadecimal digits.
    more = [line("O", "HOH", number=f"{number:x}", xyz=(number / 2, 0, 0), element="O")
            for number in range(9997, 10_003)]  # fmt: skip
    assert read(tmp_path, *more).token_res_id.unique().numel() == 6


def test_three_waters_of_one_number(tmp_path):
    rows = [line(name, "HOH", xyz=(5 * i + x, 0, 0), element=name[0])
            for i in range(3) for name, x in (("O", 0.0), ("H1", 0.9))]  # fmt: skip
    data = read(tmp_path, *rows)
    assert data.atom_to_token.tolist() == [0, 0, 1, 1, 2, 2]
    assert bonds(data) == {(0, 1), (2, 3), (4, 5)}


def test_chains_of_two_letters_and_names_of_four(tmp_path):
    data = read(tmp_path, line("N", "GLY", "AB", element="N"),
                line("N", "GLY", "CB", xyz=(9, 0, 0), element="N"))  # fmt: skip
    assert data.token_chain == ["AB", "CB"]
    with pytest.warns(UserWarning, match="residues TIP3 read as HOH: 1"):
        data = read(tmp_path, line("OH2", "TIP", "3W", element="O"))
    assert data.token_chain == ["W"] and data.token_name == ["HOH"]
    assert data.atom_name == ["O"]
    with pytest.warns(UserWarning, match="ligands POPC bonded by distance"):
        data = read(tmp_path, line("P", "POPC", "L", element="P"),
                    line("O11", "POPC", "L", xyz=(1.6, 0, 0), element="O"))  # fmt: skip
    assert data.token_chain == ["L"] and data.token_name == ["POPC"]
    data = read(tmp_path, line("C2A", "PLP", "CA", element="C"))
    assert data.token_chain == ["CA"] and data.token_name == ["PLP"]


def test_standard_names_with_a_letter_more(tmp_path):
    """GROMACS' HISE in chain A, and HIS in chain EA among others of that chain."""
    atoms = [dict(name="N", element="N"), dict(name="CA", xyz=(9, 0, 0), element="C")]
    with pytest.warns(UserWarning, match="residues HISE read as HIS: 1"):
        data = read(tmp_path, line(residue="ALA", chain="A", **atoms[0]),
                    line(residue="HISE", chain="A", **atoms[1]))  # fmt: skip
    assert data.token_chain == ["A", "A"] and data.token_name == ["ALA", "HIS"]
    data = read(tmp_path, line(residue="ALA", chain="EA", **atoms[0]),
                line(residue="HIS", chain="EA", **atoms[1]))  # fmt: skip
    assert data.token_chain == ["EA", "EA"] and data.token_name == ["ALA", "HIS"]


@pytest.mark.filterwarnings("ignore:.*read as|.*elements told")
@pytest.mark.parametrize(
    "name, residue, z",
    [
        ("POT ", "POT", 19), ("SOD ", "SOD", 11), ("CLA ", "CLA", 17),
        ("CAL ", "CAL", 20), (" CA ", "GLY", 6), ("CA  ", "GLY", 6),
        ("CA  ", "CA ", 20), ("ZN  ", "ZN ", 30),
        # Unknown components: by the letters, wherever they stand.
        (" CA ", "!!!", 6), ("CA  ", "!!!", 6), ("HG11", "!!!", 1), ("1HB ", "!!!", 1),
        ("FE1 ", "!!!", 26), ("CL1 ", "!!!", 17), ("HG  ", "HIS", 1),
    ],
)  # fmt: skip
def test_elements_that_the_line_leaves_blank(name, residue, z, tmp_path):
    data = read(tmp_path, line(name, residue, record="HETATM"))
    assert data.z.tolist() == [z]


ATOM = line("CA", "GLY", element="C")


@pytest.mark.filterwarnings("ignore:.*end")
@pytest.mark.parametrize(
    "lines",
    [
        ["HEADER    NO END", ATOM],
        ["HEADER    X", ATOM, "MASTER" + " " * 44 + "    2", "END"],
        [ATOM, "END", "END"],
        [ATOM, "ENDMDL"],
        [ATOM + " 1"],
        [ATOM[:54]],
        [ATOM[:60]],
        [ATOM[:72] + "1ABC1234"],
        ["REMARK   1 \xc4", ATOM],
    ],
)
@pytest.mark.filterwarnings("ignore:.*:")
def test_files_that_others_read(lines, tmp_path):
    path = tmp_path / "a.pdb"
    path.write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    data = from_structure(path)
    assert data.z.tolist() == [6]
    assert data.formal_charge.tolist() == [1 if lines[0].endswith(" 1") else 0]


@pytest.mark.parametrize(
    "lines, message",
    [
        ([ATOM, ATOM[:50]], "line 2 ends within an atom"),
        ([ATOM, "TER", ATOM[:52]], "line 3 ends within an atom"),
        ([ATOM[:30] + "   0_000" + ATOM[38:]], "line 1 has the number '0_000'"),
        ([ATOM[:30] + "   one  " + ATOM[38:]], "line 1 has the number 'one'"),
        ([ATOM[:30] + "        " + ATOM[38:]], "line 1 has the number ''"),
        ([ATOM[:22] + " 1.5" + ATOM[26:]], "line 1 has a residue number"),
        ([ATOM[:12] + "\xc4" + ATOM[13:]], "line 1 has letters beyond ASCII"),
    ],
)
def test_files_that_are_not_whole(lines, message, tmp_path):
    path = tmp_path / "a.pdb"
    path.write_bytes("\n".join([*lines, ""]).encode("latin-1"))
    with pytest.raises(ValueError, match=message) as caught:
        from_structure(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("x", ["********", "nan"])
def test_positions_that_are_not_there(x, tmp_path):
    rows = [ATOM, line("N", "GLY", xyz=(x, 0, 0), element="N")]
    with pytest.warns(
        UserWarning, match="without a position are unresolved: 1"
    ) as told:
        data = read(tmp_path, *rows)
    assert len(told) == 1
    assert data.is_resolved.tolist() == [True, False] and data.pos[1].isnan().all()
    with pytest.raises(ValueError, match="a.pdb: atoms without a position"):
        read(tmp_path, *rows, strict=True)


@pytest.mark.filterwarnings("ignore:.*records END")
def test_atoms_behind_an_end(tmp_path):
    other = line("CA", "GLY", number=2, xyz=(9, 0, 0), element="C")
    same = read(tmp_path, ATOM, "END", other, "END", model="all")
    assert [data.num_nodes for data in same] == [1, 1]
    more = [other, line("N", "GLY", number=2, xyz=(8, 1, 0), element="N")]
    assert read(tmp_path, ATOM, "END", *more).num_nodes == 3


def test_links_and_disulfides(tmp_path):
    rows = [
        line("SG", "CYS", number=1, element="S"),
        line("SG", "CYS", number=9, xyz=(2.05, 0, 0), element="S"),
        line("O", "GLY", number=20, xyz=(9, 0, 0), element="O"),
        line("NA", "NA", " B", 1, (11.4, 0, 0), "NA", record="HETATM"),
        line("C", "GLY", " C", 1, (30, 0, 0), "C"),
        line("N", "GLY", " C", 9, (33.5, 0, 0), "N"),
    ]
    head = [
        "SSBOND   1 CYS A    1    CYS A    9" + " " * 26 + "1555   1555  2.05",
        "LINK         O   GLY A  20                NA    NA B   1     1555   1555",
        "LINK         C   GLY C   1                 N   GLY C   9     1555   1555",
    ]
    data = read(tmp_path, *head, *rows)
    assert bonds(data) == {(0, 1), (2, 3), (4, 5)}
    assert data.edge_attr.argmax(dim=1).tolist() == [0, 0, 4, 4, 0, 0]
    moved = [text.replace("1555   1555", "1555   3555") for text in head]
    # Sulfurs that are so near are bonded whatever the file says, which is told.
    with pytest.warns(UserWarning, match="disulfides bonded by distance: 1"):
        assert bonds(read(tmp_path, *moved, *rows)) == {(0, 1)}


def test_caps_ends_and_old_names(tmp_path):
    """Acetyl, glycine with the names of CHARMM, and a methylamine."""
    rows = [
        line("CH3", "ACE", number=1, xyz=(-1.5, 0, 0), element="C"),
        line("C", "ACE", number=1, xyz=(0, 0, 0), element="C"),
        line("O", "ACE", number=1, xyz=(0.6, -1.1, 0), element="O"),
        line("N", "GLY", number=2, xyz=(0.8, 1.1, 0), element="N"),
        line("HN", "GLY", number=2, xyz=(0.3, 2.0, 0), element="H"),
        line("CA", "GLY", number=2, xyz=(2.2, 1.2, 0), element="C"),
        line("C", "GLY", number=2, xyz=(2.9, 2.5, 0), element="C"),
        line("O", "GLY", number=2, xyz=(2.3, 3.6, 0), element="O"),
        line("N", "NME", number=3, xyz=(4.2, 2.4, 0), element="N"),
        line("CH3", "NME", number=3, xyz=(5.0, 3.6, 0), element="C"),
        line("C1*", "DA", " B", 1, (20, 0, 0), "C"),
        line("C2*", "DA", " B", 1, (21.5, 0, 0), "C"),
        line("OT1", "ALA", " C", 1, (30, 0, 0), "O"),
        line("C", "ALA", " C", 1, (31.2, 0, 0), "C"),
        line("OT2", "ALA", " C", 1, (32, 1, 0), "O"),
    ]
    with pytest.warns(UserWarning, match="atoms renamed.*: 5; hydrogens bonded.*: 1"):
        data = read(tmp_path, *rows)
    assert bonds(data) == {(0, 1), (1, 2), (1, 3), (3, 4), (3, 5), (5, 6), (6, 7),
                           (6, 8), (8, 9), (10, 11), (12, 13), (13, 14)}  # fmt: skip
    assert data.atom_name[10:] == ["C1'", "C2'", "O", "C", "OXT"]


def test_caps_that_charmm_counts_to_a_residue(tmp_path):
    """An alanine dipeptide of patches ACE and CT3: all of it is residue 1."""
    names = "CAY HY1 CY OY N HN CA CB C O NT HNT CAT HT1".split()
    places = [(0, 0, 0), (-0.6, 0.9, 0), (1.5, 0, 0), (2.1, -1.1, 0), (2.2, 1.2, 0),
              (1.6, 2.0, 0), (3.6, 1.3, 0), (4.2, 0.6, 1.2), (4.1, 2.7, 0),
              (3.3, 3.7, 0), (5.4, 2.9, 0), (6.0, 2.1, 0), (6.1, 4.2, 0),
              (7.2, 4.1, 0)]  # fmt: skip
    rows = [line(*pair, xyz=xyz, element=pair[0][0], segment="PROA") for pair, xyz
            in zip(((name, "ALA") for name in names), places, strict=True)]  # fmt: skip
    with pytest.warns(UserWarning, match="caps read as residues ACE: 1; .* NME: 1;"):
        data = read(tmp_path, *rows)
    assert data.token_name == ["ACE", "ALA", "NME"]
    assert data.token_entity_kind.tolist() == [0, 0, 0]
    assert bonds(data) == {(0, 1), (0, 2), (2, 3), (2, 4), (4, 5), (4, 6), (6, 7),
                           (6, 8), (8, 9), (8, 10), (10, 11), (10, 12),
                           (12, 13)}  # fmt: skip
    # The same as a nitrogen alone at the end.
    rows[12:] = []
    with pytest.warns(UserWarning, match="caps .*; caps read as residues NH2: 1;"):
        assert read(tmp_path, *rows).token_name == ["ACE", "ALA", "NH2"]


def test_atoms_that_their_component_does_not_have(tmp_path):
    rows = [line(name, "SER", xyz=xyz, element=name[0]) for name, xyz in (
        ("CB", (0, 0, 0)), ("OG", (1.42, 0, 0)), ("P", (2.2, 1.4, 0)),
        ("O1P", (3.7, 1.2, 0)))]  # fmt: skip
    with pytest.warns(UserWarning, match="atoms of SER bonded by distance: 2"):
        data = read(tmp_path, *rows)
    assert bonds(data) == {(0, 1), (1, 2), (2, 3)}


def test_bonds_of_atoms_whose_numbers_come_back(tmp_path):
    rows = [line(f"C{i}", "LIG", serial=min(i, 2), xyz=(1.5 * i, 0, 0), element="C")
            for i in (1, 2, 3)]  # fmt: skip
    with pytest.warns(UserWarning, match="atoms of one number left out: 1"):
        assert bonds(read(tmp_path, *rows, "CONECT    1    2")) == {(0, 1), (1, 2)}


def molecule(make, what):
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    from rdkit.Chem import AllChem

    mol = chem.AddHs(getattr(chem, make)(what), addResidueInfo=True)
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return mol


@pytest.mark.filterwarnings("ignore:.*as the file says|.*hydrogens bonded")
@pytest.mark.parametrize("flavor", [0, 8, 10])
@pytest.mark.parametrize(
    "make, what",
    [("MolFromSequence", "ACDHG"), ("MolFromFASTA", ">\nGAW"),
     ("MolFromSmiles", "CC(=O)Oc1ccccc1C(=O)O"), ("MolFromSmiles", "C1CC1C#N"),
     ("MolFromSmiles", "[O-][N+](=O)c1ccc(Cl)cc1Br"), ("MolFromSmiles", "CC[NH3+]"),
     ("MolFromSmiles", "COP(=O)([O-])OP(=O)([O-])O"),
     ("MolFromSmiles", "C[N+](C)(C)CC(=O)[O-]")],
)  # fmt: skip
def test_molecules_that_rdkit_wrote(make, what, flavor, tmp_path):
    """Its own names of hydrogens; orders by CONECT, by valence, and without bonds."""
    from rdkit import Chem

    mol = molecule(make, what)
    rows = Chem.MolToPDBBlock(mol, flavor=flavor).split("\n")
    if flavor == 10:
        # Neither tells anybody what is charged.
        rows = [row[:78] for row in rows if not row.startswith("CONECT")]
    data = read(tmp_path, *rows)
    assert bonds(data) == {
        tuple(sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())))
        for bond in mol.GetBonds()
    }
    hydrogens = [atom.GetTotalNumHs(True) for atom in mol.GetAtoms()]
    assert data.num_hydrogens.tolist() == hydrogens


def test_hydrogens_by_any_name(tmp_path):
    rows = [
        line("N", "ALA", xyz=(0, 0, 0), element="N"),
        *(line(f"{letter}{i}", "ALA", xyz=xyz, element=letter)
          for i, (letter, xyz) in enumerate(
              [("H", (-1, 0, 0)), ("H", (0, -1, 0)), ("D", (0, 0, 1))], 1)),
        line("CA", "ALA", xyz=(1.45, 0, 0), element="C"),
        line("CB", "ALA", xyz=(2, 1.4, 0), element="C"),
        line("1HB ", "ALA", xyz=(3, 1.4, 0.3), element="H"),
        line("DB2", "ALA", xyz=(1.6, 2.0, 0.8), element="D"),
        line("HX", "ALA", xyz=(9, 9, 9), element="H"),
    ]  # fmt: skip
    with pytest.warns(UserWarning, match="hydrogens bonded to the nearest atom: 1"):
        data = read(tmp_path, *rows)
    assert bonds(data) == {(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (5, 6), (5, 7)}
    assert data.z.tolist() == [7, 1, 1, 1, 6, 6, 1, 1, 1]
    assert data.num_hydrogens.tolist()[:1] == [3]


def as_charmm(lines):
    """An entry as CHARMM has it: no chains, no elements, no record of disulfides."""
    renamed = {("ILE", "CD1"): " CD ", ("HOH", "O"): " OH2", ("LEU", "OXT"): " OT2"}
    for text in lines:
        if text.startswith(("ATOM", "HETATM")):
            residue, name = text[17:20], text[12:16].strip()
            last = text[22:26] == " 129" and residue == "LEU" and name == "O"
            field = " OT1" if last else renamed.get((residue, name), text[12:16])
            water = residue == "HOH"
            residue = "TIP3" if water else {"HIS": "HSD "}.get(residue, residue + " ")
            text = (f"ATOM  {text[6:12]}{field}{text[16]}{residue} {text[22:66]}"
                    f"{'':6}{'WAT ' if water else 'PROA'}")  # fmt: skip
            yield text


def as_amber(lines):
    """An entry with the names of AMBER: none of waters, ends of chains, cysteines."""
    for text in lines:
        if text.startswith(("ATOM", "HETATM")):
            residue, number = text[17:20], int(text[22:26])
            residue = {"HOH": "WAT", "HIS": "HIE", "CYS": "CYX"}.get(residue, residue)
            if text[:4] == "ATOM" and number in (1, 129):
                residue = f"{'N' if number == 1 else 'C'}{residue}"
            residue = residue if len(residue) == 4 else residue + " "
            yield f"ATOM  {text[6:17]}{residue} {text[22:54]}  1.00  0.00"


@pytest.mark.parametrize("rename", [as_charmm, as_amber])
def test_an_entry_as_programs_write_it(rename, structures, tmp_path):
    lines = (structures / "1aki.pdb").read_text().split("\n")
    data = from_structure(structures / "1aki.pdb")
    with pytest.warns(UserWarning, match="78;.*disulfides.*distance: 4") as told:
        again = read(tmp_path, *rename(lines))
    assert len(told) == 1
    for name in ("z", "atom_to_token", "edge_index", "edge_attr", "num_hydrogens",
                 "token_entity_kind", "token_is_standard", "chirality"):  # fmt: skip
        assert torch.equal(again[name], data[name]), name
    assert again.token_name == data.token_name and again.atom_name == data.atom_name
    with pytest.warns(UserWarning, match="read as HOH: 78"):
        assert from_structure(tmp_path / "a.pdb", waters=False).num_tokens == 129
