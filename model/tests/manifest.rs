//! What `model.yaml` may say, and how it is told what is wrong.

#![allow(clippy::unwrap_used)]

use perwatt_model::{Datatype, Manifest, SpikingReadout};

const GOOD: &str = r#"
schema: 1
name: gate
version: "1.2"
description: A gate
licence: {spdx: MIT, file: LICENSE}
inputs: [{name: in, datatype: FP32, shape: [1, 512]}]
outputs: [{name: out, datatype: FP32, shape: [1, 1]}]
sequence:
  state: [{input: h, output: hn, datatype: FP32, shape: [2, 1, 128]}]
  context: [{input: in, samples: 64}]
files:
- path: a.onnx
  sha256: "0000000000000000000000000000000000000000000000000000000000000000"
  backend: Onnx
  precision: float32
  quality: {accuracyPermille: 981}
labels: [speech]
"#;

#[test]
fn a_good_one_is_read_and_the_model_sees_context_and_state() {
    let manifest = Manifest::parse(GOOD).unwrap();
    let inputs = manifest.model_inputs();
    assert_eq!(inputs[0].shape, [1, 576]);
    assert_eq!(
        (inputs[1].name.as_str(), &inputs[1].shape[..]),
        ("h", &[2, 1, 128][..])
    );
    let outputs = manifest.model_outputs();
    assert_eq!(
        outputs.iter().map(|o| o.name.as_str()).collect::<Vec<_>>(),
        ["out", "hn"]
    );
    assert_eq!(manifest.inputs[0].datatype, Datatype::Fp32);
    assert_eq!(
        manifest
            .file("a.onnx")
            .unwrap()
            .quality
            .unwrap()
            .accuracy_permille,
        981
    );
    // What is written is read again as the same.
    assert_eq!(
        Manifest::parse(&serde_yaml::to_string(&manifest).unwrap()).unwrap(),
        manifest
    );
}

/// Replaces `from` by `to` in the good text and expects an error that says all of `says`.
#[track_caller]
fn refused(from: &str, to: &str, says: &[&str]) {
    assert!(GOOD.contains(from), "the test's {from:?} is not in the text");
    let error = Manifest::parse(&GOOD.replacen(from, to, 1))
        .unwrap_err()
        .to_string();
    for part in says {
        assert!(error.contains(part), "{error:?} does not say {part:?}");
    }
}

#[test]
fn an_unknown_field_is_named() {
    refused("labels:", "lables:", &["lables", "line"]);
    refused(
        "samples: 64",
        "samples: 64, step: 1",
        &["sequence.context[0]", "step"],
    );
}

#[test]
fn another_schema_is_said_before_its_unknown_fields() {
    refused(
        "schema: 1\n",
        "schema: 2\nnew: field\n",
        &["schema", "2", "use 1"],
    );
    refused("schema: 1\n", "", &["schema", "missing"]);
    refused("schema: 1\n", "schema: one\n", &["schema", "one"]);
}

#[test]
fn a_missing_field_is_named() {
    refused("  backend: Onnx\n", "", &["files[0]", "backend"]);
    refused("name: gate\n", "", &["name"]);
}

#[test]
fn a_version_keeps_every_digit_with_and_without_quotes() {
    for version in ["\"1.10\"", "1.10"] {
        let manifest = Manifest::parse(&GOOD.replacen("\"1.2\"", version, 1)).unwrap();
        assert_eq!(manifest.version.as_str(), "1.10");
    }
    refused("\"1.2\"", "1/2", &["not a version", "line"]);
}

#[test]
fn a_path_that_leaves_the_folder_is_refused() {
    for path in ["../a.onnx", "/a.onnx", "a/../../b", "a//b", "./a", "a\\b", ""] {
        refused(
            "path: a.onnx",
            &format!("path: '{path}'"),
            &["files[0]", "inside the model folder"],
        );
    }
    refused(
        "file: LICENSE",
        "file: ../LICENSE",
        &["licence", "inside the model folder"],
    );
}

#[test]
fn a_hash_that_is_none_is_refused() {
    refused("\"0000", "\"0x00", &["files[0]", "64 lower-case"]);
    refused("\"0000", "\"000", &["files[0]"]);
}

#[test]
fn names_are_parsed() {
    refused("name: gate", "name: Gate", &["name", "lower-case"]);
    refused("name: gate", "name: a/b", &["name"]);
    refused("{name: in,", "{name: 'in put',", &["inputs[0]", "without spaces"]);
    refused("[speech]", "[\"two\\nlines\"]", &["labels", "one line"]);
}

#[test]
fn shapes_are_bounded() {
    refused("[1, 512]", "[1, 0]", &["inputs[0].shape", "1 or more"]);
    refused("[1, 512]", "[1, -1]", &["inputs[0].shape"]);
    refused(
        "[1, 512]",
        "[4294967295, 4294967295, 4294967295]",
        &["inputs[0].shape", "elements"],
    );
    refused("[1, 1]", "[1,1,1,1,1,1,1,1,1]", &["outputs[0].shape", "axes"]);
    refused(
        "[2, 1, 128]",
        "[65536, 65536]",
        &["sequence.state[0].shape", "elements"],
    );
}

#[test]
fn unknown_types_backends_and_precisions_are_named_with_what_is_known() {
    refused(
        "datatype: FP32",
        "datatype: FLOAT",
        &["inputs[0].datatype", "FLOAT", "FP32"],
    );
    refused(
        "backend: Onnx",
        "backend: Magic",
        &["files[0].backend", "Magic", "Onnx"],
    );
    refused("float32", "float31", &["files[0].precision", "float31"]);
}

#[test]
fn a_sequence_must_fit_the_inputs() {
    refused(
        "{input: in, samples",
        "{input: other, samples",
        &["sequence.context[0].input", "other"],
    );
    refused(
        "samples: 64",
        "samples: 513",
        &["sequence.context[0].samples", "512"],
    );
    refused("samples: 64", "samples: 0", &["sequence.context[0].samples"]);
    refused("[1, 512]", "[2, 512]", &["sequence.context[0].input", "length 1"]);
    refused("{input: h,", "{input: in,", &["inputs", "twice"]);
    refused("output: hn", "output: out", &["outputs", "twice"]);
}

#[test]
fn lists_have_a_least_and_a_most() {
    refused(
        "[{name: in, datatype: FP32, shape: [1, 512]}]",
        "[]",
        &["inputs", "0 entries"],
    );
    let labels = format!("[{}]", vec!["x"; 20_001].join(","));
    refused("[speech]", &labels, &["labels", "20001"]);
    refused(
        "accuracyPermille: 981",
        "accuracyPermille: 1001",
        &["accuracyPermille", "1000"],
    );
}

#[test]
fn a_file_named_twice_or_itself_is_refused() {
    let files = GOOD.find("- path").unwrap();
    let again = &GOOD[files..GOOD.find("labels").unwrap()];
    refused(
        "labels:",
        &format!("{again}labels:"),
        &["files", "a.onnx", "twice"],
    );
    refused("a.onnx", "model.yaml", &["files[0].path", "itself"]);
}

#[test]
fn text_that_is_no_yaml_too_large_or_a_bomb_is_refused_and_never_panics() {
    let bomb = format!(
        "schema: 1\na: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (1..40)
            .map(|i| format!(
                "a{i}: &a{i} [*a{0},*a{0},*a{0},*a{0},*a{0},*a{0},*a{0}]\n",
                if i == 1 {
                    String::new()
                } else {
                    (i - 1).to_string()
                }
            ))
            .collect::<String>()
    );
    let deep = format!("schema: 1\nname: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    let steps = format!("schema: 1\nname: {}", "- ".repeat(400_000));
    let large = format!("schema: 1\n# {}", "x".repeat(1 << 20));
    for text in [
        "",
        "schema",
        "\0",
        "{",
        "schema: 1\n---\nschema: 1",
        "[1]",
        "schema: 1\nschema: 1\n",
        &bomb,
        &deep,
        &steps,
        &large,
    ] {
        assert!(Manifest::parse(text).is_err());
    }
    // Every cut of a good text is refused or read, never a panic.
    for end in 0..GOOD.len() {
        let _ = Manifest::parse(&GOOD[..end]);
    }
}

#[test]
fn a_spiking_network_says_its_steps_and_nothing_else_does() {
    let spiking = "backend: Spiking\n  spiking: {stepMicroseconds: 1000, steps: 32, readout: Mean}";
    let manifest = Manifest::parse(&GOOD.replacen("backend: Onnx", spiking, 1)).unwrap();
    let spec = manifest.files[0].spiking.unwrap();
    assert_eq!(
        (spec.step_microseconds, spec.steps, spec.readout),
        (Some(1000), 32, SpikingReadout::Mean)
    );
    assert_eq!(
        Manifest::parse(&serde_yaml::to_string(&manifest).unwrap()).unwrap(),
        manifest
    );
    let with = |spiking: &str, says: &[&str]| refused("backend: Onnx", spiking, says);
    with("backend: Spiking", &["files[0].spiking", "needs it"]);
    with(
        "backend: Onnx\n  spiking: {steps: 1}",
        &["files[0].spiking", "only backend Spiking"],
    );
    with(
        "backend: Spiking\n  spiking: {steps: 0}",
        &["files[0].spiking.steps", "between 1 and 65536"],
    );
    with(
        "backend: Spiking\n  spiking: {steps: 65537}",
        &["files[0].spiking.steps"],
    );
    with(
        "backend: Spiking\n  spiking: {steps: 1, stepMicroseconds: 0}",
        &["stepMicroseconds", "cannot be 0"],
    );
    with("backend: Spiking\n  spiking: {steps: 1, window: 2}", &["window"]);
}

#[test]
fn safe_values_fit_their_outputs() {
    let with =
        |value: &str| Manifest::parse(&GOOD.replace("labels: [speech]", &format!("safeValue: [{value}]")));
    for value in [
        "{output: out, value: 0}",
        "{output: out, value: 0.5}",
        "{output: out, value: [-1e3]}",
    ] {
        let manifest = with(value).unwrap();
        assert_eq!(manifest.safe_value[0].elements(&manifest.outputs[0]).len(), 1);
    }
    for (value, says) in [
        ("{output: hn, value: 0}", "no output is named \"hn\""),
        ("{output: out, value: true}", "no FP32"),
        ("{output: out, value: .nan}", "no FP32"),
        ("{output: out, value: 1e39}", "no FP32"),
        ("{output: out, value: [0, 1]}", "2 values"),
        ("{output: out, value: []}", "0 values"),
        ("{output: out, value: 0}, {output: out, value: 0}", "twice"),
        ("{output: out}", "value"),
    ] {
        let error = with(value).unwrap_err().to_string();
        assert!(
            error.contains("safeValue") && error.contains(says),
            "{value}: {error}"
        );
    }
    let two = GOOD.replace(
        "outputs: [{name: out, datatype: FP32, shape: [1, 1]}]",
        "outputs: [{name: out, datatype: UINT8, shape: [2]}, {name: b, datatype: FP32, shape: [1]}]",
    );
    let with =
        |value: &str| Manifest::parse(&two.replace("labels: [speech]", &format!("safeValue: [{value}]")));
    let error = with("{output: b, value: 0}").unwrap_err().to_string();
    assert!(error.contains("every output"), "{error}");
    let error = with("{output: b, value: 0}, {output: out, value: [1, 256]}")
        .unwrap_err()
        .to_string();
    assert!(error.contains("value 1 is no UINT8"), "{error}");
    let manifest = with("{output: b, value: 0}, {output: out, value: 7}").unwrap();
    assert_eq!(manifest.safe_value[1].elements(&manifest.outputs[0]).len(), 2);
}

const CONFIDENCE: &str = "confidence:\n  output: out\n  transform: Sigmoid\n  reference:\n    \
    edges: [0, 0.25, 0.5, 1]\n    counts: [70, 20, 10]\n";

#[test]
fn a_reference_of_confidence_is_read_and_bins_every_number() {
    let text = format!("{GOOD}{CONFIDENCE}");
    let manifest = Manifest::parse(&text).unwrap();
    let reference = &manifest.confidence.as_ref().unwrap().reference;
    for (value, bin) in [
        (0.0, 0),
        (0.249, 0),
        (0.25, 1),
        (0.5, 2),
        (1.0, 2),
        (7.0, 2),
        (-7.0, 0),
        (f64::INFINITY, 2),
        (f64::NEG_INFINITY, 0),
    ] {
        assert_eq!(reference.bin(value), Some(bin), "{value}");
    }
    assert_eq!(reference.bin(f64::NAN), None);
    assert_eq!(
        Manifest::parse(&serde_yaml::to_string(&manifest).unwrap()).unwrap(),
        manifest
    );
}

#[test]
fn a_reference_of_confidence_that_cannot_be_is_refused() {
    let many_edges = (0..=65).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let many_counts = vec!["1"; 65].join(", ");
    for (from, to, says) in [
        ("output: out", "output: other", "no output is named \"other\""),
        ("Sigmoid", "Tanh", "Tanh"),
        (
            "[0, 0.25, 0.5, 1]",
            "[0, 0.5, 1]",
            "3 bins have 4 edges, here are 3",
        ),
        (
            "[0, 0.25, 0.5, 1]",
            "[0, 0.5, 0.5, 1]",
            "larger than the one before",
        ),
        (
            "[0, 0.25, 0.5, 1]",
            "[0, 0.5, 0.25, 1]",
            "larger than the one before",
        ),
        ("[0, 0.25, 0.5, 1]", "[0, 0.25, 0.5, .inf]", "finite"),
        ("[0, 0.25, 0.5, 1]", "[0, .nan, 0.5, 1]", "finite"),
        ("[70, 20, 10]", "[0, 0, 0]", "all are 0"),
        ("[70, 20, 10]", "[70, -1, 10]", "counts"),
        ("[70, 20, 10]", "[18446744073709551615, 1, 1]", "together"),
        ("[70, 20, 10]", "[]", "0 bins"),
        ("[70, 20, 10]", "[70]", "1 bins"),
        ("[70, 20, 10]", &format!("[{many_counts}]"), "65 bins"),
        ("[0, 0.25, 0.5, 1]", &format!("[{many_edges}]"), "here are 66"),
        ("transform", "transfrom", "transfrom"),
    ] {
        assert!(CONFIDENCE.contains(from), "{from}");
        let text = format!("{GOOD}{}", CONFIDENCE.replacen(from, to, 1));
        let error = Manifest::parse(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{error:?} does not say {says:?}");
    }
    let whole = GOOD.replacen("name: out, datatype: FP32", "name: out, datatype: INT8", 1);
    let error = Manifest::parse(&format!("{whole}{CONFIDENCE}"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("INT8") && error.contains("FP32"), "{error}");
}

#[test]
fn batching_is_bounded_and_needs_a_first_axis_of_one() {
    let stateless = GOOD.replace(
        "sequence:\n  state: [{input: h, output: hn, datatype: FP32, shape: [2, 1, 128]}]\n  context: [{input: in, samples: 64}]\n",
        "",
    );
    let with = |yaml: &str, batching: &str| {
        Manifest::parse(&yaml.replacen(
            "backend: Onnx",
            &format!("backend: Onnx\n  batching: {batching}"),
            1,
        ))
    };
    let manifest = with(&stateless, "{maxSize: 12, maxDelayMicroseconds: 2000}").unwrap();
    let sizes: Vec<_> = manifest.files[0].batching.unwrap().sizes().collect();
    assert_eq!(sizes, [2, 4, 8]);
    assert_eq!(
        Manifest::parse(&serde_yaml::to_string(&manifest).unwrap()).unwrap(),
        manifest
    );
    let long = stateless.replace("shape: [1, 512]", "shape: [2, 512]");
    let huge = stateless.replace("shape: [1, 512]", "shape: [1, 33554432]");
    for (yaml, batching, says) in [
        (&stateless, "{maxSize: 1}", "1 is not between 2 and 64"),
        (&stateless, "{maxSize: 65}", "65 is not between 2 and 64"),
        (
            &stateless,
            "{maxSize: 2, maxDelayMicroseconds: 1000001}",
            "the most is 1000000",
        ),
        (&stateless, "{maxSize: 2, delay: 1}", "unknown field"),
        (&GOOD.to_owned(), "{maxSize: 2}", "leave batching out"),
        (&long, "{maxSize: 2}", "the first axis of \"in\" must be 1"),
        (&huge, "{maxSize: 4}", "4 requests have more than"),
    ] {
        let error = with(yaml, batching).unwrap_err().to_string();
        assert!(
            error.contains("batching") && error.contains(says),
            "{batching}: {error}"
        );
    }
}
