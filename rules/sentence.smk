# Embeddings of short texts by sentence-transformers, one job per file.
#
# Use it with `include:` or as a `module`; `use rule sentence_embed from ... with:` can
# give it other files. Under `--executor gpupool` the jobs are served by warm model
# workers that collapse identical texts; under any other executor the shell body does
# the same work, cold.
#
# Input     texts        .txt (one text per line), .tsv or .parquet
# Output    embeddings   .npz, .parquet, .pt or .npy by suffix, in the order of the input;
#                        .npz: one float32 array per text, named by its id or row number
#
# Configuration, all optional, under the key `sentence`:
#   model        directory, or name of a repository on the Hugging Face hub
#                                    [sentence-transformers/all-MiniLM-L6-v2]
#   precision    fp32, bf16 or fp16                         [fp32]
#   normalize    scale embeddings to length 1               [false]
#   prompt       text put before each text                  [null]
#   max_tokens   tokens of a text that the model sees; null: as the model says [null]
#   column, id_column   columns of a table with texts and ids; null: row numbers
#                                                           [text, null]
#   texts        input pattern with {sample}    [results/texts/{sample}.txt]
#   embeddings   output pattern with {sample}   [results/text_embeddings/{sample}.npz]
#   gpu          GPUs a job asks for; null: under gpupool one GPU if there is any,
#                else a CPU worker; elsewhere none. On Slurm: 1             [null]
#   threads      CPU threads of a job that runs cold                       [1]
#   mem_mb, runtime   host memory (MiB) and minutes of a job that runs cold  [4000, 60]
SENTENCE = {
    "model": "sentence-transformers/all-MiniLM-L6-v2",
    "precision": "fp32",
    "normalize": False,
    "prompt": None,
    "max_tokens": None,
    "column": "text",
    "id_column": None,
    "texts": "results/texts/{sample}.txt",
    "embeddings": "results/text_embeddings/{sample}.npz",
    "gpu": None,
    "threads": 1,
    "mem_mb": 4000,
    "runtime": 60,
}
SENTENCE_CONFIG = config.get("sentence") or {}
if not set(SENTENCE_CONFIG) <= set(SENTENCE):
    raise ValueError(
        f"config: sentence has {', '.join(sorted(set(SENTENCE_CONFIG) - set(SENTENCE)))}, which means nothing "
        f"here; its keys are {', '.join(SENTENCE)}"
    )
SENTENCE.update(SENTENCE_CONFIG)


rule sentence_embed:
    input:
        texts=SENTENCE["texts"],
    output:
        embeddings=SENTENCE["embeddings"],
    log:
        "results/logs/sentence_embed/{sample}.log",
    benchmark:
        "results/benchmarks/sentence_embed/{sample}.tsv"
    conda:
        "envs/sentence.yaml"
    threads: SENTENCE["threads"]
    resources:
        gpupool_tool="sentence-embed",
        gpu=SENTENCE["gpu"],
        mem_mb=SENTENCE["mem_mb"],
        runtime=SENTENCE["runtime"],
    params:
        model=SENTENCE["model"],
        precision=SENTENCE["precision"],
        normalize=SENTENCE["normalize"],
        prompt=SENTENCE["prompt"],
        max_tokens=SENTENCE["max_tokens"],
        column=SENTENCE["column"],
        id_column=SENTENCE["id_column"],
    shell:
        "gpupool run sentence-embed"
        " --input texts={input.texts:q}"
        " --output embeddings={output.embeddings:q}"
        " --param model={params.model:q} precision={params.precision}"
        " normalize={params.normalize} prompt={params.prompt:q}"
        " max_tokens={params.max_tokens}"
        " column={params.column:q} id_column={params.id_column:q}"
        " --threads {threads} --log {log:q}"
