"""Finding the permutation: the assignment of one dim, and the descent over all of them."""
