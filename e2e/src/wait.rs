//! Waiting for a condition, with a deadline and the reason it was not met.

use std::future::Future;
use std::time::{Duration, Instant};

/// How long anything in the cluster may take before a test gives up. Generous:
/// it decides only how long a failure takes, never whether a test passes.
pub const DEADLINE: Duration = Duration::from_secs(240);

/// How often a condition is looked at.
const INTERVAL: Duration = Duration::from_millis(200);

/// A condition that was not met in time.
#[derive(Debug, thiserror::Error)]
#[error("{what}: not so after {} s; last seen: {last}", deadline.as_secs())]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// For how long.
    pub deadline: Duration,
    /// What the last look saw.
    pub last: String,
}

/// Looks until `look` gives a value, and gives up after `deadline`. A look that
/// fails says what it saw instead; the last such text is in the error.
pub async fn until<T, F, Fut>(what: &str, deadline: Duration, mut look: F) -> Result<T, TimedOut>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, String>>,
{
    let began = Instant::now();
    loop {
        match look().await {
            Ok(value) => return Ok(value),
            Err(last) if began.elapsed() >= deadline => {
                return Err(TimedOut {
                    what: what.to_owned(),
                    deadline,
                    last,
                });
            }
            Err(_) => tokio::time::sleep(INTERVAL).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gives_the_value_once_it_is_there() {
        let mut looks = 0;
        let value = until("third look", DEADLINE, || {
            looks += 1;
            let seen = looks;
            async move {
                if seen == 3 {
                    Ok(seen)
                } else {
                    Err(format!("look {seen}"))
                }
            }
        });
        assert_eq!(value.await.expect("met"), 3);
    }

    #[tokio::test]
    async fn says_what_was_seen_last() {
        let never = until("rain", Duration::ZERO, || async {
            Err::<(), _>("sun".to_owned())
        });
        let message = never.await.expect_err("never met").to_string();
        assert_eq!(message, "rain: not so after 0 s; last seen: sun");
    }
}
