"""From the recipe's choice of a method to the method."""

from phasor.config.merging import ArithmeticMerge, AverageMerge, DareMerge, Merge, SlerpMerge, TiesMerge
from phasor.merging.average import Average
from phasor.merging.dare import dare_vector
from phasor.merging.method import Method
from phasor.merging.slerp import Slerp
from phasor.merging.task_arithmetic import TaskArithmetic
from phasor.merging.task_vector import TaskVectors
from phasor.merging.ties import ties_vector


def build_method(config: Merge, vectors: TaskVectors, seed: int) -> Method:
    """The chosen method over these task vectors; `seed` matters to DARE only."""
    match config:
        case SlerpMerge():
            return Slerp(vectors, config.angle)
        case AverageMerge():
            return Average(vectors, config.search_lambda)
        case ArithmeticMerge():
            return TaskArithmetic(vectors)
        case TiesMerge():
            return Average(TaskVectors([ties_vector(vectors, config.density)]), search_lambda=True)
        case DareMerge():
            return Average(TaskVectors([dare_vector(vectors, config.density, seed)]), search_lambda=True)
