"""Ligands that the dictionary does not know: bonds by template, distance, or none."""

import sys

import numpy as np
import pytest

from pyg_atomenc.io import BOND_TYPES, from_atom_array, from_structure

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")
chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
pytest.importorskip("gemmi", reason="gemmi is not installed")

SMILES = "CC(=O)Nc1ccc(C#N)cc1"


@pytest.fixture(scope="module")
def molecule():
    from rdkit.Chem import AllChem

    mol = chem.AddHs(chem.MolFromSmiles(SMILES))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return mol


def write(mol, folder, name="LIG", hydrogens=True, suffix="pdb"):
    """A molecule as a program writes it that tells no bonds."""
    from biotite.structure.io import save_structure

    if not hydrogens:
        mol = chem.RemoveHs(mol)
    atoms = struc.AtomArray(mol.GetNumAtoms())
    atoms.coord = mol.GetConformer().GetPositions()
    atoms.element = np.array([atom.GetSymbol().upper() for atom in mol.GetAtoms()])
    atoms.atom_name = np.array([f"{e}{i}" for i, e in enumerate(atoms.element)])
    atoms.res_name[:], atoms.chain_id[:], atoms.hetero[:] = name, "L", True
    atoms.res_id[:] = 1
    path = folder / f"ligand.{suffix}"
    save_structure(str(path), atoms)
    return path


def bonds_of(data):
    kinds = data.edge_attr.argmax(dim=1).tolist()
    ends = data.edge_index.t().tolist()
    return sorted((a, b, BOND_TYPES[k]) for (a, b), k in zip(ends, kinds, strict=True)
                  if a < b)  # fmt: skip


def expected(mol, orders=True):
    return sorted(
        (*sorted((b.GetBeginAtomIdx(), b.GetEndAtomIdx())),
         b.GetBondType().name.lower() if orders else "other")
        for b in mol.GetBonds()
    )  # fmt: skip


@pytest.mark.parametrize("suffix", ["pdb", "cif"])
def test_a_template(suffix, molecule, tmp_path):
    path = write(molecule, tmp_path, suffix=suffix, hydrogens=False)
    bare = chem.RemoveHs(molecule)
    for template in (SMILES, chem.MolFromSmiles(SMILES), molecule):
        with pytest.warns(UserWarning, match="ligands LIG bonded as their template: 1"):
            data = from_structure(path, ligands={"LIG": template})
        assert bonds_of(data) == expected(bare)
        hydrogens = [atom.GetTotalNumHs() for atom in bare.GetAtoms()]
        assert data.num_hydrogens.tolist() == hydrogens
    fault = "by distance, as their template does not fit, without orders: 1"
    with pytest.warns(UserWarning, match=fault):
        data = from_structure(path, ligands={"LIG": SMILES.replace("C#N", "CO")})
    assert bonds_of(data) == expected(bare, orders=False)


@pytest.mark.parametrize(
    "ligands, message",
    [({"LIG": "CC(=O"}, r"'ligands' has for 'LIG': 'smiles' is 'CC\(=O', which RDKit"),
     ({"LIG": None}, "'ligands' has for 'LIG': 'mol' is of type NoneType"),
     ({"LIG": 3}, "'ligands' has for 'LIG': 'mol' is of type int"),
     (["LIG"], "'ligands' is of type list: pass names with SMILES"),
     ("CCO", "'ligands' is of type str: pass names with SMILES")],
)  # fmt: skip
def test_what_is_no_template(ligands, message, molecule, tmp_path):
    """It is told of the argument, not of the file, and of no file that lacks it."""
    with pytest.raises(ValueError, match=message) as caught:
        from_structure(write(molecule, tmp_path, "HOH"), ligands=ligands)
    assert "cannot be read as" not in str(caught.value)


def test_hydrogens_beside_a_template_are_counted(molecule, tmp_path):
    path = write(molecule, tmp_path)
    atoms = struc.io.load_structure(str(path))
    rows = np.flatnonzero(atoms.element == "H")
    atoms.atom_name[rows] = [f"H{i}" for i in range(1, len(rows) + 1)]
    struc.io.save_structure(str(path), atoms)
    fault = f"hydrogens bonded to the nearest atom: {len(rows)}"
    with pytest.warns(UserWarning, match=fault):
        from_structure(path, ligands={"LIG": SMILES})


def test_a_template_beside_bonds_and_a_known_name(molecule, tmp_path):
    """What CONECT lists without orders, and a name that means another molecule."""
    bare = chem.RemoveHs(molecule)
    for name in ("LIG", "GLC"):
        path = write(molecule, tmp_path, name, hydrogens=False)
        lines = [f"CONECT{b.GetBeginAtomIdx() + 1:5}{b.GetEndAtomIdx() + 1:5}"
                 for b in bare.GetBonds()]  # fmt: skip
        path.write_text("\n".join([path.read_text(), *lines, ""]))
        if name == "LIG":
            with pytest.warns(UserWarning, match="as the file says, without orders"):
                data = from_structure(path)
            assert bonds_of(data) == expected(bare, orders=False)
        with pytest.warns(UserWarning, match=f"{name} bonded as their template: 1"):
            data = from_structure(path, ligands={name: SMILES})
        assert bonds_of(data) == expected(bare)


def test_distances(molecule, tmp_path):
    path = write(molecule, tmp_path)
    with pytest.warns(UserWarning, match="ligands LIG bonded by distance: 1"):
        data = from_structure(path)
    assert bonds_of(data) == expected(molecule)
    path = write(molecule, tmp_path, hydrogens=False)
    with pytest.warns(UserWarning, match="by distance, without orders: 1"):
        data = from_structure(path)
    assert bonds_of(data) == expected(chem.RemoveHs(molecule), orders=False)


@pytest.mark.parametrize("name", "LIG DRG INH 01 99 UNL UNK zzz GLC".split())
def test_names_that_say_nothing(name, molecule, tmp_path):
    """Placeholders, an unknown one, and one of another molecule."""
    with pytest.warns(UserWarning, match=f"ligands {name} bonded by distance"):
        data = from_structure(write(molecule, tmp_path, name))
    assert bonds_of(data) == expected(molecule)
    assert data.num_tokens == 1
    if name not in ("GLC", "UNK"):
        assert data.chirality.tolist() == [-1] * data.num_nodes


def test_without_rdkit(molecule, tmp_path, monkeypatch):
    path = write(molecule, tmp_path, hydrogens=False)
    monkeypatch.setitem(sys.modules, "rdkit.Chem", None)
    with pytest.warns(UserWarning, match="without bonds, as RDKit is not installed: 1"):
        data = from_structure(path)
    assert data.num_edges == 0


def test_arrays_keep_their_own_bonds(molecule, tmp_path):
    path = write(molecule, tmp_path)
    atoms = struc.io.load_structure(str(path))
    assert from_atom_array(atoms).num_edges == 0
