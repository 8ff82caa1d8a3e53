# ESM-2 protein embeddings, one job per FASTA file.
#
# Use it with `include:` or as a `module`; `use rule esm2_embed from ... with:` can
# give it other files. Under `--executor gpupool` the jobs are served by warm model
# workers that collapse identical sequences; under any other executor the shell
# body does the same work, cold.
#
# Input     fasta        protein FASTA, plain or gzip-compressed
# Output    embeddings   .npz, .pt or .parquet by suffix, in the order of the input;
#                        .npz: one float32 array per sequence, named by its id
#
# Configuration, all optional, under the key `esm2`:
#   model        fair-esm name, path of a .pt checkpoint, or a directory in the
#                Hugging Face format                        [esm2_t6_8M_UR50D]
#   precision    fp32, bf16 or fp16                         [fp32]
#   layers       layer or list of layers; null: the last    [null]
#   pool         mean or per_token                          [mean]
#   contacts     also predict contact maps                  [false]
#   max_length, long_sequences   the most residues, and what happens to longer
#                sequences: refuse or truncate              [1022, refuse]
#   fasta        input pattern with {sample}    [results/quality_check/{sample}.fasta]
#   embeddings   output pattern with {sample}   [results/embeddings/{sample}.npz]
#   gpu          GPUs a job asks for; null: under gpupool one GPU if there is any,
#                else a CPU worker; elsewhere none. On Slurm: 1             [null]
#   threads      CPU threads of a job that runs cold                       [1]
#   mem_mb, runtime   host memory (MiB) and minutes of a job that runs cold  [6000, 60]
ESM2 = {
    "model": "esm2_t6_8M_UR50D",
    "precision": "fp32",
    "layers": None,
    "pool": "mean",
    "contacts": False,
    "max_length": 1022,
    "long_sequences": "refuse",
    "fasta": "results/quality_check/{sample}.fasta",
    "embeddings": "results/embeddings/{sample}.npz",
    "gpu": None,
    "threads": 1,
    "mem_mb": 6000,
    "runtime": 60,
}
ESM2_CONFIG = config.get("esm2") or {}
if not set(ESM2_CONFIG) <= set(ESM2):
    raise ValueError(
        f"config: esm2 has {', '.join(sorted(set(ESM2_CONFIG) - set(ESM2)))}, which means nothing "
        f"here; its keys are {', '.join(ESM2)}"
    )
ESM2.update(ESM2_CONFIG)


rule esm2_embed:
    input:
        fasta=ESM2["fasta"],
    output:
        embeddings=ESM2["embeddings"],
    log:
        "results/logs/esm2_embed/{sample}.log",
    benchmark:
        "results/benchmarks/esm2_embed/{sample}.tsv"
    conda:
        "envs/esm2.yaml"
    threads: ESM2["threads"]
    resources:
        gpupool_tool="esm2-embed",
        gpu=ESM2["gpu"],
        mem_mb=ESM2["mem_mb"],
        runtime=ESM2["runtime"],
    params:
        model=ESM2["model"],
        precision=ESM2["precision"],
        layers=ESM2["layers"],
        pool=ESM2["pool"],
        contacts=ESM2["contacts"],
        max_length=ESM2["max_length"],
        long_sequences=ESM2["long_sequences"],
    shell:
        "gpupool run esm2-embed"
        " --input fasta={input.fasta:q}"
        " --output embeddings={output.embeddings:q}"
        " --param model={params.model:q} precision={params.precision} layers={params.layers}"
        " pool={params.pool} contacts={params.contacts} max_length={params.max_length}"
        " long_sequences={params.long_sequences}"
        " --threads {threads} --log {log:q}"
