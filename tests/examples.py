"""The examples at sizes for tests, and their optimised files."""

from pathlib import Path

from modelnew import api

FOLDER = Path(__file__).parents[1] / "examples"
SMALL = {
    "sigmoid": {"batch_size": 3, "features": 1027},
    "hardsigmoid": {"batch_size": 3, "features": 1027},
    "hardsigmoid_slope02": {"batch_size": 3, "features": 1027},
    "linear_sigmoid_sum": {"batch_size": 5, "in_features": 64, "out_features": 333},
    "softmax": {"batch_size": 3, "features": 2051},
    "layernorm_gelu": {"tokens": 5, "width": 260},
    "swiglu_mlp": {"batch_size": 1, "tokens": 3, "width": 32, "hidden": 86},
    "conv_bn_hardswish": {"batch_size": 2, "in_channels": 4, "out_channels": 6, "height": 9, "width": 11},
    "cross_entropy": {"tokens": 7, "vocabulary": 301},
}


def write(example: str, folder: Path, **overrides: object) -> Path:
    """The optimised file of an example at its small size, with further constants set."""
    return api.optimize_file(
        FOLDER / f"{example}.py",
        output=folder / f"{example}_new.py",
        overrides={**SMALL[example], **overrides},
        device="cpu",
        check=False,
        bench=False,
    ).output


def load(path: Path) -> dict[str, object]:
    """What running the file defines."""
    space: dict[str, object] = {"__name__": path.stem}
    exec(compile(path.read_text(), str(path), "exec"), space)
    return space
