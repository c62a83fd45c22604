//! The protocol over HTTP/1.1, as the client of the figures speaks it, and the stub that answers it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::load::{Ask, PATIENCE, Stub};
use super::{echo, failed};
use crate::product::Result;

/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// A request, ready to send.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

impl Request {
    /// An inference request; `json_length` says where binary tensor data begins.
    pub fn infer(body: &[u8], json_length: Option<usize>) -> Self {
        let (kind, extra) = match json_length {
            Some(length) => (
                "application/octet-stream",
                format!("inference-header-content-length: {length}\r\n"),
            ),
            None => ("application/json", String::new()),
        };
        let head = format!(
            "POST /v2/models/{}/infer HTTP/1.1\r\nhost: bench\r\ncontent-type: {kind}\r\n{extra}\
             content-length: {}\r\n\r\n",
            echo::NAME,
            body.len()
        );
        Self([head.as_bytes(), body].concat())
    }

    /// A request without a body.
    pub fn get(path: &str) -> Self {
        Self(format!("GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n").into_bytes())
    }
}

/// A connection that sends one request again and again, one after the other.
pub struct Connection {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    request: Request,
    body: Vec<u8>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr, request: Request) -> Result<Self> {
        let connect = || -> io::Result<Self> {
            let writer = TcpStream::connect(address)?;
            writer.set_nodelay(true)?;
            writer.set_read_timeout(Some(PATIENCE))?;
            let reader = BufReader::with_capacity(1 << 16, writer.try_clone()?);
            Ok(Self {
                writer,
                reader,
                request,
                body: Vec::new(),
            })
        };
        connect().map_err(|error| failed(format!("connecting to {address}"), error))
    }

    /// Sends the request; the status and body of its answer.
    pub fn exchange(&mut self) -> Result<(u16, &[u8])> {
        let mut exchange = || -> io::Result<u16> {
            self.writer.write_all(&self.request.0)?;
            let (status, length) = read_head(&mut self.reader)?;
            self.body.resize(length, 0);
            self.reader.read_exact(&mut self.body)?;
            Ok(status)
        };
        let status = exchange().map_err(|error| failed("a request got no answer", error))?;
        Ok((status, &self.body))
    }
}

impl Ask for Connection {
    fn ask(&mut self) -> Result<()> {
        let (status, body) = self.exchange()?;
        if status == 200 {
            return Ok(());
        }
        let said: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Err(failed(format!("a request was answered {status}"), said))
    }
}

/// Status (0 for a request) and length of the body.
fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, usize)> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let status = line.split_whitespace().nth(1).and_then(|word| word.parse().ok());
    let mut length = None;
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
    }
    match length {
        Some(length) if length <= MAX_ANSWER => Ok((status.unwrap_or(0), length)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "an answer without a length, or one that is too long",
        )),
    }
}

/// A stub that answers with this body.
pub fn stub(body: &[u8]) -> Result<Stub> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    let answer = [head.as_bytes(), body].concat();
    Stub::start(move |stream| serve(stream, &answer))
}

fn serve(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(1 << 16, stream.try_clone()?);
    let mut body = Vec::new();
    loop {
        let (_, length) = read_head(&mut reader)?;
        body.resize(length, 0);
        reader.read_exact(&mut body)?;
        stream.write_all(answer)?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::load::run;

    #[test]
    fn the_client_gets_what_the_stub_answers_and_counts_every_request() {
        let stub = stub(b"{}").expect("a stub");
        let open = || Connection::open(stub.address, Request::infer(b"body", None));
        assert_eq!(
            open().expect("opens").exchange().expect("answers"),
            (200, &b"{}"[..])
        );
        let outcome = run(open, 2, Duration::from_millis(20)).expect("an outcome");
        assert!(!outcome.times.is_empty() && outcome.per_second() > 0.0);
    }

    #[test]
    fn a_server_that_gives_no_length_is_refused() {
        let mut answer: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";
        assert!(read_head(&mut answer).is_err());
        let mut answer: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n";
        assert!(read_head(&mut answer).is_err(), "half a head");
        let mut answer: &[u8] = b"HTTP/1.1 503 no\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(read_head(&mut answer).expect("a head"), (503, 3));
    }
}
