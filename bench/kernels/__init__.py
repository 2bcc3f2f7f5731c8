"""The CUDA kernels as the compiler left them: registers, spills, loads and launches, read without a GPU."""
