# Jobs that do next to nothing, of many models.
NUMBERS = range(int(config["jobs"]))


rule all:
    input:
        expand("done/{number}.txt", number=NUMBERS),


rule noop:
    output:
        "done/{number}.txt",
    params:
        model=lambda wildcards: int(wildcards.number) % int(config["models"]),
    threads: 1
    resources:
        gpupool_tool="../tools/variants.py:Variants",
    shell:
        "echo {wildcards.number} {params.model} > {output}"
