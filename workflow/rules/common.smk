# The checked configuration and the sample sheet.
import pandas as pd
from snakemake.utils import validate

validate(config, schema="../schemas/config.schema.yaml")

samples = pd.read_csv(config["samples"], sep="\t", dtype=str, comment="#").set_index(
    "sample", drop=False, verify_integrity=True
)
validate(samples, schema="../schemas/samples.schema.yaml")


wildcard_constraints:
    sample="|".join(samples.index),


def fasta_of(wildcards):
    """The FASTA file that the sample sheet gives for a sample."""
    return samples.at[wildcards.sample, "fasta"]
