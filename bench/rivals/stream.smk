# A CPU rule behind each embedding: it notes when it could run.
include: "embed.smk"


rule stream:
    input:
        expand("noted/{sample}.txt", sample=SAMPLES),


rule note:
    input:
        "embeddings/{sample}.npz",
    output:
        "noted/{sample}.txt",
    threads: 1
    shell:
        "date +%s.%N > {output}"
