"""Looking inside a model over the studio's HTTP API, with the real server and the bundled model and song."""

from __future__ import annotations

import concurrent.futures
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from studio_server import Server, make_song

import demucs_np as dn
from demucs_np.demo.song import DEMO_FILE
from demucs_np.inspection.outline import parts
from demucs_np.inspection.tracing import read_segment

Opened = tuple[Server, str]
SKIP = "decoder.0.skip"
ATTENTION = "crosstransformer.layers.0.self_attn"


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The demo song, not separated."""
    server = Server(tmp_path_factory.mktemp("inside") / "studio")
    track = server.client.post("/api/demo").json()
    yield server, f"/api/tracks/{track['id']}"
    server.stop()


def body(**changed: Any) -> dict[str, Any]:
    return {"model": "demo"} | changed


def test_the_outline_names_every_part(opened: Opened) -> None:
    outline = opened[0].client.get("/api/models/demo/inside").json()
    assert [group["name"] for group in outline["groups"]] == ["encoder", "tencoder", "crosstransformer", "decoder", "tdecoder"]
    layers = {layer["path"]: layer for group in outline["groups"] for layer in group["layers"]}
    config = dn.load_model("demo").config
    assert {part["path"]: part["heads"] for layer in layers.values() for part in layer["parts"]} == parts(config)
    first = layers["crosstransformer.layers.0"]
    assert (first["class"], first["shape"], first["heads"]) == ("MyTransformerEncoderLayer", [1, 1384, 128], 8)
    assert first["looks"] == ["crosstransformer.layers.0", ATTENTION]
    assert layers["encoder.1"]["looks"] == ["encoder.1", "encoder.1.dconv"]
    assert layers["encoder.1"]["parameters"] > 0 < layers["encoder.1"]["multiply_adds"]
    published = opened[0].client.get("/api/models/htdemucs_ft/inside", params={"member": 3}).json()  # needs no file
    assert len(published["members"]) == 4
    assert opened[0].client.get("/api/models/htdemucs_ft/inside", params={"member": 4}).status_code == 422
    assert opened[0].client.get("/api/models/nothing/inside").status_code == 404


def test_a_layer_as_picture_and_numbers(opened: Opened) -> None:
    server, path = opened
    answer = server.client.post(f"{path}/trace", json=body(layer="encoder.1", at=2)).json()
    with dn.trace(layers=["encoder.1"]) as taps:
        model = dn.load_model("demo")
        model(read_segment(DEMO_FILE, 2, model.config)[None])
    assert answer["shape"] == list(taps["encoder.1"].shape)
    assert answer["rms"] == pytest.approx(float(np.sqrt(np.mean(taps["encoder.1"].astype(float) ** 2))), rel=1e-4)
    assert (answer["begin"], answer["seconds"]) == (2, 4)
    picture = server.client.get(answer["picture"])
    assert picture.headers["content-type"] == "image/png"
    assert picture.content.startswith(b"\x89PNG")
    assert len(answer["panels"]) == 16
    assert all(0 < panel["left"] < panel["left"] + panel["width"] < 1 and 0 < panel["top"] < 1 for panel in answer["panels"])
    late = server.client.post(f"{path}/trace", json=body(layer="encoder.1", at=1e6)).json()
    assert late["begin"] == pytest.approx(server.client.get(path).json()["seconds"] - 4)


def test_heads_with_the_times_of_their_tokens(opened: Opened) -> None:
    server, path = opened
    answer = server.client.post(f"{path}/trace", json=body(layer="crosstransformer.layers.1.cross_attn", at=2)).json()
    assert answer["shape"] == [1, 8, 1384, 690]
    assert [panel["title"] for panel in answer["panels"]] == [f"head {head}" for head in range(8)]
    queries, keys = np.array(answer["queries"]), np.array(answer["keys"])
    assert (len(queries), len(keys)) == (1384, 690)
    assert np.array_equal(queries[:8], np.full(8, queries[0]))  # eight rows of frequency at one time
    for times in (queries, keys):
        assert 2 < times[0] < times[-1] < 6
        assert np.all(np.diff(times) >= 0)
    assert all(0 < head["reach"] < 4 for head in answer["heads"])


def test_stems_with_and_without(opened: Opened) -> None:
    server, path = opened
    answer = server.client.post(f"{path}/ablate", json=body(ablate=[SKIP, f"{ATTENTION}:1"], start=2, stop=6)).json()
    model = dn.load_model("demo")
    mix = read_segment(DEMO_FILE, 2, model.config)[None]
    plain = model(mix)[0]
    with dn.trace(layers=[], ablate=[SKIP, f"{ATTENTION}:1"]):
        ablated = model(mix)[0]
    assert [stem["stem"] for stem in answer["stems"]] == list(model.sources)
    for stem, *expected in zip(answer["stems"], plain, ablated, strict=True):
        for kind, wav in zip(("plain", "ablated"), expected, strict=True):
            content = server.client.get(stem[kind]).content
            heard, rate = soundfile.read(io.BytesIO(content), dtype="float32")
            assert (rate, heard.shape) == (44100, (4 * 44100, 2))
            gain = np.linalg.norm(heard) / np.linalg.norm(wav)
            np.testing.assert_allclose(heard.T, wav * gain, atol=2e-4)
            assert server.client.get(stem[kind], headers={"Range": "bytes=0-3"}).content == b"RIFF"
        change = 20 * np.log10(np.linalg.norm(expected[1]) / np.linalg.norm(expected[0]))
        assert stem["change"] == pytest.approx(change, abs=0.05)


def test_a_longer_region_of_a_separated_track(tmp_path: Path) -> None:
    server = Server(tmp_path / "studio")
    try:
        track = server.upload(make_song(tmp_path / "song.wav", 9), model="demo")
        server.wait(track["id"], "done")
        path = f"/api/tracks/{track['id']}"
        answers = [
            server.client.post(f"{path}/ablate", json=body(ablate=[part], start=1, stop=8)).json() for part in (SKIP, "tdecoder.0.skip")
        ]
        first, second = (answer["stems"][0] for answer in answers)
        assert first["plain"] == second["plain"]  # it is not made again
        assert first["ablated"] != second["ablated"]
        wav, _ = soundfile.read(io.BytesIO(server.client.get(first["plain"]).content))
        assert wav.shape == (7 * 44100, 2)
        for start in np.arange(0, 1, 0.1):
            assert server.client.post(f"{path}/ablate", json=body(ablate=[SKIP], start=start, stop=start + 0.2)).status_code == 200
        assert len(list((server.folder / track["id"] / "inside").iterdir())) <= 8
        assert server.client.get(second["ablated"]).status_code == 404  # it made room for newer ones
        server.client.delete(path)
        assert server.folders() == []
    finally:
        server.stop()


def test_others_are_answered_meanwhile(opened: Opened) -> None:
    server, path = opened
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        work = pool.submit(server.client.post, f"{path}/ablate", json=body(ablate=["encoder.0.dconv"], start=0, stop=12))
        answered = 0
        while not work.done():
            assert server.client.get("/api/health").status_code == 200
            answered += 1
            time.sleep(0.01)
        assert work.result().status_code == 200
    assert answered > 3


@pytest.mark.parametrize(
    ("route", "changed", "status", "says"),
    [
        ("trace", {"layer": "encoder.77"}, 422, "no layer matches 'encoder.77' (the nearest is encoder."),
        ("trace", {"layer": "encoder.*"}, 422, "'encoder.*' is a pattern; name one layer"),
        ("trace", {"layer": "encoder.0", "model": "nothing"}, 422, "there is no model 'nothing' here"),
        ("trace", {"layer": "encoder.0", "member": 1}, 422, "demo has 1 models"),
        ("trace", {"layer": "encoder.0", "at": -1}, 422, ""),
        ("trace", {"layer": "encoder.0", "model": "htdemucs"}, 409, "htdemucs is not on this computer yet; fetch it first"),
        ("ablate", {"ablate": ["encoder.0.conv"]}, 422, "'encoder.0.conv' cannot be switched off"),
        ("ablate", {"ablate": [f"{ATTENTION}:8"]}, 422, "its heads are 0 to 7"),
        ("ablate", {"ablate": [SKIP], "stop": 30}, 422, "a region lasts 0.1 to 20 seconds, not 30"),
        ("ablate", {"ablate": [SKIP], "start": 4}, 422, "a region lasts"),
        ("ablate", {"ablate": [SKIP], "start": 9000, "stop": 9001}, 422, "the track ends at"),
        ("ablate", {"ablate": []}, 422, ""),
    ],
)
def test_what_cannot_be(opened: Opened, route: str, changed: dict[str, Any], status: int, says: str) -> None:
    server, path = opened
    given = body(**({"stop": 4} if route == "ablate" else {})) | changed
    answer = server.client.post(f"{path}/{route}", json=given)
    assert answer.status_code == status, answer.text
    assert says in str(answer.json()["detail"])
    assert str(server.folder) not in answer.text
    if says:  # else the body itself is refused
        assert server.client.post(f"/api/tracks/0123456789abcdef/{route}", json=given).status_code == 404
    for name in ("facts.json", "..%2f..%2ftrack.json", "x.png"):
        assert server.client.get(f"{path}/inside/0123456789abcdef/{name}").status_code == 404
