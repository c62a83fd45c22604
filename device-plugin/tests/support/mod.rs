//! A kubelet that does what a test says, and an agent beside it.

use perwatt_crds::inventory::{DeviceHealth, HealthReason};
use perwatt_device_plugin::agent::Agent;
use perwatt_device_plugin::emulate;
use perwatt_device_plugin::known::{Known, NodeFacts};
use perwatt_device_plugin::kubelet::api::device_plugin_client::DevicePluginClient;
use perwatt_device_plugin::kubelet::api::registration_server::{Registration, RegistrationServer};
use perwatt_device_plugin::kubelet::api::{Empty, ListAndWatchResponse, RegisterRequest};
use perwatt_device_plugin::paths::Paths;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

/// Generous: these machines are slow, and nothing here measures time.
const DEADLINE: Duration = Duration::from_secs(60);

/// Whether device nodes can be made here; says so where not.
pub fn can_make_nodes() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: making device nodes needs root");
    }
    root
}

/// A device id and what the kubelet is told of it.
pub type Listed = (String, String);

/// The same from literals.
pub fn owned((id, health): (&str, &str)) -> Listed {
    (id.to_owned(), health.to_owned())
}

/// Waits until `holds` does.
pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < DEADLINE, "not within {DEADLINE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// What the API server would say of profiles of emulated devices.
pub fn known(profiles: &[(&str, u32)]) -> Known {
    let profile = |count: u32| {
        serde_json::from_value(serde_json::json!({
            "class": "ASIC",
            "discovery": {"emulated": {"count": count}},
            "power": {"typicalMilliwatts": 2500, "maxMilliwatts": 8000}
        }))
        .unwrap()
    };
    Known {
        node: NodeFacts {
            name: "edge-test".into(),
            uid: Some("uid-1".into()),
            labels: Default::default(),
            drained: Default::default(),
        },
        profiles: profiles
            .iter()
            .map(|(name, count)| ((*name).to_owned(), profile(*count)))
            .collect(),
    }
}

/// An agent and a kubelet in one folder.
pub struct Bench {
    dir: tempfile::TempDir,
    pub paths: Paths,
    pub kubelet: Kubelet,
    pub agent: Agent,
    updates: mpsc::Sender<Known>,
}

impl Bench {
    pub async fn start(profiles: &[(&str, u32)]) -> Self {
        let mut bench = Self::start_without_kubelet(profiles).await;
        bench.kubelet.restart().await;
        bench
    }

    pub async fn start_without_kubelet(profiles: &[(&str, u32)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        std::fs::create_dir_all(&paths.kubelet).unwrap();
        let (updates, received) = mpsc::channel(1);
        let agent = Agent::start(paths.clone(), "edge-test", received).await.unwrap();
        let bench = Self {
            dir,
            kubelet: Kubelet::new(&paths),
            paths,
            agent,
            updates,
        };
        bench.update(known(profiles)).await;
        let count = profiles.iter().map(|(_, count)| *count as usize).sum::<usize>();
        eventually("the devices are there", || {
            bench.agent.shared.now().devices.len() == count
        })
        .await;
        bench
    }

    pub async fn update(&self, known: Known) {
        self.updates.send(known).await.unwrap();
    }

    /// The agent ends and starts again, and nobody tells it anything.
    pub async fn restart_agent(&mut self) {
        let (updates, received) = mpsc::channel(1);
        self.updates = updates;
        let stop = std::mem::replace(&mut self.agent, idle_agent().await);
        stop.stop().await;
        let agent = Agent::start(self.paths.clone(), "edge-test", received)
            .await
            .unwrap();
        std::mem::replace(&mut self.agent, agent).stop().await;
    }

    /// What `perwatt-device-plugin emulate DEVICE KEY=VALUE` does.
    pub fn set(&self, device: &str, setting: &str) {
        emulate::run(&self.paths, Some(device), &[setting.to_owned()]).unwrap();
    }

    pub async fn wait_for_health(&self, device: &str, health: DeviceHealth) {
        let now = || self.agent.shared.now().devices[device].view.health == health;
        eventually(&format!("{device} is {health:?}"), now).await;
    }

    pub fn reason(&self, device: &str) -> HealthReason {
        self.agent.shared.now().devices[device].view.reasons[0].clone()
    }

    pub async fn end(self) -> tempfile::TempDir {
        self.agent.stop().await;
        self.dir
    }
}

/// Stands in while the real one is between two lives.
async fn idle_agent() -> Agent {
    let dir = tempfile::tempdir().unwrap();
    Agent::start(Paths::below(dir.path()), "edge-idle", mpsc::channel(1).1)
        .await
        .unwrap()
}

/// The kubelet's side of the device plugin API.
pub struct Kubelet {
    paths: Paths,
    registered: Mutex<mpsc::UnboundedReceiver<RegisterRequest>>,
    sender: mpsc::UnboundedSender<RegisterRequest>,
    server: Option<JoinHandle<()>>,
}

impl Kubelet {
    fn new(paths: &Paths) -> Self {
        let (sender, registered) = mpsc::unbounded_channel();
        Self {
            paths: paths.clone(),
            registered: Mutex::new(registered),
            sender,
            server: None,
        }
    }

    /// As a kubelet does: every socket in the folder goes, then its own is made.
    pub async fn restart(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = server.await;
        }
        for entry in std::fs::read_dir(&self.paths.kubelet).unwrap().flatten() {
            let _ = std::fs::remove_file(entry.path());
        }
        while self.registered.get_mut().try_recv().is_ok() {}
        let listener = UnixListener::bind(self.paths.kubelet_socket()).unwrap();
        let service = RegistrationServer::new(Registrar(self.sender.clone()));
        let incoming = tokio_stream::wrappers::UnixListenerStream::new(listener);
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming);
        self.server = Some(tokio::spawn(async move { server.await.unwrap() }));
    }

    /// The next registration.
    pub async fn registration(&self) -> RegisterRequest {
        within("a registration", async {
            self.registered.lock().await.recv().await.unwrap()
        })
        .await
    }

    /// Calls a plugin back.
    pub async fn dial(&self, registration: &RegisterRequest) -> DevicePluginClient<Channel> {
        let path = Arc::new(self.paths.kubelet.join(&registration.endpoint));
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                UnixStream::connect(&*path)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        DevicePluginClient::new(endpoint.connect_with_connector(connector).await.unwrap())
    }

    pub async fn watch(plugin: &mut DevicePluginClient<Channel>) -> List {
        List(plugin.list_and_watch(Empty {}).await.unwrap().into_inner())
    }

    /// Watches the plugin that registers next.
    pub async fn watch_first(&self) -> List {
        let registration = self.registration().await;
        Self::watch(&mut self.dial(&registration).await).await
    }

    /// Watches the plugin of that resource, once it has registered.
    pub async fn watch_resource(&self, resource: &str) -> List {
        loop {
            let registration = self.registration().await;
            let list = Self::watch(&mut self.dial(&registration).await).await;
            if registration.resource_name == resource {
                return list;
            }
        }
    }
}

struct Registrar(mpsc::UnboundedSender<RegisterRequest>);

#[tonic::async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        self.0.send(request.into_inner()).unwrap();
        Ok(Response::new(Empty {}))
    }
}

/// What a plugin lists.
pub struct List(Streaming<ListAndWatchResponse>);

impl List {
    pub async fn next(&mut self) -> Vec<Listed> {
        let message = within("a list of devices", self.0.message())
            .await
            .unwrap()
            .unwrap();
        message
            .devices
            .into_iter()
            .map(|device| (device.id, device.health))
            .collect()
    }

    /// Whether nothing more is said.
    pub async fn ended(&mut self) -> bool {
        matches!(
            within("the end of a list", self.0.message()).await,
            Ok(None) | Err(_)
        )
    }
}
