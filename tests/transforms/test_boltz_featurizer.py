"""`BoltzFeatures` beside the featurizers of the `boltz` package."""

import functools
import importlib
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from boltz_oracle import require_boltz

from pyg_atomenc.chem.rdkit import component_conformer
from pyg_atomenc.io import from_atom_array, from_smiles, from_structure
from pyg_atomenc.tokenizers import Boltz1, Boltz2
from pyg_atomenc.transforms import BoltzFeatures

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")
chem = pytest.importorskip("rdkit.Chem.AllChem", reason="RDKit is not installed")
interface = pytest.importorskip("biotite.interface.rdkit")
pytest.importorskip("gemmi", reason="gemmi is not installed")
info = pytest.importorskip("biotite.structure.info")

# What modules of boltz import, though nothing that runs here does.
UNUSED = (
    "numba sklearn sklearn.neighbors click Bio mashumaro mashumaro.mixins "
    "mashumaro.mixins.dict chembl_structure_pipeline "
    "chembl_structure_pipeline.exclude_flag chembl_structure_pipeline.standardizer"
).split()
MODULES = {
    "one": "feature.featurizer",
    "two": "feature.featurizerv2",
    "mmcif": "parse.mmcif",
    "schema": "parse.schema",
    "tokens1": "tokenize.boltz",
    "tokens2": "tokenize.boltz2",
    "types": "types",
}


@pytest.fixture(scope="module")
def boltz():
    """The modules of boltz, which move nothing at random."""
    require_boltz()
    with pytest.MonkeyPatch.context() as patch:
        for name in UNUSED:
            patch.setitem(sys.modules, name, MagicMock())
        sys.modules["mashumaro.mixins.dict"].DataClassDictMixin = object
        found = {
            short: importlib.import_module(f"boltz.data.{name}")
            for short, name in MODULES.items()
        }
    for module in (found["one"], found["two"]):
        move = functools.partial(module.center_random_augmentation, augmentation=False)
        module.center_random_augmentation = move
    # No molecule is read from a disk.
    found["schema"].load_molecules = lambda _, names: {n: component(n) for n in names}
    return SimpleNamespace(**found)


@functools.cache
def component(name):
    """A component as Boltz keeps it, with the conformer of the dictionary."""
    atoms = info.residue(name)
    if name == "IRI":
        # The dictionary has none but that of a crystal.
        known = component_conformer(name, 0, False)
        atoms.coord = np.stack([at for at, _ in known.values()])
    mol = interface.to_mol(atoms)
    keys = ("atom_id", "pdbx_leaving_atom_flag")
    table = (info.get_from_ccd("chem_comp_atom", name, k).as_array(str) for k in keys)
    leaving = dict(zip(*table, strict=True))
    for atom, label in zip(mol.GetAtoms(), atoms.atom_name.tolist(), strict=True):
        atom.SetProp("name", label)
        atom.SetProp("leaving_atom", str(int(leaving[label] == "Y")))
    chem.SanitizeMol(mol, catchErrors=True)
    return mol


class Components(dict):
    def get(self, name, _=None):
        return component(name)

    __getitem__ = get


def features_of(boltz, structure, version=2, mols=None):
    """What Boltz' featurizer makes of its structure, and the tokens."""
    if version == 2:
        tokens, bonds = boltz.tokens2.tokenize_structure(structure)
    else:
        made = boltz.tokens1.BoltzTokenizer().tokenize(
            SimpleNamespace(
                structure=structure, msa={}, record=None, residue_constraints=None
            )
        )
        tokens, bonds = made.tokens, made.bonds
    data = SimpleNamespace(structure=structure, tokens=tokens, bonds=bonds)
    if version == 2:
        models = {"ensemble_ref_idxs": np.array([0])}
        random = np.random.default_rng(0)
        out = boltz.two.process_atom_features(
            data, random, models, mols or Components()
        )
    else:
        out = boltz.one.process_atom_features(data)
    kept = out["atom_pad_mask"] > 0
    found = {key: out[key][kept] for key in ("ref_pos", "ref_charge", "ref_space_uid")}
    for key in ("ref_element", "ref_atom_name_chars", "atom_to_token"):
        found[key] = out[key][kept].argmax(-1)
    if version == 2:
        found["backbone"] = out["atom_backbone_feat"][kept].argmax(-1)
    return SimpleNamespace(**found, tokens=tokens)


def assert_same(data, expected, order=None, atol=1e-4):
    """Of all atoms, or of the rows of Boltz' that are the data's atoms, in order."""
    rows = torch.arange(data.num_nodes) if order is None else order
    close = functools.partial(torch.testing.assert_close, atol=atol, rtol=0)
    close(data.ref_pos, expected.ref_pos[rows])
    assert data.ref_charge.equal(expected.ref_charge[rows].float())
    assert data.z.equal(expected.ref_element[rows])
    assert data.ref_atom_name_chars.equal(expected.ref_atom_name_chars[rows])
    assert data.ref_space_uid.equal(expected.ref_space_uid[rows])
    if hasattr(expected, "backbone"):
        assert data.backbone.equal(expected.backbone[rows])


def assert_same_tokens(data, tokens):
    for ours, theirs in (
        (data.token_res_type, "res_type"),
        (data.token_modified, "modified"),
        (data.token_mol_type, "mol_type"),
    ):
        assert ours.tolist() == tokens[theirs].astype(int).tolist(), theirs


def rows_of(data, expected):
    """Where Boltz has the atoms of the data, and the names of those that it adds."""
    names = ["".join(map(chr, row + 32)) for row in expected.ref_atom_name_chars]
    theirs = zip(expected.ref_space_uid.tolist(), names, strict=True)
    place = {key: i for i, key in enumerate(theirs)}
    ours = zip(data.ref_space_uid.tolist(), data.atom_name, strict=True)
    rows = torch.tensor([place.pop((uid, atom.ljust(4))) for uid, atom in ours])
    return rows, [atom.strip() for _, atom in place]


ALL = dict(backbone=True, residue=True, augment=False)


@pytest.mark.parametrize("name", ["1aki.cif", "3o5r.cif", "4gxy.cif", "5ugo.cif"])
def test_structures(structures, boltz, name):
    path = structures / name
    parsed = boltz.mmcif.parse_mmcif(
        str(path), Components(), use_assembly=False, compute_interfaces=False
    )
    expected = features_of(boltz, parsed.data)
    options = dict(hydrogens=False, waters=False, unresolved=True)
    data = BoltzFeatures(**ALL)(from_structure(path, Boltz2(), **options))
    # The reader adds no phosphate that nobody saw at the start of a nucleic acid, and
    # has the atoms of a ligand as the file has.
    order, lost = rows_of(data, expected)
    assert lost == ["P", "OP1", "OP2"] * (2 if name == "5ugo.cif" else 0)
    assert_same(data, expected, order)
    assert_same_tokens(data, expected.tokens)
    whole = (data.atom_to_token.bincount() > 1)[data.atom_to_token]
    assert (order[whole].diff() > 0).all()
    assert data.atom_to_token[whole].equal(expected.atom_to_token[order[whole]])
    assert (data.atom_to_token.diff() >= 0).all()


@pytest.fixture
def seeded(boltz, monkeypatch):
    """Boltz lets RDKit draw a seed."""
    make = chem.ETKDGv3

    def with_seed():
        parameters = make()
        parameters.randomSeed = 7
        return parameters

    monkeypatch.setattr(boltz.schema.AllChem, "ETKDGv3", with_seed)


def parse(boltz, version, *sequences):
    items = [
        {kind: {"id": "ABCDEFG"[i], **entries}}
        for i, (kind, entries) in enumerate(sequences)
    ]
    schema = {"version": 1, "sequences": items}
    target = boltz.schema.parse_boltz_schema(
        "a", schema, {}, mol_dir="none", boltz_2=version == 2
    )
    mols = Components()
    mols.get = lambda name: target.extra_mols.get(name) or component(name)
    return target.structure, target.extra_mols


SMILES = ["CC(=O)Oc1ccccc1C(=O)O", "C[C@H](N)C(=O)[O-]", "C/C=C\\CCl", "[NH4+]",
          "C1CCCCC1[S@@](=O)c1ccncc1"]  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("smiles", SMILES)
def test_molecules(boltz, seeded, smiles, version):
    structure, mols = parse(boltz, version, ("ligand", {"smiles": smiles}))
    expected = features_of(boltz, structure, version, mols)
    plain = from_smiles(smiles, Boltz2() if version == 2 else Boltz1())
    data = BoltzFeatures(**ALL, version=version, seed=7)(plain)
    assert_same(data, expected, atol=1e-3)
    assert data.atom_to_token.equal(expected.atom_to_token)
    assert_same_tokens(data, expected.tokens) if version == 2 else None


def made_complex():
    """A protein, DNA, RNA and two ligands as a file may have them, with all ends."""
    chains = [
        ("A", "GLY SEP MSE PRO HIS LEU"), ("B", "DG DT"), ("C", "C G"), ("D", "ATP"),
        ("E", "ZN"),
    ]  # fmt: skip
    parts = []
    for chain, names in chains:
        names = names.split()
        for i, name in enumerate(names):
            part = info.residue(name)
            part = part[part.element != "H"]
            left = {"OXT"} if i < len(names) - 1 else set()
            left |= {"OP3"} if i > 0 else set()
            part = part[~np.isin(part.atom_name, [*left])]
            part.chain_id[:], part.res_id[:] = chain, i + 1
            part.hetero[:] = chain in "DE"
            label = "." if chain in "DE" else str(i + 1)
            part.set_annotation("label_seq_id", np.full(len(part), label))
            # Elsewhere, and in another order.
            part.coord = part.coord @ np.diag([-1, 1, 1]) + 20 * np.random.rand(3)
            parts.append(part[np.random.permutation(len(part))] if i % 2 else part)
    return struc.concatenate(parts)


COMPLEX = [
    ("protein", {"sequence": "GSMPHL", "modifications": [
        {"ccd": "SEP", "position": 2}, {"ccd": "MSE", "position": 3}], "msa": "empty"}),
    ("dna", {"sequence": "GT"}), ("rna", {"sequence": "CG"}),
    ("ligand", {"ccd": "ATP"}), ("ligand", {"ccd": "ZN"}),
]  # fmt: skip


def test_a_complex_for_boltz2(boltz):
    structure, _ = parse(boltz, 2, *COMPLEX)
    expected = features_of(boltz, structure)
    data = BoltzFeatures(**ALL)(from_atom_array(made_complex(), Boltz2()))
    assert_same(data, expected)
    assert data.atom_to_token.equal(expected.atom_to_token)
    assert_same_tokens(data, expected.tokens)


def test_a_complex_for_boltz1(boltz):
    structure, _ = parse(boltz, 1, *COMPLEX)
    expected = features_of(boltz, structure, version=1)
    plain = from_atom_array(made_complex(), Boltz1())
    features = BoltzFeatures(augment=False, version=1, conformers="ideal")
    data = features(plain)
    # Atoms of the modified residue, tokens of their own, stay in the file's order.
    order, lost = rows_of(data, expected)
    assert not lost
    assert_same(data, expected, order)
    whole = data.token_is_standard[data.atom_to_token]
    assert (order[whole].diff() > 0).all()
    assert data.atom_to_token[whole].equal(expected.atom_to_token[order[whole]])


def test_computed_conformers_are_those_of_boltz1(boltz, seeded):
    for name in ("TRP", "SEP", "ATP", "ZN", "HOH"):
        mol = chem.Mol(component(name))
        chem.AssignStereochemistryFrom3D(mol)
        mol.RemoveAllConformers()
        atoms = info.residue(name)
        found = component_conformer(name, 7, True)
        if (atoms.element != "H").sum() == 1:
            assert not np.any([at for at, _ in found.values()])
            continue
        known = boltz.schema.compute_3d_conformer(mol)
        expected = mol.GetConformer().GetPositions() if known else atoms.coord
        pos = np.stack([at for at, _ in found.values()])
        assert [*found] == atoms.atom_name.tolist()
        np.testing.assert_allclose(pos, expected, atol=0.01)
