"""Files <-> tensors: every format opens as the same lazy `Checkpoint`, and is written back as safetensors.

The rooms above never see a file: they get names, shapes and types from headers, tensors one at a time, and give
tensors back one at a time.
"""
