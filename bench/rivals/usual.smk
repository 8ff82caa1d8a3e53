# Short jobs as users write them: an input, params, a log and a benchmark.
NUMBERS = range(int(config["jobs"]))


rule all:
    input:
        expand("done/{number}.txt", number=NUMBERS),


rule usual:
    input:
        workflow.source_path("usual.smk"),
    output:
        "done/{number}.txt",
    params:
        model="m",
        sample=lambda wildcards: f"sample {wildcards.number}",
    log:
        "logs/{number}.log",
    benchmark:
        "benchmarks/{number}.tsv"
    threads: 1
    resources:
        gpupool_tool="../tools/noop.py:Noop",
    shell:
        "echo {wildcards.number} > {output}"
