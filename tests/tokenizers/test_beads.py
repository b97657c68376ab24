import pytest
from residues import chain

from pyg_atomenc.io import from_structure
from pyg_atomenc.tokenizers import MARTINI_PROTEIN, Beads

pytest.importorskip("biotite.structure", reason="biotite is not installed")


def test_phenylalanine_with_hydrogens_and_a_ligand():
    atoms = chain(
        ("PHE", *"N CA C O CB CG CD1 CD2 CE1 CE2 CZ HB2 XX YY".split()),
        ("LIG", "CA", "CB"),
        bonds=[(0, 1), (1, 2), (2, 3), (1, 4), (4, 5), (4, 11)],
    )
    tokens = Beads()(atoms)
    assert tokens.atom_to_token.tolist() == (
        [0, 0, 0, 0, 1, 1, 2, 3, 2, 3, 3, 1, 4, 4, 5, 5]
    )
    assert tokens.attributes["token_name"] == (
        ["PHE:BB", "PHE:SC1", "PHE:SC2", "PHE:SC3", "PHE", "LIG"]
    )
    assert tokens.representative.tolist() == [1, 4, 6, 7, 12, 14]
    assert repr(Beads()) == "Beads(20 residues)"


def test_own_mapping_over_several_bonds():
    atoms = chain(("X", "A", "B", "C", "D"), bonds=[(0, 1), (1, 2)])
    tokens = Beads({"X": {"first": ["A"], "last": ["D"]}})(atoms)
    assert tokens.atom_to_token.tolist() == [0, 0, 0, 1]
    assert tokens.attributes["token_name"] == ["X:first", "X:last"]


def test_the_table_names_every_heavy_atom_once():
    info = pytest.importorskip("biotite.structure.info")
    assert len(MARTINI_PROTEIN) == 20
    for name, beads in MARTINI_PROTEIN.items():
        component = info.residue(name)
        heavy = component.atom_name[component.element != "H"].tolist()
        assert sorted(atom for bead in beads.values() for atom in bead) == sorted(heavy)


def test_a_real_protein(structures):
    path = structures / "1aki.cif"
    beads = from_structure(path, Beads(), waters=False)
    residues = from_structure(path, waters=False)
    expected = sum(len(MARTINI_PROTEIN[name]) for name in residues.token_name)
    assert beads.num_tokens == expected > residues.num_tokens


@pytest.mark.parametrize(
    "mapping, message",
    [
        (["A"], "'mapping' is of type list"),
        ({"ALA": ["N"]}, "'mapping' has \\['N'\\] for residue 'ALA'"),
        ({"ALA": {"BB": "N CA"}}, "'mapping' has .* for residue 'ALA'"),
        ({"ALA": {"BB": ["N"], "SC": ["N"]}}, "names atom 'N' of residue 'ALA' twice"),
    ],
)
def test_bad_mappings(mapping, message):
    with pytest.raises(ValueError, match=message):
        Beads(mapping)


def test_a_long_tail_takes_the_bead_of_its_nearest_named_atom():
    count = 3000
    tail = [f"X{i}" for i in range(count)]
    names = ["CA", *tail, "CB"]
    bonds = [(i, i + 1) for i in range(count + 1)]
    atoms = chain(("ALA", *names), bonds=bonds)
    tokens = Beads()(atoms)
    half = count // 2 + 1
    # The middle is as far from one as from the other: the first in the file decides.
    expected = [0] * half + [1] * half
    assert tokens.atom_to_token.tolist() == expected
    for mapping in ({"ALA": {"B": [1]}}, {"ALA": {"B": [["CA"]]}}):
        with pytest.raises(ValueError, match="'mapping' has"):
            Beads(mapping)
