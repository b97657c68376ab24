import pytest

from pyg_atomenc.io.pdb import check_lines, fill_blanks

LINE = "HETATM    1 {:4} {:3} A   1      10.000  20.000  30.000"


@pytest.mark.parametrize(
    "name, residue, element",
    [
        (" CA ", "GLY", " C"),
        ("CA  ", "CA ", "CA"),
        ("ZN  ", "ZN ", "ZN"),
        # Unknown components: by where the name stands.
        (" CA ", "!!!", " C"),
        ("CA  ", "!!!", "CA"),
        ("HG11", "!!!", " H"),
        ("1HB ", "!!!", " H"),
        ("FE1 ", "!!!", "FE"),
    ],
)
def test_elements_that_the_line_leaves_blank(name, residue, element):
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    line = fill_blanks(LINE.format(name, residue))
    assert line[54:66] == "  1.00  0.00" and line[76:78] == element
    whole = f"{line[:54]}  0.50 12.00{'':10}MG2+"
    assert fill_blanks(whole) == whole


ATOM = LINE.format(" CA ", "GLY") + "  1.00  0.00           C"


@pytest.mark.parametrize(
    "lines, message",
    [
        (["END", ATOM], "line 2 is an atom behind the END"),
        (["MODEL        1", ATOM, "ENDMDL", ATOM], "line 4 is an atom between"),
        ([ATOM, "ENDMDL", ATOM], "line 3 is an atom between"),
        ([ATOM, "MODEL        1"], "line 2 starts a model, but"),
        (["MODEL        1", ATOM], "its last model has no ENDMDL"),
        (["HEADER", ATOM], "it has no END record"),
        ([" " + ATOM], "line 1 starts with ' HETATM'"),
        (["XETATM" + ATOM[6:]], "line 1 has coordinates, but starts with 'XETATM'"),
        ([ATOM, ATOM[:50]], "line 2 ends within an atom"),
        ([ATOM[:52]], "line 1 ends within an atom"),
        ([ATOM, ATOM[:57]], "line 2 ends within an atom"),
        ([ATOM.replace("20.000", "20_000")], "line 1 has the numbers"),
        ([ATOM + "2"], "line 1 has the charge '2' without a sign"),
        ([ATOM, "MASTER" + " " * 44 + "    2"], "it has 1 atoms, and its MASTER"),
    ],
)
def test_files_that_are_not_whole(lines, message):
    with pytest.raises(ValueError, match=message):
        check_lines(lines, closed=True)


def test_files_that_are():
    check_lines([ATOM, "END"], closed=True)
    check_lines(
        ["MODEL        1", ATOM, "ENDMDL", "MODEL        2", ATOM, "ENDMDL"], True
    )
    check_lines([ATOM], closed=False)
    with pytest.raises(ValueError, match="line 2 ends within an atom"):
        check_lines([ATOM, ATOM[:62]], closed=False)
