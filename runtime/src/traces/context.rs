//! Where in a trace a request belongs, by the W3C's Trace Context (Recommendation of 23 November 2021).

/// The caller's place in its trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace_id: [u8; 16],
    /// The caller's span.
    pub span_id: [u8; 8],
    /// Whether the caller records.
    pub sampled: bool,
}

impl Parent {
    /// Reads a `traceparent`. One that is not as the standard says is none: a trace must never cost a request.
    pub fn parse(header: &str) -> Option<Self> {
        let mut parts = header.trim().split('-');
        let [version, trace, span, flags] = std::array::from_fn(|_| parts.next());
        let [version] = bytes::<1>(version?)?;
        // A later version may say more behind; 255 never is one.
        if version == 0xff || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let (trace_id, span_id) = (bytes(trace?)?, bytes(span?)?);
        let [flags] = bytes::<1>(flags?)?;
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
        })
    }
}

/// Bytes from lower-case hexadecimal digits, as many as there must be.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(bytes)
}

fn digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn the_standards_example_is_read() {
        let parent = Parent::parse(GOOD).unwrap();
        assert_eq!(parent.trace_id[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(parent.span_id, [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]);
        assert!(parent.sampled);
        assert!(!Parent::parse(&GOOD.replace("-01", "-00")).unwrap().sampled);
        let later = GOOD.replacen("00", "cc", 1) + "-what-the-future-will-be";
        assert_eq!(Parent::parse(&later), Some(parent));
    }

    #[test]
    fn anything_else_is_none() {
        for bad in [
            "",
            "-",
            "00",
            "\u{e9}\u{e9}-x",
            &GOOD.to_uppercase(),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replacen("00", "0", 1),
            &GOOD.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            &GOOD.replace("b7ad6b7169203331", &"0".repeat(16)),
            &GOOD.replace("-01", ""),
            &GOOD.replace("-01", "-1"),
            &format!("{GOOD}-more"),
            &GOOD.replace('a', "g"),
        ] {
            assert_eq!(Parent::parse(bad), None, "{bad}");
        }
    }
}
