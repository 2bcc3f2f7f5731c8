"""A training that is logged: to TensorBoard, or to Weights & Biases or MLflow, whichever is named.

python examples/loggers.py tensorboard
"""

import sys

from digits import EPS, loader, network

import fastat


def flat(row: dict) -> dict[str, float]:
    """Of a line of metrics.jsonl, what is a curve."""
    return {f"{part}/{name}": value for part in ("train", "val") for name, value in row[part].items()} | {
        "lr": row["lr"]
    }


def tensorboard():
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter("runs/logged/tensorboard")
    return lambda row: [writer.add_scalar(name, value, row["epoch"]) for name, value in flat(row).items()]


def wandb():
    import wandb

    run = wandb.init(project="fastat")
    return lambda row: run.log(flat(row), step=row["epoch"])


def mlflow():
    import mlflow

    mlflow.start_run()
    return lambda row: mlflow.log_metrics({k: float(v) for k, v in flat(row).items()}, step=row["epoch"])


if __name__ == "__main__":
    log = {"tensorboard": tensorboard, "wandb": wandb, "mlflow": mlflow}[sys.argv[1]]()
    digits = loader().dataset
    fastat.train(
        network(), (digits.tensors[0], digits.tensors[1]), fastat.protocol("pgd-at", eps=EPS, steps=5),
        epochs=3, lr=0.05, out="runs/logged", on_epoch=log,
        on_step=lambda step: print(f"step {step.step}: loss {float(step.loss):.3f}") if step.step % 10 == 0 else None,
    )  # fmt: skip
