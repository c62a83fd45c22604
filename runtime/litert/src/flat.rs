//! Reads FlatBuffers with every offset checked: a damaged file gives [`Broken`], never a panic.
//!
//! Only reading of tables, vectors, numbers and texts lives here; what they mean is in [`crate::graph`].

/// An offset leads out of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Broken;

type Result<T> = std::result::Result<T, Broken>;

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let end = at.checked_add(N).ok_or(Broken)?;
    let slice = bytes.get(at..end).ok_or(Broken)?;
    slice.try_into().map_err(|_| Broken)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<usize> {
    Ok(usize::from(u16::from_le_bytes(array(bytes, at)?)))
}

fn u32_at(bytes: &[u8], at: usize) -> Result<usize> {
    usize::try_from(u32::from_le_bytes(array(bytes, at)?)).map_err(|_| Broken)
}

/// Where the offset that stands at `at` leads to.
fn follow(bytes: &[u8], at: usize) -> Result<usize> {
    at.checked_add(u32_at(bytes, at)?).ok_or(Broken)
}

/// A table within a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Table<'a> {
    bytes: &'a [u8],
    at: usize,
    vtable: usize,
    vtable_bytes: usize,
}

/// A vector within a file: where its first element stands, and how many there are.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    count: usize,
}

impl<'a> Table<'a> {
    /// The root of a file.
    pub fn root(bytes: &'a [u8]) -> Result<Self> {
        Self::at(bytes, follow(bytes, 0)?)
    }

    fn at(bytes: &'a [u8], at: usize) -> Result<Self> {
        let back = i64::from(i32::from_le_bytes(array(bytes, at)?));
        let vtable = i64::try_from(at).map_err(|_| Broken)? - back;
        let vtable = usize::try_from(vtable).map_err(|_| Broken)?;
        let vtable_bytes = u16_at(bytes, vtable)?;
        if vtable_bytes < 4 || vtable.saturating_add(vtable_bytes) > bytes.len() {
            return Err(Broken);
        }
        Ok(Self {
            bytes,
            at,
            vtable,
            vtable_bytes,
        })
    }

    /// Where a field stands; nothing where the file leaves it out.
    fn field(&self, number: usize) -> Result<Option<usize>> {
        let entry = 4 + 2 * number;
        if entry + 2 > self.vtable_bytes {
            return Ok(None);
        }
        let offset = u16_at(self.bytes, self.vtable + entry)?;
        Ok((offset != 0).then(|| self.at + offset))
    }

    fn scalar<const N: usize>(&self, number: usize) -> Result<Option<[u8; N]>> {
        self.field(number)?.map(|at| array(self.bytes, at)).transpose()
    }

    /// A byte, 0 where it is left out.
    pub fn byte(&self, number: usize) -> Result<u8> {
        Ok(self.scalar::<1>(number)?.map_or(0, |[byte]| byte))
    }

    /// A signed number, 0 where it is left out.
    pub fn int(&self, number: usize) -> Result<i32> {
        Ok(self.scalar(number)?.map_or(0, i32::from_le_bytes))
    }

    /// An unsigned number, 0 where it is left out.
    pub fn uint(&self, number: usize) -> Result<u32> {
        Ok(self.scalar(number)?.map_or(0, u32::from_le_bytes))
    }

    /// A long unsigned number, 0 where it is left out.
    pub fn ulong(&self, number: usize) -> Result<u64> {
        Ok(self.scalar(number)?.map_or(0, u64::from_le_bytes))
    }

    /// Whether a field is there.
    pub fn has(&self, number: usize) -> Result<bool> {
        Ok(self.field(number)?.is_some())
    }

    /// A table within this one.
    pub fn table(&self, number: usize) -> Result<Option<Self>> {
        let Some(at) = self.field(number)? else {
            return Ok(None);
        };
        Self::at(self.bytes, follow(self.bytes, at)?).map(Some)
    }

    /// A vector whose elements take `size` bytes each, all of them within the file.
    fn vector(&self, number: usize, size: usize) -> Result<Option<Span>> {
        let Some(at) = self.field(number)? else {
            return Ok(None);
        };
        let at = follow(self.bytes, at)?;
        let count = u32_at(self.bytes, at)?;
        let start = at + 4;
        let end = count.checked_mul(size).and_then(|bytes| bytes.checked_add(start));
        if end.is_none_or(|end| end > self.bytes.len()) {
            return Err(Broken);
        }
        Ok(Some(Span { start, count }))
    }

    fn slice(&self, number: usize) -> Result<Option<&'a [u8]>> {
        let Some(span) = self.vector(number, 1)? else {
            return Ok(None);
        };
        let slice = self.bytes.get(span.start..span.start + span.count);
        slice.ok_or(Broken).map(Some)
    }

    /// A text, empty where it is left out.
    pub fn text(&self, number: usize) -> Result<&'a str> {
        std::str::from_utf8(self.slice(number)?.unwrap_or_default()).map_err(|_| Broken)
    }

    /// Number of bytes in a vector of bytes; nothing where it is left out.
    pub fn byte_count(&self, number: usize) -> Result<Option<usize>> {
        Ok(self.slice(number)?.map(<[u8]>::len))
    }

    /// A vector of numbers, empty where it is left out. It is never longer than the file.
    pub fn ints(&self, number: usize) -> Result<Vec<i32>> {
        let Some(span) = self.vector(number, 4)? else {
            return Ok(Vec::new());
        };
        let at = |i| array(self.bytes, span.start + 4 * i).map(i32::from_le_bytes);
        (0..span.count).map(at).collect()
    }

    /// A vector of fractions, of which at most `most` are read.
    pub fn floats(&self, number: usize, most: usize) -> Result<Vec<f32>> {
        let Some(span) = self.vector(number, 4)? else {
            return Ok(Vec::new());
        };
        let at = |i| array(self.bytes, span.start + 4 * i).map(f32::from_le_bytes);
        (0..span.count.min(most)).map(at).collect()
    }

    /// A vector of long numbers, of which at most `most` are read.
    pub fn longs(&self, number: usize, most: usize) -> Result<Vec<i64>> {
        let Some(span) = self.vector(number, 8)? else {
            return Ok(Vec::new());
        };
        let at = |i| array(self.bytes, span.start + 8 * i).map(i64::from_le_bytes);
        (0..span.count.min(most)).map(at).collect()
    }

    /// Number of tables in a vector of tables.
    pub fn count(&self, number: usize) -> Result<usize> {
        Ok(self.vector(number, 4)?.map_or(0, |span| span.count))
    }

    /// A vector of tables, empty where it is left out.
    pub fn tables(&self, number: usize) -> Result<Vec<Self>> {
        let Some(span) = self.vector(number, 4)? else {
            return Ok(Vec::new());
        };
        let at = |i| Self::at(self.bytes, follow(self.bytes, span.start + 4 * i)?);
        (0..span.count).map(at).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root table with one number (field 0) and one vector of bytes (field 1).
    fn file() -> Vec<u8> {
        let mut bytes = vec![12, 0, 0, 0]; // root at 12
        bytes.extend([8, 0, 12, 0, 4, 0, 8, 0]); // vtable: 8 bytes, the table 12; fields at 4 and 8
        bytes.extend([8, 0, 0, 0]); // the vtable is 8 before
        bytes.extend(7i32.to_le_bytes());
        bytes.extend([4, 0, 0, 0]); // the vector is 4 after
        bytes.extend([3, 0, 0, 0, b'a', b'b', b'c']);
        bytes
    }

    #[test]
    fn fields_are_read_and_absent_ones_have_defaults() {
        let bytes = file();
        let root = Table::root(&bytes).unwrap();
        assert_eq!(root.int(0), Ok(7));
        assert_eq!(root.text(1), Ok("abc"));
        assert_eq!(root.byte_count(1), Ok(Some(3)));
        assert_eq!(root.uint(2), Ok(0));
        assert_eq!(root.text(9), Ok(""));
        assert_eq!(root.count(9), Ok(0));
    }

    #[test]
    fn a_cut_file_is_broken_wherever_it_is_cut() {
        let bytes = file();
        for length in 0..bytes.len() {
            let cut = &bytes[..length];
            let read = Table::root(cut).and_then(|root| Ok((root.int(0)?, root.text(1)?)));
            assert_eq!(read, Err(Broken), "cut at {length}");
        }
    }

    #[test]
    fn no_byte_can_lead_out_of_the_file() {
        let bytes = file();
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 127, 128, 255] {
                let mut hostile = bytes.clone();
                hostile[at] = value;
                // Whatever it says, it is an answer and not a panic.
                let _ = Table::root(&hostile).map(|root| {
                    (
                        root.int(0),
                        root.text(1),
                        root.ints(1),
                        root.tables(1).map(|t| t.len()),
                        root.table(1).is_ok(),
                    )
                });
            }
        }
    }
}
