# A classifier trained and served: which habitat does a protein's organism live in?
#
#   quality_check ──► esm2_embed ──► train_habitat ──► habitat_linear_head
#   (CPU, a sample)   (served)   └── (CPU, once) ─────► (served, a sample)
#
#   snakemake --snakefile habitat.smk
#
# It takes the embeddings of the workflow beside it, and the labels of data/proteins.tsv.
# results/habitat/accuracy.tsv says how good it is on organisms that it has not seen.


include: "Snakefile"


module head:
    snakefile:
        "../rules/head.smk"
    config:
        {"head": {"weights": "results/habitat/weights.npz"}}


use rule * from head as habitat_*


SAMPLES = [
    line.split("\t")[0] for line in Path(config["samples"]).read_text().splitlines()[1:]
]


rule habitats:
    default_target: True
    input:
        expand("results/scores/{sample}.tsv", sample=SAMPLES),
        "results/habitat/accuracy.tsv",


rule train_habitat:
    input:
        embeddings=expand("results/embeddings/{sample}.npz", sample=SAMPLES),
        proteins="data/proteins.tsv",
    output:
        weights="results/habitat/weights.npz",
        accuracy="results/habitat/accuracy.tsv",
    log:
        "results/logs/train_habitat.log",
    conda:
        "envs/train.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    script:
        "scripts/train_habitat.py"
