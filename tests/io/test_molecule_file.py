"""Molecule files: what RDKit writes is read again; MOL2 by a small writer here."""

import gzip
import math

import pytest
import torch

from pyg_atomenc.datasets import MoleculeFile, StructureDataset
from pyg_atomenc.io import Limits, from_mol2, from_rdmol, from_sdf, from_smiles
from pyg_atomenc.tokenizers import Atom

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")

SMILES = ("C[C@H](N)C(=O)O", "C/C=C\\Cl", "C[S@@](=O)c1ccccc1", "[13CH4]")


def embedded(smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=3) == 0
    return mol


def block(mol, name="", **properties):
    mol.SetProp("_Name", name)
    lines = [f"> <{key}>\n{value}\n\n" for key, value in properties.items()]
    return Chem.MolToMolBlock(mol) + "".join(lines) + "$$$$\n"


def bad_valence():
    return block(embedded("C")).replace(" H ", " F ").replace("  1  2  1", "  1  2  3")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_what_rdkit_writes(tmp_path, packed, end):
    path = tmp_path / ("a.sdf.gz" if packed else "a.SDF")
    mols = [embedded(smiles) for smiles in SMILES]
    text = "".join(block(mol, f"no {i}") for i, mol in enumerate(mols))
    content = text.replace("\n", end).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    found = from_sdf(path)
    for i, (data, mol) in enumerate(zip(found, mols, strict=True)):
        expected = from_rdmol(mol)
        assert (data.name, data.source) == (f"no {i}", f"entry {i + 1}")
        for key in ("z", "edge_index", "edge_attr", "chirality", "edge_stereo"):
            assert data[key].equal(expected[key]), (i, key)
        assert data.isotope.equal(expected.isotope)
        torch.testing.assert_close(data.pos, expected.pos, rtol=0, atol=1e-4)
    assert found[0].chirality[1] == 2 and found[2].chirality[1] == 1
    assert set(found[1].edge_stereo.tolist()) == {0, 2}


def test_labels_and_a_last_entry_without_its_end(tmp_path):
    path = tmp_path / "a.sdf"
    one = block(embedded("C"), a=1.5, b="-3e2", c="many")
    two = block(embedded("O"), b="")
    path.write_text(one + two.removesuffix("$$$$\n"))
    found = from_sdf(path, Atom(), labels=["a", "b"])
    assert found[0].y.dtype == torch.float32 and found[0].y.tolist() == [[1.5, -300]]
    assert all(map(math.isnan, found[1].y[0].tolist())) and found[1].num_tokens == 3
    assert "y" not in from_sdf(path)[0]
    with pytest.warns(UserWarning, match="1 of 2 .*\nentry 1: a label .*'many' is no"):
        (left,) = from_sdf(path, labels="c")
    assert left.source == "entry 2"
    with pytest.raises(ValueError, match=r"no property 'A' in any .*'a', 'b', 'c'\. "):
        from_sdf(path, labels=["a", "A"])


def test_a_molecule_behind_a_missing_end_is_not_lost(tmp_path):
    path = tmp_path / "a.sdf"
    good = block(embedded("CO"))
    path.write_text(good.removesuffix("$$$$\n") + good + good)
    with pytest.warns(UserWarning, match="1 of 2 .*\nentry 1: it holds 2 molecules"):
        (left,) = from_sdf(path)
    assert left.source == "entry 2"


def test_bad_entries_are_told_by_number_and_reason(tmp_path):
    path = tmp_path / "a.sdf"
    good = block(embedded("CO"))
    unknown = good.replace(" O ", " Qq", 1)
    texts = [good, bad_valence(), unknown, "nothing\n$$$$\n", good]
    path.write_text("".join(texts))
    with pytest.warns(UserWarning) as caught:
        assert [data.source for data in from_sdf(path)] == ["entry 1", "entry 5"]
    (warning,) = caught
    lines = str(warning.message).splitlines()
    assert lines[0].startswith(f"{path}: 3 of 5 molecules")
    assert [line.split(":")[0] for line in lines[1:]] == [
        "entry 2",
        "entry 3",
        "entry 4",
    ]
    assert "valence" in lines[1] and "RDKit refuses it" in lines[2]
    with pytest.raises(ValueError, match="a.sdf: 3 of 5 molecules cannot be read"):
        from_sdf(path, on_error="raise")
    with pytest.raises(ValueError, match="'on_error' is 'drop'"):
        from_sdf(path, on_error="drop")


def test_a_flat_file_has_no_positions_but_its_stereo(tmp_path):
    path = tmp_path / "one.mol"
    mol = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    AllChem.Compute2DCoords(mol)
    Chem.MolToMolFile(mol, str(path))
    (data,) = from_sdf(path)
    assert data.pos.isnan().all() and data.chirality.tolist()[1] == 2


def mol2(mol, name):
    """A molecule in Tripos' format, types by element and neighbours."""
    kinds = {1: "H", 6: "C.3", 7: "N.3", 8: "O.3", 17: "Cl"}
    lines = ["@<TRIPOS>MOLECULE", name]
    lines += [f"{mol.GetNumAtoms()} {mol.GetNumBonds()} 0 0 0", "SMALL"]
    lines += ["NO_CHARGES", "", "@<TRIPOS>ATOM"]
    for i, (atom, at) in enumerate(
        zip(mol.GetAtoms(), mol.GetConformer().GetPositions(), strict=True), 1
    ):
        double = any(b.GetBondTypeAsDouble() == 2 for b in atom.GetBonds())
        kind = kinds[atom.GetAtomicNum()].replace("3", "2" if double else "3")
        place = " ".join(f"{value:.4f}" for value in at)
        lines.append(f"{i} {atom.GetSymbol()}{i} {place} {kind} 1 LIG 0.0")
    lines.append("@<TRIPOS>BOND")
    for i, bond in enumerate(mol.GetBonds(), 1):
        ends = f"{bond.GetBeginAtomIdx() + 1} {bond.GetEndAtomIdx() + 1}"
        lines.append(f"{i} {ends} {int(bond.GetBondTypeAsDouble())}")
    return "\n".join(lines) + "\n"


def test_mol2(tmp_path):
    path = tmp_path / "a.mol2"
    mols = [embedded(smiles) for smiles in ("C[C@H](N)CO", "C/C=C\\Cl")]
    texts = ["# made by hand\n", mol2(mols[0], "one")]
    # Without any, and without those at carbon, as programs of docking write them.
    texts.append(mol2(Chem.RemoveHs(mols[0]), "bare"))
    polar = Chem.AddHs(Chem.RemoveHs(mols[0]), addCoords=True, onlyOnAtoms=[2, 4])
    path.write_text("".join([*texts, mol2(mols[1], "two"), mol2(polar, "polar")]))
    with pytest.warns(
        UserWarning, match="2 of 4 .*\nentry 2: it lacks hydrogens, which MOL2"
    ):
        found = from_mol2(path)
    for data, mol, name in zip(found, mols, ("one", "two"), strict=True):
        expected = from_rdmol(mol)
        assert data.name == name
        for key in ("z", "edge_attr", "chirality", "edge_stereo", "formal_charge"):
            assert data[key].equal(expected[key]), key
        torch.testing.assert_close(data.pos, expected.pos, rtol=0, atol=1e-4)


def test_bad_files(tmp_path):
    path = tmp_path / "a.sdf"
    with pytest.raises(ValueError, match="a.sdf: does not exist"):
        from_sdf(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="a.sdf: is empty"):
        from_sdf(path)
    path.write_text("hello\n")
    with pytest.raises(ValueError, match="1 of 1 molecules cannot be read"):
        from_sdf(path)
    with pytest.raises(ValueError, match="a.sdf: holds more than 1 file bytes"):
        from_sdf(path, limits=Limits(file_bytes=1))
    for name, message in (("a.xyz", "ends in none"), ("a.mol2", "holds no molecule")):
        (tmp_path / name).write_text("hello\n")
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            from_mol2(tmp_path / name)


def test_as_a_data_set(tmp_path):
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / "a.sdf"
    path.write_text(block(embedded("CO"), a=1) + bad_valence() + block(embedded("O")))
    options = {"progress": False}
    with pytest.warns(UserWarning, match="1 of 3 .*entry 2 - RDKit refuses it"):
        dataset = StructureDataset(tmp_path / "root", path, **options)
    assert dataset.names == ["entry 1", "entry 3"] and "y" not in dataset[0]
    source = MoleculeFile(path, "a")
    with pytest.warns(UserWarning, match="1 of 3"):
        dataset = StructureDataset(tmp_path / "root", source, **options)
    assert dataset[0].y.tolist() == [[1.0]]
    assert dataset[1].z.equal(from_smiles("O", hydrogens=True).z)
