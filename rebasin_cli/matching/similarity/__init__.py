"""What the tensors say of a block: similarity matrices, and what they are made from."""
