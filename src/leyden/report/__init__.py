"""Report: pages that people read, made of the files of run folders and of nothing else."""
