"""The gradient loop, its checkpoints and its evaluation.

``train(RunFlags("landauer", TrainConfig(steps=100), {"hidden_dim": 128}))`` is what
``phasefield train landauer --steps 100 --hidden-dim 128`` does;
``load_model(find_checkpoint("saved_models"))`` gives the model and its tokenizer back.
"""

from .checkpoint import load_model
from .config import TrainConfig
from .evaluation import Evaluation, evaluate
from .flags import RunFlags
from .loop import Outcome, train
from .run_folder import find_checkpoint

__all__ = [
    "Evaluation",
    "Outcome",
    "RunFlags",
    "TrainConfig",
    "evaluate",
    "find_checkpoint",
    "load_model",
    "train",
]
