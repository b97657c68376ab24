import xml.etree.ElementTree as ElementTree

import pytest
import torch

from pyg_atomenc.plotting import draw_atom_weights, draw_atom_weights_png

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")


@pytest.fixture
def mol():
    return Chem.MolFromSmiles("CC(=O)O")


def fills(svg):
    """The fill colours of the atoms' circles, in the order of drawing."""
    root = ElementTree.fromstring(svg)
    styles = [node.get("style", "") for node in root.iter() if "ellipse" in node.tag]
    return [style.split("fill:")[1].split(";")[0] for style in styles]


def test_colours_follow_the_weights(mol):
    svg = draw_atom_weights(mol, torch.tensor([0.0, 0.5, 1.0, 1.0]), legend="count")
    colours = fills(svg)
    assert len(colours) == 4
    assert colours[0] == "#FFFFFF" and colours[2] == colours[3] != colours[1]
    assert draw_atom_weights(mol, [0.0, 0.5, 1.0, 1.0], limits=(0, 2)) != svg


def test_equal_weights_and_a_single_atom_are_drawn(mol):
    assert len(set(fills(draw_atom_weights(mol, [0.25] * 4)))) == 1
    assert fills(draw_atom_weights(Chem.MolFromSmiles("C"), [1.0]))


def test_png(mol):
    assert draw_atom_weights_png(mol, [0.1] * 4).startswith(b"\x89PNG")


def test_leaves_the_molecule_alone(mol):
    draw_atom_weights(mol, [0.1] * 4)
    assert mol.GetNumConformers() == 0


@pytest.mark.parametrize(
    "weights, options, message",
    [
        ([0.1] * 3, {}, r"'weights' needs the shape \[4\], found: \[3\]"),
        (torch.ones(4, 2), {}, r"weights.mean\(dim=1\)"),
        ([0.1, float("nan"), 0.2, 0.3], {}, "'weights' is nan for atom 1"),
        ([0.1] * 4, {"limits": (1.0, 1.0)}, "'limits' is"),
        ([0.1] * 4, {"size": (10, 300)}, "'size' is"),
    ],
)
def test_bad_input(mol, weights, options, message):
    with pytest.raises(ValueError, match=message):
        draw_atom_weights(mol, weights, **options)


def test_no_molecule():
    with pytest.raises(ValueError, match="'mol' is of type NoneType"):
        draw_atom_weights(None, [])
    with pytest.raises(ValueError, match="'mol' has no atoms"):
        draw_atom_weights(Chem.Mol(), [])
