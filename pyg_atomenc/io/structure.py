"""Structure files → `AtomTokenData`."""

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from pyg_atomenc.checks import check_choice, check_type
from pyg_atomenc.chem.residues import WATERS
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.atom_array import check_positions, from_atom_array
from pyg_atomenc.io.cif import CifDocument
from pyg_atomenc.io.limits import Limits, read_bytes
from pyg_atomenc.io.pdb import PdbDocument
from pyg_atomenc.io.unresolved import add_unresolved
from pyg_atomenc.tokenizers.base import Tokenizer

_FORMATS = {".cif": "mmCIF", ".mmcif": "mmCIF", ".bcif": "BinaryCIF"}
_FORMATS |= {".pdb": "PDB", ".ent": "PDB"}
# How the names of structure files end, each also with .gz behind it.
SUFFIXES = tuple(_FORMATS)


def from_structure(
    path: Union[str, "os.PathLike[str]"],
    tokenizer: Optional[Tokenizer] = None,
    *,
    model: Union[int, str] = 1,
    assembly: Optional[str] = None,
    chains: Optional[Sequence[str]] = None,
    numbering: str = "author",
    waters: bool = True,
    hydrogens: bool = True,
    unresolved: bool = False,
    limits: Optional[Limits] = None,
) -> Union[AtomTokenData, list[AtomTokenData]]:
    """Read a structure file: mmCIF, BinaryCIF or PDB, also gzipped.

    Atoms keep the order of the file. Of alternate locations, each residue keeps the
    one with the highest summed occupancy, the first of equal ones. Bonds inside
    residues come from the file's own component tables or the Chemical Component
    Dictionary, those between residues from the polymer and from the file's connections
    (``struct_conn``, ``CONECT``); a ligand of a PDB file that the dictionary does not
    know has those of ``CONECT`` alone.

    Args:
        path (str or os.PathLike): The file. Its name tells the format: ``.cif``,
            ``.mmcif``, ``.bcif``, ``.pdb`` or ``.ent``, each also with ``.gz``.
        tokenizer (callable, optional): Takes the ``biotite.structure.AtomArray``,
            gives its :class:`~pyg_atomenc.tokenizers.Tokens`.
            (default: :class:`~pyg_atomenc.tokenizers.Residue`)
        model (int or str): Which one, from 1, or ``"all"`` for a list. (default: ``1``)
        assembly (str, optional): The id of the biological assembly to build, such as
            ``"1"``; its copies have ``token_sym_id``. (default: the atoms of the file)
        chains (sequence, optional): Names to keep, in ``numbering``. (default: all)
        numbering (str): What ``chain_id``, ``res_id`` and ``token_*`` of these names
            hold: ``"author"``, as in a PDB file, or ``"label"``, as in the sequence
            (mmCIF only; 0 for what is in none). Files with both always give
            ``token_label_chain`` and ``token_label_res_id``. (default: ``"author"``)
        waters (bool): Keep water molecules. (default: ``True``)
        hydrogens (bool): Keep hydrogen and deuterium atoms. (default: ``True``)
        unresolved (bool): Add the heavy atoms of the full sequence that the
            coordinates lack, with NaN as positions; ``is_resolved`` tells them apart
            (mmCIF with ``pdbx_poly_seq_scheme`` only). (default: ``False``)
        limits (Limits, optional): What the file may hold at most.
            (default: :class:`~pyg_atomenc.io.Limits`)

    Returns:
        AtomTokenData or list: As from :func:`from_atom_array`; a list for ``"all"``.

    Raises:
        ValueError: If the file is missing, empty, damaged, cut short, over a limit or
            of another format, holds no such model, assembly or chain, or a position
            that cannot be. Its message starts with the file's name.
        ImportError: If biotite is not installed.
    """
    require_package("biotite.structure.io", "from_structure")
    _check_options(model, assembly, chains, numbering)
    file, limits = Path(path), limits or Limits()
    suffix = Path(file.stem if file.suffix.lower() == ".gz" else file).suffix.lower()
    if suffix not in _FORMATS:
        raise FileFormatError(
            f"{file}: its name ends in none of {', '.join(_FORMATS)} (with or without "
            f".gz). Rename the file after its format."
        )
    kind = _FORMATS[suffix]
    content = read_bytes(file, limits)
    with _one_kind_of_error(file, kind):
        if kind == "PDB":
            document: Any = PdbDocument(file, content, limits)
        else:
            document = CifDocument(file, content, limits, kind == "BinaryCIF")
        count = document.num_models
        known = document.assemblies if assembly is not None else [None]
    if count == 0:
        raise FileFormatError(
            f"{file}: holds no atoms. Check that its name ends in its true format."
        )
    if model != "all" and model > count:
        raise FileFormatError(
            f"{file}: has {count} models, but 'model' is {model}. Pass a number from 1 "
            f"to {count}, or 'all'."
        )
    if assembly not in known:
        raise FileFormatError(
            f"{file}: has no assembly {assembly!r}, but {known}. Pass one of these as "
            f"'assembly', or None."
        )
    graphs = []
    for number in range(1, count + 1) if model == "all" else [model]:
        with _one_kind_of_error(file, kind):
            atoms = document.read(number, assembly)
        limits.check_atoms(file, atoms.array_length())
        try:
            if atoms.array_length() > 0:
                atoms = _prepare(atoms, document, kind, numbering, unresolved)
            left = _select(atoms, chains, waters, hydrogens)
            if left.array_length() == 0:
                found = atoms.array_length()
                raise AtomEncodingError(
                    f"holds no atoms in model {number}"
                    + (f" but {found} of waters and hydrogens" if found else "")
                    + ". Check the file, and 'model', 'waters' and 'hydrogens'."
                )
            graphs.append(from_atom_array(left, tokenizer))
        except AtomEncodingError as error:
            raise FileFormatError(f"{file}: {error}") from error
    return graphs if model == "all" else graphs[0]


def _check_options(model: Any, assembly: Any, chains: Any, numbering: Any) -> None:
    number = isinstance(model, int) and not isinstance(model, bool) and model > 0
    if model != "all" and not number:
        raise AtomEncodingError(
            f"'model' is {model!r}: pass a model's number, from 1, or 'all'."
        )
    mend = "pass the assembly's id as text, such as '1'."
    check_type("assembly", "" if assembly is None else assembly, str, mend)
    if chains is not None and (isinstance(chains, str) or not list(chains)):
        raise AtomEncodingError(
            f"'chains' is {chains!r}: pass a list of names, such as ['A', 'B']."
        )
    check_choice("numbering", numbering, ("author", "label"))


@contextmanager
def _one_kind_of_error(file: Path, kind: str) -> Iterator[None]:
    """Whatever the parsers raise on a damaged file, the user gets one kind of error.

    They warn of what they fill up: missing columns that others stand in for.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except FileFormatError:
        raise
    except Exception as error:
        raise FileFormatError(
            f"{file}: cannot be read as {kind} ({_reason(error)}). Check that the file "
            f"is complete and that its name ends in its true format."
        ) from error


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return f"no {text}" if isinstance(error, KeyError) else text


def _prepare(
    atoms: Any, document: Any, kind: str, numbering: str, unresolved: bool
) -> Any:
    check_positions(atoms, atoms.coord)
    if unresolved:
        if kind == "PDB":
            raise AtomEncodingError(
                "'unresolved' is True, but a PDB file does not number its sequence: "
                "pass the entry's mmCIF file, or unresolved=False."
            )
        try:
            atoms = add_unresolved(atoms, document.block)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            if isinstance(error, AtomEncodingError):
                raise
            raise AtomEncodingError(
                f"'unresolved' is True, but pdbx_poly_seq_scheme cannot be read "
                f"({_reason(error)}): pass unresolved=False."
            ) from error
    if numbering == "label":
        if "label_seq_id" not in atoms.get_annotation_categories():
            raise AtomEncodingError(
                f"'numbering' is 'label', which a {kind} file without label_seq_id "
                f"does not have: pass 'author'."
            )
        # The authors' numbers tell waters apart, which have none of the sequence.
        atoms.set_annotation("auth_seq_id", atoms.res_id)
        atoms.chain_id = atoms.label_asym_id
        known = np.char.isdigit(atoms.label_seq_id)
        atoms.res_id = np.where(known, atoms.label_seq_id, "0").astype(int)
    return atoms


def _select(
    atoms: Any, chains: Optional[Sequence[str]], waters: bool, hydrogens: bool
) -> Any:
    keep = np.ones(atoms.array_length(), dtype=bool)
    if chains is not None:
        there = list(dict.fromkeys(atoms.chain_id.tolist()))
        missing = [name for name in chains if name not in there]
        if missing:
            raise AtomEncodingError(
                f"has no chain {missing[0]!r}, but {there}: see 'chains', 'numbering'."
            )
        keep &= np.isin(atoms.chain_id, list(chains))
    if not waters:
        keep &= ~np.isin(atoms.res_name, WATERS)
    if not hydrogens:
        keep &= ~np.isin(np.char.upper(atoms.element), ("H", "D", "T"))
    return atoms if keep.all() else atoms[keep]
