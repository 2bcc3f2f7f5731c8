"""What ours is compared with: plain PyTorch, other attack libraries and solvers, all given the same task."""
