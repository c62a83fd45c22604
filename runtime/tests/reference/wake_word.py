"""Makes the wake-word test's data: spoken phrases as features, and what the reference answers to them.

    wake_word.py FOLDER     ->     FOLDER/features.i8  FOLDER/answers.txt

The phrases are spoken by espeak-ng (package espeakng-loader), turned into features by pymicro-features, and
answered by LiteRT's own Python package (ai-edge-litert, its plain kernels) and by pymicro-wakeword: both must say
the same.
`features.i8` holds one request (int8 [1, 3, 40]) after the other; `answers.txt` one uint8 a line.
"""

import ctypes
import pathlib
import sys

import espeakng_loader
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from pymicro_wakeword import MicroWakeWord, MicroWakeWordFeatures, Model

RATE = 16000
PHRASES = ["turn on the light", "okay nabu", "hey jarvis"]


def speaker():
    """A function that speaks a text, as samples of 16 kHz."""
    lib = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = lib.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 0)
    heard = bytearray()

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
    def listen(samples, count, _events):
        if samples and count > 0:
            heard.extend(ctypes.string_at(samples, 2 * count))
        return 0

    lib.espeak_SetSynthCallback(listen)
    lib.espeak_SetVoiceByName(b"en-us")
    lib.espeak_SetParameter(1, 160, 0)  # words a minute

    def say(text):
        heard.clear()
        spelled = text.encode() + b"\0"
        lib.espeak_Synth(spelled, ctypes.c_size_t(len(spelled)), 0, 1, 0, 1, None, None)
        lib.espeak_Synchronize()
        wave = np.frombuffer(bytes(heard), np.int16).astype(float)
        at = np.arange(len(wave) * RATE // rate) * rate / RATE
        return np.interp(at, np.arange(len(wave)), wave).astype(np.int16)

    say.keep = listen  # the library calls it for as long as it speaks
    return say


def requests(samples, reference):
    """The features of samples, three frames of 10 ms a request."""
    frames = [f[0] for f in MicroWakeWordFeatures().process_streaming(samples.tobytes())]
    frames = np.concatenate(frames)[: len(frames) // 3 * 3].reshape(-1, 1, 3, 40)
    return np.round(frames / reference.input_scale + reference.input_zero_point).astype(np.int8)


def main(folder):
    say = speaker()
    pause = np.zeros(RATE // 2, np.int16)
    samples = np.concatenate([pause, *(part for phrase in PHRASES for part in (say(phrase), pause, pause))])
    reference = MicroWakeWord.from_builtin(Model.OKAY_NABU)
    features = requests(samples, reference)

    model = str(pathlib.Path(reference.tflite_model))
    interpreter = Interpreter(
        model_path=model, num_threads=1, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    interpreter.allocate_tensors()
    (entry,), (exit_,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for request in features:
        interpreter.set_tensor(entry["index"], request)
        interpreter.invoke()
        answers.append(int(interpreter.get_tensor(exit_["index"])[0, 0]))

    lib, tensor = reference.lib, reference.input_tensor
    for request, answer in zip(features, answers):
        data = np.ascontiguousarray(request)
        lib.TfLiteTensorCopyFromBuffer(tensor, data.ctypes.data_as(ctypes.c_void_p), data.nbytes)
        lib.TfLiteInterpreterInvoke(reference.interpreter)
        other = ctypes.c_uint8()
        lib.TfLiteTensorCopyToBuffer(reference.output_tensor, ctypes.byref(other), 1)
        if other.value != answer:
            sys.exit(f"the two references differ: {other.value} and {answer}")

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "features.i8").write_bytes(features.tobytes())
    (folder / "answers.txt").write_text("".join(f"{answer}\n" for answer in answers))
    print(f"{len(answers)} requests, the largest answer is {max(answers)}")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
