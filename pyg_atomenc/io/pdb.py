"""PDB files → biotite's `AtomArray`."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.chem.bonds import residue_bonds
from pyg_atomenc.chem.components import component_atoms
from pyg_atomenc.chem.residues import find_residues
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.altloc import choose_altloc
from pyg_atomenc.io.crowds import check_crowds
from pyg_atomenc.io.limits import Limits
from pyg_atomenc.io.pdb_lines import ATOM, check_lines, fill_blanks
from pyg_atomenc.io.text import decode

_NONMETALS = "H D T HE B C N O F NE SI P S CL AR GE AS SE BR KR TE I XE AT RN X".split()


class PdbDocument:
    """A parsed PDB file.

    Args:
        file (pathlib.Path): Its name, for messages.
        content (bytes): The file.
        binary (bool): Not used.
        limits (Limits): Of which the number of atoms is checked before they are made.

    Raises:
        ValueError: If the file is damaged, or over the limit.
    """

    def __init__(
        self, file: Path, content: bytes, binary: bool, limits: Limits
    ) -> None:
        pdb = require_package("biotite.structure.io.pdb", "from_structure")
        text = decode(content)
        self.num_atoms = text.count("\nATOM") + text.count("\nHETATM")
        limits.check_atoms(file, self.num_atoms)
        lines = text.rstrip("\n").split("\n")
        check_lines(lines, text.endswith("\n"))
        lines = [fill_blanks(line) if line.startswith(ATOM) else line for line in lines]
        self.file, self.limits, self.lines = file, limits, lines
        self.conect = [line for line in lines if line.startswith("CONECT")]
        self.pdb = pdb.PDBFile.read(io.StringIO("\n".join(lines)))

    @property
    def num_models(self) -> int:
        """How many models there are."""
        return self.pdb.get_model_count()

    @property
    def assemblies(self) -> list[str]:
        """The ids of the biological assemblies."""
        names = [
            line[11:].partition(":")[2]
            for line in self.lines
            if line.startswith("REMARK 350 BIOMOLECULE:")
        ]
        return [name.strip() for name in names]

    def read(self, model: int, assembly: Optional[str], fields: Sequence[str]) -> Any:
        """As :meth:`pyg_atomenc.io.cif.CifDocument.read`."""
        # Serial numbers need not make sense where no bond asks for them.
        fields = [*fields, *(["atom_id"] if self.conect else [])]
        options = {"model": model, "altloc": "all", "extra_fields": fields}
        if assembly is None:
            atoms = self.pdb.get_structure(**options)
        else:
            copies = sum(line.startswith("REMARK 350   BIOMT1") for line in self.lines)
            self.limits.check_atoms(self.file, copies * self.num_atoms)
            atoms = self.pdb.get_assembly(assembly, **options)
        atoms = atoms[choose_altloc(atoms)]
        check_crowds(atoms)
        structure = require_package("biotite.structure", "from_structure")
        bonds = structure.BondList(atoms.array_length())
        if self.conect:
            bonds = structure.BondList(atoms.array_length(), self._conect(atoms))
            atoms.del_annotation("atom_id")
        # Of two lists that hold a bond, the second one's type wins.
        atoms.bonds = bonds.merge(_component_bonds(atoms))
        return atoms

    def _conect(self, atoms: Any) -> NDArray[np.int64]:
        """The bonds of ``CONECT`` ``[B, 3]``, in every copy of an assembly."""
        hybrid36 = require_package("biotite.structure.io.pdb.hybrid36", "CONECT")
        pairs = []
        for line in self.conect:
            ids = [line[i : i + 5].strip() for i in range(6, 31, 5)]
            first, *others = [hybrid36.decode_hybrid36(text) for text in ids if text]
            pairs += [(first, other) for other in others]
        wanted = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        copies = np.zeros(atoms.array_length(), dtype=int)
        if "sym_id" in atoms.get_annotation_categories():
            copies = atoms.sym_id
        bonds = []
        for copy in range(copies.max(initial=0) + 1):
            rows = np.flatnonzero(copies == copy)
            rows = rows[np.argsort(atoms.atom_id[rows], kind="stable")]
            serial = atoms.atom_id[rows]
            place = np.searchsorted(serial, wanted)
            # A serial number that is not there is an atom that was left out.
            there = np.isin(wanted, serial).all(axis=1)
            place = place[there]
            twice = np.append(serial[1:] == serial[:-1], False)[place]
            if twice.any():
                raise AtomEncodingError(
                    f"CONECT names atom {serial[place[twice]][0]}, which is there twice"
                )
            bonds.append(rows[place])
        ends = np.concatenate(bonds)
        return np.column_stack([ends, _kinds(atoms, ends)])


def _kinds(atoms: Any, ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Biotite's types of the bonds of ``CONECT`` ``[B]``, which tells none.

    As in mmCIF, between residues they are single, or coordinate a metal.
    """
    types = require_package("biotite.structure", "from_structure").BondType
    residue = find_residues(atoms).index
    metal = ~np.isin(np.char.upper(atoms.element[ends]), _NONMETALS).all(axis=1)
    kind = np.where(metal, int(types.COORDINATION), int(types.SINGLE))
    within = residue[ends[:, 0]] == residue[ends[:, 1]]
    return np.where(within, int(types.ANY), kind)


def _component_bonds(atoms: Any) -> Any:
    """Bonds by the component dictionary, and those of the polymer.

    A hetero residue has them where the dictionary knows all of its atoms.
    """
    info = require_package("biotite.structure.info", "from_structure")
    names = {*atoms.res_name[~atoms.hetero].tolist(), "HOH"}
    for name in set(atoms.res_name[atoms.hetero].tolist()) - names:
        atom_names = np.unique(atoms.atom_name[atoms.res_name == name])
        if np.isin(atom_names, component_atoms(name)[0]).all():
            names.add(name)
    return residue_bonds(atoms, {name: info.bonds_in_residue(name) for name in names})
