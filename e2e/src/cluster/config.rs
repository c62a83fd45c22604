//! The configuration files of the parts, as text.

use std::net::Ipv4Addr;
use std::path::Path;

use super::network::{API_SERVER, PODS};
use super::state::State;

/// Where the cluster's own CNI plugins come from (package containernetworking-plugins).
pub(crate) const CNI_PLUGINS: &str = "/usr/lib/cni";
/// Port of the kubelet's health endpoint.
pub(crate) const KUBELET_HEALTH: u16 = 10248;
/// Port of kube-proxy's health endpoint.
pub(crate) const PROXY_HEALTH: u16 = 10256;

/// What a node's files depend on.
pub(crate) struct NodeSettings<'a> {
    pub state: &'a State,
    pub node: &'a str,
    pub pods: &'a str,
    /// Reference of the sandbox image.
    pub sandbox: &'a str,
}

/// A kubeconfig with the client certificate of `file`.
pub(crate) fn kubeconfig(state: &State, server: &str, file: &str) -> String {
    let pki = |kind: &str| state.pki(&format!("{file}.{kind}")).display().to_string();
    let credentials = format!(
        "client-certificate: {}\n    client-key: {}",
        pki("crt"),
        pki("key")
    );
    kubeconfig_with(state, server, file, &credentials)
}

/// A kubeconfig with the token of a service account; `user` is what the file calls it.
pub(crate) fn kubeconfig_with_token(state: &State, server: &str, user: &str, token: &str) -> String {
    kubeconfig_with(state, server, user, &format!("token: {token}"))
}

fn kubeconfig_with(state: &State, server: &str, user: &str, credentials: &str) -> String {
    let (ca, name) = (state.pki("ca.crt"), state.name());
    format!(
        "apiVersion: v1
kind: Config
current-context: {name}
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority: {ca}
users:
- name: {user}
  user:
    {credentials}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {user}
",
        ca = ca.display(),
    )
}

/// containerd's configuration.
pub(crate) fn containerd(settings: &NodeSettings<'_>, snapshotter: &str) -> String {
    let root = settings.state.node(settings.node).join("containerd");
    // Without CAP_SYS_RESOURCE a lower OOM score is refused and every sandbox
    // fails; restrict_oom_score_adj keeps within what is allowed.
    format!(
        "version = 3
root = '{root}'
state = '/run/containerd'
disabled_plugins = ['io.containerd.nri.v1.nri', 'io.containerd.tracing.processor.v1.otlp']

[grpc]
  address = '/run/containerd/containerd.sock'

[plugins.'io.containerd.internal.v1.opt']
  path = '{root}/opt'

[plugins.'io.containerd.cri.v1.images']
  snapshotter = '{snapshotter}'

[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '{sandbox}'

[plugins.'io.containerd.cri.v1.runtime']
  cdi_spec_dirs = ['/var/run/cdi']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['{CNI_PLUGINS}', '/opt/cni/bin']
  conf_dir = '/etc/cni/net.d'

[plugins.'io.containerd.cri.v1.runtime'.containerd]
  default_runtime_name = 'runc'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'

[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  SystemdCgroup = false
",
        root = root.display(),
        sandbox = settings.sandbox,
    )
}

/// The pod network of one node. Point-to-point links, not a bridge: replies of
/// a Service then always pass the node's own translation, also where caller and
/// server are pods of one node, without help of the br_netfilter module.
pub(crate) fn cni(settings: &NodeSettings<'_>) -> String {
    let data = settings.state.node(settings.node).join("addresses");
    format!(
        r#"{{
  "cniVersion": "1.0.0",
  "name": "perwatt",
  "plugins": [
    {{
      "type": "ptp",
      "ipMasq": false,
      "ipam": {{
        "type": "host-local",
        "dataDir": "{data}",
        "ranges": [[{{"subnet": "{pods}"}}]],
        "routes": [{{"dst": "0.0.0.0/0"}}]
      }}
    }},
    {{"type": "portmap", "capabilities": {{"portMappings": true}}}}
  ]
}}
"#,
        data = data.display(),
        pods = settings.pods,
    )
}

/// The kubelet's configuration.
pub(crate) fn kubelet(settings: &NodeSettings<'_>) -> String {
    let pki = |file: &str| settings.state.pki(file).display().to_string();
    let NodeSettings { state, node, .. } = settings;
    // clusterDNS names an address where nothing listens: look-ups fail at once,
    // and pods carry no warning that no DNS is configured. Image garbage is kept:
    // what was loaded cannot be pulled again.
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {ca}}}
authorization: {{mode: Webhook}}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
cgroupRoot: /{group}/{node}
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [\"{API_SERVER}\"]
resolvConf: {resolv}
healthzPort: {KUBELET_HEALTH}
volumePluginDir: /var/lib/kubelet/volume-plugins
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
nodeStatusUpdateFrequency: 5s
makeIPTablesUtilChains: false
",
        ca = pki("ca.crt"),
        certificate = pki(&format!("{node}.crt")),
        key = pki(&format!("{node}.key")),
        group = state.group(),
        resolv = resolv(state).display(),
    )
}

/// An empty resolv.conf: the machine's own names are not the pods' business.
pub(crate) fn resolv(state: &State) -> std::path::PathBuf {
    state.folder().join("resolv.conf")
}

/// kube-proxy's configuration.
pub(crate) fn kube_proxy(node: &str, kubeconfig: &Path) -> String {
    // Zeroes: leave the machine's connection-tracking limits alone.
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
hostnameOverride: {node}
clusterCIDR: {PODS}
clientConnection: {{kubeconfig: {kubeconfig}}}
healthzBindAddress: {localhost}:{PROXY_HEALTH}
metricsBindAddress: {localhost}:10249
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
",
        kubeconfig = kubeconfig.display(),
        localhost = Ipv4Addr::LOCALHOST,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_node_name_that_node_alone() {
        let state = State::of("boxed").expect("name");
        let settings = NodeSettings {
            state: &state,
            node: "edge-x",
            pods: "10.78.4.0/24",
            sandbox: "s@d",
        };
        let containerd = containerd(&settings, "overlayfs");
        assert!(
            containerd.contains("boxed/nodes/edge-x/containerd'"),
            "{containerd}"
        );
        assert!(containerd.contains("sandbox = 's@d'"), "{containerd}");
        let kubelet: serde_yaml::Value = serde_yaml::from_str(&kubelet(&settings)).expect("yaml");
        assert_eq!(kubelet["cgroupRoot"], "/perwatt.boxed/edge-x");
        let cni: serde_json::Value = serde_json::from_str(&cni(&settings)).expect("json");
        assert_eq!(
            cni["plugins"][0]["ipam"]["ranges"][0][0]["subnet"],
            "10.78.4.0/24"
        );
    }

    #[test]
    fn the_other_files_are_yaml() {
        let state = State::of("boxed").expect("name");
        let text = kubeconfig(&state, "https://127.0.0.1:1", "admin");
        let config: serde_yaml::Value = serde_yaml::from_str(&text).expect("yaml");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://127.0.0.1:1");
        assert!(config["users"][0]["user"]["client-key"].is_string());
        let text = kubeconfig_with_token(&state, "https://127.0.0.1:1", "guest", "secret");
        let config: serde_yaml::Value = serde_yaml::from_str(&text).expect("yaml");
        assert_eq!(config["users"][0]["user"]["token"], "secret");
        assert_eq!(config["contexts"][0]["context"]["user"], "guest");
        let proxy: serde_yaml::Value =
            serde_yaml::from_str(&kube_proxy("edge-x", Path::new("/k"))).expect("yaml");
        assert_eq!(proxy["mode"], "nftables");
    }
}
