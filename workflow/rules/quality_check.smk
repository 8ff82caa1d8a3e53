rule quality_check:
    input:
        fasta=fasta_of,
    output:
        fasta="results/quality_check/{sample}.fasta",
        table="results/quality_check/{sample}.tsv",
    log:
        "results/logs/quality_check/{sample}.log",
    conda:
        "../envs/tables.yaml"
    threads: 1
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        min_length=config["quality_check"]["min_length"],
        max_length=config["quality_check"]["max_length"],
        max_unknown=config["quality_check"]["max_unknown"],
    script:
        "../scripts/quality_check.py"
