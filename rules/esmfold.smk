# Protein structures by ESMFold, one job per FASTA file.
#
# Use it with `include:` or as a `module`; `use rule esmfold from ... with:` can give
# it other files. Under `--executor gpupool` the jobs are served by warm model workers
# that collapse identical sequences; under any other executor the shell body does the
# same work, cold.
#
# Input     fasta        protein FASTA, plain or gzip-compressed; the chains of a complex
#                        are parted by `:`
# Output    structures   a directory of one PDB file per sequence, or one .pdb file of
#                        all; B-factors are pLDDT (0 to 100)
#           table        .tsv or .parquet: id, chains, length, mean_plddt, ptm
#
# Configuration, all optional, under the key `esmfold`:
#   model        directory, or name of a repository on the Hugging Face hub
#                                                           [facebook/esmfold_v1]
#   precision    of the language model: fp32, bf16 or fp16  [fp32]
#   num_recycles, chunk_size   null: as the model says      [null, null]
#   linker, residue_offset     between chains: glycines, and jump of positions [25, 512]
#   strip_stop   remove one * at the end of a sequence      [false]
#   fasta        input pattern with {sample}    [results/quality_check/{sample}.fasta]
#   structures   output pattern with {sample}; ends in .pdb: one file, else a directory
#                                               [results/structures/{sample}]
#   table        output pattern with {sample}   [results/structures/{sample}.tsv]
#   gpu          GPUs a job asks for; null: under gpupool one GPU if there is any,
#                else a CPU worker; elsewhere none. On Slurm: 1             [null]
#   threads      CPU threads of a job that runs cold                       [1]
#   mem_mb, runtime   host memory (MiB) and minutes of a job that runs cold  [32000, 240]
ESMFOLD = {
    "model": "facebook/esmfold_v1",
    "precision": "fp32",
    "num_recycles": None,
    "chunk_size": None,
    "linker": 25,
    "residue_offset": 512,
    "strip_stop": False,
    "fasta": "results/quality_check/{sample}.fasta",
    "structures": "results/structures/{sample}",
    "table": "results/structures/{sample}.tsv",
    "gpu": None,
    "threads": 1,
    "mem_mb": 32000,
    "runtime": 240,
}
ESMFOLD_CONFIG = config.get("esmfold") or {}
if not set(ESMFOLD_CONFIG) <= set(ESMFOLD):
    raise ValueError(
        f"config: esmfold has {', '.join(sorted(set(ESMFOLD_CONFIG) - set(ESMFOLD)))}, which means nothing "
        f"here; its keys are {', '.join(ESMFOLD)}"
    )
ESMFOLD.update(ESMFOLD_CONFIG)
ESMFOLD_IS_ONE_FILE = ESMFOLD["structures"].endswith(".pdb")


rule esmfold:
    input:
        fasta=ESMFOLD["fasta"],
    output:
        structures=(
            ESMFOLD["structures"]
            if ESMFOLD_IS_ONE_FILE
            else directory(ESMFOLD["structures"])
        ),
        table=ESMFOLD["table"],
    log:
        "results/logs/esmfold/{sample}.log",
    benchmark:
        "results/benchmarks/esmfold/{sample}.tsv"
    conda:
        "envs/esmfold.yaml"
    threads: ESMFOLD["threads"]
    resources:
        gpupool_tool="esmfold",
        gpu=ESMFOLD["gpu"],
        mem_mb=ESMFOLD["mem_mb"],
        runtime=ESMFOLD["runtime"],
    params:
        model=ESMFOLD["model"],
        precision=ESMFOLD["precision"],
        num_recycles=ESMFOLD["num_recycles"],
        chunk_size=ESMFOLD["chunk_size"],
        linker=ESMFOLD["linker"],
        residue_offset=ESMFOLD["residue_offset"],
        strip_stop=ESMFOLD["strip_stop"],
    shell:
        "gpupool run esmfold"
        " --input fasta={input.fasta:q}"
        " --output structures={output.structures:q} table={output.table:q}"
        " --param model={params.model:q} precision={params.precision}"
        " num_recycles={params.num_recycles} chunk_size={params.chunk_size}"
        " linker={params.linker} residue_offset={params.residue_offset}"
        " strip_stop={params.strip_stop}"
        " --threads {threads} --log {log:q}"
