# Chains of three models of one kind, each of which reads what the one before it wrote.
ROWS = range(int(config["rows"]))
PLACES = [config["inputs"], "stage1", "stage2", "stage3"]


rule all:
    input:
        expand("stage3/{row}", row=ROWS),


for stage in range(1, 4):

    rule:
        name:
            f"stage{stage}"
        input:
            f"{PLACES[stage - 1]}/{{row}}",
        output:
            f"{PLACES[stage]}/{{row}}",
        resources:
            gpupool_tool=config["tool"],
        params:
            model=stage,
            load_s=float(config["load_s"]),
        shell:
            "false"
