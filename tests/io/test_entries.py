"""Real entries, as gemmi and biotite read them."""

import functools
from collections import Counter

import numpy as np
import pytest
import torch
from gemmi_oracle import gemmi_residues

from pyg_atomenc.io import from_structure
from pyg_atomenc.tokenizers import (
    AF3,
    BRICS,
    Atom,
    Beads,
    Boltz1,
    Boltz2,
    Components,
    Residue,
    RingsAndChains,
    Smarts,
)

struc = pytest.importorskip("biotite.structure", reason="biotite is not installed")
pdbx = pytest.importorskip("biotite.structure.io.pdbx")
pdb = pytest.importorskip("biotite.structure.io.pdb")
gemmi = pytest.importorskip("gemmi", reason="gemmi is not installed")

# Entries do not change: each is read by gemmi once.
gemmi_residues = functools.cache(gemmi_residues)

CIFS = "1aki.cif 3o5r.cif 4gxy.cif 5ugo.cif 1igy.bcif 1l2y.bcif".split()
ENTRIES = [*CIFS, "1aki.pdb", "3o5r.pdb", "altloc.cif", "hetatm.pdb"]
WATERS = ("HOH", "DOD")
STANDARD = set(
    "ALA ARG ASN ASP CYS GLN GLU GLY HIS ILE LEU LYS MET PHE PRO SER THR TRP TYR VAL "
    "UNK A C G U N DA DC DG DT DN".split()
)


def block_of(path):
    kind = pdbx.BinaryCIFFile if path.suffix == ".bcif" else pdbx.CIFFile
    return kind.read(path).block


@pytest.fixture(scope="module")
def as_text(structures, tmp_path_factory):
    """Entries in a format that gemmi reads, by their names."""
    folder = tmp_path_factory.mktemp("text")

    @functools.cache
    def convert(name):
        path = structures / name
        if path.suffix != ".bcif":
            return path
        text = {}
        for key, table in block_of(path).items():
            columns = {k: column.as_array(str) for k, column in table.items()}
            text[key] = pdbx.CIFCategory(columns)
        path = folder / f"{path.stem}.cif"
        pdbx.CIFFile({"x": pdbx.CIFBlock(text)}).write(path)
        return path

    return convert


def odd_bonds(structure):
    """The places of residues with a bond that is none of a backbone."""
    found = set()
    for bond in structure.connections:
        kept = (gemmi.ConnectionType.Covale, gemmi.ConnectionType.Disulf,
                gemmi.ConnectionType.MetalC)  # fmt: skip
        if bond.type not in kept or bond.asu == gemmi.Asu.Different:
            continue
        ends = [bond.partner1, bond.partner2]
        names = {end.atom_name for end in ends}
        if not (names <= {"N", "C"} or names <= {"P", "O3'", "O5'"}):
            found |= {
                (end.chain_name, end.res_id.seqid.num, end.res_id.seqid.icode.strip())
                for end in ends
            }
    return found


def expected_tokens(structure, residues):
    """How many tokens each rule makes, by its definition, of gemmi's residues."""
    odd = odd_bonds(structure)
    counts = Counter()
    for residue in residues:
        atoms = len(residue.atoms)
        standard = residue.name in STANDARD and residue.polymer
        met = residue.name == "MSE" and residue.polymer
        counts["Residue"] += 1
        counts["Atom"] += atoms
        counts["AF3"] += 1 if standard and residue.place not in odd else atoms
        counts["Boltz1"] += 1 if standard or met else atoms
        counts["Boltz2"] += 1 if residue.polymer else atoms
    return counts


@pytest.mark.parametrize("name", ENTRIES)
def test_tokens_are_those_of_gemmis_residues(name, structures, as_text):
    structure, residues = gemmi_residues(as_text(name))
    expected = expected_tokens(structure, residues)
    for tokenizer in (Residue(), Atom(), AF3(), Boltz1(), Boltz2()):
        data = from_structure(structures / name, tokenizer)
        assert data.num_tokens == expected[type(tokenizer).__name__], tokenizer
    data = from_structure(structures / name)
    data.validate()
    assert sorted(data.chain_id) == sorted(r.chain for r in residues for _ in r.atoms)
    assert sorted(data.z.tolist()) == sorted(
        atom.element.atomic_number for r in residues for atom in r.atoms
    )
    found = {
        (data.token_chain[t], int(data.token_res_id[t]), data.token_ins_code[t], name):
        []
        for t, name in enumerate(data.token_name)
    }  # fmt: skip
    for atom, t in enumerate(data.atom_to_token.tolist()):
        key = (data.token_chain[t], int(data.token_res_id[t]), data.token_ins_code[t],
               data.token_name[t])  # fmt: skip
        place = [round(x, 3) for x in data.pos[atom].tolist()]
        found[key].append([data.atom_name[atom], *place, int(data.formal_charge[atom])])
    for residue in residues:
        atoms = [
            [atom.name, *(round(np.float32(x).item(), 3) for x in atom.pos.tolist()),
             atom.charge]
            for atom in residue.atoms
        ]  # fmt: skip
        assert sorted(found.pop(residue.key)) == sorted(atoms)
    assert not found


@pytest.mark.parametrize("name", [*CIFS, "altloc.cif"])
@pytest.mark.parametrize("options", [{}, {"assembly": "1"}, {"unresolved": True}])
@pytest.mark.filterwarnings("ignore:.*cut short")
def test_text_and_binary_are_the_same(name, options, structures, as_text, tmp_path):
    """Each by gemmi and by biotite: the other format is written by biotite."""
    if name == "altloc.cif" and options:
        pytest.skip("has neither assemblies nor a sequence")
    path, other = structures / name, as_text(name)
    if path.suffix == ".cif":
        tables, other = {}, tmp_path / "other.bcif"
        for key, table in block_of(path).items():
            columns = {k: column.as_array(str) for k, column in table.items()}
            tables[key] = pdbx.BinaryCIFCategory(columns)
        pdbx.BinaryCIFFile({"x": pdbx.BinaryCIFBlock(tables)}).write(other)
    one, two = from_structure(path, **options), from_structure(other, **options)
    assert set(one.keys()) == set(two.keys())
    for key, value in one.to_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(two[key], value, equal_nan=True, msg=key)
        else:
            assert two[key] == value, key


@pytest.mark.parametrize("name", ENTRIES)
def test_counts_are_biotites(name, structures):
    path = structures / name
    if path.suffix == ".pdb":
        atoms = pdb.PDBFile.read(path).get_structure(model=1, altloc="occupancy")
    else:
        atoms = pdbx.get_structure(
            block_of(path), model=1, altloc="occupancy", use_author_fields=True
        )
    if name == "altloc.cif":
        # biotite keeps two residues that share a place; ours is the heavier one.
        atoms = atoms[atoms.res_name == "PRO"]
    data = from_structure(path)
    assert data.num_nodes == atoms.array_length()
    assert data.num_tokens == struc.get_residue_count(atoms)
    assert set(data.chain_id) == set(atoms.chain_id.tolist())
    np.testing.assert_array_equal(data.pos.numpy(), atoms.coord)


@pytest.mark.parametrize("entry", ["1aki", "3o5r"])
@pytest.mark.parametrize(
    "tokenizer",
    [Residue(), Atom(), AF3(), Boltz1(), Boltz2(), BRICS(), RingsAndChains(),
     Smarts(["c1ccccc1", "C(=O)N"]), Beads(), Components()],
    ids=repr,
)  # fmt: skip
def test_both_formats_give_the_same_tokens(entry, tokenizer, structures):
    cif, pdb_ = (
        from_structure(structures / f"{entry}.{suffix}", tokenizer)
        for suffix in ("cif", "pdb")
    )
    assert torch.equal(cif.atom_to_token, pdb_.atom_to_token)
    torch.testing.assert_close(cif.pos, pdb_.pos, rtol=0, atol=1e-3)
    assert torch.equal(cif.edge_index, pdb_.edge_index)
    assert torch.equal(cif.edge_attr, pdb_.edge_attr)
    for name in ("token_name", "token_chain", "token_ins_code", "atom_name"):
        assert cif[name] == pdb_[name], name
    for name in ("token_res_id", "token_entity_kind", "token_is_standard", "z",
                 "is_representative", "formal_charge"):  # fmt: skip
        assert torch.equal(cif[name], pdb_[name]), name


def test_all_models(structures, as_text):
    data = from_structure(structures / "1l2y.bcif", model="all")
    assert len(data) == len(gemmi.read_structure(str(as_text("1l2y.bcif")))) == 38
    for number in (0, 17, 37):
        _, residues = gemmi_residues(as_text("1l2y.bcif"), number)
        pos = np.array([a.pos.tolist() for r in residues for a in r.atoms], np.float32)
        np.testing.assert_allclose(data[number].pos.numpy(), pos, atol=1e-4)
    assert from_structure(structures / "1l2y.bcif", model=18).pos.equal(data[17].pos)


@pytest.mark.parametrize("name", CIFS)
def test_label_numbers(name, structures, as_text):
    data = from_structure(structures / name, numbering="label")
    _, residues = gemmi_residues(as_text(name))
    expected = [(*r.label, a.name) for r in residues for a in r.atoms]
    found = zip(data.chain_id, data.res_id.tolist(), data.atom_name, strict=True)
    assert Counter(found) == Counter((c, n or 0, a) for c, n, a in expected)
    assert data.token_label_chain == data.token_chain
    author = from_structure(structures / name)
    assert author.token_label_res_id.equal(data.token_res_id)
    assert author.token_label_chain == data.token_chain


@pytest.mark.parametrize("name", ENTRIES)
def test_chains_waters_and_hydrogens(name, structures, as_text):
    _, residues = gemmi_residues(as_text(name))
    wanted = [r for r in residues if r.name not in WATERS]
    if wanted:
        data = from_structure(structures / name, waters=False)
        assert data.num_tokens == len(wanted)
        assert data.num_nodes == sum(len(r.atoms) for r in wanted)
    heavy = [a for r in residues for a in r.atoms if not a.is_hydrogen()]
    assert from_structure(structures / name, hydrogens=False).num_nodes == len(heavy)
    for chain in {r.chain for r in residues}:
        data = from_structure(structures / name, chains=[chain])
        assert data.num_nodes == sum(len(r.atoms) for r in residues if r.chain == chain)


@pytest.mark.parametrize("name", CIFS)
def test_unresolved_atoms_are_those_that_the_entry_lists(name, structures):
    block = block_of(structures / name)

    def rows(category, *names):
        if category not in block:
            return []
        table = block[category]
        return zip(*(table[n].as_array(str).tolist() for n in names), strict=True)

    component = {}
    for key, atom, element in rows("chem_comp_atom", "comp_id", "atom_id",
                                   "type_symbol"):  # fmt: skip
        # These leave when the residue is bound to the one before or behind it.
        if element not in ("H", "D") and atom not in ("OXT", "OP3"):
            component.setdefault(key, []).append(atom)
    label = ("label_asym_id", "label_seq_id")
    expected = []
    for chain, number, key, flag, polymer in rows(
        "pdbx_unobs_or_zero_occ_residues", *label, "label_comp_id", "occupancy_flag",
        "polymer_flag",
    ):  # fmt: skip
        if flag == "1" and polymer == "Y":
            expected += [(chain, int(number), atom) for atom in component[key]]
    for chain, number, atom, flag, polymer in rows(
        "pdbx_unobs_or_zero_occ_atoms", *label, "label_atom_id", "occupancy_flag",
        "polymer_flag",
    ):  # fmt: skip
        if flag == "1":
            expected.append((chain, int(number) if polymer == "Y" else 0, atom))
    data = from_structure(structures / name, unresolved=True, numbering="label")
    rows = (~data.is_resolved).nonzero().flatten().tolist()
    found = [(data.chain_id[i], int(data.res_id[i]), data.atom_name[i]) for i in rows]
    assert sorted(found) == sorted(expected)
    assert data.pos[rows].isnan().all()
    assert data.num_nodes - len(rows) == from_structure(structures / name).num_nodes


def with_second_copy(path, target):
    """The entry with one more operation in its assembly, a screw axis."""
    block = block_of(path)
    oper = block["pdbx_struct_oper_list"]
    second = {name: ["1", "2"] for name in oper}
    for i in range(3):
        for j in range(3):
            value = (-1 if i < 2 else 1) if i == j else 0
            second[f"matrix[{i + 1}][{j + 1}]"] = [str(int(i == j)), str(value)]
        second[f"vector[{i + 1}]"] = ["0", str(10.5 * i)]
    block["pdbx_struct_oper_list"] = pdbx.CIFCategory(second)
    generator = {k: v.as_array(str) for k, v in
                 block["pdbx_struct_assembly_gen"].items()}  # fmt: skip
    generator["oper_expression"] = np.array(["1,2"])
    block["pdbx_struct_assembly_gen"] = pdbx.CIFCategory(generator)
    pdbx.CIFFile({"x": block}).write(target)
    return target


@pytest.mark.parametrize("name", ["3o5r.cif", "5ugo.cif", "1aki.cif"])
def test_an_assembly_of_two_copies(name, structures, tmp_path):
    path = with_second_copy(structures / name, tmp_path / "two.cif")
    one, two = from_structure(path), from_structure(path, assembly="1")
    theirs = pdbx.get_assembly(
        block_of(path), "1", model=1, altloc="occupancy", use_author_fields=True
    )
    assert two.num_nodes == theirs.array_length() == 2 * one.num_nodes
    np.testing.assert_allclose(two.pos.numpy(), theirs.coord, atol=1e-3)
    structure = gemmi.read_structure(str(path))
    copy = gemmi.make_assembly(
        structure.assemblies[0], structure[0], gemmi.HowToNameCopiedChain.AddNumber
    )
    alone = sum(len(r) for chain in structure[0] for r in chain)
    assert sum(len(r) for chain in copy for r in chain) == 2 * alone
    # Each copy has the bonds of one, and tokens of its own.
    assert two.num_edges == 2 * one.num_edges
    assert two.num_tokens == 2 * one.num_tokens
    assert Counter(two.token_sym_id.tolist()) == {0: one.num_tokens, 1: one.num_tokens}
    copies = two.token_sym_id[two.atom_to_token]
    assert copies[two.edge_index[0]].equal(copies[two.edge_index[1]])


def test_the_assembly_of_a_pdb_file(structures):
    path = structures / "3o5r.pdb"
    one, whole = from_structure(path), from_structure(path, assembly="1")
    assert whole.num_nodes == one.num_nodes and whole.num_edges == one.num_edges
    with pytest.raises(ValueError, match=r"has no assembly '7', but \['1'\]"):
        from_structure(path, assembly="7")


def test_peptide_bonds_where_the_authors_numbers_jump(structures):
    data = from_structure(structures / "1igy.bcif")
    source, target = data.edge_index
    pairs = {
        (int(data.res_id[a]), int(data.res_id[b]))
        for a, b in zip(source.tolist(), target.tolist(), strict=True)
        if data.atom_name[a] == "C" and data.atom_name[b] == "N"
        and data.chain_id[a] == "B"
    }  # fmt: skip
    # In chain B, 169 is followed by 171.
    assert (169, 171) in pairs


def test_a_damaged_sequence(structures, tmp_path):
    text = (structures / "3o5r.cif").read_text()
    for wrong in (".pdb_seq_num", ".seq_id"):
        path = tmp_path / "a.cif"
        path.write_text(
            text.replace(f"pdbx_poly_seq_scheme{wrong}", "pdbx_poly_seq_scheme.x")
        )
        assert from_structure(path).num_tokens == 416
        with pytest.raises(ValueError, match="a.cif: 'unresolved' is True, but pdbx"):
            from_structure(path, unresolved=True)


def test_every_copy_of_an_assembly_has_its_unresolved_atoms(structures, tmp_path):
    path = with_second_copy(structures / "5ugo.cif", tmp_path / "two.cif")
    one = from_structure(path, unresolved=True)
    two = from_structure(path, unresolved=True, assembly="1")
    assert two.num_tokens == 2 * one.num_tokens
    assert two.token_sym_id.equal(torch.arange(2).repeat_interleave(one.num_tokens))
    assert two.is_resolved.equal(one.is_resolved.repeat(2))
    assert two.z.equal(one.z.repeat(2))
    edges = torch.cat([one.edge_index, one.edge_index + one.num_nodes], dim=1)
    assert two.edge_index.equal(edges)
    torch.testing.assert_close(two.pos[: one.num_nodes], one.pos, equal_nan=True)
