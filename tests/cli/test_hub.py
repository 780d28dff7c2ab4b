"""`hf:OWNER/NAME`: huggingface_hub itself talks to a server on this machine, and keeps its own cache."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import save

from rebasin_cli.checkpoints.checkpoint import HubName, hub_name, place_in_cache
from rebasin_cli.checkpoints.hub import fetch
from rebasin_cli.errors import ContentError, RebasinError, SystemFailure, UsageError
from rebasin_cli.evaluation.libraries import library
from rebasin_cli.pipeline import Progress
from rebasin_cli.pipeline.inputs import named_source
from tests.cli.conftest import Rebasin
from tests.hub import COMMIT, OLDER, Hub, cached, serving
from tests.small import mlp_state, run, save_pair, shuffled

constants = pytest.importorskip("huggingface_hub.constants")

A = save(mlp_state(0))
B = save(shuffled(mlp_state(0), 1))
SHARDS = {
    "model-00001-of-00002.safetensors": save({"w": mlp_state(0)["fc.0.weight"]}),
    "model-00002-of-00002.safetensors": save({"b": mlp_state(0)["fc.0.bias"]}),
}
INDEX = {"weight_map": dict(zip("wb", SHARDS, strict=True)), "metadata": {}}
MODELS = {
    "me/a": {"model.safetensors": A, "config.json": b"{}", "README.md": b"a", "flax_model.msgpack": b"no"},
    "me/b": {"model.safetensors": B, "pytorch_model.bin": b"never fetched", "config.json": b"{}"},
    "me/sharded": {**SHARDS, "model.safetensors.index.json": json.dumps(INDEX).encode(), "consolidated.safetensors": A},
    "me/pipeline": {"model_index.json": b"{}", "unet/w.safetensors": A, "unet/config.json": b"{}", "vae/w.bin": B},
    "me/gated": {"model.safetensors": A},
    "me/words": {"readme.txt": b"nothing"},
    "me/two": {"one.safetensors": A, "two.safetensors": B},
}


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    revisions = {"main": COMMIT, "v1": OLDER, COMMIT: COMMIT, OLDER: OLDER}
    with serving(Hub(MODELS, revisions=revisions, gated={"me/gated"})) as hub:
        yield hub


@pytest.fixture
def hub(server: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server as huggingface_hub's, with an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.partition("/{repo_id}")
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "".join(template[1:]))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server.asked.clear()
    server.down = False
    yield server
    server.down = False


def fetched(name: str) -> Path:
    return fetch(hub_name(name), told=pytest.fail)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf:a/b", HubName("a/b")),
        ("hf:a/b@v1.0", HubName("a/b", "v1.0")),
        ("hf:a/b@refs/pr/3/x.bin", HubName("a/b", "refs/pr/3", "x.bin")),
        ("hf:a-1/b.2/unet", HubName("a-1/b.2", None, "unet")),
    ],
)
def test_names_are_read(text: str, name: HubName) -> None:
    assert hub_name(text) == name
    assert str(name) == text


@pytest.mark.parametrize(
    "text",
    ["hf:", "hf:a", "hf:/a/b", "hf:a/../b", "hf:a/b/../../c", "hf:a/b@../x", "hf:a/b@refs/heads/../x", "hf:a/b\n",
     "hf:a--b/c", "hf:-a/b", "hf:a/b\\c", "hf:a/" + "b" * 97],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no name of a model"):
        hub_name(text)


def test_only_what_is_read_is_fetched(hub: Hub) -> None:
    folder = fetched("hf:me/b")
    assert sorted(entry.name for entry in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert place_in_cache(str(folder)) == ("me/b", COMMIT)
    folder = fetched("hf:me/sharded")
    assert sorted(e.name for e in folder.iterdir()) == [*SHARDS, "model.safetensors.index.json"]
    assert fetched("hf:me/pipeline/unet").name == "unet"
    assert fetched("hf:me/a@v1/flax_model.msgpack").read_bytes() == b"no"
    assert place_in_cache(str(fetched("hf:me/a@v1"))) == ("me/a", OLDER)


@pytest.mark.parametrize(
    ("name", "what", "remedy"),
    [
        ("hf:me/absent", "no me/absent on the hub, or it is private", "hf auth login"),
        ("hf:me/gated", "me/gated is gated", "hf auth login"),
        ("hf:me/a@v9", "has no revision v9", "@REVISION"),
        ("hf:me/a/x.bin", "no file or folder x.bin", "it has README.md, config.json"),
        ("hf:me/words", "no weights", "safetensors"),
        ("hf:me/two", "no way to tell", "name one of them"),
        ("hf:me/pipeline", "several networks", "hf:me/pipeline/unet, hf:me/pipeline/vae"),
    ],
)
def test_what_the_hub_refuses_is_said(hub: Hub, name: str, what: str, remedy: str) -> None:
    with pytest.raises(RebasinError, match=what) as caught:
        fetched(name)
    assert remedy in caught.value.remedy
    assert isinstance(caught.value, ContentError if "weights" in what or "way" in what or "several" in what
                      else SystemFailure)  # fmt: skip


def test_the_cache_answers_without_a_hub(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = cached(tmp_path / "cache", "me/kept", {"model.safetensors": A})
    hub.down = True
    told: list[str] = []
    assert fetch(HubName("me/kept"), told.append) == folder
    assert "the copy in the cache: commit 0123456789ab" in told[0]
    with pytest.raises(SystemFailure, match="the hub is not reached"):
        fetched("hf:me/a")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens
    with pytest.raises(SystemFailure, match="the hub is not reached") as caught:
        fetched("hf:me/a")
    assert caught.value.where.startswith("ConnectError")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "ENDPOINT", hub.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetched("hf:me/kept") == folder
    assert fetched(f"hf:me/kept@{COMMIT}/model.safetensors").read_bytes() == A
    with pytest.raises(SystemFailure, match="HF_HUB_OFFLINE is set") as caught:
        fetched("hf:me/a")
    assert "hf download me/a" in caught.value.remedy
    assert len(hub.asked) == asked


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match="needs huggingface_hub") as caught:
        fetched("hf:me/a")
    assert "rebasin-cli[hub]" in caught.value.remedy


def test_a_file_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf:me").mkdir()
    (tmp_path / "hf:me" / "a").write_bytes(A)
    assert named_source(Path("hf:me/a"), Progress()).path == Path("hf:me/a")


def test_the_document_says_what_was_fetched(hub: Hub, rebasin: Rebasin, workplace: Path) -> None:
    """Outputs lie in the current folder, a pipe goes on without the hub, and `rerun` asks before it opens one."""
    (workplace / "hf").write_bytes(b"a file of that name is no part of it")
    done = rebasin("align", "hf:me/a@v1", "hf:me/b")
    assert done.code == 0, done.err
    inputs = done.document["inputs"]
    assert (inputs["a"]["repository"], inputs["a"]["commit"]) == ("me/a", OLDER)
    assert (inputs["b"]["repository"], inputs["b"]["commit"]) == ("me/b", COMMIT)
    assert inputs["b"]["sha256"]
    assert (workplace / "b.aligned" / "model.safetensors").exists()
    asked = len(hub.asked)
    assert rebasin("interpolate", "--steps", "3", stdin=done.out.encode()).code == 0
    refused = rebasin("rerun", "b.rebasin.json")
    assert refused.code == 2
    assert "asks the hub for hf:me/a@" in refused.err
    assert "--trust" in refused.err
    assert len(hub.asked) == asked
    again = rebasin("rerun", "b.rebasin.json", "--trust")
    assert again.code == 0, again.err
    assert f"/api/models/me/b/revision/{COMMIT}" in hub.asked[asked:]  # and not what is newest by then
    assert "hf:me/b" in rebasin("inspect", "hf:me/b").out.splitlines()[-1]


def test_another_process_asks_by_the_environment(server: Hub, tmp_path: Path) -> None:
    done = run("inspect", "hf:me/a", "--json", cwd=tmp_path, HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["inputs"]["checkpoint"]["repository"] == "me/a"


class _Connections:
    """The connections that this process opens while it is on."""

    def __init__(self) -> None:
        self.on, self.found = False, list[Any]()
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
            self.found.append((event, arguments[-1]))


def test_nothing_but_hf_opens_a_connection(hub: Hub, rebasin: Rebasin, workplace: Path) -> None:
    """After the hub was asked, too: libraries are offline again."""
    transformers = library("transformers")
    save_pair(workplace)
    config = transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=16, n_positions=8)
    for name in ("one", "two"):
        transformers.GPT2LMHeadModel(config).save_pretrained(name)
    tokens = np.arange(32).reshape(4, 8) % 16
    np.savez("tokens.npz", inputs=tokens, targets=tokens)
    watched = _Connections()
    watched.on = True
    pytest.importorskip("huggingface_hub").close_session()  # one left open would be used again
    assert rebasin("inspect", "hf:me/a").code == 0
    assert watched.found, "the hook sees nothing"
    watched.found.clear()
    for words in (
        ("align", "a.safetensors", "b.safetensors"),
        ("interpolate", "a.safetensors", "b.safetensors", "--data", "data.npz", "--steps", "3"),
        ("merge", "a.safetensors", "b.safetensors", "-o", "m.safetensors"),
        ("interpolate", "one", "two", "--data", "tokens.npz", "--steps", "2"),
    ):
        done = rebasin(*words)
        assert done.code == 0, done.err
    watched.on = False
    assert not watched.found
