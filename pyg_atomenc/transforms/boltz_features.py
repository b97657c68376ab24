"""`BoltzFeatures`: what Boltz's atom encoder reads of a molecule."""

from typing import Any

import torch
from torch import Tensor
from torch_geometric.transforms import BaseTransform

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError
from pyg_atomenc.transforms.reference import (
    backbone_codes,
    read_as_methionine,
    reference_conformers,
    reference_spaces,
    residue_codes,
)


class BoltzFeatures(BaseTransform):
    """Adds what :class:`~pyg_atomenc.nn.BoltzAtomEncoder` reads, encoded as Boltz does.

    Reference positions are the ideal coordinates of the Chemical Component Dictionary
    for structures (a residue that it does not know keeps its own), and those of an
    RDKit conformer for molecules without positions. Conformers are centred. As in
    Boltz, selenomethionine (MSE) becomes methionine, its selenium a sulfur.

    Adds, for ``N`` atoms and ``T`` tokens:

    - ``ref_pos`` ``[N, 3]``, float32: in ångström
    - ``ref_charge`` ``[N]``, float32: in elementary charges
    - ``ref_atom_name_chars`` ``[N, 4]``, int64: ``ord - 32`` of the upper-case name's
      characters, modulo 64
    - ``ref_space_uid`` ``[N]``, int64: the residue
    - with ``backbone``: ``backbone`` ``[N]``, int64: 0 none; 1 to 4 N, CA, C, O of a
      protein; 5 to 16 P, OP1, OP2, O5', C5', C4', O4', C3', O3', C2', O2', C1' of DNA
      and RNA
    - with ``residue``: ``token_res_type`` ``[T]``, int64, 0 to 32; ``token_modified``
      ``[T]``, 0 or 1; ``token_mol_type`` ``[T]``: 0 protein, 1 DNA, 2 RNA, 3 other

    Args:
        backbone (bool): Add the kinds of backbone atoms. (default: ``False``)
        residue (bool): Add the features of residues. (default: ``False``)
        rotate (bool): Turn every conformer at random, as Boltz does in training.
            (default: ``False``)
        seed (int): Of RDKit's embedding. (default: ``0``)

    Raises:
        ValueError: If a name has over four characters or others than ASCII, or if there
            is nothing to take reference positions from.
        ImportError: If biotite is missing for a structure, or RDKit for a SMILES.
    """

    def __init__(
        self,
        backbone: bool = False,
        residue: bool = False,
        rotate: bool = False,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.residue = residue
        self.rotate = rotate
        self.seed = seed

    def forward(self, data: AtomTokenData) -> AtomTokenData:
        """Add the features to a shallow copy."""
        for name in ("z", "atom_name", "atom_to_token"):
            if name not in data:
                raise AtomEncodingError(
                    f"'{name}' is missing from the data: read it with from_structure, "
                    f"from_smiles or from_rdmol."
                )
        read_as_methionine(data)
        data.ref_atom_name_chars = name_codes(data.atom_name)
        data.ref_space_uid = reference_spaces(data)
        pos, charge = reference_conformers(data, self.seed)
        data.ref_pos = _centre(pos, data.ref_space_uid, self.rotate)
        data.ref_charge = charge
        if self.backbone:
            data.backbone = backbone_codes(data)
        if self.residue:
            for name, value in residue_codes(data).items():
                setattr(data, name, value)
        return data

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(backbone={self.backbone}, residue={self.residue})"
        )


def name_codes(names: Any) -> Tensor:
    """The codes of atom names ``[N, 4]``.

    Raises:
        ValueError: If a name is too long or not ASCII.
    """
    rows = []
    for atom, name in enumerate(names):
        text = str(name).strip().upper()
        if len(text) > 4 or not all(32 <= ord(letter) < 128 for letter in text):
            raise AtomEncodingError(
                f"'atom_name' is {name!r} for atom {atom}: Boltz encodes up to four "
                f"ASCII characters; shorten the name."
            )
        rows.append([(ord(letter) - 32) % 64 for letter in text.ljust(4)])
    return torch.tensor(rows, dtype=torch.long).view(-1, 4)


def _centre(pos: Tensor, space: Tensor, rotate: bool) -> Tensor:
    count = int(space.max()) + 1
    size = space.bincount(minlength=count).unsqueeze(1)
    middle = pos.new_zeros(count, 3).index_add(0, space, pos) / size
    pos = pos - middle[space]
    if rotate:
        turn, upper = torch.linalg.qr(torch.randn(count, 3, 3).to(pos))
        # Uniform over the rotations: signs by the factor, no reflections.
        turn = turn * upper.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
        turn = turn * turn.det().view(-1, 1, 1)
        pos = (turn[space] @ pos.unsqueeze(2)).squeeze(2)
    return pos
