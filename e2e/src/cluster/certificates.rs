//! A certificate authority of the cluster's own, and one certificate for each
//! component, so that RBAC, NodeRestriction and the kubelets' authentication
//! are the real thing.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};

use super::error::{Error, IoContext, Result};
use super::network::{API_SERVER, KUBERNETES, node_address};
use super::state::{State, write_file};

/// Who may do everything.
const ADMINISTRATORS: &str = "system:masters";
/// What the node authorizer knows kubelets by.
const NODES: &str = "system:nodes";

/// One certificate to make: for a server, a client, or both.
struct Subject<'a> {
    /// Name of its two files, `NAME.crt` and `NAME.key`.
    file: String,
    user: String,
    groups: &'a [&'a str],
    /// Names that a server answers to.
    names: Vec<String>,
    addresses: Vec<Ipv4Addr>,
}

impl<'a> Subject<'a> {
    fn client(file: impl Into<String>, user: impl Into<String>, groups: &'a [&'a str]) -> Self {
        let (file, user) = (file.into(), user.into());
        Self {
            file,
            user,
            groups,
            names: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

/// Makes the authority and every certificate of the cluster.
pub(crate) fn create(state: &State, nodes: &[String]) -> Result<()> {
    let authority = authority(state)?;
    for subject in subjects(nodes) {
        issue(state, &authority, &subject)?;
    }
    // Signs and checks the tokens of service accounts; not part of the authority.
    let tokens = key("service-account")?;
    write_file(&state.pki("service-account.pub"), tokens.public_key_pem())?;
    write_key(&state.pki("service-account.key"), &tokens)
}

fn subjects(nodes: &[String]) -> Vec<Subject<'static>> {
    let mut all = vec![
        api_server(),
        Subject::client("admin", "perwatt-admin", &[ADMINISTRATORS]),
        Subject::client(
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            &[ADMINISTRATORS],
        ),
        Subject::client("kube-controller-manager", "system:kube-controller-manager", &[]),
        Subject::client("kube-scheduler", "system:kube-scheduler", &[]),
        Subject::client("kube-proxy", "system:kube-proxy", &[]),
    ];
    for (place, node) in nodes.iter().enumerate() {
        let mut kubelet = Subject::client(node, format!("system:node:{node}"), &[NODES]);
        kubelet.names = vec![node.clone()];
        kubelet.addresses = vec![node_address(place), Ipv4Addr::LOCALHOST];
        all.push(kubelet);
    }
    all
}

fn api_server() -> Subject<'static> {
    let mut subject = Subject::client("kube-apiserver", "kube-apiserver", &[]);
    let names = [
        "localhost",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ];
    subject.names = names.map(str::to_owned).to_vec();
    subject
        .names
        .push("kubernetes.default.svc.cluster.local".to_owned());
    // Loopback is where the machine's own clients come in.
    subject.addresses = vec![Ipv4Addr::LOCALHOST, API_SERVER, KUBERNETES];
    subject
}

fn authority(state: &State) -> Result<Issuer<'static, KeyPair>> {
    let name = "perwatt-e2e-ca";
    let mut params = base_params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = key(name)?;
    let certificate = params.self_signed(&key).map_err(|source| failed(name, source))?;
    write_file(&state.pki("ca.crt"), certificate.pem())?;
    write_key(&state.pki("ca.key"), &key)?;
    Ok(Issuer::new(params, key))
}

fn issue(state: &State, authority: &Issuer<'_, KeyPair>, subject: &Subject<'_>) -> Result<()> {
    let name = &subject.user;
    let mut params = base_params(name);
    for group in subject.groups {
        params.distinguished_name.push(DnType::OrganizationName, *group);
    }
    for each in &subject.names {
        let dns = each.as_str().try_into().map_err(|source| failed(name, source))?;
        params.subject_alt_names.push(SanType::DnsName(dns));
    }
    let addresses = subject
        .addresses
        .iter()
        .copied()
        .map(IpAddr::V4)
        .map(SanType::IpAddress);
    params.subject_alt_names.extend(addresses);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.use_authority_key_identifier_extension = true;
    let key = key(name)?;
    let certificate = params
        .signed_by(&key, authority)
        .map_err(|source| failed(name, source))?;
    write_file(&state.pki(&format!("{}.crt", subject.file)), certificate.pem())?;
    write_key(&state.pki(&format!("{}.key", subject.file)), &key)
}

/// A century of validity: the cluster lives for hours, its machine's clock may be off.
fn base_params(common_name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params
}

fn key(name: &str) -> Result<KeyPair> {
    KeyPair::generate().map_err(|source| failed(name, source))
}

fn failed(name: &str, source: rcgen::Error) -> Error {
    Error::Certificate {
        name: name.to_owned(),
        source,
    }
}

fn write_key(path: &Path, key: &KeyPair) -> Result<()> {
    write_file(path, key.serialize_pem())?;
    let mode = fs::Permissions::from_mode(0o600);
    fs::set_permissions(path, mode).context(|| format!("protecting {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kubelet_is_its_own_node_and_answers_at_its_address() {
        let nodes = ["edge-x".to_owned(), "edge-y".to_owned()];
        let all = subjects(&nodes);
        let second = all.iter().find(|each| each.file == "edge-y").expect("has one");
        assert_eq!(second.user, "system:node:edge-y");
        assert_eq!(second.groups, [NODES]);
        assert_eq!(second.addresses[0], node_address(1));
    }

    #[test]
    fn only_the_administrator_and_the_api_server_are_administrators() {
        let all = subjects(&["edge-x".to_owned()]);
        let masters: Vec<_> = all
            .iter()
            .filter(|each| each.groups.contains(&ADMINISTRATORS))
            .map(|each| each.file.as_str())
            .collect();
        assert_eq!(masters, ["admin", "kubelet-client"]);
    }
}
