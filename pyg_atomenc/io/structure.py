"""Structure files and biotite's `AtomArray` → `AtomTokenData`."""

import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
import torch
from numpy.typing import NDArray

from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.altloc import choose_altloc
from pyg_atomenc.io.bonds import bond_tensors
from pyg_atomenc.io.cif import read_block
from pyg_atomenc.io.elements import atomic_numbers
from pyg_atomenc.tokenizers.base import Tokenizer, tokenize
from pyg_atomenc.tokenizers.residue import Residue, check_atom_array

_FORMATS = {
    ".cif": "mmCIF",
    ".mmcif": "mmCIF",
    ".bcif": "BinaryCIF",
    ".pdb": "PDB",
    ".ent": "PDB",
}
_FIELDS = ("charge", "occupancy")
_WATER = ("HOH", "DOD", "WAT", "H2O")


def from_structure(
    path: Union[str, "os.PathLike[str]"],
    tokenizer: Optional[Tokenizer] = None,
    *,
    model: int = 1,
    waters: bool = True,
    hydrogens: bool = True,
) -> AtomTokenData:
    """Read one model of a structure file: mmCIF, BinaryCIF or PDB, also gzipped.

    Atoms keep the order of the file. Of alternate locations, each residue keeps the
    one with the highest summed occupancy, the first of equal ones. Chains and residue
    numbers are the authors', as in a PDB file. Bonds inside residues come from the
    file's own component tables or the Chemical Component Dictionary, those between
    residues from the polymer and from the file's connections (``struct_conn``,
    ``CONECT``); a ligand in a PDB file without ``CONECT`` has no bonds.

    Args:
        path (str or os.PathLike): The file. Its name tells the format: ``.cif``,
            ``.mmcif``, ``.bcif``, ``.pdb`` or ``.ent``, each also with ``.gz``.
        tokenizer (callable, optional): Takes the ``biotite.structure.AtomArray``,
            gives its :class:`~pyg_atomenc.tokenizers.Tokens`.
            (default: :class:`~pyg_atomenc.tokenizers.Residue`)
        model (int): Which model, from 1. (default: ``1``)
        waters (bool): Keep water molecules. (default: ``True``)
        hydrogens (bool): Keep hydrogen and deuterium atoms. (default: ``True``)

    Returns:
        AtomTokenData: As from :func:`from_atom_array`.

    Raises:
        ValueError: If the file is missing, empty, damaged or of another format, holds
            no such model, or a position that is not finite. Its message starts with
            the file's name.
        ImportError: If biotite is not installed.
    """
    require_package("biotite.structure.io", "from_structure")
    if isinstance(model, bool) or not isinstance(model, int) or model < 1:
        raise AtomEncodingError(
            f"'model' is {model!r}: pass the number of a model, counted from 1."
        )
    file = Path(path)
    kind = _format(file)
    content = _read(file)
    # Whatever the parsers raise on a damaged file, the user gets one kind of error.
    try:
        atoms = (_read_pdb if kind == "PDB" else _read_cif)(content, kind, model)
    except Exception as error:
        raise FileFormatError(
            f"{file}: cannot be read as {kind} ({_reason(error)}). Check that the file "
            f"is complete and that its name ends in its true format."
        ) from error
    _bond_split_residues(atoms)
    found = atoms.array_length()
    atoms = _select(atoms, waters, hydrogens)
    if atoms.array_length() == 0:
        raise FileFormatError(
            f"{file}: holds no atoms in model {model}"
            + (f" but {found} of waters and hydrogens" if found else "")
            + ". Check the file, and 'model', 'waters' and 'hydrogens'."
        )
    try:
        return from_atom_array(atoms, tokenizer)
    except AtomEncodingError as error:
        raise FileFormatError(f"{file}: {error}") from error


def from_atom_array(atoms: Any, tokenizer: Optional[Tokenizer] = None) -> AtomTokenData:
    """Turn an ``AtomArray`` of biotite into a graph.

    Args:
        atoms (biotite.structure.AtomArray): One model; it is not changed. Its ``bonds``
            and its annotation ``charge`` are read where it has them.
        tokenizer (callable, optional): Takes ``atoms``, gives their
            :class:`~pyg_atomenc.tokenizers.Tokens`.
            (default: :class:`~pyg_atomenc.tokenizers.Residue`)

    Returns:
        AtomTokenData: With ``N`` atoms, ``E`` directed bonds and ``T`` tokens

        - ``z`` ``[N]``, int64: atomic numbers, 0 where not known
        - ``pos`` ``[N, 3]``, float32: in ångström
        - ``formal_charge`` ``[N]``, int64: in elementary charges, 0 where not known
        - ``edge_index`` ``[2, E]``, int64: bonds, each in both directions
        - ``edge_attr`` ``[E, 5]``, float32: one-hot over
          :data:`~pyg_atomenc.io.BOND_TYPES`
        - ``atom_name``: the atoms' names, such as ``CA``
        - ``atom_to_token`` ``[N]``, int64, and ``num_tokens``
        - ``token_*``: what the tokenizer gives; the default gives ``token_name``,
          ``token_chain``, ``token_res_id`` and ``token_ins_code``

    Raises:
        ValueError: If ``atoms`` is no ``AtomArray``, is empty, has a position that is
            not finite or a symbol that is no element, or if the tokens do not fit.
        ImportError: If biotite is not installed.
    """
    check_atom_array(atoms)
    z = atomic_numbers(atoms.element)
    pos = torch.from_numpy(np.ascontiguousarray(atoms.coord, dtype=np.float32))
    _check_positions(atoms, pos)
    tokens = tokenize(tokenizer or Residue(), atoms, atoms.array_length())
    edge_index, edge_attr = _bonds(atoms)
    has_charge = "charge" in atoms.get_annotation_categories()
    charge = atoms.charge if has_charge else np.zeros_like(z)
    return AtomTokenData(
        z=torch.from_numpy(z),
        pos=pos.clone(),
        formal_charge=torch.from_numpy(charge.astype(np.int64)),
        edge_index=edge_index,
        edge_attr=edge_attr,
        atom_name=atoms.atom_name.tolist(),
        atom_to_token=tokens.atom_to_token,
        num_tokens=tokens.num_tokens,
        **tokens.attributes,
    )


def _format(file: Path) -> str:
    suffixes = [suffix.lower() for suffix in file.suffixes]
    suffix = "".join(suffixes[-2:-1] if suffixes[-1:] == [".gz"] else suffixes[-1:])
    if suffix not in _FORMATS:
        raise FileFormatError(
            f"{file}: its name ends in none of {', '.join(_FORMATS)} (with or without "
            f".gz). Rename the file after its format."
        )
    return _FORMATS[suffix]


def _read(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        if file.suffix.lower() == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise FileFormatError(f"{file}: does not exist. Check the path.") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(
            f"{file}: is no complete gzip file ({error}). Fetch it anew, or drop '.gz' "
            f"from its name if it is not compressed."
        ) from error
    except OSError as error:
        raise FileFormatError(
            f"{file}: cannot be read ({error.strerror}). Check the path and its "
            f"permissions."
        ) from error
    if not content.strip():
        raise FileFormatError(f"{file}: is empty. Fetch it anew.")
    return content


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"no {text}" if isinstance(error, KeyError) else text


def _read_pdb(content: bytes, kind: str, model: int) -> Any:
    pdb = require_package("biotite.structure.io.pdb", "from_structure")
    file = pdb.PDBFile.read(io.StringIO(content.decode("utf-8")))
    atoms = file.get_structure(
        model=model, altloc="all", extra_fields=list(_FIELDS), include_bonds=True
    )
    return atoms[choose_altloc(atoms)]


def _read_cif(content: bytes, kind: str, model: int) -> Any:
    pdbx = require_package("biotite.structure.io.pdbx", "from_structure")
    if kind == "mmCIF":
        file = pdbx.CIFFile.read(io.StringIO(content.decode("utf-8")))
    else:
        file = pdbx.BinaryCIFFile.read(io.BytesIO(content))
    return read_block(file.block, model, _FIELDS)


def _bond_split_residues(atoms: Any) -> None:
    """Add the bonds of residues whose atoms do not stand together in the file."""
    if atoms.array_length() == 0:
        return
    token = Residue()(atoms).atom_to_token.numpy()
    order = np.argsort(token, kind="stable")
    if (np.diff(order) == 1).all():
        return
    structure = require_package("biotite.structure", "from_structure")
    bonds = structure.connect_via_residue_names(atoms[order]).as_array()
    bonds[:, :2] = order[bonds[:, :2]]
    # The names of a ligand's atoms need not be those of the component dictionary.
    bonds = bonds[~atoms.hetero[bonds[:, :2]].any(axis=1)]
    more = structure.BondList(atoms.array_length(), bonds)
    atoms.bonds = atoms.bonds.merge(more)


def _select(atoms: Any, waters: bool, hydrogens: bool) -> Any:
    keep = np.ones(atoms.array_length(), dtype=bool)
    if not waters:
        keep &= ~np.isin(atoms.res_name, _WATER)
    if not hydrogens:
        keep &= ~np.isin(np.char.upper(atoms.element), ("H", "D", "T"))
    return atoms if keep.all() else atoms[keep]


def _check_positions(atoms: Any, pos: torch.Tensor) -> None:
    wrong = (~pos.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if wrong:
        atom = wrong[0]
        raise AtomEncodingError(
            f"'pos' is {pos[atom].tolist()} for atom {atom} ({atoms.atom_name[atom]} "
            f"of {atoms.res_name[atom]} {atoms.res_id[atom]} in chain "
            f"{atoms.chain_id[atom]!r}): every position must be finite; remove atoms "
            f"that were not observed."
        )


def _bonds(atoms: Any) -> tuple[torch.Tensor, torch.Tensor]:
    if atoms.bonds is None:
        return bond_tensors([], [])
    kinds = require_package("biotite.structure", "from_atom_array").BondType
    name = {int(kind): _bond_name(kind.name) for kind in kinds}
    bonds: NDArray[Any] = atoms.bonds.as_array()
    types = [name[kind] for kind in bonds[:, 2].tolist()]
    return bond_tensors(bonds[:, :2].tolist(), types)


def _bond_name(name: str) -> str:
    # AROMATIC_SINGLE and its like are one type here, as in RDKit.
    return "aromatic" if name.startswith("AROMATIC") else name.lower()
