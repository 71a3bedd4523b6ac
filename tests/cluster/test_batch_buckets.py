"""Photographs and results in a bucket: an S3 server on this machine."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from PIL import Image

from segmae.cluster import predict_batch, storage
from segmae.cluster.shard import Worker
from segmae.cluster.sources import find_sources
from segmae.cluster.storage import Store
from segmae.data.phantom import draw_lesion
from segmae.errors import DataError, OutputError

moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")
s3fs = pytest.importorskip("s3fs", reason="the extra 's3' is not installed")
pyarrow = pytest.importorskip("pyarrow", reason="the extra 'batch' is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra 'batch' is not installed")


def set_keys(monkeypatch: pytest.MonkeyPatch, host: Any, port: Any) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of a server with the bucket `clinic`, which holds five lesions, their list, and a broken file."""
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    set_keys(monkeypatch, host, port)
    urlopen(
        Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    )  # what an earlier server of this process held
    files = s3fs.S3FileSystem()
    files.mkdir("clinic")
    yield files
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def photographs(bucket: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for index in range(5):
        Image.fromarray(draw_lesion(index, (96, 64))[0]).save(folder / f"{index}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    for path in folder.iterdir():
        bucket.pipe_file(f"clinic/photographs/{path.name}", path.read_bytes())
    names = [f"{index}.png" for index in range(5)] + ["absent.png"]
    bucket.pipe_file("clinic/photographs/list.json", json.dumps(names).encode())
    return folder


def rows_in(bucket: Any, place: str) -> list[dict[str, Any]]:
    files = [pyarrow.BufferReader(bucket.cat_file(name)) for name in sorted(bucket.glob(f"{place}/shards/*"))]
    return [row for file in files for row in parquet.read_table(file).to_pylist()]


def test_from_a_bucket_into_a_bucket_as_from_a_disk(bucket: Any, photographs: Path, tmp_path: Path) -> None:
    done = predict_batch(
        ["s3://clinic/photographs"], "s3://clinic/out", shard_size=2, masks=True, measure=True
    )
    predict_batch([str(photographs)], str(tmp_path / "out"), shard_size=2, masks=True, measure=True)
    assert (done.done, done.errors, done.complete) == (6, 1, True)
    names = [name.removeprefix("clinic/out/") for name in bucket.find("clinic/out")]
    on_disk = [str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")]
    sources = re.compile(r"(?<=plan/sources-)\w+")  # named by what is in it: addresses
    assert sorted(sources.sub("", n) for n in names) == sorted(sources.sub("", n) for n in on_disk)
    here = [
        row
        for file in sorted((tmp_path / "out").glob("shards/*"))
        for row in parquet.read_table(file).to_pylist()
    ]
    for there, row in zip(rows_in(bucket, "clinic/out"), here, strict=True):
        assert there.pop("file") == f"s3://clinic/photographs/{Path(row.pop('file')).name}"
        assert bool(there.pop("error")) == bool(row.pop("error"))
        assert there == row
    for name in names:
        if name.startswith("masks/"):
            assert bucket.cat_file(f"clinic/out/{name}") == (tmp_path / "out" / name).read_bytes()


def test_stopped_and_called_again_it_does_what_is_missing(
    bucket: Any, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[str] = []
    compute = Worker._rows

    def noted(worker: Worker, shard: Any) -> Any:
        if len(computed) == 2:
            computed.clear()
            raise KeyboardInterrupt
        computed.append(shard.name)
        return compute(worker, shard)

    source = "s3://clinic/photographs/list.json"
    predict_batch([source], "s3://clinic/whole", shard_size=2)
    computed.clear()
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "_rows", noted)
        with pytest.raises(KeyboardInterrupt):
            predict_batch([source], "s3://clinic/out", shard_size=2)
        bucket.rm("clinic/out/manifests/000000001.json")  # as if stopped between a shard and its manifest
        done = predict_batch([source], "s3://clinic/out", shard_size=2)
    assert computed == ["000000002"] and (done.earlier, done.complete, done.errors) == (1, True, 1)
    error = rows_in(bucket, "clinic/out")[-1]["error"]
    assert (
        error
        == "s3://clinic/photographs/absent.png: cannot be read (absent or forbidden). Check the name and the permissions"
    )
    for name in bucket.find("clinic/whole"):
        assert bucket.cat_file(name) == bucket.cat_file(name.replace("whole", "out", 1))
    with pytest.raises(DataError, match=r"settings\.shard_size: 2 there, 3 now"):
        predict_batch([source], "s3://clinic/out", shard_size=3)


def test_a_photograph_that_came_since_the_last_call_of_this_process_is_found(
    bucket: Any, photographs: Path
) -> None:
    def found() -> list[str]:
        return find_sources(["s3://clinic/photographs/*.png"], "out")

    before, name = found(), "clinic/photographs/new.png"
    boto3 = pytest.importorskip("boto3", reason="moto[server] is not installed")
    boto3.client("s3").put_object(Bucket="clinic", Key="photographs/new.png", Body=bucket.cat_file(before[0]))
    assert found() == sorted([*before, f"s3://{name}"])


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "ExpiredToken", DataError), (403, "InvalidAccessKeyId", DataError), (403, "RequestTimeTooSkewed", DataError),
        (403, "AccessDenied", PermissionError), (404, "NoSuchKey", FileNotFoundError), (404, "NoSuchBucket", FileNotFoundError),
    ],
)  # fmt: skip
def test_keys_that_have_expired_are_no_fault_of_the_photographs(
    status: int, code: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else all that are left would be errors, for good."""
    monkeypatch.setattr(storage, "PAUSE", 0)

    class Bucket(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>said so</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *given: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        set_keys(monkeypatch, *server.server_address[:2])
        with pytest.raises(kind):
            storage.read_bytes("s3://clinic/a.png")
        server.shutdown()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_in_a_bucket_creates_once(bucket: Any) -> None:
    store = Store("s3://clinic/out/")
    assert store.names("a") == set() and not store.exists("a/b")
    assert store.create("a/b", b"one") and not store.create("a/b", b"two") and store.read("a/b") == b"one"
    assert store.exists("a/b") and store.names("a") == {"b"} and store.read("a/b", 1, 3) == b"ne"
    store.replace("a/c", b"two")
    assert list(store.read_all(["a/c", "a/b"])) == [b"one", b"two"]
    with pytest.raises(OutputError, match="s3://nowhere/a: cannot be written"):
        Store("s3://nowhere").create("a", b"one")


def test_a_server_that_is_gone_is_told_with_the_place(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    store = Store("s3://clinic/out")
    store.files.retries = 1
    for ask in (
        store.names,
        store.sizes,
        store.exists,
        store.read,
        lambda name: list(store.read_all([name])),
    ):
        with pytest.raises(OutputError, match=r"s3://clinic/out: cannot be reached .*Check the place"):
            ask("a")
