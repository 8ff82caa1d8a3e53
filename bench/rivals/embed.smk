# One model call per file, declared once. The local executor runs the body, one
# process per file; gpupool serves the rule from warm workers and ignores it.
import os
import sys

FASTA = config["fasta"]
PYTHON = sys.executable
SCRIPT = os.path.join(workflow.basedir, "embed_one.py")
SAMPLES = sorted(glob_wildcards(os.path.join(FASTA, "{sample}.fasta")).sample)


rule all:
    input:
        expand("embeddings/{sample}.npz", sample=SAMPLES),


rule embed:
    input:
        os.path.join(FASTA, "{sample}.fasta"),
    output:
        "embeddings/{sample}.npz",
    threads: 1
    resources:
        gpupool_tool="esm2-embed",
    params:
        model=config["model"],
    shell:
        "{PYTHON} {SCRIPT} {input} {output} {params.model}"
