"""``phasefield evaluate --checkpoint DIR``: measure a checkpoint on a whole validation split."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from . import command_line
from .data import load_corpus, stream_corpus
from .errors import UsageError, reported
from .training import TrainConfig, evaluate, find_checkpoint, load_model
from .training.checkpoint import read_json
from .training.device import describe_device, out_of_memory_reported, pick_backend, pick_device
from .training.evaluation import describe_split, predicted_text, validation_ids
from .training.flags import known_model


@dataclass(frozen=True)
class EvaluateFlags:
    """What to evaluate, and on what."""

    checkpoint: str = "saved_models"
    """a run's folder (its best checkpoint is taken) or a step folder"""
    data_path: str | None = None
    """a UTF-8 text file, whose last tenth is the validation split; the run's own text if left out"""
    dataset: str | None = None
    """a dataset, as in train; the run's own if left out"""
    batch_size: int = 32
    """windows at once; changes the time and the memory, not the result"""
    seq_len: int | None = None
    """tokens a window; the run's own if left out"""
    stateful: bool = False
    """read the text as one stream, whose state is carried from window to window, instead of windows alone"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, xpu …"""

    def __post_init__(self) -> None:
        for flag, value in (("--batch-size", self.batch_size), ("--seq-len", self.seq_len)):
            if value is not None and value < 1:
                raise UsageError(f"{flag} is {value}; it must be at least 1.")


@out_of_memory_reported()
def run(arguments: Sequence[str]) -> int:
    """Evaluate and print total, content, energy, bits per character, perplexity per word and byte."""
    flags = command_line.parse_flags(
        EvaluateFlags,
        arguments,
        command="phasefield evaluate",
        description="Predict every token of a validation split once and print the averages.",
    )
    device = pick_device(flags.device)
    backend = pick_backend(device)
    checkpoint = find_checkpoint(flags.checkpoint)
    model, tokenizer = load_model(checkpoint, device)
    saved = read_json(checkpoint / "trainer.json")
    trained, measure = saved["flags"], known_model(saved["model"]).measure
    data_path, dataset = flags.data_path, flags.dataset
    own_text = data_path is None and dataset is None
    if own_text:
        data_path, dataset = trained["data_path"], trained["dataset"]
    seq_len = flags.seq_len or trained["seq_len"]
    with reported(ValueError, OSError, RuntimeError):
        streamed = stream_corpus(dataset, data_path) if own_text and trained.get("stream") else None
        corpus = streamed.sample if streamed else load_corpus(dataset or TrainConfig.dataset, data_path)
        ids = validation_ids(corpus, tokenizer).to(device)
    print(f"{checkpoint} on {describe_device(device)}, {backend} backend")
    text = predicted_text(corpus, tokenizer, ids)
    options = {"characters": len(text), "measure": measure, "stateful": flags.stateful}
    with reported(ValueError):
        result = evaluate(model, ids, flags.batch_size, seq_len, **options)
    whole = streamed is None or streamed.whole_validation
    print(f"{corpus.name}: {describe_split(result.tokens, seq_len, measure, flags.stateful, whole=whole)}")
    print(result)
    if perplexities := result.perplexities(text):
        at_most = "at most " if measure == "bound" else ""
        print("perplexity  " + "  ".join(f"per {u} {at_most}{p:,.2f}" for u, p in perplexities.items()))
    return 0


if __name__ == "__main__":
    sys.exit(command_line.run(run))
