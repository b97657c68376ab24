"""Drawings of molecules, with atoms coloured by a weight and tokens outlined."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch import Tensor

from pyg_atomenc.checks import check, check_has, check_integer, check_shape
from pyg_atomenc.chem import rdkit
from pyg_atomenc.chem.bonds import unique_bonds
from pyg_atomenc.data.atom_token_data import check_graph, check_single
from pyg_atomenc.errors import AtomEncodingError, require_package

Weights = Union[Tensor, Sequence[float], Sequence[Sequence[float]]]

# Light enough to read letters on, and told apart by the colour-blind.
_BLUE, _ORANGE = torch.tensor([[0.25, 0.55, 0.90], [0.95, 0.45, 0.10]]).double()


def draw_atom_weights(
    data: Any,
    weights: Weights,
    *,
    mol: Any = None,
    relative: bool = True,
    atom_names: bool = False,
    legend: str = "atom weights",
    limits: Optional[tuple[float, float]] = None,
    size: tuple[int, int] = (450, 350),
) -> str:
    """Draw a molecule, its atoms coloured by weight and its tokens outlined, as SVG.

    Args:
        data (AtomTokenData or rdkit.Chem.Mol): One molecule of ``N`` atoms, in whose
            order the weights stand. A ``Mol`` is one token, and not outlined.
        weights (Tensor or sequence): What every atom counts ``[N]``, or counts in each
            head ``[N, H]``, as an encoder returns it; the mean of heads is drawn.
        mol (rdkit.Chem.Mol, optional): Drawn for the graph, such as for its stereo or
            2D conformer. Its elements, charges and which atoms are bonded must be the
            graph's, in the graph's order. (default: the graph's)
        relative (bool): Divide by the token's mean, so that 1 (white) is average. If
            false, 0 is white, for what has a sign, as attributions. (default: ``True``)
        atom_names (bool): Write a graph's ``atom_name`` beside it. (default: ``False``)
        legend (str): What they are, above the colours. (default: ``"atom weights"``)
        limits (tuple, optional): What is blue, and orange, with all beyond.
            (default: 0 and the largest, at least 2; else ± the largest)
        size (tuple): Width and height in pixels. (default: ``(450, 350)``)

    Returns:
        str: The picture, to be written to a file or shown by ``IPython.display.SVG``.

    Raises:
        ValueError: If ``data`` is no single molecule, ``mol`` has other atoms or bonds,
            not every atom has one finite weight, not below 0 where it is relative, or
            if ``limits`` or ``size`` cannot be drawn.
        ImportError: If RDKit is not installed.
    """
    given = (mol, relative, atom_names, legend, limits, size)
    return str(_draw("MolDraw2DSVG", data, weights, *given))


def draw_atom_weights_png(data: Any, weights: Weights, **options: Any) -> bytes:
    """As :func:`draw_atom_weights`, with its ``options``, as the bytes of a PNG."""
    defaults: Any = draw_atom_weights.__kwdefaults__
    return bytes(_draw("MolDraw2DCairo", data, weights, **(defaults | options)))


def _draw(
    kind: str, data: Any, weights: Weights, mol: Any, relative: bool, atom_names: bool,
    legend: str, limits: Any, size: Any,
) -> Any:  # fmt: skip
    draw = require_package("rdkit.Chem.Draw.rdMolDraw2D", "draw_atom_weights")
    alone = data is None or rdkit.is_mol(data)
    mol = data if alone else _molecule(data, mol)
    rdkit.check_mol(mol)
    token = [0] * mol.GetNumAtoms() if alone else data.atom_to_token.tolist()
    values = _values(weights, torch.tensor(token), relative)
    middle, largest = float(relative), float(values.abs().max())
    end = max(largest, 2.0) if relative else largest or 1.0
    low, high = limits or (0.0 if relative else -end, end)
    mend = f"{middle:g} must lie between the two numbers."
    check(low < middle < high, f"'limits' is {limits}: {mend}")
    less, more = (middle - values) / (middle - low), (values - middle) / (high - middle)
    shades = 1.0 - torch.outer(less.clamp(0.0, 1.0), 1.0 - _BLUE)
    shades -= torch.outer(more.clamp(0.0, 1.0), 1.0 - _ORANGE)
    colours = dict(enumerate(map(tuple, shades.tolist())))
    average = "average" if alone else "average of its token"
    white = f"1 ({average})" if relative else "0"
    legend += f"\nblue {low:.3g}, white {white}, orange {high:.3g}"
    # A copy whose only conformer is a 2D drawing; else RDKit's.
    flat = type(mol)(mol)
    flat.RemoveAllConformers()
    for known in [known for known in mol.GetConformers() if not known.Is3D()][:1]:
        flat.AddConformer(known)
    if not flat.GetNumConformers():
        depict = require_package("rdkit.Chem.rdDepictor", "draw_atom_weights")
        depict.Compute2DCoords(flat)
    for atom in rdkit.atoms_of(flat) if atom_names and not alone else ():
        atom.SetProp("atomNote", data.atom_name[atom.GetIdx()])
    canvas: Any = None
    # Where to outline tokens is known once the atoms are drawn.
    for _ in range(1 if alone else 2):
        plan = canvas
        canvas = getattr(draw, kind)(*(check_integer("size", n, 50) for n in size))
        options = canvas.drawOptions()
        options.fillHighlights = options.atomHighlightsAreCircles = True
        options.highlightRadius = 0.35
        # Room for outlines and two lines, no ring that fills all for a single atom, and
        # no marks of RDKit's own where atoms come close.
        options.padding, options.legendFraction = 0.08, 0.15
        options.fixedBondLength = min(size) / 6
        options.flagCloseContactsDist = -1
        # Letters in black: the colours of elements are lost on these.
        options.useBWAtomPalette()
        if plan is not None:
            _outline(canvas, plan, flat, token)
            options.clearBackground = False
        draw.PrepareAndDrawMolecule(canvas, flat, legend, list(colours), [], colours)
    canvas.FinishDrawing()
    return canvas.GetDrawingText()


def _molecule(data: Any, mol: Any) -> Any:
    """That of a graph, or the one to be drawn for it, if it has its atoms and bonds."""
    check_single(data)
    edges, attr = check_graph(data)
    mend = "read it with pyg_atomenc.io, or pass an rdkit.Chem.Mol."
    check_has(data, mend, "z", "formal_charge", "num_hydrogens")
    bonds, types = unique_bonds(edges, attr)
    # A graph that was edited has no longer the stereo of its SMILES.
    drawn = rdkit.mol_of_smiles(data) if mol is None else mol
    if drawn is not None:
        rdkit.check_mol(drawn)
        atoms = rdkit.atoms_of(drawn)
        found = [(atom.GetAtomicNum(), atom.GetFormalCharge()) for atom in atoms]
        own = list(zip(data.z.tolist(), data.formal_charge.tolist(), strict=True))
        ends = torch.from_numpy(rdkit.bond_ends(drawn)).sort(1)
        if found == own and sorted(ends.values.tolist()) == sorted(bonds.T.tolist()):
            return drawn
    if mol is not None:
        what = f"elements and charges: {found}, and the graph {own}"
        what = "bonds" if found == own else what
        mend = "pass the same molecule, with its atoms in the order of the graph's."
        raise AtomEncodingError(f"'mol' has other {what}: {mend}")
    drawn = rdkit.graph_mol(rdkit.graph_atoms(data, bonds, types), bonds, types)
    for atom, mass in zip(rdkit.atoms_of(drawn), data.get("isotope", ()), strict=False):
        atom.SetIsotope(int(mass))
    return drawn


def _values(weights: Weights, token: Tensor, relative: bool) -> Tensor:
    """What every atom counts ``[N]``, float64, relative to its token or not."""
    values = torch.as_tensor(weights).detach().double().cpu()
    values = values.mean(dim=1) if values.dim() == 2 else values
    hint = "one number per atom of 'data', or one of every head"
    check_shape("weights", values, len(token), hint=hint)
    wrong = ~values.isfinite() | (values < 0.0 if relative else False)
    for atom in wrong.nonzero().flatten().tolist():
        what = f"{values[atom]:g} for atom {atom}"
        mend = "pass finite numbers; if they have a sign, with relative=False."
        raise AtomEncodingError(f"'weights' is {what}: {mend}")
    total = torch.zeros(int(token.max()) + 1).double().index_add(0, token, values)
    mean = (total / token.bincount())[token]
    # Where no atom counts, each counts as much as the others.
    return (values / mean).where(mean > 0.0, 1.0) if relative else values


def _outline(canvas: Any, plan: Any, mol: Any, token: list[int]) -> None:
    """Outline the tokens, where another canvas has drawn the atoms."""
    point = require_package("rdkit.Geometry", "draw_atom_weights").Point2D
    place = [plan.GetDrawCoords(atom) for atom in range(len(token))]
    unit = plan.GetDrawCoords(point(1, 0)).x - plan.GetDrawCoords(point(0, 0)).x
    width_of_bonds = canvas.LineWidth()
    canvas.ClearDrawing()
    canvas.SetFillPolys(True)
    # The outline's line, and what it encloses, narrower by so many pixels.
    for less, shade in ((0, (0.45, 0.45, 0.45)), (3, (0.94, 0.94, 0.94))):
        width = max(round(0.94 * unit) - less, 1)
        canvas.SetColour(shade)
        canvas.SetLineWidth(width)
        for a, b in rdkit.bond_ends(mol).tolist():
            if token[a] == token[b]:
                canvas.DrawLine(place[a], place[b], True)
        canvas.SetLineWidth(1)
        corner = point(width / 2, width / 2)
        for at in place:
            canvas.DrawEllipse(at - corner, at + corner, True)
    canvas.SetLineWidth(width_of_bonds)
