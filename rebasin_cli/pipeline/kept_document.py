"""The run document as a file of its own, which the commands that write checkpoints leave beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rebasin_cli.pipeline.progress import Progress
from rebasin_cli.pipeline.targets import Targets
from rebasin_cli.report.codec import document_file
from rebasin_cli.report.document import RunDocument

if TYPE_CHECKING:  # what writes tensors, which a document has none of
    from rebasin_cli.checkpoints.outputs import Outputs


def write_document(document: RunDocument, targets: Targets, outputs: Outputs, progress: Progress) -> None:
    """Write the document where it was named or belongs, if anywhere, and tell where that is."""
    if path := targets.path("report"):
        outputs.write(path, document_file(document, path))
        progress.document_file = path
