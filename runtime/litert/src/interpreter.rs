//! Runs a model, for one caller at a time.

use crate::delegate::{Delegate, Made};
use crate::element::Element;
use crate::error::Error;
use crate::graph::TensorInfo;
use crate::messages::{Messages, report};
use crate::model::Model;
use crate::raw::{self, Functions};
use std::ptr::NonNull;

/// How a model is run.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Threads of one call; 0 leaves it to the library.
    pub threads: u16,
    /// What takes over parts of the graph.
    pub delegate: Option<Delegate>,
}

/// A model with memory for its tensors, and its own state where the model keeps one.
///
/// It may move between threads, but serves one call at a time: that is what `&mut self` says.
pub struct Interpreter {
    raw: NonNull<raw::Interpreter>,
    inputs: Vec<usize>,
    outputs: Vec<usize>,
    failed: bool,
    // After `raw` was deleted, and in this order: the delegate, the model, what was said.
    _delegate: Option<Made>,
    model: Model,
    messages: Box<Messages>,
}

// SAFETY: the C library's interpreter is bound to no thread; only one at a time uses it, since every use that
// changes it takes `&mut self`. Delegates are made for one interpreter, and go where it goes.
unsafe impl Send for Interpreter {}

impl std::fmt::Debug for Interpreter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Interpreter")
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// Options of the C library, deleted at the end of a scope.
struct RawOptions<'a> {
    raw: NonNull<raw::Options>,
    functions: &'a Functions,
}

impl Drop for RawOptions<'_> {
    fn drop(&mut self) {
        // SAFETY: they were made by this library and are deleted once; interpreters keep copies.
        unsafe { (self.functions.options_delete)(self.raw.as_ptr()) };
    }
}

impl Interpreter {
    /// Makes an interpreter with fresh state.
    ///
    /// # Errors
    /// When the delegate cannot be made, or the library cannot prepare the model: an operator that it does not
    /// have, or tensors that an operator does not take.
    pub fn new(model: &Model, options: &Options) -> Result<Self, Error> {
        let functions = model.library().functions();
        let messages = Box::<Messages>::default();
        let delegate = options.delegate.as_ref().map(Delegate::make).transpose()?;
        let failed = || Error::Prepare(messages.take());
        // SAFETY: it takes nothing.
        let raw_options = NonNull::new(unsafe { (functions.options_create)() }).ok_or_else(failed)?;
        let raw_options = RawOptions {
            raw: raw_options,
            functions,
        };
        let target = raw_options.raw.as_ptr();
        if options.threads > 0 {
            // SAFETY: the options are alive.
            unsafe { (functions.options_set_threads)(target, i32::from(options.threads)) };
        }
        // SAFETY: the options are alive; the messages live in their box for as long as the interpreter.
        unsafe { (functions.options_set_reporter)(target, Some(report), messages.as_user_data()) };
        if let Some(delegate) = &delegate {
            // SAFETY: options and delegate are alive, and the delegate is kept until the interpreter is deleted.
            unsafe { (functions.options_add_delegate)(target, delegate.raw.as_ptr()) };
        }
        // SAFETY: model and options are alive; the model is kept for as long as the interpreter.
        let raw = NonNull::new(unsafe { (functions.interpreter_create)(model.raw(), target) })
            .ok_or_else(failed)?;
        drop(raw_options);
        let mut interpreter = Self {
            raw,
            inputs: Vec::new(),
            outputs: Vec::new(),
            failed: false,
            _delegate: delegate,
            model: model.clone(),
            messages,
        };
        interpreter.prepare()?;
        Ok(interpreter)
    }

    /// Takes memory for the tensors, and checks that they are those which the file was checked for.
    fn prepare(&mut self) -> Result<(), Error> {
        let functions = self.functions();
        // SAFETY: the interpreter is alive, and nobody else uses it.
        if unsafe { (functions.allocate_tensors)(self.raw.as_ptr()) } != raw::OK {
            return Err(Error::Prepare(self.messages.take()));
        }
        // SAFETY: the interpreter is alive.
        let inputs = unsafe { (functions.input_count)(self.raw.as_ptr()) };
        // SAFETY: as above.
        let outputs = unsafe { (functions.output_count)(self.raw.as_ptr()) };
        let graph = self.model.graph();
        let expected = (graph.inputs.len(), graph.outputs.len());
        if (usize::try_from(inputs), usize::try_from(outputs)) != (Ok(expected.0), Ok(expected.1)) {
            return Err(Error::Prepare(format!(
                "it has {inputs} inputs and {outputs} outputs, by the file {} and {}",
                expected.0, expected.1
            )));
        }
        let input_bytes = graph
            .inputs
            .iter()
            .enumerate()
            .map(|(i, info)| self.check(info, self.input(i)?));
        let output_bytes = graph
            .outputs
            .iter()
            .enumerate()
            .map(|(i, info)| self.check(info, self.output_tensor(i)?));
        let (input_bytes, output_bytes) = (
            input_bytes.collect::<Result<_, _>>()?,
            output_bytes.collect::<Result<_, _>>()?,
        );
        self.inputs = input_bytes;
        self.outputs = output_bytes;
        Ok(())
    }

    fn functions(&self) -> &Functions {
        self.model.library().functions()
    }

    fn input(&self, index: usize) -> Result<NonNull<raw::Tensor>, Error> {
        let number = i32::try_from(index).map_err(|_| Error::NoTensor(index))?;
        // SAFETY: the interpreter is alive; the library checks the number in debug builds alone, but callers
        // come with numbers below the count that `prepare` compared.
        let tensor = unsafe { (self.functions().input)(self.raw.as_ptr(), number) };
        NonNull::new(tensor).ok_or(Error::NoTensor(index))
    }

    fn output_tensor(&self, index: usize) -> Result<NonNull<raw::Tensor>, Error> {
        let number = i32::try_from(index).map_err(|_| Error::NoTensor(index))?;
        // SAFETY: as in `input`.
        let tensor = unsafe { (self.functions().output)(self.raw.as_ptr(), number) };
        NonNull::new(tensor.cast_mut()).ok_or(Error::NoTensor(index))
    }

    /// Bytes of a tensor that is as the file says.
    fn check(&self, info: &TensorInfo, tensor: NonNull<raw::Tensor>) -> Result<usize, Error> {
        let functions = self.functions();
        // SAFETY: the tensor belongs to the interpreter, which is alive.
        let element = Element::of_library(unsafe { (functions.tensor_type)(tensor.as_ptr()) });
        // SAFETY: as above.
        let bytes = unsafe { (functions.tensor_bytes)(tensor.as_ptr()) };
        // SAFETY: as above.
        let rank = unsafe { (functions.tensor_rank)(tensor.as_ptr()) };
        // SAFETY: as above, and the axis is below the rank.
        let length = |axis| usize::try_from(unsafe { (functions.tensor_length)(tensor.as_ptr(), axis) });
        let shape: Vec<usize> = (0..rank).map(|axis| length(axis).unwrap_or(usize::MAX)).collect();
        let needed = info.element.bytes(info.elements());
        if element == Some(info.element) && shape == info.shape && needed == Some(bytes) {
            return Ok(bytes);
        }
        Err(Error::Prepare(format!(
            "tensor {:?} is {element:?} {shape:?} of {bytes} bytes, by the file {:?} {:?}",
            info.name, info.element, info.shape
        )))
    }

    /// Puts the elements of an input into place, as they lie in memory.
    ///
    /// # Errors
    /// When there is no such input, or it takes another number of bytes.
    pub fn set_input(&mut self, index: usize, bytes: &[u8]) -> Result<(), Error> {
        let needed = *self.inputs.get(index).ok_or(Error::NoTensor(index))?;
        if bytes.len() != needed {
            return Err(Error::Input {
                index,
                needed,
                given: bytes.len(),
            });
        }
        let tensor = self.input(index)?;
        // SAFETY: the tensor is alive, and nobody else uses it; the bytes are as many as are announced, and the
        // library refuses another number than the tensor takes.
        let status =
            unsafe { (self.functions().copy_in)(tensor.as_ptr(), bytes.as_ptr().cast(), bytes.len()) };
        self.succeeded(status)
    }

    /// Runs the model on the inputs that were set.
    ///
    /// # Errors
    /// When an operator or the delegate fails. The interpreter is then spent.
    pub fn invoke(&mut self) -> Result<(), Error> {
        if self.failed {
            return Err(Error::Spent);
        }
        // SAFETY: the interpreter is alive, its tensors have memory, and nobody else uses it.
        let status = unsafe { (self.functions().invoke)(self.raw.as_ptr()) };
        self.failed = status != raw::OK;
        self.succeeded(status)
    }

    /// Copies the elements of an output, as they lie in memory, to where the caller wants them.
    ///
    /// # Errors
    /// When there is no such output, the buffer has another size, or the call gave the output another size than
    /// the file says.
    pub fn read_output(&self, index: usize, to: &mut [u8]) -> Result<(), Error> {
        let expected = *self.outputs.get(index).ok_or(Error::NoTensor(index))?;
        let tensor = self.output_tensor(index)?;
        // SAFETY: the tensor belongs to the interpreter, which is alive.
        let found = unsafe { (self.functions().tensor_bytes)(tensor.as_ptr()) };
        if found != expected || to.len() != expected {
            return Err(Error::Output {
                index,
                found,
                expected: to.len(),
            });
        }
        // SAFETY: the buffer has as many bytes as are announced, and the library refuses another number than
        // the tensor has.
        let status =
            unsafe { (self.functions().copy_out)(tensor.as_ptr(), to.as_mut_ptr().cast(), to.len()) };
        self.succeeded(status)
    }

    fn succeeded(&self, status: i32) -> Result<(), Error> {
        if status == raw::OK {
            return Ok(());
        }
        Err(Error::Invoke {
            status,
            said: self.messages.take(),
        })
    }

    /// The model that it runs.
    pub fn model(&self) -> &Model {
        &self.model
    }
}

impl Drop for Interpreter {
    fn drop(&mut self) {
        // SAFETY: it was made by this library and is deleted once; delegate, model and messages go after it.
        unsafe { (self.functions().interpreter_delete)(self.raw.as_ptr()) };
    }
}
