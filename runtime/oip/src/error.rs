//! What can be wrong with a request or a reply, in words for whoever made it.

/// Why the elements of a tensor cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    /// The datatype is none of the protocol's.
    #[error("datatype {0:?} is none of the protocol's")]
    Datatype(String),
    /// There are too many axes, or more elements than anything can hold.
    #[error("the shape {shape:?} is beyond {axes} axes or {elements} elements")]
    Shape {
        /// The shape, cut short.
        shape: Vec<u64>,
        /// Most axes.
        axes: usize,
        /// Most elements.
        elements: usize,
    },
    /// There is no data at all.
    #[error("it has no data")]
    Missing,
    /// There is data in two places.
    #[error("it has data in two places")]
    Twice,
    /// A value of the JSON data is not of the type, or its nesting is not the shape's.
    #[error("data: {0}")]
    Json(String),
    /// The number of elements is not the shape's.
    #[error("{found} elements do not fill the shape {shape:?}, which has {expected}")]
    Count {
        /// What there is.
        found: usize,
        /// What the shape has.
        expected: usize,
        /// The shape.
        shape: Vec<usize>,
    },
    /// The number of bytes is not the shape's.
    #[error("{found} bytes of data are there, {expected} are {count} elements of {datatype}")]
    Bytes {
        /// What there is.
        found: usize,
        /// What there should be.
        expected: usize,
        /// Elements of the shape.
        count: usize,
        /// Their type.
        datatype: &'static str,
    },
    /// A length within BYTES data leads out of it.
    #[error("element {index} of BYTES ends beyond the data")]
    Overrun {
        /// Which element.
        index: usize,
    },
    /// Data is left behind the last element.
    #[error("{0} bytes of data follow the last element")]
    Trailing(usize),
    /// A byte of BOOL data is neither 0 nor 1.
    #[error("byte {value} at {index} of BOOL is neither 0 nor 1")]
    Bool {
        /// Where.
        index: usize,
        /// What.
        value: u8,
    },
    /// Elements lie in a field of another type.
    #[error("elements of {datatype} belong into {field}, and there alone")]
    Field {
        /// The type.
        datatype: &'static str,
        /// Where its elements belong.
        field: &'static str,
    },
    /// An element is out of its type's range.
    #[error("{value} at {index} is no {datatype}")]
    Range {
        /// Where.
        index: usize,
        /// What.
        value: i64,
        /// The type.
        datatype: &'static str,
    },
}

/// Why a request or a reply cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The JSON is malformed, or a field is missing or of another type.
    #[error("the body is not an inference {what}: {problem}")]
    Json {
        /// Request or reply.
        what: &'static str,
        /// Where and what.
        problem: String,
    },
    /// More of something than is allowed.
    #[error("{found} {what} are more than {limit}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many there are.
        found: usize,
        /// How many there may be.
        limit: usize,
    },
    /// The JSON part is longer than the body.
    #[error("inference-header-content-length is {declared}, the body has {body} bytes")]
    HeaderLength {
        /// What the header says.
        declared: usize,
        /// Length of the body.
        body: usize,
    },
    /// A tensor's binary data leads out of the body.
    #[error("{name:?}: binary_data_size is {declared}, {left} bytes of the body are left")]
    BinarySize {
        /// The tensor.
        name: String,
        /// What it declares.
        declared: u64,
        /// What there is.
        left: usize,
    },
    /// Binary data was announced in JSON, but the header that separates the two is missing.
    #[error("{0:?}: binary_data_size needs the header inference-header-content-length")]
    NoHeader(String),
    /// Bytes that belong to no tensor.
    #[error("{0} bytes of binary data belong to no tensor")]
    Trailing(usize),
    /// Raw contents that belong to no tensor, or a tensor without.
    #[error("{raw} raw contents for {tensors} tensors without typed contents")]
    RawCount {
        /// Raw contents.
        raw: usize,
        /// Tensors that need one.
        tensors: usize,
    },
    /// A tensor's name is there twice.
    #[error("{0:?} is there twice")]
    Duplicate(String),
    /// A parameter has a value that its meaning does not allow.
    #[error("parameter {name:?} must be {expected}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// An extension that this program does not have.
    #[error("{0:?}: {1} is not supported")]
    Unsupported(String, &'static str),
    /// A tensor's elements.
    #[error("{name:?}: {problem}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong.
        problem: DataError,
    },
}

/// Why a request or a reply cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// BYTES that are no text cannot be put into JSON.
    #[error(
        "{name:?}: element {index} of BYTES is not UTF-8 and cannot be sent as JSON: ask for binary data"
    )]
    Text {
        /// The tensor.
        name: String,
        /// Which element.
        index: usize,
    },
    /// The JSON writer failed.
    #[error("cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Enough of a peer's text to recognise it.
#[must_use]
pub fn short(text: &str) -> String {
    text.chars().take(64).collect()
}
