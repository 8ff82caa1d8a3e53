"""Reading embeddings back: one vector per id, from the files that ``arrays`` writes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from snakemake_executor_gpupool.tool_api.values import InputError

if TYPE_CHECKING:
    import numpy as np

    Pairs = Iterator[tuple[str, np.ndarray[Any, Any]]]


def read_vectors(path: str, array: str = "") -> Pairs:
    """Yield (id, vector) pairs in the order of the file.

    Parameters
    ----------
    path
        ``.npz`` or ``.parquet``.
    array
        Which of several arrays per id is taken, by its label (``"layer6"``);
        empty: there is one per id.

    Yields
    ------
    tuple of str and array
        The vector is float32 of shape (D,).

    Raises
    ------
    InputError
        The file is none of embeddings, or an array in it is no vector.
    """
    readers: dict[str, Callable[[str, str], Pairs]] = {".npz": _npz, ".parquet": _parquet}
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InputError(f"input {path}: embeddings are read from {', '.join(readers)}")
    import numpy as np

    try:
        for name, value in reader(path, array):
            yield name, checked(path, name, np.asarray(value, dtype=np.float32))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # zipfile, numpy and pyarrow each have their own
        raise InputError(f"{path} is damaged, or no file of embeddings ({error})") from error


def _npz(path: str, array: str) -> Pairs:
    import numpy as np

    ending = f"/{array}" if array else ""
    with np.load(path, allow_pickle=False) as file:
        names = [name for name in file.files if name.endswith(ending)]
        if file.files and not names:
            raise InputError(
                f"{path} has no array ID/{array}; it has {', '.join(file.files[:4])}, ..."
            )
        for name in names:
            yield name[: len(name) - len(ending)], file[name]


def _parquet(path: str, array: str) -> Pairs:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        columns = [name for name in file.schema_arrow.names if name != "id"]
        if "id" not in file.schema_arrow.names or (array or "embedding") not in columns:
            raise InputError(
                f"{path} needs the columns id and {array or 'embedding'}; it has "
                f"{', '.join(file.schema_arrow.names)}. Param array says which one to take"
            )
        for batch in file.iter_batches(columns=["id", array or "embedding"]):
            for name, value in zip(batch.column(0).to_pylist(), batch.column(1)):
                yield str(name), _numbers(value)


def _numbers(value: Any) -> Any:
    """Return a list of a Parquet column, by numpy's quick way if it holds plain numbers."""
    import pyarrow as pa

    if value.is_valid and not pa.types.is_nested(value.type.value_type):
        return value.values.to_numpy(zero_copy_only=False)
    return value.as_py() or ()


def checked(origin: str, name: str, vector: Any) -> Any:
    """Return an array if it is one vector of finite numbers; an error names where it is from."""
    import numpy as np

    if vector.ndim != 1 or not vector.size:
        raise InputError(
            f"{origin}: {name!r} has the shape {vector.shape}; expected one vector per id, as "
            "'pool: mean' of esm2-embed makes it"
        )
    if not np.isfinite(vector).all():
        raise InputError(f"{origin}: {name!r} holds numbers that are not finite")
    return vector
