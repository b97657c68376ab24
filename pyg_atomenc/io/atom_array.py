"""biotite's `AtomArray` ↔ `AtomTokenData`."""

from collections.abc import Callable
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_atomenc.checks import check, check_has, check_index, check_range, check_shape
from pyg_atomenc.chem import components
from pyg_atomenc.chem.bonds import bond_column, bond_tensors
from pyg_atomenc.chem.codes import Array, Integers, integers, of_distinct
from pyg_atomenc.chem.residues import check_atom_array, find_residues
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_pos, check_single
from pyg_atomenc.data.bonds import read_bonds
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.tokenizers.base import Tokenizer, Tokens, tokenize
from pyg_atomenc.tokenizers.features import TOKEN_FEATURES, structure_tokens
from pyg_atomenc.tokenizers.residue import Residue

# Beyond this, float32 no longer tells neighbouring atoms apart; in ångström.
_FARTHEST = 1e6
_ISOTOPES = {"D": 2, "T": 3}
_TEXTS = ("atom_name", "res_name", "chain_id", "ins_code")
_NAMES = (*_TEXTS, "res_id", "sym_id")


def from_atom_array(atoms: Any, tokenizer: Optional[Tokenizer] = None) -> AtomTokenData:
    """Turn an ``AtomArray`` of biotite into a graph.

    Args:
        atoms (biotite.structure.AtomArray): One model; it is not changed. ``bonds``,
            ``charge``, ``num_hydrogens``, ``chirality``, ``isotope`` and
            ``num_radical_electrons`` are read where it has them, and where
            ``is_resolved`` is false, positions may be NaN.
        tokenizer (callable, optional): Takes ``atoms``, gives their
            :class:`~pyg_atomenc.tokenizers.Tokens`. (default: ``Residue``)

    Returns:
        AtomTokenData: With ``N`` atoms, ``E`` directed bonds and ``T`` tokens

        - ``z`` ``[N]``, int64: atomic numbers, 0 where not known
        - ``pos`` ``[N, 3]``, float32: in ångström
        - ``formal_charge`` ``[N]``, int64: in elementary charges, 0 where not known
        - ``num_hydrogens`` ``[N]``, int64: by the valence, those that are atoms
          included; an unknown bond counts as single, and without ``bonds`` all are 0
        - ``chirality`` ``[N]``, int64: 0 for no stereocentre, 1 for R, 2 for S by the
          Chemical Component Dictionary, -1 for a component that it does not know
        - ``isotope`` ``[N]``, int64: mass numbers, those of ``D`` and ``T``, else 0
        - ``num_radical_electrons`` ``[N]``, int64: -1, as no structure tells them
        - ``edge_index`` ``[2, E]``, int64: bonds, each in both directions
        - ``edge_attr`` ``[E, 5]``, float32: one-hot :data:`~pyg_atomenc.io.BOND_TYPES`
        - ``edge_stereo`` ``[E]``, int64: 0 for no or an unknown stereo bond, 1 for E,
          2 for Z by the dictionary, -1 for a double bond of an unknown component
        - ``atom_name``, ``res_name``, ``chain_id``, ``ins_code``: lists of text, and
          ``res_id`` ``[N]``, int64, and ``hetero`` ``[N]``, bool
        - ``atom_to_token`` ``[N]``, int64, and ``num_tokens``
        - ``is_representative`` ``[N]``, bool: a residue's Cα, a nucleotide's C1′, else
          the first atom of a token; ``token_pos`` ``[T, 3]``, float32: its position
        - ``is_resolved`` ``[N]``, bool: whether its position is known
        - ``token_*``: what the tokenizer gives, and what it leaves out of the features
          of :class:`~pyg_atomenc.tokenizers.Residue`
        - ``smiles``, ``given_smiles``, ``source``: ``""``

        All readers give these, so that their graphs batch together: what is not known
        is NaN in ``pos`` and ``token_pos``, and ``""`` in text.

    Raises:
        ValueError: If ``atoms`` is no ``AtomArray``, is empty, has an impossible
            position, one atom twice or an unknown element, or if the tokens do not fit.
        ImportError: If biotite is not installed.
    """
    check_atom_array(atoms)
    z = components.atomic_numbers(atoms.element)
    coord = np.ascontiguousarray(atoms.coord, dtype=np.float32)
    _check_positions(atoms, coord)

    def told(name: str, default: Array) -> Integers:
        return integers(getattr(atoms, name, default), name)

    # What has no bonds at all was not looked at.
    charge, bonded = told("charge", 0 * z), atoms.bonds is not None
    bonds = atoms.bonds.as_array() if bonded else np.zeros((0, 3), int)
    hydrogens = components.count_hydrogens(z, charge, bonds) * bonded
    kinds = require_package("biotite.structure", "from_atom_array").BondType
    types = of_distinct(lambda kind: bond_column(kinds(kind).name), bonds[:, 2])
    isotope = of_distinct(lambda symbol: _ISOTOPES.get(symbol, 0), atoms.element)
    return make_graph(
        tokenize(tokenizer or Residue(), atoms, len(z)),
        lambda index, count: structure_tokens(find_residues(atoms), index, count=count),
        (bonds[:, :2], types, components.dictionary_stereo(atoms, bonds)),
        z=z, pos=coord.copy(), formal_charge=charge, isotope=told("isotope", isotope),
        num_hydrogens=told("num_hydrogens", hydrogens),
        chirality=told("chirality", components.dictionary_chirality(atoms)),
        num_radical_electrons=told("num_radical_electrons", np.full(len(z), -1)),
        res_id=atoms.res_id.astype(np.int64), hetero=atoms.hetero.copy(),
        **{name: getattr(atoms, name).tolist() for name in _TEXTS},
    )  # fmt: skip


def make_graph(
    tokens: Tokens, features: Callable[..., Tokens], bonds: Any, **columns: Any
) -> AtomTokenData:
    """The graph of any reader; ``features`` are called for what ``tokens`` lack."""
    index, count = tokens.atom_to_token, tokens.num_tokens
    known = dict(tokens.attributes)
    if not TOKEN_FEATURES.keys() <= known.keys():
        known = {**features(index.numpy(), count).attributes, **known}
    for name, values in columns.items():
        array = isinstance(values, np.ndarray)
        known[name] = torch.from_numpy(values) if array else values
    data = AtomTokenData(atom_to_token=index, num_tokens=count, **known)
    data.edge_index, data.edge_attr, data.edge_stereo = bond_tensors(*bonds)
    data.is_resolved = data.pos.isfinite().all(dim=1)
    atom: Any = tokens.representative
    found, data.is_representative = atom >= 0, torch.zeros_like(data.is_resolved)
    data.is_representative[atom[found]] = True
    data.token_pos = torch.where(found[:, None], data.pos[atom], torch.nan)
    data.smiles = data.given_smiles = data.source = ""
    return data


def to_atom_array(
    data: AtomTokenData, token_values: Optional[Tensor] = None,
    annotation: str = "b_factor",
) -> Any:  # fmt: skip
    """Turn a graph back into an ``AtomArray`` of biotite.

    Args:
        data (AtomTokenData): One graph with ``z`` and ``pos``, of a batch ``batch[i]``.
        token_values (Tensor, optional): One number a token ``[T]``, which each of its
            atoms then carries, for viewers to colour by. (default: ``None``)
        annotation (str): Their name, none that names atoms. (default: ``"b_factor"``)

    Returns:
        biotite.structure.AtomArray: ``N`` atoms, of which :func:`from_atom_array` makes
        the same graph, but for a molecule's ``edge_stereo``: it is one residue ``UNL``.

    Raises:
        ValueError: If ``data`` is a batch, has no ``z`` or ``pos`` or values that
            cannot be, or if ``token_values`` has not one real number per token.
        ImportError: If biotite is not installed.
    """
    structure = require_package("biotite.structure", "to_atom_array")
    check_single(data)
    check_has(data, "an AtomArray needs it.", "z", "pos")
    z = check_index("z", data.z, "pass atomic numbers as integers.")
    check_range("z", z, len(components.SYMBOLS), "elements")
    count = z.numel()
    check_shape("pos", data.pos, count, 3)
    check_pos(data, "an AtomArray needs some; embed a molecule with RDKit.")
    atoms = structure.AtomArray(count)
    atoms.coord = data.pos.detach().cpu().numpy().astype(np.float32)
    atoms.element = np.array(components.SYMBOLS)[data.z.cpu().numpy()]
    for symbol, mass in _ISOTOPES.items() if "isotope" in data else ():
        atoms.element[((data.z == 1) & (data.isotope == mass)).cpu().numpy()] = symbol
    _set_annotations(atoms, data)
    absent = dict(atom_name="", res_name="UNL", chain_id="A", ins_code="", res_id=1)
    for name, value in dict(absent, hetero=True).items():
        values = data.get(name, [value] * count)
        values = values.cpu().numpy() if isinstance(values, Tensor) else values
        setattr(atoms, name, np.array(values))
    edges, attr = read_bonds(data)
    if any(key in data for key in ("edge_index", "adj_t", "adj")):
        names = "SINGLE DOUBLE TRIPLE AROMATIC ANY".split()
        column = torch.full_like(edges[0], -1) if attr is None else attr.argmax(dim=1)
        kind = np.array([structure.BondType[n] for n in names])[column.cpu().numpy()]
        # Each bond once, however often and whichever way it is listed.
        atoms.bonds = structure.BondList(count, np.c_[edges.t().cpu().numpy(), kind])
    if token_values is not None:
        taken = {"", "coord", "bonds", *atoms.get_annotation_categories()}
        taken -= {"b_factor", "occupancy"}
        fits = isinstance(annotation, str) and annotation not in taken
        check(fits, f"'annotation' is {annotation!r}: pass a new name.")
        hint = "one number per token"
        check_shape("token_values", token_values, data.total_num_tokens, hint=hint)
        values = token_values.detach().cpu().double()[data.atom_to_token.cpu()]
        atoms.set_annotation(annotation, values.numpy())
    return atoms


def _set_annotations(atoms: Any, data: AtomTokenData) -> None:
    """What names atoms, and what cannot be told from them alone."""
    names = ["formal_charge", "num_hydrogens"]
    # Of a residue the dictionary and the elements tell these; of a molecule none do.
    if (data.get("num_radical_electrons", torch.tensor(-1)) >= 0).all():
        names += ["chirality", "isotope", "num_radical_electrons"]
    for name in filter(data.__contains__, names):
        values = data[name].cpu().numpy().astype(int)
        atoms.set_annotation(name.removeprefix("formal_"), values)
    if "is_resolved" in data and not data.is_resolved.all():
        atoms.set_annotation("is_resolved", data.is_resolved.cpu().numpy().copy())
    if "atom_to_token" not in data or "token_sym_id" not in data:
        return
    index = data.atom_to_token.cpu().numpy()
    if data.token_sym_id.any():
        atoms.set_annotation("sym_id", data.token_sym_id.cpu().numpy()[index])
    if any(data.token_label_chain):
        atoms.set_annotation("label_asym_id", np.array(data.token_label_chain)[index])
        number = data.token_label_res_id.cpu().numpy()
        number = np.where(number > 0, number.astype(str), ".")
        atoms.set_annotation("label_seq_id", number[index])


def _check_positions(atoms: Any, coord: Array) -> None:
    """Raise a ValueError if a position cannot be, or an atom stands there twice."""
    wrong = ~(np.abs(coord) < _FARTHEST).all(axis=1)
    wrong &= getattr(atoms, "is_resolved", wrong).astype(bool)
    atom = int(wrong.argmax())
    where = f"{coord[atom].tolist()} for {_tell(atoms, atom)}"
    mend = f"remove what is not finite, or not within {_FARTHEST:g} Å."
    check(not wrong[atom], f"'pos' is {where}: {mend}")
    # Sorting by one coordinate is enough to find the few that are equal in all.
    names = [getattr(atoms, name) for name in _NAMES if hasattr(atoms, name)]
    order = np.argsort(coord[:, 0], kind="stable")
    equal = (np.diff(coord[order], axis=0) == 0).all(axis=1)
    for i in np.flatnonzero(equal).tolist():
        one, other = sorted((int(order[i]), int(order[i + 1])))
        if all(values[one] == values[other] for values in names):
            mend = f"is there twice, first as atom {one}: remove one of them."
            raise AtomEncodingError(f"{_tell(atoms, other)} {mend}")


def _tell(atoms: Any, atom: int) -> str:
    residue, chain = atoms.res_name[atom], str(atoms.chain_id[atom])
    name = f"{atoms.atom_name[atom]} of {residue} {atoms.res_id[atom]}"
    return f"atom {atom} ({name} in chain {chain!r})"
