"""Reading a trained linear layer: ``.npz``, ``.safetensors``, or ``.pt`` as torch saves it.

A file holds ``weight``, a number per class and dimension; ``bias``, a number per class,
zero if it is left out; ``classes``, the names of the classes, ``class0`` and so on if they
are left out; and nothing else. One row with the names of two classes is what logistic
regressions have for two. No code in a file is run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple

import numpy as np

from snakemake_executor_gpupool.errors import InputError

PARTS = ("weight", "bias", "classes")
#: Columns of the output that a class cannot share its name with.
TAKEN = frozenset(("id", "label"))


class Head(NamedTuple):
    """A linear layer.

    Attributes
    ----------
    weight
        float64 of shape (C, D).
    bias
        float64 of shape (C,).
    classes
        Names of the C classes; of two if there is one row and it tells two apart.
    """

    weight: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any]
    classes: tuple[str, ...]

    @property
    def is_binary(self) -> bool:
        """Whether one row tells two classes apart: its output is high for the second."""
        return len(self.classes) > len(self.weight)


def read_head(path: str) -> Head:
    """Read a layer.

    Raises
    ------
    InputError
        The file is missing, of another kind, damaged, or its parts do not fit together.
    """
    readers: dict[str, Callable[[str], Mapping[str, Any]]] = {
        ".npz": _read_npz,
        ".safetensors": _read_safetensors,
        ".pt": _read_pt,
    }
    reader = readers.get(Path(path).suffix.lower())
    if reader is None:
        raise InputError(f"{path}: weights are read from {', '.join(readers)}")
    if not Path(path).is_file():
        raise InputError(f"{path} is not there: train the layer first, or correct param model")
    try:
        parts = reader(path)
    except ImportError as error:
        raise InputError(f"{path}: reading it needs the Python package {error.name}") from error
    except Exception as error:  # each library has error classes of its own
        raise InputError(
            f"{path} is damaged, or no {Path(path).suffix} file of a linear layer ({error})"
        ) from error
    return _checked(path, parts)


def _read_npz(path: str) -> Mapping[str, Any]:
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def _read_safetensors(path: str) -> Mapping[str, Any]:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        metadata = file.metadata() or {}
    if "classes" in metadata:
        parts["classes"] = json.loads(metadata["classes"])
    return parts


def _read_pt(path: str) -> Mapping[str, Any]:
    import torch

    parts = torch.load(path, map_location="cpu", weights_only=True)
    return {k: _numpy(v) if isinstance(v, torch.Tensor) else v for k, v in parts.items()}


def _numpy(tensor: Any) -> Any:
    """Return a tensor as an array; numpy has no bfloat16."""
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _checked(path: str, parts: Mapping[str, Any]) -> Head:
    if "weight" not in parts:
        raise InputError(f"{path} has no 'weight'; it has {', '.join(sorted(parts)) or 'nothing'}")
    extra = sorted(set(parts) - set(PARTS))
    if extra:
        raise InputError(
            f"{path} has {', '.join(extra)}, which nothing is done with; weights are "
            f"{', '.join(PARTS)}: take it out, or give it its right name"
        )
    weight = _numbers(path, "weight", parts["weight"])
    if weight.ndim != 2 or 0 in weight.shape:
        raise InputError(f"{path}: weight has the shape {weight.shape}; expected (classes, D)")
    count = len(weight)
    bias = _numbers(path, "bias", parts.get("bias", np.zeros(count)))
    classes = _class_names(path, parts.get("classes", [f"class{i}" for i in range(count)]))
    for name, shape in (("bias", bias.shape), ("classes", (len(classes),))):
        if shape != (count,) and not (name == "classes" and count == 1 and shape == (2,)):
            raise InputError(
                f"{path}: {name} has the shape {shape}; weight has {count} rows, one per class"
            )
    if len(set(classes)) < len(classes) or TAKEN.intersection(classes):
        raise InputError(
            f"{path}: classes {', '.join(classes)} must differ, and none be 'id' or 'label'"
        )
    return Head(weight, bias, classes)


def _numbers(path: str, name: str, given: Any) -> np.ndarray[Any, Any]:
    array: Any = np.asarray(given)
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: {name} is of the type {array.dtype}, not of numbers")
    if not np.isfinite(array).all():
        raise InputError(f"{path} has weights that are not finite ({name})")
    exact: np.ndarray[Any, Any] = array.astype(np.float64)
    return exact


def _class_names(path: str, given: Any) -> tuple[str, ...]:
    """Return names of classes; numbers are names, too, as scikit-learn's often are."""
    array = np.asarray(given)
    names = array.tolist() if array.ndim == 1 else [None]
    names = [name.decode(errors="replace") if isinstance(name, bytes) else name for name in names]
    for name in names:
        if not isinstance(name, (str, int, float)) or not str(name).strip():
            raise InputError(f"{path}: classes must be a list of names; it is {given!r:.100}")
    return tuple(map(str, names))
