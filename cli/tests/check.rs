//! `model check`: every broken folder is refused, with the right reason.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use support::{
    FLOAT, INT8, INT64, floats, folder, integers, matrix_graph, model, node, onnx, sha256, subgraph,
    sum_graph, text, value, yaml,
};
use tract_onnx::pb;

/// A broken folder: how it is made, and what must be said of it.
struct Broken {
    name: &'static str,
    make: fn(&Path),
    code: &'static str,
    says: &'static [&'static str],
}

fn broken(name: &'static str, code: &'static str, says: &'static [&'static str], make: fn(&Path)) -> Broken {
    Broken {
        name,
        make,
        code,
        says,
    }
}

fn with_graph(dir: &Path, change: impl FnOnce(&mut pb::GraphProto)) {
    let mut graph = sum_graph();
    change(&mut graph);
    folder(dir, &onnx(graph));
}

fn with_yaml(dir: &Path, from: &str, to: &str) {
    let content = onnx(sum_graph());
    folder(dir, &content);
    let text = yaml(&content);
    assert!(text.contains(from), "{from} is not in the yaml");
    fs::write(dir.join("model.yaml"), text.replace(from, to)).unwrap();
}

/// What is wrong with the folder and its files.
fn broken_files() -> Vec<Broken> {
    vec![
        broken("no folder", "Folder", &["cannot read the model folder"], |_| ()),
        broken("no model.yaml", "Missing", &["model.yaml"], |dir| {
            fs::create_dir_all(dir).unwrap()
        }),
        broken("missing file", "Missing", &["a.onnx"], |dir| {
            folder(dir, &onnx(sum_graph()));
            fs::remove_file(dir.join("a.onnx")).unwrap();
        }),
        broken("wrong hash", "Hash", &["SHA-256", "files[].sha256"], |dir| {
            folder(dir, &onnx(sum_graph()));
            fs::write(dir.join("a.onnx"), onnx(matrix_graph(4))).unwrap();
        }),
        broken(
            "link that leads out",
            "File",
            &["outside the model folder"],
            |dir| {
                folder(dir, &onnx(sum_graph()));
                fs::remove_file(dir.join("a.onnx")).unwrap();
                symlink("/etc/passwd", dir.join("a.onnx")).unwrap();
            },
        ),
        broken("folder in place of a file", "File", &["not a file"], |dir| {
            folder(dir, &onnx(sum_graph()));
            fs::remove_file(dir.join("a.onnx")).unwrap();
            fs::create_dir(dir.join("a.onnx")).unwrap();
        }),
        broken("missing licence", "Missing", &["LICENSE"], |dir| {
            with_yaml(dir, "schema: 1", "schema: 1\nlicence: {spdx: MIT, file: LICENSE}");
        }),
    ]
}

/// What is wrong with `model.yaml`.
fn broken_manifests() -> Vec<Broken> {
    vec![
        broken("not YAML", "Manifest", &["line"], |dir| {
            with_yaml(dir, "schema: 1", "schema: [1")
        }),
        broken("unknown field", "Manifest", &["colour"], |dir| {
            with_yaml(dir, "schema: 1", "schema: 1\ncolour: red");
        }),
        broken("later format", "Manifest", &["schema", "2"], |dir| {
            with_yaml(dir, "schema: 1", "schema: 2")
        }),
        broken("huge text", "Manifest", &["bytes", "limit"], |dir| {
            folder(dir, &onnx(sum_graph()));
            fs::write(dir.join("model.yaml"), format!("# {}", "x".repeat(2 << 20))).unwrap();
        }),
        broken("nested garbage", "Manifest", &["nested"], |dir| {
            folder(dir, &onnx(sum_graph()));
            fs::write(dir.join("model.yaml"), "[".repeat(100_000)).unwrap();
        }),
        broken(
            "name that is there twice",
            "Manifest",
            &["twice", "\"x\""],
            |dir| {
                let input = "{name: x, datatype: FP32, shape: [1, 4]}";
                with_yaml(dir, input, &format!("{input}, {input}"));
            },
        ),
        broken(
            "name that turns the line around",
            "Manifest",
            &["model name", "\\u{202e}"],
            |dir| {
                with_yaml(dir, "name: gate", "name: \"ga\u{202E}te\"");
            },
        ),
        broken(
            "path that climbs out",
            "Manifest",
            &["path inside the model folder"],
            |dir| {
                with_yaml(dir, "path: a.onnx", "path: ../a.onnx");
            },
        ),
        broken(
            "step that does not fit",
            "Manifest",
            &["preprocess[0].steps[1] (Resize)", "an image", "FP32 [1, 4]"],
            |dir| {
                let steps =
                    "[{step: Normalize, mean: [0], std: [1]}, {step: Resize, shorterSide: 8, filter: Box}]";
                let to = "{name: x, datatype: FP32, shape: [1, 4]}";
                let preprocess = format!("preprocess: [{{from: x, to: {to}, steps: {steps}}}]");
                with_yaml(dir, "schema: 1", &format!("schema: 1\n{preprocess}"));
            },
        ),
        broken(
            "step that there is not",
            "Manifest",
            &["Softmix", "Softmax"],
            |dir| {
                let from = "{name: y, datatype: FP32, shape: [1, 4]}";
                let postprocess =
                    format!("postprocess: [{{from: {from}, to: y, steps: [{{step: Softmix}}]}}]");
                with_yaml(dir, "schema: 1", &format!("schema: 1\n{postprocess}"));
            },
        ),
        broken("shape larger than any memory", "Manifest", &["elements"], |dir| {
            with_yaml(
                dir,
                "name: x, datatype: FP32, shape: [1, 4]",
                "name: x, datatype: FP32, shape: [4000000000, 4]",
            );
        }),
    ]
}

/// What is wrong with the bytes and tensors of an ONNX file.
fn broken_tensors() -> Vec<Broken> {
    vec![
        broken("empty file", "Format", &["no graph"], |dir| {
            drop(folder(dir, b""))
        }),
        broken("garbage", "Format", &["not a readable ONNX file"], |dir| {
            drop(folder(dir, b"\xff\xfe\xfd garbage"))
        }),
        broken(
            "cut file",
            "Format",
            &["not a readable ONNX file", "cut short"],
            |dir| {
                let whole = onnx(matrix_graph(64));
                folder(dir, &whole[..whole.len() / 2]);
            },
        ),
        broken(
            "tensor that holds less than it says",
            "Shape",
            &["tensor \"w\"", "4 elements", "holds 3"],
            |dir| {
                with_graph(dir, |graph| {
                    graph.initializer[0] = floats("w", &[1, 4], &[1.0; 3])
                });
            },
        ),
        broken(
            "tensor of huge size",
            "Size",
            &["tensor \"w\"", "elements"],
            |dir| {
                with_graph(dir, |graph| graph.initializer[0].dims = vec![1 << 40, 1 << 40]);
            },
        ),
        broken(
            "weights in another file",
            "ExternalData",
            &["tensor \"w\"", "\"../../secret\""],
            |dir| {
                with_graph(dir, |graph| {
                    graph.initializer[0].float_data.clear();
                    graph.initializer[0].data_location = Some(1);
                    graph.initializer[0].external_data = vec![pb::StringStringEntryProto {
                        key: "location".into(),
                        value: "../../secret".into(),
                    }];
                });
            },
        ),
        broken(
            "wrong precision",
            "Precision",
            &["float32", "4 of 4 weights are int8"],
            |dir| {
                with_graph(dir, |graph| {
                    let weights = &mut graph.initializer[0];
                    weights.float_data.clear();
                    weights.raw_data = vec![1; 4];
                    weights.data_type = INT8;
                    graph.input[0] = value("x", INT8, &[1, 4]);
                    graph.output[0] = value("y", INT8, &[1, 4]);
                });
                let yaml = fs::read_to_string(dir.join("model.yaml")).unwrap();
                fs::write(dir.join("model.yaml"), yaml.replace("FP32", "INT8")).unwrap();
            },
        ),
    ]
}

/// What is wrong with the graph, or between it and `model.yaml`.
fn broken_graphs() -> Vec<Broken> {
    vec![
        broken(
            "cycle",
            "Graph",
            &["wait for one another", "\"one\"", "\"two\""],
            |dir| {
                with_graph(dir, |graph| {
                    graph.node = vec![
                        node("Add", "one", &["x", "b"], &["a"]),
                        node("Add", "two", &["a", "w"], &["b"]),
                        node("Add", "last", &["a", "b"], &["y"]),
                    ];
                });
            },
        ),
        broken(
            "name made twice",
            "Graph",
            &["node \"again\"", "\"y\"", "made already"],
            |dir| {
                with_graph(dir, |graph| {
                    graph.node.push(node("Add", "again", &["x", "w"], &["y"]))
                });
            },
        ),
        broken(
            "name made by nobody",
            "Graph",
            &["node \"add\"", "\"v\"", "nothing makes"],
            |dir| {
                with_graph(dir, |graph| graph.node[0].input[1] = "v".into());
            },
        ),
        broken("output made by nobody", "Graph", &["\"z\"", "no node"], |dir| {
            with_graph(dir, |graph| graph.output.push(value("z", FLOAT, &[1])));
        }),
        broken(
            "unknown operator",
            "Operator",
            &["node \"bend\" (Bend) in graph main", "\"Bend\""],
            |dir| {
                with_graph(dir, |graph| {
                    graph.node = vec![
                        node("Bend", "bend", &["x"], &["t"]),
                        node("Add", "add", &["t", "w"], &["y"]),
                    ];
                });
            },
        ),
        broken(
            "operator of a stranger's domain",
            "Operator",
            &["\"evil.example.Add\""],
            |dir| {
                with_graph(dir, |graph| graph.node[0].domain = "evil.example".into());
            },
        ),
        broken(
            "name that turns a terminal around",
            "Operator",
            &["a\\u{202e}b\\u{1b}"],
            |dir| {
                with_graph(dir, |graph| {
                    graph
                        .node
                        .push(node("Bend", "a\u{202E}b\u{1b}[2J", &["x"], &["t"]))
                });
            },
        ),
        broken(
            "wrong shape",
            "Shape",
            &["input \"x\"", "[1, 5]", "[1, 4]"],
            |dir| {
                with_graph(dir, |graph| graph.input[0] = value("x", FLOAT, &[1, 5]));
            },
        ),
        broken(
            "wrong shape of an output",
            "Shape",
            &["output \"y\"", "[2, 4]"],
            |dir| {
                with_graph(dir, |graph| graph.output[0] = value("y", FLOAT, &[2, 4]));
            },
        ),
        broken(
            "wrong datatype",
            "Datatype",
            &["input \"x\"", "INT64", "FP32"],
            |dir| {
                with_graph(dir, |graph| graph.input[0] = value("x", INT64, &[1, 4]));
            },
        ),
        broken(
            "input that model.yaml does not know",
            "Graph",
            &["input \"more\"", "does not declare"],
            |dir| {
                with_graph(dir, |graph| graph.input.push(value("more", FLOAT, &[1])));
            },
        ),
        broken(
            "open axis that stays open",
            "Load",
            &["\"y\"", "model.yaml declares"],
            |dir| {
                with_graph(dir, |graph| {
                    graph.output[0] = value("y", INT64, &[1, -1]);
                    graph.node = vec![node("NonZero", "find", &["x"], &["y"])];
                });
                let yaml = fs::read_to_string(dir.join("model.yaml")).unwrap();
                fs::write(
                    dir.join("model.yaml"),
                    yaml.replace("y, datatype: FP32", "y, datatype: INT64"),
                )
                .unwrap();
            },
        ),
        broken(
            "graph within graph within graph",
            "Format",
            &["recursion"],
            |dir| {
                let mut inner = sum_graph();
                for _ in 0..200 {
                    let mut outer = sum_graph();
                    outer.node[0].attribute.push(subgraph("then_branch", inner));
                    inner = outer;
                }
                folder(dir, &onnx(inner));
            },
        ),
        broken(
            "graph that eats memory",
            "Load",
            &["the backend panicked"],
            |dir| {
                with_graph(dir, |graph| {
                    graph.initializer.push(floats("from", &[], &[0.0]));
                    graph.initializer.push(floats("to", &[], &[4e10]));
                    graph.initializer.push(floats("step", &[], &[1.0]));
                    graph.initializer.push(integers("axes", &[0]));
                    graph.node = vec![
                        node("Range", "count", &["from", "to", "step"], &["huge"]),
                        node("ReduceSum", "reduce", &["huge", "axes"], &["small"]),
                        node("Add", "add", &["x", "small"], &["y"]),
                    ];
                });
            },
        ),
    ]
}

fn check(dir: &Path) -> (Option<i32>, Value) {
    let output = model(&["check", "-o", "json", dir.to_str().unwrap()]);
    let report = serde_json::from_slice(&output.stdout);
    let report = report.unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    (output.status.code(), report)
}

/// Every finding of a report, as (code, place and message).
fn findings(report: &Value) -> Vec<(String, String)> {
    let of_files = report["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| &file["findings"]);
    let all = of_files
        .chain([&report["findings"]])
        .flat_map(|list| list.as_array().unwrap());
    let says = |finding: &Value| {
        let part = |name: &str| finding[name].as_str().unwrap_or_default().to_owned();
        (part("code"), format!("{}: {}", part("place"), part("message")))
    };
    all.map(says).collect()
}

fn assert_refused(cases: Vec<Broken>) {
    let tmp = tempfile::tempdir().unwrap();
    for (i, case) in cases.iter().enumerate() {
        let dir = tmp.path().join(i.to_string());
        (case.make)(&dir);
        let (exit, report) = check(&dir);
        assert_eq!(exit, Some(1), "{}: {report}", case.name);
        assert_eq!(report["ok"], false, "{}: {report}", case.name);
        let found = findings(&report);
        let is_right = |(code, says): &(String, String)| {
            code == case.code && case.says.iter().all(|part| says.contains(part))
        };
        assert!(found.iter().any(is_right), "{}: {found:#?}", case.name);
    }
}

#[test]
fn broken_folders_are_refused_with_the_right_reason() {
    assert_refused(broken_files());
}

#[test]
fn broken_manifests_are_refused_with_the_right_reason() {
    assert_refused(broken_manifests());
}

#[test]
fn broken_tensors_are_refused_with_the_right_reason() {
    assert_refused(broken_tensors());
}

#[test]
fn broken_graphs_are_refused_with_the_right_reason() {
    assert_refused(broken_graphs());
}

#[test]
fn every_unsupported_operator_is_named_also_inside_branches() {
    let tmp = tempfile::tempdir().unwrap();
    with_graph(tmp.path(), |graph| {
        let branch = |op: &str| pb::GraphProto {
            name: "branch".into(),
            output: vec![value("r", FLOAT, &[1, 4])],
            node: vec![node(op, "inner", &["x"], &["r"])],
            ..Default::default()
        };
        let mut choice = node("If", "choice", &["flag"], &["t"]);
        choice.attribute = vec![
            subgraph("then_branch", branch("Fold")),
            subgraph("else_branch", branch("Identity")),
        ];
        let mut flag = integers("flag", &[]);
        flag.data_type = support::BOOL;
        flag.int32_data = vec![1];
        graph.initializer.push(flag);
        graph.node = vec![
            choice,
            node("Bend", "bend", &["t"], &["u"]),
            node("Twist", "twist", &["u"], &["y"]),
        ];
        graph.initializer[1].dims = vec![];
    });
    let (_, report) = check(tmp.path());
    let found = findings(&report);
    let named: Vec<_> = found
        .iter()
        .filter(|(code, _)| code == "Operator")
        .map(|(_, says)| says)
        .collect();
    assert_eq!(named.len(), 3, "{found:#?}");
    for place in [
        "node \"inner\" (Fold) in graph main/choice.then_branch[0]",
        "node \"bend\" (Bend) in graph main",
        "node \"twist\" (Twist) in graph main",
    ] {
        assert!(
            named.iter().any(|says| says.contains(place)),
            "{place}: {named:#?}"
        );
    }
}

#[test]
fn a_model_that_is_well_is_described() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(tmp.path(), &onnx(sum_graph()));
    fs::write(dir.join("notes.txt"), "mine").unwrap();
    let output = model(&["check", dir.to_str().unwrap()]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{said} {}", text(&output.stderr));
    for part in [
        "gate 2",
        "x FP32 [1, 4]",
        "y FP32 [1, 4]",
        "ONNX opset 13",
        "1 of 1 kinds",
        "\"notes.txt\": model.yaml does not name it",
        "the model can be served",
    ] {
        assert!(said.contains(part), "{said} does not say {part:?}");
    }
    let (exit, report) = check(&dir);
    assert_eq!((exit, &report["ok"]), (Some(0), &Value::Bool(true)));
    let load = &report["files"][0]["load"];
    assert!(load["peakMemoryBytes"].as_u64().unwrap() > 0, "{report}");
    assert_eq!(report["files"][0]["weights"]["FLOAT"], 4, "{report}");
}

#[test]
fn an_open_axis_that_model_yaml_fixes_is_no_fault() {
    let tmp = tempfile::tempdir().unwrap();
    with_graph(tmp.path(), |graph| {
        graph.input[0] = value("x", FLOAT, &[-1, 4]);
        graph.output[0] = value("y", FLOAT, &[-1, 4]);
    });
    let (exit, report) = check(tmp.path());
    assert_eq!(exit, Some(0), "{report}");
}

#[test]
fn one_broken_variant_is_told_from_one_that_is_well() {
    let tmp = tempfile::tempdir().unwrap();
    let content = onnx(sum_graph());
    let dir = folder(tmp.path(), &content);
    fs::write(dir.join("b.onnx"), b"").unwrap();
    let more = format!(
        ", {{path: b.onnx, backend: Onnx, precision: int8, sha256: '{}'}}]\n",
        sha256(b"")
    );
    fs::write(
        dir.join("model.yaml"),
        yaml(&content).trim_end().strip_suffix(']').unwrap().to_owned() + &more,
    )
    .unwrap();
    let (exit, report) = check(&dir);
    assert_eq!(exit, Some(1));
    let verdicts: Vec<_> = report["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|file| file["ok"].clone())
        .collect();
    assert_eq!(verdicts, [true, false]);
}

#[test]
fn a_wrong_command_line_is_told_from_a_wrong_model() {
    let output = model(&["check", "--no-such-flag", "."]);
    assert_eq!(output.status.code(), Some(2));
}
