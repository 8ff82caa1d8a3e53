rule protein_table:
    input:
        checked="results/quality_check/{sample}.tsv",
        embeddings="results/embeddings/{sample}.npz",
    output:
        table="results/tables/{sample}.tsv",
    log:
        "results/logs/protein_table/{sample}.log",
    conda:
        "../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    script:
        "../scripts/protein_table.py"


rule similarity:
    input:
        tables=expand("results/tables/{sample}.tsv", sample=samples.index),
    output:
        table="results/similarity.parquet",
        figure=report(
            "results/similarity.png",
            caption="../report/similarity.rst",
            category="Similarity of samples",
        ),
    log:
        "results/logs/similarity.log",
    conda:
        "../envs/figures.yaml"
    threads: 1
    resources:
        mem_mb=2000,
        runtime=20,
    params:
        samples=list(samples.index),
        groups=list(samples["group"]),
    script:
        "../scripts/similarity.py"
