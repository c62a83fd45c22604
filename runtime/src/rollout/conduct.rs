//! Alternates both revisions while they are compared, and closes turns.

use super::control::{Command, Mode};
use super::pair::Revisions;
use super::reading::Reading;
use super::schedule::{Block, Schedule, carry_over};
use perwatt_verdict::evidence::{Arm, Counts, Mirrored, Turn};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;

/// A block whose length by the monotonic clock is off by more than this, or a tenth, is not counted: the wall clock was
/// set, or the process stood still.
const LEAST_SLACK: Duration = Duration::from_millis(100);

/// The first block of a pair, counted.
struct Half {
    block: Block,
    counts: Counts,
    mirrored: Mirrored,
    carried: Duration,
}

/// Obeys commands, for ever.
pub async fn conduct(revisions: Arc<Revisions>) {
    let mut commands = revisions.control().watch();
    loop {
        let command = commands.borrow_and_update().clone();
        // A candidate that worked before this start may fail now: there is nothing to compare then.
        let compares = command.mode == Mode::Compare && revisions.candidate().is_some();
        let changed = if compares {
            tokio::select! {
                biased;
                changed = commands.changed() => changed,
                never = compare(&revisions, &command) => match never {},
            }
        } else {
            commands.changed().await
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn compare(revisions: &Revisions, command: &Command) -> std::convert::Infallible {
    let schedule = Schedule {
        seed: command.seed,
        node: revisions.incumbent().config.node.clone(),
        block: command.block(),
    };
    let mut first: Option<Half> = None;
    loop {
        let block = schedule.at(unix_time());
        revisions.control().turn_to(block.arm, command);
        let mate = first.take().filter(|half| half.block.number + 1 == block.number);
        let slowest = revisions.engines().map(|engine| engine.slowest()).max();
        let carried = mate.as_ref().map_or_else(
            || carry_over(schedule.block, slowest.unwrap_or_default()),
            |half| half.carried,
        );
        let mirrored = revisions.mirror().mirrored();
        let Some(counts) = count(revisions, &block, carried).await else {
            continue;
        };
        if block.is_first() {
            first = Some(Half {
                block,
                counts,
                mirrored,
                carried,
            });
        } else if let Some(half) = mate {
            revisions.close_turn(build_turn(revisions, half, counts));
        }
    }
}

/// What the block's revision counted after the carry-over; nothing where the block was not whole. Ends with the block.
async fn count(revisions: &Revisions, block: &Block, carried: Duration) -> Option<Counts> {
    let engine = revisions.engine(block.arm);
    let begin = block.start + carried;
    let late = unix_time() > begin;
    sleep_until(begin).await;
    let (before, began) = (engine.reading(), Instant::now());
    sleep_until(block.end).await;
    let took = began.elapsed();
    let counts = read_since(&engine.reading(), &before, took);
    let wanted = block.end.saturating_sub(begin);
    let slack = LEAST_SLACK.max(wanted / 10);
    counts.filter(|_| !late && is_whole(took, wanted, slack))
}

fn read_since(now: &Reading, before: &Reading, took: Duration) -> Option<Counts> {
    now.since(before, took)
        .inspect_err(|error| tracing::warn!(%error, "a block is not counted"))
        .ok()
}

fn is_whole(took: Duration, wanted: Duration, slack: Duration) -> bool {
    took.abs_diff(wanted) <= slack
}

/// Sleeps to a moment of Unix time, as the clock says now; a clock that is set meanwhile neither shortens nor prolongs it.
async fn sleep_until(moment: Duration) {
    let left = moment.saturating_sub(unix_time());
    // Timers have milliseconds, and must not end before the moment.
    sleep(left + Duration::from_millis(1)).await;
}

fn build_turn(revisions: &Revisions, half: Half, second: Counts) -> Turn {
    let epoch = revisions.incumbent().telemetry.epoch();
    let now = revisions.mirror().mirrored();
    let (canary, incumbent) = match half.block.arm {
        Arm::Canary => (half.counts, second),
        Arm::Incumbent => (second, half.counts),
    };
    Turn {
        epoch: epoch.id.clone(),
        epoch_unix_seconds: epoch.unix_seconds,
        number: 0,
        first: half.block.arm,
        canary,
        incumbent,
        mirrored: Mirrored {
            compared: now.compared - half.mirrored.compared,
            different: now.different - half.mirrored.different,
        },
    }
}

fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_in_which_the_clock_was_set_is_not_whole() {
        let seconds = Duration::from_secs;
        let slack = Duration::from_millis(200);
        assert!(is_whole(Duration::from_millis(1_850), seconds(2), slack));
        assert!(!is_whole(seconds(1), seconds(2), slack), "it was set forward");
        assert!(
            !is_whole(seconds(4), seconds(2), slack),
            "it was set back, or we stood still"
        );
    }
}
