import numpy as np
import pytest
import torch
from residues import chain

from pyg_atomenc.io import from_atom_array, from_smiles, from_structure, to_atom_array

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")


def assert_equal(one, other):
    assert set(one.keys()) == set(other.keys())
    for name, value in one.to_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(
                value, other[name], rtol=0, atol=0, equal_nan=True, msg=name
            )
        else:
            assert value == other[name], name


@pytest.mark.parametrize(
    "name, options",
    [
        ("1aki.cif", {}),
        ("5ugo.cif", {"unresolved": True}),
        ("4gxy.cif", {"assembly": "1"}),
        ("3o5r.pdb", {"waters": False}),
    ],
)
def test_real_entries_there_and_back(name, options, structures):
    data = from_structure(structures / name, **options)
    again = from_atom_array(to_atom_array(data))
    assert data.reading_notes == ""
    assert_equal(again, data)


def with_bonds(kind):
    names = ("N", "CA", "C", "O", "CB")
    atoms = chain(("ALA", *names), bonds=[(0, 1), (1, 2), (2, 3), (1, 4)])
    pairs = atoms.bonds.as_array()[:, :2]
    column = np.full((len(pairs), 1), int(kind))
    atoms.bonds = struc.BondList(5, np.hstack([pairs, column]))
    return atoms


def test_hydrogens_where_orders_or_bonds_are_unknown():
    single = from_atom_array(with_bonds(struc.BondType.SINGLE)).num_hydrogens
    assert single.tolist() == [2, 1, 2, 1, 3]
    unknown = from_atom_array(with_bonds(struc.BondType.ANY)).num_hydrogens
    assert unknown.equal(single)
    atoms = with_bonds(struc.BondType.ANY)
    atoms.bonds = None
    assert from_atom_array(atoms).num_hydrogens.tolist() == [0] * 5
    atoms.set_annotation("num_hydrogens", np.array([3, 1, 0, 0, 3]))
    assert from_atom_array(atoms).num_hydrogens.tolist() == [3, 1, 0, 0, 3]


@pytest.mark.parametrize(
    "name, value",
    [
        ("charge", np.nan),
        ("charge", "?"),
        ("charge", 0.5),
        ("label_seq_id", "x"),
        ("sym_id", "one"),
    ],
)
def test_annotations_that_are_no_integers(name, value):
    atoms = chain(("ALA", "N", "CA"))
    atoms.set_annotation(name, np.full(2, value))
    with pytest.raises(ValueError, match=f"'{name}' holds .*whole numbers"):
        from_atom_array(atoms)


def test_resolved_may_be_told_in_integers():
    atoms = chain(("ALA", "N", "CA"))
    atoms.coord[1] = np.nan
    atoms.set_annotation("is_resolved", np.array([1, 0]))
    assert from_atom_array(atoms).is_resolved.tolist() == [True, False]
    atoms.set_annotation("is_resolved", np.array([1, 1]))
    with pytest.raises(ValueError, match=r"'pos' is .*\(CA of ALA 0 in chain 'A'\)"):
        from_atom_array(atoms)


def test_bonds_that_are_listed_one_way():
    data = from_atom_array(with_bonds(struc.BondType.DOUBLE))
    down = data.edge_index[0] > data.edge_index[1]
    data.edge_index, data.edge_attr = data.edge_index[:, down], data.edge_attr[down]
    bonds = sorted(to_atom_array(data).bonds.as_array().tolist())
    assert bonds == [[0, 1, 2], [1, 2, 2], [1, 4, 2], [2, 3, 2]]


def test_token_values():
    data = from_atom_array(chain(("ALA", "N", "CA"), ("GLY", "N")))
    for values in (torch.tensor([1, 2]), torch.tensor([1.0, 2.0], requires_grad=True)):
        atoms = to_atom_array(data, values)
        assert atoms.b_factor.tolist() == [1.0, 1.0, 2.0]
    assert to_atom_array(data, values, "mine").mine.tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize(
    "values, annotation, message",
    [
        ("ab", "b_factor", "'token_values' needs .* found: str"),
        (torch.ones(1), "b_factor", r"'token_values' needs .* found: \[1\]"),
        (torch.ones(2), "coord", "'annotation' is 'coord'"),
        (torch.ones(2), "res_id", "'annotation' is 'res_id'"),
        (torch.ones(2), None, "'annotation' is None"),
    ],
)
def test_bad_token_values(values, annotation, message):
    data = from_atom_array(chain(("ALA", "N", "CA"), ("GLY", "N")))
    with pytest.raises(ValueError, match=message):
        to_atom_array(data, values, annotation)


def test_graphs_that_are_no_atoms():
    data = from_atom_array(chain(("ALA", "N", "CA")))
    for z in ([200, 6], [-1, 6], [6.0, 7.0]):
        data.z = torch.tensor(z)
        with pytest.raises(ValueError, match="'z' (is of|has values)"):
            to_atom_array(data)
    data.z, data.pos = torch.tensor([6, 7]), torch.rand(2, 2)
    with pytest.raises(ValueError, match=r"'pos' needs .* found: \[2, 2\]"):
        to_atom_array(data)
    with pytest.raises(ValueError, match="'pos' holds no known position"):
        to_atom_array(from_smiles("CCO"))
