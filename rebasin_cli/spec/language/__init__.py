"""The spec language: from a YAML file to a checked `PermutationSpec`; nothing here knows a checkpoint."""
