//! The fields of one node, each read within the file's budget and refused by its name.

use super::{ReadError, container, edges, field, zeros};
use crate::graph::{Edge, Padding, Tensor};
use hdf5_pure::{DType, Dataset, Group, VlenStringReadOptions};

/// Most numbers of all parameters of a file together.
const MAX_ELEMENTS: usize = 1 << 25;
/// Most edges of a graph.
const MAX_EDGES: usize = 1 << 16;
/// Longest name, in bytes.
const MAX_NAME_BYTES: usize = 256;
/// Most axes of a parameter.
const MAX_AXES: usize = 8;
/// Longest axis, so that sizes of tensors cannot overflow.
const MAX_LENGTH: f64 = (1u32 << 26) as f64;

/// What a file may still hold.
#[derive(Debug)]
pub(super) struct Budget {
    nodes: usize,
    elements: usize,
}

impl Budget {
    pub(super) fn new(nodes: usize) -> Self {
        Self {
            nodes,
            elements: MAX_ELEMENTS,
        }
    }

    pub(super) fn take_node(&mut self, at: &str) -> Result<(), ReadError> {
        match self.nodes.checked_sub(1) {
            Some(left) => self.nodes = left,
            None => {
                return Err(field(
                    at,
                    format!("the file has more than {} nodes", super::MAX_NODES),
                ));
            }
        }
        Ok(())
    }

    fn take_elements(&mut self, at: &str, count: usize) -> Result<(), ReadError> {
        match self.elements.checked_sub(count) {
            Some(left) => self.elements = left,
            None => {
                let problem = format!("the file's parameters have more than {MAX_ELEMENTS} numbers");
                return Err(field(at, problem));
            }
        }
        Ok(())
    }
}

/// A name as messages show it.
pub(super) fn shown(name: &str) -> String {
    let cut: String = name.chars().take(MAX_NAME_BYTES).collect();
    cut.escape_debug().to_string()
}

pub(super) fn check_name(at: &str, name: &str) -> Result<(), ReadError> {
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return Err(field(
            at,
            format!("a name has between 1 and {MAX_NAME_BYTES} bytes"),
        ));
    }
    Ok(())
}

/// The fields of one node.
pub(super) struct Fields<'a> {
    group: &'a Group,
    at: &'a str,
    budget: &'a mut Budget,
}

impl<'a> Fields<'a> {
    pub(super) fn new(group: &'a Group, at: &'a str, budget: &'a mut Budget) -> Self {
        Self { group, at, budget }
    }

    fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }

    /// Whether there is a dataset of that name; metadata is a group, so the path may have two parts.
    fn has(&self, name: &str) -> Result<bool, ReadError> {
        let (group, name) = match name.split_once('/') {
            None => (None, name),
            Some((group, name)) => {
                let groups = self.group.groups().map_err(container(self.at))?;
                if !groups.iter().any(|found| found == group) {
                    return Ok(false);
                }
                let inside = self.group.group(group).map_err(container(self.at))?;
                (Some(inside), name)
            }
        };
        let group = group.as_ref().unwrap_or(self.group);
        let datasets = group.datasets().map_err(container(self.at))?;
        Ok(datasets.iter().any(|found| found == name))
    }

    fn dataset(&self, name: &str) -> Result<Dataset, ReadError> {
        if !self.has(name)? {
            return Err(field(self.path(name), "it is missing"));
        }
        self.group.dataset(name).map_err(container(&self.path(name)))
    }

    /// Lengths of the axes, and their product, within the limits.
    fn shape(&mut self, dataset: &Dataset, at: &str) -> Result<(Vec<usize>, usize), ReadError> {
        let axes = dataset.shape().map_err(container(at))?;
        if axes.len() > MAX_AXES {
            return Err(field(at, format!("{} axes are more than {MAX_AXES}", axes.len())));
        }
        let shape: Vec<usize> = axes
            .iter()
            .map(|&n| usize::try_from(n).unwrap_or(usize::MAX))
            .collect();
        let count = shape
            .iter()
            .try_fold(1usize, |product, &n| product.checked_mul(n));
        let count = count.unwrap_or(usize::MAX);
        self.budget.take_elements(at, count)?;
        Ok((shape, count))
    }

    /// A parameter: finite numbers.
    pub(super) fn tensor(&mut self, name: &str) -> Result<Tensor, ReadError> {
        let at = self.path(name);
        let dataset = self.dataset(name)?;
        let (shape, count) = self.shape(&dataset, &at)?;
        let kind = dataset.dtype().map_err(container(&at))?;
        if !is_number(&kind) {
            return Err(field(
                at,
                format!("it holds {}, not numbers", shown(&kind.to_string())),
            ));
        }
        let values = dataset.read_f64().map_err(container(&at))?;
        if values.len() != count {
            return Err(field(
                at,
                format!("it holds {} numbers, its shape says {count}", values.len()),
            ));
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(field(at, format!("number {index} is {}", values[index])));
        }
        Ok(Tensor { shape, values })
    }

    pub(super) fn optional_tensor(&mut self, name: &str) -> Result<Option<Tensor>, ReadError> {
        if self.has(name)? {
            self.tensor(name).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(super) fn optional_number(&mut self, name: &str) -> Result<Option<f64>, ReadError> {
        match self.optional_tensor(name)?.map(|tensor| tensor.values) {
            None => Ok(None),
            Some(values) => match values[..] {
                [value] => Ok(Some(value)),
                _ => Err(field(self.path(name), "it must be one number")),
            },
        }
    }

    pub(super) fn integer(&mut self, name: &str) -> Result<i64, ReadError> {
        match self.tensor(name)?.values[..] {
            [value] if value.fract() == 0.0 && value.abs() <= MAX_LENGTH => Ok(value as i64),
            _ => Err(field(self.path(name), "it must be one whole number")),
        }
    }

    /// Whole numbers, zero or more each.
    pub(super) fn lengths(&mut self, name: &str) -> Result<Vec<usize>, ReadError> {
        let values = self.tensor(name)?.values;
        if values.len() > MAX_AXES {
            return Err(field(
                self.path(name),
                format!("{} axes are more than {MAX_AXES}", values.len()),
            ));
        }
        let whole = |value: &f64| {
            let fits = value.fract() == 0.0 && (0.0..=MAX_LENGTH).contains(value);
            fits.then_some(*value as usize)
        };
        let lengths = values.iter().map(whole).collect::<Option<Vec<_>>>();
        lengths.ok_or_else(|| {
            let problem = format!("{values:?} are not whole numbers between 0 and {MAX_LENGTH}");
            field(self.path(name), problem)
        })
    }

    pub(super) fn optional_lengths(&mut self, name: &str) -> Result<Option<Vec<usize>>, ReadError> {
        if self.has(name)? {
            self.lengths(name).map(Some)
        } else {
            Ok(None)
        }
    }

    pub(super) fn length(&mut self, name: &str) -> Result<usize, ReadError> {
        match self.lengths(name)?[..] {
            [length] => Ok(length),
            _ => Err(field(self.path(name), "it must be one whole number")),
        }
    }

    pub(super) fn padding(&mut self, name: &str) -> Result<Padding, ReadError> {
        let at = self.path(name);
        let kind = self.dataset(name)?.dtype().map_err(container(&at))?;
        if is_number(&kind) {
            return self.lengths(name).map(zeros);
        }
        match self.text(name)?.as_str() {
            "valid" => Ok(zeros(vec![0])),
            "same" => Ok(Padding::Same),
            other => Err(field(
                at,
                format!("{other:?} is neither a number nor \"same\" nor \"valid\""),
            )),
        }
    }

    pub(super) fn text(&mut self, name: &str) -> Result<String, ReadError> {
        let at = self.path(name);
        let dataset = self.dataset(name)?;
        let mut texts = self.texts(&dataset, &at, 1)?;
        match (texts.pop(), texts.pop()) {
            (Some(text), None) => Ok(text),
            _ => Err(field(at, "it must be one text")),
        }
    }

    pub(super) fn edges(&mut self) -> Result<Vec<Edge>, ReadError> {
        let at = self.path("edges");
        let dataset = self.dataset("edges")?;
        let (shape, count) = self.shape(&dataset, &at)?;
        if count == 0 {
            return Ok(Vec::new());
        }
        if shape.len() != 2 || shape.last() != Some(&2) {
            return Err(field(at, format!("its shape is {shape:?}, not [edges, 2]")));
        }
        let names = self.texts(&dataset, &at, 2 * MAX_EDGES)?;
        if names.len() != count {
            return Err(field(
                at,
                format!("it holds {} names, its shape says {count}", names.len()),
            ));
        }
        for name in &names {
            check_name(&at, name)?;
        }
        Ok(edges(names))
    }

    fn texts(&mut self, dataset: &Dataset, at: &str, most: usize) -> Result<Vec<String>, ReadError> {
        let (_, count) = self.shape(dataset, at)?;
        if count > most {
            return Err(field(at, format!("it holds {count} texts, the limit is {most}")));
        }
        match dataset.dtype().map_err(container(at))? {
            DType::VariableLengthString => {
                let limits = VlenStringReadOptions::new()
                    .with_max_elements(most)
                    .with_max_payload_bytes(most * MAX_NAME_BYTES);
                dataset.read_vlen_strings(limits).map_err(container(at))
            }
            DType::String => {
                let bytes = dataset.element_size().map_err(container(at))?;
                if bytes > MAX_NAME_BYTES as u64 {
                    return Err(field(
                        at,
                        format!("its texts are longer than {MAX_NAME_BYTES} bytes"),
                    ));
                }
                dataset.read_string().map_err(container(at))
            }
            other => Err(field(
                at,
                format!("it holds {}, not text", shown(&other.to_string())),
            )),
        }
    }
}

fn is_number(kind: &DType) -> bool {
    matches!(
        kind,
        DType::F32
            | DType::F64
            | DType::I8
            | DType::I16
            | DType::I32
            | DType::I64
            | DType::U8
            | DType::U16
            | DType::U32
            | DType::U64
    )
}
