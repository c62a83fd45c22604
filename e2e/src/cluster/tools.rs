//! Running kubectl, helm and other programs against the cluster.

use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::error::{Error, IoContext, Result};

/// Runs a command to its end with `input`; gives what it printed.
pub(crate) async fn output(command: &mut Command, input: Option<&str>) -> Result<String> {
    let shown = shown(command);
    command
        .stdin(if input.is_some() {
            Stdio::piped()
        } else {
            Stdio::null()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context(|| format!("starting `{shown}`"))?;
    if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
        // A program that ended early says why on its standard error.
        let _ = pipe.write_all(text.as_bytes()).await;
    }
    let output = child
        .wait_with_output()
        .await
        .context(|| format!("running `{shown}`"))?;
    check(&shown, output)
}

fn check(shown: &str, output: Output) -> Result<String> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    // Some programs say what is wrong on their standard output.
    let said = if output.stderr.is_empty() {
        &output.stdout
    } else {
        &output.stderr
    };
    Err(Error::Command {
        command: shown.to_owned(),
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(said).trim().to_owned(),
    })
}

/// The command as a person would type it, without folders and environment.
fn shown(command: &Command) -> String {
    let command = command.as_std();
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_gets_its_input_and_gives_its_output() {
        let mut cat = Command::new("/bin/cat");
        assert_eq!(output(&mut cat, Some("edge")).await.expect("works"), "edge");
    }

    #[tokio::test]
    async fn a_failure_shows_the_command_and_what_it_said() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "echo no such thing >&2; exit 4"]);
        let message = output(&mut command, None).await.expect_err("fails").to_string();
        assert!(message.starts_with("`sh -c echo no such thing"), "{message}");
        assert!(message.ends_with("(exit status: 4): no such thing"), "{message}");
    }
}
