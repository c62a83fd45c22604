//! Steps before and after a model: read, followed from tensor to tensor, and refused where they do not fit.

#![allow(clippy::unwrap_used)]

use perwatt_model::Manifest;

const PHOTO: &str = r#"
schema: 1
name: photo
version: "1"
inputs: [{name: photo, datatype: BYTES, shape: [1]}]
outputs:
- {name: label, datatype: BYTES, shape: [3]}
- {name: score, datatype: FP32, shape: [3]}
preprocess:
- from: photo
  to: {name: x, datatype: FP32, shape: [1, 3, 224, 224]}
  steps:
  - {step: DecodeImage, maxPixels: 20000000}
  - {step: Resize, shorterSide: 256, filter: Bilinear}
  - {step: Crop, height: 224, width: 224}
  - {step: Normalize, mean: [127, 127, 127], std: [128, 128, 128]}
  - {step: Layout, to: CHW}
postprocess:
- from: {name: logits, datatype: FP32, shape: [1, 4]}
  to: label
  steps: [{step: TopK, count: 3, give: Labels}]
- from: {name: logits, datatype: FP32, shape: [1, 4]}
  to: score
  steps:
  - {step: Softmax}
  - {step: TopK, count: 3, give: Values}
labels: [cat, dog, cow, owl]
files:
- path: a.onnx
  sha256: "0000000000000000000000000000000000000000000000000000000000000000"
  backend: Onnx
  precision: float32
"#;

const SPEECH: &str = r#"
schema: 1
name: words
version: "1"
inputs: [{name: pcm, datatype: INT16, shape: [1, 3840]}]
outputs:
- {name: heard, datatype: BOOL, shape: [1, 1]}
- {name: probability, datatype: FP32, shape: [1, 1]}
preprocess:
- from: pcm
  to: {name: mel, datatype: INT8, shape: [1, 49, 40]}
  steps:
  - {step: Pcm16}
  - {step: Resample, fromHertz: 48000, toHertz: 16000}
  - {step: PreEmphasis, coefficient: 0.97}
  - {step: Reshape, shape: [1280, 1]}
  - {step: SlidingWindow, rows: 8080}
  - {step: Reshape, shape: [8080]}
  - {step: LogMel, sampleRateHertz: 16000, windowLength: 400, hop: 160, fftLength: 512, bands: 40, highHertz: 7600,
     scale: Htk, norm: Peak}
  - {step: Quantize, datatype: INT8, scale: 0.1, zeroPoint: -5}
postprocess:
- from: {name: p, datatype: FP32, shape: [1, 1]}
  to: heard
  steps: [{step: Smooth, weight: 0.5}, {step: Threshold, rise: 0.6, fall: 0.4}]
- from: {name: p, datatype: FP32, shape: [1, 1]}
  to: probability
  steps: [{step: MovingMean, rows: 4}]
files:
- path: a.onnx
  sha256: "0000000000000000000000000000000000000000000000000000000000000000"
  backend: Onnx
  precision: int8
"#;

fn names(specs: &[perwatt_model::TensorSpec]) -> Vec<String> {
    specs
        .iter()
        .map(|s| format!("{} {} {:?}", s.name, s.datatype.as_str(), s.shape))
        .collect()
}

#[test]
fn a_client_sends_a_photo_and_the_model_takes_a_tensor() {
    let manifest = Manifest::parse(PHOTO).unwrap();
    assert_eq!(names(&manifest.inputs), ["photo BYTES [1]"]);
    assert_eq!(names(&manifest.model_inputs()), ["x FP32 [1, 3, 224, 224]"]);
    assert_eq!(
        names(&manifest.model_outputs()),
        ["logits FP32 [1, 4]"],
        "two outputs from one"
    );
    assert_eq!(manifest.most_bytes(&manifest.inputs[0].name), 8 << 20);
    let again = serde_yaml::to_string(&manifest).unwrap();
    assert_eq!(
        Manifest::parse(&again).unwrap(),
        manifest,
        "what is written is read again as the same"
    );
}

#[test]
fn audio_events_and_boxes_are_followed_too() {
    let manifest = Manifest::parse(SPEECH).unwrap();
    assert_eq!(names(&manifest.model_inputs()), ["mel INT8 [1, 49, 40]"]);
    let again = serde_yaml::to_string(&manifest).unwrap();
    assert_eq!(Manifest::parse(&again).unwrap(), manifest);
    let boxes = PHOTO
        .replace("{name: score, datatype: FP32, shape: [3]}", "{name: score, datatype: FP32, shape: [10, 6]}")
        .replace("- from: {name: logits, datatype: FP32, shape: [1, 4]}\n  to: score", "- from: {name: boxes, datatype: FP32, shape: [1, 4, 99]}\n  to: score")
        .replace("  - {step: Softmax}\n", "  - {step: Join, with: {name: classes, datatype: FP32, shape: [1, 2, 99]}, axis: 1}\n  - {step: Transpose, axes: [0, 2, 1]}\n")
        .replace("{step: TopK, count: 3, give: Values}", "{step: NonMaximumSuppression, form: Center, score: 0.3, overlap: 0.5, most: 10}");
    let manifest = Manifest::parse(&boxes).unwrap();
    assert_eq!(
        names(&manifest.model_outputs()),
        [
            "logits FP32 [1, 4]",
            "boxes FP32 [1, 4, 99]",
            "classes FP32 [1, 2, 99]"
        ]
    );
    let motion = SPEECH
        .replace("INT16, shape: [1, 3840]", "FP32, shape: [100, 6]")
        .replace("INT8, shape: [1, 49, 40]", "FP32, shape: [100, 12]");
    let (start, end) = (
        motion.find("  - {step: Pcm16}").unwrap(),
        motion.find("postprocess").unwrap(),
    );
    let motion = motion.replace(&motion[start..end], "  - {step: Delta, up: 0.5, down: 0.25}\n");
    assert_eq!(
        names(&Manifest::parse(&motion).unwrap().model_inputs()),
        ["mel FP32 [100, 12]"]
    );
}

#[test]
fn context_is_put_before_what_the_steps_give() {
    let with = |input: &str| format!("{SPEECH}sequence: {{context: [{{input: {input}, samples: 2}}]}}\n");
    let (start, end) = (
        SPEECH.find("  - {step: Pcm16}").unwrap(),
        SPEECH.find("postprocess").unwrap(),
    );
    let short = |text: &str| {
        text.replace(&SPEECH[start..end], "  - {step: Pcm16}\n")
            .replace("INT8, shape: [1, 49, 40]", "FP32, shape: [1, 3840]")
    };
    let manifest = Manifest::parse(&short(&with("mel"))).unwrap();
    assert_eq!(names(&manifest.model_inputs()), ["mel FP32 [1, 3842]"]);
    let error = Manifest::parse(&short(&with("pcm"))).unwrap_err().to_string();
    assert!(
        error.contains("sequence.context[0].input") && error.contains("pcm"),
        "{error}"
    );
}

/// Replaces `from` by `to` and expects an error that says all of `says`.
#[track_caller]
fn refused(text: &str, from: &str, to: &str, says: &[&str]) {
    assert!(text.contains(from), "the test's {from:?} is not in the text");
    let error = Manifest::parse(&text.replacen(from, to, 1))
        .unwrap_err()
        .to_string();
    for part in says {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn an_unknown_step_or_field_is_named() {
    refused(PHOTO, "step: Softmax", "step: Softmix", &["Softmix", "Softmax"]);
    refused(PHOTO, "{step: Softmax}", "{step: Softmax, axis: 1}", &["axis"]);
    refused(PHOTO, "shorterSide: 256", "shorterside: 256", &["shorterside"]);
    refused(
        PHOTO,
        "filter: Bilinear",
        "filter: Linear",
        &["Linear", "Bilinear"],
    );
    refused(PHOTO, "give: Values", "give: Value", &["Value"]);
    refused(SPEECH, "bands: 40,", "bands: 40, band: 1,", &["band"]);
    refused(SPEECH, ", norm: Peak}", "}", &["norm"]);
}

#[test]
fn what_does_not_fit_is_said_with_its_step() {
    let at = "preprocess[0].steps";
    refused(
        PHOTO,
        "datatype: BYTES, shape: [1]}",
        "datatype: UINT8, shape: [1]}",
        &[at, "[0] (DecodeImage)", "expects BYTES", "UINT8 [1]"],
    );
    refused(
        PHOTO,
        "  - {step: DecodeImage, maxPixels: 20000000}\n",
        "",
        &["[0] (Resize)", "image", "BYTES"],
    );
    refused(
        PHOTO,
        "  - {step: Crop, height: 224, width: 224}\n",
        "",
        &["preprocess[0].to", "FP32 [3, ?, ?]", "Crop"],
    );
    refused(
        PHOTO,
        "{step: Crop, height: 224, width: 224}",
        "{step: Crop, height: 225, width: 224}",
        &["preprocess[0].to", "FP32 [3, 225, 224]", "FP32 [1, 3, 224, 224]"],
    );
    refused(
        PHOTO,
        "  - {step: Normalize, mean: [127, 127, 127], std: [128, 128, 128]}\n",
        "",
        &["preprocess[0].to", "UINT8", "Cast"],
    );
    refused(
        PHOTO,
        "mean: [127, 127, 127], std: [128, 128, 128]",
        "mean: [127, 127], std: [128, 128]",
        &["[3] (Normalize)", "2 channels"],
    );
    refused(
        PHOTO,
        "std: [128, 128, 128]",
        "std: [128, 0, 128]",
        &["(Normalize)", "zero"],
    );
    refused(
        PHOTO,
        "std: [128, 128, 128]",
        "std: [.nan, 1, 1]",
        &["(Normalize)"],
    );
    refused(
        PHOTO,
        "shorterSide: 256",
        "shorterSide: 256, height: 3",
        &["(Resize)", "shorterSide"],
    );
    refused(
        PHOTO,
        "maxPixels: 20000000",
        "maxPixels: 4000000000",
        &["(DecodeImage)", "maxPixels"],
    );
    refused(
        PHOTO,
        "labels: [cat, dog, cow, owl]",
        "labels: [cat]",
        &["postprocess[0].steps[0] (TopK)", "4", "labels has 1"],
    );
    refused(
        PHOTO,
        "count: 3, give: Values",
        "count: 5, give: Values",
        &["postprocess[1].steps[1] (TopK)", "5"],
    );
    refused(
        SPEECH,
        "shape: [1, 3840]",
        "shape: [1, 3841]",
        &["(Resample)", "3841", "multiple of 3"],
    );
    refused(
        SPEECH,
        "shape: [1, 3840]",
        "shape: [2, 1920]",
        &["(Pcm16)", "one signal"],
    );
    refused(SPEECH, "INT16", "INT32", &["(Pcm16)", "INT16"]);
    refused(SPEECH, "toHertz: 16000", "toHertz: 0", &["(Resample)", "rate"]);
    refused(
        SPEECH,
        "highHertz: 7600",
        "highHertz: 9000",
        &["(LogMel)", "8000 Hz"],
    );
    refused(SPEECH, "rows: 8080", "rows: 1279", &["(SlidingWindow)", "1280"]);
    refused(SPEECH, "fall: 0.4", "fall: 0.7", &["(Threshold)", "fall"]);
    refused(SPEECH, "weight: 0.5", "weight: 0", &["(Smooth)", "weight"]);
}

#[test]
fn names_of_tensors_are_held_to_each_other() {
    refused(
        PHOTO,
        "- from: photo",
        "- from: foto",
        &["preprocess[0].from", "foto"],
    );
    refused(PHOTO, "to: score", "to: scores", &["postprocess[1].to", "scores"]);
    refused(
        PHOTO,
        "to: score",
        "to: label",
        &["postprocess", "label", "twice"],
    );
    // One output of the model cannot have two shapes.
    let logits = "- from: {name: logits, datatype: FP32, shape: [1, 4]}\n  to: score";
    refused(
        PHOTO,
        logits,
        "- from: {name: logits, datatype: FP32, shape: [4]}\n  to: score",
        &["outputs", "logits"],
    );
    let join = "{step: Join, with: {name: b, datatype: FP32, shape: [1]}, axis: 0}";
    refused(
        PHOTO,
        "{step: Layout, to: CHW}",
        join,
        &["preprocess[0].steps[4] (Join)", "postprocess"],
    );
}

#[test]
fn steps_and_their_memory_are_bounded() {
    let many = "  - {step: Softmax}\n".repeat(65);
    refused(
        PHOTO,
        "  - {step: Softmax}\n",
        &many,
        &["postprocess", "more than 64"],
    );
    refused(
        SPEECH,
        "rows: 4}",
        "rows: 4000000}",
        &["numbers for each sequence", "the most is 1048576"],
    );
    refused(
        SPEECH,
        "rows: 8080",
        "rows: 4294967295",
        &["(SlidingWindow)", "elements"],
    );
    refused(
        PHOTO,
        "shape: [3]}\npreprocess",
        "shape: [3]}\n- {name: extra, datatype: FP32, shape: [0]}\npreprocess",
        &["outputs[2].shape"],
    );
    refused(
        PHOTO,
        "{step: Softmax}",
        "{step: Reshape, shape: [0, 4]}",
        &["(Reshape)"],
    );
    refused(
        PHOTO,
        "{step: Softmax}",
        "{step: Reshape, shape: [4294967295, 4294967295, 4294967295]}",
        &["(Reshape)"],
    );
    for end in 0..PHOTO.len() {
        let _ = Manifest::parse(&PHOTO[..end]);
    }
}
