"""What ours is compared with: plain PyTorch, other attack libraries and solvers; they are told the task, not timed."""
