"""The story of every command, told once: paths, headers, spec, permutation, tensors, files, document.

Knows neither a terminal nor an option parser: what a user should see meanwhile goes to a `Progress`.
"""
