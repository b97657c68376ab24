import pytest
import torch

from pyg_atomenc import AtomTokenData
from pyg_atomenc.io import from_rdmol, from_smiles, with_conformer
from pyg_atomenc.tokenizers import Atom

Chem = pytest.importorskip("rdkit.Chem")
AllChem = pytest.importorskip("rdkit.Chem.AllChem")


def embedded(smiles, seed):
    """By RDKit itself."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    parameters = AllChem.ETKDGv3()
    parameters.randomSeed = seed
    parameters.maxIterations = 100
    assert AllChem.EmbedMolecule(mol, parameters) == 0
    AllChem.UFFOptimizeMolecule(mol, maxIters=1000)
    return torch.from_numpy(mol.GetConformer().GetPositions()).float()


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize(
    "smiles", ["OC(=O)c1ccccc1OC(C)=O", "C[C@H](F)Cl", "[H][H]", "[2H]C([2H])C"]
)
def test_is_the_conformer_of_rdkit(smiles, hydrogens):
    data = from_smiles(smiles, hydrogens=hydrogens)
    found = with_conformer(data, seed=7)
    expected = embedded(smiles, 7)[: data.num_nodes]
    torch.testing.assert_close(found.pos, expected)
    assert found.is_resolved.all() and data.pos.isnan().all()
    torch.testing.assert_close(found.token_pos, expected[data.is_representative])
    assert found.keys() == data.keys()


def test_the_seed_tells_conformers_apart():
    data = from_smiles("CCCCCC(C)CC", Atom())
    one, same, other = (with_conformer(data, seed).pos for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=0.1)


def test_handedness_is_that_of_the_smiles():
    volumes = []
    for smiles in ("C[C@](F)(Cl)Br", "C[C@@](F)(Cl)Br"):
        pos = with_conformer(from_smiles(smiles)).pos
        # Seen from the first neighbour, @ is counterclockwise: a negative volume.
        volumes.append(torch.linalg.det(pos[2:5] - pos[1]).item())
    assert volumes[0] < 0 < volumes[1]


def test_tells_what_has_none():
    with pytest.raises(ValueError, match="'data'.*no conformer.*smaller molecule"):
        with_conformer(from_smiles("C" * 400))
    with pytest.raises(ValueError, match="'given_smiles'.*from_smiles"):
        with_conformer(from_rdmol(Chem.MolFromSmiles("CCO")))
    cut = from_smiles("CCO")
    cut.z = cut.z[:2]
    with pytest.raises(ValueError, match="other atoms than its SMILES 'CCO'"):
        with_conformer(cut)
    for seed in (-1, 2**31):
        with pytest.raises(ValueError, match="'seed'"):
            with_conformer(from_smiles("CCO"), seed)
    with pytest.raises(ValueError, match="'data' is of 2 molecules"):
        with_conformer(from_smiles("CC(=O)[O-].[Na+]"))
    with pytest.raises(ValueError, match="'z' is missing"):
        with_conformer(AtomTokenData())
    with pytest.raises(ValueError, match="'data'"):
        with_conformer("CCO")
