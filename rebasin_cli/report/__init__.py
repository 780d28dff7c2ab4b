"""What a run found, and every way of showing it: JSON, terminal, PNG, HTML, Markdown.

Everything here reads one value, the `RunDocument`. Nothing here opens a checkpoint, so a document can be looked at
where the networks are not.
"""
