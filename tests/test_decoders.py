"""Real encoders and the real ffmpeg: what is read is what ffmpeg decodes, sample for sample, or refused with a reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from files import music

from demucs_np import AudioError, audio
from demucs_np.errors import AudioWarning

pytestmark = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="the program ffmpeg is missing")


def ffmpeg(*arguments: object) -> bytes:
    command = ["ffmpeg", "-nostdin", "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def encode(path: Path, rate: int = 44100, channels: int = 2, *options: object, seconds: float = 0.7) -> Path:
    """Music in whatever format the ending of `path` and the options say."""
    wav = path.with_name("to-encode.wav")
    soundfile.write(wav, music(int(seconds * rate), channels).T, rate, subtype="FLOAT", format="WAV")
    ffmpeg("-i", wav, *options, path)
    return path


def decode(path: Path, channels: int, *options: object) -> np.ndarray:
    """What ffmpeg makes of it, as raw floats."""
    raw = ffmpeg("-i", path, *options, "-f", "f32le", "-")
    return np.frombuffer(raw, "<f4").reshape(-1, channels).T


def read(path: Path | str, track: int | None = None) -> tuple[np.ndarray, int]:
    with audio.open_track(path, track) as file:
        blocks = list(file.blocks())
        return np.concatenate(blocks, axis=1), file.samplerate


FORMATS = {  # ending -> (options, rates, the most channels)
    "alac.m4a": (["-c:a", "alac"], (8000, 22050, 44100, 48000, 96000, 192000), 8),
    "aac.m4a": (["-c:a", "aac"], (8000, 11025, 22050, 32000, 44100, 48000, 96000), 8),
    "aac": (["-c:a", "aac"], (8000, 44100, 48000), 8),
    "wma": ([], (8000, 22050, 44100, 48000), 2),
    "ac3": ([], (32000, 44100, 48000), 6),
    "mp4": (["-c:a", "aac"], (44100, 48000), 6),
    "mkv": (["-c:a", "pcm_s24le"], (8000, 44100, 96000, 192000), 8),
    "mka": (["-c:a", "flac"], (8000, 44100, 96000, 192000), 8),
    "webm": (["-c:a", "libopus"], (48000,), 8),
    "wv": ([], (8000, 44100, 48000, 96000, 192000), 8),
    "tta": ([], (8000, 44100, 96000), 8),
    "mov": (["-c:a", "pcm_f32be"], (44100, 192000), 8),
}


def channels_of(path: Path) -> int:
    """Encoders without a layout for all channels leave some out."""
    command = ["ffprobe", "-v", "error", "-select_streams", "a:0", "-show_entries", "stream=channels", "-of", "csv=p=0", f"file:{path}"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[0].strip(","))


@pytest.mark.parametrize("ending", FORMATS)
def test_equals_ffmpegs_own_decode(tmp_path: Path, ending: str) -> None:
    options, rates, most = FORMATS[ending]
    for number, rate in enumerate(rates):
        for channels in {(2, 1)[number % 2], max(1, most - number)}:
            path = encode(tmp_path / f"a:song.{rate}.{channels}.{ending}", rate, channels, *options, seconds=0.3)
            expected = decode(Path(f"file:{path}"), channels_of(path))
            wav, samplerate = read(path)
            assert samplerate == rate
            assert np.array_equal(wav, expected), (rate, channels)
            if channels <= 2:  # and it is the music, not noise: encoders of speech and film cut the highest part
                assert np.sqrt(np.mean(wav**2)) == pytest.approx(np.sqrt(np.mean(music(int(0.3 * rate)) ** 2)), rel=0.3)


def test_several_audio_streams(tmp_path: Path) -> None:
    inputs = [encode(tmp_path / f"{number}.wav", 44100, 1 + number, seconds=0.2 + number / 10) for number in range(3)]
    path = tmp_path / "film.mkv"
    picture = ["-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=0.5"]
    maps = ["-map", "3:v", "-map", "0:a", "-map", "1:a", "-map", "2:a", "-c:a", "pcm_s16le", "-c:v", "mpeg4"]
    ffmpeg(*(part for file in inputs for part in ("-i", file)), *picture, *maps, "-disposition:a", "0", "-disposition:a:1", "default", path)
    streams = [decode(path, 1 + number, "-map", f"0:a:{number}") for number in range(3)]
    assert np.array_equal(read(path)[0], streams[1])
    for number, expected in enumerate(streams):
        assert np.array_equal(read(path, number + 1)[0], expected)
    with pytest.raises(AudioError, match=r"film\.mkv: there is no track 4: it holds 3 audio tracks$"):
        read(path, 4)
    with pytest.raises(AudioError, match=r"0\.wav: there is no track 2: it holds 1 audio track$"):
        read(inputs[0], 2)


def test_video_without_sound_and_pictures(tmp_path: Path) -> None:
    for name in ("film.mp4", "film.mkv", "picture.jpg", "picture.png"):
        ffmpeg("-f", "lavfi", "-i", "color=size=32x32:rate=5:duration=1", "-frames:v", 1, tmp_path / name)
        with pytest.raises(AudioError, match=rf"{name}: has no sound, only video; choose another file$"):
            read(tmp_path / name)


def test_what_is_no_audio_at_all(tmp_path: Path) -> None:
    (tmp_path / "song.m4a").write_bytes(b"not known to anyone" * 50)
    with pytest.raises(
        AudioError, match=r"(?i)song\.m4a: neither libsndfile \(.*\) nor ffmpeg \(.*invalid data.*\) can read it; is it audio\?$"
    ):
        read(tmp_path / "song.m4a")


def test_a_flac_that_was_written_into_a_pipe(tmp_path: Path) -> None:
    wav = encode(tmp_path / "a.wav", 44100, 2, "-c:a", "pcm_s16le", seconds=3)
    path = tmp_path / "pipe.flac"
    path.write_bytes(ffmpeg("-i", wav, "-f", "flac", "-"))
    assert np.array_equal(read(path)[0], decode(wav, 2))


def test_a_wav_whose_recorder_lost_power(tmp_path: Path) -> None:
    wav = encode(tmp_path / "a.wav", 44100, 2, "-c:a", "pcm_s16le", seconds=3)
    data = bytearray(wav.read_bytes())
    at = data.index(b"data")
    data[at + 4 : at + 8] = data[4:8] = bytes(4)
    path = tmp_path / "zero.wav"
    path.write_bytes(data)
    assert np.array_equal(read(path)[0], decode(wav, 2))


def test_a_flac_that_was_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wav = encode(tmp_path / "a.wav", 44100, 2, "-c:a", "pcm_s16le", seconds=10)
    whole = encode(tmp_path / "a.flac", 44100, 2, "-c:a", "flac", "-sample_fmt", "s16", seconds=10).read_bytes()
    path = tmp_path / "cut.flac"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(AudioWarning, match=r"cut\.flac: is damaged \(.*\); the [45]\.\d s.* that can be decoded are kept"):
        kept = read(path)[0]
    assert np.array_equal(kept, decode(wav, 2)[:, : kept.shape[1]])
    monkeypatch.setenv("PATH", "")
    with pytest.warns(AudioWarning, match=r"is damaged \(.*\); the [45]\.\d s.* that can be decoded are kept"):
        alone = read(path)[0]
    assert kept.shape[1] - 8192 - 4608 < alone.shape[1] <= kept.shape[1]
    assert np.array_equal(alone, kept[:, : alone.shape[1]])


def test_a_wav_that_was_cut(tmp_path: Path) -> None:
    wav = encode(tmp_path / "a.wav", 44100, 2, "-c:a", "pcm_s16le", seconds=2)
    path, data = tmp_path / "cut.wav", wav.read_bytes()
    path.write_bytes(data[: data.index(b"data") + 8 + 4 * 44100])
    with pytest.warns(AudioWarning, match=r"the file ends early: its header says 2\.0 s\); the 1\.0 s that can be decoded are kept"):
        assert np.array_equal(read(path)[0], decode(wav, 2)[:, :44100])


def test_a_name_that_promises_raw_samples(tmp_path: Path) -> None:
    wav = encode(tmp_path / "a.wav", 44100, 2)
    expected = read(wav)[0]
    assert np.array_equal(read(wav.rename(tmp_path / "x.raw"))[0], expected)


@pytest.mark.parametrize("ending", ["wav", "mp3", "alac.m4a"])
def test_pipes(tmp_path: Path, ending: str) -> None:
    path = encode(tmp_path / f"a.{ending}", 44100, 2, *(["-c:a", "alac"] if ending == "alac.m4a" else []), seconds=3)
    expected = read(path)[0]
    code = (
        "import sys, numpy as np\nfrom demucs_np import audio\nwith audio.open_track(sys.argv[1]) as track:\n"
        "    np.save(sys.argv[2], np.concatenate(list(track.blocks()), axis=1))"
    )
    script = f'cat "{path}" | "$0" -c "$1" - 1.npy && cat "{path}" | "$0" -c "$1" /dev/stdin 2.npy && "$0" -c "$1" <(cat "{path}") 3.npy'
    script += f' && mkfifo pipe && {{ cat "{path}" > pipe & "$0" -c "$1" pipe 4.npy; }} && "$0" -c "$1" - 5.npy < "{path}"'
    subprocess.run(["bash", "-c", script, sys.executable, code], check=True, cwd=tmp_path)
    for number in range(1, 6):
        assert np.array_equal(np.load(tmp_path / f"{number}.npy"), expected)


def mp3(path: Path, rate: int, channels: int, seconds: float, *options: object, seed: int = 0) -> Path:
    wav = path.with_name("to-encode.wav")
    soundfile.write(wav, music(int(seconds * rate), channels, seed).T, rate, format="WAV", subtype="FLOAT")
    ffmpeg("-i", wav, *options, "-f", "mp3", path)
    return path


@pytest.mark.parametrize("path_of_programs", ["with ffmpeg", "alone"])
@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("options", [["-q:a", "4"], ["-b:a", "64k"]], ids=["variable", "constant"])
def test_an_mp3_without_a_header(
    tmp_path: Path, rate: int, channels: int, options: list[str], path_of_programs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every encoder writes it into a pipe. Silence, then noise: the first frame says little of the bit rate."""
    path = mp3(tmp_path / "a.mp3", rate, channels, 30, "-af", "adelay=10s:all=1", *options, "-write_xing", 0, "-id3v2_version", 0)
    expected = decode(path, channels)
    if path_of_programs == "alone":
        monkeypatch.setenv("PATH", "")
    wav, samplerate = read(path)
    assert samplerate == rate
    assert wav.shape == expected.shape
    assert np.abs(wav - expected).max() < 1e-3  # two decoders of one standard


@pytest.mark.parametrize("ending", ["mp3", "bare.mp3", "ogg", "opus"])
def test_files_that_were_joined_by_cat(tmp_path: Path, ending: str) -> None:
    parts = []
    for number, seconds in enumerate((5, 3, 4)):
        wav, path = tmp_path / f"{number}.wav", tmp_path / f"{number}.{ending}"
        soundfile.write(wav, music(int(seconds * 48000), 2, number).T, 48000, subtype="FLOAT")
        ffmpeg("-i", wav, *(["-write_xing", 0] if ending == "bare.mp3" else ["-c:a", "libvorbis"] if ending == "ogg" else []), path)
        parts.append(path)
    joined = tmp_path / f"joined.{ending}"
    joined.write_bytes(b"".join(path.read_bytes() for path in parts))
    assert np.array_equal(read(joined)[0], np.concatenate([read(path)[0] for path in parts], axis=1))
    assert abs(read(joined)[0].shape[1] - 12 * 48000) < 3 * 2500  # with the encoder's own silence


@pytest.mark.parametrize("ending", ["mp3", "ogg"])
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (48000, 1)])
def test_joined_files_that_change_on_the_way(tmp_path: Path, ending: str, rate: int, channels: int) -> None:
    paths = [tmp_path / f"1.{ending}", tmp_path / f"2.{ending}"]
    for path, (hertz, count) in zip(paths, [(48000, 2), (rate, channels)], strict=True):
        wav = tmp_path / "a.wav"
        soundfile.write(wav, music(3 * hertz, count).T, hertz, subtype="FLOAT")
        ffmpeg("-i", wav, *(["-c:a", "libvorbis"] if ending == "ogg" else []), path)
    joined = tmp_path / f"joined.{ending}"
    joined.write_bytes(b"".join(path.read_bytes() for path in paths))
    with pytest.raises(AudioError, match=rf"changes? from 48000 Hz and 2 channels to {rate} Hz and {channels}.*save it again as one WAV"):
        read(joined)


@pytest.mark.skipif(shutil.which("lame") is None, reason="the program lame is missing")
def test_lame_without_its_tag(tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, music(30 * 44100).T, 44100)
    subprocess.run(["lame", "--quiet", "-t", "-V", "5", wav, tmp_path / "a.mp3"], check=True)
    assert read(tmp_path / "a.mp3")[0].shape == decode(tmp_path / "a.mp3", 2).shape


def test_an_mp3_that_was_cut(tmp_path: Path) -> None:
    whole = mp3(tmp_path / "a.mp3", 44100, 2, 20, "-q:a", "4").read_bytes()
    path = tmp_path / "cut.mp3"
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.warns(AudioWarning, match=r"cut\.mp3: is damaged \(.*\); the (9|10)\.\d s of 20\.0 s that can be decoded are kept"):
        kept = read(path)[0]
    assert np.abs(kept - decode(path, 2)[:, : kept.shape[1]]).max() < 1e-3


def test_blocks_of_an_mp3_are_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """python-soundfile seeks after each read, which garbled the frame after each block."""
    path = mp3(tmp_path / "a.mp3", 22050, 1, 8, "-q:a", "4")
    whole = soundfile.read(path, dtype="float32", always_2d=True)[0].T
    monkeypatch.setattr(audio.source, "BLOCK", 3001)
    assert np.abs(read(path)[0] - whole).max() < 1e-5


def test_a_flac_behind_an_id3_tag(tmp_path: Path) -> None:
    """Some programs write that. The bytes of the FLAC are no frames of an MP3, whatever stands in them."""
    tag = mp3(tmp_path / "a.mp3", 44100, 2, 1, "-metadata", "title=words").read_bytes()
    assert tag[:3] == b"ID3"
    tag = tag[: 10 + (tag[8] << 7 | tag[9])]
    flac = encode(tmp_path / "a.flac", 44100, 2, "-c:a", "flac", "-sample_fmt", "s16", seconds=20)
    (tmp_path / "b.flac").write_bytes(tag + flac.read_bytes())
    assert np.array_equal(read(tmp_path / "b.flac")[0], read(flac)[0])


def test_an_mp3_with_noise_between_its_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands by chance in the noise is taken for no frame of another rate; where libsndfile stops at it, ffmpeg goes on."""
    whole = mp3(tmp_path / "a.mp3", 44100, 2, 20, "-q:a", "4", "-write_xing", 0, "-id3v2_version", 0).read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    noise += bytes.fromhex("fffb10c4") + bytes(200) + bytes.fromhex("fff310c4")
    path = tmp_path / "b.mp3"
    path.write_bytes(whole[:100_000] + noise + whole[100_000:])
    with pytest.warns(AudioWarning, match=r"b\.mp3: is damaged \(ffmpeg: .*\); the 20\.0 s of 20\.0 s that can be decoded are kept"):
        assert abs(read(path)[0].shape[1] - 20 * 44100) < 3 * 1152 + 2500
    monkeypatch.setenv("PATH", "")
    with pytest.warns(
        AudioWarning, match=r"b\.mp3: is damaged \(it stops before the end\); the 5\.7 s of 20\.0 s that can be decoded are kept"
    ):
        assert read(path)[0].shape[1] == pytest.approx(5.7 * 44100, abs=4410)


@pytest.mark.skipif(shutil.which("lame") is None, reason="the program lame is missing")
def test_the_decoder_says_nothing_of_its_own(tmp_path: Path) -> None:
    """libmpg123 writes on standard error what it finds in a damaged file."""
    path = tmp_path / "a.mp3"
    wav = 0.3 * np.sin(np.arange(4 * 44100) / 20)[:, None] * np.ones(2)
    soundfile.write(tmp_path / "a.wav", wav, 44100)
    subprocess.run(["lame", "--quiet", tmp_path / "a.wav", path], check=True)
    data = bytearray(path.read_bytes())
    data[20_000:20_000] = b"no frame" * 50
    path.write_bytes(data)
    code = f"""
import sys, warnings
from demucs_np.audio import open_track
warnings.simplefilter("ignore")
with open_track({str(path)!r}) as track:
    print(sum(block.shape[1] for block in track.blocks()))
sys.stderr.write("still here")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert int(done.stdout) > 44100
    assert done.stderr == "still here"
