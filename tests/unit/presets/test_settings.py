"""What this machine's own tools are configured for, as their files and variables say it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsharness.presets import settings
from nsharness.presets.settings import FINDERS, Found, Machine, Registry, registry

HOST = "pkg.example.com"
HIDDEN = "hunter2"


def machine(folder: Path, files: dict[str, str], **environ: str) -> Machine:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Machine(folder / "home", environ, folder)


def places(found: Found) -> list[str]:
    return [f"{each.host}{f':{each.port}' if each.port else ''}{each.path}" for each in found.registries]


def test_an_address_is_taken_apart_and_its_password_left_behind() -> None:
    made = registry(f"https://user:{HIDDEN}@PKG.example.com:8443/a//b/simple/")
    url = "https://pkg.example.com:8443/a//b/simple/"
    assert made == Registry(HOST, "/a/b/simple", 8443, "https", url, credential=True)
    assert registry(f"sparse+https://{HOST}/x/") == Registry(HOST, "/x", url=f"https://{HOST}/x/")


@pytest.mark.parametrize(
    "text",
    ["", "https://", "file:///srv", "ssh://pkg.example.com/", "https://*/", "https://pkg.example.com/**",
     "https://pkg.example.com/%2e%2e/", "https://pkg.example.com:x/"],
)  # fmt: skip
def test_what_is_no_registry_is_left_out(text: str) -> None:
    assert registry(text) is None


@given(st.text(max_size=40), st.sampled_from(sorted(FINDERS)))
def test_any_text_is_read_or_left_out(text: str, name: str) -> None:
    registry(text)
    for parse in (settings.parse_pip, settings.parse_uv, settings.parse_npmrc, settings.parse_cargo):
        parse(text)
    for listed in (settings.parse_sources, settings.parse_docker, settings.parse_registries):
        listed(text)
    assert name in FINDERS


@pytest.mark.parametrize("name", sorted(FINDERS))
def test_a_bare_machine_has_none(name: str, tmp_path: Path) -> None:
    assert FINDERS[name](machine(tmp_path, {})) == Found()


def test_pip_and_uv(tmp_path: Path) -> None:
    files = {
        "home/.config/pip/pip.conf": f"[global]\nindex-url = https://u:{HIDDEN}@{HOST}/root/simple/\n"
        "extra-index-url =\n  https://two.example.com/simple\n  https://three.example.com/x/simple\n",
        "home/.config/uv/uv.toml": '[[index]]\nname = "n"\nurl = "https://four.example.com/simple"\n',
        "etc/pip.conf": "[global]\nindex-url = https://last.example.com/simple\n",
    }
    found = FINDERS["python"](machine(tmp_path, files))
    assert places(found) == [*(f"{HOST}/root", "two.example.com", "three.example.com/x", "four.example.com")]
    assert [each.credential for each in found.registries] == [True, False, False, False]
    assert found.env["PIP_INDEX_URL"] == f"https://{HOST}/root/simple/"
    assert found.env["PIP_EXTRA_INDEX_URL"].split()[1] == "https://three.example.com/x/simple"
    assert found.env["UV_INDEX"] == "https://four.example.com/simple"
    assert "UV_DEFAULT_INDEX" not in found.env
    assert HIDDEN not in repr(found)


def test_variables_go_before_files(tmp_path: Path) -> None:
    files = {"home/.config/pip/pip.conf": "[global]\nindex-url = https://file.example.com/simple\n"}
    here = machine(tmp_path, files, PIP_INDEX_URL=f"https://{HOST}/simple", UV_INDEX=f"n=https://{HOST}/more")
    found = FINDERS["python"](here)
    assert found.env["UV_INDEX"] == f"https://{HOST}/more"
    assert found.env["PIP_INDEX_URL"] == f"https://{HOST}/simple"
    assert f"{HOST}/more" in places(found)


def test_uv_uses_what_pip_has_and_pip_what_uv_has(tmp_path: Path) -> None:
    for name in ("PIP_INDEX_URL", "UV_INDEX_URL"):
        found = FINDERS["python"](
            machine(tmp_path, {}, **{name: f"https://u:{HIDDEN}@{HOST}/simple?t={HIDDEN}"})
        )
        assert found.env == dict.fromkeys(("PIP_INDEX_URL", "UV_DEFAULT_INDEX"), f"https://{HOST}/simple")
        assert places(found) == [HOST]


def test_npm(tmp_path: Path) -> None:
    files = {
        "home/.npmrc": f"; mine\nregistry=https://{HOST}/npm/\n@corp:registry = 'https://corp.example.com/'\n"
        f"//{HOST}/npm/:_authToken={HIDDEN}\n//corp.example.com:_password={HIDDEN}\n//x\n"
    }
    found = FINDERS["npm"](machine(tmp_path, files))
    assert places(found) == [f"{HOST}/npm", "corp.example.com"]
    assert all(each.credential for each in found.registries)
    assert found.env == {"npm_config_registry": f"https://{HOST}/npm/"}
    assert HIDDEN not in repr(found)
    other = machine(tmp_path, files, npm_config_registry="https://env.example.com/")
    assert [each.credential for each in FINDERS["npm"](other).registries] == [False, True]


def test_cargo(tmp_path: Path) -> None:
    files = {
        "home/.cargo/config.toml": '[source.crates-io]\nreplace-with = "m"\n[source.m]\n'
        f'registry = "sparse+https://{HOST}/crates/"\n[registries.own]\nindex = "https://own.example.com/git"\n'
    }
    here = machine(tmp_path, files, CARGO_REGISTRIES_X_INDEX="sparse+https://x.example.com/i/", CARGO_X="y")
    found = FINDERS["cargo"](here)
    assert places(found) == ["x.example.com/i", "own.example.com/git", f"{HOST}/crates"]
    assert found.env == {"CARGO_REGISTRIES_X_INDEX": "sparse+https://x.example.com/i/"}


def test_apt(tmp_path: Path) -> None:
    files = {
        "etc/apt/sources.list": "# deb http://no.example.com x\n"
        f"deb [a=b c=d] http://{HOST}/debian stable main\ndeb cdrom:[x] y\n",
        "etc/apt/sources.list.d/a.sources": "Types: deb\nURIs: https://one.example.com/d\n"
        " https://two.example.com/d/\nSuites: stable\n\nTypes: deb\nURIs: mirror+file:/x\n",
        "etc/apt/sources.list.d/b.list": "deb-src https://three.example.com/ stable main\n",
        "etc/apt/sources.list.d/c.save": "deb https://four.example.com/ stable main\n",
    }
    found = FINDERS["debian"](machine(tmp_path, files))
    assert places(found) == [
        *(f"{HOST}/debian", "one.example.com/d", "two.example.com/d", "three.example.com")
    ]
    assert found.registries[0].scheme == "http"


def test_containers(tmp_path: Path) -> None:
    files = {
        "home/.docker/config.json": json.dumps(
            {"auths": {HOST: {"auth": HIDDEN}, "https://h.example.com/v1/": {}}}
        ),
        "home/.config/containers/registries.conf": 'unqualified-search-registries = ["q.example.com"]\n'
        '[[registry]]\nprefix = "*.example.com"\n[[registry]]\nlocation = "l.example.com:5000/x"\n'
        '[[registry]]\nlocation = "b.example.com"\nblocked = true\n',
        "etc/containers/registries.conf": 'unqualified-search-registries = ["no.example.com"]\n',
    }
    found = FINDERS["containers"](machine(tmp_path, files))
    hosts = (HOST, "h.example.com", "q.example.com", "l.example.com:5000")
    assert places(found) == [f"{host}/v2" for host in hosts]
    assert HIDDEN not in repr(found)


@pytest.mark.parametrize(
    ("environ", "region"),
    [
        ({}, "eu-west-1"),
        ({"AWS_PROFILE": "work"}, "us-gov-east-1"),
        ({"AWS_REGION": "ap-south-2", "AWS_DEFAULT_REGION": "us-east-1"}, "ap-south-2"),
        ({"AWS_REGION": "x.example.com/"}, None),
    ],
)
def test_the_region_of_aws(environ: dict[str, str], region: str | None, tmp_path: Path) -> None:
    files = {"home/.aws/config": "[default]\nregion = eu-west-1\n[profile work]\nregion=us-gov-east-1\n"}
    found = FINDERS["aws"](machine(tmp_path, files, **environ))
    assert places(found) == ([f"bedrock-runtime.{region}.amazonaws.com"] if region else [])


def test_the_working_directory_has_no_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workload could have written what is there."""
    monkeypatch.chdir(tmp_path)
    text = f"registry=https://{HOST}/\n"
    here = machine(tmp_path / "root", {"home/x": ""})
    for name in (".npmrc", "pip.conf", "uv.toml"):
        (tmp_path / name).write_text(text)
    assert [FINDERS[name](here) for name in ("npm", "python")] == [Found(), Found()]
