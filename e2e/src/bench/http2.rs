//! As much of HTTP/2 as the client of the figures and its stub need: frames of one small request at a time, and what
//! either end owes a connection beside them (settings, pings, windows).
//!
//! No header is ever decoded: an answer is judged by its data. A library would cost the client more than some servers
//! take, and a stub made with one would hide what that library costs the server under measurement.

use std::io::{self, BufReader, Read, Write};
use std::net::TcpStream;

/// What a client says first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Kinds of frames.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GO_AWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// Flag of the last frame of a stream.
pub const END_STREAM: u8 = 1;
/// Flag of headers that are whole.
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// Length of a frame's head.
pub const HEAD: usize = 9;
/// Largest payload that everyone takes.
pub const MAX_PAYLOAD: usize = 1 << 14;
/// Bytes that may be on their way on a connection or stream before anyone says otherwise.
const FIRST_WINDOW: u32 = 65_535;
/// The largest window there is.
const LARGEST_WINDOW: u32 = i32::MAX as u32;
/// After so many bytes the other end is told that they were read.
const TELL: u32 = 1 << 20;
/// A peer must remember at least so many bytes of headers for the four that the client has it remember.
const LEAST_TABLE: u32 = 512;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Bytes that follow.
    pub length: usize,
    /// Its kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 is the connection itself.
    pub stream: u32,
}

impl Head {
    /// Reads it from its bytes.
    pub fn parse(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]) as usize,
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & LARGEST_WINDOW,
        }
    }
}

/// A frame's bytes; its payload is at most [`MAX_PAYLOAD`] long.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let stream = stream.to_be_bytes();
    [&length[..], &[kind, flags], &stream, payload].concat()
}

/// Puts another stream's number into frames that lie one after the other.
pub fn set_stream(frames: &mut [u8], stream: u32) {
    let mut rest = frames;
    while let Some((head, behind)) = rest.split_first_chunk_mut::<HEAD>() {
        let length = Head::parse(*head).length;
        let (_, number) = head.split_at_mut(HEAD - 4);
        number.copy_from_slice(&stream.to_be_bytes());
        rest = behind.get_mut(length..).unwrap_or_default();
    }
}

/// One end of a connection.
pub struct End {
    writer: TcpStream,
    reader: BufReader<TcpStream>,
    /// Bytes of data that the other end takes now.
    window: i64,
    /// Bytes of data that it was not yet told were read.
    taken: u32,
    payload: Vec<u8>,
}

impl End {
    /// Says hello; `is_client` says at which end.
    pub fn start(mut writer: TcpStream, is_client: bool) -> io::Result<Self> {
        let mut reader = BufReader::with_capacity(1 << 16, writer.try_clone()?);
        let mut hello = Vec::new();
        if is_client {
            hello.extend_from_slice(PREFACE);
        } else {
            let mut preface = [0; PREFACE.len()];
            reader.read_exact(&mut preface)?;
            if preface != PREFACE {
                return Err(invalid("the other end does not speak HTTP/2"));
            }
        }
        // Each stream may send all it has at once. Of pushes a client alone may speak: it wants none.
        let mut settings = [&4u16.to_be_bytes()[..], &LARGEST_WINDOW.to_be_bytes()].concat();
        if is_client {
            settings.extend([0, 2, 0, 0, 0, 0]);
        }
        hello.extend(frame(SETTINGS, 0, 0, &settings));
        let more = LARGEST_WINDOW - FIRST_WINDOW;
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &more.to_be_bytes()));
        writer.write_all(&hello)?;
        Ok(Self {
            writer,
            reader,
            window: i64::from(FIRST_WINDOW),
            taken: 0,
            payload: Vec::new(),
        })
    }

    /// Sends frames that hold so many bytes of data, once the other end takes as many.
    pub fn send(&mut self, frames: &[u8], data: usize) -> io::Result<()> {
        let data = i64::try_from(data).unwrap_or(i64::MAX);
        while self.window < data {
            let head = self.read()?;
            if self.tend(head)? {
                return Err(invalid("a frame of a stream came before its time"));
            }
        }
        self.window -= data;
        self.writer.write_all(frames)
    }

    /// The next frame with data or headers; does what all others ask for.
    pub fn next(&mut self) -> io::Result<(Head, &[u8])> {
        loop {
            let head = self.read()?;
            if self.tend(head)? {
                return Ok((head, &self.payload));
            }
        }
    }

    fn read(&mut self) -> io::Result<Head> {
        let mut bytes = [0; HEAD];
        self.reader.read_exact(&mut bytes)?;
        let head = Head::parse(bytes);
        if head.length > MAX_PAYLOAD {
            return Err(invalid("a frame is longer than was agreed"));
        }
        self.payload.resize(head.length, 0);
        self.reader.read_exact(&mut self.payload)?;
        Ok(head)
    }

    /// Whether a frame is one of a stream's; what it asks of the connection is done.
    fn tend(&mut self, head: Head) -> io::Result<bool> {
        match head.kind {
            DATA => {
                self.taken += u32::try_from(head.length).unwrap_or(u32::MAX);
                if self.taken >= TELL {
                    let read = std::mem::take(&mut self.taken).to_be_bytes();
                    self.writer.write_all(&frame(WINDOW_UPDATE, 0, 0, &read))?;
                }
                return Ok(true);
            }
            HEADERS if head.flags & END_HEADERS == 0 => return Err(invalid("headers come in pieces")),
            HEADERS => return Ok(true),
            RESET => return Err(invalid("the other end broke a stream off")),
            GO_AWAY => return Err(invalid("the other end closes the connection")),
            SETTINGS if head.flags & ACK == 0 => {
                check_settings(&self.payload)?;
                self.writer.write_all(&frame(SETTINGS, ACK, 0, &[]))?;
            }
            PING if head.flags & ACK == 0 => {
                self.writer.write_all(&frame(PING, ACK, 0, &self.payload))?;
            }
            // A stream carries one message, which fits into its first window.
            WINDOW_UPDATE if head.stream == 0 => {
                let more = self.payload.first_chunk().copied().map(u32::from_be_bytes);
                self.window += i64::from(more.unwrap_or(0) & LARGEST_WINDOW);
            }
            _ => {}
        }
        Ok(false)
    }
}

/// Refuses settings under which what is sent here would be wrong.
fn check_settings(payload: &[u8]) -> io::Result<()> {
    let (settings, _) = payload.as_chunks::<6>();
    for &[a, b, value @ ..] in settings {
        let value = u32::from_be_bytes(value);
        match u16::from_be_bytes([a, b]) {
            1 if value < LEAST_TABLE => return Err(invalid("the other end remembers no headers")),
            4 if value < FIRST_WINDOW => return Err(invalid("the other end takes small messages alone")),
            _ => {}
        }
    }
    Ok(())
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_the_bytes_of_rfc_9113() {
        let bytes = frame(HEADERS, END_HEADERS, 1, &[0x88]);
        assert_eq!(bytes, [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88]);
        let head = Head::parse(*bytes.first_chunk().expect("a head"));
        assert_eq!(head.length, 1);
        assert_eq!((head.kind, head.flags, head.stream), (HEADERS, END_HEADERS, 1));
    }

    #[test]
    fn every_frame_gets_the_number_of_the_stream_and_no_payload_is_touched() {
        let frames = |stream| {
            [
                frame(HEADERS, 0, stream, &[7; 12]),
                frame(DATA, 0, stream, &[9; 3]),
            ]
            .concat()
        };
        let mut made = frames(1);
        set_stream(&mut made, 0x0102_0304);
        assert_eq!(made, frames(0x0102_0304));
    }

    #[test]
    fn settings_that_would_break_what_is_sent_are_refused() {
        let setting = |name: u16, value: u32| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat();
        assert!(check_settings(&[setting(1, 4096), setting(4, 1 << 20)].concat()).is_ok());
        assert!(check_settings(&setting(1, 0)).is_err());
        assert!(check_settings(&[setting(3, 100), setting(4, 1024)].concat()).is_err());
    }
}
