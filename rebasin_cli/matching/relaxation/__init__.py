"""All plain dims moved together, through doubly stochastic matrices."""
