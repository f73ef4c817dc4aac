"""Initializers that an exporter made of a layer's weights: a matrix transposed, or several side by side.

They are told by what they hold, which is sure where the weights are drawn at random, and made anew for other layers
only when they are written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from dipc.backends.onnx.short_program import LayerNames


@dataclass(frozen=True)
class PackedWeight:
    """Matrices [I, O_k] side by side.

    Attributes:
        parts: the names of the weights, each with whether it is transposed.
    """

    parts: tuple[tuple[str, bool], ...]

    def moved(self, names: LayerNames, layer: int) -> PackedWeight:
        """Return the same of another layer."""
        return PackedWeight(tuple((names.moved(name, layer), flip) for name, flip in self.parts))

    def tensor(self, weights: Mapping[str, Tensor], like: Any) -> ir.LazyTensor:
        """The tensor, made whenever it is read.

        Args:
            weights: by name.
            like: a tensor of the same dtype and shape.
        """
        return ir.LazyTensor(lambda: ir.tensor(self._array(weights)), like.dtype, like.shape)

    def _array(self, weights: Mapping[str, Tensor]) -> NDArray[Any]:
        arrays = [(array_of(weights[name]), flip) for name, flip in self.parts]
        return np.concatenate([array.T if flip else array for array, flip in arrays], axis=1)


def array_of(weight: Tensor) -> NDArray[Any]:
    """A weight in numpy, by the names that ONNX has for dtypes."""
    return TorchTensor(weight.detach()).numpy()


class PackedWeights:
    """Finds what an array is made of.

    Args:
        weights: matrices by name, no two columns or rows of which are the same.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self._by_column: dict[tuple[str, bytes], tuple[str, bool, NDArray[Any]]] = {}
        for name, weight in weights.items():
            if weight.dim() == 2:
                array = array_of(weight)
                for flip, matrix in ((False, array), (True, array.T)):
                    self._by_column[self._key(matrix)] = (name, flip, matrix)

    def find(self, array: NDArray[Any]) -> PackedWeight | None:
        """Take apart an array; None where it is something else."""
        parts: list[tuple[str, bool]] = []
        rest = array if array.ndim == 2 else array[:0]
        while rest.ndim == 2 and rest.shape[1]:
            found = self._by_column.get(self._key(rest))
            if found is None:
                return None
            name, flip, matrix = found
            if matrix.shape[1] > rest.shape[1] or not np.array_equal(matrix, rest[:, : matrix.shape[1]]):
                return None
            parts.append((name, flip))
            rest = rest[:, matrix.shape[1] :]
        return PackedWeight(tuple(parts)) if parts else None

    @staticmethod
    def _key(matrix: NDArray[Any]) -> tuple[str, bytes]:
        return str(matrix.dtype), matrix[:, 0].tobytes()
