//! LiteRT files, run by the C library that is found at run time, on the CPU or through a delegate.

use super::checkout::Checkout;
use super::settings::DelegateSettings;
use super::{Backend, BackendError, LoadOptions, Model, SequenceRun, Signature};
use crate::tensor::{Data, Tensor};
use perwatt_litert::{Delegate, Element, Interpreter, Library, Options, TensorInfo};
use perwatt_model::{Datatype, FileSpec, TensorSpec};
use std::sync::{Arc, Mutex, PoisonError};
use zerocopy::IntoBytes;

/// Loads LiteRT files.
#[derive(Debug)]
pub struct LiteRt;

impl Backend for LiteRt {
    fn load(
        &self,
        content: &[u8],
        _file: &FileSpec,
        signature: &Signature,
        options: &LoadOptions,
    ) -> Result<Arc<dyn Model>, BackendError> {
        let library = library()?;
        let delegate = options
            .settings
            .delegate
            .as_ref()
            .map(open_delegate)
            .transpose()?;
        let file = perwatt_litert::Model::load(&library, content).map_err(refuse)?;
        check_state(file.graph().keeps_state, options.own_state)?;
        let engine = match &delegate {
            Some(delegate) => format!("LiteRT {} ({})", library.version(), delegate.path().display()),
            None => format!("LiteRT {}", library.version()),
        };
        let plan = Arc::new(Plan {
            inputs: places(&file.graph().inputs, &signature.inputs, "input", true)?,
            outputs: places(&file.graph().outputs, &signature.outputs, "output", false)?,
            options: Options {
                threads: options.settings.call_threads().get(),
                delegate,
            },
            file,
        });
        let maker = plan.clone();
        Ok(Arc::new(Graph {
            interpreters: Checkout::new(move || maker.interpreter())?,
            plan,
            own_state: options.own_state,
            engine,
        }))
    }
}

/// The library, found once; where it is not found, the next variant looks again.
fn library() -> Result<Library, BackendError> {
    static FOUND: Mutex<Option<Library>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = &*found {
        return Ok(library.clone());
    }
    let library = Library::find().map_err(refuse)?;
    tracing::info!(version = library.version(), path = %library.path().display(), "LiteRT library");
    Ok(found.insert(library).clone())
}

fn refuse(error: perwatt_litert::Error) -> BackendError {
    BackendError(error.to_string())
}

fn open_delegate(settings: &DelegateSettings) -> Result<Delegate, BackendError> {
    let options: Vec<_> = settings.options.clone().into_iter().collect();
    Delegate::open(&settings.library, &options).map_err(refuse)
}

/// State that model.yaml does not know of would be shared by all clients; state that the file does not have
/// would cost an interpreter for every sequence.
fn check_state(keeps: bool, declared: bool) -> Result<(), BackendError> {
    let problem = match (keeps, declared) {
        (true, false) => {
            "the graph keeps state from one call to the next: write sequence: {ownState: true} into model.yaml"
        }
        (false, true) => "model.yaml says sequence.ownState, but the graph keeps no state: leave it out",
        _ => return Ok(()),
    };
    Err(BackendError(problem.into()))
}

/// Where in the file the tensors of model.yaml are; each must be there, and of the inputs no other.
fn places(
    found: &[TensorInfo],
    declared: &[TensorSpec],
    what: &str,
    all: bool,
) -> Result<Vec<usize>, BackendError> {
    let names = || {
        found
            .iter()
            .map(|info| info.signature_name.as_ref().unwrap_or(&info.name))
            .collect::<Vec<_>>()
    };
    if all && found.len() != declared.len() {
        let declared: Vec<_> = declared.iter().map(|spec| spec.name.as_str()).collect();
        return Err(BackendError(format!(
            "the graph takes the {what}s {:?}, model.yaml declares {declared:?}",
            names()
        )));
    }
    let place = |spec: &TensorSpec| {
        let name = spec.name.as_str();
        let is_it = |info: &TensorInfo| info.signature_name.as_deref() == Some(name) || info.name == name;
        let index = found
            .iter()
            .position(is_it)
            .ok_or_else(|| BackendError(format!("the graph has no {what} {name:?}: it has {:?}", names())))?;
        found
            .get(index)
            .map_or(Ok(index), |info| check(info, spec, what).map(|()| index))
    };
    declared.iter().map(place).collect()
}

fn check(info: &TensorInfo, spec: &TensorSpec, what: &str) -> Result<(), BackendError> {
    let shape: Vec<usize> = spec.shape.iter().map(|&n| n as usize).collect();
    if datatype(info.element) == Some(spec.datatype) && info.shape == shape {
        return Ok(());
    }
    let hint = if info.is_open {
        " (axes that the file leaves open have length 1)"
    } else {
        ""
    };
    Err(BackendError(format!(
        "{what} {:?} of the graph is {:?} {:?}{hint}, model.yaml declares {} {shape:?} (context included)",
        spec.name.as_str(),
        info.element,
        info.shape,
        spec.datatype.as_str(),
    )))
}

/// Everything that is needed to make interpreters.
struct Plan {
    file: perwatt_litert::Model,
    options: Options,
    /// For each tensor of the signature its place in the file.
    inputs: Vec<usize>,
    outputs: Vec<usize>,
}

impl Plan {
    fn interpreter(&self) -> Result<Interpreter, BackendError> {
        Interpreter::new(&self.file, &self.options).map_err(refuse)
    }

    fn run(&self, interpreter: &mut Interpreter, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        for (&place, tensor) in self.inputs.iter().zip(inputs) {
            set_input(interpreter, place, &tensor.data)?;
        }
        interpreter.invoke().map_err(refuse)?;
        let infos = &self.file.graph().outputs;
        let outputs = self
            .outputs
            .iter()
            .filter_map(|&place| Some((place, infos.get(place)?)));
        outputs
            .map(|(place, info)| read_output(interpreter, place, info))
            .collect()
    }
}

struct Graph {
    plan: Arc<Plan>,
    interpreters: Checkout<Interpreter>,
    own_state: bool,
    engine: String,
}

impl Model for Graph {
    fn infer(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        if self.own_state {
            // Without a sequence every call begins anew.
            return self.plan.run(&mut self.plan.interpreter()?, inputs);
        }
        self.interpreters
            .with(|interpreter| self.plan.run(interpreter, inputs))
    }

    fn begin(&self) -> Result<Option<Box<dyn SequenceRun>>, BackendError> {
        if !self.own_state {
            return Ok(None);
        }
        Ok(Some(Box::new(Run {
            interpreter: self.plan.interpreter()?,
            plan: self.plan.clone(),
        })))
    }

    fn engine(&self) -> &str {
        &self.engine
    }
}

/// An interpreter that belongs to one sequence.
#[derive(Debug)]
struct Run {
    interpreter: Interpreter,
    plan: Arc<Plan>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

impl SequenceRun for Run {
    fn infer(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, BackendError> {
        self.plan.run(&mut self.interpreter, inputs)
    }
}

macro_rules! conversions {
    ($(($variant:ident, $rust:ty, $element:ident, $datatype:ident)),*) => {
        /// The protocol's type for an element; nothing for those that the protocol or this backend lacks.
        fn datatype(element: Element) -> Option<Datatype> {
            match element {
                $(Element::$element => Some(Datatype::$datatype),)*
                Element::Bool => Some(Datatype::Bool),
                _ => None,
            }
        }

        fn set_input(interpreter: &mut Interpreter, place: usize, data: &Data) -> Result<(), BackendError> {
            match data {
                $(Data::$variant(v) => interpreter.set_input(place, v.as_bytes()),)*
                Data::Bool(v) => interpreter.set_input(place, v.as_bytes()),
                other => return Err(BackendError(format!("LiteRT does not take {}", other.datatype().as_str()))),
            }
            .map_err(refuse)
        }

        fn read_output(interpreter: &Interpreter, place: usize, info: &TensorInfo) -> Result<Tensor, BackendError> {
            let count = info.elements();
            let data = match info.element {
                $(Element::$element => {
                    let mut values = vec![<$rust>::default(); count];
                    interpreter.read_output(place, values.as_mut_bytes()).map_err(refuse)?;
                    Data::$variant(values)
                })*
                Element::Bool => {
                    let mut values = vec![0u8; count];
                    interpreter.read_output(place, &mut values).map_err(refuse)?;
                    Data::Bool(values.into_iter().map(|value| value != 0).collect())
                }
                other => return Err(BackendError(format!("an output is {other:?}, which the protocol has not"))),
            };
            Ok(Tensor { shape: info.shape.clone(), data })
        }
    };
}
conversions!(
    (F32, f32, Float32, Fp32),
    (F64, f64, Float64, Fp64),
    (I8, i8, Int8, Int8),
    (I16, i16, Int16, Int16),
    (I32, i32, Int32, Int32),
    (I64, i64, Int64, Int64),
    (U8, u8, Uint8, Uint8),
    (U16, u16, Uint16, Uint16),
    (U32, u32, Uint32, Uint32),
    (U64, u64, Uint64, Uint64)
);

#[cfg(test)]
mod tests {
    use super::*;
    use perwatt_model::Manifest;

    fn info(name: &str, signature_name: Option<&str>, element: Element, shape: &[usize]) -> TensorInfo {
        TensorInfo {
            name: name.into(),
            signature_name: signature_name.map(str::to_owned),
            element,
            shape: shape.to_vec(),
            is_open: false,
            quantisation: None,
        }
    }

    fn specs(yaml: &str) -> Vec<TensorSpec> {
        let text = format!(
            "schema: 1\nname: m\nversion: '1'\ninputs: [{yaml}]\noutputs: [{{name: o, datatype: FP32, shape: [1]}}]\n\
             files: [{{path: a, backend: LiteRt, precision: int8, \
             sha256: '0000000000000000000000000000000000000000000000000000000000000000'}}]\n"
        );
        Manifest::parse(&text).unwrap().inputs
    }

    #[test]
    fn tensors_are_found_by_either_name_in_any_order() {
        let found = [
            info("serving_default_a:0", Some("a"), Element::Int8, &[1, 3]),
            info("b", None, Element::Float32, &[2]),
        ];
        let declared =
            specs("{name: b, datatype: FP32, shape: [2]}, {name: a, datatype: INT8, shape: [1, 3]}");
        assert_eq!(places(&found, &declared, "input", true).unwrap(), [1, 0]);
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let found = [info("x", None, Element::Int8, &[1, 3])];
        for (declared, says) in [
            (
                "{name: y, datatype: INT8, shape: [1, 3]}",
                "no input \"y\": it has [\"x\"]",
            ),
            (
                "{name: x, datatype: UINT8, shape: [1, 3]}",
                "Int8 [1, 3], model.yaml declares UINT8",
            ),
            ("{name: x, datatype: INT8, shape: [1, 4]}", "declares INT8 [1, 4]"),
            (
                "{name: x, datatype: INT8, shape: [1, 3]}, {name: z, datatype: INT8, shape: [1]}",
                "takes the inputs [\"x\"]",
            ),
        ] {
            let error = places(&found, &specs(declared), "input", true).unwrap_err().0;
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn state_must_be_declared_and_only_where_there_is_some() {
        assert_eq!(check_state(true, true), Ok(()));
        assert_eq!(check_state(false, false), Ok(()));
        assert!(check_state(true, false).unwrap_err().0.contains("ownState: true"));
        assert!(check_state(false, true).unwrap_err().0.contains("leave it out"));
    }
}
