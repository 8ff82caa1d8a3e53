"""The ``gpupool`` command."""
