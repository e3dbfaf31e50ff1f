"""Authentication, with a small issuer of tokens on the loopback interface."""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import requests
from label_server import FAST, Server, needs_monai_label, start, stop
from small_bundle import magnitude, make_bundle, write_nifti

from monai_d3gm.label import client

pytestmark = needs_monai_label

ROLES = {"reader": ["monailabel-user"], "writer": ["monailabel-user", "monailabel-annotator"], "nobody": []}


class Issuer:
    """What MONAI Label expects of Keycloak: a realm's public key, its configuration, and tokens for passwords."""

    def __init__(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import rsa

        self.key = rsa.generate_private_key(65537, 2048)
        der = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, content: Any) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def do_GET(self) -> None:
                if self.path.endswith("/.well-known/openid-configuration"):
                    self.answer(200, {"token_endpoint": f"{issuer.realm}/token"})
                else:
                    self.answer(200, {"public_key": base64.b64encode(der).decode()})

            def do_POST(self) -> None:
                form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                user, password = form["username"][0], form["password"][0]
                if password != f"{user}'s password":
                    self.answer(401, {"error": "invalid_grant"})
                else:
                    self.answer(200, {"access_token": issuer.token(user), "token_type": "Bearer"})

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.realm = f"http://127.0.0.1:{self.server.server_port}/realms/site"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, user: str, key: Any = None, seconds: float = 600, algorithm: str = "RS256") -> str:
        import jwt

        claims = {"preferred_username": user, "realm_access": {"roles": ROLES[user]}, "exp": time.time() + seconds}
        return jwt.encode(claims, self.key if key is None else key, algorithm=algorithm)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    made = Issuer()
    yield made
    made.server.shutdown()


@pytest.fixture(scope="module")
def closed(issuer: Issuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("auth")
    (folder / "studies").mkdir()
    write_nifti(folder / "studies" / "small.nii.gz", magnitude())
    bundle = make_bundle(folder / "own_bundle", "mri_sr")
    variables = {"MONAI_LABEL_AUTH_ENABLE": "true", "MONAI_LABEL_AUTH_REALM_URI": issuer.realm}
    started = start(folder, "bundles", str(bundle), "device", "cpu", variables=variables, token=issuer.token("reader"))
    yield started
    stop(started)


def test_a_user_logs_in_and_restores(closed: Server, tmp_path: Path) -> None:
    token = client.log_in(closed.address, "reader", "reader's password")
    assert client.info(closed.address, token=token)["datastore"]["total"] == 1
    options: dict[str, Any] = {"image": "small", "parameters": FAST, "token": token}
    result = closed.restore("own_bundle", tmp_path / "a.nii.gz", **options)
    client.download(closed.address, tmp_path / "std.nii.gz", "small", "std", token=token)
    name = client.submit(closed.address, "own_bundle", **options)
    client.wait(closed.address, name, token=token)
    fetched = client.fetch(closed.address, name, tmp_path / "b.nii.gz", token=token)
    assert fetched.read_bytes() == result.path.read_bytes()
    client.cancel(closed.address, name, token=token)


def test_without_a_good_token_nothing_is_answered(closed: Server, issuer: Issuer, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import rsa

    other = rsa.generate_private_key(65537, 2048)
    bad = {
        "none": None,
        "no token": "x",
        "another issuer": issuer.token("reader", key=other),
        "expired": issuer.token("reader", seconds=-10),
        "another algorithm": issuer.token("reader", key="secret" * 8, algorithm="HS256"),
        "not signed": issuer.token("reader", key="", algorithm="none"),
    }
    asked = [("GET", "/info/"), ("GET", "/datastore/?output=all"), ("GET", "/datastore/image?image=small")]
    asked += [("POST", "/infer/own_bundle?image=small"), ("GET", "/jobs/"), ("DELETE", "/jobs/x")]
    asked += [("PUT", "/datastore/image"), ("DELETE", "/datastore/image?id=small"), ("POST", "/activelearning/random")]
    for words, token in bad.items():
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        for method, path in asked:
            reply = requests.request(method, f"{closed.address}{path}", headers=headers)
            assert reply.status_code == 401, (words, method, path, reply.text)
    with pytest.raises(client.ServerError, match="401"):
        client.log_in(closed.address, "reader", "wrong")


def test_a_token_is_used_as_the_page_shows(closed: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = Path(__file__).resolve().parents[2] / "docs" / "tutorials" / "label.md"
    (code,) = re.findall(r"^```python\n(token = .*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for shown, here in {
        '"user", "password"': '"reader", "reader\'s password"',
        "sub-01_T2w": "small",
        "mri_sr": "own_bundle",
    }.items():
        assert shown in code
        code = code.replace(shown, here)
    exec(compile(code, "label.md", "exec"), {"client": client, "server": closed.address})
    assert (tmp_path / "restored.nii.gz").is_file()


def test_roles_decide_what_is_allowed(closed: Server, issuer: Issuer, tmp_path: Path) -> None:
    sent = write_nifti(tmp_path / "new.nii.gz", magnitude(20, 20, 2))
    tokens = {user: issuer.token(user) for user in ROLES}
    with pytest.raises(client.ServerError, match="403"):
        client.info(closed.address, token=tokens["nobody"])
    with pytest.raises(client.ServerError, match="403"):
        client.upload(closed.address, sent, token=tokens["reader"])
    assert client.upload(closed.address, sent, token=tokens["writer"]) == "new"
    headers = {"Authorization": f"Bearer {tokens['writer']}"}
    removed = requests.delete(f"{closed.address}/datastore/image", params={"id": "new"}, headers=headers)
    assert removed.status_code == 403


def test_the_page_is_shown_to_all_and_says_that_one_has_to_log_in(closed: Server) -> None:
    assert requests.get(f"{closed.address}/").status_code == 200
    assert requests.get(f"{closed.address}/auth/").json()["enabled"] is True
