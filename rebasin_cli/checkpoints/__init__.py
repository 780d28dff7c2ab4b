"""Files to tensors and back: every format opens as a lazy `Checkpoint`, and is written as safetensors.

Other packages never see a file: they get names, shapes and types from headers, and read and write one tensor at a
time.
"""
