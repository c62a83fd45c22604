//! What a request or reply may at most hold, in one place. How many bytes it may have, the server or the
//! client says, who knows the model.

/// Limits of one request or reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Inputs or outputs.
    pub tensors: usize,
    /// Axes of a tensor.
    pub axes: usize,
    /// Elements of a tensor.
    pub elements: usize,
    /// Parameters of the whole, and of each tensor.
    pub parameters: usize,
    /// Bytes of an id, a name, or a parameter's text.
    pub text_bytes: usize,
}

impl Limits {
    /// What `model.yaml` allows a model to have, and texts of a length that a log line bears.
    pub const DEFAULT: Self = Self {
        tensors: 64,
        axes: 8,
        elements: 1 << 26,
        parameters: 64,
        text_bytes: 4096,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
