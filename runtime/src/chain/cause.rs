//! Why a variant does not serve, in one word and in a sentence.

use std::fmt;

/// Why another variant than the first serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The agent says that the device must not be used.
    DeviceUnhealthy,
    /// The agent says that the device works, and is taken out of use.
    DeviceLeaving,
    /// The device is healthy again, but not yet for long enough.
    DeviceRecovering,
    /// It failed several times in a row.
    BreakerOpen,
    /// Its file, its device or its server could not be opened; it is tried again.
    LoadFailed,
    /// Its calls hang, and it has no thread left.
    Hung,
    /// Its answers are not accurate enough for the workload.
    BelowMinimumAccuracy,
    /// It would send data further than the workload allows.
    LocalityForbids,
    /// It failed at this request.
    InferenceFailed,
    /// It did not answer this request in its share of the time.
    Late,
    /// Its queue was full.
    Busy,
}

impl Reason {
    /// The spelling in replies, metrics and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeviceUnhealthy => "DeviceUnhealthy",
            Self::DeviceLeaving => "DeviceLeaving",
            Self::DeviceRecovering => "DeviceRecovering",
            Self::BreakerOpen => "BreakerOpen",
            Self::LoadFailed => "LoadFailed",
            Self::Hung => "Hung",
            Self::BelowMinimumAccuracy => "BelowMinimumAccuracy",
            Self::LocalityForbids => "LocalityForbids",
            Self::InferenceFailed => "InferenceFailed",
            Self::Late => "Late",
            Self::Busy => "Busy",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A reason and what it means here, for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Why.
    pub reason: Reason,
    /// What happened, to what.
    pub message: String,
}

impl Cause {
    /// A reason with its message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}
