//! What a LiteRT file says: its inputs, outputs and operators, read and checked without any library.
//!
//! Reading bytes is [`crate::flat`]'s business; which subgraph calls which is [`crate::subgraphs`]'s.

use crate::element::Element;
use crate::flat::{Broken, Table};
use crate::subgraphs::{self, Call, Codes};
use std::collections::BTreeMap;

/// Most subgraphs, buffers, operator kinds, tensors and operators (each of them) of a file.
const MAX_PARTS: usize = 1 << 17;
/// Most axes of a tensor.
const MAX_RANK: usize = 8;
/// Longest name of a tensor, in bytes.
const MAX_NAME: usize = 1024;
/// Memory that the tensors which a graph computes may take together, in bytes.
const MAX_WORKING_BYTES: usize = 1 << 30;
const IDENTIFIER: &[u8] = b"TFL3";
const SCHEMA: u32 = 3;

/// Fields of the format's tables, by number.
mod field {
    pub mod model {
        pub const VERSION: usize = 0;
        pub const CODES: usize = 1;
        pub const SUBGRAPHS: usize = 2;
        pub const BUFFERS: usize = 4;
        pub const SIGNATURES: usize = 7;
    }
    pub mod subgraph {
        pub const TENSORS: usize = 0;
        pub const INPUTS: usize = 1;
        pub const OUTPUTS: usize = 2;
        pub const OPERATORS: usize = 3;
    }
    pub mod tensor {
        pub const SHAPE: usize = 0;
        pub const ELEMENT: usize = 1;
        pub const BUFFER: usize = 2;
        pub const NAME: usize = 3;
        pub const QUANTISATION: usize = 4;
        pub const IS_VARIABLE: usize = 5;
        pub const SPARSITY: usize = 6;
        pub const SHAPE_SIGNATURE: usize = 7;
    }
    pub mod quantisation {
        pub const SCALE: usize = 2;
        pub const ZERO_POINT: usize = 3;
    }
    pub mod operator {
        pub const CODE: usize = 0;
        pub const INPUTS: usize = 1;
        pub const OUTPUTS: usize = 2;
        pub const INTERMEDIATES: usize = 8;
    }
    pub mod buffer {
        pub const DATA: usize = 0;
        pub const OFFSET: usize = 1;
        pub const SIZE: usize = 2;
    }
    pub mod signature {
        pub const INPUTS: usize = 0;
        pub const OUTPUTS: usize = 1;
        pub const SUBGRAPH: usize = 4;
    }
    pub mod signature_tensor {
        pub const NAME: usize = 0;
        pub const INDEX: usize = 1;
    }
}

/// Why a file is refused before the C library sees it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// Something else than a LiteRT file.
    #[error("this is no LiteRT model: the identifier TFL3 is missing")]
    Format,
    /// Another version of the format.
    #[error("the model is of schema {0}, schema {SCHEMA} is read: convert it again")]
    Schema(u32),
    /// An offset leads out of the file.
    #[error("{0} lies outside the file: it is cut short or damaged")]
    Broken(&'static str),
    /// More than any real file has.
    #[error("it has {count} {what}, from 1 to {most} are possible")]
    Count {
        /// What there is too much or nothing of.
        what: &'static str,
        /// How much there is.
        count: usize,
        /// How much there may be.
        most: usize,
    },
    /// A number that names nothing.
    #[error("{place} names {what} {index}, there are {count}")]
    Index {
        /// Where.
        place: String,
        /// What it should name.
        what: &'static str,
        /// The number.
        index: i64,
        /// How many there are.
        count: usize,
    },
    /// A tensor that contradicts itself or a limit.
    #[error("tensor {name:?}: {problem}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
    /// The tensors that the graph computes need too much memory.
    #[error("its tensors need {0} bytes, {MAX_WORKING_BYTES} are possible")]
    Memory(usize),
    /// Subgraphs that call one another without end.
    #[error("subgraph {0} calls itself, directly or through others")]
    Cycle(usize),
    /// An operator that runs subgraphs in a way that is not followed.
    #[error("operator {0} runs other subgraphs; of such operators IF, WHILE and CALL_ONCE are possible")]
    Operator(i32),
}

/// Scale and zero point of a quantised tensor: value = scale × (element − zero point).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quantisation {
    /// Value of one step.
    pub scale: f32,
    /// The element that means 0.
    pub zero_point: i64,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorInfo {
    /// Name in the graph.
    pub name: String,
    /// Name in the signature that covers the graph, where it has one: usually the better name.
    pub signature_name: Option<String>,
    /// Type of its elements.
    pub element: Element,
    /// Length of every axis; 1 where the file leaves it open.
    pub shape: Vec<usize>,
    /// Whether the file leaves the length of an axis open.
    pub is_open: bool,
    /// Scale and zero point, where it has one of each.
    pub quantisation: Option<Quantisation>,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A file that was read and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    /// What it takes.
    pub inputs: Vec<TensorInfo>,
    /// What it gives.
    pub outputs: Vec<TensorInfo>,
    /// Operators that only a delegate or another library than the usual one knows, by name.
    pub custom_operators: Vec<String>,
    /// Whether it keeps state from one call to the next.
    pub keeps_state: bool,
    /// Number of operators in all subgraphs.
    pub operators: usize,
}

/// What was read of one tensor.
struct Tensor {
    info: TensorInfo,
    is_variable: bool,
    /// Bytes that it takes while the graph runs; 0 for a constant.
    working_bytes: usize,
}

struct Subgraph {
    tensors: Vec<Tensor>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    operators: usize,
    calls: Vec<Call>,
}

impl Graph {
    /// Reads and checks a file.
    ///
    /// Checked is: identifier and schema; that every table, vector and text that is read lies within the file;
    /// that every number of a tensor, buffer, operator kind and subgraph names one; that a constant has as many
    /// bytes as its shape needs; numbers of everything, lengths of names, and the memory of all that is computed;
    /// that subgraphs do not call one another without end. Not checked are the options of the operators, and
    /// whether an operator can take its tensors: the C library checks the one when it verifies the whole file
    /// against its schema, and its operators the other when they prepare.
    ///
    /// # Errors
    /// With the first thing that is wrong.
    pub fn read(bytes: &[u8]) -> Result<Self, GraphError> {
        if bytes.get(4..8) != Some(IDENTIFIER) {
            return Err(GraphError::Format);
        }
        let model = Table::root(bytes).map_err(broken("the model"))?;
        let version = model.uint(field::model::VERSION).map_err(broken("the model"))?;
        if version != SCHEMA {
            return Err(GraphError::Schema(version));
        }
        let codes = Codes::read(&parts(&model, field::model::CODES, "operator kinds", 0)?)
            .map_err(broken("an operator kind"))?;
        let buffers = read_buffers(&model, bytes.len())?;
        let subgraphs: Vec<Subgraph> = parts(&model, field::model::SUBGRAPHS, "subgraphs", 1)?
            .iter()
            .map(|table| Subgraph::read(table, &codes, &buffers))
            .collect::<Result<_, _>>()?;
        check_memory(&subgraphs)?;
        subgraphs::check_calls(&subgraphs.iter().map(|s| &s.calls[..]).collect::<Vec<_>>())?;
        Self::of(subgraphs, &codes, &model)
    }

    fn of(mut subgraphs: Vec<Subgraph>, codes: &Codes, model: &Table) -> Result<Self, GraphError> {
        let operators = subgraphs.iter().map(|s| s.operators).sum();
        let has_variables = subgraphs.iter().flat_map(|s| &s.tensors).any(|t| t.is_variable);
        if subgraphs.is_empty() {
            return Err(count("subgraphs", 0));
        }
        let main = subgraphs.swap_remove(0);
        let (inputs, outputs) = signature_names(model, main.tensors.len()).map_err(broken("a signature"))?;
        let infos = |indices: &[usize], names: &BTreeMap<usize, String>| -> Vec<TensorInfo> {
            let tensors = indices.iter().filter_map(|&i| Some((i, main.tensors.get(i)?)));
            tensors
                .map(|(i, tensor)| TensorInfo {
                    signature_name: names.get(&i).cloned(),
                    ..tensor.info.clone()
                })
                .collect()
        };
        Ok(Self {
            inputs: infos(&main.inputs, &inputs),
            outputs: infos(&main.outputs, &outputs),
            custom_operators: codes.custom(),
            keeps_state: has_variables || codes.keep_state(),
            operators,
        })
    }
}

fn broken(what: &'static str) -> impl Fn(Broken) -> GraphError {
    move |Broken| GraphError::Broken(what)
}

fn count(what: &'static str, count: usize) -> GraphError {
    GraphError::Count {
        what,
        count,
        most: MAX_PARTS,
    }
}

/// A vector of tables of sensible length.
fn parts<'a>(
    table: &Table<'a>,
    number: usize,
    what: &'static str,
    least: usize,
) -> Result<Vec<Table<'a>>, GraphError> {
    let found = table.count(number).map_err(broken(what))?;
    if !(least..=MAX_PARTS).contains(&found) {
        return Err(count(what, found));
    }
    table.tables(number).map_err(broken(what))
}

/// Bytes of every buffer; 0 for one without content.
fn read_buffers(model: &Table, file_bytes: usize) -> Result<Vec<usize>, GraphError> {
    let read = |buffer: &Table| -> Result<usize, GraphError> {
        let inside = buffer
            .byte_count(field::buffer::DATA)
            .map_err(broken("a buffer"))?;
        let offset = buffer.ulong(field::buffer::OFFSET).map_err(broken("a buffer"))?;
        let size = buffer.ulong(field::buffer::SIZE).map_err(broken("a buffer"))?;
        // Large files hold their constants behind the FlatBuffer; 0 and 1 mean that this one does not.
        if offset > 1 {
            let fits = offset
                .checked_add(size)
                .is_some_and(|end| end <= file_bytes as u64);
            return if fits {
                usize::try_from(size).map_err(|_| GraphError::Broken("a buffer"))
            } else {
                Err(GraphError::Broken("a buffer"))
            };
        }
        Ok(inside.unwrap_or(0))
    };
    parts(model, field::model::BUFFERS, "buffers", 0)?
        .iter()
        .map(read)
        .collect()
}

impl Subgraph {
    fn read(table: &Table, codes: &Codes, buffers: &[usize]) -> Result<Self, GraphError> {
        let tensors: Vec<Tensor> = parts(table, field::subgraph::TENSORS, "tensors", 0)?
            .iter()
            .map(|tensor| Tensor::read(tensor, buffers))
            .collect::<Result<_, _>>()?;
        let ports = |number, what: &'static str| -> Result<Vec<usize>, GraphError> {
            let indices = table.ints(number).map_err(broken(what))?;
            let named = indices
                .into_iter()
                .map(|i| index(what, "tensor", i64::from(i), tensors.len()));
            named.collect()
        };
        let (inputs, outputs) = (
            ports(field::subgraph::INPUTS, "an input")?,
            ports(field::subgraph::OUTPUTS, "an output")?,
        );
        let operators = parts(table, field::subgraph::OPERATORS, "operators", 0)?;
        let mut calls = Vec::new();
        for (place, operator) in operators.iter().enumerate() {
            check_tensors(operator, place, tensors.len())?;
            let code = operator
                .uint(field::operator::CODE)
                .map_err(broken("an operator"))?;
            let code = index(
                &format!("operator {place}"),
                "operator kind",
                i64::from(code),
                codes.len(),
            )?;
            calls.extend(subgraphs::call(operator, codes.builtin(code))?);
        }
        Ok(Self {
            tensors,
            inputs,
            outputs,
            operators: operators.len(),
            calls,
        })
    }
}

fn index(place: &str, what: &'static str, index: i64, count: usize) -> Result<usize, GraphError> {
    let found = usize::try_from(index).ok().filter(|&i| i < count);
    found.ok_or_else(|| GraphError::Index {
        place: place.to_owned(),
        what,
        index,
        count,
    })
}

/// Every tensor of an operator must be there; −1 stands for an optional one that is left out.
fn check_tensors(operator: &Table, place: usize, count: usize) -> Result<(), GraphError> {
    let lists = [
        (field::operator::INPUTS, true),
        (field::operator::OUTPUTS, false),
        (field::operator::INTERMEDIATES, true),
    ];
    for (number, may_be_left_out) in lists {
        for i in operator.ints(number).map_err(broken("an operator"))? {
            if !(may_be_left_out && i == -1) {
                index(&format!("operator {place}"), "tensor", i64::from(i), count)?;
            }
        }
    }
    Ok(())
}

impl Tensor {
    fn read(table: &Table, buffers: &[usize]) -> Result<Self, GraphError> {
        let cut = || broken("a tensor");
        let name = table.text(field::tensor::NAME).map_err(cut())?;
        if name.len() > MAX_NAME {
            return Err(GraphError::Broken("the name of a tensor"));
        }
        let wrong = |problem: String| GraphError::Tensor {
            name: name.to_owned(),
            problem,
        };
        let number = table.byte(field::tensor::ELEMENT).map_err(cut())?;
        let element =
            Element::of_file(number).ok_or_else(|| wrong(format!("its type {number} is not known")))?;
        let lengths = table.ints(field::tensor::SHAPE).map_err(cut())?;
        if lengths.len() > MAX_RANK {
            return Err(wrong(format!(
                "it has {} axes, {MAX_RANK} are possible",
                lengths.len()
            )));
        }
        let shape: Vec<usize> = lengths
            .iter()
            .map(|&n| usize::try_from(n))
            .collect::<Result<_, _>>()
            .map_err(|_| wrong(format!("its shape {lengths:?} has a negative length")))?;
        let buffer = table.uint(field::tensor::BUFFER).map_err(cut())?;
        let buffer = index(
            &format!("tensor {name:?}"),
            "buffer",
            i64::from(buffer),
            buffers.len(),
        )?;
        let held = buffers.get(buffer).copied().unwrap_or(0);
        let needed = needed_bytes(element, &shape).map_err(|problem| wrong(problem.into()))?;
        let is_sparse = table.has(field::tensor::SPARSITY).map_err(cut())?;
        if let Some(needed) = needed.filter(|&needed| held > 0 && !is_sparse && needed != held) {
            return Err(wrong(format!(
                "its shape {shape:?} needs {needed} bytes, the file holds {held}"
            )));
        }
        let open = table.ints(field::tensor::SHAPE_SIGNATURE).map_err(cut())?;
        Ok(Self {
            info: TensorInfo {
                name: name.to_owned(),
                signature_name: None,
                element,
                shape,
                is_open: open.iter().any(|&n| n < 0),
                quantisation: quantisation(table).map_err(cut())?,
            },
            is_variable: table.byte(field::tensor::IS_VARIABLE).map_err(cut())? != 0,
            working_bytes: if held > 0 { 0 } else { needed.unwrap_or(0) },
        })
    }
}

/// Bytes of a tensor; nothing for types whose elements have no fixed size.
fn needed_bytes(element: Element, shape: &[usize]) -> Result<Option<usize>, &'static str> {
    let count = shape
        .iter()
        .try_fold(1usize, |product, &n| product.checked_mul(n));
    let count = count.ok_or("its shape has too many elements")?;
    if element.bytes(1).is_none() {
        return Ok(None);
    }
    element
        .bytes(count)
        .map(Some)
        .ok_or("its shape has too many elements")
}

/// Scale and zero point where there is one for the whole tensor; a scale for each channel is the operators' business.
fn quantisation(table: &Table) -> Result<Option<Quantisation>, Broken> {
    let Some(quantisation) = table.table(field::tensor::QUANTISATION)? else {
        return Ok(None);
    };
    let scales = quantisation.floats(field::quantisation::SCALE, 2)?;
    let zero_points = quantisation.longs(field::quantisation::ZERO_POINT, 1)?;
    Ok(match scales[..] {
        [scale] => Some(Quantisation {
            scale,
            zero_point: zero_points.first().copied().unwrap_or(0),
        }),
        _ => None,
    })
}

type Names = BTreeMap<usize, String>;

/// Names of inputs and outputs by tensor, from the first signature of the main subgraph.
fn signature_names(model: &Table, tensors: usize) -> Result<(Names, Names), Broken> {
    for signature in model.tables(field::model::SIGNATURES)? {
        if signature.uint(field::signature::SUBGRAPH)? != 0 {
            continue;
        }
        let names = |number| -> Result<Names, Broken> {
            let entries = signature.tables(number)?;
            let named = entries.iter().map(|entry| {
                let index =
                    usize::try_from(entry.uint(field::signature_tensor::INDEX)?).map_err(|_| Broken)?;
                let name = entry.text(field::signature_tensor::NAME)?;
                if index < tensors && name.len() <= MAX_NAME {
                    Ok((index, name.to_owned()))
                } else {
                    Err(Broken)
                }
            });
            named.collect()
        };
        return Ok((
            names(field::signature::INPUTS)?,
            names(field::signature::OUTPUTS)?,
        ));
    }
    Ok(Default::default())
}

fn check_memory(subgraphs: &[Subgraph]) -> Result<(), GraphError> {
    let tensors = subgraphs.iter().flat_map(|s| &s.tensors);
    let sum = tensors.fold(0usize, |sum, tensor| sum.saturating_add(tensor.working_bytes));
    if sum > MAX_WORKING_BYTES {
        return Err(GraphError::Memory(sum));
    }
    Ok(())
}
