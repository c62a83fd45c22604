//! Where a server listens: parsed once, so that nothing later meets a text that is no address.

use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

/// Address of a server: `http://host:port/prefix`, `https://…`, `grpc://host:port`, `grpcs://…`,
/// `unix:///path` (REST) or `grpc+unix:///path`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Endpoint {
    text: String,
    at: At,
    is_grpc: bool,
    has_tls: bool,
    /// Of a REST server that is not at the root; without a slash at the end.
    prefix: String,
}

/// What is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A host and a port.
    Tcp {
        /// Name or address.
        host: String,
        /// Port.
        port: u16,
    },
    /// A socket on this node.
    Unix(PathBuf),
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "endpoint {text:?} {problem}: write http://HOST:PORT, https://HOST, grpc://HOST:PORT, grpcs://HOST:PORT, \
     unix:///PATH or grpc+unix:///PATH"
)]
pub struct EndpointError {
    text: String,
    problem: &'static str,
}

/// Longest text of an endpoint.
const MAX_BYTES: usize = 512;

impl Endpoint {
    /// What is connected to.
    pub fn at(&self) -> &At {
        &self.at
    }

    /// Whether the scheme asks for gRPC.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// Whether the connection is encrypted.
    pub fn has_tls(&self) -> bool {
        self.has_tls
    }

    /// What goes before a path of the protocol.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Host and port as requests name them.
    pub fn authority(&self) -> String {
        match &self.at {
            At::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            At::Tcp { host, port } => format!("{host}:{port}"),
            At::Unix(_) => "localhost".to_owned(),
        }
    }

    /// Whether what is sent there stays on this node. A name is trusted only where it never meets a name server.
    pub fn is_on_node(&self) -> bool {
        match &self.at {
            At::Unix(_) => true,
            At::Tcp { host, .. } => address(host).is_some_and(|ip| ip.is_loopback()),
        }
    }
}

/// The address that a host is by itself: one that is written out, or `localhost`.
pub fn address(host: &str) -> Option<IpAddr> {
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    host.parse().ok()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<&str> for Endpoint {
    type Error = EndpointError;
    fn try_from(text: &str) -> Result<Self, EndpointError> {
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for Endpoint {
    type Error = EndpointError;

    fn try_from(text: String) -> Result<Self, EndpointError> {
        let parsed = parse(&text);
        let (at, is_grpc, has_tls, prefix) = parsed.map_err(|problem| EndpointError {
            text: text.chars().take(80).collect(),
            problem,
        })?;
        Ok(Self {
            text,
            at,
            is_grpc,
            has_tls,
            prefix,
        })
    }
}

fn parse(text: &str) -> Result<(At, bool, bool, String), &'static str> {
    if text.len() > MAX_BYTES {
        return Err("is too long");
    }
    let (scheme, rest) = text.split_once("://").ok_or("has no scheme")?;
    let (is_grpc, has_tls) = match scheme {
        "http" => (false, false),
        "https" => (false, true),
        "grpc" => (true, false),
        "grpcs" => (true, true),
        "unix" | "grpc+unix" => return parse_unix(rest, scheme == "grpc+unix"),
        _ => return Err("has a scheme that is not known"),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, ""),
    };
    let authority: axum::http::uri::Authority = authority.parse().map_err(|_| "has no valid host")?;
    if authority.as_str().contains('@') {
        return Err("carries a password, which would end up in logs");
    }
    let prefix = path.trim_end_matches('/');
    if is_grpc && !prefix.is_empty() {
        return Err("has a path, which gRPC does not know");
    }
    if !prefix
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b"/-._~".contains(&b))
    {
        return Err("has a path with other signs than letters, digits and /-._~");
    }
    let names_port = authority.as_str().len() > authority.host().len();
    let port = match (authority.port(), is_grpc, has_tls) {
        (Some(port), ..) => port.as_u16(),
        _ if names_port => return Err("has no valid port"),
        (None, true, _) => return Err("names no port"),
        (None, false, true) => 443,
        (None, false, false) => 80,
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    if host.is_empty() || port == 0 {
        return Err("names no host or port");
    }
    let host = host.to_owned();
    Ok((At::Tcp { host, port }, is_grpc, has_tls, prefix.to_owned()))
}

fn parse_unix(path: &str, is_grpc: bool) -> Result<(At, bool, bool, String), &'static str> {
    // 107 bytes and a zero are what the kernel takes.
    if !path.starts_with('/') || path.len() > 107 || path.contains('\0') {
        return Err("needs an absolute path of at most 107 bytes");
    }
    Ok((At::Unix(path.into()), is_grpc, false, String::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read() {
        let tcp = |host: &str, port| At::Tcp {
            host: host.into(),
            port,
        };
        for (text, at, is_grpc, has_tls, on_node) in [
            (
                "http://hub.example:8080",
                tcp("hub.example", 8080),
                false,
                false,
                false,
            ),
            (
                "http://localhost:8000/npu/",
                tcp("localhost", 8000),
                false,
                false,
                true,
            ),
            ("https://hub.example", tcp("hub.example", 443), false, true, false),
            ("grpc://127.0.0.1:8001", tcp("127.0.0.1", 8001), true, false, true),
            ("grpcs://[::1]:8001", tcp("::1", 8001), true, true, true),
            (
                "unix:///run/npu.sock",
                At::Unix("/run/npu.sock".into()),
                false,
                false,
                true,
            ),
            (
                "grpc+unix:///run/npu.sock",
                At::Unix("/run/npu.sock".into()),
                true,
                false,
                true,
            ),
            (
                "http://localhost.example",
                tcp("localhost.example", 80),
                false,
                false,
                false,
            ),
        ] {
            let endpoint = Endpoint::try_from(text).unwrap();
            assert_eq!(*endpoint.at(), at, "{text}");
            assert_eq!(
                (endpoint.is_grpc(), endpoint.has_tls(), endpoint.is_on_node()),
                (is_grpc, has_tls, on_node),
                "{text}"
            );
        }
        let prefixed = Endpoint::try_from("http://localhost:8000/npu/").unwrap();
        assert_eq!(prefixed.prefix(), "/npu");
        let v6 = Endpoint::try_from("grpcs://[::1]:8001").unwrap();
        assert_eq!(v6.authority(), "[::1]:8001");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, says) in [
            ("hub:80", "scheme"),
            ("ftp://hub", "scheme"),
            ("http://", "host"),
            ("http://u:p@hub", "password"),
            ("http://hub/a?b=c", "path"),
            ("http://hub:99999", "no valid"),
            ("http://hub:0", "port"),
            ("grpc://hub", "port"),
            ("grpc://hub:1/x", "path"),
            ("unix://run/x", "absolute"),
            (&format!("http://{}", "h".repeat(600)), "long"),
        ] {
            let error = Endpoint::try_from(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
