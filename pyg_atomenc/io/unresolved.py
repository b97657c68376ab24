"""Atoms that an entry's sequence has, but its coordinates lack."""

from typing import Any

import numpy as np

from pyg_atomenc.chem.bonds import residue_bonds
from pyg_atomenc.chem.codes import Array, by_first_atom, code, places
from pyg_atomenc.chem.components import component_atoms, component_bonds
from pyg_atomenc.chem.residues import NO_SEQUENCE, find_residues, untold
from pyg_atomenc.errors import require_package


def add_unresolved(atoms: Any, scheme: dict[str, Any]) -> Any:
    """Add unobserved heavy atoms, at NaN; ``scheme`` is ``pdbx_poly_seq_scheme``."""
    structure = require_package("biotite.structure", "unresolved atoms")
    # Every copy of an assembly has its own gaps.
    copy = getattr(atoms, "sym_id", np.zeros(atoms.array_length()))
    copies = [_complete(structure, atoms[copy == i], scheme) for i in np.unique(copy)]
    return structure.concatenate(copies)


def _complete(structure: Any, atoms: Any, scheme: Any) -> Any:
    parts = [atoms, *_missing_atoms(atoms), *_missing_residues(atoms, scheme)]
    merged = structure.concatenate(parts)
    # Chains as they were, each in the order of its sequence; others by residue.
    chain, _ = by_first_atom(code(merged.label_asym_id))
    outside = untold(merged.label_seq_id)
    number = np.where(outside, "0", merged.label_seq_id).astype(int)
    residue = np.where(outside, find_residues(merged).index, 0)
    merged = merged[np.lexsort((residue, number, chain))]
    table = {name: component_bonds(name) for name in set(merged.res_name.tolist())}
    pairs = residue_bonds(merged, table).as_array()
    # What was observed is bonded as the file says; the rest as the dictionary does.
    added = ~merged.is_resolved[pairs[:, :2]].all(axis=1)
    merged.bonds = merged.bonds.merge(structure.BondList(len(merged), pairs[added]))
    return merged


def _component(name: str) -> list[Array]:
    """Names, elements and charges of a component's atoms that stay in a bond."""
    *columns, leaving, _ = component_atoms(name)
    stays = ~leaving & ~np.isin(columns[1], ("H", "D"))
    return [column[stays] for column in columns]


def _make(atoms: Any, row: int, missing: Any, **others: Any) -> Any:
    """Atoms without positions, annotated as ``atoms[row]`` but for what is given."""
    known = {k: getattr(atoms, k)[row] for k in atoms.get_annotation_categories()}
    known |= others | dict(occupancy=0.0, is_resolved=False)
    names, elements, charges = (c[missing] for c in _component(str(known["res_name"])))
    known |= dict(atom_name=names, element=elements, charge=charges)
    part = type(atoms)(len(names))
    part.coord[:] = np.nan
    for key, value in known.items():
        part.set_annotation(key, np.array(np.broadcast_to(value, len(names))))
    part.bonds = type(atoms.bonds)(len(names))
    return part


def _missing_atoms(atoms: Any) -> list[Any]:
    parts = []
    for rows in places(find_residues(atoms).index):
        names = _component(str(atoms.res_name[rows[0]]))[0]
        missing = ~np.isin(names, atoms.atom_name[rows])
        if atoms.label_seq_id[rows[0]] == "1" and "P" not in atoms.atom_name[rows]:
            # A nucleic acid starts with O5' where nobody saw a phosphate before it.
            missing &= ~np.isin(names, ("P", "OP1", "OP2"))
        if missing.any():
            parts.append(_make(atoms, rows[0], missing))
    return parts


def _missing_residues(atoms: Any, scheme: Any) -> list[Any]:
    keys = "asym_id seq_id mon_id pdb_strand_id pdb_seq_num pdb_ins_code".split()
    rows = zip(*(scheme[key].astype(str).tolist() for key in keys), strict=True)
    shown, parts = atoms.label_asym_id.tolist(), []
    there = set(zip(shown, atoms.label_seq_id.tolist(), strict=True))
    chains = set(shown)
    for asym, seq, name, chain, number, letter in rows:
        if asym in chains and (asym, seq) not in there:
            letter = "" if letter in NO_SEQUENCE else letter
            named = dict(chain_id=chain, res_id=int(number), ins_code=letter)
            named |= dict(label_asym_id=asym, label_seq_id=seq, res_name=name)
            parts.append(_make(atoms, 0, slice(None), hetero=False, **named))
    return parts
