"""Keep the protein sequences of one sample that are worth embedding, and say why of the rest."""

import gzip
import re
import string
import sys
from pathlib import Path

import pandas as pd

#: Letters that name one amino acid; anything else tells the model nothing certain.
STANDARD = frozenset("ACDEFGHIKLMNPQRSTVWY")
#: Of ASCII alone: in upper case, some other letters are letters of proteins.
UPPER = str.maketrans(string.ascii_lowercase, string.ascii_uppercase)


def read_fasta(path):
    """Yield (id, description, sequence); plain or gzip-compressed, any line ends."""
    raw = Path(path).read_bytes()
    text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    if not text.startswith(">"):
        raise ValueError(f"{path}: is no FASTA file, it does not start with '>'")
    for record in re.split(r"^>", re.sub(r"\r\n?", "\n", text), flags=re.MULTILINE)[1:]:
        header, _, body = record.partition("\n")
        name, _, description = header.strip().partition(" ")
        yield name, description, "".join(body.split()).translate(UPPER).rstrip("*")


def check(records, min_length, max_length, max_unknown):
    """Return a table of the records with a column that says why one is dropped."""
    table = pd.DataFrame(records, columns=["protein", "description", "sequence"])
    table["length"] = table["sequence"].str.len()
    unknown = table["sequence"].map(lambda seq: sum(letter not in STANDARD for letter in seq))
    table["unknown"] = (unknown / table["length"].clip(lower=1)).round(4)
    table["dropped"] = ""
    reasons = {
        f"more than {max_unknown:.0%} unknown residues": table["unknown"] > max_unknown,
        f"longer than {max_length}": table["length"] > max_length,
        f"shorter than {min_length}": table["length"] < min_length,
        "id occurs before": table["protein"].duplicated(),
        "has no id": table["protein"] == "",
    }
    for reason, applies in reasons.items():
        table.loc[applies, "dropped"] = reason
    return table


def main(job):
    """Check one sample's FASTA file."""
    table = check(list(read_fasta(job.input.fasta)), **dict(job.params.items()))
    kept = table[table["dropped"] == ""]
    print(f"{job.wildcards.sample}: kept {len(kept)} of {len(table)} sequences")
    if kept.empty:
        raise ValueError(f"{job.input.fasta}: no sequence passes the quality check")
    text = "".join(
        f">{row.protein} {row.description}".rstrip() + f"\n{row.sequence}\n"
        for row in kept.itertuples(index=False)
    )
    Path(job.output.fasta).write_text(text)
    table.drop(columns="sequence").to_csv(job.output.table, sep="\t", index=False)


# Left open: a traceback is written after all of this.
sys.stdout = sys.stderr = Path(snakemake.log[0]).open("w")  # noqa: SIM115
main(snakemake)
