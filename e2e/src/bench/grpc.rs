//! The protocol over gRPC, as the client of the figures speaks it, and the stub that answers it.
//!
//! Frames are made beforehand, as those over HTTP/1.1 are. The first request of a connection has the server remember
//! its headers, those after it refer to them, as usual clients' do.

use std::io;
use std::net::{SocketAddr, TcpStream};

use super::http2::{DATA, END_HEADERS, END_STREAM, End, HEADERS, MAX_PAYLOAD, frame, set_stream};
use super::load::{Ask, PATIENCE, Stub};
use super::{echo, failed};
use crate::product::Result;

const PATH: &str = "/inference.GRPCInferenceService/ModelInfer";
/// Streams are numbered in 31 bits, the client's are odd.
const LAST_STREAM: u32 = i32::MAX as u32;

/// A connection that sends one request again and again, one after the other.
pub struct Connection {
    end: End,
    /// The first request, and those after it.
    frames: Vec<u8>,
    later: Vec<u8>,
    /// Bytes of data in them.
    data: usize,
    stream: u32,
    answer: Vec<u8>,
}

impl Connection {
    /// Connects; the request is a protocol buffer.
    pub fn open(address: SocketAddr, request: &[u8]) -> Result<Self> {
        let message = message(request)?;
        let headers = headers(&address.to_string());
        let with = |headers: &[u8]| {
            let headers = frame(HEADERS, END_HEADERS, 1, headers);
            [headers, frame(DATA, END_STREAM, 1, &message)].concat()
        };
        let connect = || -> io::Result<End> {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            End::start(stream, true)
        };
        Ok(Self {
            end: connect().map_err(|error| failed(format!("connecting to {address}"), error))?,
            frames: with(&headers),
            later: with(&REMEMBERED),
            data: message.len(),
            stream: 1,
            answer: Vec::new(),
        })
    }

    /// Sends the request; the protocol buffer that answers it, empty where there is none.
    pub fn exchange(&mut self) -> Result<&[u8]> {
        self.read_answer()
            .map_err(|error| failed("a request got no answer", error))?;
        let answer = self.answer.split_at_checked(5);
        Ok(answer.map(|(_, message)| message).unwrap_or_default())
    }

    fn read_answer(&mut self) -> io::Result<()> {
        if self.stream > LAST_STREAM - 2 {
            return Err(io::Error::other(
                "the connection has no number left for a request",
            ));
        }
        set_stream(&mut self.frames, self.stream);
        self.end.send(&self.frames, self.data)?;
        if self.stream == 1 {
            std::mem::swap(&mut self.frames, &mut self.later);
        }
        self.stream += 2;
        self.answer.clear();
        loop {
            let (head, payload) = self.end.next()?;
            if head.kind == DATA {
                self.answer.extend_from_slice(payload);
            }
            if head.flags & END_STREAM != 0 {
                return Ok(());
            }
        }
    }
}

impl Ask for Connection {
    /// An error has no data, and so its status need not be read.
    fn ask(&mut self) -> Result<()> {
        let length = self.exchange()?.len();
        if length >= echo::FLOATS * 4 {
            return Ok(());
        }
        Err(failed(
            "a request over gRPC was refused",
            format!("its answer has {length} bytes"),
        ))
    }
}

/// A message with gRPC's prefix: not compressed, and its length.
fn message(content: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(content.len()).unwrap_or(u32::MAX).to_be_bytes();
    let message = [&[0], &length[..], content].concat();
    if message.len() > MAX_PAYLOAD {
        return Err(failed("a message over gRPC", "it is too long for one frame"));
    }
    Ok(message)
}

/// Headers of a request by HPACK: the method and the scheme as the static table has them, and four that the server
/// shall remember.
fn headers(authority: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    block.extend([0x44].into_iter().chain(text(PATH)));
    block.extend([0x41].into_iter().chain(text(authority)));
    block.extend([0x5f].into_iter().chain(text("application/grpc")));
    block.extend([0x40].into_iter().chain(text("te")).chain(text("trailers")));
    block
}

/// The same by what it remembers: the newest has the number 62.
const REMEMBERED: [u8; 6] = [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

/// A text of at most 126 bytes.
fn text(text: &str) -> impl Iterator<Item = u8> + '_ {
    let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
    std::iter::once(length).chain(text.bytes())
}

/// A stub that answers with this protocol buffer.
pub fn stub(answer: &[u8]) -> Result<Stub> {
    let message = message(answer)?;
    // Status 200 is in the static table; the two texts are not to be remembered.
    let kind = [0x0f, 0x10].into_iter().chain(text("application/grpc"));
    let head: Vec<u8> = std::iter::once(0x88).chain(kind).collect();
    let status = text("grpc-status").chain(text("0"));
    let trailers: Vec<u8> = std::iter::once(0).chain(status).collect();
    let frames = [
        frame(HEADERS, END_HEADERS, 1, &head),
        frame(DATA, 0, 1, &message),
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &trailers),
    ]
    .concat();
    Stub::start(move |stream| serve(stream, frames.clone(), message.len()))
}

fn serve(stream: TcpStream, mut frames: Vec<u8>, data: usize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut end = End::start(stream, false)?;
    loop {
        let (head, _) = end.next()?;
        if head.flags & END_STREAM != 0 {
            set_stream(&mut frames, head.stream);
            end.send(&frames, data)?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::bench::load::run;

    #[test]
    fn the_client_gets_what_the_stub_answers_more_often_than_a_window_holds() {
        let answer = vec![7; echo::FLOATS * 4];
        let stub = stub(&answer).expect("a stub");
        let request = vec![1; 5000];
        let mut connection = Connection::open(stub.address, &request).expect("connects");
        for _ in 0..400 {
            assert_eq!(connection.exchange().expect("answers"), answer);
        }
        let open = || Connection::open(stub.address, &request);
        let outcome = run(open, 2, Duration::from_millis(20)).expect("an outcome");
        assert!(!outcome.times.is_empty());
    }

    #[test]
    fn an_answer_without_the_tensor_is_no_answer() {
        let stub = stub(b"").expect("a stub");
        let mut connection = Connection::open(stub.address, b"x").expect("connects");
        let error = connection.ask().expect_err("refused").to_string();
        assert!(error.contains("its answer has 0 bytes"), "{error}");
    }

    #[test]
    fn headers_are_those_of_rfc_7541() {
        let block = headers("a");
        let expected = [
            &[0x83, 0x86, 0x44, 42][..],
            PATH.as_bytes(),
            &[0x41, 1, b'a', 0x5f, 16],
            b"application/grpc",
            &[0x40, 2],
            b"te",
            &[8],
            b"trailers",
        ];
        assert_eq!(block, expected.concat());
    }
}
