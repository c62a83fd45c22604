//! The protocol's usual clients, from the package index, against the real program: `tests/clients/with_*.py`.
//!
//! They are a hundred megabytes, and so this runs where it is asked for: `make clients`, which `make test` does.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{Runtime, command, echo_folder, tiny_folder};
use std::process::{Command, Stdio};

/// Runs a program and returns what it printed; its errors go where the test's go.
fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?} failed:\n{text}");
    text
}

#[tokio::test]
#[ignore = "installs clients from the package index: make clients"]
async fn the_usual_clients_are_served() {
    let here = std::path::absolute("tests/clients").unwrap();
    let python = output(&mut Command::new(here.join("install")));
    let tmp = tempfile::tempdir().unwrap();
    let tiny = Runtime::start(command(&tiny_folder(tmp.path()))).await;
    let echo = Runtime::start(command(&echo_folder(tmp.path()))).await;
    let addresses = [&tiny.rest, &tiny.grpc, &echo.rest, &echo.grpc];
    let addresses = addresses.map(|address| address.trim_start_matches("http://"));
    for (suite, cases) in [("with_tritonclient.py", 13), ("with_kserve.py", 2)] {
        let mut command = Command::new(python.trim());
        command.arg(here.join(suite)).args(addresses);
        let printed = tokio::task::spawn_blocking(move || output(&mut command))
            .await
            .unwrap();
        println!("{printed}");
        let done = printed.lines().filter(|line| line.starts_with("ok: ")).count();
        assert_eq!(done, cases, "{suite}: {printed}");
    }
}
