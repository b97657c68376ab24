"""`AtomFeatures`: what an atom is, as categories."""

import warnings

import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform

from pyg_atomenc.checks import check, check_has, check_range
from pyg_atomenc.chem import rdkit
from pyg_atomenc.chem.bonds import unique_bonds
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_graph

_MAX_RING = 8


class AtomFeatures(BaseTransform):
    """Adds ``x`` ``[N, 11]``, int64: eleven categories of every atom.

    The columns, named by :attr:`columns`, with as many values as :attr:`sizes` says:

    - ``element``: the atomic number, 0 to 118
    - ``charge``: the formal charge in elementary charges, from −5 to 5, plus 5
    - ``degree``: bonded atoms, hydrogens included, to 10
    - ``hybridization``: other, S, SP, SP2, SP3, SP3D, SP3D2, by RDKit
    - ``is_aromatic``: 0 or 1
    - ``ring_size``: atoms in its smallest ring, 3 to 8; 0 for none or a larger one
    - ``chirality``: 0 none or unknown, 1 R, 2 S, 3 r, 4 s: what the reader found, else
      by the positions, with RDKit's CIP codes
    - ``num_hydrogens``: hydrogens, implicit ones included, to 8
    - ``isotope``: its mass number, to 300; 0 where none is given
    - ``num_radical_electrons``: to 4
    - ``bond_stereo``: 0 none or unknown, 1 E, 2 Z and so on, of its bonds' highest
      code in ``edge_stereo``, see :func:`~pyg_atomenc.io.from_rdmol`

    Values beyond a range count as its end, those unknown or missing as 0.

    Args:
        attr (str): The name of the attribute. (default: ``"x"``)

    Raises:
        ValueError: If ``z``, ``formal_charge`` or ``num_hydrogens`` is missing, or
            ``edge_attr`` holds no bond types.
        ImportError: If RDKit is not installed.
    """

    columns = """element charge degree hybridization is_aromatic ring_size chirality
    num_hydrogens isotope num_radical_electrons bond_stereo""".split()
    sizes: tuple[int, ...] = (119, 11, 11, len(rdkit.HYBRIDIZATIONS), 2, _MAX_RING + 1)
    sizes += (len(rdkit.CHIRALITY), 9, 301, 5, len(rdkit.STEREO))

    def __init__(self, attr: str = "x") -> None:
        fits = isinstance(attr, str) and attr.isidentifier()
        check(fits, f"'attr' is {attr!r}: pass an attribute's name.")
        self.attr = attr

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the features to a shallow copy."""
        edges = check_graph(data)
        mend = "read it with from_structure, from_smiles or from_rdmol."
        check_has(data, mend, "z", "formal_charge", "num_hydrogens")
        check_range("z", data.z, self.sizes[0], "elements")
        bonds, types = unique_bonds(*edges)
        atoms = rdkit.graph_atoms(data, bonds, types)
        z, charge, implicit, radicals, aromatic = atoms.unbind(1)
        mol = rdkit.graph_mol(atoms, bonds, types)
        hybridization, ring = rdkit.hybridization_and_ring(mol)
        hand = data.get("chirality", torch.full_like(z, -1)).cpu()
        if isinstance(data.pos, Tensor) and bool((hand < 0).any()):
            hand = hand.where(hand >= 0, rdkit.chirality_of_positions(mol, data.pos))
        degree = bonds.flatten().bincount(minlength=len(z)) + implicit
        ring = ring.where(ring <= _MAX_RING, 0)
        # In the order of `columns`.
        features = [z, charge + 5, degree, hybridization, aromatic, ring, hand]
        features += [data.num_hydrogens.cpu(), data.get("isotope", 0 * z).cpu()]
        features += [radicals, _bond_stereo(data, edges[0])]
        x = torch.stack(features, 1).clamp(min=0).minimum(torch.tensor(self.sizes) - 1)
        setattr(data, self.attr, x.to(data.z.device))
        return data


def _bond_stereo(data: AtomTokenData, edges: Tensor) -> Tensor:
    """The highest code of the bonds of every atom ``[N]``."""
    code, highest = data.get("edge_stereo"), torch.zeros_like(data.z, device="cpu")
    if code is None or not code.any():
        return highest
    if len(code) != edges.size(1):
        text = f"'edge_stereo' has {len(code)} rows for {edges.size(1)} bonds"
        warnings.warn(f"{text}, and 'bond_stereo' is 0.", stacklevel=4)
        return highest
    atom = edges.cpu().flatten()
    return highest.scatter_reduce(0, atom, code.cpu().repeat(2), "amax")
