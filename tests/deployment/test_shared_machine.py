"""What another account of a site's machine can do to a site that is joined."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from client.site import file_permissions
from tests.deployment.federation import Federation

SITE = "aarhus"
CONTENT = "application/protobuf"


def local_port(federation: Federation) -> int:
    """The SuperNode's, as everybody on the machine can see it."""
    joined = federation.processes[SITE].pid
    children = Path(f"/proc/{joined}/task/{joined}/children").read_text(encoding="ascii").split()
    commands = [Path(f"/proc/{child}/cmdline").read_text(encoding="utf-8").split("\0") for child in children]
    (node,) = [command for command in commands if "--superlink" in command]
    return int(node[node.index("--port") + 1])


def asked(url: str, *, post: bool) -> tuple[int, bytes]:
    """Status and body of a request by somebody who has no secret and trusts anybody."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    request = urllib.request.Request(url, data=b"" if post else None, headers={"Content-Type": CONTENT})
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        with opener.open(request, timeout=30) as answer:
            return int(answer.status), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.mark.soak
@pytest.mark.ci
@pytest.mark.slow
def test_others_get_no_work_and_bring_none_on_the_local_port(federation: Federation) -> None:
    base = f"https://127.0.0.1:{local_port(federation)}"
    status, document = asked(f"{base}/openapi.json", post=False)
    assert status == 200
    calls = [path for path, methods in json.loads(document)["paths"].items() if "post" in methods]
    assert "/v1/runtime/acquire-task" in calls
    answers = {path: asked(f"{base}{path}", post=True) for path in calls}
    assert {path: answer for path, answer in answers.items() if answer[0] not in (401, 403)} == {}
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        asked(base.replace("https", "http") + "/health", post=False)


@pytest.mark.soak
@pytest.mark.ci
@pytest.mark.slow
def test_others_read_no_file_of_the_site_and_see_no_secret(federation: Federation) -> None:
    folder = federation.site(SITE)
    assert file_permissions.check(folder) == ()
    secret = (folder / "flower" / "superexec.secret").read_bytes()
    joined = federation.processes[SITE].pid
    for child in Path(f"/proc/{joined}/task/{joined}/children").read_text(encoding="ascii").split():
        assert secret not in Path(f"/proc/{child}/cmdline").read_bytes()
        assert Path(f"/proc/{child}/environ").stat().st_mode & 0o077 == 0
