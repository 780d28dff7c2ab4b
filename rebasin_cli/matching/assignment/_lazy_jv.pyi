from typing import Any

from numpy import float64, int64
from numpy.typing import NDArray

def solve(matrix: NDArray[Any], prices: NDArray[float64], columns: NDArray[int64], /) -> dict[str, int]: ...
def gap(matrix: NDArray[Any], prices: NDArray[float64], columns: NDArray[int64], /) -> float: ...
def solve_all(
    matrices: NDArray[Any], prices: NDArray[float64], columns: NDArray[int64], gaps: NDArray[float64], /
) -> None: ...
