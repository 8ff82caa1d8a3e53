"""The same pool over several machines, on Dask; imported only with ``--gpupool-cluster``."""
