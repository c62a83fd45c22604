//! What a pod with two revisions was told to do: kept over restarts, and never undone by an older word.

use crate::evidence::SCHEMA;
use crate::state::StateDir;
use perwatt_verdict::evidence::Arm;
use serde::{Deserialize, Serialize};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The file in the folder that keeps evidence.
const FILE: &str = "rollout.json";
/// Longest block, in seconds: a day.
const LONGEST_BLOCK: u32 = 86_400;
/// Most inputs that are mirrored in a minute.
const MOST_MIRRORED: u32 = 6_000;

/// Who answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// The revision that is to be replaced.
    #[default]
    Incumbent,
    /// The new one.
    Candidate,
    /// Both, in turns.
    Compare,
}

/// A command of the operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// Who answers.
    pub mode: Mode,
    /// What the order of blocks comes from.
    #[serde(default)]
    pub seed: u64,
    /// Length of a block.
    #[serde(default)]
    pub block_seconds: u32,
    /// Most inputs in a minute that the other revision is given too.
    #[serde(default)]
    pub mirror_per_minute: u32,
    /// Rises with every change: a command with a lower one came late.
    #[serde(default)]
    pub generation: u64,
}

/// Why a command is not obeyed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A value cannot be.
    #[error("{0}")]
    Invalid(String),
    /// There is no candidate, or none that works.
    #[error("{mode:?} needs a candidate: {reason}")]
    NoCandidate {
        /// What was wanted.
        mode: Mode,
        /// Why there is none.
        reason: String,
    },
    /// A newer command was obeyed.
    #[error("generation {0} is older than {1}, which is in force: an operator that leads no more sent it")]
    Old(u64, u64),
    /// Two senders speak under one number.
    #[error("generation {0} was given to another command: raise it with every change")]
    Another(u64),
}

impl Command {
    /// Says what cannot be.
    ///
    /// # Errors
    /// With the value that is out of bounds.
    pub fn check(&self) -> Result<(), CommandError> {
        let compares = self.mode == Mode::Compare;
        if compares && !(1..=LONGEST_BLOCK).contains(&self.block_seconds) {
            return Err(CommandError::Invalid(format!(
                "blockSeconds is {}, from 1 to {LONGEST_BLOCK} are possible",
                self.block_seconds
            )));
        }
        if self.mirror_per_minute > MOST_MIRRORED {
            return Err(CommandError::Invalid(format!(
                "mirrorPerMinute is {}, up to {MOST_MIRRORED} are possible",
                self.mirror_per_minute
            )));
        }
        Ok(())
    }

    /// Length of a block.
    pub fn block(&self) -> Duration {
        Duration::from_secs(self.block_seconds.into())
    }
}

/// A command as it is kept: another pair of revisions is another rollout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    schema: u32,
    incumbent: String,
    candidate: String,
    command: Command,
}

/// The revisions of a pod.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The one that is to be replaced.
    pub incumbent: String,
    /// The new one; empty where there is none.
    pub candidate: String,
}

/// The command in force.
#[derive(Debug)]
pub struct Control {
    names: Names,
    dir: Option<StateDir>,
    arm: Mutex<Arm>,
    command: watch::Sender<Command>,
    /// One command after the other is written.
    writing: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so a poisoned lock holds whole data.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// Goes on with what an earlier process was told about the same revisions. Without a word the incumbent answers.
    pub fn open(names: Names, dir: Option<StateDir>) -> Self {
        let kept = dir.as_ref().and_then(|dir| read(dir, &names)).unwrap_or_default();
        let control = Self {
            names,
            dir,
            arm: Mutex::new(Arm::Incumbent),
            command: watch::channel(Command::default()).0,
            writing: Mutex::default(),
        };
        control.install(&mut lock(&control.arm), kept);
        control
    }

    fn install(&self, arm: &mut Arm, command: Command) {
        // In `Compare` the conductor decides, at once.
        match command.mode {
            Mode::Candidate => *arm = Arm::Canary,
            Mode::Incumbent => *arm = Arm::Incumbent,
            Mode::Compare => {}
        }
        self.command.send_replace(command);
    }

    /// The command in force.
    pub fn command(&self) -> Command {
        self.command.borrow().clone()
    }

    /// Every change of it.
    pub fn watch(&self) -> watch::Receiver<Command> {
        self.command.subscribe()
    }

    /// Who answers requests that come now, and in what mode.
    pub fn serving(&self) -> (Arm, Mode) {
        let arm = lock(&self.arm);
        (*arm, self.command.borrow().mode)
    }

    /// Lets one revision answer, unless a command came in between.
    pub fn turn_to(&self, arm: Arm, command: &Command) {
        let mut current = lock(&self.arm);
        if *self.command.borrow() == *command {
            *current = arm;
        }
    }

    /// Obeys a command. It is in force with the next request, before it is kept.
    ///
    /// # Errors
    /// Where a newer one is in force.
    pub fn obey(&self, command: Command) -> Result<(), CommandError> {
        command.check()?;
        // Not the lock for writing: a disk that hangs must not stop a rollback.
        let mut arm = lock(&self.arm);
        let held = self.command.borrow().generation;
        if command.generation < held {
            return Err(CommandError::Old(command.generation, held));
        }
        if command.generation == held && held > 0 && command != *self.command.borrow() {
            return Err(CommandError::Another(held));
        }
        self.install(&mut arm, command);
        Ok(())
    }

    /// Writes the command in force; false where a restart of the container would lose it.
    pub fn keep(&self) -> bool {
        let Some(dir) = &self.dir else { return false };
        let _writing = lock(&self.writing);
        let kept = Kept {
            schema: SCHEMA,
            incumbent: self.names.incumbent.clone(),
            candidate: self.names.candidate.clone(),
            command: self.command(),
        };
        match dir.replace(FILE, &kept) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "the command is in force but not kept: a restart would lose it");
                false
            }
        }
    }
}

fn read(dir: &StateDir, names: &Names) -> Option<Command> {
    match dir.read::<Kept>(FILE) {
        Ok(kept) => kept
            .filter(|kept| (&kept.incumbent, &kept.candidate) == (&names.incumbent, &names.candidate))
            .map(|kept| kept.command)
            .filter(|command| command.check().is_ok()),
        Err(error) => {
            tracing::warn!(%error, "the kept command cannot be used: the incumbent answers until another comes");
            dir.put_aside(FILE);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(candidate: &str) -> Names {
        Names {
            incumbent: "old".into(),
            candidate: candidate.into(),
        }
    }

    fn command(mode: Mode, generation: u64) -> Command {
        Command {
            mode,
            seed: 9,
            block_seconds: 2,
            mirror_per_minute: 60,
            generation,
        }
    }

    #[test]
    fn a_late_command_changes_nothing() {
        let control = Control::open(names("new"), None);
        assert_eq!(control.serving(), (Arm::Incumbent, Mode::Incumbent));
        control.obey(command(Mode::Candidate, 5)).unwrap();
        let error = control.obey(command(Mode::Incumbent, 4)).unwrap_err();
        assert_eq!(error, CommandError::Old(4, 5));
        assert_eq!(control.serving(), (Arm::Canary, Mode::Candidate));
        let error = control.obey(command(Mode::Incumbent, 5)).unwrap_err();
        assert_eq!(error, CommandError::Another(5));
        control.obey(command(Mode::Candidate, 5)).unwrap();
        control.obey(command(Mode::Incumbent, 6)).unwrap();
        assert_eq!(control.serving(), (Arm::Incumbent, Mode::Incumbent));
    }

    #[test]
    fn a_turn_of_an_earlier_command_does_not_undo_a_rollback() {
        let control = Control::open(names("new"), None);
        let compare = command(Mode::Compare, 1);
        control.obey(compare.clone()).unwrap();
        control.turn_to(Arm::Canary, &compare);
        assert_eq!(control.serving().0, Arm::Canary);
        control.obey(command(Mode::Incumbent, 2)).unwrap();
        control.turn_to(Arm::Canary, &compare);
        assert_eq!(control.serving().0, Arm::Incumbent);
    }

    #[test]
    fn it_is_kept_for_the_same_revisions_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = || Some(StateDir::at(tmp.path()));
        let control = Control::open(names("new"), dir());
        control.obey(command(Mode::Candidate, 3)).unwrap();
        assert!(control.keep());
        let again = Control::open(names("new"), dir());
        assert_eq!(again.command(), command(Mode::Candidate, 3));
        assert_eq!(again.serving().0, Arm::Canary);
        assert_eq!(Control::open(names("newer"), dir()).command(), Command::default());
        std::fs::write(tmp.path().join(FILE), "half a fi").unwrap();
        assert_eq!(Control::open(names("new"), dir()).command(), Command::default());
    }

    #[test]
    fn a_full_volume_does_not_stop_a_rollback() {
        let tmp = tempfile::tempdir().unwrap();
        let file = tmp.path().join("file");
        std::fs::write(&file, "").unwrap();
        let control = Control::open(names("new"), Some(StateDir::at(file.join("dir"))));
        control.obey(command(Mode::Candidate, 1)).unwrap();
        control.obey(command(Mode::Incumbent, 2)).unwrap();
        assert!(!control.keep(), "it says so");
        assert_eq!(control.serving().0, Arm::Incumbent);
    }

    #[test]
    fn values_are_bounded() {
        let bad = Command {
            block_seconds: 0,
            ..command(Mode::Compare, 1)
        };
        assert!(bad.check().unwrap_err().to_string().contains("blockSeconds"));
        let bad = Command {
            mirror_per_minute: u32::MAX,
            ..command(Mode::Compare, 1)
        };
        assert!(bad.check().unwrap_err().to_string().contains("mirrorPerMinute"));
    }
}
