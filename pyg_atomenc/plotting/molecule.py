"""Drawings of molecules, with atoms coloured by a weight."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.checks import check_integer, check_shape, check_type
from pyg_atomenc.errors import AtomEncodingError, require_package

Weights = Union[Tensor, Sequence[float]]

# White to orange: one hue, dark enough to see and light enough to read letters on.
_LOW, _HIGH = (1.0, 1.0, 1.0), (0.95, 0.45, 0.10)
_BAR_HEIGHT, _BAR_STEPS = 46, 50


def draw_atom_weights(
    mol: Any,
    weights: Weights,
    *,
    legend: str = "weight",
    limits: Optional[tuple[float, float]] = None,
    size: tuple[int, int] = (450, 350),
) -> str:
    """Draw a molecule with its atoms coloured by weight, as SVG.

    Below the molecule lies a colour bar with its two ends and ``legend``.

    Args:
        mol (rdkit.Chem.Mol): A molecule of ``N`` atoms; it is not changed. A 2D
            conformer is drawn as it is, else one is computed.
        weights (Tensor or sequence): One number for every atom ``[N]``; of heads'
            ``[N, H]`` take the mean, ``weights.mean(dim=1)``.
        legend (str): What the weights are. (default: ``"weight"``)
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
    return bytes(_draw("MolDraw2DCairo", mol, weights, **options))


def _rdkit(module: str) -> Any:
    return require_package(f"rdkit.{module}", "draw_atom_weights")


def _draw(
    canvas_type: str,
    mol: Any,
    weights: Weights,
    legend: str = "weight",
    limits: Optional[tuple[float, float]] = None,
    size: tuple[int, int] = (450, 350),
) -> Any:
    chem, draw = _rdkit("Chem"), _rdkit("Chem.Draw.rdMolDraw2D")
    values = _check_weights(mol, weights)
    if limits is None:
        low, high = min(0.0, *values), max(values)
        limits = (low, high) if low < high else (low, low + 1.0)
    elif not limits[0] < limits[1]:
        raise AtomEncodingError(
            f"'limits' is {limits}: the first number must be less than the second."
        )
    # Less has no place for the colour bar and its letters.
    width, height = (check_integer("size", side, 150) for side in size)
    # A copy whose only conformer is a 2D drawing; without one RDKit computes it.
    flat = chem.Mol(mol)
    flat.RemoveAllConformers()
    for known in [known for known in mol.GetConformers() if not known.Is3D()][:1]:
        flat.AddConformer(known)
    canvas = getattr(draw, canvas_type)(width, height, width, height - _BAR_HEIGHT)
    options = canvas.drawOptions()
    options.fillHighlights = options.atomHighlightsAreCircles = True
    options.highlightRadius = 0.4
    # Letters in black: the colours of elements are lost on orange.
    options.useBWAtomPalette()
    colours = {i: _shade(value, *limits) for i, value in enumerate(values)}
    # No legend of RDKit's, all atoms highlighted and no bonds.
    draw.PrepareAndDrawMolecule(canvas, flat, "", list(colours), [], colours)
    _draw_bar(canvas, width, height, limits, legend)
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _check_weights(mol: Any, weights: Weights) -> list[float]:
    mend = "pass an rdkit.Chem.Mol with at least one atom."
    num_atoms = check_type("mol", mol, _rdkit("Chem").Mol, mend).GetNumAtoms()
    if num_atoms == 0:
        raise AtomEncodingError(f"'mol' is without atoms: {mend}")
    values = torch.as_tensor(weights).detach().double().cpu()
    hint = "one number per atom of 'mol', weights.mean(dim=1) where there are heads"
    check_shape("weights", values, num_atoms, hint=hint)
    for atom in (~values.isfinite()).nonzero().flatten().tolist():
        raise AtomEncodingError(
            f"'weights' is {values[atom]} for atom {atom}: pass finite numbers."
        )
    return values.tolist()


def _shade(value: float, low: float, high: float) -> tuple[float, ...]:
    part = min(max((value - low) / (high - low), 0.0), 1.0)
    return tuple(a + part * (b - a) for a, b in zip(_LOW, _HIGH, strict=True))


def _draw_bar(
    canvas: Any, width: int, height: int, limits: tuple[float, float], legend: str
) -> None:
    point = _rdkit("Geometry").Point2D
    left, right = 0.2 * width, 0.8 * width
    top, bottom = height - _BAR_HEIGHT + 4.0, height - _BAR_HEIGHT + 18.0
    step = (right - left) / _BAR_STEPS
    canvas.SetFillPolys(True)
    canvas.SetLineWidth(1)
    for number in range(_BAR_STEPS):
        start = left + number * step
        canvas.SetColour(_shade(number, 0, _BAR_STEPS - 1))
        canvas.DrawRect(point(start, top), point(start + step, bottom), rawCoords=True)
    canvas.SetColour((0.0, 0.0, 0.0))
    canvas.SetFontSize(13)
    for x, limit in zip((left - 24, right + 24), limits, strict=True):
        place = point(x, (top + bottom) / 2)
        canvas.DrawString(f"{limit:.3g}", place, rawCoords=True)
    canvas.DrawString(legend, point(width / 2, bottom + 14), rawCoords=True)
