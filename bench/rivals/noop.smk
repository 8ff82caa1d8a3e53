# Jobs that do next to nothing: what remains is the cost of a job itself.
NUMBERS = range(int(config["jobs"]))


rule all:
    input:
        expand("done/{number}.txt", number=NUMBERS),


rule noop:
    output:
        "done/{number}.txt",
    threads: 1
    resources:
        gpupool_tool="../tools/noop.py:Noop",
    shell:
        "echo {wildcards.number} > {output}"
