//! NVIDIA GPUs, through NVIDIA's management library, which is found at run time.
//!
//! The library can hang for minutes when a GPU does, and nothing can end a call of it. So one
//! thread alone calls it; whoever asks waits with a deadline, and a GPU that gave no answer is
//! stale. An XID event is kept by the thread until the library is loaded anew.

mod gpu;
mod xid;

use crate::discovery::Reading;
use nvml_wrapper::Nvml;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::event::EventSet;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The most questions that wait for the library. More only wait when it hangs.
const MOST_WAITING: usize = 64;

/// The most GPUs that a node has.
const MOST_GPUS: u32 = 64;

/// How often the thread looks for events while nobody asks.
const EVENTS: Duration = Duration::from_millis(500);

/// How long it waits before it loads a library anew that could not be used.
const RELOAD: Duration = Duration::from_secs(5);

/// Why nothing is known of the GPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NvmlTrouble {
    /// There is no library, or no driver.
    #[error("cannot use NVIDIA's management library: {0}")]
    Unusable(String),
    /// It gives no answer.
    #[error(
        "NVIDIA's management library did not answer within {0} ms: a GPU hangs; see the node's kernel log for NVRM messages"
    )]
    Hangs(u128),
}

/// A question for the GPU at an address on the PCI bus, and where its answer goes.
struct Question {
    asked: Instant,
    address: String,
    answer: SyncSender<Result<Option<Box<Reading>>, NvmlTrouble>>,
}

/// The library, behind its thread. Dropped, the thread ends with its last call.
#[derive(Clone, Debug)]
pub struct Library {
    questions: SyncSender<Question>,
    deadline: Duration,
}

impl Library {
    /// Starts the thread. The library is loaded with the first question, from `path` or where the
    /// linker finds it; whoever asks waits for `deadline`.
    ///
    /// # Errors
    /// When the node has no room for a thread.
    pub fn start(path: Option<PathBuf>, deadline: Duration) -> std::io::Result<Self> {
        let (questions, asked) = sync_channel(MOST_WAITING);
        let serve = move || serve(path.as_deref(), &asked, deadline);
        std::thread::Builder::new().name("nvml".into()).spawn(serve)?;
        Ok(Self { questions, deadline })
    }

    /// What the GPU at `address` on the PCI bus (as sysfs writes it: `0000:01:00.0`) tells; its device
    /// node is for the source to say. One that is lost reads as not present; one that the library never
    /// knew reads as nothing.
    ///
    /// # Errors
    /// When there is no library, or it does not answer.
    pub fn read(&self, address: &str) -> Result<Option<Reading>, NvmlTrouble> {
        let hangs = NvmlTrouble::Hangs(self.deadline.as_millis());
        // Room for the answer, so that the thread never waits for somebody who has gone.
        let (answer, answered) = sync_channel(1);
        let question = Question {
            asked: Instant::now(),
            address: address.to_owned(),
            answer,
        };
        self.questions.try_send(question).map_err(|_| hangs.clone())?;
        let read = answered.recv_timeout(self.deadline).unwrap_or(Err(hangs))?;
        Ok(read.map(|reading| *reading))
    }
}

/// Loads the library, and loads it anew whenever it can no longer be used.
fn serve(path: Option<&std::path::Path>, asked: &Receiver<Question>, patience: Duration) {
    loop {
        let trouble = match load(path) {
            Ok(nvml) => match answer_all(&nvml, asked, patience) {
                Some(error) => error,
                None => return,
            },
            Err(error) => error,
        };
        let trouble = NvmlTrouble::Unusable(trouble.to_string());
        let until = Instant::now() + RELOAD;
        loop {
            match asked.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(question) => drop(question.answer.try_send(Err(trouble.clone()))),
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

fn load(path: Option<&std::path::Path>) -> Result<Nvml, NvmlError> {
    let mut builder = Nvml::builder();
    // The name without number is that of the development package.
    let path = path.unwrap_or(std::path::Path::new("libnvidia-ml.so.1"));
    builder.lib_path(path.as_os_str()).init()
}

/// Answers until nobody asks any more, or the library can no longer be used.
fn answer_all(nvml: &Nvml, asked: &Receiver<Question>, patience: Duration) -> Option<NvmlError> {
    let events = listen(nvml);
    let mut xids: BTreeMap<String, u64> = BTreeMap::new();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    loop {
        let question = asked.recv_timeout(EVENTS);
        hear(events.as_ref(), &mut xids);
        let question = match question {
            Ok(question) => question,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return None,
        };
        // Whoever asked before the library hung has gone.
        if question.asked.elapsed() > patience {
            continue;
        }
        let address = question.address.as_str();
        let read = match gpu::read(nvml, address, xids.get(address).copied()) {
            // The agent's container may have the library, and be shown other GPUs alone.
            Err(NvmlError::NotFound) if !seen.contains(address) => Ok(None),
            Err(NvmlError::NotFound) => Ok(Some(gpu::unlisted())),
            read => read.map(Some),
        };
        if read.as_ref().is_ok_and(Option::is_some) {
            seen.insert(question.address);
        }
        let error = tell(read.map(|reading| reading.map(Box::new)), &question.answer);
        if let Some(error @ (NvmlError::Uninitialized | NvmlError::DriverNotLoaded)) = error {
            return Some(error);
        }
    }
}

fn tell(
    result: Result<Option<Box<Reading>>, NvmlError>,
    answer: &SyncSender<Result<Option<Box<Reading>>, NvmlTrouble>>,
) -> Option<NvmlError> {
    match result {
        Ok(told) => {
            let _ = answer.try_send(Ok(told));
            None
        }
        Err(error) => {
            let _ = answer.try_send(Err(NvmlTrouble::Unusable(error.to_string())));
            Some(error)
        }
    }
}

/// Listens for XID events of every GPU; without them there is the rest.
fn listen(nvml: &Nvml) -> Option<EventSet<'_>> {
    let mut set = nvml.create_event_set().ok()?;
    for index in 0..nvml.device_count().ok()?.min(MOST_GPUS) {
        if let Ok(device) = nvml.device_by_index(index) {
            match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
                Ok(same) => set = same,
                Err(error) => {
                    tracing::info!(error = %error.error, "no events of NVIDIA's GPUs are heard");
                    return None;
                }
            }
        }
    }
    Some(set)
}

/// Takes in the events that are there, and waits for none.
fn hear(events: Option<&EventSet<'_>>, xids: &mut BTreeMap<String, u64>) {
    let Some(set) = events else { return };
    for _ in 0..MOST_WAITING {
        let Ok(event) = set.wait(0) else { return };
        // A GPU that is lost by now does not tell its address: that it is lost is then what is told of it.
        let (Some(number), Ok(pci)) = (xid::number(event.event_data), event.device.pci_info()) else {
            continue;
        };
        let address = gpu::address(&pci.bus_id);
        tracing::warn!(gpu = %address, xid = number, "the GPU reports an XID error");
        // The gravest is remembered: a GPU that fell off its bus may report more.
        if xid::gravity(number) >= xids.get(&address).map_or(0, |before| xid::gravity(*before)) {
            xids.insert(address, number);
        }
    }
}

#[cfg(test)]
mod tests;
