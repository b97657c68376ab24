"""Structure files → `AtomTokenData`."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from pyg_atomenc.checks import check, check_choice, check_integer, check_type
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.errors import AtomEncodingError, FileFormatError, require_package
from pyg_atomenc.io.atom_array import from_atom_array
from pyg_atomenc.io.bcif import read_bcif
from pyg_atomenc.io.cif import read_cif
from pyg_atomenc.io.limits import Limits, Notes, read_bytes
from pyg_atomenc.io.pdb import read_pdb
from pyg_atomenc.io.rdmol import read_templates
from pyg_atomenc.io.unresolved import add_unresolved
from pyg_atomenc.tokenizers.base import Tokenizer

_CIF, _BCIF, _PDB = ("mmCIF", read_cif), ("BinaryCIF", read_bcif), ("PDB", read_pdb)
_FORMATS: dict[str, tuple[str, Any]] = {".cif": _CIF, ".mmcif": _CIF, ".bcif": _BCIF}
_FORMATS |= {".pdb": _PDB, ".ent": _PDB}
# How the names of structure files end, each also with .gz behind it.
SUFFIXES = tuple(_FORMATS)


def from_structure(
    path: Union[str, "os.PathLike[str]"], tokenizer: Optional[Tokenizer] = None, *,
    model: Union[int, str] = 1, assembly: Optional[str] = None,
    chains: Optional[Sequence[str]] = None, numbering: str = "author",
    waters: bool = True, hydrogens: bool = True, unresolved: bool = False,
    block: Optional[str] = None, ligands: Optional[Mapping[str, Any]] = None,
    strict: bool = False, limits: Optional[Limits] = None,
) -> Union[AtomTokenData, list[AtomTokenData]]:  # fmt: skip
    """Read a structure file: mmCIF, BinaryCIF or PDB, also gzipped.

    Atoms keep their order. Of alternate locations, each residue keeps the one with the
    highest summed occupancy, the first of equal ones. Bonds inside residues come from
    the file's component tables or the Chemical Component Dictionary, others from the
    polymer, the file's connections (``struct_conn``; ``SSBOND``, ``LINK``, ``CONECT``)
    and the distance of cysteines' sulfurs. A ligand that neither knows has the orders
    of its template in ``ligands``, or of ``CONECT``, which repeats higher ones, else
    bonds by distance, and orders by valence where all hydrogens are there. The names
    that AMBER, CHARMM and GROMACS give residues and atoms become those of the PDB.

    Args:
        path (str or os.PathLike): The file. Its name tells the format: ``.cif``,
            ``.mmcif``, ``.bcif``, ``.pdb`` or ``.ent``, each also with ``.gz``.
        tokenizer (callable, optional): As for ``from_atom_array``. (default: residues)
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
        block (str, optional): Of mmCIF or BinaryCIF. (default: the first with atoms)
        ligands (mapping, optional): Names of residues that the dictionary does not know
            → their molecules, each a SMILES or a ``rdkit.Chem.Mol``. (default: none)
        strict (bool): Refuse what takes an assumption to read. (default: ``False``)
        limits (Limits, optional): What the file may hold. (default: ``Limits()``)

    Returns:
        AtomTokenData or list: As from :func:`from_atom_array`, and ``reading_notes``:
        what was assumed of the file, one kind a line with how often, which a warning
        tells, too; ``""`` for nothing. A list for ``"all"``.

    Raises:
        ValueError: If the file is missing, empty, damaged, cut short, over a limit or
            of another format, holds no such model, assembly or chain, or a position
            that cannot be. Its message starts with the file's name.
        ImportError: If biotite is not installed.
    """
    require_package("biotite.structure", "from_structure")
    require_package("gemmi", "from_structure")
    if model != "all":
        check_integer("model", model)
    if assembly is not None:
        check_type("assembly", assembly, str, "pass its id as text, such as '1'.")
    if chains is not None and (isinstance(chains, str) or not list(chains)):
        raise AtomEncodingError(f"'chains' is {chains!r}: pass a list such as ['A'].")
    check_choice("numbering", numbering, ("author", "label"))
    templates = read_templates({} if ligands is None else ligands)
    limits = check_type("limits", limits or Limits(), Limits, "pass a Limits.")
    file = Path(path)
    suffix = Path(file.stem if file.suffix.lower() == ".gz" else file).suffix.lower()
    if suffix not in _FORMATS:
        raise FileFormatError(f"{file}: ends in none of {SUFFIXES}. Rename it.")
    (kind, parse), notes = _FORMATS[suffix], Notes(file, limits)
    if kind == "PDB" and block is not None:
        raise FileFormatError(f"{file}: 'block' is {block!r}, but a PDB file has none.")
    with _one_kind_of_error(file, kind):
        entry = parse(read_bytes(file, limits), notes, block)
    count = len(entry.models) - 1
    known = list(dict.fromkeys(name for name, *_ in entry.generators))
    numbers = range(1, count + 1) if model == "all" else [int(model)]
    if numbers[-1] > count:
        raise FileFormatError(f"{file}: has {count} models, but 'model' is {model}.")
    if assembly is not None and assembly not in known:
        raise FileFormatError(f"{file}: has no assembly {assembly!r}, but {known}.")
    graphs = []
    for number in numbers:
        with _one_kind_of_error(file, kind):
            atoms = entry.read(number, assembly, notes, templates)
        try:
            atoms = _prepare(atoms, entry.sequence, numbering, unresolved)
            left = _select(atoms, chains, waters, hydrogens)
            rest = f"{len(atoms)} that 'waters', 'hydrogens' or 'chains' leave out."
            check(left.array_length(), f"no atoms in model {number} but {rest}")
            graphs.append(from_atom_array(left, tokenizer))
        except AtomEncodingError as error:
            raise FileFormatError(f"{file}: {error}") from error
    notes.tell(strict)
    for data in graphs:
        # Beside the graph, not in it: graphs that other readers made batch with it.
        data.__dict__["reading_notes"] = notes.text
    return graphs if model == "all" else graphs[0]


@contextmanager
def _one_kind_of_error(file: Path, kind: str) -> Iterator[None]:
    """Whatever the parsers raise on a damaged file, the user gets one kind of error."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except FileFormatError:
        raise
    except Exception as error:
        reason = error if isinstance(error, AtomEncodingError) else repr(error)
        mend = "Check that it is complete and that its name ends in its true format."
        what = f"cannot be read as {kind} ({reason}). {mend}"
        raise FileFormatError(f"{file}: {what}") from error


def _prepare(atoms: Any, sequence: Any, numbering: str, unresolved: bool) -> Any:
    if unresolved:
        why = "'unresolved' is True, but pdbx_poly_seq_scheme"
        if sequence is None or not hasattr(atoms, "label_asym_id"):
            raise AtomEncodingError(f"{why} is missing: pass the mmCIF file, or False.")
        try:
            atoms = add_unresolved(atoms, sequence)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            mend = f"cannot be read ({error!r}): pass unresolved=False."
            raise AtomEncodingError(f"{why} {mend}") from error
    if numbering == "label":
        mend = "there is no label_seq_id: pass 'author'."
        check(hasattr(atoms, "label_seq_id"), f"'numbering' is 'label', but {mend}")
        # The authors' numbers tell waters apart, which have none of the sequence.
        atoms.set_annotation("auth_seq_id", atoms.res_id)
        atoms.chain_id = atoms.label_asym_id
        number = np.where(atoms.label_seq_id == ".", "0", atoms.label_seq_id)
        atoms.res_id = number.astype(int)
    return atoms


def _select(atoms: Any, chains: Any, waters: bool, hydrogens: bool) -> Any:
    there = list(dict.fromkeys(atoms.chain_id.tolist()))
    wanted = there if chains is None else list(chains)
    mend = "pass one of them; names go by 'numbering'."
    for name in wanted:
        check(name in there, f"'chains' has {name!r}, but found {there}: {mend}")
    keep = np.isin(atoms.chain_id, wanted)
    if not waters:
        keep &= ~np.isin(atoms.res_name, ("HOH", "DOD"))
    if not hydrogens:
        keep &= ~np.isin(np.char.upper(atoms.element), ("H", "D", "T"))
    return atoms if keep.all() else atoms[keep]
