"""What tokenizers take: an `AtomArray` of biotite or a `Mol` of RDKit."""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyg_atomenc.errors import AtomEncodingError, require_package


def is_mol(source: Any) -> bool:
    """Whether this comes from RDKit, without importing it."""
    return type(source).__module__.startswith("rdkit")


def check_mol(mol: Any, argument: str = "mol") -> None:
    """Raise a ValueError unless ``mol`` is an RDKit molecule with atoms.

    Args:
        mol (rdkit.Chem.Mol): What the user gave.
        argument (str): Its name, for the message. (default: ``"mol"``)

    Raises:
        ValueError: If it is no molecule or has no atoms.
    """
    chem = require_package("rdkit.Chem", "a molecule")
    if mol is None:
        raise AtomEncodingError(
            f"'{argument}' is None, which is what RDKit returns for a molecule that it "
            f"cannot read: check the text or file that it was read from."
        )
    if not isinstance(mol, chem.Mol):
        raise AtomEncodingError(
            f"'{argument}' is of type {type(mol).__name__}: pass an rdkit.Chem.Mol; "
            f"for a SMILES, use pyg_atomenc.io.from_smiles."
        )
    if mol.GetNumAtoms() == 0:
        raise AtomEncodingError(
            f"'{argument}' has no atoms: pass a molecule with at least one atom."
        )


def check_atom_array(atoms: Any, argument: str = "atoms") -> None:
    """Raise a ValueError unless ``atoms`` is a biotite ``AtomArray`` with atoms.

    Args:
        atoms (biotite.structure.AtomArray): What the user gave.
        argument (str): Its name, for the message. (default: ``"atoms"``)

    Raises:
        ValueError: If it is something else or empty.
    """
    structure = require_package("biotite.structure", "an AtomArray")
    if not isinstance(atoms, structure.AtomArray):
        mend = (
            "pass one model of the stack, such as stack[0]"
            if isinstance(atoms, structure.AtomArrayStack)
            else "pass a biotite.structure.AtomArray"
        )
        raise AtomEncodingError(
            f"'{argument}' is of type {type(atoms).__name__}: {mend}."
        )
    if atoms.array_length() == 0:
        raise AtomEncodingError(
            f"'{argument}' has no atoms: pass at least one, and check what they were "
            f"filtered by."
        )


def check_bonds(atoms: Any) -> None:
    """Raise a ValueError unless an ``AtomArray`` knows its bonds."""
    if atoms.bonds is None:
        raise AtomEncodingError(
            "'atoms' has no bonds, by which this tokenizer goes: set atoms.bonds, for "
            "example to biotite.structure.connect_via_residue_names(atoms)."
        )


def integers(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    """An annotation ``[N]`` as int64, or a ValueError if a value is no whole number."""
    try:
        with np.errstate(invalid="ignore"):
            found = values.astype(np.int64)
        same = values.dtype.kind not in "fc" or bool((found == values).all())
    except (ArithmeticError, TypeError, ValueError):
        same = False
    if not same:
        raise AtomEncodingError(
            f"'{name}' holds {values[:3].tolist()} …, of which some are no whole "
            f"numbers: give every atom an integer."
        )
    return found


def as_atom_array(source: Any) -> Any:
    """An ``AtomArray``, or a molecule as one, with the atoms in the same order.

    A molecule's residues are those of its PDB information; without, it is one residue
    named ``UNL``, as in the files that RDKit writes.

    Raises:
        ValueError: If ``source`` is neither, or has no atoms.
    """
    if not is_mol(source):
        check_atom_array(source)
        return source
    check_mol(source)
    chem = require_package("rdkit.Chem", "a molecule")
    interface = require_package("biotite.interface.rdkit", "residues of a molecule")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bare = chem.Mol(source)
        bare.RemoveAllConformers()
        atoms = interface.from_mol(bare, add_hydrogen=False)[0]
    # RDKit pads what it takes from columns of a PDB file.
    for name in ("chain_id", "ins_code", "res_name"):
        setattr(atoms, name, np.char.strip(getattr(atoms, name)))
    atoms.res_name = np.where(atoms.res_name == "", "UNL", atoms.res_name)
    return atoms


def residue_columns(mol: Any) -> dict[str, Any]:
    """What a molecule's PDB information says of every atom's residue.

    Returns:
        dict: ``res_name``, ``chain_id`` and ``ins_code``, lists of text, and ``res_id``
        ``[N]``, int64, and ``hetero`` ``[N]``, bool. An atom without information is one
        of the hetero residue ``UNL`` 0; a hydrogen is in the residue of its atom.
    """
    rows = []
    for atom in mol.GetAtoms():
        info = atom.GetPDBResidueInfo()
        if info is None and atom.GetAtomicNum() == 1:
            near = (other.GetPDBResidueInfo() for other in atom.GetNeighbors())
            info = next((other for other in near if other is not None), None)
        rows.append(
            ("UNL", 0, "", "", True)
            if info is None
            else (
                info.GetResidueName().strip() or "UNL",
                info.GetResidueNumber(),
                info.GetChainId().strip(),
                info.GetInsertionCode().strip(),
                info.GetIsHeteroAtom(),
            )
        )
    name, number, chain, code, hetero = map(list, zip(*rows, strict=True))
    return {
        "res_name": name,
        "res_id": np.array(number, dtype=np.int64),
        "chain_id": chain,
        "ins_code": code,
        "hetero": np.array(hetero, dtype=bool),
    }


def as_mol(source: Any) -> Any:
    """A ``Mol``, or an ``AtomArray`` as one, with the atoms in the same order.

    Raises:
        ValueError: If ``source`` is neither, has no atoms, or an array without bonds.
    """
    if is_mol(source) or source is None or not _is_atom_array(source):
        check_mol(source)
        return source
    check_atom_array(source)
    check_bonds(source)
    chem = require_package("rdkit.Chem", "an AtomArray as a molecule")
    base = require_package("rdkit.rdBase", "an AtomArray as a molecule")
    interface = require_package("biotite.interface.rdkit", "an AtomArray as a molecule")
    explicit = bool(np.isin(source.element, ("H", "D", "T")).any())
    with base.BlockLogs(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mol = interface.to_mol(source, kekulize=True, explicit_hydrogen=explicit)
        # Charges are often missing from files: valences may be odd, and stay so.
        every = chem.SanitizeFlags.SANITIZE_ALL
        chem.SanitizeMol(
            mol, every ^ chem.SanitizeFlags.SANITIZE_PROPERTIES, catchErrors=True
        )
    return mol


def _is_atom_array(source: Any) -> bool:
    return type(source).__module__.startswith("biotite")
