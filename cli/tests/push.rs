//! `model pack --push` against a real registry: the tiny one of go-containerregistry, which
//! `e2e/registry/build` makes. Run by `make e2e`.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use support::{folder, matrix_graph, model, onnx, sum_graph, text};

/// A registry process; it ends with this value.
struct Registry {
    child: Child,
    address: String,
}

impl Registry {
    fn start() -> Self {
        let cache = std::env::var_os("PERWATT_CACHE").map(PathBuf::from);
        let cache =
            cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/perwatt"));
        let program = cache.join("registry");
        let mut child = Command::new(&program)
            .args(["-port", "0"])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}: run `make parts`", program.display()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().unwrap().unwrap();
            if let Some((_, port)) = line.split_once("serving on port ") {
                break port.to_owned();
            }
        };
        // What it logs later must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: format!("localhost:{port}"),
        }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn push_to(target: &str, dir: &Path, file: &Path) -> Output {
    let (dir, file) = (dir.to_str().unwrap(), file.to_str().unwrap());
    model(&["pack", dir, "-o", file, "--push", target])
}

#[test]
#[ignore = "needs the registry: make e2e"]
fn an_image_is_pushed_and_can_be_had_by_its_digest() {
    let registry = Registry::start();
    let tmp = tempfile::tempdir().unwrap();
    // Larger than one piece, so that a layer goes in several.
    let dir = folder(&tmp.path().join("model"), &onnx(matrix_graph(700)));
    let yaml = std::fs::read_to_string(dir.join("model.yaml")).unwrap();
    std::fs::write(dir.join("model.yaml"), yaml.replace("[1, 4]", "[1, 700]")).unwrap();
    let file = tmp.path().join("image.tar");
    let target = format!("{}/models/gate", registry.address);
    let push = || {
        let output = push_to(&target, &dir, &file);
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (reference, progress) = push();
    assert!(reference.starts_with(&format!("{target}@sha256:")), "{reference}");
    assert!(progress.contains("sent"), "{progress}");
    let (again, progress) = push();
    assert_eq!(again, reference, "the same content gives the same digest");
    assert!(progress.contains("is there already"), "{progress}");

    let digest = reference.trim().split_once('@').unwrap().1;
    let layout = perwatt_model::Layout::open(&file).unwrap();
    assert_eq!(layout.digest, digest);
    let by_digest = get(&registry.address, &format!("/v2/models/gate/manifests/{digest}"));
    assert_eq!(by_digest, layout.manifest);
    let by_version = get(&registry.address, "/v2/models/gate/manifests/2");
    assert_eq!(by_version, layout.manifest);
    for blob in &layout.blobs {
        let content = get(
            &registry.address,
            &format!("/v2/models/gate/blobs/{}", blob.digest),
        );
        assert_eq!(format!("sha256:{}", support::sha256(&content)), blob.digest);
    }
}

#[test]
fn a_registry_that_is_not_there_is_named_and_the_image_is_kept() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = folder(&tmp.path().join("model"), &onnx(sum_graph()));
    let file = tmp.path().join("image.tar");
    // A port that nobody listens on: it was ours a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let target = format!("127.0.0.1:{port}/gate");
    let output = push_to(&target, &dir, &file);
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&target) && said.contains("cannot"), "{said}");
    assert!(file.exists());
}

/// A body over plain HTTP; the registry answers with its length.
fn get(address: &str, path: &str) -> Vec<u8> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let head = text(&answer[..end]);
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    assert!(!head.to_ascii_lowercase().contains("transfer-encoding"), "{head}");
    answer.split_off(end + 4)
}
