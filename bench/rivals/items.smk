# Jobs of many short items, and a model that does nothing: what remains is the cost of an item.
NUMBERS = range(int(config["jobs"]))


rule all:
    input:
        expand("done/{number}.txt", number=NUMBERS),


rule lines:
    input:
        config["inputs"] + "/{number}.txt",
    output:
        "done/{number}.txt",
    threads: 1
    resources:
        gpupool_tool="../tools/lines.py:Lines",
    shell:
        "wc -lm < {input} > {output}"
