//! Inputs made from right ones.

use mutatis::Session;

/// Largest input.
const MAX_BYTES: usize = 1 << 20;
/// Values at which arithmetic goes wrong.
const EDGES: [u64; 8] = [
    0,
    1,
    0x7f,
    0xff,
    0x7fff_ffff,
    0xffff_ffff,
    i64::MAX as u64,
    u64::MAX,
];

/// Makes inputs from a corpus.
#[derive(Debug)]
pub struct Mutator {
    seeds: Vec<Vec<u8>>,
    session: Session,
    random: u64,
}

impl Mutator {
    /// A mutator over these inputs, of which there is at least one.
    pub fn new(seeds: Vec<Vec<u8>>, seed: u64) -> Self {
        Self {
            seeds,
            session: Session::new().seed(seed),
            random: seed,
        }
    }

    /// The next input.
    ///
    /// # Errors
    /// When a mutation fails.
    pub fn make(&mut self) -> mutatis::Result<Vec<u8>> {
        let mut input = self.pick();
        for _ in 0..=self.below(4) {
            match self.below(6) {
                0 => self.cut(&mut input),
                1 => self.splice(&mut input),
                2 => self.write_edge(&mut input),
                3 => self.repeat(&mut input),
                _ => self.session.mutate(&mut input)?,
            }
            input.truncate(MAX_BYTES);
        }
        Ok(input)
    }

    /// A number below `most`, by SplitMix64 (Steele, Lea and Flood, 2014); 0 where there is none.
    fn below(&mut self, most: usize) -> usize {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^= mixed >> 31;
        // A usize is 64 bits wide on every machine that this is built for.
        (mixed as usize).checked_rem(most).unwrap_or(0)
    }

    fn pick(&mut self) -> Vec<u8> {
        let place = self.below(self.seeds.len());
        self.seeds.get(place).cloned().unwrap_or_default()
    }

    /// A file that is not whole.
    fn cut(&mut self, input: &mut Vec<u8>) {
        let end = self.below(input.len() + 1);
        input.truncate(end);
    }

    /// The front of one input and the back of another.
    fn splice(&mut self, input: &mut Vec<u8>) {
        let other = self.pick();
        let (front, back) = (self.below(input.len() + 1), self.below(other.len() + 1));
        input.truncate(front);
        input.extend_from_slice(other.get(back..).unwrap_or_default());
    }

    /// A number that is larger than anything it counts.
    fn write_edge(&mut self, input: &mut [u8]) {
        let edge = EDGES
            .get(self.below(EDGES.len()))
            .copied()
            .unwrap_or(u64::MAX)
            .to_le_bytes();
        let (at, width) = (self.below(input.len()), 1 << self.below(4));
        for (place, byte) in input.iter_mut().skip(at).zip(edge.into_iter().take(width)) {
            *place = byte;
        }
    }

    /// A part that is there many times.
    fn repeat(&mut self, input: &mut Vec<u8>) {
        let (one, other) = (self.below(input.len() + 1), self.below(input.len() + 1));
        let part = input
            .get(one.min(other)..one.max(other))
            .unwrap_or_default()
            .to_vec();
        for _ in 0..self.below(16) {
            if input.len() + part.len() > MAX_BYTES {
                return;
            }
            input.extend_from_slice(&part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_inputs() {
        let inputs = |seed| {
            let mut mutator = Mutator::new(vec![b"hello world".to_vec(), b"{}".to_vec()], seed);
            (0..200).map(|_| mutator.make().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(inputs(3), inputs(3));
        assert_ne!(inputs(3), inputs(4));
    }
}
