//! As many schedules as time allows, on every processor.

use crate::simulate;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Schedules of a soak (`PERWATT_SOAK_SCHEDULES`).
const SCHEDULES: u64 = 100_000;
/// The longest that it may take, in seconds (`PERWATT_SOAK_SECONDS`).
const SECONDS: u64 = 3_600;
/// How often it says how far it is.
const PROGRESS: Duration = Duration::from_secs(15);
/// Violations after which there is no use in going on.
const ENOUGH: usize = 10;

/// What all processors share.
struct Soak {
    wanted: u64,
    first: u64,
    began: Instant,
    ends: Instant,
    next: AtomicU64,
    done: AtomicU64,
    violations: Mutex<Vec<String>>,
    said: Mutex<Instant>,
}

/// Runs schedules from seed `PERWATT_SOAK_FIRST` (0) on, until all are done or time is out.
pub fn run() {
    let soak = Soak::new();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| soak.work());
        }
    });
    soak.say();
    let violations = soak.violations.into_inner().unwrap();
    assert!(violations.is_empty(), "{}", violations.join("\n"));
    let (done, wanted) = (soak.done.into_inner(), soak.wanted);
    assert!(
        done >= wanted,
        "time was out after {done} of {wanted} schedules: set PERWATT_SOAK_SECONDS"
    );
}

impl Soak {
    fn new() -> Self {
        let began = Instant::now();
        Self {
            wanted: setting("PERWATT_SOAK_SCHEDULES", SCHEDULES),
            first: setting("PERWATT_SOAK_FIRST", 0),
            began,
            ends: began + Duration::from_secs(setting("PERWATT_SOAK_SECONDS", SECONDS)),
            next: AtomicU64::new(0),
            done: AtomicU64::new(0),
            violations: Mutex::default(),
            said: Mutex::new(began),
        }
    }

    fn work(&self) {
        while Instant::now() < self.ends && self.violations.lock().unwrap().len() < ENOUGH {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.wanted {
                return;
            }
            let seed = self.first + number;
            if let Err(violation) = simulate(seed, None) {
                let violation = format!("PERWATT_SIMULATION_SEED={seed}: {violation}");
                println!("{violation}");
                self.violations.lock().unwrap().push(violation);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
            self.say_at_times();
        }
    }

    fn say_at_times(&self) {
        let Ok(mut said) = self.said.try_lock() else {
            return;
        };
        if said.elapsed() >= PROGRESS {
            *said = Instant::now();
            self.say();
        }
    }

    fn say(&self) {
        let done = self.done.load(Ordering::Relaxed);
        let seconds = self.began.elapsed().as_secs().max(1);
        println!(
            "{done} of {} schedules from seed {} in {seconds} s, {} a second, {} violations",
            self.wanted,
            self.first,
            done / seconds,
            self.violations.lock().unwrap().len()
        );
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok();
    set.map_or(default, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is a whole number, not {text:?}"))
    })
}
