//! A node agent as far as a runtime sees it: the socket of one device.

use perwatt_device_socket::{
    Device, DeviceServer, DeviceState, Health, PowerSource, ReportReply, ReportRequest, SOCKET_NAME,
    WatchRequest,
};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

pub struct Agent {
    dir: PathBuf,
    state: watch::Sender<DeviceState>,
    pub reports: Arc<Mutex<Vec<ReportRequest>>>,
    /// A runtime of its own: with it end the server, its connections and its streams, as with a process.
    server: Option<Runtime>,
}

struct Service {
    state: watch::Receiver<DeviceState>,
    reports: Arc<Mutex<Vec<ReportRequest>>>,
}

#[tonic::async_trait]
impl Device for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<DeviceState, Status>> + Send>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Ok(Response::new(Box::pin(
            WatchStream::new(self.state.clone()).map(Ok),
        )))
    }

    async fn report(&self, request: Request<ReportRequest>) -> Result<Response<ReportReply>, Status> {
        self.reports.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ReportReply {}))
    }
}

pub fn state(health: Health) -> DeviceState {
    let mut state = DeviceState {
        id: "asic-0".into(),
        profile: "asic-emulated".into(),
        emulated: true,
        active_milliwatts: 2500,
        ..DeviceState::default()
    };
    state.set_health(health);
    state.set_power_source(PowerSource::Nameplate);
    if health == Health::Unhealthy {
        state.reason = "thermal".into();
        state.message = "104 degrees".into();
    }
    state
}

impl Agent {
    pub fn start(dir: &Path, health: Health) -> Self {
        let (sender, _) = watch::channel(state(health));
        let mut agent = Self {
            dir: dir.to_path_buf(),
            state: sender,
            reports: Arc::default(),
            server: None,
        };
        agent.restart();
        agent
    }

    pub fn set(&self, health: Health) {
        self.state.send_replace(state(health));
    }

    /// The device is taken out of use, and is what it is otherwise.
    pub fn drain(&self, health: Health) {
        self.state.send_replace(DeviceState {
            going_away: true,
            going_away_message: "device asic-0 is taken out of use (a fan)".into(),
            ..state(health)
        });
    }

    /// Goes away, with its socket and every stream.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
        let _ = std::fs::remove_file(self.dir.join(SOCKET_NAME));
    }

    pub fn restart(&mut self) {
        let listener = std::os::unix::net::UnixListener::bind(self.dir.join(SOCKET_NAME)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let service = Service {
            state: self.state.subscribe(),
            reports: self.reports.clone(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.spawn(async move {
            let incoming = UnixListenerStream::new(UnixListener::from_std(listener).unwrap());
            let server = tonic::transport::Server::builder().add_service(DeviceServer::new(service));
            server.serve_with_incoming(incoming).await.unwrap();
        });
        self.server = Some(runtime);
    }

    pub fn last_report(&self) -> Option<ReportRequest> {
        self.reports.lock().unwrap().last().cloned()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.stop();
    }
}
