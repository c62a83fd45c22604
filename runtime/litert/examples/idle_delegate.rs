//! A delegate that claims no operator, and tells what happens to it: the tests load it as they would a vendor's.
//!
//! Options: `log` names a file that gets a line for every event; `fail` is `create` or `prepare`.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::io::Write;

/// A delegate as the C library knows it.
#[repr(C)]
struct Delegate {
    data: *mut c_void,
    prepare: Option<unsafe extern "C" fn(*mut c_void, *mut Delegate) -> c_int>,
    copy_from_buffer: *const c_void,
    copy_to_buffer: *const c_void,
    free_buffer: *const c_void,
    flags: i64,
    builder: *mut c_void,
}

#[derive(Default)]
struct Idle {
    log: String,
    fail: String,
}

impl Idle {
    fn tell(&self, event: &str) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log);
        if let Ok(mut file) = file {
            let _ = writeln!(file, "{event}");
        }
    }
}

unsafe extern "C" fn prepare(_context: *mut c_void, delegate: *mut Delegate) -> c_int {
    // SAFETY: the C library passes the delegate that was made below.
    let data = unsafe { (*delegate).data };
    // SAFETY: its data is an `Idle`.
    let idle = unsafe { &*data.cast::<Idle>() };
    idle.tell("prepare");
    c_int::from(idle.fail == "prepare")
}

/// Makes a delegate.
///
/// # Safety
/// `keys` and `values` hold `count` texts each.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tflite_plugin_create_delegate(
    keys: *const *const c_char,
    values: *const *const c_char,
    count: usize,
    report: Option<unsafe extern "C" fn(*const c_char)>,
) -> *mut c_void {
    let mut idle = Idle::default();
    for i in 0..count {
        // SAFETY: by this function's contract.
        let (key, value) = unsafe { (CStr::from_ptr(*keys.add(i)), CStr::from_ptr(*values.add(i))) };
        let value = value.to_string_lossy().into_owned();
        match key.to_bytes() {
            b"log" => idle.log = value,
            b"fail" => idle.fail = value,
            _ => {}
        }
    }
    idle.tell("create");
    if idle.fail == "create" {
        if let Some(report) = report {
            // SAFETY: a text that ends with 0.
            unsafe { report(c"told to fail".as_ptr()) };
        }
        return std::ptr::null_mut();
    }
    let delegate = Delegate {
        data: Box::into_raw(Box::new(idle)).cast(),
        prepare: Some(prepare),
        copy_from_buffer: std::ptr::null(),
        copy_to_buffer: std::ptr::null(),
        free_buffer: std::ptr::null(),
        flags: 0,
        builder: std::ptr::null_mut(),
    };
    Box::into_raw(Box::new(delegate)).cast()
}

/// Takes a delegate back.
///
/// # Safety
/// `delegate` comes from [`tflite_plugin_create_delegate`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn tflite_plugin_destroy_delegate(delegate: *mut c_void) {
    // SAFETY: by this function's contract.
    let delegate = unsafe { Box::from_raw(delegate.cast::<Delegate>()) };
    // SAFETY: its data was boxed as an `Idle`.
    let idle = unsafe { Box::from_raw(delegate.data.cast::<Idle>()) };
    idle.tell("destroy");
}
