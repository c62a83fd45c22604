//! Requests and replies, the same whatever they travelled in.
//!
//! Reading has two steps, so that a server can refuse a tensor that its model does not take before its elements
//! are looked at: [`rest`](crate::rest) and [`grpc`](crate::grpc) give [`Incoming`] tensors, and
//! [`Incoming::decode`] reads the elements of one.

use crate::error::{DataError, DecodeError, short};
use crate::grpc::pb::InferTensorContents;
use crate::limits::Limits;
use crate::tensor::{Tensor, parse_datatype};
use crate::{json, raw, typed};
use bytes::Bytes;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The value of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// An integer that is not negative.
    Uint(u64),
    /// A number.
    Double(f64),
    /// A text.
    Text(String),
    /// Something else, which no parameter that is known here can be.
    Other,
}

/// Parameters by name.
pub type Parameters = BTreeMap<String, Value>;

impl Value {
    /// The truth value, if it is one.
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer, if it is one that is not negative.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Int(value) => u64::try_from(*value).ok(),
            Self::Uint(value) => Some(*value),
            _ => None,
        }
    }

    /// The number, if it is one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Uint(value) => Some(*value as f64),
            Self::Double(value) => Some(*value),
            _ => None,
        }
    }

    /// The text, if it is one.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::Text(value) => Some(value),
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Uint(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Double(value)
    }
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Int(value) => serializer.serialize_i64(*value),
            Self::Uint(value) => serializer.serialize_u64(*value),
            Self::Double(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
            Self::Other => serializer.serialize_unit(),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the value of a parameter")
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Uint(value))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Double(value))
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Other)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other)
    }
}

/// A request as a server reads it: within the limits, its tensors not yet looked into.
#[derive(Debug)]
pub struct InferRequest<'a> {
    /// Comes back in the reply.
    pub id: Option<String>,
    /// Sequence, deadline, and what else extensions define.
    pub parameters: Parameters,
    /// The tensors.
    pub inputs: Vec<Incoming<'a>>,
    /// The outputs that are wanted; all where none is named.
    pub outputs: Vec<RequestedOutput>,
}

/// An output that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// Whether it shall travel as bytes beside the JSON; nothing where the request as a whole says it.
    pub binary: Option<bool>,
}

/// A tensor that arrived, its elements not yet read.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// Its name.
    pub name: Cow<'a, str>,
    /// The type of its elements, as the peer spells it.
    pub datatype: Cow<'a, str>,
    /// Length of every axis.
    pub shape: Vec<u64>,
    pub(crate) content: Content<'a>,
    pub(crate) limits: Limits,
}

/// Where the elements are.
#[derive(Debug)]
pub(crate) enum Content<'a> {
    None,
    Twice,
    Json(&'a RawValue),
    Raw(Bytes),
    Typed(InferTensorContents),
}

impl Incoming<'_> {
    /// Reads the elements.
    ///
    /// # Errors
    /// When they are not exactly what datatype and shape say.
    pub fn decode(self) -> Result<Tensor, DataError> {
        let datatype =
            parse_datatype(&self.datatype).ok_or_else(|| DataError::Datatype(short(&self.datatype)))?;
        let shape = self.checked_shape()?;
        let count = shape.iter().product();
        let data = match self.content {
            Content::None => return Err(DataError::Missing),
            Content::Twice => return Err(DataError::Twice),
            Content::Json(json) => json::decode(json, datatype, &shape)?,
            Content::Raw(bytes) => raw::decode(&bytes, datatype, count)?,
            Content::Typed(contents) => typed::decode(contents, datatype, &shape)?,
        };
        Ok(Tensor { shape, data })
    }

    /// Whether the elements came as typed protobuf fields.
    #[must_use]
    pub fn is_typed(&self) -> bool {
        matches!(self.content, Content::Typed(_))
    }

    /// The shape, where it is within the limits: the product of its lengths then fits everywhere.
    fn checked_shape(&self) -> Result<Vec<usize>, DataError> {
        let Limits { axes, elements, .. } = self.limits;
        let count = self.shape.iter().try_fold(1u64, |all, &n| all.checked_mul(n));
        let fits = count.is_some_and(|count| count <= elements as u64);
        let lengths = self.shape.iter().map(|&n| usize::try_from(n).ok());
        match lengths.collect::<Option<Vec<_>>>() {
            Some(shape) if fits && shape.len() <= axes => Ok(shape),
            _ => Err(DataError::Shape {
                shape: self.shape.iter().take(axes).copied().collect(),
                axes,
                elements,
            }),
        }
    }
}

/// A tensor with its name, whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
}

/// A request as a client makes it.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Comes back in the reply.
    pub id: Option<&'a str>,
    /// Sequence, deadline, and what else extensions define.
    pub parameters: &'a Parameters,
    /// The tensors.
    pub inputs: &'a [(&'a str, &'a Tensor)],
    /// The outputs that are wanted; all where none is named.
    pub outputs: &'a [&'a str],
}

/// A reply as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct Reply {
    /// Who answered; empty where the server does not say.
    pub model_name: String,
    /// In which version.
    pub model_version: String,
    /// The request's id.
    pub id: Option<String>,
    /// What the server says of its answer.
    pub parameters: Parameters,
    /// The tensors.
    pub outputs: Vec<Named>,
}

/// A reply as a server makes it.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Who answers.
    pub model_name: &'a str,
    /// In which version.
    pub model_version: &'a str,
    /// The request's id.
    pub id: Option<&'a str>,
    /// What the server says of its answer.
    pub parameters: Vec<(&'static str, Value)>,
    /// The tensors.
    pub outputs: Vec<Output<'a>>,
}

/// A tensor of an [`Answer`].
#[derive(Debug, Clone, Copy)]
pub struct Output<'a> {
    /// Its name.
    pub name: &'a str,
    /// The tensor.
    pub tensor: &'a Tensor,
    /// Whether it travels as bytes where it could travel otherwise.
    pub binary: bool,
}

/// Refuses more of something than the limit.
pub(crate) fn check_count(what: &'static str, found: usize, limit: usize) -> Result<(), DecodeError> {
    if found <= limit {
        return Ok(());
    }
    Err(DecodeError::TooMany { what, found, limit })
}

/// Refuses a text that nobody would send in earnest.
pub(crate) fn check_text(what: &'static str, text: &str, limits: &Limits) -> Result<(), DecodeError> {
    check_count(what, text.len(), limits.text_bytes)
}

/// Refuses parameters that are too many, too long, or of an extension that is not here.
pub(crate) fn check_parameters(
    owner: &str,
    parameters: &Parameters,
    limits: &Limits,
) -> Result<(), DecodeError> {
    check_count("parameters", parameters.len(), limits.parameters)?;
    for (name, value) in parameters {
        check_text("bytes of a parameter's name", name, limits)?;
        check_text(
            "bytes of a parameter's text",
            value.as_str().unwrap_or_default(),
            limits,
        )?;
        let unsupported = match name.as_str() {
            "shared_memory_region" => "shared memory",
            "classification" if value.as_u64() != Some(0) => "classification",
            _ => continue,
        };
        return Err(DecodeError::Unsupported(short(owner), unsupported));
    }
    Ok(())
}

/// Reads the elements of a reply's tensors, each of which must have a name of its own.
pub(crate) fn decode_all(tensors: Vec<Incoming<'_>>) -> Result<Vec<Named>, DecodeError> {
    let mut names = BTreeSet::new();
    let mut all = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let name = tensor.name.clone().into_owned();
        if !names.insert(name.clone()) {
            return Err(DecodeError::Duplicate(short(&name)));
        }
        let tensor = tensor.decode().map_err(|problem| DecodeError::Tensor {
            name: short(&name),
            problem,
        })?;
        all.push(Named { name, tensor });
    }
    Ok(all)
}
