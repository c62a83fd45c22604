//! A copy of a file at an address that vector instructions like.

/// Constants are read in place; kernels want them at addresses that 64 divides.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Block([u8; 64]);

/// Bytes that begin at an address which 64 divides.
pub(crate) struct Aligned {
    blocks: Box<[Block]>,
    length: usize,
}

impl Aligned {
    /// A copy of `bytes`.
    pub fn copy(bytes: &[u8]) -> Self {
        let block = |chunk: &[u8]| {
            let mut block = Block([0; 64]);
            if let Some(to) = block.0.get_mut(..chunk.len()) {
                to.copy_from_slice(chunk);
            }
            block
        };
        Self {
            blocks: bytes.chunks(64).map(block).collect(),
            length: bytes.len(),
        }
    }

    /// Where it begins, and how many bytes there are.
    pub fn parts(&self) -> (*const u8, usize) {
        (self.blocks.as_ptr().cast(), self.length)
    }
}
