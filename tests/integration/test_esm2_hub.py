"""Published weights: torch's cache, downloads, and what a machine without a network is told."""

import http.server
import shutil
import threading
from pathlib import Path

import pytest

from snakemake_executor_gpupool.errors import InputError
from snakemake_executor_gpupool.tools import esm2_hub, offline
from snakemake_executor_gpupool.tools.esm2_checkpoints import (
    load_contact_head,
    load_model,
    write_seeded_checkpoint,
)
from tests.integration import esm2_cases as cases

NAME = "esm2_t6_8M_UR50D"
CONTACTS = f"{NAME}-contact-regression.pt"


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    return Path(write_seeded_checkpoint(str(tmp_path_factory.mktemp("weights")), *cases.TINY))


class TestHub:
    @pytest.fixture(autouse=True)
    def cache(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        for name in offline.OFFLINE:
            monkeypatch.delenv(name, raising=False)
        return tmp_path / "torch" / "hub" / "checkpoints"

    @pytest.fixture
    def site(self, seeded, monkeypatch):
        """A stand-in for fair-esm's site, on this machine: path to (status, body, length)."""
        body, regression = seeded.read_bytes(), contacts_of(seeded).read_bytes()
        pages = {
            f"/models/{NAME}.pt": (200, body, len(body)),
            f"/regression/{CONTACTS}": (200, regression, len(regression)),
        }
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(pages)) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,))
            thread.start()
            monkeypatch.setattr(esm2_hub, "BASE_URL", f"http://127.0.0.1:{server.server_port}")
            yield pages
            server.shutdown()
            thread.join()

    def test_what_is_cached_is_used_without_a_look_outside(self, seeded, cache, monkeypatch):
        monkeypatch.setenv("GPUPOOL_OFFLINE", "1")
        cache.mkdir(parents=True)
        shutil.copy(seeded, cache / f"{NAME}.pt")
        shutil.copy(contacts_of(seeded), cache / CONTACTS)
        module = load_model(NAME)
        assert module.num_layers == 3
        assert load_contact_head(NAME, module) is not None

    def test_what_is_not_is_downloaded_once(self, site, seeded, cache):
        cases.assert_same(load_model(NAME), load_model(str(seeded)))
        assert [path.name for path in cache.iterdir()] == [f"{NAME}.pt"]
        site.clear()
        module = load_model(NAME)
        with pytest.raises(InputError, match=r"failed \(Not Found\)"):
            load_contact_head(NAME, module)

    def test_contacts_are_downloaded_when_asked_for(self, site, cache):
        load_contact_head(NAME, load_model(NAME))
        assert sorted(path.name for path in cache.iterdir()) == [CONTACTS, f"{NAME}.pt"]

    @pytest.mark.parametrize("variable", offline.OFFLINE)
    def test_offline(self, site, cache, monkeypatch, variable):
        monkeypatch.setenv(variable, "true")
        with pytest.raises(InputError) as caught:
            load_model(NAME)
        message = str(caught.value)
        assert f"({variable} is set)" in message
        assert (
            f"Get {esm2_hub.BASE_URL}/models/{NAME}.pt and put it at {cache}/{NAME}.pt" in message
        )

    def test_offline_switched_off(self, site, monkeypatch):
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        load_model(NAME)

    @pytest.mark.parametrize(
        ("page", "reason"),
        [
            ((404, b"", 0), "Not Found"),
            ((200, b"half", 40), "ended after 4 of 40 bytes"),
            ((200, b"", 1 << 60), "MiB are free"),
        ],
    )
    def test_a_failed_download_leaves_nothing(self, site, cache, page, reason):
        site[f"/models/{NAME}.pt"] = page
        with pytest.raises(InputError, match=reason):
            load_model(NAME)
        assert list(cache.iterdir()) == []

    def test_a_silent_site_is_given_up(self, site, cache, monkeypatch):
        monkeypatch.setattr(esm2_hub, "SILENCE_S", 0.2)
        release = threading.Event()
        site[f"/models/{NAME}.pt"] = release.wait
        with pytest.raises(InputError, match=r"failed \(timed out\)"):
            load_model(NAME)
        release.set()

    def test_a_slow_one_too(self, site, monkeypatch):
        monkeypatch.setattr(esm2_hub, "LIMIT_S", 0)
        with pytest.raises(InputError, match="not done after 0 s"):
            load_model(NAME)

    def test_no_network(self, cache, monkeypatch):
        monkeypatch.setattr(esm2_hub, "BASE_URL", "http://127.0.0.1:1")
        with pytest.raises(InputError, match="Connection refused"):
            load_model(NAME)

    def test_an_unwritable_cache(self, site, cache):
        cache.parent.parent.mkdir(parents=True)
        cache.parent.write_text("in the way")
        with pytest.raises(InputError, match=r"downloading them failed \((Not a|File exists)"):
            load_model(NAME)


def contacts_of(checkpoint):
    return checkpoint.with_name(f"{checkpoint.stem}-contact-regression.pt")


def handler_of(pages):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            page = pages.get(self.path, (404, b"", 0))
            if callable(page):
                page()
                return
            status, body, length = page
            self.send_response(status)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Handler
