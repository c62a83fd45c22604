//! The functions of the C library that are used, as its documentation declares them, and how they are found.

use libloading::Library;
use std::ffi::{c_char, c_int, c_void};

/// Things that the library hands out by pointer, and whose content is its own business.
macro_rules! opaque {
    ($($name:ident),*) => { $(
        #[repr(C)]
        pub struct $name {
            _private: [u8; 0],
        }
    )* };
}
opaque!(Model, Options, Interpreter, Tensor, Delegate);

/// Takes user data, a format as of `printf`, and its arguments (a `va_list`, see [`crate::messages`]).
pub type Reporter = unsafe extern "C" fn(*mut c_void, *const c_char, *mut c_void);

/// Status of a call that succeeded.
pub const OK: c_int = 0;

macro_rules! functions {
    ($($field:ident = $symbol:literal ($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions, found once. The library stays loaded until the process ends: it may have threads.
        pub struct Functions {
            $(pub $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Finds every function, or names the first that is missing.
            ///
            /// # Safety
            /// `library` must be a LiteRT C library: its functions of these names must have these types.
            pub unsafe fn find(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    $($field: {
                        // SAFETY: the caller says that the function has this type.
                        let symbol = unsafe { library.get($symbol) }?;
                        *symbol
                    },)*
                })
            }
        }
    };
}

functions! {
    version = c"TfLiteVersion" () -> *const c_char;
    model_create = c"TfLiteModelCreate" (*const c_void, usize) -> *mut Model;
    model_delete = c"TfLiteModelDelete" (*mut Model);
    options_create = c"TfLiteInterpreterOptionsCreate" () -> *mut Options;
    options_delete = c"TfLiteInterpreterOptionsDelete" (*mut Options);
    options_set_threads = c"TfLiteInterpreterOptionsSetNumThreads" (*mut Options, i32);
    options_add_delegate = c"TfLiteInterpreterOptionsAddDelegate" (*mut Options, *mut Delegate);
    options_set_reporter = c"TfLiteInterpreterOptionsSetErrorReporter" (*mut Options, Option<Reporter>, *mut c_void);
    interpreter_create = c"TfLiteInterpreterCreate" (*const Model, *const Options) -> *mut Interpreter;
    interpreter_delete = c"TfLiteInterpreterDelete" (*mut Interpreter);
    allocate_tensors = c"TfLiteInterpreterAllocateTensors" (*mut Interpreter) -> c_int;
    invoke = c"TfLiteInterpreterInvoke" (*mut Interpreter) -> c_int;
    input_count = c"TfLiteInterpreterGetInputTensorCount" (*const Interpreter) -> i32;
    input = c"TfLiteInterpreterGetInputTensor" (*const Interpreter, i32) -> *mut Tensor;
    output_count = c"TfLiteInterpreterGetOutputTensorCount" (*const Interpreter) -> i32;
    output = c"TfLiteInterpreterGetOutputTensor" (*const Interpreter, i32) -> *const Tensor;
    tensor_type = c"TfLiteTensorType" (*const Tensor) -> c_int;
    tensor_rank = c"TfLiteTensorNumDims" (*const Tensor) -> i32;
    tensor_length = c"TfLiteTensorDim" (*const Tensor, i32) -> i32;
    tensor_bytes = c"TfLiteTensorByteSize" (*const Tensor) -> usize;
    copy_in = c"TfLiteTensorCopyFromBuffer" (*mut Tensor, *const c_void, usize) -> c_int;
    copy_out = c"TfLiteTensorCopyToBuffer" (*const Tensor, *mut c_void, usize) -> c_int;
}

/// Optional: libraries before 2.13 do not say why they refuse a file.
pub type ModelCreateReporting =
    unsafe extern "C" fn(*const c_void, usize, Option<Reporter>, *mut c_void) -> *mut Model;
/// Name of [`ModelCreateReporting`].
pub const MODEL_CREATE_REPORTING: &std::ffi::CStr = c"TfLiteModelCreateWithErrorReporter";

/// What a delegate's library exports: keys, values, their number, and where errors go.
pub type DelegateCreate = unsafe extern "C" fn(
    *const *const c_char,
    *const *const c_char,
    usize,
    Option<unsafe extern "C" fn(*const c_char)>,
) -> *mut Delegate;
/// Name of [`DelegateCreate`].
pub const DELEGATE_CREATE: &std::ffi::CStr = c"tflite_plugin_create_delegate";
/// Gives a delegate back.
pub type DelegateDestroy = unsafe extern "C" fn(*mut Delegate);
/// Name of [`DelegateDestroy`].
pub const DELEGATE_DESTROY: &std::ffi::CStr = c"tflite_plugin_destroy_delegate";
