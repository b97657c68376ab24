"""What different readers give batches together, in any order."""

import gzip
import itertools

import pytest
import torch
from base_files import bcif_bytes, cif_text, pdb_text
from dataset_helpers import same
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader

from pyg_atomenc import AtomAttentionEncoder, AtomTokenData, token_graph
from pyg_atomenc import tokenizers as tk
from pyg_atomenc.data import AtomTokenLoader
from pyg_atomenc.datasets import StructureDataset
from pyg_atomenc.io import (
    from_atom_array,
    from_rdmol,
    from_smiles,
    from_structure,
    sources,
)
from pyg_atomenc.transforms import (
    AtomFeatures,
    BoltzFeatures,
    FromHetero,
    PairFeatures,
    RadiusEdges,
    ToHetero,
    TokenEdges,
)

pytest.importorskip("biotite", reason="biotite is not installed")
Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

SCHEME = """loop_
_pdbx_poly_seq_scheme.asym_id
_pdbx_poly_seq_scheme.seq_id
_pdbx_poly_seq_scheme.mon_id
_pdbx_poly_seq_scheme.pdb_strand_id
_pdbx_poly_seq_scheme.pdb_seq_num
_pdbx_poly_seq_scheme.pdb_ins_code
A 6 ALA A 5 .
A 7 LEU A 6 .
#
"""


def embedded(smiles, dimensions=3):
    chem = pytest.importorskip("rdkit.Chem.AllChem")
    mol = chem.AddHs(chem.MolFromSmiles(smiles))
    if dimensions == 3:
        chem.EmbedMolecule(mol, randomSeed=1)
    else:
        chem.Compute2DCoords(mol)
    return mol


def own_tokens(source):
    """What a user's tokenizer gives: ids alone, the last of them empty."""
    chem = type(source).__module__.startswith("rdkit")
    count = source.GetNumAtoms() if chem else source.array_length()
    return tk.Tokens(torch.arange(count) // 4, (count + 3) // 4 + 1)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """A graph of every reader, with and without its options."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "a.pdb").write_text(pdb_text())
    (folder / "a.cif").write_text(cif_text() + SCHEME)
    (folder / "a.bcif").write_bytes(bcif_bytes())
    (folder / "a.cif.gz").write_bytes(gzip.compress(cif_text().encode()))
    (folder / "a.csv").write_text("smiles\nCCO\nCCN\n")
    mol, cif = embedded("CC(=O)Nc1ccccc1"), folder / "a.cif"
    peptide = Chem.MolFromSequence("GAK")
    table = StructureDataset(folder / "t", folder / "a.csv", progress=False)
    files = sources.StructureFiles([folder / "a.pdb", folder / "a.bcif"], model="all")
    structure = pytest.importorskip("biotite.structure")
    atoms = structure.info.residue("GLY")
    bare = atoms.copy()
    bare.bonds = None
    return {
        "smiles": from_smiles("CC(=O)Oc1ccccc1"),
        "one atom": from_smiles("[Na+]"),
        "smiles with hydrogens": from_smiles("CCO", hydrogens=True),
        "smiles by own tokens": from_smiles("CCO", own_tokens),
        "2D": from_rdmol(embedded("CCO", 2)),
        "3D": from_rdmol(mol),
        "3D left out": from_rdmol(mol, conformer=None),
        "3D by rings": from_rdmol(mol, tk.RingsAndChains()),
        "peptide": from_rdmol(peptide),
        "peptide by residue": from_rdmol(peptide, tk.Residue()),
        "pdb": from_structure(folder / "a.pdb"),
        "pdb without waters": from_structure(
            folder / "a.pdb", waters=False, hydrogens=False, chains=["A"]
        ),
        "cif": from_structure(cif),
        "cif by label": from_structure(cif, numbering="label"),
        "cif with unresolved": from_structure(cif, unresolved=True),
        "cif of AF3": from_structure(cif, tk.AF3()),
        "cif by own tokens": from_structure(cif, own_tokens),
        "bcif": from_structure(folder / "a.bcif"),
        "gzipped": from_structure(folder / "a.cif.gz"),
        "second model": from_structure(folder / "a.bcif", model=2),
        "array": from_atom_array(atoms),
        "array without bonds": from_atom_array(bare),
        "table": table[0],
        "rows": sources.SmilesTable(["CCO"], hydrogens=True).read(0)[0],
        "files": files.read(0)[0],
        "models": files.read(1)[0],
    }


def kinds(data):
    """Every attribute's type, and how its rows go by atoms, bonds or tokens."""
    found = {}
    for key, value in data.to_dict().items():
        found[key] = type(value)
        if isinstance(value, torch.Tensor):
            found[key] = (value.dtype, value.shape[1:] if key != "edge_index" else 2)
    return found


def test_all_readers_give_the_same_attributes(read):
    wanted = kinds(read["smiles"])
    for name, data in read.items():
        assert kinds(data) == wanted, name
        assert data.validate(), name


def test_any_two_batch_in_any_order(read):
    names = "smiles", "2D", "3D", "pdb", "cif", "bcif", "array", "table", "files"
    for a, b in itertools.permutations(names, 2):
        one, other = read[a], read[b]
        batch = Batch.from_data_list([one, other])
        assert batch.num_nodes == one.num_nodes + other.num_nodes, (a, b)
        assert set(batch.keys()) - {"batch", "ptr"} == set(one.keys()), (a, b)
        assert same(batch[1], other) or same_but_for_numbers(batch[1], other), (a, b)


def same_but_for_numbers(one, other):
    """As PyG separates them: numbers become tensors of one element."""
    one, other = one.to_dict(), other.to_dict()
    one["num_tokens"] = int(one["num_tokens"])
    order = list(other)
    one = AtomTokenData.from_dict({key: one[key] for key in order if key in one})
    return same(one, AtomTokenData.from_dict(other))


def test_all_of_them_through_the_loaders(read):
    graphs = list(read.values())
    for order in (graphs, graphs[::-1]):
        for loader in (DataLoader, AtomTokenLoader):
            (batch,) = loader(order, batch_size=len(order))
            assert batch.validate()
            x = torch.nn.functional.one_hot(batch.z, 119).float()
            tokens = AtomAttentionEncoder(119, 4, 2)(x, batch.token_layout())
            assert tokens.isfinite().all()
            graph = token_graph(batch, tokens)
            for number, data in enumerate(order):
                known = graph[number].pos.isfinite().all(1)
                index, resolved = data.atom_to_token, data.is_resolved
                wanted = torch.zeros(data.num_tokens, dtype=torch.bool)
                assert known.equal(wanted.index_fill(0, index[resolved], True))


def test_what_is_absent_says_so(read):
    smiles, structure = read["smiles"], read["cif with unresolved"]
    assert smiles.pos.isnan().all() and not smiles.is_resolved.any()
    assert smiles.token_pos.isnan().all() and smiles.source == ""
    assert structure.smiles == structure.given_smiles == ""
    assert read["3D"].smiles == "" and read["3D"].is_resolved.all()
    assert 0 < structure.is_resolved.sum() < structure.num_nodes
    assert structure.is_resolved.equal(structure.pos.isfinite().all(1))
    assert read["models"].source.endswith("a.pdb model 1")
    assert read["table"].source == "row 1"


def test_transforms_of_mixed_graphs(read):
    """What needs positions says that there are none; all else runs."""
    for name in ("smiles", "3D", "pdb", "cif with unresolved", "2D"):
        data = read[name]
        known = bool(data.is_resolved.any())
        for transform in (RadiusEdges(), PairFeatures(), TokenEdges()):
            if known:
                assert transform(data).validate()
                continue
            with pytest.raises(ValueError, match="'(token_)?pos' holds no known pos"):
                transform(data)
        assert PairFeatures(num_rbf=0)(data).validate()
        assert AtomFeatures()(data).x.shape == (data.num_nodes, 11)
        assert kinds(FromHetero()(ToHetero()(data))) == kinds(data)
        assert BoltzFeatures()(data).ref_pos.isfinite().all()
    assert BoltzFeatures()(read["peptide by residue"]).ref_pos.isfinite().all()


@pytest.mark.parametrize("tokenizer", [
    None, own_tokens, tk.AF3(), tk.BRICS(), tk.RingsAndChains(), tk.Residue(),
    tk.Components(), tk.Atom(), tk.Boltz1(), tk.Boltz2(), tk.Smarts(["C=O"]),
], ids=lambda tokenizer: getattr(tokenizer, "__name__", str(tokenizer)))  # fmt: skip
def test_every_tokenizer_gives_what_a_token_has(tokenizer, read, tmp_path):
    (tmp_path / "a.cif").write_text(cif_text())
    for data in (
        from_structure(tmp_path / "a.cif", tokenizer),
        from_smiles("CC(=O)NCc1ccccc1", tokenizer),
    ):
        assert kinds(data) == kinds(read["smiles"]) and data.validate()


def test_labels_that_some_lack_are_named():
    one, other = from_smiles("CCO"), from_smiles("CCN")
    one.y = torch.ones(1, 1)
    for number, graphs in enumerate(([other, one], [one, other])):
        loader = AtomTokenLoader(graphs, batch_size=2)
        with pytest.raises(ValueError, match=f"graph {number} lacks 'y'"):
            next(iter(loader))
        loader = AtomTokenLoader(graphs, batch_size=2, exclude_keys=["y"])
        assert next(iter(loader)).num_graphs == 2
