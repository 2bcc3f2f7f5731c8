"""What is kept of a run, and how it is shown: result files, tables, figures, changes since an earlier run."""
