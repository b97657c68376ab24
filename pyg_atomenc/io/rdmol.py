"""RDKit molecules and SMILES → `AtomTokenData`."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from copy import copy
from functools import partial
from typing import Any, Optional

import torch

from pyg_atomenc.checks import check, check_has, check_integer, check_type
from pyg_atomenc.chem import rdkit
from pyg_atomenc.chem.bonds import bond_column
from pyg_atomenc.data import AtomTokenData
from pyg_atomenc.data.atom_token_data import check_single
from pyg_atomenc.errors import AtomEncodingError, require_package
from pyg_atomenc.io.atom_array import make_graph
from pyg_atomenc.tokenizers.base import Tokenizer, tokenize
from pyg_atomenc.tokenizers.features import molecule_tokens
from pyg_atomenc.tokenizers.fragments import BRICS

_FAULT = re.compile("(?:ERROR: |SMILES Parse Error: |Violation\n)(.+)")
_NO_FAULT = re.compile(".*Failed parsing|moving to|SMILES Parse Error").match


def from_rdmol(
    mol: Any, tokenizer: Optional[Tokenizer] = None, *, conformer: Optional[int] = -1
) -> AtomTokenData:
    """Read a molecule of RDKit, as it is; dummy atoms (``*``) have ``z = 0``.

    Args:
        mol (rdkit.Chem.Mol): The molecule; it is not changed.
        tokenizer (callable, optional): Takes the molecule, gives its
            :class:`~pyg_atomenc.tokenizers.Tokens`. (default: ``BRICS``)
        conformer (int, optional): The id of the 3D conformer to read, never of a 2D
            drawing; ``-1`` for the first, if any; ``None`` for none. (default: ``-1``)

    Returns:
        AtomTokenData: As from :func:`from_atom_array`, for ``N`` atoms, but

        - ``pos``, ``token_pos``: NaN, and ``is_resolved`` false, without a 3D conformer
        - ``num_hydrogens``, ``num_radical_electrons``: as RDKit counts those of an atom
        - ``chirality`` ``[N]``, int64: 0 for no or an unknown centre, 1 for R, 2 for S,
          3 for r, 4 for s (pseudoasymmetric, as in cis and trans rings), by RDKit's
          newer CIP rules; -1 for a centre that they would need seconds for
        - ``isotope``: mass numbers, 0 where none is given
        - ``edge_stereo`` ``[E]``, int64: 0 for none or unknown, 1 to 8 for E, Z, e, z,
          M, P, m, p (M, P of atropisomers; small if pseudoasymmetric); -1 as above
        - ``atom_name``: from a PDB file, else the element and a count, as ``C1``
        - ``res_name``, ``hetero`` and so on: from a PDB file, else residue ``UNL`` 0

    Raises:
        ValueError: If ``mol`` is no molecule or has no atoms, if there is no such
            conformer, it is 2D or not finite, or if the tokens do not fit.
        ImportError: If RDKit is not installed.
    """
    chem = require_package("rdkit.Chem", "from_rdmol")
    rdkit.check_mol(mol)
    # RDKit notes what it computes on the molecule: let it do so on a copy.
    mol = chem.Mol(mol)
    atoms = rdkit.atoms_of(mol)
    atom_name = _atom_names(atoms)
    pos = _positions(mol, conformer, atom_name)
    tokens = tokenize(tokenizer or BRICS(), mol, len(atoms))
    mol.UpdatePropertyCache(strict=False)
    with require_package("rdkit.rdBase", "from_rdmol").BlockLogs():
        chem.FastFindRings(mol)
        chem.AssignStereochemistry(mol, cleanIt=False, force=True)
        links = rdkit.bonds_of(atoms)
        chirality, stereo = rdkit.stereo_codes(mol, atoms, links)
    # A kekulized molecule may keep its aromatic flags; they are what holds.
    types = ["AROMATIC" if b.GetIsAromatic() else b.GetBondType().name for b in links]
    return make_graph(
        tokens, lambda index, count: molecule_tokens(mol, index, count=count),
        (rdkit.ends_of(links), list(map(bond_column, types)), stereo),
        z=torch.tensor([atom.GetAtomicNum() for atom in atoms]),
        formal_charge=torch.tensor([atom.GetFormalCharge() for atom in atoms]),
        num_hydrogens=torch.tensor([atom.GetTotalNumHs(True) for atom in atoms]),
        isotope=torch.tensor([atom.GetIsotope() for atom in atoms]),
        num_radical_electrons=torch.tensor([a.GetNumRadicalElectrons() for a in atoms]),
        chirality=torch.tensor(chirality), pos=pos, atom_name=atom_name,
        **rdkit.residue_columns(mol),
    )  # fmt: skip


def from_smiles(
    smiles: str, tokenizer: Optional[Tokenizer] = None, *,
    hydrogens: bool = False, max_length: int = 5_000,
) -> AtomTokenData:  # fmt: skip
    """Read a molecule from its SMILES.

    Args:
        smiles (str): One SMILES, or CXSMILES, without a name behind it.
        tokenizer (callable, optional): As for :func:`from_rdmol`. (default: ``BRICS``)
        hydrogens (bool): Add implicit hydrogens as the last atoms. (default: ``False``)
        max_length (int): How many characters are too many. (default: ``5_000``)

    Returns:
        AtomTokenData: As from :func:`from_rdmol`, with ``smiles``, canonical without
        the added hydrogens, and ``given_smiles``, whose order of atoms is that of the
        data. Positions are NaN: :func:`with_conformer` gives some.

    Raises:
        ValueError: If ``smiles`` is no text, empty, too long, or refused by RDKit.
        ImportError: If RDKit is not installed.

    Example:
        >>> data = from_smiles("CC(=O)Oc1ccccc1")
        >>> data.token_name
        ['*C(C)=O', '*O*', '*c1ccccc1']
        >>> data.atom_to_token.tolist()
        [0, 0, 0, 1, 2, 2, 2, 2, 2, 2]
    """
    chem = require_package("rdkit.Chem", "from_smiles")
    check_integer("max_length", max_length, 0)
    mend = "pass one SMILES as a str; for an rdkit.Chem.Mol, use from_rdmol."
    text = check_type("smiles", smiles, str, mend).strip()
    mol = _parse(text, max_length)
    data = from_rdmol(chem.AddHs(mol) if hydrogens else mol, tokenizer)
    data.smiles, data.given_smiles = chem.MolToSmiles(mol), text
    return data


def with_conformer(data: AtomTokenData, seed: int = 0) -> AtomTokenData:
    """A copy of a graph of :func:`from_smiles` with positions, by RDKit's ETKDGv3.

    RDKit embeds the molecule with all hydrogens, and relaxes it by UFF where that knows
    its atoms. The graph's get ``pos`` ``[N, 3]``, float32 in ångström, ``token_pos``
    and ``is_resolved``. One conformer of many: what is possible, not what nature has.

    Args:
        data (AtomTokenData): One graph, with its ``given_smiles``.
        seed (int): Of ETKDG's random start, 0 to 2³¹ − 1. (default: ``0``)

    Raises:
        ValueError: If the graph is none of a SMILES, was edited, or is of several
            molecules, or if RDKit finds no conformer: another seed may, but for
            molecules of more than some 800 atoms none is tried.
    """
    check_single(data)
    check(check_integer("seed", seed, 0) < 2**31, f"'seed' is {seed}: pass a smaller.")
    mend = "pass what from_smiles gave, as it is."
    check_has(data, mend, "z", "token_pos", "is_representative")
    text, mol = data.get("given_smiles"), rdkit.mol_of_smiles(data)
    check(text, f"'data' has no 'given_smiles': {mend}")
    text = repr(text if len(text) < 100 else f"{text[:100]} …")
    check(mol, f"'data' has other atoms than its SMILES {text}: {mend}")
    parts = len(require_package("rdkit.Chem", "with_conformer").GetMolFrags(mol))
    mend = "which have no places to each other: pass one."
    check(parts == 1, f"'data' is of {parts} molecules, {text}, {mend}")
    pos: Any = rdkit.embed(mol, seed, None, True)
    why = f"RDKit finds no conformer of {text} with seed={seed}"
    mend = "pass another seed, or a smaller molecule."
    check(pos is not None, f"'data': {why}; {mend}")
    data = copy(data)
    data.pos = pos[: len(data.z)].to(data.z.device)
    data.is_resolved = torch.ones_like(data.z, dtype=torch.bool)
    chosen = data.is_representative
    data.token_pos = torch.full_like(data.token_pos, torch.nan)
    data.token_pos[data.atom_to_token[chosen]] = data.pos[chosen]
    return data


def _parse(text: str, max_length: int) -> Any:
    # Older releases of RDKit would read what stands before a NUL.
    fault = re.search("[\0\ud800-\udfff]", text[: max_length + 1])
    why = "which holds a NUL or half a character: mend the encoding."
    check(not fault, f"'smiles' is {text[:50]!r}, {why}")
    size = f"{len(text):,} characters, above the limit of {max_length:,}: pass"
    check(len(text) <= max_length, f"'smiles' has {size} max_length=... to read it.")
    short = repr(text if len(text) < 500 else f"{text[:500]} …")
    name = "".join(text.split(maxsplit=1)[1:])
    why = f"with {name[:500]!r} behind a blank: pass the SMILES without a name."
    check(name[:1] in ("", "|"), f"'smiles' is {short}, {why}")
    parse = partial(require_package("rdkit.Chem", "from_smiles").MolFromSmiles, text)
    start = f"'smiles' is {short}, which RDKit refuses"
    mol = parsed(parse, start, "it is no SMILES", "Correct the SMILES.")
    check(mol.GetNumAtoms(), f"'smiles' is {text!r}, which holds no atoms: give some.")
    return mol


def read_templates(ligands: Any) -> dict[str, Any]:
    """Names of residues → molecules of RDKit, or a ValueError for what is none."""
    mend = "pass names with SMILES or molecules of RDKit, such as {'LIG': 'CCO'}."
    check_type("ligands", ligands, Mapping, mend)  # type: ignore[type-abstract]
    templates = {}
    for name, mol in ligands.items():
        try:
            templates[name] = _parse(mol, 5_000) if isinstance(mol, str) else mol
            rdkit.check_mol(templates[name])
        except AtomEncodingError as error:
            raise AtomEncodingError(f"'ligands' has for {name!r}: {error}") from error
    return templates


def parsed(parse: Callable[..., Any], start: str, unknown: str, mend: str) -> Any:
    """What RDKit parses, else a ValueError with its reason, if told, or ``unknown``."""
    chem = require_package("rdkit.Chem", "molecules")
    base = require_package("rdkit.rdBase", "molecules")
    with base.BlockLogs():
        try:
            if (mol := parse()) is not None:
                return mol
            # Syntax errors go to RDKit's log only, which older versions cannot capture.
            with getattr(base, "CaptureErrorLog", base.BlockLogs)() as log:
                mol = parse(sanitize=False)
            if mol is None:
                found = _FAULT.findall(getattr(log, "messages", ""))
                lines = [text.rstrip(": .") for text in found if not _NO_FAULT(text)]
            else:
                lines = [fault.Message() for fault in chem.DetectChemistryProblems(mol)]
            reason = "; ".join(dict.fromkeys(lines)) or unknown
        except (RuntimeError, UnicodeDecodeError) as error:
            # A fault of RDKit's own, such as of [CH99999], or half a letter in its log.
            text = str(error).strip()
            reason = (_FAULT.findall(text) or text.split("\n"))[-1].strip()
    raise AtomEncodingError(f"{start}: {reason[:500]}. {mend}")


def _atom_names(atoms: list[Any]) -> list[str]:
    names, count = [], Counter[str]()
    for atom in atoms:
        element, residue = atom.GetSymbol(), atom.GetPDBResidueInfo()
        count[element] += 1
        pdb_name = residue.GetName().strip() if residue else ""
        names.append(pdb_name or rdkit.short_name(element, count[element]))
    return names


def _positions(mol: Any, conformer: Optional[int], names: list[str]) -> torch.Tensor:
    known = {found.GetId(): found for found in mol.GetConformers() if found.Is3D()}
    if conformer == -1:
        conformer = next(iter(known), None)
    if conformer is None:
        return torch.full((len(names), 3), torch.nan)
    found = f"'conformer' is {conformer!r}, and those in 3D are {list(known)}"
    mend = "pass one, -1 for the first, or None; mark others with Set3D(True)."
    check(conformer in known, f"{found}: {mend}")
    pos = torch.from_numpy(known[conformer].GetPositions()).float()
    finite = pos.isfinite().all(dim=1)
    atom = int(finite.int().argmin())
    where = f"conformer {conformer}, first of atom {atom} ({names[atom]})"
    mend = f"not finite in {where}: embed it again, or pass conformer=None."
    check(finite[atom], f"'mol' has positions that are {mend}")
    return pos
