"""What crosses between coordinator and workers: frames, payloads, spool files, requests."""
