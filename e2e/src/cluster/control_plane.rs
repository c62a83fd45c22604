//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in a
//! network namespace of their own.

use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::core::params::GetParams;

use super::config;
use super::error::Result;
use super::network::{API_PORT, API_SERVER, SERVICES, healthy};
use super::process::{Launcher, Part};
use super::state::{CONTROL, State, write_file};

/// Names of the parts, also of their logs.
pub(crate) const PARTS: [&str; 4] = [
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
];
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PORT: u16 = 2379;
/// A played node may be silent this long: thousands of leases on one machine are renewed less often than a kubelet's.
const PLAYED_NODES_GRACE: &str = "150s";

/// Where components of the cluster find the API server.
pub(crate) fn server() -> String {
    format!("https://{API_SERVER}:{API_PORT}")
}

/// Path of the kubeconfig of a component.
pub(crate) fn kubeconfig(state: &State, component: &str) -> PathBuf {
    state.folder().join("kubeconfigs").join(component)
}

/// Writes the kubeconfig of a component.
pub(crate) fn write_kubeconfig(state: &State, component: &str) -> Result<()> {
    let text = config::kubeconfig(state, &server(), component);
    write_file(&kubeconfig(state, component), text)
}

/// Starts etcd and the API server. They wait for one another by themselves. `crowd` as of [`start_controllers`].
pub(crate) fn start_api(launcher: &Launcher, crowd: bool) -> Result<()> {
    launcher.start(etcd(launcher))?;
    start_api_server(launcher, crowd)
}

fn start_api_server(launcher: &Launcher, crowd: bool) -> Result<()> {
    let mut part = api_server(launcher);
    if crowd {
        // A played node is ready at once; the taint until it is takes minutes to go from thousands.
        part = part.flag("disable-admission-plugins", "TaintNodesByCondition");
    }
    launcher.start(part)?;
    Ok(())
}

/// Kills the API server and starts another.
pub(crate) fn restart_api_server(launcher: &Launcher, crowd: bool) -> Result<()> {
    launcher.kill(PARTS[1])?;
    start_api_server(launcher, crowd)
}

/// Starts what works through the API server; `crowd` where nodes are played, by the thousand.
pub(crate) fn start_controllers(launcher: &Launcher, crowd: bool) -> Result<()> {
    for component in &PARTS[2..] {
        write_kubeconfig(&launcher.state, component)?;
    }
    let (mut controllers, mut scheduler) = (controller_manager(launcher), scheduler(launcher));
    if crowd {
        controllers = without_throttle(controllers)
            .flag("node-monitor-grace-period", PLAYED_NODES_GRACE)
            // Else one node in ten seconds gets its taint.
            .flag("node-eviction-rate", 100);
        scheduler = without_throttle(scheduler);
    }
    launcher.start(controllers)?;
    launcher.start(scheduler)?;
    Ok(())
}

/// By default they ask the API server 20 and 50 times a second, and a figure would be one of that.
fn without_throttle(part: Part) -> Part {
    part.flag("kube-api-qps", 5_000).flag("kube-api-burst", 10_000)
}

fn part(launcher: &Launcher, name: &str) -> Part {
    Part::new(name, launcher.binary(name)).network(launcher.state.namespace_path(CONTROL))
}

fn etcd(launcher: &Launcher) -> Part {
    part(launcher, "etcd")
        .path("data-dir", &launcher.state.folder().join("etcd"))
        .flag("listen-client-urls", ETCD)
        .flag("advertise-client-urls", ETCD)
        .flag("listen-peer-urls", "http://127.0.0.1:2380")
        .flag("initial-advertise-peer-urls", "http://127.0.0.1:2380")
        .flag("initial-cluster", "default=http://127.0.0.1:2380")
        // The data is thrown away with the cluster.
        .arg("--unsafe-no-fsync")
        .flag("log-level", "warn")
}

fn api_server(launcher: &Launcher) -> Part {
    let pki = |file: &str| launcher.state.pki(file);
    part(launcher, "kube-apiserver")
        .flag("etcd-servers", ETCD)
        .flag("advertise-address", API_SERVER)
        .flag("secure-port", API_PORT)
        .flag("service-cluster-ip-range", SERVICES)
        .flag("allow-privileged", true)
        .flag("authorization-mode", "Node,RBAC")
        .flag("enable-admission-plugins", "NodeRestriction")
        .flag("kubelet-preferred-address-types", "InternalIP")
        .flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        )
        .path("service-account-key-file", &pki("service-account.pub"))
        .path("service-account-signing-key-file", &pki("service-account.key"))
        .path("client-ca-file", &pki("ca.crt"))
        .path("tls-cert-file", &pki("kube-apiserver.crt"))
        .path("tls-private-key-file", &pki("kube-apiserver.key"))
        .path("kubelet-certificate-authority", &pki("ca.crt"))
        .path("kubelet-client-certificate", &pki("kubelet-client.crt"))
        .path("kubelet-client-key", &pki("kubelet-client.key"))
}

fn controller_manager(launcher: &Launcher) -> Part {
    let pki = |file: &str| launcher.state.pki(file);
    let config = kubeconfig(&launcher.state, "kube-controller-manager");
    part(launcher, "kube-controller-manager")
        .path("kubeconfig", &config)
        .path("authentication-kubeconfig", &config)
        .path("authorization-kubeconfig", &config)
        .path("root-ca-file", &pki("ca.crt"))
        .path("cluster-signing-cert-file", &pki("ca.crt"))
        .path("cluster-signing-key-file", &pki("ca.key"))
        .path("service-account-private-key-file", &pki("service-account.key"))
        .flag("use-service-account-credentials", true)
        // Pod subnets follow from a node's place in the list, as the routes do.
        .flag("allocate-node-cidrs", false)
        .flag("leader-elect", false)
        .flag("bind-address", "127.0.0.1")
}

fn scheduler(launcher: &Launcher) -> Part {
    let config = kubeconfig(&launcher.state, "kube-scheduler");
    part(launcher, "kube-scheduler")
        .path("kubeconfig", &config)
        .path("authentication-kubeconfig", &config)
        .path("authorization-kubeconfig", &config)
        .flag("leader-elect", false)
        .flag("bind-address", "127.0.0.1")
}

/// One look at etcd.
pub(crate) async fn etcd_healthy(state: &State) -> std::result::Result<(), String> {
    healthy(&state.namespace_path(CONTROL), ETCD_PORT, "/health").await
}

/// One look at the API server, through the administrator's way in.
pub(crate) async fn api_ready(client: kube::Client) -> std::result::Result<(), String> {
    let built = kube::core::Request::new("/").get("readyz", &GetParams::default());
    let mut request = built.map_err(|error| error.to_string())?;
    *request.uri_mut() = "/readyz".parse().map_err(|_| "not a path".to_owned())?;
    let asked = client.request_text(request);
    match tokio::time::timeout(Duration::from_secs(10), asked).await {
        Ok(Ok(text)) if text == "ok" => Ok(()),
        Ok(Ok(text)) => Err(text),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer in 10 s".to_owned()),
    }
}

/// One look whether the controllers have made what pods need.
pub(crate) async fn controllers_ready(client: kube::Client) -> std::result::Result<(), String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
    accounts
        .get("default")
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
}
