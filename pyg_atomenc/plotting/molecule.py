"""Drawings of molecules, with atoms coloured by a weight."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.checks import check_integer, check_shape
from pyg_atomenc.chem.rdkit import check_mol
from pyg_atomenc.errors import AtomEncodingError, require_package

Weights = Union[Tensor, Sequence[float]]

# White to orange: one hue, dark enough to see and light enough to read letters on.
_LOW, _HIGH = torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.95, 0.45, 0.10])


def draw_atom_weights(
    mol: Any,
    weights: Weights,
    *,
    legend: str = "weight",
    limits: Optional[tuple[float, float]] = None,
    size: tuple[int, int] = (450, 350),
) -> str:
    """Draw a molecule with its atoms coloured by weight, as SVG.

    Args:
        mol (rdkit.Chem.Mol): A molecule of ``N`` atoms; it is not changed. A 2D
            conformer is drawn as it is, else one is computed.
        weights (Tensor or sequence): One number for every atom ``[N]``; of heads'
            ``[N, H]`` take the mean, ``weights.mean(dim=1)``.
        legend (str): What the weights are; stands below, with those at the ends of the
            colours. (default: ``"weight"``)
        limits (tuple, optional): The weights at the ends of the colours, which those
            beyond get. (default: 0 or the smallest weight, if less, and the largest)
        size (tuple): Width and height in pixels. (default: ``(450, 350)``)

    Returns:
        str: The picture, to be written to a file or shown by ``IPython.display.SVG``.

    Raises:
        ValueError: If ``mol`` is no molecule with atoms, if there is not one finite
            weight for every atom, or if ``limits`` or ``size`` cannot be drawn.
        ImportError: If RDKit is not installed.
    """
    return str(_draw("MolDraw2DSVG", mol, weights, legend, limits, size))


def draw_atom_weights_png(mol: Any, weights: Weights, **options: Any) -> bytes:
    """As :func:`draw_atom_weights`, with its ``options``, as the bytes of a PNG."""
    defaults: Any = draw_atom_weights.__kwdefaults__
    return bytes(_draw("MolDraw2DCairo", mol, weights, **(defaults | options)))


def _draw(
    canvas_type: str, mol: Any, weights: Weights, legend: str, limits: Any, size: Any
) -> Any:
    draw = require_package("rdkit.Chem.Draw.rdMolDraw2D", "draw_atom_weights")
    check_mol(mol)
    values = torch.as_tensor(weights).detach().double().cpu()
    hint = "one number per atom of 'mol', weights.mean(dim=1) where there are heads"
    check_shape("weights", values, mol.GetNumAtoms(), hint=hint)
    for atom in (~values.isfinite()).nonzero().flatten().tolist():
        mend = f"{values[atom]} for atom {atom}: pass finite numbers."
        raise AtomEncodingError(f"'weights' is {mend}")
    if limits is None:
        low, high = min(0.0, float(values.min())), float(values.max())
        limits = (low, high) if low < high else (low, low + 1.0)
    elif not limits[0] < limits[1]:
        mend = "the first number must be less than the second."
        raise AtomEncodingError(f"'limits' is {limits}: {mend}")
    low, high = limits
    # A copy whose only conformer is a 2D drawing; without one RDKit computes it.
    flat = type(mol)(mol)
    flat.RemoveAllConformers()
    for known in [known for known in mol.GetConformers() if not known.Is3D()][:1]:
        flat.AddConformer(known)
    canvas = getattr(draw, canvas_type)(*(check_integer("size", n, 50) for n in size))
    options = canvas.drawOptions()
    options.fillHighlights = options.atomHighlightsAreCircles = True
    options.highlightRadius = 0.4
    # Letters in black: the colours of elements are lost on orange.
    options.useBWAtomPalette()
    part = ((values - low) / (high - low)).clamp(0.0, 1.0).unsqueeze(1)
    shades = torch.lerp(_LOW, _HIGH, part.float()).tolist()
    colours = dict(enumerate(map(tuple, shades)))
    legend = f"{legend}: white {low:.3g}, orange {high:.3g}"
    # All atoms highlighted and no bonds.
    draw.PrepareAndDrawMolecule(canvas, flat, legend, list(colours), [], colours)
    canvas.FinishDrawing()
    return canvas.GetDrawingText()
