# Class scores of embeddings by a trained linear layer, one job per file.
#
# Use it with `include:` or as a `module`; `use rule linear_head from ... with:` can give
# it other files. Under `--executor gpupool` the jobs are served by a worker that keeps
# the weights; under any other executor the shell body does the same work, cold.
#
# Input     embeddings   .npz or .parquet as the rules esm2_embed and sentence_embed write it
#           weights      .npz, .safetensors or .pt: weight (classes x dimensions), bias,
#                        classes. Under a module's prefix, an absolute path stays as it is
# Output    scores       .tsv or .parquet: id, a column per class, label
#
# Configuration, all optional, under the key `head`:
#   activation   softmax, sigmoid or linear                 [softmax]
#   array        which of several arrays per id is taken, as `layer6`; null: the only one
#                                                           [null]
#   weights      the trained layer              [results/head/weights.npz]
#   embeddings   input pattern with {sample}    [results/embeddings/{sample}.npz]
#   scores       output pattern with {sample}   [results/scores/{sample}.tsv]
#   threads      CPU threads of a job that runs cold                       [1]
#   mem_mb, runtime   host memory (MiB) and minutes of a job that runs cold  [2000, 20]
HEAD = {
    "activation": "softmax",
    "array": None,
    "weights": "results/head/weights.npz",
    "embeddings": "results/embeddings/{sample}.npz",
    "scores": "results/scores/{sample}.tsv",
    "threads": 1,
    "mem_mb": 2000,
    "runtime": 20,
}
HEAD_CONFIG = config.get("head") or {}
if not set(HEAD_CONFIG) <= set(HEAD):
    raise ValueError(
        f"config: head has {', '.join(sorted(set(HEAD_CONFIG) - set(HEAD)))}, which means nothing "
        f"here; its keys are {', '.join(HEAD)}"
    )
HEAD.update(HEAD_CONFIG)


rule linear_head:
    input:
        embeddings=HEAD["embeddings"],
        weights=HEAD["weights"],
    output:
        scores=HEAD["scores"],
    log:
        "results/logs/linear_head/{sample}.log",
    benchmark:
        "results/benchmarks/linear_head/{sample}.tsv"
    conda:
        "envs/head.yaml"
    threads: HEAD["threads"]
    resources:
        gpupool_tool="linear-head",
        mem_mb=HEAD["mem_mb"],
        runtime=HEAD["runtime"],
    params:
        model=lambda wildcards, input: input.weights,
        activation=HEAD["activation"],
        array=HEAD["array"],
    shell:
        "gpupool run linear-head"
        " --input embeddings={input.embeddings:q} weights={input.weights:q}"
        " --output scores={output.scores:q}"
        " --param model={params.model:q} activation={params.activation}"
        " array={params.array:q}"
        " --threads {threads} --log {log:q}"
