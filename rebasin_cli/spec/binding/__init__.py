"""From a `PermutationSpec` and the shapes of a checkpoint to a `Layout`: dims with sizes, tensors cut into pieces."""
