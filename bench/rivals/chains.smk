# Chains of three models of one kind, each of which reads what the one before it wrote. No file has a
# name that may occur in what is in it: then a chain would end there.
ROWS = range(int(config["rows"]))
PLACES = [config["inputs"], "stage1", "stage2", "stage3"]


rule all:
    input:
        expand("stage3/{row}.rows", row=ROWS),


for stage in range(1, 4):

    rule:
        name:
            f"stage{stage}"
        input:
            f"{PLACES[stage - 1]}/{{row}}.rows",
        output:
            f"{PLACES[stage]}/{{row}}.rows",
        resources:
            gpupool_tool=config["tool"],
        params:
            model=stage,
            load_s=float(config["load_s"]),
        shell:
            "false"
