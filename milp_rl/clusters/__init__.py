"""Running tasks in processes, on clusters, and in jobs of Slurm."""
