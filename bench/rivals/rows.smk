# Rows of three models, each of which reads what the one before it wrote.
ROWS = range(int(config["rows"]))
PLACES = [config["inputs"], "stage1", "stage2", "stage3"]


rule all:
    input:
        expand("stage3/{row}.f32", row=ROWS),


for stage in range(1, 4):

    rule:
        name:
            f"stage{stage}"
        input:
            f"{PLACES[stage - 1]}/{{row}}.f32",
        output:
            f"{PLACES[stage]}/{{row}}.f32",
        group:
            "row" if config["grouped"] else None
        resources:
            gpupool_tool="../tools/layer.py:Layer",
        params:
            model=stage,
        shell:
            "false"
