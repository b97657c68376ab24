"""Small structure files that the tests write themselves, to be damaged."""

import io

import numpy as np
import pytest

# Residue, number, insertion code, hetero; the last alanine has two locations.
_RESIDUES = (
    ("GLY", 1, "", False), ("CYS", 2, "", False), ("PHE", 3, "", False),
    ("SER", 3, "A", False), ("HIS", 4, "", False), ("ALA", 5, "", False),
    ("ZN", 101, "", True), ("HOH", 201, "", True), ("HOH", 202, "", True),
)  # fmt: skip


def atoms_of_base():
    """A chain, a zinc ion and two waters, with hydrogens and alternate locations."""
    struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")
    info = pytest.importorskip("biotite.structure.info")
    parts = []
    for place, (name, number, ins, hetero) in enumerate(_RESIDUES):
        part = info.residue(name)
        part = part[~np.isin(part.atom_name, ("OXT", "HXT", "H2"))]
        part.coord = np.nan_to_num(part.coord) + [6.0 * place, -3.5, 100.25]
        part.res_id[:], part.ins_code[:], part.hetero[:] = number, ins, hetero
        part.chain_id[:] = "A" if number < 200 else "W"
        part.set_annotation("altloc_id", np.full(part.array_length(), "."))
        part.set_annotation("occupancy", np.ones(part.array_length()))
        part.bonds = None
        parts.append(part)
        if name == "ALA":
            other = part.copy()
            part.altloc_id[:], part.occupancy[:] = "A", 0.35
            other.altloc_id[:], other.occupancy[:] = "B", 0.65
            other.coord += 0.4
            parts.append(other)
    atoms = struc.concatenate(parts)
    atoms.coord = atoms.coord.round(3)
    return atoms


def cif_text(models=1):
    """As the archive writes it: each category is closed, the last line is '#'."""
    atoms = atoms_of_base()
    columns = (
        "group_PDB id type_symbol label_atom_id label_alt_id label_comp_id "
        "label_asym_id label_entity_id label_seq_id pdbx_PDB_ins_code Cartn_x Cartn_y "
        "Cartn_z occupancy B_iso_or_equiv pdbx_formal_charge auth_seq_id auth_comp_id "
        "auth_asym_id auth_atom_id pdbx_PDB_model_num"
    ).split()
    rows = []
    for model in range(1, models + 1):
        for atom, place in zip(atoms, _sequence(atoms), strict=True):
            x, y, z = atom.coord + model - 1
            group = "HETATM" if atom.hetero else "ATOM"
            label = {"ZN": "B"}.get(atom.res_name, atom.chain_id)
            charge = atom.charge if atom.charge else "?"
            rows.append(
                f"{group} {len(rows) + 1} {atom.element} {atom.atom_name} "
                f"{atom.altloc_id} {atom.res_name} {label} 1 {place} "
                f"{atom.ins_code or '?'} {x:.3f} {y:.3f} {z:.3f} {atom.occupancy:.2f} "
                f"10.00 {charge} {atom.res_id} {atom.res_name} {atom.chain_id} "
                f"{atom.atom_name} {model}"
            )
    names = "\n".join(f"_atom_site.{name}" for name in columns)
    return (
        "data_BASE\n# \n_entry.id   BASE \n# \n_struct.title 'A base file'\n"
        "_struct.text\n;Some text\nover two lines\n;\n# \n"
        f"loop_\n{names}\n" + "\n".join(rows) + "\n# \n"
    )


def _sequence(atoms):
    numbers = {1: 1, 2: 2, (3, ""): 3, (3, "A"): 4, 4: 5, 5: 6}
    for atom in atoms:
        key = (atom.res_id, atom.ins_code) if atom.res_id == 3 else atom.res_id
        yield numbers.get(key, ".")


def pdb_text(models=1):
    """As the archive writes it: with HEADER, MASTER and END."""
    atoms = atoms_of_base()
    lines = [
        "HEADER    BASE FILE".ljust(80),
        "REMARK   2 RESOLUTION.    1.50 ANGSTROMS.",
    ]
    for model in range(1, models + 1):
        if models > 1:
            lines.append(f"MODEL     {model:4d}")
        for i, atom in enumerate(atoms, start=1):
            x, y, z = atom.coord + model - 1
            record = "HETATM" if atom.hetero else "ATOM"
            name = atom.atom_name if len(atom.element) > 1 else f" {atom.atom_name}"
            name = atom.atom_name if len(atom.atom_name) == 4 else name
            altloc = atom.altloc_id.replace(".", " ")
            charge = (
                f"{abs(atom.charge)}{'-+'[int(atom.charge > 0)]}" if atom.charge else ""
            )
            lines.append(
                f"{record:6}{i:5d} {name:4}{altloc}{atom.res_name:>3} {atom.chain_id}"
                f"{atom.res_id:4d}{atom.ins_code:1}   {x:8.3f}{y:8.3f}{z:8.3f}"
                f"{atom.occupancy:6.2f}{10:6.2f}{'':10}{atom.element:>2}{charge:2}"
            )
        if models > 1:
            lines.append("ENDMDL")
    count = atoms.array_length()
    lines += [f"MASTER{'':44}{count:5d}    0    0    0".ljust(80), "END".ljust(80)]
    return "\n".join(lines) + "\n"


def bcif_bytes():
    """With the encodings that biotite finds the smallest."""
    pdbx = pytest.importorskip("biotite.structure.io.pdbx")
    table = pdbx.CIFFile.read(io.StringIO(cif_text(2))).block["atom_site"]
    numbers = {"id": int, "pdbx_PDB_model_num": int, "auth_seq_id": int,
               "Cartn_x": float, "Cartn_y": float, "Cartn_z": float,
               "occupancy": float}  # fmt: skip
    columns = {
        name: pdbx.BinaryCIFColumn(
            column.as_array(numbers.get(name, str)),
            None if column.mask is None else column.mask.array,
        )
        for name, column in table.items()
    }
    block = pdbx.BinaryCIFBlock({"atom_site": pdbx.BinaryCIFCategory(columns)})
    file = pdbx.BinaryCIFFile({"BASE": block})
    target = io.BytesIO()
    pdbx.compress(file).write(target)
    return target.getvalue()
