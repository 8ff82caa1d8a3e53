"""Credentials of one run: created for it, readable by its user alone, removed at its end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from distributed.security import Security

from snakemake_executor_gpupool.errors import ConfigError


class Credentials:
    """The run's own certificate, which every part of it presents and requires.

    Parameters
    ----------
    directory
        Directory for the files, on the file system that all nodes share.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        temporary = Security.temporary()
        directory.mkdir(mode=0o700, parents=True)
        directory.chmod(0o700)
        self.certificate = self._write("certificate.pem", temporary.tls_ca_file)
        self.key = self._write("key.pem", temporary.tls_worker_key)

    def _write(self, name: str, text: str) -> str:
        path = self._directory / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            file.write(text)
        return str(path)

    def security(self) -> Security:
        """Return the credentials in Dask's form."""
        return tls(self.certificate, self.certificate, self.key)

    def remove(self) -> None:
        """Remove the files."""
        shutil.rmtree(self._directory, ignore_errors=True)


def tls(authority: str, certificate: str, key: str) -> Security:
    """Return Dask's security settings for a set of files.

    Raises
    ------
    ConfigError
        A file cannot be read.
    """
    for path in (authority, certificate, key):
        if not os.access(path, os.R_OK):
            raise ConfigError(f"the TLS file {path} cannot be read")
    return Security(
        require_encryption=True,
        tls_ca_file=authority,
        **{
            f"tls_{role}_{part}": path
            for role in ("client", "scheduler", "worker")
            for part, path in (("cert", certificate), ("key", key))
        },
    )
