"""Real programs, as people use them: each reaches a host whose credential it never has.

Each through the proxy that its environment names, and without those variables, over the gateway; those that
use the system's certificates also without any environment at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from nsharness.linux.probe import REQUIRED
from tests.clients.host import EVENTS, NAME
from tests.clients.rig import Mode, Rig
from tests.support.clients import need
from tests.support.tiers import others_slow

pytestmark = [pytest.mark.kernel(*REQUIRED), pytest.mark.xdist_group("clients")]

URL = f"https://{NAME}"


@dataclass(frozen=True, slots=True)
class Client:
    """How a program is called, and what its output has in it.

    ``needs`` is the program, ``library`` what must be among the tools; ``proxied`` says whether it heeds the
    proxy variables (None: versions differ), ``system`` whether it uses the system's certificates, ``module``
    what the system's Python must have.
    """

    script: str
    expected: str = "welcome"
    needs: str = "bash"
    library: str = ""
    proxied: bool | None = True
    system: bool = False
    module: str = ""


def python(
    code: str, library: str, *, proxied: bool = True, system: bool = False, module: str = ""
) -> Client:
    lines = "\n".join(
        line.removeprefix("    ") for line in code.format(url=URL, name=NAME).strip("\n").split("\n")
    )
    script = f"PYTHONPATH={{tools}}/lib python3 - <<'END'\n{lines}\nEND"
    return Client(script, needs="python3", library=library, proxied=proxied, system=system, module=module)


def git(commands: str) -> str:
    who = "export GIT_AUTHOR_NAME=t GIT_AUTHOR_EMAIL=t@example.org GIT_TERMINAL_PROMPT=0\n"
    return f"{who}export GIT_COMMITTER_NAME=t GIT_COMMITTER_EMAIL=t@example.org\nset -e\n{commands}"


DUMB = git(f"git clone -q {URL}/dumb/one.git work; cat work/README")
PUSH = git(f"""
git clone -q {URL}/smart/one.git work && cd work && cat README
head -c {{size}} /dev/urandom > big && git add big && git commit -qm more
git push -q origin HEAD:refs/heads/branch-$RANDOM$RANDOM && echo pushed
""")

SMALL_PUSH = PUSH.replace("{size}", "100000")
# Beyond http.postBuffer it is sent without a length.
LARGE_PUSH = PUSH.replace("{size}", "1500000")

PIP = "python3 -m pip download -q --no-cache-dir --disable-pip-version-check"
UV = "{tools}/uv pip install -q --no-cache --python python3 --target out"
NPM = "install --no-audit --no-fund --loglevel=error"

JAVA = f"""
cat > Get.java <<'END'
import java.net.URI;
import java.net.http.*;
public class Get {{
    public static void main(String[] arguments) throws Exception {{
        var request = HttpRequest.newBuilder(URI.create("{URL}/echo")).build();
        var answer = HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString());
        System.out.println(answer.statusCode() + " " + answer.body());
    }}
}}
END
java -XX:TieredStopAtLevel=1 -Xshare:auto Get.java
"""

NODE = f"""
node -e '
fetch("{URL}/echo").then(async answer => console.log(answer.status, await answer.text()))
    .catch(error => {{ console.error(error); process.exit(1) }})'
"""

AWS = f"""
mkdir ~/.aws
printf '[default]\\nregion = us-east-1\\ns3 =\\n  addressing_style = path\\n' > ~/.aws/config
aws --no-sign-request --endpoint-url {URL} s3api get-object --bucket echo --key thing got && cat got
"""

S_CLIENT = f"""
printf 'GET /echo HTTP/1.1\\r\\nHost: {NAME}\\r\\nConnection: close\\r\\n\\r\\n' | openssl s_client -quiet \\
    -verify_return_error -servername {NAME} -connect {NAME}:443 \\
    ${{https_proxy:+-proxy ${{https_proxy#http://}}}} | cat
"""

WEBSOCKET = """
    import base64, os, socket, ssl, struct
    name, proxy = "{name}", os.environ.get("https_proxy")
    if proxy:
        host, _, port = proxy.removeprefix("http://").partition(":")
        plain = socket.create_connection((host, int(port)))
        plain.sendall(f"CONNECT {{name}}:443 HTTP/1.1\\r\\nHost: {{name}}:443\\r\\n\\r\\n".encode())
        assert plain.recv(4096).split()[1] == b"200"
    else:
        plain = socket.create_connection((name, 443))
    secure = ssl.create_default_context().wrap_socket(plain, server_hostname=name)
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET /socket HTTP/1.1", f"Host: {{name}}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {{key}}", "", ""]
    secure.sendall("\\r\\n".join(lines).encode())
    stream = secure.makefile("rb")
    assert stream.readline().split()[1] == b"101"
    while stream.readline().strip():
        pass
    text = b"welcome"
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(text))
    secure.sendall(struct.pack("BB", 0x81, 0x80 | len(text)) + mask + masked)
    kind, length = stream.read(2)
    answer = stream.read(length).decode()
    assert answer == "WELCOME", answer
    print(answer.lower())
"""

CLIENTS = {
    "curl": Client(f"curl -sSf {URL}/echo", needs="curl", system=True),
    "curl-http2": Client(
        # It takes what it is offered.
        f"curl -sSf --http2 -w ' %{{http_version}}' {URL}/echo",
        "welcome  1.1",
        needs="curl",
        system=True,
    ),
    "curl-upload": Client(
        f"head -c 3000000 /dev/zero | curl -sSf --http2 -T - {URL}/echo | wc -c", "3000008", needs="curl"
    ),
    "wget": Client(f"wget -qO- {URL}/echo", needs="wget", system=True),
    "openssl": Client(S_CLIENT, needs="openssl", system=True),
    "git-dumb": Client(
        git(f"git clone -q {URL}/dumb/one.git work; cat work/README"), "hello", needs="git", system=True
    ),
    "git-push": Client(SMALL_PUSH, "hellopushed", needs="git-http-backend", system=True),
    "git-push-chunked": Client(LARGE_PUSH, "hellopushed", needs="git-http-backend"),
    "pip": Client(
        f"{PIP} --index-url {URL}/simple/ thing && ls",
        "thing-1.0-py3-none-any.whl",
        needs="pip3",
    ),
    "uv": Client(
        f"{UV} --index-url {URL}/simple/ thing && cat out/thing.py",
        "VALUE = 41",
        library="uv",
    ),
    "npm-view": Client(f"npm --registry {URL}/npm/ view thing description", "of the tests", needs="npm"),
    "npm-install": Client(
        f"npm --registry {URL}/npm/ {NPM} thing && cat node_modules/thing/package.json",
        '"version": "1.0.0"',
        needs="npm",
    ),
    "node-fetch": Client(NODE, "200 welcome", needs="node", proxied=None),
    "java": Client(JAVA, "200 welcome", needs="javac", proxied=False, system=True),
    "gh": Client(f"GH_HOST={NAME} GH_ENTERPRISE_TOKEN=x gh api {URL}/echo", needs="gh", system=True),
    "aws": Client(AWS, needs="aws"),
    "aiohttp": python(
        """
    import asyncio, aiohttp
    async def main():
        async with aiohttp.ClientSession(trust_env=True) as session, session.get("{url}/echo") as answer:
            answer.raise_for_status()
            print(await answer.text())
    asyncio.run(main())
    """,
        "",
        system=True,
        module="aiohttp",
    ),
    "urllib": python(
        """
    import urllib.request
    print(urllib.request.urlopen("{url}/echo").read().decode())
    """,
        "",
        system=True,
    ),
    "requests": python(
        """
    import requests
    answer = requests.get("{url}/echo")
    answer.raise_for_status()
    print(answer.text)
    """,
        "lib/requests",
    ),
    "httpx": python(
        """
    import httpx
    print(httpx.get("{url}/echo").raise_for_status().text)
    """,
        "lib/httpx",
    ),
    "urllib3": python(
        """
    import urllib3
    print(urllib3.PoolManager().request("GET", "{url}/echo").data.decode())
    """,
        "lib/urllib3",
        proxied=False,
        system=True,
    ),
    "websocket": python(WEBSOCKET, "", system=True),
}
CASES = [
    pytest.param(name, mode, id=f"{name}-{mode}")
    for name, client in CLIENTS.items()
    for mode in ("explicit", "transparent", *(["bare"] if client.system else []))
]


@pytest.mark.parametrize(("name", "mode"), others_slow(CASES, 2))
def test_a_client_is_served_with_a_credential_that_it_does_not_have(
    rig: Rig, tools: Path, name: str, mode: Mode
) -> None:
    client = CLIENTS[name]
    need(client.needs)
    if client.library and not (tools / client.library).exists():
        pytest.skip(f"{Path(client.library).name} is not among the development tools")
    if client.module and rig.run(f"python3 -c 'import {client.module}'", mode).exit_code:
        pytest.skip(f"the system's Python has no {client.module}")
    done = rig.run(client.script.replace("{tools}", str(tools)), mode)
    assert done.exit_code == 0, (done.stdout, done.stderr)
    assert client.expected in done.stdout.decode().replace("\n", ""), done
    assert rig.host.served
    assert rig.host.refused == []
    if client.proxied is not None:
        assert rig.roads() == {"connect" if client.proxied and mode == "explicit" else "transparent"}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["explicit", "transparent", "bare"])
def test_events_arrive_one_by_one(rig: Rig, mode: Mode) -> None:
    """The host sends the next one only when the one before was acknowledged."""
    need("curl")
    acknowledge = f'echo "$data"; curl -sSf {URL}/ack/$data'
    script = (
        f'curl -sSfN {URL}/events | while read -r kind data; do [ -z "$data" ] || {{ {acknowledge}; }}; done'
    )
    done = rig.run(script, mode)
    assert done.stdout.split() == [str(number).encode() for number in range(EVENTS)], done


def test_a_client_that_brings_a_credential_gets_the_one_that_the_host_takes(rig: Rig) -> None:
    """As ``git`` with a password in its URL, ``curl -u`` and ``pip`` with a netrc do it."""
    need("curl")
    for option in ("-u user:password", "-H 'Authorization: Bearer x'", "--oauth2-bearer x"):
        assert rig.run(f"curl -sSf {option} {URL}/echo").stdout == b"welcome "
    script = f"echo 'machine {NAME} login a password b' > .netrc; curl -sSfn {URL}/echo"
    assert rig.run(script).stdout == b"welcome "


@pytest.mark.parametrize("mode", ["explicit", "transparent"])
def test_what_is_not_allowed_is_refused_at_once(rig: Rig, mode: Mode) -> None:
    need("curl")
    done = rig.run("curl -sS -m 20 -o /dev/null -w '%{http_code}' https://elsewhere.example/", mode)
    assert done.exit_code not in (0, 28), done
    assert not rig.roads()
