"""PDB files → biotite's `AtomArray`."""

import io
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np

from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.altloc import choose_altloc
from pyg_atomenc.io.limits import Limits

_ATOM = ("ATOM  ", "HETATM")


class PdbDocument:
    """A parsed PDB file.

    Args:
        content (bytes): The file.
        binary (bool): Not used.
        limits (Limits): Not used: the text is as long as its atoms.
    """

    def __init__(self, content: bytes, binary: bool, limits: Limits) -> None:
        pdb = require_package("biotite.structure.io.pdb", "from_structure")
        text = content.decode("utf-8")
        self.lines = text.splitlines()
        self.num_atoms = sum(line.startswith(_ATOM) for line in self.lines)
        _check_complete(self.lines, text, self.num_atoms)
        self.file = pdb.PDBFile.read(io.StringIO(text))

    @property
    def num_models(self) -> int:
        """How many models there are."""
        return self.file.get_model_count()

    @property
    def assemblies(self) -> dict[str, str]:
        """The biological assemblies by their ids."""
        if not any(line.startswith("REMARK 350") for line in self.lines):
            return {}
        return {str(name): "" for name in self.file.list_assemblies()}

    def read(self, model: int, assembly: Optional[str], fields: Sequence[str]) -> Any:
        """As :meth:`pyg_atomenc.io.cif.CifDocument.read`."""
        options = {"model": model, "altloc": "all", "extra_fields": list(fields)}
        if assembly is None:
            atoms = self.file.get_structure(include_bonds=True, **options)
        else:
            atoms = self.file.get_assembly(assembly, include_bonds=True, **options)
        atoms = atoms[choose_altloc(atoms)]
        _add_component_bonds(atoms)
        return atoms


def _check_complete(lines: list[str], text: str, found: int) -> None:
    """The archive's files tell how many atoms they have, and end with END."""
    for line in lines:
        if line.startswith("MASTER"):
            # It counts one model, and one of alternate locations.
            expected = line[50:55].strip()
            if expected.isdigit() and int(expected) > found:
                raise AtomEncodingError(
                    f"it has {found} atoms, and its MASTER record counts {expected}"
                )
    headed = any(line.startswith("HEADER") for line in lines[:1])
    if headed and not any(line.startswith("END") for line in lines[-3:]):
        raise AtomEncodingError("it has no END record, so it was cut short")
    atoms = [line for line in lines if line.startswith(_ATOM)]
    if atoms and lines[-1] is atoms[-1] and len(lines[-1]) < 54:
        raise AtomEncodingError("it ends within an atom")
    if text and not text.endswith("\n") and atoms and lines[-1] is atoms[-1]:
        longest = max(len(line.rstrip()) for line in atoms[-100:])
        if len(lines[-1].rstrip()) < longest and len(lines[-1]) < 78:
            raise AtomEncodingError("it ends within an atom")


def _add_component_bonds(atoms: Any) -> None:
    """Bond hetero residues by the component dictionary where it knows their atoms.

    biotite takes the bonds of hetero residues from ``CONECT`` alone, without orders.
    """
    info = require_package("biotite.structure.info", "from_structure")
    structure = require_package("biotite.structure", "from_structure")
    hetero = np.unique(atoms.res_name[atoms.hetero])
    known = [name for name in hetero.tolist() if _fits(info, name, atoms)]
    rows = np.flatnonzero(atoms.hetero & np.isin(atoms.res_name, known))
    if len(rows) == 0:
        return
    bonds = structure.connect_via_residue_names(atoms[rows], inter_residue=False)
    pairs = bonds.as_array()
    pairs[:, :2] = rows[pairs[:, :2]]
    # Of two lists that hold a bond, the second one's type wins.
    more = structure.BondList(atoms.array_length(), pairs)
    atoms.bonds = atoms.bonds.merge(more)


def _fits(info: Any, name: str, atoms: Any) -> bool:
    """Whether all atoms of a residue's name are those of its component."""
    try:
        component = info.residue(name)
    except KeyError:
        return False
    names = np.unique(atoms.atom_name[atoms.res_name == name])
    return bool(np.isin(names, component.atom_name).all())
