"""From a path to a checkpoint: the one door, behind which every format looks alike.

All that can be refused is refused here, from headers, before a tensor is read.
"""

from __future__ import annotations

import stat
from pathlib import Path

from rebasin_cli.checkpoints.checkpoint import Checkpoint
from rebasin_cli.checkpoints.kinds import kind_of, stat_file
from rebasin_cli.checkpoints.pickles import PickleFile
from rebasin_cli.checkpoints.quantised import refuse_quantised
from rebasin_cli.checkpoints.reader import SafetensorsFile, TensorFile
from rebasin_cli.checkpoints.sharded import open_folder, open_index, read_config
from rebasin_cli.errors import ContentError


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a safetensors file, a file of torch.save, a folder with weights, or an index of shards.

    Reads headers only (a file in torch's old format is read whole). What a file is, its contents say, not its name.

    Raises:
        SystemFailure: it cannot be read.
        ContentError: it is not an acceptable checkpoint: damaged, of an unknown kind, packed, or without tensors.
    """
    if stat.S_ISDIR(stat_file(path).st_mode):
        checkpoint = open_folder(path, _open_file)
    elif path.suffix == ".json":
        checkpoint = open_index(path, _open_file)
    else:
        config, notes = read_config(path.parent / "config.json", required=False)
        file = _open_file(path)
        checkpoint = Checkpoint(path, {path.with_suffix(".safetensors").name: file}, config=config, notes=notes)
    if not checkpoint.infos:
        raise ContentError("the checkpoint has no tensors", where=str(path), remedy="save the model again")
    refuse_quantised(checkpoint.infos, str(path))
    return checkpoint


def _open_file(path: Path) -> TensorFile:
    kind = kind_of(path)
    if kind == "safetensors":
        return SafetensorsFile(path)
    return PickleFile(path, mapped=kind == "zip")
