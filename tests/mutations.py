"""Damaged files: each a name, its bytes, and what may come of it.

``"same"``: reads as the undamaged file; ``"refused"``: a ValueError; ``"whole"``: one
of these two; ``"oracle"``: refused, or as another reader reads the damaged file.
"""

import gzip
import random

from base_files import bcif_bytes, cif_text, pdb_text


def cuts(data, count, rng):
    """Truncated at `count` places, whose end the file's own marks tell."""
    ends = {rng.randrange(1, len(data) - 4) for _ in range(count)}
    for end in sorted(ends):
        yield f"cut at {end}", data[:end], "whole"


def flips(data, count, rng, outcome="oracle"):
    """One byte changed to any other."""
    for _ in range(count):
        place = rng.randrange(len(data))
        changed = bytearray(data)
        changed[place] = rng.choice([b for b in range(256) if b != data[place]])
        yield f"byte {place} is {changed[place]}", bytes(changed), outcome


def line_changes(text, starts, rng, count):
    """Lines of atoms lost, doubled, exchanged, joined, and characters of them."""
    lines = text.split("\n")
    atoms = [i for i, line in enumerate(lines) if line.startswith(starts)]

    def made(name, changed):
        return name, "\n".join(changed).encode(), "oracle"

    for _ in range(count):
        i, j = rng.sample(atoms, 2)
        yield made(f"line {i} lost", lines[:i] + lines[i + 1 :])
        yield made(f"line {i} twice", lines[:i] + lines[i : i + 1] + lines[i:])
        swapped = lines.copy()
        swapped[i], swapped[j] = lines[j], lines[i]
        yield made(f"lines {i} and {j} exchanged", swapped)
        yield made(f"line {i} joined", [*lines[: i - 1], lines[i - 1] + lines[i],
                                        *lines[i + 1 :]])  # fmt: skip
        at = rng.randrange(len(lines[i]))
        lost, more = lines.copy(), lines.copy()
        lost[i] = lines[i][:at] + lines[i][at + 1 :]
        more[i] = lines[i][:at] + rng.choice(" 0.A-'\";#") + lines[i][at:]
        yield made(f"line {i} without character {at}", lost)
        yield made(f"line {i} with one more at {at}", more)
        short = lines.copy()
        short[i] = lines[i][:at]
        yield made(f"line {i} ends at {at}", short)


def encodings(text):
    """The text in another encoding, or with characters that none should hold."""
    last = text.rstrip("\n").rfind("\n")
    middle = text.find("\nATOM", len(text) // 2) + 20
    yield "UTF-16", text.encode("utf-16"), "refused"
    yield "UTF-16 without mark", text.encode("utf-16-le"), "refused"
    yield "UTF-32", text.encode("utf-32"), "refused"
    yield "UTF-8 with mark", text.encode("utf-8-sig"), "same"
    yield "Latin-1", text.encode().replace(b"base", b"b\xe4se").replace(
        b"BASE FILE", b"B\xc4SE FILE"), "same"  # fmt: skip
    yield "a Latin-1 atom", (text[:middle] + "\xe4" + text[middle + 1 :]).encode(
        "latin-1"), "refused"  # fmt: skip
    for name, character in (("NUL", "\0"), ("form feed", "\f"), ("NEL", "\x85"),
                            ("separator", "\u2028"), ("escape", "\x1b")):  # fmt: skip
        changed = text[:middle] + character + text[middle + 1 :]
        yield f"{name} in an atom", changed.encode(), "refused"
        yield f"{name} at the end", (text[:last] + character).encode(), "refused"
    yield "CRLF", text.replace("\n", "\r\n").encode(), "same"
    yield "CR", text.replace("\n", "\r").encode(), "same"
    yield "blank lines", text.replace("\nATOM", "\n\n\nATOM").encode(), "same"
    yield "no last line break", text.rstrip("\n").encode(), "same"
    yield "empty", b"", "refused"
    yield "blanks", b" \n\t \n", "refused"
    yield "zeros", b"\0" * 3000, "refused"
    yield "text of its middle", text[len(text) // 2 :].encode(), "refused"


BAD_NUMBERS = ("nan", "inf", "-inf", "1e30", "1e400", "-9e99", "1_0", "0x1F", "12,5",
               "abc", "1.2.3", "--1", "12.3(4)", "1e", "+", "1d3")  # fmt: skip


def cif_mutations(rng):
    """Of an mmCIF file."""
    base, two = cif_text(), cif_text(2)
    data = base.encode()
    yield from cuts(data, 40, rng)
    yield from cuts(two.encode(), 10, rng)
    yield from flips(data, 60, rng)
    yield from line_changes(base, ("ATOM", "HETATM"), rng, 8)
    yield from encodings(base)
    yield from _cif_cells(base, rng)
    yield from _cif_columns(base, rng)
    yield from _cif_syntax(base, two)


def _rows(text):
    lines = text.split("\n")
    rows = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]
    names = [line for line in lines if line.startswith("_atom_site.")]
    return lines, rows, [name.partition(".")[2] for name in names]


def _cif_cells(base, rng):
    lines, rows, names = _rows(base)

    def changed(row, column, value):
        cells = lines[row].split()
        cells[names.index(column)] = value
        return "\n".join([*lines[:row], " ".join(cells), *lines[row + 1 :]]).encode()

    # Rows with alternate locations need not be read.
    for value in (*BAD_NUMBERS, "?", "."):
        row, column = (
            rng.choice(rows[:60]),
            rng.choice(["Cartn_x", "Cartn_y", "Cartn_z"]),
        )
        outcome = "oracle" if value == "12.3(4)" else "refused"
        yield f"{column} is {value}", changed(row, column, value), outcome
    for column, values in {
        "pdbx_formal_charge": ("2+", "+1", "-3", "99", "x", "1.5", "."),
        "type_symbol": ("?", ".", "Qq", "c", "D", "X", "C1"),
        "pdbx_PDB_ins_code": (".", "?", "B", "AB", "''", "' '"),
        "auth_seq_id": ("?", ".", "-5", "1.5", "1e3", "99999999999999999999", "A1"),
        "pdbx_PDB_model_num": ("-1", "0", "2", "99999999999", "?", "1.0", "x"),
        "occupancy": ("nan", "?", "-1", "1e9", "x"),
        "label_atom_id": ("?", "'C A'", '"O5\'"', "C#", "X" * 5000, "'", '"'),
        "label_alt_id": ("A", "1", "AB", "?", "'"),
        "group_PDB": ("atom", "TER", "?", "loop_", "data_x", "_x.y", ";"),
        "auth_asym_id": ("?", "'A B'", "X" * 200, "\u4e00"),
    }.items():
        for value in values:
            row = rng.choice(rows[1:60])
            yield f"{column} is {value[:9]}", changed(row, column, value), "oracle"
    for _ in range(10):
        row, (i, j) = rng.choice(rows), rng.sample(range(len(names)), 2)
        cells = lines[row].split()
        cells[i], cells[j] = cells[j], cells[i]
        text = [*lines[:row], " ".join(cells), *lines[row + 1 :]]
        name = f"{names[i]} and {names[j]} of a row exchanged"
        yield name, "\n".join(text).encode(), "oracle"


def _cif_columns(base, rng):
    lines, rows, names = _rows(base)
    for lost in range(len(names)):
        kept = [i for i in range(len(names)) if i != lost]
        text = [
            " ".join(line.split()[i] for i in kept) if row in rows else line
            for row, line in enumerate(lines)
            if line != f"_atom_site.{names[lost]}"
        ]
        yield f"no {names[lost]}", "\n".join(text).encode(), "oracle"
    for _ in range(12):
        i, j = rng.sample(names, 2)
        a, b = f"_atom_site.{i}\n", f"_atom_site.{j}\n"
        text = base.replace(a, "\0").replace(b, a).replace("\0", b)
        yield f"{i} and {j} exchanged", text.encode(), "oracle"
    for name in ("Cartn_x", "auth_asym_id", "id"):
        a = f"_atom_site.{name}\n"
        yield f"{name} twice", base.replace(a, a + a).encode(), "refused"
        double = base.replace("_atom_site.Cartn_y\n", a)
        yield f"{name} for y", double.encode(), "refused"


def _cif_syntax(base, two):
    lines, rows, names = _rows(base)
    loop = base.index("loop_")
    head, table = base[:loop], base[loop:]

    def made(name, text, outcome):
        return (
            name,
            (text if isinstance(text, str) else "\n".join(text)).encode(),
            outcome,
        )

    middle = rows[40]
    yield made("an empty loop", head + "loop_\n#\n", "refused")
    yield made("a loop without rows", lines[: rows[0]] + ["#"], "refused")
    yield made("no loop_", base.replace("loop_\n", ""), "refused")
    yield made("two tables", base + table, "refused")
    yield made("two tables, one in capitals", base + table.replace(
        "_atom_site", "_ATOM_SITE"), "refused")  # fmt: skip
    yield made("two blocks", base + base.replace("data_BASE", "data_MORE"), "refused")
    yield made("two blocks of a name", base + base, "refused")
    yield made("no block", base.replace("data_BASE\n", ""), "refused")
    yield made("DATA_", base.replace("data_BASE", "DATA_BASE"), "oracle")
    yield made("LOOP_", base.replace("loop_", "LOOP_"), "oracle")
    yield made("_ATOM_SITE", base.replace("_atom_site", "_ATOM_SITE"), "oracle")
    yield made("an open text before", base.replace("lines\n;\n", "lines\n"), "refused")
    yield made("an open text among", [*lines[:middle], ";", *lines[middle:]], "refused")
    yield made("a text among", [*lines[:middle], ";", "x", ";", *lines[middle:]],
               "refused")  # fmt: skip
    yield made("an open text behind", base + "_x.y\n;\nopen\n", "refused")
    yield made(
        "a comment among", [*lines[:middle], "# no atom", *lines[middle:]], "same"
    )
    yield made("a comment behind", [*lines[:middle], lines[middle] + " # x",
                                    *lines[middle + 1 :]], "oracle")  # fmt: skip
    broken = lines[middle].replace(" ", "\n", 5)
    yield made(
        "a row over lines", [*lines[:middle], broken, *lines[middle + 1 :]], "same"
    )
    yield made("tabs", base.replace(" ", "\t"), "whole")
    yield made("wide gaps", base.replace(" ", "     "), "whole")
    quoted = "\n".join(
        " ".join(f"'{cell}'" if "_" not in cell else cell for cell in line.split())
        if i in rows else line for i, line in enumerate(lines)
    )  # fmt: skip
    yield made(
        "all values quoted", quoted.replace("'?'", "?").replace("'.'", "."), "same"
    )
    yield made("an open quote", base.replace(" CA ", " 'CA ", 1), "oracle")
    yield made(
        "an open quote at an end", base.replace(" CA 1\n", " 'CA 1\n", 1), "oracle"
    )
    yield made("a long line", base + "# " + "x" * 2**21 + "\n#\n", "whole")
    both = [line for line in two.split("\n") if line.startswith(("ATOM", "HETATM"))]
    mixed = [row for pair in zip(both[::2], both[1::2], strict=True) for row in pair]
    half = len(both) // 2
    mixed = [row for pair in zip(both[:half], both[half:], strict=True) for row in pair]
    yield made("models interleaved", [*lines[: rows[0]], *mixed, "#"], "refused")
    yield made("one value short", base.replace(" 10.00 ", " ", 1), "refused")
    yield made("one value more", base.replace(" 10.00 ", " 10.00 0 ", 1), "refused")
    yield made("rows short by a row in all", base.replace(" 10.00 ", " ", len(names)),
               "refused")  # fmt: skip
    yield made("a PDB file", pdb_text(), "refused")
    yield made("SMILES", "CCO", "refused")
    yield made(
        "other numbers of waters", base.replace(" 202 HOH", " 201 HOH"), "oracle"
    )


def pdb_mutations(rng):
    """Of a PDB file."""
    base, two = pdb_text(), pdb_text(2)
    yield from cuts(base.encode(), 40, rng)
    yield from cuts(two.encode(), 15, rng)
    yield from flips(base.encode(), 60, rng)
    yield from line_changes(base, ("ATOM", "HETATM"), rng, 8)
    yield from encodings(base)
    yield from _pdb_fields(base, rng)
    yield from _pdb_records(base, two)


def _pdb_fields(base, rng):
    lines = base.split("\n")
    atoms = [i for i, line in enumerate(lines) if line.startswith(("ATOM", "HETATM"))]

    def changed(name, start, stop, value, outcome="oracle", row=None):
        row = rng.choice(atoms) if row is None else row
        value = value.rjust(stop - start)[: stop - start]
        line = lines[row][:start] + value + lines[row][stop:]
        text = "\n".join([*lines[:row], line, *lines[row + 1 :]])
        return f"{name} is {value!r}", text.encode(), outcome

    for value in (*BAD_NUMBERS, "", "********"):
        outcome = "oracle" if value == "12.3(4)" else "refused"
        yield changed("x", 30, 38, value, outcome, rng.choice(atoms[:60]))
    for name, start, stop, values in (
        ("serial", 6, 11, ("A0000", "zzzzz", "*****", "-1", "", "12", "1_0")),
        ("number", 22, 26, ("A000", "-999", "", "1.5", "****", "1_0")),
        ("insertion code", 26, 27, ("A", "1", "-", "?")),
        ("location", 16, 17, ("A", "1", "?", ".")),
        ("occupancy", 54, 60, ("", "nan", "-1.00", "999.99", "x")),
        ("factor", 60, 66, ("", "nan", "******")),
        ("element", 76, 78, ("", "Qq", "D", "X", "c", "1", "N1")),
        ("charge", 78, 80, ("2+", "+2", "2-", "1", "++", "x", "+", "0")),
        ("chain", 21, 22, ("", "?", "1", "'")),
        ("residue", 17, 20, ("", "UNK", "A B", "---")),
        ("atom", 12, 16, ("", "C A", "C'", "****")),
    ):
        for value in values:
            yield changed(name, start, stop, value)
    row = next(i for i in atoms if " ZN " in lines[i])
    yield changed("element of zinc", 76, 78, "", "same", row)
    bare = [line[:76] if i in atoms else line for i, line in enumerate(lines)]
    charges = [line[78:80].strip() for line in lines if line in lines]
    outcome = "oracle" if any(charges) else "same"
    yield "no elements", "\n".join(bare).encode(), outcome
    short = [line[:54] if i in atoms else line for i, line in enumerate(lines)]
    yield "coordinates alone", "\n".join(short).encode(), "oracle"


def _pdb_records(base, two):
    lines = base.split("\n")
    first = next(i for i, line in enumerate(lines) if line.startswith("ATOM"))
    middle = first + 40

    def made(name, text, outcome):
        return (
            name,
            (text if isinstance(text, str) else "\n".join(text)).encode(),
            outcome,
        )

    for name, record in (("indented", " ATOM "), ("small", "atom  "), ("cut", "TOM   "),
                         ("other", "ATOMS "), ("wrong", "XTOM  ")):  # fmt: skip
        line = record + lines[middle][6:]
        text = [*lines[:middle], line, *lines[middle + 1 :]]
        yield made(f"an atom's record {name}", text, "whole")
    yield made("no END", base.replace("END ", "    "), "refused")
    yield made("END among atoms", [*lines[:middle], "END", *lines[middle:]], "refused")
    yield made("two files", base + base, "refused")
    model = "MODEL        1"
    among = [*lines[:middle], model, *lines[middle:]]
    yield made("MODEL among atoms", among, "refused")
    yield made("no first MODEL", two.replace("MODEL        1\n", ""), "same")
    yield made("no second MODEL", two.replace("MODEL        2\n", ""), "same")
    none = [line for line in two.split("\n") if not line.startswith("MODEL")]
    yield made("no MODEL", none, "same")
    yield made("no ENDMDL", two.replace("ENDMDL\n", ""), "oracle")
    yield made("models of odd numbers", two.replace("MODEL        1", "MODEL       -7")
               .replace("MODEL        2", "MODEL     9999"), "same")  # fmt: skip
    yield made("all of MASTER's atoms but one", [*lines[:middle], *lines[middle + 1 :]],
               "refused")  # fmt: skip
    yield made("CONECT to nowhere", base.replace("MASTER", "CONECT 9999 8888\nMASTER"),
               "same")  # fmt: skip
    yield made("CONECT of letters", base.replace("MASTER", "CONECT   xy   zz\nMASTER"),
               "whole")  # fmt: skip
    yield made("CONECT to itself", base.replace("MASTER", "CONECT    1    1\nMASTER"),
               "whole")  # fmt: skip
    yield made("bad cell", "CRYST1  nan  0.0  x\n" + base, "whole")
    yield made("no atoms", [line for line in lines if not line.startswith(
        ("ATOM", "HETATM"))], "refused")  # fmt: skip
    yield made("an mmCIF file", cif_text(), "refused")
    wide = [
        line + "  a name behind" if line.startswith("ATOM") else line for line in lines
    ]
    yield made("long lines", wide, "whole")


def bcif_mutations(rng):
    """Of a BinaryCIF file."""
    data = bcif_bytes()
    for end in {rng.randrange(1, len(data)) for _ in range(25)}:
        yield f"cut at {end}", data[:end], "refused"
    yield from flips(data, 80, rng)
    yield "bytes behind", data + b"\x00", "refused"
    yield "twice", data + data, "refused"
    yield "mmCIF", cif_text().encode(), "refused"
    yield "a deep list", b"\x91" * 100_000, "refused"
    yield "a deep map", b"\x81\xa1a" * 100_000, "refused"
    yield "a long list", b"\xdd\xff\xff\xff\xff", "refused"
    yield "a long text", b"\xdb\xff\xff\xff\xff", "refused"
    yield from _bcif_structure(data)


def _bcif_structure(data):
    import msgpack

    def made(name, change, outcome="refused"):
        raw = msgpack.unpackb(data)
        table = raw["dataBlocks"][0]["categories"][0]
        columns = {column["name"]: column for column in table["columns"]}
        change(raw, table, columns)
        return name, msgpack.packb(raw), outcome

    def steps(columns, name):
        return columns[name]["data"]["encoding"]

    def each(columns):
        for column in columns.values():
            for part in ("data", "mask"):
                if column[part] is not None:
                    for step in column[part]["encoding"]:
                        yield step
                        yield from step.get("dataEncoding", [])
                        yield from step.get("offsetEncoding", [])

    kinds = ("RunLength", "IntegerPacking", "Delta", "FixedPoint", "ByteArray",
             "StringArray")  # fmt: skip
    changes = {
        "srcSize": (0, -1, 3, 10**6, 2**31 - 1, 2**63, None, "x", 1.5, True),
        "type": (0, 1, 3, 33, 99, "x"),
        "factor": (0, 1e-300, 1e300, float("nan"), "x"),
        "origin": (10**9, -(2**40), "x"),
        "byteCount": (3, 0, "x"),
        "kind": (*kinds, "Quick", 3),
        "stringData": ("", 3, None),
    }
    for key, values in changes.items():
        for value in values:

            def change(raw, table, columns, key=key, value=value):
                for step in [s for s in each(columns) if key in s][:3]:
                    step[key] = value

            yield made(f"{key} is {value}", change, "oracle")
    for value in (0, 1, 50, 177, 10**6, 2**32, -1, None, "many", 10**30 % 2**60):

        def rows(raw, table, columns, value=value):
            table["rowCount"] = value

        yield made(f"rowCount is {value}", rows)
    names = "Cartn_x Cartn_y auth_asym_id pdbx_PDB_model_num label_alt_id id".split()
    for name in names:

        def lost(raw, table, columns, name=name):
            table["columns"].remove(columns[name])

        def twice(raw, table, columns, name=name):
            table["columns"].append(columns[name])

        def emptied(raw, table, columns, name=name):
            columns[name]["data"]["data"] = b""

        def other(raw, table, columns, name=name):
            columns[name]["data"] = columns["B_iso_or_equiv"]["data"]

        yield made(f"no {name}", lost, "oracle")
        yield made(f"{name} twice", twice, "oracle" if name == "id" else "refused")
        yield made(f"{name} emptied", emptied, "oracle" if name == "id" else "refused")
        yield made(f"{name} is another", other, "oracle")

    def no_steps(raw, table, columns):
        steps(columns, "Cartn_x").clear()

    def many_steps(raw, table, columns):
        steps(columns, "Cartn_x").extend(steps(columns, "Cartn_x") * 50)

    def second_table(raw, table, columns):
        raw["dataBlocks"][0]["categories"].append(table)

    def second_block(raw, table, columns):
        raw["dataBlocks"].append(raw["dataBlocks"][0])

    def wide_text(raw, table, columns):
        steps(columns, "auth_asym_id")[0]["stringData"] = "A" * 2**20

    yield made("no steps", no_steps)
    yield made("many steps", many_steps)
    yield made("two tables", second_table)
    yield made("two blocks", second_block)
    yield made("a wide text", wide_text)
    yield made("no blocks", lambda raw, *_: raw.update(dataBlocks=[]))
    yield made("blocks are a text", lambda raw, *_: raw.update(dataBlocks="x"))
    yield made("no table", lambda raw, table, _: table.update(name="_other"))
    yield made("no columns", lambda raw, table, _: table.update(columns=[]))


def zipped(mutations):
    """All files gzipped."""
    for name, data, outcome in mutations:
        yield f"{name}, zipped", gzip.compress(data, 1, mtime=0), outcome


def gzip_mutations(data, rng):
    """Of the gzip file that holds the data."""
    whole = gzip.compress(data, mtime=0)
    for end in sorted({rng.randrange(1, len(whole)) for _ in range(12)}):
        yield f"gzip cut at {end}", whole[:end], "refused"
    # The name of the writing system is one byte that says nothing.
    for name, changed, _ in flips(whole, 20, rng):
        yield f"gzip {name}", changed, "whole"
    yield "not zipped", data, "refused"
    yield "zipped twice", gzip.compress(whole), "refused"
    half = len(data) // 2
    parts = gzip.compress(data[:half]) + gzip.compress(data[half:])
    yield "gzip of two members", parts, "same"
    yield "gzip with bytes behind", whole + b"behind", "refused"
    yield "gzip of nothing", gzip.compress(b""), "refused"


def mutations(kind, seed=20):
    """All damaged files of a format, the same ones for a seed."""
    rng = random.Random(seed)
    make = {"cif": cif_mutations, "pdb": pdb_mutations, "bcif": bcif_mutations}[kind]
    data = {"cif": cif_text, "pdb": pdb_text}.get(kind, bcif_bytes)()
    data = data if isinstance(data, bytes) else data.encode()
    for entry in make(rng):
        yield f".{kind}", *entry
    few = [entry for i, entry in enumerate(make(rng)) if i % 8 == 0]
    for entry in zipped(few):
        yield f".{kind}.gz", *entry
    for entry in gzip_mutations(data, rng):
        yield f".{kind}.gz", *entry
