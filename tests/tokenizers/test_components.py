import numpy as np
import pytest
from residues import chain

from pyg_atomenc.chem.codes import connected
from pyg_atomenc.tokenizers import Components


def test_chains_ligands_and_ions():
    pytest.importorskip("biotite.structure", reason="biotite is not installed")
    atoms = chain(
        ("ALA", "N", "CA", "C"),
        ("ZN", "ZN"),
        ("GLY", "N", "CA"),
        bonds=[(0, 1), (1, 2), (2, 4), (4, 5)],
    )
    tokens = Components()(atoms)
    assert tokens.atom_to_token.tolist() == [0, 0, 0, 1, 0, 0]
    assert tokens.attributes["token_name"] == ["ALA", "ZN"]
    assert tokens.representative.tolist() == [1, 3]
    atoms.bonds = None
    with pytest.raises(ValueError, match="'atoms' has no bonds"):
        Components()(atoms)
    with pytest.raises(ValueError, match="'atoms' is of type str"):
        Components()("CO")


def test_of_a_molecule():
    chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    tokens = Components()(chem.MolFromSmiles("[Na+].OCC.[Na+]"))
    assert tokens.atom_to_token.tolist() == [0, 1, 1, 1, 2]
    assert tokens.attributes["token_name"] == ["[Na+]", "CCO", "[Na+]"]


@pytest.mark.parametrize("pairs", [0, 1, 30, 100, 300])
def test_components_against_networkx(pairs):
    networkx = pytest.importorskip("networkx", reason="networkx is not installed")
    edges = np.random.default_rng(pairs).integers(0, 200, (pairs, 2))
    graph = networkx.Graph()
    graph.add_nodes_from(range(200))
    graph.add_edges_from(edges.tolist())
    label = connected(200, edges)
    for group in networkx.connected_components(graph):
        assert {label[node] for node in group} == {min(group)}


def test_long_paths_take_few_rounds():
    path = np.random.default_rng(0).permutation(200_000)
    pairs = np.stack([path[1:], path[:-1]], axis=1)
    assert (connected(200_000, pairs) == 0).all()
