"""Post-training solvers: a weight and what its inputs were like in, a cheaper weight with the least error out."""
