"""Methods that look at examples: at activations, or at the loss."""
