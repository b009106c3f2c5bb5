"""The benchmark of a store: its server, and a pass over a few tiny images."""

import json
import urllib.error
import urllib.request

import pytest

from tools.benchmarks import store
from tools.benchmarks.range_server import serving
from tools.benchmarks.store import Arguments


def ask(url: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    method = headers.pop("method", "GET")
    request = urllib.request.Request(url, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:
            return reply.status, reply.read(), dict(reply.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, b"", dict(error.headers)


def test_the_server_answers_like_a_store(tmp_path):
    served = tmp_path / "served"
    (served / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_bytes(b"no")
    (served / "a.bin").write_bytes(bytes(range(100)))
    (served / "sub" / "b").write_bytes(b"")
    with serving(served) as url:
        status, body, facts = ask(f"{url}/ms000/a.bin")
        assert (status, body, facts["Content-Length"]) == (200, bytes(range(100)), "100")
        status, body, part = ask(f"{url}/ms001/a.bin", Range="bytes=10-19")
        assert (status, body) == (206, bytes(range(10, 20)))
        assert part["Content-Range"] == "bytes 10-19/100"
        assert part["ETag"] == facts["ETag"]
        assert ask(f"{url}/ms000/a.bin", Range="bytes=90-")[1] == bytes(range(90, 100))
        assert ask(f"{url}/ms000/a.bin", Range="bytes=100-120")[0] == 416
        status, body, head = ask(f"{url}/ms000/a.bin", method="HEAD")
        assert (status, body, head["Content-Length"]) == (200, b"", "100")
        assert ask(f"{url}/ms000/sub/b")[:2] == (200, b"")
        for wrong in ("ms000/none", "ms000/%2e%2e/secret", "a.bin", "ms000/sub"):
            assert ask(f"{url}/{wrong}")[0] == 404
        (served / "a.bin").write_bytes(b"another")
        assert ask(f"{url}/ms000/a.bin")[2]["ETag"] != facts["ETag"]
    with pytest.raises(urllib.error.URLError):
        ask(f"{url}/ms000/a.bin")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # numba's
def test_a_pass_over_a_store_and_one_over_the_local_file(toy, tmp_path, capsys):
    for package in ("ffcv", "obstore"):
        pytest.importorskip(package)
    out = tmp_path / "out.json"
    words = f"""--data folder:{toy} --loaders local random blocks litdata --latencies 3 --rows 30
        --batch-size 8 --size 16 --workers 1 --repeats 1 --json {out}"""
    assert store.main(words.split()) == 0
    found = json.loads(out.read_text())
    assert list(found["images_per_second"]) == [
        "local, -",
        "random, 3 ms",
        "blocks, 3 ms",
    ]
    assert all(rate > 0 for rate in found["images_per_second"].values())
    assert found["setting"]["rows"] == 24
    assert "requirements-bench.txt" in found["left_out"]["litdata"]
    shown = capsys.readouterr().out
    assert "of local" in shown
    assert "left out: litdata" in shown


def test_wrong_options_are_refused():
    for wrong in ({"latencies": (1000,)}, {"rows": 63}, {"repeats": 0}):
        with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
            Arguments(data="photos", **wrong)
