"""A tool that returns its items."""

from snakemake_executor_gpupool.tool_api.tool import Tool


class Echo(Tool):
    """Return what comes."""

    reload_on = ()

    def run(self, items: list[object]) -> list[object]:
        """Return the items."""
        return items
