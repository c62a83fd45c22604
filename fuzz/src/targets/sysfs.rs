//! What a kernel's sysfs says of a machine's devices, read twice as the node agent does: whatever it holds, reading
//! it ends, figures are within what can be, and texts are short and on one line.
//!
//! An input is a tree: a line `== PATH` begins a file, `-> PATH` a link whose target is the line after it, and
//! `++ PATH` a file as it is at the second look.

use perwatt_crds::inventory::DeviceInventoryStatus;
use perwatt_device_plugin::discovery::{Field, Found, Reading, Search, Source, catalogue, host};
use perwatt_device_plugin::energy::meter::Meter;
use perwatt_device_plugin::health::{Judge, View};
use perwatt_device_plugin::inventory::build_status;
use perwatt_device_plugin::known::Known;
use perwatt_device_plugin::paths::Paths;
use perwatt_device_plugin::state::{Device, Node};
use perwatt_device_plugin::telemetry::{Busy, FigureSource, drm};
use perwatt_device_plugin::{firmware, scan};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Files of one tree: what is slow alone finds nothing.
const MOST_FILES: usize = 256;
/// The most that a device draws, and its counter may show of a second and one more, with the tolerance.
const MOST_MILLIWATTS: u32 = 2_000_000;
const MOST_MICROJOULES: u64 = 8_000_000_000;
/// The longest text of an inventory, and of a scan's line.
const LONGEST: usize = 1024;
const LONGEST_LINE: usize = 8192;

/// True where devices were found, and all that they tell was understood.
pub fn sysfs(input: &[u8]) -> bool {
    let (Some(known), Ok(folder)) = (known(), folder()) else {
        return false;
    };
    let files = read_tree(input);
    let Some(root) = make_root(folder.path()) else {
        return false;
    };
    for file in files.iter().filter(|file| file.mark != Mark::Later) {
        file.make(&root);
    }
    let paths = Paths {
        host: root.clone(),
        ..Paths::below(folder.path())
    };
    check_scan(&scan::describe(&paths, known));
    let source = host::look(&root);
    let found = source.find(&Search {
        profiles: known.split_profiles().found(),
        node: &known.node,
        before: &BTreeMap::new(),
    });
    let mut looks: Vec<_> = found.found.into_iter().map(Look::new).collect();
    let mut well = !looks.is_empty();
    for second in 0..2 {
        for look in &mut looks {
            well &= look.again(&source, Duration::from_secs(second));
        }
        for file in files.iter().filter(|file| file.mark == Mark::Later) {
            file.make(&root);
        }
    }
    let devices = looks
        .into_iter()
        .filter_map(|look| Some((look.found.id.clone(), look.device()?)));
    check_status(&build_status(&Node {
        devices: devices.collect(),
        ..Node::default()
    }));
    let address = "0000:00:02.0";
    for client in drm::clients(&root.join("proc"), address).values() {
        client
            .engines
            .keys()
            .for_each(|engine| assert!(engine.len() <= 4096));
    }
    if let Field::Value(release) = firmware::release(&root) {
        check_text(&release, 64);
    }
    well
}

/// The profiles that Perwatt ships.
fn known() -> Option<&'static Known> {
    static KNOWN: OnceLock<Option<Known>> = OnceLock::new();
    let read = || {
        let profiles = catalogue::profiles().ok()?;
        Some(Known {
            profiles,
            ..Known::default()
        })
    };
    KNOWN.get_or_init(read).as_ref()
}

/// A folder in memory where there is one: many thousand trees are made.
fn folder() -> std::io::Result<tempfile::TempDir> {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}

fn make_root(folder: &Path) -> Option<PathBuf> {
    let root = folder.join("host");
    std::fs::create_dir(&root).ok()?;
    root.canonicalize().ok()
}

/// One device, looked at again and again.
struct Look {
    found: Found,
    judge: Judge,
    meter: Meter,
    began: Instant,
    view: Option<View>,
}

impl Look {
    fn new(found: Found) -> Self {
        Self {
            found,
            judge: Judge::default(),
            meter: Meter::default(),
            began: Instant::now(),
            view: None,
        }
    }

    /// Looks as a monitor does; true where all was understood.
    fn again(&mut self, source: &host::Host, after: Duration) -> bool {
        let reading = source.probe(&self.found);
        check_reading(&reading);
        let understood = is_understood(&reading);
        let figures = self.meter.take(&self.found, &reading, after);
        for source in FigureSource::ALL {
            assert!(figures.energy.microjoules(source) <= MOST_MICROJOULES);
        }
        assert!(
            figures
                .utilisation_permille
                .is_none_or(|permille| permille <= 1000)
        );
        let judgement = self.judge.judge(&self.found, reading, self.began + after);
        self.view = Some(View {
            figures,
            ..judgement.view
        });
        understood
    }

    fn device(self) -> Option<Device> {
        Some(Device {
            found: self.found.into(),
            view: self.view?,
            since: jiff::Timestamp::UNIX_EPOCH,
            since_start: false,
            report: None,
            holders: Default::default(),
        })
    }
}

fn is_understood(reading: &Reading) -> bool {
    let told = !matches!(reading.temperature, Field::Invalid(_))
        && !matches!(reading.power, Field::Invalid(_))
        && !matches!(reading.firmware, Field::Invalid(_));
    told && reading.node.is_ok()
        && reading.telemetry.complaints.is_empty()
        && reading.bus.complaints.is_empty()
}

fn check_reading(reading: &Reading) {
    let telemetry = &reading.telemetry;
    if let Field::Value(millicelsius) = reading.temperature {
        assert!((-60_000..=250_000).contains(&millicelsius), "{millicelsius}");
    }
    if let Field::Value(milliwatts) = reading.power {
        assert!(milliwatts <= MOST_MILLIWATTS, "{milliwatts}");
    }
    if let Some(critical) = telemetry.critical_millicelsius {
        assert!((20_000..=200_000).contains(&critical), "{critical}");
    }
    if let Some(Busy::Permille(permille)) = telemetry.busy {
        assert!(permille <= 1000, "{permille}");
    }
    for clock in [telemetry.clock_hertz, telemetry.clock_limit_hertz] {
        assert!(clock.is_none_or(|hertz| hertz <= 100_000_000_000), "{clock:?}");
    }
    if let Some(link) = reading.bus.link {
        for (lanes, speed) in [(link.width, link.speed), (link.width_limit, link.speed_limit)] {
            assert!((1..=32).contains(&lanes) && speed <= 1_024_000, "{link:?}");
        }
    }
    assert!(telemetry.complaints.len() <= 4);
}

/// Everything that the API server, and who reads it, is given.
fn check_status(status: &DeviceInventoryStatus) {
    for device in &status.devices {
        check_text(&device.id, 63);
        let texts = [&device.firmware, &device.driver];
        texts.into_iter().flatten().for_each(|text| check_text(text, 64));
        assert!(device.reasons.len() <= 9);
        device
            .reasons
            .iter()
            .for_each(|reason| check_text(&reason.message, LONGEST));
    }
    let summary = &status.summary;
    let texts = [
        &summary.devices,
        &summary.problem,
        &summary.profiles,
        &summary.drivers,
        &summary.firmware,
    ];
    texts.into_iter().for_each(|text| check_text(text, LONGEST));
}

fn check_scan(text: &str) {
    text.lines().for_each(|line| check_text(line, LONGEST_LINE));
}

fn check_text(text: &str, most: usize) {
    assert!(text.len() <= most, "{} bytes: {text}", text.len());
    assert!(!text.contains(char::is_control), "{text:?}");
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    File,
    Link,
    Later,
}

/// A file of the tree.
struct Planted {
    mark: Mark,
    path: PathBuf,
    content: Vec<u8>,
}

fn read_tree(input: &[u8]) -> Vec<Planted> {
    let marks = [
        (&b"== "[..], Mark::File),
        (b"-> ", Mark::Link),
        (b"++ ", Mark::Later),
    ];
    let mut files: Vec<Planted> = Vec::new();
    for line in input.split_inclusive(|byte| *byte == b'\n') {
        let begins = marks
            .iter()
            .find_map(|(begin, mark)| Some((*mark, line.strip_prefix(*begin)?)));
        let full = files.len() >= MOST_FILES;
        match (begins, files.last_mut()) {
            (Some((mark, path)), _) if !full => files.push(Planted {
                mark,
                path: inside(path),
                content: Vec::new(),
            }),
            (None, Some(file)) => file.content.extend_from_slice(line),
            _ => {}
        }
    }
    files
}

/// A path below the root, whatever was written.
fn inside(path: &[u8]) -> PathBuf {
    let text = String::from_utf8_lossy(path.strip_suffix(b"\n").unwrap_or(path)).into_owned();
    let parts = Path::new(&text).components();
    parts
        .filter(|part| matches!(part, Component::Normal(_)))
        .collect()
}

/// Whether a link that lies so deep leads nowhere outside: what lies there is not the input's, and is not to be
/// opened.
fn stays_inside(target: &Path, depth: usize) -> bool {
    let step = |depth: usize, part: Component<'_>| match part {
        Component::Normal(_) => Some(depth + 1),
        Component::ParentDir => depth.checked_sub(1),
        Component::CurDir => Some(depth),
        Component::RootDir | Component::Prefix(_) => None,
    };
    target.components().try_fold(depth, step).is_some()
}

impl Planted {
    /// Makes it, where it can be made without leaving the tree by a link that was made before.
    fn make(&self, root: &Path) -> Option<()> {
        let path = root.join(&self.path);
        let parent = path.parent()?;
        let above = parent.ancestors().find(|folder| folder.exists())?;
        above
            .canonicalize()
            .ok()
            .filter(|above| above.starts_with(root))?;
        std::fs::create_dir_all(parent).ok()?;
        match self.mark {
            Mark::Link => {
                let target = String::from_utf8_lossy(&self.content);
                let target = Path::new(target.trim_end_matches('\n'));
                let depth = self.path.parent()?.components().count();
                stays_inside(target, depth).then(|| std::os::unix::fs::symlink(target, path).ok())?
            }
            Mark::File | Mark::Later if path.is_symlink() => None,
            Mark::File | Mark::Later => std::fs::write(path, &self.content).ok(),
        }
    }
}
