//! Compressed bodies, gzip and deflate: what a client sends, within the limit of a plain body, and what it asks for.

use super::body::BodyError;
use axum::http::{HeaderMap, header};
use flate2::Compression;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};
use std::io::{self, Read, Write};

/// A shorter reply is sent as it is: compressing it costs more than it spares.
const LEAST_BYTES: usize = 4096;

/// How a body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 1952.
    Gzip,
    /// RFC 1950, which HTTP calls deflate.
    Deflate,
}

impl Encoding {
    /// HTTP's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [Self::Gzip, Self::Deflate]
            .into_iter()
            .find(|encoding| encoding.as_str().eq_ignore_ascii_case(name))
    }
}

/// A body is compressed in a way that is not known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownEncoding;

/// How a request's body is compressed: `Ok(None)` for not at all.
///
/// # Errors
/// When it is in a way that is not known here.
pub fn of_request(headers: &HeaderMap) -> Result<Option<Encoding>, UnknownEncoding> {
    let mut all = headers.get_all(header::CONTENT_ENCODING).iter();
    match (all.next().map(|value| value.to_str().map(str::trim)), all.next()) {
        (None, _) => Ok(None),
        (Some(Ok(name)), None) if name.eq_ignore_ascii_case("identity") => Ok(None),
        (Some(Ok(name)), None) => Encoding::parse(name).map(Some).ok_or(UnknownEncoding),
        _ => Err(UnknownEncoding),
    }
}

/// What a client prefers of what is known here; nothing where it asks for nothing.
pub fn accepted(headers: &HeaderMap) -> Option<Encoding> {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter();
    let names = all
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    let weighted = names.filter_map(|entry| {
        let mut parts = entry.split(';');
        let encoding = Encoding::parse(parts.next()?.trim())?;
        let weight = parts.find_map(|part| part.trim().strip_prefix("q=")?.parse().ok());
        Some((encoding, weight.unwrap_or(1.0)))
    });
    let mut best: Option<(Encoding, f32)> = None;
    for (encoding, weight) in weighted.filter(|&(_, weight)| weight > 0.0) {
        if best.is_none_or(|(_, most)| weight > most) {
            best = Some((encoding, weight));
        }
    }
    best.map(|(encoding, _)| encoding)
}

/// Whether a reply of this length is worth it.
pub fn is_worth_it(length: usize) -> bool {
    length >= LEAST_BYTES
}

/// The plain body, which may have `limit` bytes at most: reading ends there, whatever was announced.
///
/// # Errors
/// When it would be larger, or is not what its encoding says.
pub fn decompress(content: &[u8], encoding: Encoding, limit: usize) -> Result<Vec<u8>, BodyError> {
    let reader: Box<dyn Read + '_> = match encoding {
        Encoding::Gzip => Box::new(MultiGzDecoder::new(content)),
        Encoding::Deflate => Box::new(ZlibDecoder::new(content)),
    };
    let mut plain = Vec::with_capacity(content.len().saturating_mul(2).min(limit));
    let beyond = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    let read = reader.take(beyond).read_to_end(&mut plain);
    match read {
        Ok(_) if plain.len() > limit => Err(BodyError::TooLarge),
        Ok(_) => Ok(plain),
        Err(_) => Err(BodyError::Garbled(encoding)),
    }
}

/// The compressed body.
///
/// # Errors
/// Never in practice: writing into memory does not fail.
pub fn compress(content: &[u8], encoding: Encoding) -> io::Result<Vec<u8>> {
    let out = Vec::with_capacity(content.len() / 2);
    match encoding {
        Encoding::Gzip => {
            let mut encoder = GzEncoder::new(out, Compression::fast());
            encoder.write_all(content)?;
            encoder.finish()
        }
        Encoding::Deflate => {
            let mut encoder = ZlibEncoder::new(out, Compression::fast());
            encoder.write_all(content)?;
            encoder.finish()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, value.parse().unwrap())])
    }

    #[test]
    fn what_is_compressed_comes_back() {
        let content = vec![7u8; 100_000];
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let small = compress(&content, encoding).unwrap();
            assert!(small.len() < 2000);
            assert_eq!(decompress(&small, encoding, 100_000), Ok(content.clone()));
            assert_eq!(decompress(&small, encoding, 99_999), Err(BodyError::TooLarge));
            let cut = small.get(..small.len() / 2).unwrap();
            assert_eq!(
                decompress(cut, encoding, 100_000),
                Err(BodyError::Garbled(encoding))
            );
            assert_eq!(
                decompress(b"{}", encoding, 100),
                Err(BodyError::Garbled(encoding))
            );
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        let bomb = compress(&vec![0; 64 << 20], Encoding::Gzip).unwrap();
        assert_eq!(
            decompress(&bomb, Encoding::Gzip, 1 << 20),
            Err(BodyError::TooLarge)
        );
    }

    #[test]
    fn headers_are_read_as_http_means_them() {
        let request = |value| of_request(&header(header::CONTENT_ENCODING, value));
        assert_eq!(request("gzip"), Ok(Some(Encoding::Gzip)));
        assert_eq!(request("Deflate"), Ok(Some(Encoding::Deflate)));
        assert_eq!(request("identity"), Ok(None));
        assert_eq!(request("br"), Err(UnknownEncoding));
        assert_eq!(request("gzip, gzip"), Err(UnknownEncoding));
        let accepts = |value| accepted(&header(header::ACCEPT_ENCODING, value));
        assert_eq!(accepts("gzip, deflate"), Some(Encoding::Gzip));
        assert_eq!(accepts("gzip;q=0.5, deflate;q=0.8"), Some(Encoding::Deflate));
        assert_eq!(accepts("gzip;q=0, br"), None);
        assert_eq!(accepts("identity"), None);
        assert_eq!(accepted(&HeaderMap::new()), None);
    }
}
