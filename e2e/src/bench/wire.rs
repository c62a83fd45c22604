//! The ways in which tensors are carried: one client for each, whoever serves.

use std::net::SocketAddr;

use super::load::{Ask, Stub};
use super::server::Server;
use super::{echo, failed, grpc, http1};
use crate::product::Result;

/// A way to carry the tensors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// HTTP, numbers as JSON.
    Json,
    /// HTTP, tensors as bytes behind the JSON.
    Binary,
    /// gRPC, tensors as raw contents.
    Grpc,
}

impl Wire {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Json, Self::Binary, Self::Grpc];

    /// As a figure names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "REST, JSON",
            Self::Binary => "REST, binary tensors",
            Self::Grpc => "gRPC",
        }
    }

    /// Whether MLServer knows it: it has no binary tensor data over HTTP.
    pub fn is_known_to_peer(self) -> bool {
        self != Self::Binary
    }

    /// Where a server answers to it.
    pub fn address(self, server: &Server) -> SocketAddr {
        match self {
            Self::Json | Self::Binary => server.rest,
            Self::Grpc => server.grpc,
        }
    }

    /// A connection that sends inference requests.
    pub fn open(self, address: SocketAddr) -> Result<Box<dyn Ask>> {
        Ok(match self {
            Self::Json | Self::Binary => Box::new(http1::Connection::open(address, self.request())?),
            Self::Grpc => Box::new(grpc::Connection::open(address, &echo::grpc_request())?),
        })
    }

    fn request(self) -> http1::Request {
        let (json, tensors) = echo::binary_request();
        let binary = [json.as_bytes(), &tensors].concat();
        match self {
            Self::Binary => http1::Request::infer(&binary, Some(json.len())),
            Self::Json | Self::Grpc => http1::Request::infer(echo::json_request().as_bytes(), None),
        }
    }

    /// What a server answers to one request, once it is proved to be the model's answer.
    pub fn answer(self, server: &Server) -> Result<Vec<u8>> {
        let address = self.address(server);
        let (answer, floats) = match self {
            Self::Json | Self::Binary => {
                let mut connection = http1::Connection::open(address, self.request())?;
                let (_, body) = connection.exchange()?;
                let floats = match self {
                    Self::Json => echo::json_answer(body),
                    _ => echo::binary_answer(body),
                };
                (body.to_vec(), floats)
            }
            Self::Grpc => {
                let mut connection = grpc::Connection::open(address, &echo::grpc_request())?;
                let message = connection.exchange()?;
                (message.to_vec(), echo::grpc_answer(message))
            }
        };
        if echo::is_answer(&floats) {
            return Ok(answer);
        }
        let said: String = String::from_utf8_lossy(&answer).chars().take(200).collect();
        Err(failed(format!("{}: not the model's answer", self.name()), said))
    }

    /// A stub that answers so.
    pub fn stub(self, answer: &[u8]) -> Result<Stub> {
        match self {
            Self::Json | Self::Binary => http1::stub(answer),
            Self::Grpc => grpc::stub(answer),
        }
    }
}
