"""Studies made with this software: kept with their data, used by nothing else."""
